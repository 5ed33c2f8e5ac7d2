"""AnoVL in anomalib's engine, on drawn pictures: its numbers are ours, and so are those of what it exports."""

import importlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anovl import AnoVL, Variant, datasets, evaluate
from anovl.data.synthetic.layout import write_dataset
from anovl.errors import MissingExtraError, UsageError
from anovl.integrations.results import measure_results, read_results
from anovl.metrics import auroc
from anovl.render.writers import row_of, save_map
from anovl.results import Prediction

SIZE = 300  # not the model's, so that pictures are squashed


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "set"
    write_dataset(folder, ["bracket"], per_class=6, train_per_class=3, seed=5, size=SIZE)
    return folder / "bracket"


@pytest.fixture(scope="module")
def mini():
    return AnoVL.from_pretrained("mini", device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def ours():
    """What the tests need of anomalib, which takes ten seconds to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.data import Folder
        from anomalib.engine import Engine

        from anovl.integrations.anomalib import AnoVL as Model
        from anovl.integrations.anomalib_results import ResultWriter
    return SimpleNamespace(Folder=Folder, Engine=Engine, Model=Model, ResultWriter=ResultWriter)


@pytest.fixture
def data(ours, drawn):
    defects = sorted(path.name for path in (drawn / "test").iterdir() if path.name != "good")
    return ours.Folder(
        name="drawn",
        root=drawn,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{name}" for name in defects],
        mask_dir=[f"ground_truth/{name}" for name in defects],
        val_split_mode="same_as_test",
        eval_batch_size=4,
        num_workers=0,
    )


@pytest.fixture
def engine(ours, tmp_path):
    return lambda *callbacks: ours.Engine(default_root_dir=tmp_path / "results", accelerator="cpu", callbacks=list(callbacks))


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [False, True], ids=["tfa", "tta"])
def test_predictions_are_ours(ours, engine, data, mini, adapt):
    batches = engine().predict(ours.Model("mini", class_name="bracket", adapt=adapt, seed=3), datamodule=data)
    items = [item for batch in batches for item in batch]
    assert len(items) == 6
    for item in items:
        want = mini.predict(item.image_path, "bracket", output_size="input", adapt=adapt, seed=3)
        assert float(item.pred_score) == pytest.approx(want.pred_score, abs=1e-5)
        np.testing.assert_allclose(item.anomaly_map, want.anomaly_map, atol=1e-5)
        assert bool(item.pred_label) == want.pred_label
        np.testing.assert_array_equal(item.pred_mask, item.anomaly_map > 0.5)


@pytest.mark.slow
def test_metrics_pictures_and_results(ours, engine, data, mini, drawn, tmp_path):
    (figures,) = engine(ours.ResultWriter(tmp_path / "out", drawn)).test(
        ours.Model("mini", class_name="bracket"), datamodule=data
    )
    assert len(list((tmp_path / "results").rglob("images/**/*.png"))) == 6

    found = list(read_results(tmp_path / "out"))
    assert sorted(row["image_path"] for row, _ in found) == sorted(
        path.relative_to(drawn).as_posix() for path in drawn.glob("test/*/*.png")
    )
    labels = [not row["image_path"].startswith("test/good") for row, _ in found]
    scores = [row["pred_score"] for row, _ in found]
    assert figures["image_AUROC"] == pytest.approx(auroc(scores, labels), abs=1e-6)
    tp = sum(label and score > 0.5 for label, score in zip(labels, scores, strict=True))
    assert figures["image_F1Score"] == pytest.approx(2 * tp / (sum(labels) + sum(score > 0.5 for score in scores)), abs=1e-6)

    nearest = [
        np.zeros((SIZE, SIZE), bool) if not label else _mask(drawn, row) for label, (row, _) in zip(labels, found, strict=True)
    ]
    small = torch.nn.functional.interpolate(torch.from_numpy(np.stack(nearest))[:, None].float(), mini.backbone.image_size)[:, 0]
    pixels = auroc(np.stack([values for _, values in found]), small.numpy() > 0.5)
    assert figures["pixel_AUROC"] == pytest.approx(pixels, abs=1e-5)

    dataset = datasets.load("folder", drawn, class_name="bracket")
    want = evaluate(Variant(name="anovl", detector=mini), dataset).mean("anovl")
    assert measure_results(tmp_path / "out", dataset)["bracket"].figures == pytest.approx(want, abs=1e-5)


def _mask(root, row):
    path = root / row["image_path"]
    return np.asarray(Image.open(root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png")) > 0


@pytest.mark.slow
def test_results_of_another_model(ours, engine, data, drawn, tmp_path):
    from anomalib.models import Padim

    torch.manual_seed(0)
    model, run = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=8), engine()
    run.fit(model, datamodule=data)
    engine(ours.ResultWriter(tmp_path / "out", drawn)).test(model, datamodule=data)
    figures = measure_results(tmp_path / "out", datasets.load("folder", drawn, class_name="bracket"))["bracket"].figures
    assert all(0 <= value <= 1 for value in figures.values())
    with pytest.raises(UsageError, match="root: expected a folder that the pictures are in"):
        engine(ours.ResultWriter(tmp_path / "other", tmp_path)).test(model, datamodule=data)
    with pytest.raises(UsageError, match="already holds a run"):
        engine(ours.ResultWriter(tmp_path / "out", drawn)).test(model, datamodule=data)


@pytest.mark.slow
def test_exports(ours, engine, mini, drawn, tmp_path, monkeypatch):
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # anomalib's own file format is a pickle
    monkeypatch.chdir(tmp_path)  # its OpenVINO inferencer leaves a cache where it runs
    model = ours.Model("mini", class_name="bracket", adapt=True)
    picture = next(drawn.glob("test/*/001.png"))
    small = tmp_path / "small.png"
    Image.open(picture).resize((240, 240)).save(small)
    want, want_small = (mini.predict(path, "bracket", output_size="input", adapt=True) for path in (picture, small))

    def check(got, expected, tolerance):
        assert float(np.asarray(got.pred_score).item()) == pytest.approx(expected.pred_score, abs=tolerance)
        np.testing.assert_allclose(np.asarray(got.anomaly_map).squeeze(), expected.anomaly_map, atol=tolerance)

    torch_file = engine().export(model, "torch", export_root=tmp_path)
    check(TorchInferencer(torch_file, device="cpu").predict(picture), want, 1e-5)
    openvino_file = engine().export(model, "openvino", export_root=tmp_path)  # by way of ONNX
    exported = OpenVINOInferencer(openvino_file, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    check(exported.predict(str(small)), want_small, 1e-5)
    check(exported.predict(str(picture)), want, 0.1)  # another resize


@pytest.mark.slow
def test_class_of_the_data_and_checkpoint(ours, engine, data, drawn, tmp_path):
    model, run = ours.Model("mini"), engine()
    with pytest.raises(UsageError, match="class_name: expected what the pictures show"):
        run.fit(model, datamodule=data)
    data.category = "bracket"
    run = engine()
    run.fit(model, datamodule=data)
    run.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = ours.Model.load_from_checkpoint(tmp_path / "model.ckpt")
    pictures = torch.rand(2, 3, 50, 70)
    torch.testing.assert_close(loaded(pictures).pred_score, model(pictures).pred_score)
    assert loaded.class_name == "bracket"
    assert tuple(loaded.input_size) == (240, 240)
    assert len(engine().predict(loaded, data_path=drawn / "test" / "good")) == 3


@pytest.mark.slow
def test_a_method_that_cannot_be_one_graph(ours):
    with pytest.raises(UsageError, match="expected the method anovl, clip or maskclip"):
        ours.Model("mini", class_name="bracket", method="winclip")


def test_without_anomalib(monkeypatch):
    monkeypatch.setitem(sys.modules, "anomalib", None)
    for name in ("anomalib", "anomalib_results"):
        monkeypatch.delitem(sys.modules, f"anovl.integrations.{name}", raising=False)
        with pytest.raises(MissingExtraError, match=r"pip install 'anovl\[anomalib\]'"):
            importlib.import_module(f"anovl.integrations.{name}")


def test_results_that_are_not_there(tmp_path, drawn):
    dataset = datasets.load("folder", drawn, class_name="bracket")
    with pytest.raises(UsageError, match="expected a folder with predictions"):
        measure_results(tmp_path, dataset)
    _write_results(tmp_path, "test/good/000.png")
    with pytest.raises(UsageError, match="results of 1 of 6 pictures of bracket"):
        measure_results(tmp_path, dataset)
    (tmp_path / "map/test/good/000.npy").unlink()
    with pytest.raises(UsageError, match=r"no map of test/good/000.png"):
        measure_results(tmp_path, dataset)
    _write_results(tmp_path, "elsewhere.png")
    with pytest.raises(UsageError, match=r"elsewhere.png is no test picture"):
        measure_results(tmp_path, dataset)


def _write_results(folder: Path, name: str) -> None:
    values = np.full((4, 4), 0.5, np.float32)
    prediction = Prediction(
        image_path=name, image_size=(SIZE, SIZE), class_name="", pred_score=0.1, anomaly_map=values, patch_scores=values
    )
    (folder / "predictions.jsonl").write_text(json.dumps(row_of(name, prediction)) + "\n")
    path = (folder / "map" / name).with_suffix(".npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_map(values, path, "npy")
