"""Profiles: what they refuse, what they say, and that they hold for what they were made for alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anovl import AnoVL
from anovl.errors import OutputError, UsageError
from anovl.profiles import Measured, Origin, Profile


def origin(**changes) -> Origin:
    fields = {
        "class_name": "nut",
        "model": "mini",
        "weights": "0123456789abcdef",
        "method": "anovl",
        "recipe": {"name": "default", "layers": None},
        "words": {"defects": ("dent",)},
        "seeds": (),
        "image_size": (240, 240),
        "precision": "fp32",
    }
    return Origin(**{**fields, **changes})


def profile(**changes) -> Profile:
    fields = {"image_threshold": 0.6, "pixel_threshold": 0.7, "fpr": 0.01, "pictures": 120, "origin": origin()}
    return Profile(**{**fields, **changes})


@pytest.mark.parametrize("changes", [{}, {"measured": Measured(good=120, bad=3, false_alarms=1, missed=2), "temperature": 2.5}])
def test_written_and_read_again(tmp_path, changes):
    made = profile(image_threshold=float(np.nextafter(np.float32(0.6), np.float32(1))), **changes)
    path = tmp_path / "deep" / "profile.json"
    made.save(path)
    assert Profile.load(path) == made
    assert json.loads(path.read_text())["guaranteed"] == made.guaranteed
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]


def test_unwritable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        profile().save(tmp_path / "file" / "profile.json")


def changed(**changes):
    return json.dumps({**profile().to_dict(), **changes})


def without(name):
    return json.dumps({key: value for key, value in profile().to_dict().items() if key != name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a profile"),
        (changed()[:-20], "not a profile"),
        ("[1]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("[" * 100_000, "not a profile"),
        (changed(extra=1), "unknown extra"),
        (without("fpr"), "missing fpr"),
        (without("origin"), "missing origin"),
        (changed(format=2), "format 2, this anovl reads 1"),
        (changed(format=True), "format True"),
        (changed(image_threshold=float("nan")), "NaN"),
        (changed(pixel_threshold=float("inf")), "Infinity"),
        (changed(image_threshold=1.5), r"image_threshold: expected a number in \[0, 1\], got 1.5"),
        (changed(pixel_threshold=-0.1), "pixel_threshold"),
        (changed(image_threshold="0.5"), "image_threshold"),
        (changed(image_threshold=True), "image_threshold"),
        (changed(fpr=0), "fpr"),
        (changed(fpr=1), "fpr"),
        (changed(fpr=None), "fpr"),
        (changed(pictures=0), "pictures"),
        (changed(pictures=1.5), "pictures"),
        (changed(guaranteed=0.001), "guaranteed: expected 0.00826"),
        (changed(choice="best"), "unknown profile choice 'best'"),
        (changed(choice=[]), "unknown profile choice"),
        (changed(temperature=0), "temperature"),
        (changed(temperature="warm"), "temperature"),
        (changed(measured={"good": 1}), "measured: missing"),
        (changed(measured={"good": -1, "bad": 1, "false_alarms": 0, "missed": 0}), "measured good"),
        (changed(measured=3), "measured: expected a JSON object"),
        (changed(origin=None), "origin: expected a JSON object"),
        (changed(origin={**profile().to_dict()["origin"], "class_name": ""}), "origin class_name"),
        (changed(origin={**profile().to_dict()["origin"], "recipe": 3}), "origin recipe"),
        (changed(origin={**profile().to_dict()["origin"], "seeds": ["a"]}), "origin seeds"),
        (changed(origin={**profile().to_dict()["origin"], "seeds": 3}), "origin seeds"),
        (changed(origin={**profile().to_dict()["origin"], "image_size": [240]}), "origin image_size"),
        (changed(origin={**profile().to_dict()["origin"], "colour": 1}), "origin: unknown colour"),
    ],
)
def test_files_that_are_no_profile(tmp_path, text, message):
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        Profile.load(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 500


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, 1e-320, -0.0, "x" * 999]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
)


@given(st.sampled_from(sorted(profile().to_dict())), JSON, st.sampled_from(sorted(profile().to_dict()["origin"])))
def test_any_value_is_taken_or_refused(name, value, inner):
    for changes in ({name: value}, {"origin": {**profile().to_dict()["origin"], inner: value}}):
        try:
            read = Profile.from_dict({**profile().to_dict(), **changes})
        except UsageError:
            continue
        assert read.guarantee()
        assert read.probability(0.3) is None or 0 <= read.probability(0.3) <= 1
        json.dumps(read.to_dict(), allow_nan=True)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            Profile.load(path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a profile"):
        Profile.load(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_name": "bolt"}, "class name: 'nut', not 'bolt'"),
        ({"weights": "fedcba9876543210", "model": "other"}, r"model: mini \(weights 01234567\), not other \(weights fedcba98\)"),
        ({"method": "clip"}, "method: 'anovl', not 'clip'"),
        ({"recipe": {"name": "paper", "layers": None}}, "recipe name: 'default', not 'paper'"),
        ({"recipe": {"name": "default", "layers": 3}}, "recipe layers: None, not 3"),
        ({"words": {"defects": []}}, r"words defects: \['dent'\], not \[\]"),
        ({"seeds": (0,)}, "adaptation: none, not with seed 0"),
        ({"image_size": (96, 96)}, r"image size: \(240, 240\), not \(96, 96\)"),
        ({"precision": "int8"}, "precision: 'fp32', not 'int8'"),
        ({"class_name": "bolt", "method": "clip"}, "class name: .*; method: "),
    ],
)
def test_refused_elsewhere(changes, message):
    with pytest.raises(UsageError, match=message):
        profile().check(origin(**changes))


def test_another_name_of_the_same_weights_is_no_difference():
    profile().check(origin(model="local-dir:elsewhere", words={"defects": ["dent"]}))


def test_adaptations_are_compared_where_both_adapt():
    made = profile(origin=origin(seeds=(1, 2), recipe={"adaptation": {"steps": 5}}))
    with pytest.raises(UsageError, match=r"recipe adaptation: {'steps': 5}, not {'steps': 3}"):
        made.check(origin(seeds=(1, 2), recipe={"adaptation": {"steps": 3}}))
    assert made.origin.differences(origin(recipe={})) == ["adaptation: with seed 1, 2, not none"]


def test_guarantee_in_words():
    said = profile().guarantee()
    assert "at most 0.826 %" in said
    assert "120 good pictures" in said
    assert "same line, camera, light" in said
    assert "nine of ten sets of 120 the rate stays under 1.9 %" in said  # Beta(1, 120): 1 - 0.1 ** (1 / 120)
    assert profile().nine_of_ten == pytest.approx(1 - 0.1 ** (1 / 120))
    few = profile(pictures=20).guarantee()
    assert "at most 4.76 %" in few
    assert "The 1 % asked for needs 99 good pictures" in few
    labelled = profile(choice="f1", measured=Measured(good=120, bad=30, false_alarms=4, missed=5)).guarantee()
    assert labelled.startswith("A new good picture shows a marked pixel")
    assert "flags 4 of 120 good ones and misses 5 of 30 bad ones, the largest F1; for others it has no guarantee" in labelled


def test_detector_with_a_profile(detector, pictures):
    made = detector.calibrate(pictures, "nut", fpr=0.2)
    assert (made.pictures, made.guaranteed) == (5, pytest.approx(1 / 6))
    with_profile = detector.with_profile(made)
    for prediction in with_profile.stream(pictures, "nut"):
        assert prediction.calibrated
        assert (prediction.threshold, prediction.pixel_threshold) == (made.image_threshold, made.pixel_threshold)
        assert not prediction.pred_label
        assert not prediction.mask().any()
        assert prediction.probability is None
    assert not detector.predict(pictures / "a.png", "nut").calibrated
    for options, message in (
        ({"class_name": "bolt"}, "class name"),
        ({"class_name": "nut", "adapt": True}, "adaptation"),
        ({"class_name": "nut", "output_size": "input"}, "recipe output_size"),
        ({"class_name": "nut", "defects": ["dent"]}, "words defects"),
    ):
        with pytest.raises(UsageError, match=message):
            with_profile.predict(pictures / "a.png", **options)
    with pytest.raises(UsageError, match="method"):
        with_profile.with_method("clip").predict(pictures / "a.png", "nut")
    with pytest.raises(UsageError, match="recipe name"):
        AnoVL(detector.backbone, recipe="paper").with_profile(made).predict(pictures / "a.png", "nut")
    assert with_profile.calibrate(pictures, "bolt").origin.class_name == "bolt"


def test_probability_reaches_the_prediction(detector, pictures):
    made = replace(detector.calibrate(pictures, "nut"), temperature=2.0)
    prediction = detector.with_profile(made).predict(pictures / "a.png", "nut")
    assert prediction.probability == made.probability(prediction.pred_score)
    assert prediction.to_dict()["probability"] == prediction.probability


def test_adapted_profiles(detector, pictures):
    made = detector.calibrate(pictures, "nut", adapt=True, seed=[0, 1])
    assert made.origin.seeds == (0, 1)
    assert detector.with_profile(made).predict(pictures / "a.png", "nut", adapt=True, seed=[0, 1]).calibrated
    with pytest.raises(UsageError, match="adaptation: with seed 0, 1, not with seed 0"):
        detector.with_profile(made).predict(pictures / "a.png", "nut", adapt=True)
    fewer = replace(detector.recipe.adaptation, steps=2)
    with pytest.raises(UsageError, match="recipe adaptation"):
        detector.with_profile(made).predict(pictures / "a.png", "nut", adapt=fewer, seed=[0, 1])
