"""Every method behind the protocol: scores in range, its own words and the user's, what it decides, what it refuses."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import anovl
from anovl import AnoVL, Wording
from anovl.backbones import Backbone
from anovl.cli import app, words
from anovl.config import LINEAR_PROBE, Recipe, recipe
from anovl.core.prompts import PromptSet, build_prompts
from anovl.engine.text import TextCache
from anovl.errors import UsageError
from anovl.methods import METHODS, make_method, method_class
from anovl.methods.winclip import WORDING

WITHOUT_ADAPTATION = {"transmm", "winclip"}
DECIDED = {
    "anovl": {},
    "clip": {"attention": "qkv", "image_score": "class_token"},
    "transmm": {"image_score": "class_token", "logit_scale": None},
    "maskclip": {"attention": "v", "layers": 1},
    "clip_surgery": {"attention": "vv", "layers": 6},
    "winclip": {"attention": "qkv", "image_score": "class_token", "logit_scale": 1 / 0.07},
    "qkv": {"attention": "qkv"},
    "v-last": {"attention": "v", "layers": 1},
    "vv-last": {"attention": "vv", "layers": 1},
    "base-prompts": {},
    "state-prompts": {},
    "linear-probe": {"adaptation": LINEAR_PROBE},
}
PROMPTS = {  # normal and abnormal sentences of "bottle"
    "clip": (1, 1),
    "winclip": (154, 88),
    "base-prompts": (22, 22),
    "state-prompts": (154, 154),
}


def drawn(seed=0, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def make_detector(tiny_clip):
    """A detector on a tiny model: make_detector("winclip", kind="resnet", image_size=96)."""
    import open_clip

    def make(method, *, kind="vit", recipe=None, **vision):
        backbone = Backbone.from_clip(
            tiny_clip(kind, **vision), open_clip.get_tokenizer("ViT-B-32"), weights_id=f"{kind}{vision}"
        )
        return AnoVL(backbone, method=method, recipe=recipe)

    return make


def test_all_methods_are_covered():
    assert DECIDED.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_scores_and_what_a_method_decides(name, golden_backbone):
    detector = AnoVL(golden_backbone, method=name, recipe="paper")
    assert detector.method.recipe == recipe("paper", **DECIDED[name])
    assert make_method(name, golden_backbone, recipe("released")).recipe == recipe("released", **DECIDED[name])
    prediction = detector.predict(drawn(), "bottle")
    assert 0 <= prediction.anomaly_map.min() < prediction.anomaly_map.max() <= 1
    assert prediction.patch_scores.shape == (15, 15)
    words = detector.prompts("bottle")
    assert (len(words.normal), len(words.abnormal)) == PROMPTS.get(name, (462, 462))
    json.dumps(detector.method.recipe.to_dict() | detector.method.wording.to_dict())  # for run.json


@pytest.mark.parametrize("name", METHODS)
def test_own_words(name, make_detector):
    detector = make_detector(name)
    own = Wording(states=(("whole {class}", "torn {class}"),), templates=("a scan of {object}",))
    scores = {
        detector.predict(drawn(), "nut").pred_score,
        detector.predict(drawn(), "nut", defects=["scratch"]).pred_score,
        detector.predict(drawn(), "nut", domain="texture").pred_score,
        detector.predict(drawn(), "nut", wording=own).pred_score,
    }
    assert len(scores) == 4


def test_pairs_of_the_user_replace_states_without_opposite():
    none = {"domain": None, "defects": None, "templates": None, "domain_words": None, "prompt_file": None}
    prompts = build_prompts("nut", words.wording(WORDING, states=["whole|torn"], **none))
    assert prompts.normal[0] == "a cropped photo of the whole nut."
    assert (len(prompts.normal), len(prompts.abnormal)) == (22, 22)
    defects = build_prompts("nut", words.wording(WORDING, states=None, **none | {"defects": ["hole"]}))
    assert (len(defects.normal), len(defects.abnormal)) == (8 * 22, 5 * 22)


def test_states_need_both_sides():
    with pytest.raises(UsageError, match="at least one pair"):
        Wording(states=(("whole {class}", None),))
    with pytest.raises(UsageError, match="at least one pair"):
        Wording(states=((None, "torn {class}"), (None, "cut {class}")))
    prompts = build_prompts("nut", Wording(states=((None, "torn {class}"), ("whole {class}", None)), templates=("{object}",)))
    assert (prompts.normal[0], prompts.abnormal[0]) == ("whole nut", "torn nut")


def test_cache_tells_normal_from_abnormal(golden_backbone, tmp_path):
    sentences = ("a nut", "a torn nut", "a cut nut")
    few = TextCache(golden_backbone, tmp_path).features(PromptSet("nut", sentences[:1], sentences[1:]))
    many = TextCache(golden_backbone, tmp_path).features(PromptSet("nut", sentences[:2], sentences[2:]))
    again = TextCache(golden_backbone, tmp_path).features(PromptSet("nut", sentences[:1], sentences[1:]))
    raw = golden_backbone.encode_text(sentences)
    torch.testing.assert_close(few.prototypes[1], F.normalize(raw[1:].mean(dim=0), dim=0))
    torch.testing.assert_close(many.prototypes[0], F.normalize(raw[:2].mean(dim=0), dim=0))
    assert torch.equal(again.prototypes, few.prototypes)
    assert again.tokens.shape == (3, raw.shape[1])


@pytest.mark.parametrize("name", METHODS)
def test_adaptation_or_a_refusal(name, make_detector):
    detector = make_detector(name)
    assert detector.method.adapts == (name not in WITHOUT_ADAPTATION)
    if not detector.method.adapts:
        with pytest.raises(UsageError, match=f"'{name}' has no test-time adaptation"):
            detector.job("nut", adapt=True)
        return
    plain, adapted = detector.predict(drawn(), "nut"), detector.predict(drawn(), "nut", adapt=True)
    assert np.abs(plain.patch_scores - adapted.patch_scores).max() > 0


def test_linear_probe_brings_its_adaptation(golden_backbone):
    probe, plain = (AnoVL(golden_backbone, method=name) for name in ("linear-probe", "anovl"))
    expected = plain.predict(drawn(), "nut", adapt=LINEAR_PROBE).patch_scores
    assert np.array_equal(probe.predict(drawn(), "nut", adapt=True).patch_scores, expected)
    assert not np.array_equal(plain.predict(drawn(), "nut", adapt=True).patch_scores, expected)


def test_adaptation_needs_pairs(golden_backbone):
    with pytest.raises(UsageError, match="in pairs, got 154 and 88"):
        AnoVL(golden_backbone).predict(drawn(), "nut", wording=WORDING, adapt=True)
    assert 0 < AnoVL(golden_backbone).predict(drawn(), "nut", wording=WORDING).pred_score < 1


def test_command_line_refuses_before_the_model_is_looked_for(pictures):
    command = ["predict", str(pictures), "--class-name", "nut", "--method", "winclip", "--model", "local-dir:nowhere"]
    refused = CliRunner().invoke(app, [*command, "--adapt"])
    assert refused.exit_code == 2
    assert "'winclip' has no test-time adaptation" in refused.output
    assert CliRunner().invoke(app, command).exit_code == 5  # only now is the model missed


def test_command_line_records_what_was_in_force(pictures, golden_name, tmp_path):
    command = ["predict", str(pictures / "a.png"), "--class-name", "nut", "--method", "winclip", "--model", golden_name]
    result = CliRunner().invoke(app, [*command, "--state", "whole|torn", "--save", "none", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["recipe"]["logit_scale"] == pytest.approx(1 / 0.07)
    assert settings["recipe"]["attention"] == "qkv"
    assert settings["words"]["states"] == [["whole {class}", "torn {class}"]]
    assert settings["words"]["templates"][0].endswith("{object}.")


def test_maskclip_is_the_last_values_alone(tiny_clip):
    visual = tiny_clip(ls_init_value=0.5).visual
    backbone = Backbone.from_clip(tiny_clip(ls_init_value=0.5), lambda texts, context_length: None, weights_id="tiny")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = visual._embeds(pixels)
        for block in visual.transformer.resblocks[:-1]:
            z = block(z)
        last = visual.transformer.resblocks[-1]
        v = last.ln_1(z) @ last.attn.in_proj_weight.chunk(3)[2].T + last.attn.in_proj_bias.chunk(3)[2]
        expected = visual.ln_post(last.ls_1(last.attn.out_proj(v)))[:, 1:] @ visual.proj
        tokens = make_method("maskclip", backbone, Recipe()).encoder(pixels)[1]
        with_residual = make_method("v-last", backbone, Recipe()).encoder(pixels)[1]
    torch.testing.assert_close(tokens, expected, atol=2e-6, rtol=0)
    assert (with_residual - expected).abs().max() > 1e-2


def test_clip_surgery_on_few_blocks_takes_all(make_detector):
    detector = make_detector("clip_surgery")
    assert detector.method.recipe.layers == 3
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(detector.encode(pixels)[1], make_detector("anovl").encode(pixels)[1])


@pytest.mark.parametrize("name", METHODS)
def test_resnet_towers(name, make_detector):
    if name in WITHOUT_ADAPTATION:
        with pytest.raises(UsageError, match=f"method {name}: expected a ViT .* got a ResNet"):
            make_detector(name, kind="resnet", image_size=96)
        return
    scores = make_detector(name, kind="resnet", image_size=96).predict(drawn(), "nut").patch_scores
    assert scores.shape == (3, 3)
    assert scores.std() > 0


@pytest.mark.parametrize("name", sorted(WITHOUT_ADAPTATION))
def test_towers_that_pool_their_patches(name, make_detector):
    with pytest.raises(UsageError, match="pools its patches"):
        make_detector(name, pool_type="avg", no_ln_pre=True)


@pytest.mark.parametrize("name", METHODS)
def test_a_score_depends_on_no_other_image(name, make_detector):
    detector = make_detector(name)
    images = [drawn(seed) for seed in range(3)]
    together = list(detector.stream(images, "nut", batch_size=3))
    for image, prediction in zip(images, together, strict=True):
        alone = detector.predict(image, "nut")
        np.testing.assert_allclose(alone.patch_scores, prediction.patch_scores, atol=2e-6)
        assert alone.pred_score == pytest.approx(prediction.pred_score, abs=2e-6)


def test_unknown_method():
    with pytest.raises(UsageError, match="did you mean 'clip_surgery'"):
        method_class("clip-surgery")
    assert anovl.recipe("released").attention == "vv"
