"""anovl fit; predict and calibrate with its bank; predict --batched; evaluate --shots."""

import json

import numpy as np
import pytest
from PIL import Image

from anovl import ExportedModel
from anovl.data.synthetic.layout import write_dataset
from anovl.methods.few_shot import Bank
from anovl.server.hosting import Exported


@pytest.fixture
def bank(run, pictures, tmp_path):
    path = tmp_path / "bank.safetensors"
    result = run("fit", pictures, "--class-name", "nut", "--shots", 3, "-o", path)
    assert result.exit_code == 0, result.stderr
    return path


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_line_and_file(run, pictures, tmp_path, detector):
    path = tmp_path / "deep" / "bank.safetensors"
    result = run("fit", pictures, "--class-name", "nut", "-o", path, "--share", 0.5, "--layer", 3, "--layer", 1)
    assert result.exit_code == 0, result.stderr
    (line,) = rows(result.stdout)
    assert (line["path"], line["pictures"], line["failed"], line["layers"]) == (str(path), 5, 0, [1, 3])
    read = Bank.load(path)
    assert line["weight"] == read.settings.weight
    patches = int(np.prod(detector.method.encoder.grid))
    assert [len(kept) for kept in read.tokens] == line["tokens"] == [round(5 * patches / 2)] * 3
    assert [file.name for file in path.parent.iterdir()] == ["bank.safetensors"]
    again = run("fit", pictures, "--class-name", "nut", "-o", path)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert run("fit", pictures, "--class-name", "nut", "-o", path, "--overwrite").exit_code == 0


def test_predict_with_the_bank(run, pictures, bank, tmp_path, detector):
    out = tmp_path / "out"
    result = run("predict", pictures, "--class-name", "nut", "--bank", bank, "-o", out, "--save", "none")
    assert result.exit_code == 0, result.stderr
    own = [one.pred_score for one in detector.with_bank(Bank.load(bank)).stream(pictures, "nut")]
    assert [row["pred_score"] for row in rows((out / "predictions.jsonl").read_text())] == pytest.approx(own, abs=1e-6)
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["bank"]["key"] == Bank.load(bank).key
    assert "calibrate --bank" in record["guarantee"]
    other = run("predict", pictures, "--class-name", "bolt", "--bank", bank)
    assert other.exit_code == 2
    assert "bank: made for class name: 'nut', not 'bolt'" in other.stderr


def test_calibrate_with_the_bank(run, pictures, bank, tmp_path):
    profile = tmp_path / "profile.json"
    result = run("calibrate", pictures, "--class-name", "nut", "--bank", bank, "--fpr", 0.2, "-o", profile)
    assert result.exit_code == 0, result.stderr
    arguments = ("predict", pictures, "--class-name", "nut", "--profile", profile)
    assert all(row["calibrated"] for row in rows(run(*arguments, "--bank", bank).stdout))
    without = run(*arguments)
    assert without.exit_code == 2
    assert "method: 'anovl with bank" in without.stderr


@pytest.mark.slow
def test_export_with_the_bank(run, pictures, bank, tmp_path, detector):
    path = tmp_path / "nut.onnx"
    result = run("export", path, "--class-name", "nut", "--bank", bank, "--check")
    assert result.exit_code == 0, result.stderr
    (line,) = rows(result.stdout)
    key = Bank.load(bank).key
    assert line["bank"]["key"] == key
    fitted = detector.with_bank(Bank.load(bank))
    out = tmp_path / "out"
    done = run("predict", pictures, "--model", path, "-o", out, "--save", "map")
    assert done.exit_code == 0, done.stderr
    for row, own in zip(rows((out / "predictions.jsonl").read_text()), fitted.stream(pictures, "nut"), strict=True):
        assert row["pred_score"] == pytest.approx(own.pred_score, abs=1e-4)
        saved = np.load((out / "map" / row["image_path"]).with_suffix(".npy"))
        assert np.abs(saved - own.anomaly_map).max() < 1e-4
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["bank"]["key"] == key
    assert "calibrate --model FILE" in record["guarantee"]
    assert Exported(ExportedModel(path)).describe()["banks"]["nut"]["key"] == key
    for options, message in (
        (("--class-name", "bolt", "--bank", bank), "bank: made for class name: 'nut', not 'bolt'"),
        (("--class-name", "nut", "--bank", bank, "--dtype", "int8"), "not quantised"),
        (("--class-name", "nut", "--bank", tmp_path / "none"), "the bank cannot be read"),
    ):
        refused = run("export", tmp_path / "other.onnx", *options)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "other.onnx").exists()


def test_broken_picture_is_left_out(run, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no picture")
    path = tmp_path / "bank.safetensors"
    result = run("fit", pictures, "--class-name", "nut", "-o", path)
    assert (result.exit_code, rows(result.stdout)[0]["failed"]) == (3, 1)
    assert Bank.load(path).pictures == 5


def test_what_is_wrong_is_told_before_a_model_is_loaded(run, pictures, tmp_path, bank):
    name = ("--class-name", "nut")
    out = ("-o", tmp_path / "new.safetensors")
    cases = {
        "at least 9 good pictures to take, got 5": ("fit", pictures, *name, *out, "--shots", 9),
        "no image in": ("fit", tmp_path / "deep", *name, *out),
        "share: expected a number above 0": ("fit", pictures, *name, *out, "--share", 0),
        "--class-name: expected what": ("fit", pictures, *out),
        "not a bank of this anovl": ("predict", pictures, *name, "--bank", pictures / "a.png"),
        "--share: needs --batched": ("predict", pictures, *name, "--share", 0.5),
        "leave out --resume": ("predict", pictures, *name, "--batched", "-o", tmp_path / "x", "--resume"),
        "goes with neither --bank nor --profile": ("predict", pictures, *name, "--batched", "--bank", bank),
        "needs the model itself": ("predict", pictures, *name, "--batched", "--model", "x.onnx"),
        "of `anovl export`": ("fit", pictures, *name, *out, "--model", "x.onnx"),
    }
    (tmp_path / "deep").mkdir()
    for message, arguments in cases.items():
        result = run(*arguments)
        assert result.exit_code == 2, message
        assert message in result.stderr
    for index in range(65):
        Image.new("RGB", (8, 8)).save(tmp_path / "deep" / f"{index}.png")
    assert "or let --shots draw some" in run("fit", tmp_path / "deep", *name, *out).stderr
    assert not (tmp_path / "new.safetensors").exists()


def test_batched(run, pictures, tmp_path, detector):
    out = tmp_path / "out"
    result = run("predict", pictures, "--class-name", "nut", "--batched", "-o", out)
    assert result.exit_code == 0, result.stderr
    own = [one.pred_score for one in detector.stream(pictures, "nut", batched=True)]
    found = rows((out / "predictions.jsonl").read_text())
    assert [row["pred_score"] for row in found] == pytest.approx(own, abs=1e-6)
    assert not any(row["calibrated"] for row in found)
    assert len(list((out / "overlay").rglob("*.png"))) == 5
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["batched"]["share"] == 1.0
    assert "depends on the other images" in record["guarantee"]
    some = run("--verbose", "predict", pictures, "--class-name", "nut", "--batched", "--share", 0.4)
    assert rows(some.stdout) != found
    assert some.stderr.count("weight of the distances: ") == 1
    alone = run("predict", pictures / "a.png", "--class-name", "nut", "--batched")
    assert alone.exit_code == 2
    assert "at least 2, got 1" in alone.stderr
    winclip = run("predict", pictures, "--class-name", "nut", "--batched", "--method", "winclip", "-o", tmp_path / "none")
    assert "'winclip' has no patch tokens" in winclip.stderr
    assert not (tmp_path / "none").exists()


def test_evaluate_with_shots(run, tmp_path):
    write_dataset(tmp_path / "drawn", ["washer", "marble"], per_class=4, train_per_class=3, seed=1, size=96, workers=1)
    arguments = ("evaluate", "folder", tmp_path / "drawn", "--method", "anovl", "--method", "winclip")
    result = run(*arguments, "--shots", 2, "-o", tmp_path / "two")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert [report["method"], report["others"][0]["method"]] == ["anovl+2shot", "winclip+2shot"]
    run_json = json.loads((tmp_path / "two" / "run.json").read_text())
    assert run_json["settings"]["variants"]["anovl+2shot"]["shots"] == 2
    assert run_json["settings"]["variants"]["anovl+2shot"]["few_shot"]["weight"] == "auto"
    plain = run("evaluate", "folder", tmp_path / "drawn", "-o", tmp_path / "none")
    assert json.loads((tmp_path / "none" / "report.json").read_text())["mean"] != report["mean"], plain.stderr
    batched = run("evaluate", "folder", tmp_path / "drawn", "--batched", "-o", tmp_path / "batched")
    assert batched.exit_code == 0, batched.stderr
    together = json.loads((tmp_path / "batched" / "report.json").read_text())
    assert together["method"] == "anovl+batched"
    assert together["mean"] not in (report["mean"], json.loads((tmp_path / "none" / "report.json").read_text())["mean"])
    few = run(*arguments, "--shots", 4, "-o", tmp_path / "four")
    assert few.exit_code == 2
    assert "marble, train: expected at least 4 good pictures to take, got 3" in few.stderr
    transmm = run("evaluate", "folder", tmp_path / "drawn", "--method", "transmm", "--shots", 1, "-o", tmp_path / "x")
    assert "'transmm' keeps nothing" in transmm.stderr
