"""--device with several: the same rows as with one, and the verbs that take one alone."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl.cli import app


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """23 noisy pictures of different sizes."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for index in range(23):
        pixels = rng.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def run(golden_name, monkeypatch):
    """run("predict", ..., device) with the golden model; returns click's result."""
    monkeypatch.setenv("ANOVL_MODEL", golden_name)

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def rows(text):
    """Lines of predictions without the one thing that no two runs share."""
    found = [json.loads(line) for line in text.splitlines()]
    for row in found:
        del row["timings_ms"]
    return [json.dumps(row) for row in found]


def test_the_same_rows_and_maps_as_on_one_device(run, parts, tmp_path, models_that_scored):
    command = ("predict", parts, "--class-name", "nut", "--save", "map", "--batch-size", "4", "--adapt")
    for device in ("cpu", "cpu,cpu"):
        done = run(*command, "--device", device, "-o", tmp_path / device)
        assert done.exit_code == 0, done.stderr
    assert len(models_that_scored) == 1 + 2
    one, two = tmp_path / "cpu", tmp_path / "cpu,cpu"
    assert rows((two / "predictions.jsonl").read_text()) == rows((one / "predictions.jsonl").read_text())
    for path in (one / "map").iterdir():
        np.testing.assert_allclose(np.load(two / "map" / path.name), np.load(path), atol=1e-6, rtol=0)
    records = [json.loads((folder / "run.json").read_text()) for folder in (one, two)]
    assert [record["device"] for record in records] == ["cpu", "cpu,cpu"]
    assert records[0]["settings"] == records[1]["settings"]


def test_a_run_goes_on_with_another_number_of_devices(run, parts, tmp_path):
    command = ("predict", "--class-name", "nut", "--save", "none", "--batch-size", "4", "-o", tmp_path / "out")
    assert run(*command, parts, "--device", "cpu").exit_code == 0
    working = tmp_path / "out" / "predictions.jsonl"
    working.write_text("".join(working.read_text().splitlines(keepends=True)[:8]))  # as if stopped there
    done = run(*command, parts, "--device", "cpu,cpu", "--resume")
    assert done.exit_code == 0, done.stderr
    assert "15 scored" in done.stderr
    assert len(working.read_text().splitlines()) == 23
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [(one["first_row"], one["device"]) for one in record["runs"]] == [(0, "cpu"), (8, "cpu,cpu")]


def test_the_same_thresholds_as_on_one_device(run, parts, tmp_path, models_that_scored):
    for device in ("cpu", "cpu,cpu"):
        done = run(
            "calibrate", parts, "--class-name", "nut", "--fpr", "0.1", "--device", device, "-o", tmp_path / f"{device}.json"
        )
        assert done.exit_code == 0, done.stderr
    assert len(models_that_scored) == 1 + 2
    assert (tmp_path / "cpu,cpu.json").read_text() == (tmp_path / "cpu.json").read_text()


@pytest.mark.parametrize("verb", [["serve"], ["ui"], ["benchmark", "stages"], ["benchmark", "adapt"]])
@pytest.mark.parametrize("device", ["cpu,cpu", "all"])
def test_verbs_with_one_device(run, verb, device):
    done = run(*verb, "--device", device)
    assert done.exit_code == 2, done.output
    assert f"expected one device, got {device}; predict" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_cluster_has_its_own_option_for_it(run, verb, parts, tmp_path):
    done = run(verb, *(["folder"] if verb == "evaluate" else []), parts, "--engine", "ray", "--device", "cpu,cpu", "-o", tmp_path)
    assert done.exit_code == 2, done.output
    assert "--actors says how many" in done.stderr


def test_an_exported_file_computes_on_one_device(run, parts, tmp_path):
    (tmp_path / "part.onnx").touch()
    done = run("predict", parts, "--model", tmp_path / "part.onnx", "--device", "cpu,cpu")
    assert done.exit_code == 2, done.output
    assert "part.onnx computes on one device" in done.stderr


@pytest.mark.parametrize(
    ("device", "says"), [("cpu,", "got 'cpu,'"), ("cpu,gpu", "unknown device 'gpu'"), ("auto,cpu", "'auto' picks")]
)
def test_what_is_no_device_is_told_before_the_model_is_loaded(run, device, says, parts, monkeypatch):
    monkeypatch.setattr("anovl.detector.AnoVL.from_pretrained", lambda *_args, **_more: pytest.fail("a model was loaded"))
    done = run("predict", parts, "--class-name", "nut", "--device", device)
    assert done.exit_code == 2, done.output
    assert says in done.stderr
