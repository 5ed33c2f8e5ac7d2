"""anovl export and predict with what it wrote, in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl.cli import app


def anovl(*arguments, **options):
    command = [sys.executable, "-m", "anovl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def in_process(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """mini with one class as an .onnx, and the JSON line of the export."""
    path = tmp_path_factory.mktemp("file") / "part.onnx"
    done = anovl("export", path, "--class-name", "metal nut", "--model", "mini", "--threshold", "0.4", "--check")
    assert done.returncode == 0, done.stderr
    return path, json.loads(done.stdout)


def rows(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_the_line_that_export_prints(part):
    path, line = part
    assert line["path"] == str(path)
    assert line["bytes"] == path.stat().st_size
    assert line["largest_difference"] < 1e-4
    assert line["classes"] == ["metal nut"]
    assert line["loss"] is None
    assert line["model"]["name"] == "mini"
    assert [file.name for file in path.parent.iterdir()] == ["part.onnx"]


def test_predict_gives_what_torch_gives(part, pictures, tmp_path):
    path, _ = part
    settings = ("--save", "overlay,map", "--format", "csv")
    script = """
import sys
from anovl.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([m for m in ("torch", "open_clip") if m in sys.modules])
"""
    command = [sys.executable, "-c", script, "predict", pictures, "--model", path, "-o", tmp_path / "file", *settings]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    usual = in_process(
        "predict",
        pictures,
        "--model",
        "mini",
        "--class-name",
        "metal nut",
        "--threshold",
        "0.4",
        "-o",
        tmp_path / "usual",
        *settings,
    )
    assert usual.exit_code == 0, usual.stderr
    trees = [
        sorted(file.relative_to(tmp_path / name).as_posix() for file in (tmp_path / name).rglob("*") if file.is_file())
        for name in ("file", "usual")
    ]
    assert trees[0] == trees[1]
    for got, expected in zip(rows(tmp_path / "file"), rows(tmp_path / "usual"), strict=True):
        assert got.keys() == expected.keys()
        assert got["pred_score"] == pytest.approx(expected["pred_score"], abs=1e-4)
        for key in ("image_path", "image_size", "class_name", "threshold", "map_size"):
            assert got[key] == expected[key]
    run = json.loads((tmp_path / "file" / "run.json").read_text())
    assert run["settings"]["exported"]["classes"] == ["metal nut"]
    assert set(run["settings"]["model"]["sha256"]) == {".onnx"}
    own = json.loads((tmp_path / "usual" / "run.json").read_text())
    assert run["settings"]["prompts_sha256"] == own["settings"]["prompts_sha256"]
    again = in_process("predict", pictures, "--model", path, "-o", tmp_path / "file", *settings, "--resume")
    assert again.exit_code == 0
    assert "0 scored" in again.stderr
    other = in_process("predict", pictures, "--model", path, "-o", tmp_path / "file", *settings, "--resume", "--threshold", "0.3")
    assert other.exit_code == 2
    assert "threshold" in other.stderr


def test_predict_prints_rows_and_plans(part, pictures):
    path, _ = part
    done = in_process("predict", pictures / "a.png", "--model", path, "--class-name", "metal nut")
    assert json.loads(done.stdout)["class_name"] == "metal nut"
    plan = json.loads(in_process("predict", pictures, "--model", path, "--dry-run").stdout)
    assert (plan["images"], plan["threshold"], plan["class_name"]) == (5, 0.4, "metal nut")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "paper"], "--recipe: decided when part.onnx was exported"),
        (["--state", "whole|torn", "--image-size", "96"], "--state, --image-size: decided"),
        (["--method", "clip"], "--method: decided"),
        (["--adapt"], "exported without the adaptation"),
        (["--adapt", "--seed", "1"], "--seed: decided"),
        (["--class-name", "leather"], "unknown class of the exported file 'leather'"),
        (["--dtype", "bf16"], "computes as the file says"),
        (["--output-size", "large"], "unknown output size"),
    ],
)
def test_options_that_do_not_apply(part, pictures, options, message):
    done = in_process("predict", pictures, "--model", part[0], *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_other_models_need_a_class_name(pictures):
    done = in_process("predict", pictures, "--model", "mini")
    assert done.exit_code == 2
    assert "--class-name" in done.stderr


def test_files_that_are_no_models(pictures, tmp_path):
    (tmp_path / "a.onnx").write_text("text")
    assert in_process("predict", pictures, "--model", tmp_path / "a.onnx").exit_code == 1
    assert in_process("predict", pictures, "--model", tmp_path / "none.xml").exit_code == 1
    assert in_process("predict", pictures, "--model", tmp_path / "a.pt2").exit_code == 2


def test_a_missing_extra_is_exit_code_5(part, pictures, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert in_process("predict", pictures, "--model", part[0]).exit_code == 5
    done = in_process("export", tmp_path / "a.onnx", "--class-name", "nut", "--model", "mini")
    assert done.exit_code == 5
    assert "anovl[onnx]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.bin"], "ends in .onnx, .xml, .pt2"),
        (["a.onnx", "--format", "openvino"], "ends in .xml"),
        (["a.onnx", "--format", "tflite"], "unknown format 'tflite'"),
        (["a.onnx", "--dtype", "int4"], "unknown dtype of an export 'int4'"),
        (["a.onnx", "--calibration", "here"], "--calibration: needs --dtype int8"),
        (["a.onnx", "--seed", "2"], "--seed: needs --adapt"),
        (["a.pt2", "--dtype", "int8"], "fp32 alone"),
        (["a.onnx", "--method", "winclip", "--adapt"], "no test-time adaptation"),
    ],
)
def test_exports_that_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = in_process("export", *arguments, "--class-name", "nut", "--model", "mini")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_int8_says_what_it_costs(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "good" / f"{index}.png")
    arguments = ("--class-name", "metal nut", "--model", "mini", "--dtype", "int8", "--calibration", tmp_path / "good")
    done = anovl("export", tmp_path / "part.xml", *arguments)
    assert done.returncode == 0, done.stderr
    assert "image AUROC on drawn pictures" in done.stderr
    before, after = json.loads(done.stdout)["loss"]["pixel_auroc"]
    assert abs(before - after) < 0.05
