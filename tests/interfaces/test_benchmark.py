"""anovl benchmark: the table, JSON, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from anovl.cli import app

STAGES = [
    "clip",
    "text",
    "decode",
    "resize",
    "copy",
    "class token",
    "local path",
    "score",
    "adaptation",
    "upsample",
    "row",
    "overlay",
    "png",
]


def run(*arguments, verb="adapt"):
    return CliRunner().invoke(app, ["benchmark", verb, *(str(argument) for argument in arguments)])


def test_stages_of_drawn_pictures():
    threads = torch.get_num_threads()
    result = run("--batch-size", 1, "--rounds", 1, "--device", "cpu", "--threads", 1, verb="stages")
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.stderr
    head, *lines = result.stdout.splitlines()
    assert head == "mini on cpu, 1 threads, a batch of 1, medians of 1 rounds"
    assert [line[:14].strip() for line in lines[1:]] == STAGES


def test_stages_of_own_images_as_json(golden_name, tmp_path):
    for index in range(2):
        Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 30 + index).save(tmp_path / f"{index}.png")
    command = [tmp_path, "--class-name", "nut", "--model", golden_name, "--device", "cpu", "--rounds", 2, "--json"]
    facts = json.loads(run(*command, verb="stages").stdout)
    assert (facts["batch"], facts["rounds"], facts["device"]) == (2, 2, "cpu")
    assert [row["name"] for row in facts["stages"]] == STAGES
    assert facts["stages"][0]["times_clip"] == 1
    assert all(row["milliseconds"] > 0 for row in facts["stages"] if row["name"] != "local path")


def test_table_of_adaptations_on_drawn_pictures():
    result = run("--batch-size", 2, "--rounds", 1, "--steps", 3, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    rows = {
        name: next(line for line in result.stdout.splitlines() if line.startswith(name))
        for name in ("paper", "released", "linear probe")
    }
    for name, line in rows.items():
        numbers = [float(part) for part in line.removeprefix(name).split()]
        assert len(numbers) == 5 + 3
        assert all(number > 0 for number in numbers)
    assert "training-free pass" in result.stdout


def test_json_of_own_images(golden_name, tmp_path):
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    command = [tmp_path, "--class-name", "nut", "--model", golden_name, "--rounds", 1, "--steps", 2, "--device", "cpu", "--json"]
    facts = json.loads(run(*command).stdout)
    assert facts["batch"] == 3
    paper, released, linear = facts["adaptations"]
    assert paper["state_mb"] == pytest.approx(3 * 4 * 924 * 48 / 1e6)
    assert released["state_mb"] == pytest.approx(3 * 4 * 924 * 49 / 1e6)
    assert linear["state_mb"] == pytest.approx(3 * 4 * 48 * 49 / 1e6)
    assert paper["losses"][0] == pytest.approx(3 * np.log(2) / 2, abs=0.02)  # scores near one half
    assert released["losses"][0] == pytest.approx(2 * np.log(2), abs=0.02)
    again = json.loads(run(*command).stdout)
    for one, other in zip(facts["adaptations"], again["adaptations"], strict=True):
        assert one["losses"] == other["losses"]
        assert one["score_change"] == other["score_change"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothere"], 2, "no such file or folder"),
        (["--steps", "-1"], 2, "adaptation steps"),
        (["--model", "local-dir:nothere"], 5, "nothere"),
        (["--rounds", "0"], 2, "rounds"),
    ],
)
@pytest.mark.parametrize("verb", ["adapt", "stages"])
def test_what_is_refused(arguments, code, message, verb):
    if verb == "stages" and "--steps" in arguments:
        arguments, message = ["--threads", "0"], "threads"
    result = run(*arguments, verb=verb)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_empty_folder(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "no image" in result.stderr
