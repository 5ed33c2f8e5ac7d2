import pytest

from anovl.config import RECIPES, Recipe, recipe
from anovl.errors import MissingExtraError, UsageError, require_extra, suggest


def test_the_three_recipes_are_the_design_s_table():
    paper, released = RECIPES["paper"], RECIPES["released"]
    assert (paper.interpolation, paper.smoothing, paper.align_corners, paper.logit_scale) == ("bicubic", False, False, None)
    assert (paper.image_score, paper.output_size, paper.prompts) == ("class_token", "image", "paper")
    assert (released.interpolation, released.smoothing, released.align_corners, released.logit_scale) == (
        "bilinear",
        True,
        True,
        1.0,
    )
    assert (released.image_score, released.output_size, released.prompts) == ("class_token_22views", "input", "released")
    assert recipe() == RECIPES["default"]
    assert recipe("default", name="paper", adaptation=paper.adaptation) == paper
    for name, adaptation in (("paper", ("softmax", "output", "pseudo_label")), ("released", ("tanh", "input", "entropy"))):
        ours = RECIPES[name].adaptation
        assert (ours.adapter, ours.noise_at, ours.target) == adaptation
        assert (ours.steps, ours.learning_rate, ours.weight_decay, ours.noise_std) == (5, 1e-3, 0.01, 0.055)
        assert (ours.identity_start, ours.limit, ours.temperature, ours.loss_temperature) == (False, None, 1.0, 1.0)


def test_variants():
    variant = recipe("paper", attention="v", layers=1, smoothing=True)
    assert (variant.attention, variant.layers, variant.smoothing, variant.interpolation) == ("v", 1, True, "bicubic")
    assert recipe(variant, layers=None).layers is None
    assert recipe("released", logit_scale=None).logit_scale is None
    assert RECIPES["paper"].attention == "vv"


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("papper", {}, "did you mean 'paper'"),
        ("paper", {"atention": "v"}, "did you mean 'attention'"),
        ("paper", {"attention": "kv"}, "unknown attention 'kv'"),
        ("paper", {"attention": "qkv", "layers": 3}, "layers does not apply"),
        ("paper", {"layers": 0}, "at least 1"),
        ("paper", {"logit_scale": 0.0}, "logit_scale"),
        ("paper", {"adaptation": {"steps": 3}}, "adaptation: expected an Adaptation"),
    ],
)
def test_wrong_variants(base, changes, message):
    with pytest.raises(UsageError, match=message):
        recipe(base, **changes)


def test_recipes_are_frozen():
    with pytest.raises(AttributeError):
        Recipe().attention = "v"


def test_suggest_lists_the_nearest_and_all_of_a_few():
    assert suggest("fruit", "aple", ["apple", "pear"]) == "unknown fruit 'aple'; did you mean 'apple'?; valid: apple, pear"
    assert "valid" not in suggest("fruit", "aple", [f"apple{i}" for i in range(30)])


def test_missing_extra():
    with pytest.raises(MissingExtraError, match=r"pip install 'anovl\[serve\]'") as caught:
        require_extra("a_module_that_is_not_there", "serve", "the server")
    assert caught.value.exit_code == 5
