import pytest

from anovl.core.prompts import Wording, build_prompts, similar_known_class
from anovl.errors import UsageError


def test_the_papers_ensemble():
    prompts = build_prompts("metal_nut")
    assert len(prompts.normal) == len(prompts.abnormal) == 3 * 22 * 7
    assert len(set(prompts.normal)) == 462
    assert prompts.normal[0] == "a cropped industrial photo of the normal metal nut"
    assert prompts.abnormal[6] == "a cropped industrial photo of the metal nut with damage"
    assert "an industrial image of a large flawless metal nut" in prompts.normal
    assert "a manufacturing image of the blemished metal nut for visual inspection" in prompts.abnormal


def test_pairs_differ_in_the_state_only():
    prompts = build_prompts("bottle", Wording(states=(("whole {class}", "torn {class}"),)))
    assert all(good.replace("whole", "torn") == bad for good, bad in zip(prompts.normal, prompts.abnormal, strict=True))


@pytest.mark.parametrize(
    ("name", "style", "noun"),
    [
        ("metal_nut", "released", "metal_nut"),
        ("macaroni2", "released", "macaroni"),
        ("macaroni2", "paper", "macaroni2"),
        (" pipe_fryum ", "paper", "pipe fryum"),
    ],
)
def test_class_names_by_style(name, style, noun):
    assert build_prompts(name, style=style).normal[0] == f"a cropped industrial photo of the normal {noun}"


@pytest.mark.parametrize(
    ("name", "domain", "word"),
    [
        ("carpet", "auto", "surface picture"),
        ("Wood", "auto", "surface picture"),
        ("nut", "auto", "manufacturing image"),
        ("nut", "texture", "surface picture"),
        ("carpet", "object", "manufacturing image"),
        ("nut", "plain", "photo"),
    ],
)
def test_domains(name, domain, word):
    assert f" {word} of " in build_prompts(name, Wording(domain=domain)).normal[-1]


def test_known_defects_add_a_pair():
    prompts = build_prompts("wood", Wording(defects=("hole", "oil stain")))
    assert len(prompts.normal) == 3 * 22 * 9
    assert "a cropped industrial photo of the wood without a hole" in prompts.normal
    assert "a cropped industrial photo of the wood with an oil stain" in prompts.abnormal


def test_own_words():
    words = Wording(
        templates=("a {domain} of {object}",),
        states=(("normal {class}", "abnormal {class}"),),
        domain_words=("x-ray image", "ultrasound scan"),
    )
    prompts = build_prompts("weld", words)
    assert prompts.normal == ("an x-ray image of normal weld", "an ultrasound scan of normal weld")
    assert prompts.abnormal == ("an x-ray image of abnormal weld", "an ultrasound scan of abnormal weld")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"templates": ()}, "at least one"),
        ({"templates": "a photo of {object}"}, "single string"),
        ({"templates": ("a photo",)}, r"\{object\} exactly once"),
        ({"templates": ("{object} {object}",)}, "found it 2 times"),
        ({"templates": ("a {colour} {object}",)}, "may stand in braces"),
        ({"states": ()}, "at least one pair"),
        ({"states": (("good {class}",),)}, "pairs"),
        ({"states": (("good", "bad {class}"),)}, r"\{class\} exactly once"),
        ({"domain": "textures"}, "did you mean 'texture'"),
        ({"defects": ("",)}, "printable"),
        ({"defects": "scratch"}, "single string"),
    ],
)
def test_words_that_are_not_valid(words, message):
    with pytest.raises(UsageError, match=message):
        Wording(**words)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x\x00"])
def test_class_names_that_are_not_valid(name):
    with pytest.raises(UsageError, match="class name"):
        build_prompts(name)


def test_braces_in_a_class_name_are_only_text():
    assert build_prompts("{object}").normal[0] == "a cropped industrial photo of the normal {object}"


def test_key_tells_prompts_apart():
    assert build_prompts("nut").key == build_prompts("nut").key
    assert build_prompts("nut").key != build_prompts("bolt").key


@pytest.mark.parametrize(("name", "near"), [("hazlenut", "hazelnut"), ("metal_nut", None), ("Hazelnut", None), ("gearbox", None)])
def test_similar_known_class(name, near):
    assert similar_known_class(name) == near
