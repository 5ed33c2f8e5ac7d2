"""--tile, --tile-overlap and --crop of predict, calibrate and evaluate."""

import json

import numpy as np
import pytest
from PIL import Image

from anovl.config import Tiling


@pytest.fixture
def parts(tmp_path):
    """A part on a plain ground, and a surface: 70 x 120 px."""
    folder = tmp_path / "parts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    surface = rng.integers(60, 200, (70, 120, 3), dtype=np.uint8)
    Image.fromarray(surface).save(folder / "surface.png")
    part = np.full_like(surface, 20)
    part[20:50, 10:60] = surface[20:50, 10:60]
    Image.fromarray(part).save(folder / "part.png")
    return folder


def test_predict_tiles_and_crop(run, parts, tmp_path, detector):
    out = tmp_path / "out"
    options = ["--class-name", "nut", "--tile", "60", "--crop", "foreground", "-o", out, "--save", "map"]
    result = run("predict", parts, *options)
    assert result.exit_code == 0, result.stderr
    rows = {row["image_path"]: row for row in map(json.loads, (out / "predictions.jsonl").read_text().splitlines())}
    tiling = Tiling(sides=(60,), crop="foreground")
    for name in ("part.png", "surface.png"):
        expected = detector.predict(parts / name, "nut", tiles=tiling)
        assert abs(rows[name]["pred_score"] - expected.pred_score) < 1e-5
        saved = np.load(out / "map" / name.replace("png", "npy"))
        assert saved.shape == (70, 120)
        assert np.abs(saved - expected.anomaly_map).max() < 1e-5
    assert not np.load(out / "map/part.npy")[:, 90:].any()  # outside of the crop
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["recipe"]["tiling"] == {"sides": [60], "overlap": 0.25, "crop": "foreground"}
    same = run("predict", parts, *options, "--resume")
    assert same.exit_code == 0, same.stderr
    assert "0 scored" in same.stderr
    for other in (["--tile", "48", "--crop", "foreground"], ["--tile", "60"], ["--tile", "60", "--tile-overlap", "0.5"], []):
        refused = run("predict", parts, "--class-name", "nut", *other, "-o", out, "--save", "map", "--resume")
        assert refused.exit_code == 2
        assert "tiling" in refused.stderr


def test_a_profile_holds_for_its_tiles(run, parts, tmp_path):
    profile = tmp_path / "profile.json"
    made = run("calibrate", parts, "--class-name", "nut", "--tile", "60", "-o", profile)
    assert made.exit_code == 0, made.stderr
    assert json.loads(profile.read_text())["origin"]["recipe"]["tiling"]["sides"] == [60]
    fits = run("predict", parts, "--class-name", "nut", "--tile", "60", "--profile", profile)
    assert fits.exit_code == 0, fits.stderr
    assert all(json.loads(line)["calibrated"] for line in fits.stdout.splitlines())
    refused = run("predict", parts, "--class-name", "nut", "--profile", profile)
    assert refused.exit_code == 2
    assert "tiling" in refused.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tile-overlap", "0.5"], "--tile"),
        (["--tile", "8"], "at least 32"),
        (["--tile", "60", "--tile", "60"], "each once"),
        (["--tile", "60", "--decode", "reduced"], "full size"),
        (["--crop", "part"], "foreground"),
    ],
)
def test_wrong_usage(run, parts, options, told):
    result = run("predict", parts, "--class-name", "nut", *options, "--model", "no-such:model")  # before a model is looked for
    assert result.exit_code == 2
    assert told in result.stderr


def test_evaluate_records_the_tiles(run, tmp_path):
    folder = tmp_path / "nut/test"
    for kind, value in (("good", 90), ("spot", 250)):
        (folder / kind).mkdir(parents=True)
        pixels = np.full((48, 80, 3), 90, np.uint8)
        pixels[20:26, 50:56] = value
        Image.fromarray(pixels).save(folder / kind / "0.png")
    mask = np.zeros((48, 80), np.uint8)
    mask[20:26, 50:56] = 255
    (tmp_path / "nut/ground_truth/spot").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "nut/ground_truth/spot/0_mask.png")
    options = ["evaluate", "folder", tmp_path / "nut", "-o", tmp_path / "out", "--resolution", "original", "--tile", "40"]
    result = run(*options)
    assert result.exit_code == 0, result.stderr
    settings = json.loads((tmp_path / "out/run.json").read_text())
    assert '"sides": [40]' in json.dumps(settings)
    assert run(*options[:-1], "48", "--resume").exit_code == 2
