"""Exported graphs against torch: scores, classes, adaptation, precisions, formats, and what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from anovl import exporting
from anovl.config import RECIPES, RELEASED_ADAPTATION, FewShot, recipe
from anovl.core.prompts import Wording
from anovl.detector import AnoVL
from anovl.engine.artefact import CLASS_INDEX, IMAGES, KEY, OUTPUTS, read_card
from anovl.engine.runtime import ExportedModel
from anovl.engine.sessions import open_session
from anovl.errors import AnovlError, ImageDecodeError, OutputError, UsageError
from anovl.exporting import accuracy_lost, export

VERSIONS = {"anovl": "0.1.0"}


def pictures(count, size=64, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)  # blocks: noise alone scores alike everywhere
    return np.ascontiguousarray(coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2))


def by_torch(detector, images, class_name="nut", **settings):
    """Scores of pictures at the input size, the map too."""
    job = detector.job(class_name, **settings)
    mean, std = (torch.tensor(values) for values in (detector.backbone.mean, detector.backbone.std))
    pixel_values = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    scores = detector.method.score(pixel_values, job.text, job.adapters)
    maps = [detector.anomaly_map(grid.numpy(), detector.backbone.image_size) for grid in scores.patch_scores]
    return scores.image_score.numpy(), scores.patch_scores.numpy(), np.stack(maps)


def by_onnx(path, images, class_index=None):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    feed = {IMAGES: images} | ({} if class_index is None else {CLASS_INDEX: np.array(class_index)})
    return session.run(list(OUTPUTS), feed)


def assert_same(got, expected, atol):
    for values, reference in zip(got, expected, strict=True):
        np.testing.assert_allclose(values, reference, rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [1, 3])
def test_class_index_picks_the_prompts(small, exported, batch):
    done = exported("classes.onnx", ("nut", "wood", "metal plate"))
    assert done.difference < 1e-5
    assert done.size == done.path.stat().st_size
    images = pictures(batch)
    for index, name in enumerate(done.card.classes):
        expected = by_torch(small(), images, name)
        assert np.ptp(expected[1]) > 0.01
        assert_same(by_onnx(done.path, images, index), expected, 1e-5)
    first, second = (by_onnx(done.path, images, index)[1] for index in (0, 1))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow
def test_golden_model(golden_backbone, exported):
    detector = AnoVL(golden_backbone)
    images = pictures(3, size=240)
    assert_same(by_onnx(exported("golden.onnx", detector=detector).path, images), by_torch(detector, images), 1e-5)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("softmax", ("nut", "screw")),
        pytest.param("softmax", ("nut",), marks=pytest.mark.slow),
        pytest.param("tanh", ("nut", "screw"), marks=pytest.mark.slow),
    ],
)
def test_adaptation_inside_the_graph(small, exported, name, classes):
    settings = RECIPES["default"].adaptation if name == "softmax" else RELEASED_ADAPTATION
    detector = small(recipe=recipe("default", adaptation=replace(settings, steps=2, learning_rate=0.02, noise_std=0.5)))
    done = exported(f"{name}{len(classes)}.onnx", classes, detector=detector, adapt=True, seed=7)
    images = pictures(3)
    expected = by_torch(detector, images, classes[-1], adapt=True, seed=7)
    index = len(classes) - 1 if len(classes) > 1 else None
    assert_same(by_onnx(done.path, images, index), expected, 1e-5)
    assert np.abs(expected[1] - by_torch(detector, images, classes[-1])[1]).max() > 1e-3
    assert np.abs(expected[1] - by_torch(detector, images, classes[-1], adapt=True, seed=8)[1]).max() > 1e-4
    assert done.card.seed == 7


@pytest.mark.slow
def test_mini_with_and_without_adaptation(exported):
    detector = AnoVL.from_pretrained("mini")
    assert exported("mini.onnx", ("metal nut",), detector=detector).difference < 1e-5
    assert exported("mini-adapted.onnx", ("metal nut",), detector=detector, adapt=True).difference < 2e-5


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("bank.onnx", "vit", {}),
        pytest.param("bank-resnet.onnx", "resnet", {}, marks=pytest.mark.slow),
        pytest.param("bank-adapted.onnx", "vit", {"adapt": True}, marks=pytest.mark.slow),
        pytest.param("bank.xml", "vit", {"adapt": True}, marks=pytest.mark.slow),
    ],
)
def test_good_pictures_inside_the_graph(small, exported, name, kind, settings):
    plain = small(kind)
    fitted = plain.fit(list(pictures(3, seed=4)), "nut", settings=FewShot(weight=0.3))
    done = exported(name, detector=fitted, **settings)
    assert done.difference < 1e-5
    assert done.card.bank == fitted.bank.summary | {"layers": done.card.bank["layers"]}
    images = pictures(3)
    expected = by_torch(fitted, images, **settings)
    got = open_session(done.path)
    for batch in (1, 3):
        assert_same(got(images[:batch], 0), [values[:batch] for values in expected[:2]], 1e-5)
    if kind == "vit":  # the random ResNet gives the same tokens everywhere
        assert np.abs(expected[1] - by_torch(plain, images, **settings)[1]).max() > 1e-3


@pytest.mark.slow
def test_good_pictures_in_half_precision(small, exported):
    """At the largest weight that is chosen for you, on pictures so near to the good ones that scores stay below 1."""
    plain, images = small(), pictures(12, seed=4)
    fitted = plain.fit(list(images), "wood", settings=FewShot(weight=3.0))
    done = exported("bank-half.onnx", ("wood",), detector=fitted, precision="fp16")
    halved = [math.prod(one.dims) for one in onnx.load(done.path).graph.initializer if one.data_type == onnx.TensorProto.FLOAT16]
    assert {path.numel() for path in fitted.bank.tokens} <= set(halved)
    images = images[:3].copy()
    images[:, 16:32, 16:32] = images[:, 16:32, 16:32] // 2 + 32
    expected = by_torch(fitted, images, "wood")
    assert expected[1].max() < 0.95
    assert np.abs(expected[1] - by_torch(plain, images, "wood")[1]).max() > 0.3
    assert_same(open_session(done.path)(images, 0), expected[:2], 1e-2)


def test_a_profile_holds_for_the_good_pictures_inside(small, exported, tmp_path):
    plain = small()
    fitted = plain.fit(list(pictures(3, seed=4)), "nut", settings=FewShot(weight=0.3))
    done, images = exported("bank.onnx", detector=fitted), list(pictures(9, seed=6))
    profile = fitted.calibrate(images, "nut", fpr=0.2)
    model = ExportedModel(done.path)
    assert model.calibrate(images, fpr=0.2).image_threshold == pytest.approx(profile.image_threshold, abs=1e-5)
    assert model.with_profile(profile).predict(images[0]).calibrated
    with pytest.raises(UsageError, match="method: 'anovl', not 'anovl with bank"):
        model.with_profile(plain.calibrate(images, "nut", fpr=0.2)).predict(images[0])
    for changes, message in (
        ({"class_names": ["nut", "wood"]}, "made for class name: 'nut', not 'wood'"),
        ({"precision": "int8"}, "not quantised"),
    ):
        with pytest.raises(UsageError, match=message):
            export(fitted, tmp_path / "a.onnx", **{"class_names": ["nut"], "versions": VERSIONS} | changes)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet", {"kind": "resnet", "recipe": recipe("default", image_score="map_max", smoothing=True, align_corners=True)}),
        pytest.param("released", {"recipe": "released"}, marks=pytest.mark.slow),  # 22 views
        pytest.param("clip", {"method": "clip"}, marks=pytest.mark.slow),
    ],
)
def test_recipes_methods_and_backbones(small, exported, name, settings):
    detector = small(**settings)
    done = exported(f"{name}.onnx", detector=detector)
    images = pictures(2)
    assert_same(by_onnx(done.path, images), by_torch(detector, images), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [False, True])
def test_openvino_equals_torch(small, exported, adapt):
    done = exported(f"plain-{adapt}.xml", ("nut", "wood"), adapt=adapt)
    assert done.difference < 1e-5
    assert done.size == sum(done.path.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    images = pictures(3)
    expected = by_torch(small(), images, "wood", adapt=adapt)
    assert_same(open_session(done.path)(images, 1), expected[:2], 1e-5)


def test_torch_export_carries_its_card(small, exported):
    done = exported("program.pt2", ("nut", "wood"))
    extra = {KEY: ""}
    module = torch.export.load(done.path, extra_files=extra).module()
    images = pictures(3)
    got = [values.numpy() for values in module(torch.from_numpy(images), torch.tensor(1))]
    assert_same(got, by_torch(small(), images, "wood"), 1e-6)
    assert read_card(extra[KEY], done.path).to_json() == done.card.to_json()


def test_card(small, exported):
    detector = small(threshold=0.25, recipe=recipe("default", adaptation=replace(RECIPES["default"].adaptation, steps=1)))
    words = Wording(defects=("scratch",))
    done = exported("card.pt2", ("nut",), detector=detector, adapt=True, seed=3, wording=words)
    extra = {KEY: ""}
    torch.export.load(done.path, extra_files=extra)
    card = read_card(extra[KEY], done.path)
    assert (card.classes, card.threshold, card.image_size, card.grid) == (("nut",), 0.25, (64, 64), (4, 4))
    assert card.words["defects"] == ["scratch"]
    assert (card.seed, card.precision, card.recipe) == (3, "fp32", detector.recipe)
    assert card.model["weights_sha256"] == detector.backbone.weights_id
    assert json.loads(extra[KEY])["format"] == 1


def test_fp16_halves_the_weights(small, exported):
    done = exported("half.onnx", precision="fp16")
    graph = onnx.load(done.path).graph
    kinds = {tensor.data_type for tensor in graph.initializer if np.prod(tensor.dims) >= 4096}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert 1e-6 < done.difference < 1e-2
    assert done.loss.pictures == 80  # "nut" cannot be drawn: all that is held out
    assert done.loss.image_auroc is None
    assert 1e-6 < done.loss.patch_difference < 1e-2
    metadata = {entry.key: entry.value for entry in onnx.load(done.path).metadata_props}
    assert read_card(metadata[KEY], done.path).to_json() == done.card.to_json()


def test_int8_rounds_the_image_tower_alone(small, exported, tmp_path):
    from PIL import Image

    for index, picture in enumerate(pictures(4, seed=5)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    done = exported("int8.onnx", ("wood",), precision="int8", calibration=tmp_path)
    graph = onnx.load(done.path).graph
    rounded = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1]
    # patches; qkv, out_proj and two of the MLP in each of two blocks, the last one's q apart; the projection
    assert len(rounded) == 1 + 2 * 4 + 1 + 1
    before, after = done.loss.image_auroc
    assert 0 <= after <= 1
    assert abs(before - after) < 0.2
    assert 1e-5 < done.loss.patch_difference < 0.2


def test_loss_of_an_exact_file_is_none(small, exported):
    done = exported("plain-False.xml", ("nut", "wood"))
    detector = small()
    loss = accuracy_lost(detector, [detector.job("wood")], lambda images, _: open_session(done.path)(images, 1))
    assert loss.pictures == 20
    assert loss.image_auroc[0] == loss.image_auroc[1]
    assert loss.pixel_auroc == pytest.approx((loss.pixel_auroc[0],) * 2, abs=1e-4)
    assert max(loss.image_difference, loss.patch_difference) < 1e-5


def test_a_file_that_differs_is_not_kept(small, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(AnovlError, match=r"differs from torch by .* it was not kept"):
        export(small(), tmp_path / "deep" / "a.pt2", ["nut"], form="torch-export", check=True, versions=VERSIONS)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": []}, "one or several different ones"),
        ({"class_names": ["nut", "nut"]}, "one or several different ones"),
        ({"form": "openvino"}, r"ends in \.xml"),
        ({"precision": "fp16", "form": "torch-export", "path": "a.pt2"}, "fp32 alone"),
        ({"path": "there.onnx"}, "is there already"),
        ({"path": "there.xml", "form": "openvino"}, r"there\.bin: is there already"),
        ({"method": "winclip"}, "expected the method anovl"),
        ({"recipe": "released", "adapt": True}, "22 views and --adapt"),
    ],
)
def test_refusals(small, tmp_path, changes, message):
    for name in ("there.onnx", "there.bin"):
        (tmp_path / name).write_text("mine")
    detector = small(**{key: changes[key] for key in ("method", "recipe") if key in changes})
    settings = {key: value for key, value in changes.items() if key not in ("method", "recipe", "path", "class_names")}
    with pytest.raises(UsageError, match=message):
        export(
            detector, tmp_path / changes.get("path", "a.onnx"), changes.get("class_names", ["nut"]), versions=VERSIONS, **settings
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.bin", "there.onnx"]


def test_a_folder_that_cannot_be_made(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        export(small(), tmp_path / "file" / "a.onnx", ["nut"], versions=VERSIONS)


@pytest.mark.parametrize(("name", "error", "message"), [(None, UsageError, "no image in"), ("a.png", ImageDecodeError, "a.png")])
def test_calibration_pictures_that_are_none(small, tmp_path, name, error, message):
    folder = tmp_path / "calibration"
    folder.mkdir()
    if name:
        (folder / name).write_text("text")
    with pytest.raises(error, match=message):
        export(small(), tmp_path / "a.onnx", ["nut"], precision="int8", calibration=folder, versions=VERSIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration"]
