"""The command line, verb by verb, inside this process; what needs a process of its own is in test_process.py."""

import csv
import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl import AnoVL
from anovl.cli import app


@pytest.fixture
def run(golden_name, monkeypatch):
    """run("predict", ...) with the golden model unless another is named; returns click's result."""
    monkeypatch.setenv("ANOVL_MODEL", golden_name)
    monkeypatch.setenv("ANOVL_DEVICE", "cpu")

    def call(*arguments, stdin=None, env=None):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, env=env)

    return call


def rows(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_folder_in_folder_out(run, pictures, tmp_path, detector):
    out = tmp_path / "out"
    result = run("predict", pictures, "--class-name", "nut", "-o", out, "--save", "overlay,heatmap,mask,map")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert "5 scored" in result.stderr
    names = ["a", "b", "deep/c", "deep/er/d", "e"]
    expected = [f"{kind}/{name}.png" for kind in ("heatmap", "mask", "overlay") for name in names]
    assert tree(out) == sorted([*expected, *(f"map/{name}.npy" for name in names), "predictions.jsonl", "run.json"])
    found = rows(out)
    assert [row["image_path"] for row in found] == ["a.png", "b.jpg", "e.tif", "deep/c.bmp", "deep/er/d.webp"]
    for row in found:
        assert {"image_path", "class_name", "pred_score", "pred_label", "threshold", "regions", "timings_ms"} <= row.keys()
        own = detector.predict(pictures / row["image_path"], "nut")
        assert row["pred_score"] == pytest.approx(own.pred_score, abs=1e-5)
        saved = np.load(out / "map" / f"{row['image_path'].rsplit('.', 1)[0]}.npy")
        assert np.abs(saved - own.anomaly_map).max() < 1e-5
        assert Image.open(out / "mask" / f"{row['image_path'].rsplit('.', 1)[0]}.png").size == own.image_size[::-1]
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "done"
    assert record["counts"] == {"scored": 5, "failed": 0}
    assert record["settings"]["model"]["weights_sha256"] == detector.backbone.weights_id
    assert record["settings"]["recipe"]["name"] == "default"
    assert record["versions"]["anovl"]
    assert record["runs"] == [{"first_row": 0, "versions": record["versions"], "device": "cpu"}]
    sentences = detector.prompts("nut").key
    assert record["settings"]["prompts_sha256"] == hashlib.sha256(sentences.encode()).hexdigest()


def test_jpegs_decoded_in_part(run, tmp_path):
    Image.effect_mandelbrot((1600, 1200), (-2, -1, 1, 1), 60).convert("RGB").save(tmp_path / "large.jpg", quality=95)
    (full,), (reduced,) = (
        [json.loads(line) for line in run("predict", tmp_path, "--class-name", "nut", *given).stdout.splitlines()]
        for given in ((), ("--decode", "reduced"))
    )
    assert full["image_size"] == reduced["image_size"] == full["map_size"] == reduced["map_size"] == [1200, 1600]
    assert 0 < abs(full["pred_score"] - reduced["pred_score"]) < 0.05
    result = run("predict", tmp_path, "--class-name", "nut", "--decode", "half")
    assert result.exit_code == 2
    assert "unknown decode 'half'" in result.stderr


def test_json_lines_on_stdout(run, pictures):
    result = run("predict", pictures / "a.png", "--class-name", "nut")
    assert result.exit_code == 0
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert row["image_path"] == "a.png"


def test_paths_on_stdin_and_lists_and_globs(run, pictures):
    listed = f"{pictures / 'a.png'}\n\n{pictures / 'b.jpg'}\r\n"
    by_stdin = run("predict", "-", "--class-name", "nut", stdin=listed)
    by_list = run("predict", pictures / "a.png", pictures / "b.jpg", "--class-name", "nut")
    assert by_stdin.exit_code == by_list.exit_code == 0
    for result in (by_stdin, by_list):
        assert [json.loads(line)["image_path"] for line in result.stdout.splitlines()] == listed.split()
    by_glob = run("predict", f"{pictures}/**/*.[bw]*", "--class-name", "nut")
    assert [json.loads(line)["image_path"] for line in by_glob.stdout.splitlines()] == ["deep/c.bmp", "deep/er/d.webp"]


@pytest.mark.parametrize("save", ["overlay,map", "none"])
def test_broken_files_are_listed_and_the_rest_is_done(run, pictures, tmp_path, save):
    (pictures / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (pictures / "deep" / "empty.png").write_bytes(b"")
    result = run("predict", pictures, "--class-name", "nut", "-o", tmp_path / "out", "--save", save)
    assert result.exit_code == 3
    assert [row["image_path"] for row in rows(tmp_path / "out")] == ["a.png", "e.tif", "deep/c.bmp", "deep/er/d.webp"]
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [error["image_path"] for error in errors] == ["b.jpg", "deep/empty.png"]
    assert errors[1]["error"] == "the file is empty"
    assert "b.jpg" in result.stderr
    assert "empty.png: the file is empty" in result.stderr
    assert "2 failed" in result.stderr


def test_resume(run, pictures, tmp_path):
    out = tmp_path / "out"
    good = (pictures / "b.jpg").read_bytes()
    (pictures / "b.jpg").write_bytes(b"broken")
    arguments = ("predict", pictures, "--class-name", "nut", "-o", out)
    assert run(*arguments).exit_code == 3
    again = run(*arguments)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    (pictures / "b.jpg").write_bytes(good)
    before = rows(out)
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "1 scored" in resumed.stderr
    assert "4 kept" in resumed.stderr
    assert rows(out)[:4] == before
    assert sorted(row["image_path"] for row in rows(out)) == sorted(["a.png", "b.jpg", "e.tif", "deep/c.bmp", "deep/er/d.webp"])
    assert not (out / "errors.jsonl").exists()
    other = run(*arguments, "--resume", "--threshold", "0.7")
    assert other.exit_code == 2
    assert "threshold: was 0.5, is 0.7" in other.stderr


def test_output_inside_the_source_is_not_read(run, pictures):
    out = pictures / "out"
    assert run("predict", pictures, "--class-name", "nut", "-o", out).exit_code == 0
    assert "0 scored" in run("predict", pictures, "--class-name", "nut", "-o", out, "--resume").stderr
    assert len(rows(out)) == 5


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_tables(run, pictures, tmp_path, table):
    result = run("predict", pictures, "--class-name", "nut", "-o", tmp_path / "out", "--format", table, "--save", "none")
    assert result.exit_code == 0
    assert tree(tmp_path / "out") == sorted(["predictions.jsonl", f"predictions.{table}", "run.json"])


def test_resume_counts_kept_anomalies_and_drops_stale_tables(run, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = ("predict", pictures, "--class-name", "nut", "-o", out, "--save", "none", "--threshold", "0", "--fail-on-anomaly")
    assert run(*arguments, "--format", "csv").exit_code == 4
    Image.new("RGB", (9, 9)).save(pictures / "z.png")
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 4
    assert "1 scored, 6 anomalous" in resumed.stderr
    assert tree(out) == ["predictions.jsonl", "run.json"]


def test_another_source_is_not_resumed(run, pictures, tmp_path):
    out = tmp_path / "out"
    assert run("predict", pictures, "--class-name", "nut", "-o", out, "--save", "none").exit_code == 0
    assert run("predict", f"{pictures}/", "--class-name", "nut", "-o", out, "--save", "none", "--resume").exit_code == 0
    other = run("predict", pictures / "deep", "--class-name", "nut", "-o", out, "--save", "none", "--resume")
    assert other.exit_code == 2
    assert "source: was" in other.stderr


def test_lists_of_files_do_not_overwrite_each_other(run, pictures, tmp_path):
    Image.new("RGB", (9, 9)).save(pictures / "b.png")
    listed = f"{pictures / 'b.png'}\n{pictures / 'b.jpg'}\n"
    assert run("predict", "-", "--class-name", "nut", "-o", tmp_path / "out", stdin=listed).exit_code == 0
    written = [name for name in tree(tmp_path / "out") if name.startswith("overlay")]
    assert [name.rsplit("/", 1)[-1] for name in written] == ["b.jpg.png", "b.png.png"]


def test_a_mistake_leaves_nothing_behind(run, pictures, tmp_path):
    out = tmp_path / "out"
    for arguments, stdin in (([pictures, "--batch-size", "0"], ""), (["-"], "\n\n"), ([pictures, "--domain", "x"], "")):
        assert run("predict", *arguments, "--class-name", "nut", "-o", out, stdin=stdin).exit_code == 2
        assert not out.exists() or tree(out) == []
    assert run("predict", pictures, "--class-name", "nut", "-o", out).exit_code == 0


def test_record_names_the_settings_in_force(run, pictures, tmp_path):
    out = tmp_path / "out"
    run("predict", pictures, "--class-name", "nut", "-o", out, "--save", "none", "--method", "clip", "--recipe", "released")
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["recipe"]["attention"] == "qkv"
    assert record["settings"]["recipe"]["image_score"] == "class_token"
    assert record["device"] == "cpu"


@pytest.mark.parametrize(
    "wrong",
    [["--method", "nope"], ["--device", "tpu"], ["--dtype", "x"], ["--domain", "foo"], ["--state", "bad"], ["--threshold", "3"]],
)
def test_dry_run_checks_everything(run, pictures, wrong):
    assert run("predict", pictures, "--class-name", "nut", "--dry-run", *wrong).exit_code == 2


def test_ground_truth_is_drawn(run, tmp_path):
    root = tmp_path / "thing"
    for path, pixels in {
        "test/scratch/000.png": np.full((64, 64, 3), 128, np.uint8),
        "ground_truth/scratch/000_mask.png": np.pad(np.full((20, 20), 255, np.uint8), 22),
    }.items():
        (root / path).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(root / path)
    assert run("predict", root, "--class-name", "thing", "-o", tmp_path / "out").exit_code == 0
    assert tree(tmp_path / "out") == ["overlay/test/scratch/000.png", "predictions.jsonl", "run.json"]
    drawn = np.asarray(Image.open(tmp_path / "out/overlay/test/scratch/000.png"))[:, :256]
    assert (drawn == (0, 230, 90)).all(axis=2).sum() > 100


def test_fail_on_anomaly(run, pictures):
    low = run("predict", pictures, "--class-name", "nut", "--threshold", "0", "--fail-on-anomaly")
    high = run("predict", pictures, "--class-name", "nut", "--threshold", "1", "--fail-on-anomaly")
    assert (low.exit_code, high.exit_code) == (4, 0)


def test_dry_run_scores_and_writes_nothing(run, pictures, tmp_path, detector):
    result = run("predict", pictures, "--class-name", "nut", "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["images"] == 5
    assert plan["weights_sha256"] == detector.backbone.weights_id
    assert not (tmp_path / "out").exists()


def test_toml_below_environment_below_flags(run, pictures, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('class-name = "from toml"\nthreshold = 0.1\ndefect = ["dent"]\n')
    arguments = ("predict", pictures / "a.png", "--config", config)

    def seen(*flags, env=None):
        result = run(*arguments, *flags, env=env)
        assert result.exit_code == 0, result.stderr
        row = json.loads(result.stdout)
        return row["class_name"], row["threshold"]

    assert seen() == ("from toml", 0.1)
    assert seen(env={"ANOVL_THRESHOLD": "0.2"}) == ("from toml", 0.2)
    assert seen("--threshold", "0.3", env={"ANOVL_THRESHOLD": "0.2"}) == ("from toml", 0.3)
    assert seen("--class-name", "nut") == ("nut", 0.1)


def test_words_from_flags_and_file(run, tmp_path):
    file = tmp_path / "words.toml"
    file.write_text(
        'templates = ["a {domain} of {object}"]\nstates = [["whole {class}", "torn {class}"], "intact|broken"]\n'
        'domain_words = ["scan"]\ndefects = ["hole"]\n'
    )
    result = run("prompts", "belt", "--prompts", file)
    assert result.stdout.splitlines() == [
        "a scan of whole belt\ta scan of torn belt",
        "a scan of intact belt\ta scan of broken belt",
        "a scan of belt without a hole\ta scan of belt with a hole",
    ]
    result = run("prompts", "belt", "--prompts", file, "--state", "new|{class} that is worn", "--defect", "cut", "--json")
    assert json.loads(result.stdout)["abnormal"] == ["a scan of belt that is worn", "a scan of belt with a cut"]
    assert len(run("prompts", "carpet").stdout.splitlines()) == 462
    assert "surface picture" in run("prompts", "carpet").stdout
    assert "surface picture" not in run("prompts", "carpet", "--domain", "object").stdout


def test_words_reach_the_scores(run, pictures):
    scores = set()
    for flags in ([], ["--defect", "scratch"], ["--domain", "texture"], ["--state", "whole|torn"], ["--method", "clip"]):
        result = run("predict", pictures / "a.png", "--class-name", "nut", *flags)
        scores.add(json.loads(result.stdout)["pred_score"])
    assert len(scores) == 5


def test_recipe_from_the_command_line(run, pictures, golden_backbone):
    row = json.loads(run("predict", pictures / "a.png", "--class-name", "nut", "--recipe", "released").stdout)
    expected = AnoVL(golden_backbone, recipe="released").predict(pictures / "a.png", "nut")
    assert row["pred_score"] == pytest.approx(expected.pred_score, abs=1e-6)
    assert row["map_size"] == [240, 240]


WRONG = {
    "empty folder": (["{empty}"], 2, "no image in"),
    "missing source": (["{empty}/absent"], 2, "no such file or folder"),
    "nothing on stdin": (["-"], 2, "no path came on stdin"),
    "folder beside a file": (["{pictures}", "{pictures}/a.png"], 2, "name one folder"),
    "unknown recipe": (["{pictures}", "--recipe", "realesed"], 2, "did you mean 'released'"),
    "unknown method": (["{pictures}", "--method", "winclipp"], 2, "unknown method"),
    "unknown domain": (["{pictures}", "--domain", "textur"], 2, "did you mean 'texture'"),
    "unknown picture": (["{pictures}", "--save", "overlays"], 2, "did you mean 'overlay'"),
    "unknown format": (["{pictures}", "--format", "json"], 2, "did you mean 'jsonl'"),
    "unknown map format": (["{pictures}", "--map-format", "png"], 2, "did you mean 'png16'"),
    "unknown output size": (["{pictures}", "--output-size", "inputs"], 2, "did you mean 'input'"),
    "unknown architecture": (["{pictures}", "--model", "ViT-B-17:openai"], 2, "did you mean 'ViT-B-16'"),
    "unknown tag": (["{pictures}", "--model", "ViT-B-16-plus-240:laion400m_e33"], 2, "did you mean 'laion400m_e32'"),
    "malformed model": (["{pictures}", "--model", "ViT-B-16"], 2, "ARCH:TAG"),
    "unknown device": (["{pictures}", "--device", "cudaa"], 2, "did you mean 'cuda'"),
    "unknown dtype": (["{pictures}", "--dtype", "fp8"], 2, "unknown dtype"),
    "wrong image size": (["{pictures}", "--image-size", "big"], 2, "S or HxW"),
    "image size off the grid": (["{pictures}", "--image-size", "250"], 2, "240 or 256 would do"),
    "wrong batch size": (["{pictures}", "--batch-size", "0"], 2, "--batch-size"),
    "save without a folder": (["{pictures}", "--save", "mask"], 2, "needs an output folder"),
    "table without a folder": (["{pictures}", "--format", "csv"], 2, "needs an output folder"),
    "long source": (["x" * 300], 2, "not a file name"),
    "wrong threshold": (["{pictures}", "--threshold", "2"], 2, "threshold"),
    "wrong limit": (["{pictures}", "--max-pixels", "0"], 2, "at least 1 pixel"),
    "resume without a folder": (["{pictures}", "--resume"], 2, "needs an output folder"),
    "wrong state": (["{pictures}", "--state", "good"], 2, "normal|abnormal"),
    "output is a file": (["{pictures}", "-o", "{pictures}/a.png"], 1, "cannot be written"),
    "absent model": (["{pictures}", "--model", "ViT-B-16-plus-240:laion400m_e32", "--offline"], 5, "--model mini"),
    "absent folder": (["{pictures}", "--model", "local-dir:{empty}/absent"], 5, "no such folder"),
    "missing config": (["{pictures}", "--config", "{empty}/absent.toml"], 2, "cannot be read"),
    "empty class name": (["{pictures}", "--class-name", " "], 2, "class name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage(run, pictures, tmp_path, case):
    arguments, code, message = WRONG[case]
    (tmp_path / "empty").mkdir()
    filled = [argument.format(empty=tmp_path / "empty", pictures=pictures) for argument in arguments]
    given = [] if "--class-name" in filled else ["--class-name", "nut"]
    result = run("predict", *filled, *given, stdin="")
    assert result.exit_code == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clas-name = 'x'", "did you mean 'class-name'"),
        ("x = [", "not valid TOML"),
        ("threshold = 'high'", "threshold"),
        ("domain = ['a']", "expected one value"),
        ("defect = 'dent'", "expected a list"),
    ],
)
def test_wrong_config(run, pictures, tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    result = run("predict", pictures, "--class-name", "nut", "--config", tmp_path / "run.toml")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("template = ['x']", "did you mean 'templates'"),
        ("templates = 'x'", "expected a list"),
        ("states = ['x']", "normal|abnormal"),
    ],
)
def test_wrong_prompt_file(run, tmp_path, text, message):
    (tmp_path / "words.toml").write_text(text)
    result = run("prompts", "nut", "--prompts", tmp_path / "words.toml")
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_a_folder_leaves_out(run, pictures, tmp_path):
    (pictures / "phone.HEIC").write_bytes(b"x")
    (pictures / "link").symlink_to(pictures / "deep")
    assert run("predict", pictures, "--class-name", "nut", "-o", pictures / "first").exit_code == 0
    second = run("predict", pictures, "--class-name", "nut", "-o", pictures / "second", "--save", "none")
    assert "5 scored" in second.stderr
    assert second.stderr.count("left out: 1 .heic files") == 1
    assert second.stderr.count("left out: 1 linked folders") == 1


def test_a_slip_in_the_class_name_is_noticed_and_allowed(run, pictures):
    result = run("predict", pictures / "a.png", "--class-name", "hazlenut")
    assert result.exit_code == 0
    assert "did you mean 'hazelnut'" in result.stderr


def test_models(run):
    result = run("models", "B-16-plus", "--json")
    assert result.exit_code == 0
    listed = {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert listed["ViT-B-16-plus-240:laion400m_e32"] == {
        "name": "ViT-B-16-plus-240:laion400m_e32",
        "on_this_machine": False,
        "note": "default",
    }
    table = run("models")
    assert "RN50:openai" in table.stdout
    assert "SigLIP" not in table.stdout
    assert "mini" in table.stdout.splitlines()[0]
    assert run("models", "ViT-B-16-plus*").stdout == run("models", "B-16-plus").stdout
    assert run("models", "zzz").exit_code == 2


def test_info(run, tmp_path):
    result = run("info", "--json", env={"ANOVL_CACHE": str(tmp_path)})
    facts = json.loads(result.stdout)
    assert facts["versions"]["torch"]
    assert facts["caches"]["release files"] == str(tmp_path)
    assert "open_clip_torch" in run("info").stdout


def test_debug_shows_where(run, pictures):
    result = run("--debug", "predict", pictures, "--class-name", "nut", "--recipe", "x")
    assert type(result.exception).__name__ == "UsageError"


def test_quiet(run, pictures):
    result = run("--quiet", "predict", pictures, "--class-name", "nut")
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 5


def test_version(run):
    assert run("--version").stdout.startswith("anovl ")


def test_adaptation(run, pictures, tmp_path, detector):
    out = tmp_path / "out"
    command = ["predict", pictures, "--class-name", "nut", "--adapt", "--adapt-steps", "3", "--save", "map"]
    result = run(*command, "-o", out)
    assert result.exit_code == 0, result.stderr
    settings = replace(detector.recipe.adaptation, steps=3)
    for row in rows(out):
        own = detector.predict(pictures / row["image_path"], "nut", adapt=settings)
        saved = np.load(out / "map" / f"{row['image_path'].rsplit('.', 1)[0]}.npy")
        assert np.abs(saved - own.anomaly_map).max() < 1e-5
    record = json.loads((out / "run.json").read_text())["settings"]
    assert record["seed"] == [0]
    assert record["recipe"]["adaptation"]["steps"] == 3
    other = run(*command, "--seed", "1", "--resume", "-o", out)
    assert other.exit_code == 2
    assert "seed" in other.stderr
    several = ["predict", pictures / "a.png", "--class-name", "nut", "--adapt", "--seed", "1", "--seed", "2"]
    assert json.loads(run(*several).stdout)["patch_scores_std"] > 0
    for table in ("csv", "parquet"):
        assert run(*several, "-o", tmp_path / table, "--format", table).exit_code == 0
    with (tmp_path / "csv" / "predictions.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["patch_scores_std"]) > 0
    assert pq.read_table(tmp_path / "parquet" / "predictions.parquet").to_pylist()[0]["patch_scores_std"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "each needs --adapt"),
        (["--adapt-steps", "1"], "each needs --adapt"),
        (["--adapt", "--adapt-steps", "-1"], "adaptation steps: expected a whole number from 0 to 1000"),
        (["--adapt", "--seed", "-1"], "seed: expected a whole number"),
        (["--adapt", "--seed", "1", "--seed", "1"], "several different ones"),
        (["--adapt", "--seed", "x"], "Invalid value for '--seed'"),
    ],
)
def test_adaptation_flags_that_are_not_valid(run, pictures, arguments, message):
    for more in ((), ("--dry-run",)):  # told before the model is loaded
        result = run("predict", pictures, "--class-name", "nut", *arguments, *more)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
