"""`anovl reproduce`: the tables and figures on a reduced drawn set, and what cannot be computed."""

import json
import os
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl.cli import app
from anovl.files import held_folder
from anovl.reproduction import TABLES

SMALL = (
    "--synthetic",
    "--limit",
    "4",
    "--category",
    "washer",
    "--category",
    "tile",
    "--model",
    "mini-captions",
    "--device",
    "cpu",
)


def run(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "table7")) for name in TABLES])
def test_a_table(name, tmp_path):
    done = run(name, *SMALL, "-o", tmp_path, "--seeds", "2")
    assert done.exit_code == 0, done.output
    (result,) = json.loads((tmp_path / f"{name}.json").read_text())["results"]
    rows = {row["label"]: row for row in result["rows"]}
    assert list(rows) == [row.label for row in TABLES[name].rows]
    for row in TABLES[name].rows:
        values = rows[row.label]["values"]
        if row.method:
            assert all(value is not None and value[0] > 0 for value in values), row.label
            spread = [value[1] for value in values]
            assert all(std is not None for std in spread[:3]) == row.adapt
        else:
            assert values == [None] * len(values)
            assert "full-shot" in rows[row.label]["reason"] or "good images" in rows[row.label]["reason"]
    text = (tmp_path / f"{name}.md").read_text()
    assert text.strip() == done.stdout.strip()
    first = TABLES[name].rows[-1]
    ours, paper = rows[first.label]["values"][0][0], first.published["mvtec"][0][0]
    assert f"{ours - paper:+.1f}" in text
    assert "other pictures than these" in text


def test_the_map_figure(tmp_path):
    done = run("fig4", *SMALL, "-o", tmp_path, "--seeds", "1")
    assert done.exit_code == 0, done.output
    picture = Image.open(done.stdout.strip())
    assert picture.width == 2 * 246 + 6
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (0, 230, 90) in colours


@pytest.mark.slow
def test_the_steps_figure(tmp_path):
    done = run("fig5", *SMALL[:5], "--model", "mini-captions", "-o", tmp_path, "--seeds", "2")
    assert done.exit_code == 0, done.output
    points = json.loads((tmp_path / "fig5-synthetic-mini-captions.json").read_text())["points"]
    assert [point["steps"] for point in points] == [0, 1, 2, 3, 4, 5, 7, 10, 15, 20]
    assert points[0]["std"] == {}
    assert points[-1]["pixel_auroc"] != points[0]["pixel_auroc"]
    text = (tmp_path / "fig5-synthetic-mini-captions.svg").read_text()
    assert re.findall(r"<title>(\w+)</title>", text) == ["AUROC", "F1max", "PRO"]


def test_the_tokens_figure(tmp_path):
    pytest.importorskip("sklearn")
    done = run("fig6", *SMALL, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    before, after = (tmp_path / f"fig6-synthetic-mini-captions-{kind}.svg" for kind in ("tfa", "tta"))
    assert before.read_text().count("<circle") == after.read_text().count("<circle") == 225


def test_the_tokens_figure_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    done = run("fig6", *SMALL, "-o", tmp_path)
    assert done.exit_code == 5
    assert "anovl[reproduce]" in done.stderr


def test_a_run_goes_on(tmp_path):
    assert run("table3", *SMALL, "-o", tmp_path).exit_code == 0
    first = (tmp_path / "table3.json").read_bytes()
    assert run("table3", *SMALL, "-o", tmp_path).exit_code == 2
    assert run("table3", *SMALL, "-o", tmp_path, "--resume").exit_code == 0
    assert (tmp_path / "table3.json").read_bytes() == first


def test_a_second_run_into_a_folder_is_told_who_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("anovl.detector.AnoVL.from_pretrained", lambda *_args, **_more: pytest.fail("a model was loaded"))
    with held_folder(tmp_path):
        done = run("table3", *SMALL, "-o", tmp_path)
    assert done.exit_code == 1, done.output
    assert f"another run is writing there (process {os.getpid()} on " in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table9", "--synthetic"], "did you mean"),
        (["table1"], "--data"),
        (["table1", "--synthetic", "--data", "mvtec=x"], "--synthetic"),
        (["table1", "--data", "mvtec"], "DATASET=ROOT"),
        (["table1", "--data", "mvtec=nowhere"], "nowhere"),
        (["table1", "--synthetic", "--category", "wosher"], "washer"),
        (["table6", "--synthetic", "--dtd", "x"], "--full-shot"),
        (["table1", "--synthetic", "--resolution", "full"], "resolution"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "-o", "out")
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert "Traceback" not in done.output
