"""`anovl evaluate` as a process: the files, the table, a kill in the middle, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.data.drawn import DRAWN
from typer.testing import CliRunner

from anovl.cli import app
from anovl.data.datasets import DATASETS
from anovl.data.synthetic.layout import write_dataset
from anovl.evaluation import FIGURES
from anovl.files import held_folder

COMMAND = [sys.executable, "-m", "anovl"]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--model", "mini", "--device", "cpu"])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, ["washer", "tile"], per_class=4, size=96)
    return folder


def test_table_on_stdout_and_files_in_the_folder(drawn, tmp_path):
    done = run("synthetic", drawn, "-o", tmp_path / "out", "--method", "anovl", "--method", "clip", "--bootstrap", "10")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines() if line]
    rows = ["washer", "tile", "mean,", "mean,", "mean"]
    assert [line[0] for line in lines] == ["anovl", *rows, "clip", *rows]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    shown = dict(zip(FIGURES, lines[5][2:], strict=True))
    assert shown == {name: f"{100 * report['mean'][name]:.1f}" for name in FIGURES}
    assert report["others"][0]["method"] == "clip"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.csv",
        "images.csv",
        "report.html",
        "run.json",
        "scores",
    }


def test_two_devices_measure_what_one_measures(drawn, golden_name, tmp_path, models_that_scored):
    rows = ("--method", "anovl+tta", "--category", "washer", "--batch-size", "1", "--model", golden_name)
    for device in ("cpu", "cpu,cpu"):
        arguments = ["evaluate", "synthetic", str(drawn), "-o", str(tmp_path / device), "--device", device, *rows]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert len(models_that_scored) == 1 + 2
    for name in ("report.json", "images.csv", "run.json", "scores/anovl+tta/washer.jsonl"):
        assert (tmp_path / "cpu,cpu" / name).read_bytes() == (tmp_path / "cpu" / name).read_bytes(), name


def test_a_second_run_into_a_folder_is_told_who_writes(drawn, tmp_path):
    with held_folder(tmp_path / "out"):
        done = run("synthetic", drawn, "-o", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert f"another run is writing there (process {os.getpid()} on " in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_seeds_show_their_spread(drawn, tmp_path):
    done = run("synthetic", drawn, "-o", tmp_path, "--adapt", "--seed", "0", "--seed", "1", "--limit", "2")
    assert done.exit_code == 0, done.output
    assert "anovl+tta" in done.stdout
    assert " ± " in done.stdout.splitlines()[-2]


@pytest.mark.slow
def test_the_same_report_after_a_kill(drawn, tmp_path):
    """SIGKILL as soon as some images are scored; the same command with --resume gives the report of a run that was let be."""
    command = [*COMMAND, "evaluate", "synthetic", str(drawn), "--model", "mini", "--batch-size", "1", "--workers", "1"]
    command += ["--method", "winclip", "--method", "anovl+tta"]
    subprocess.run([*command, "-o", tmp_path / "whole"], check=True, capture_output=True)
    killed = subprocess.Popen([*command, "-o", tmp_path / "killed"], stderr=subprocess.PIPE)
    rows = tmp_path / "killed" / "scores" / "winclip" / "washer.jsonl"
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 2):
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "report.json").exists()
    refused = subprocess.run([*command, "-o", tmp_path / "killed"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    subprocess.run([*command, "-o", tmp_path / "killed", "--resume"], check=True, capture_output=True)
    for name in ("report.json", "report.csv", "images.csv", "report.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_list_of_data_sets(tmp_path):
    done = run("--list")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(DATASETS)
    assert "CC BY-NC-SA 4.0" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["mvtec"], 2, "expected a data set and its folder"),
        (["mvtek", "."], 2, "did you mean 'mvtec'"),
        (["mvtec", "nowhere"], 2, "nowhere"),
        (["synthetic", "DRAWN", "--category", "tyle"], 2, "tile"),
        (["synthetic", "DRAWN", "--method", "winclp"], 2, "did you mean 'winclip'"),
        (["synthetic", "DRAWN", "--method", "winclip+tta"], 2, "no test-time adaptation"),
        (["synthetic", "DRAWN", "--method", "clip", "--method", "clip"], 2, "expected each once"),
        (["synthetic", "DRAWN", "--resolution", "full"], 2, "resolution"),
        (["synthetic", "DRAWN", "--seed", "-1"], 2, "seed"),
        (["synthetic", "DRAWN", "--limit", "0"], 2, "limit"),
    ],
)
def test_wrong_usage_is_told_in_a_line_before_anything_is_loaded(arguments, code, says, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anovl.detector.AnoVL.from_pretrained", lambda *_args, **_more: pytest.fail("a model was loaded"))
    done = run(*(str(drawn) if one == "DRAWN" else one for one in arguments), "-o", tmp_path / "out")
    assert done.exit_code == code, done.output
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the project")
@pytest.mark.parametrize(("name", "auroc"), [("hazelnut", 0.9), ("magnetic_tile", 0.6)])
def test_real_images(name, auroc, tmp_path):
    done = run("folder", SHARED / name, "-o", tmp_path, "--limit", "30")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["categories"][name]["class_name"] == name.replace("_", " ")
    assert report["mean"]["pixel_auroc"] > auroc


@pytest.mark.parametrize("name", DRAWN)
def test_every_data_set_in_its_layout(name, tmp_path):
    root = DRAWN[name](tmp_path / "data")
    done = run(name, root, "-o", tmp_path / "out", "--limit", "4")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for category in report["categories"].values():
        assert category["image_auroc"] is not None
        assert category["pixel_pro"] is not None or "pixel_pro" in category["reasons"]
