"""anovl calibrate, and predict and export with what it wrote."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from anovl import ExportedModel
from anovl.profiles import Profile


@pytest.fixture(scope="module")
def made_before():
    return {}


@pytest.fixture
def profile(run, pictures, tmp_path, made_before):
    """A profile of the five pictures, at one false alarm in five."""
    path = tmp_path / "profile.json"
    if not made_before:  # the pictures are the same in every test
        result = run("calibrate", pictures, "--class-name", "nut", "--fpr", "0.2", "-o", path)
        assert result.exit_code == 0, result.stderr
        made_before["text"] = path.read_text()
    path.write_text(made_before["text"])
    return path


def rows(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def leftovers(folder):
    return [path.name for path in folder.rglob(".anovl-*")]


def test_line_words_and_file(run, pictures, tmp_path, detector):
    path = tmp_path / "deep" / "profile.json"
    result = run("calibrate", pictures, "--class-name", "nut", "--fpr", "0.1", "-o", path)
    assert result.exit_code == 0, result.stderr
    line = json.loads(result.stdout)
    assert (line["path"], line["pictures"], line["failed"], line["measured"]) == (str(path), 5, 0, None)
    assert line["guaranteed"] == pytest.approx(1 / 6)
    assert "at most 16.7 %" in result.stderr
    assert "The 10 % asked for needs 9 good pictures" in result.stderr
    read = Profile.load(path)
    own = detector.calibrate(pictures, "nut", fpr=0.1)
    assert (read.image_threshold, read.pixel_threshold) == pytest.approx((own.image_threshold, own.pixel_threshold), abs=1e-5)
    assert not own.origin.differences(read.origin)
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]
    again = run("calibrate", pictures, "--class-name", "nut", "-o", path)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert run("-q", "calibrate", pictures, "--class-name", "nut", "-o", path, "--overwrite").stderr == ""
    assert Profile.load(path).fpr == 0.01


def test_predict_decides_by_the_profile(run, pictures, profile, tmp_path):
    out, made = tmp_path / "out", Profile.load(profile)
    arguments = ("predict", pictures, "--class-name", "nut", "-o", out, "--save", "mask", "--profile")
    result = run(*arguments, profile, "--format", "csv")
    assert result.exit_code == 0, result.stderr
    assert "0 anomalous" in result.stderr
    for row in rows(out):
        assert row["calibrated"] is True
        assert (row["threshold"], row["pixel_threshold"]) == (made.image_threshold, made.pixel_threshold)
        assert row["regions"] == []
        assert not np.asarray(Image.open(out / "mask" / f"{row['image_path'].rsplit('.', 1)[0]}.png")).any()
    assert "pixel_threshold,calibrated,probability" in (out / "predictions.csv").read_text().splitlines()[0]
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["profile"] == made.summary()
    assert record["guarantee"] == made.guarantee()
    other = tmp_path / "other.json"
    assert run("calibrate", pictures, "--class-name", "nut", "--fpr", "0.4", "-o", other).exit_code == 0
    resumed = run(*arguments, other, "--resume")
    assert resumed.exit_code == 2
    assert "profile.image_threshold: was" in resumed.stderr
    assert "0 scored" in run(*arguments, profile, "--resume").stderr


def test_without_a_profile_a_run_is_marked(run, pictures, tmp_path):
    assert run("predict", pictures, "--class-name", "nut", "-o", tmp_path / "out", "--save", "none").exit_code == 0
    assert {(row["calibrated"], row["threshold"], row["pixel_threshold"]) for row in rows(tmp_path / "out")} == {
        (False, 0.5, 0.5)
    }
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["profile"] is None
    assert record["guarantee"].startswith("none: without a profile")


def test_profile_in_a_plan(run, pictures, profile):
    plan = json.loads(run("predict", pictures, "--class-name", "nut", "--profile", profile, "--dry-run").stdout)
    assert plan["profile"] == Profile.load(profile).summary()
    assert plan["threshold"] == plan["profile"]["image_threshold"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class-name", "bolt"], "class name: 'nut', not 'bolt'"),
        (["--recipe", "paper"], "recipe name"),
        (["--method", "clip"], "method: 'anovl', not 'clip'"),
        (["--adapt"], "adaptation: none, not with seed 0"),
        (["--defect", "dent"], "words defects"),
        (["--output-size", "input"], "recipe output_size"),
        (["--decode", "reduced"], "recipe decode"),
        (["--dtype", "bf16"], "precision"),
        (["--threshold", "0.5"], "--threshold and --profile"),
    ],
)
def test_profile_of_something_else(run, pictures, profile, options, message):
    given = options if "--class-name" in options else ["--class-name", "nut", *options]
    result = run("predict", pictures, "--profile", profile, *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_torn_profile(run, pictures, profile):
    profile.write_bytes(profile.read_bytes()[:-40])
    result = run("predict", pictures, "--class-name", "nut", "--profile", profile)
    assert result.exit_code == 2
    assert f"{profile}: not a profile" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_broken_files_are_left_out(run, pictures, tmp_path):
    (pictures / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    result = run("calibrate", pictures, "--class-name", "nut", "-o", tmp_path / "profile.json")
    assert result.exit_code == 3
    assert "skipped" in result.stderr
    assert "b.jpg" in result.stderr
    assert "1 failed and were left out" in result.stderr
    line = json.loads(result.stdout)
    assert (line["pictures"], line["failed"]) == (4, 1)
    assert Profile.load(tmp_path / "profile.json").pictures == 4


@pytest.mark.parametrize("choose", ["conformal", "f1", "cost"])
def test_labelled_pictures(run, pictures, tmp_path, choose):
    bad = tmp_path / "bad"
    bad.mkdir()
    for level in (0, 255):
        Image.new("RGB", (64, 64), (level, level, level)).save(bad / f"{level}.png")
    costs = ["--cost-miss", "20"] if choose == "cost" else []
    path = tmp_path / "profile.json"
    arguments = ("--class-name", "nut", "--bad", bad, "--choose", choose, *costs, "-o", path)
    result = run("calibrate", pictures, *arguments)
    assert result.exit_code == 0, result.stderr
    made = Profile.load(path)
    assert (made.choice, made.measured.good, made.measured.bad) == (choose, 5, 2)
    assert made.temperature > 0
    assert f"misses {made.measured.missed} of 2 bad ones" in result.stderr
    if choose == "cost":
        assert made.measured.missed == 0
    row = json.loads(run("predict", bad / "0.png", "--class-name", "nut", "--profile", path).stdout)
    assert row["probability"] == pytest.approx(made.probability(row["pred_score"]))


WRONG = {
    "no class name": (["{pictures}"], 2, "--class-name"),
    "empty folder": (["{empty}", "--class-name", "nut"], 2, "no image in"),
    "missing folder": (["{empty}/absent", "--class-name", "nut"], 2, "no such file or folder"),
    "nothing on stdin": (["-", "--class-name", "nut"], 2, "no path came on stdin"),
    "all broken": (["{broken}", "--class-name", "nut"], 2, "at least one good picture, got none"),
    "rate 0": (["{pictures}", "--class-name", "nut", "--fpr", "0"], 2, "between 0 and 1"),
    "rate 1": (["{pictures}", "--class-name", "nut", "--fpr", "1"], 2, "between 0 and 1"),
    "rate NaN": (["{pictures}", "--class-name", "nut", "--fpr", "nan"], 2, "between 0 and 1"),
    "rate no number": (["{pictures}", "--class-name", "nut", "--fpr", "low"], 2, "--fpr"),
    "unknown choice": (["{pictures}", "--class-name", "nut", "--choose", "f2", "--bad", "{pictures}"], 2, "unknown choice 'f2'"),
    "f1 without labels": (["{pictures}", "--class-name", "nut", "--choose", "f1"], 2, "--bad FOLDER"),
    "empty bad": (["{pictures}", "--class-name", "nut", "--bad", "{empty}"], 2, "no image in"),
    "cost for nothing": (["{pictures}", "--class-name", "nut", "--cost-miss", "2"], 2, "needs --choose cost"),
    "cost 0": (
        ["{pictures}", "--class-name", "nut", "--bad", "{pictures}", "--choose", "cost", "--cost-alarm", "0"],
        2,
        "above 0",
    ),
    "unknown decode": (["{pictures}", "--class-name", "nut", "--decode", "half"], 2, "unknown decode"),
    "seed for nothing": (["{pictures}", "--class-name", "nut", "--seed", "1"], 2, "needs --adapt"),
    "absent model": (["{pictures}", "--class-name", "nut", "--model", "local-dir:{empty}/absent"], 5, "no such folder"),
    "output is a folder": (["{pictures}", "--class-name", "nut", "-o", "{empty}"], 2, "is there already"),
    "output in a file": (["{pictures}", "--class-name", "nut", "-o", "{pictures}/a.png/p.json"], 1, "cannot be written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage(run, pictures, tmp_path, case):
    arguments, code, message = WRONG[case]
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    places = {"pictures": pictures, "empty": tmp_path / "empty", "broken": tmp_path / "broken"}
    filled = [argument.format(**places) for argument in arguments]
    result = run("calibrate", *filled, *([] if "-o" in filled else ["-o", tmp_path / "profile.json"]), stdin="")
    assert result.exit_code == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "profile.json").exists()
    assert leftovers(tmp_path) == []


def test_one_picture(run, pictures, tmp_path):
    result = run("calibrate", pictures / "a.png", "--class-name", "nut", "-o", tmp_path / "profile.json")
    assert result.exit_code == 0
    assert "at most 50 %" in result.stderr


def test_paths_on_stdin(run, pictures, tmp_path):
    listed = f"{pictures / 'a.png'}\n{pictures / 'b.jpg'}\n"
    result = run("calibrate", "-", "--class-name", "nut", "-o", tmp_path / "profile.json", stdin=listed)
    assert json.loads(result.stdout)["pictures"] == 2


def test_interrupt_leaves_nothing(golden_name, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(800):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{index:04d}.png", compress_level=0)
    (folder / "0000.png").write_bytes(b"")  # its warning tells that scoring has begun
    command = ["calibrate", str(folder), "--class-name", "nut", "--model", golden_name, "-o", str(tmp_path / "profile.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "anovl", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "skipped" in line:
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines() == ["anovl: interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == ["many"]


@pytest.mark.slow
def test_exported_file(run, pictures, tmp_path):
    file, path = tmp_path / "nut.onnx", tmp_path / "profile.json"
    wood = ("--class-name", "wood", "--model", "mini")
    assert run("calibrate", pictures, *wood, "--fpr", "0.2", "-o", path).exit_code == 0
    for options, message in (
        (["--class-name", "nut", "--model", "mini"], "class name: 'wood', not 'nut'"),
        ([*wood, "--class-name", "nut"], "class name: 'wood', not 'nut'"),
        ([*wood, "--dtype", "int8"], "calibrate the exported file instead"),
        ([*wood, "--threshold", "0.5"], "--threshold and --profile"),
    ):
        refused = run("export", file, *options, "--profile", path)
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert not file.exists()
    result = run("export", file, *wood, "--profile", path)
    assert result.exit_code == 0, result.stderr
    made = Profile.load(path)

    def predicted(*options):
        result = run("predict", pictures / "a.png", "--model", file, *options)
        assert result.exit_code == 0, result.stderr
        row = json.loads(result.stdout)
        return row["threshold"], row["pixel_threshold"], row["calibrated"]

    assert predicted() == (made.image_threshold, made.pixel_threshold, True)
    assert predicted("--threshold", "0.5") == (0.5, 0.5, False)
    assert predicted("--threshold", "0.5", "--output-size", "input") == (0.5, 0.5, False)
    refused = run("predict", pictures / "a.png", "--model", file, "--output-size", "input")
    assert refused.exit_code == 2
    assert "recipe output_size" in refused.stderr
    model = ExportedModel(file)
    own = model.calibrate(pictures, fpr=0.4)
    assert model.with_profile(own).predict(pictures / "a.png").threshold == own.image_threshold
    script = """
import sys
from anovl.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([m for m in ("torch", "open_clip") if m in sys.modules])
"""
    other = tmp_path / "other.json"
    command = [sys.executable, "-c", script, "calibrate", pictures, "--model", file, "--fpr", "0.4", "-o", other]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert Profile.load(other) == own
    assert predicted("--profile", other) == (
        *(getattr(Profile.load(other), f"{kind}_threshold") for kind in ("image", "pixel")),
        True,
    )
