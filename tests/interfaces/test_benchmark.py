"""anovl benchmark: the table, JSON, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["benchmark", "adapt", *(str(argument) for argument in arguments)])


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
def test_what_is_refused(arguments, code, message):
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_empty_folder(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "no image" in result.stderr
