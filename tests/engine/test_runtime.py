"""An exported file without torch: the same predictions, and files, classes and settings that are wrong."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anovl.core import scoring
from anovl.data.images import ImageLimits
from anovl.engine import sessions
from anovl.engine.artefact import KEY
from anovl.engine.maps import smooth, to_image_size
from anovl.engine.runtime import ExportedModel
from anovl.engine.sessions import open_session
from anovl.errors import (
    AnovlError,
    CheckpointError,
    ImageDecodeError,
    ImageTooLargeError,
    MissingExtraError,
    OutOfMemoryError,
    UsageError,
)

CLASSES = ("nut", "wood")


@pytest.fixture(scope="module")
def onnx_file(exported):
    return exported("two.onnx", CLASSES).path


@pytest.fixture(scope="module")
def xml_file(exported):
    return exported("plain-False.xml", CLASSES).path


sides = st.integers(1, 40)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), sides, sides, st.booleans(), st.integers(0, 2**16))
def test_up_sampling_and_smoothing_are_those_of_torch(rows, columns, height, width, align, seed):
    grid = np.random.default_rng(seed).random((rows, columns), dtype=np.float32)
    expected = scoring.to_image_size(torch.from_numpy(grid)[None], (height, width), align_corners=align)[0]
    got = to_image_size(grid, (height, width), align_corners=align)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(smooth(grid), scoring.smooth(torch.from_numpy(grid)[None])[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["onnx_file", "xml_file"])
def test_the_same_predictions_as_torch(small, kind, pictures, request):
    model, detector = ExportedModel(request.getfixturevalue(kind)), small()
    pairs = zip(model.stream(pictures, "wood", batch_size=3), detector.stream(pictures, "wood"), strict=True)
    for got, expected in pairs:
        assert (got.image_path, got.image_size, got.class_name) == (expected.image_path, expected.image_size, "wood")
        assert (got.threshold, got.score_range) == (expected.threshold, expected.score_range)
        assert got.pred_score == pytest.approx(expected.pred_score, abs=1e-5)
        np.testing.assert_allclose(got.patch_scores, expected.patch_scores, atol=1e-5)
        np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, atol=1e-5)
        assert set(got.timings_ms) == set(expected.timings_ms)


def test_one_picture_and_the_size_of_its_map(onnx_file):
    model = ExportedModel(onnx_file, threshold=0.9, threads=1)
    image = np.full((30, 50), 90, np.uint8)
    assert model.predict(image, "nut").anomaly_map.shape == (30, 50)
    assert model.predict(image, "nut", output_size="input").anomaly_map.shape == (64, 64)
    assert model.predict(image, "nut").threshold == 0.9


def test_broken_and_large_pictures(onnx_file):
    model = ExportedModel(onnx_file, limits=ImageLimits(max_pixels=100))
    good = np.zeros((4, 4), np.uint8)
    with pytest.raises(ImageDecodeError):
        model.predict(b"no image", "nut")
    with pytest.raises(ImageTooLargeError):
        list(model.stream([good, np.zeros((20, 20), np.uint8)], "nut"))
    assert len(list(model.stream([good, b"no image", good], "nut", on_error="skip"))) == 2


@pytest.mark.parametrize("kind", ["onnx_file", "xml_file"])
def test_no_torch_is_imported(kind, request):
    script = (
        "import sys, numpy as np\n"
        "from anovl.engine.runtime import ExportedModel\n"
        f"print(ExportedModel({str(request.getfixturevalue(kind))!r}).predict(np.zeros((9, 9), np.uint8), 'nut').pred_score)\n"
        "print([m for m in ('torch', 'open_clip', 'onnx', 'scipy', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    score, modules = done.stdout.splitlines()
    assert 0 < float(score) < 1
    assert modules == "[]"


def test_bf16_on_request(xml_file):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    exact, rough = (ExportedModel(xml_file, dtype=dtype).predict(image, "nut") for dtype in ("auto", "bf16"))
    assert rough.pred_score == pytest.approx(exact.pred_score, abs=0.05)
    with pytest.raises(UsageError, match="unknown dtype of OpenVINO"):
        ExportedModel(xml_file, dtype="fp16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_name": None}, "holds 2 classes, name one: nut, wood"),
        ({"class_name": "nuts"}, "unknown class of the exported file 'nuts'; did you mean 'nut'"),
        ({"class_name": "nut", "output_size": "large"}, "unknown output_size"),
    ],
)
def test_classes_and_sizes_that_are_none(onnx_file, arguments, message):
    with pytest.raises(UsageError, match=message):
        ExportedModel(onnx_file).predict(np.zeros((4, 4), np.uint8), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "unknown device of onnxruntime 'tpu'"),
        ({"dtype": "bf16"}, "computes as the file says"),
        ({"threads": 0}, "threads: expected at least 1"),
        ({"threshold": 1.5}, "threshold: expected a value"),
    ],
)
def test_settings_that_are_not_valid(onnx_file, arguments, message):
    with pytest.raises(UsageError, match=message):
        ExportedModel(onnx_file, **arguments)


def test_cuda_is_asked_of_the_library(onnx_file, xml_file):
    with pytest.raises(UsageError, match="onnxruntime-gpu"):
        ExportedModel(onnx_file, device="cuda")
    with pytest.raises(UsageError, match="unknown device of OpenVINO 'cuda'"):
        ExportedModel(xml_file, device="cuda")


def rewritten(source, path, text):
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {} if text is None else {KEY: text})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: None, "not exported by anovl"),
        (lambda _: "{", "metadata is damaged"),
        (lambda _: "[]", "metadata is damaged"),
        (lambda card: json.dumps(card | {"format": 2}), "exported as version 2, this anovl reads 1"),
        (lambda card: json.dumps(card | {"classes": []}), "metadata is damaged"),
        (lambda card: json.dumps(card | {"recipe": {**card["recipe"], "attention": "?"}}), "metadata is damaged"),
    ],
)
def test_files_of_others_and_of_other_versions(onnx_file, tmp_path, change, message):
    card = json.loads(next(entry.value for entry in onnx.load(onnx_file).metadata_props if entry.key == KEY))
    with pytest.raises(CheckpointError, match=message):
        ExportedModel(rewritten(onnx_file, tmp_path / "other.onnx", change(card)))


def test_files_that_are_missing_damaged_or_of_another_kind(onnx_file, xml_file, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_session(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match=r"torch\.export\.load"):
        open_session(tmp_path / "a.pt2")
    for name, source in (("a.onnx", onnx_file), ("a.xml", xml_file)):  # .xml: without its .bin
        (tmp_path / name).write_bytes(source.read_bytes()[: -1000 if name == "a.onnx" else None])
        with pytest.raises(CheckpointError, match="cannot load it"):
            open_session(tmp_path / name)


def test_a_missing_library_is_named_with_its_extra(onnx_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anovl\[onnx\]'"):
        ExportedModel(onnx_file)


def test_failures_while_it_runs(onnx_file, monkeypatch):
    model = ExportedModel(onnx_file)
    with pytest.raises(CheckpointError, match="cannot run"):
        model.session(np.zeros((1, 8, 8, 3), np.uint8), 0)
    assert isinstance(sessions._failure(RuntimeError("Failed to allocate memory")), OutOfMemoryError)
    monkeypatch.setattr(model, "session", lambda images, _: (np.full(len(images), np.nan), np.zeros((len(images), 4, 4))))
    with pytest.raises(AnovlError, match="not finite in fp32"):
        model.predict(np.zeros((4, 4), np.uint8), "nut")
