"""`anovl synth`: the layout, the seed, whole files, and what it refuses."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl import __version__
from anovl.cli import app
from anovl.data.sources import find_mask, iter_source
from anovl.data.synthetic import CLASSES, draw
from anovl.data.synthetic.layout import line_of, plan, write_dataset
from anovl.errors import UsageError

COMMAND = [sys.executable, "-m", "anovl"]
SMALL = ("--size", "96", "--workers", "1")


def run(*arguments):
    return CliRunner().invoke(app, ["synth", *map(str, arguments)])


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two classes, 7 test and 2 training pictures each, seed 3."""
    folder = tmp_path_factory.mktemp("synth") / "set"
    result = run(folder, "--classes", "bottle cap,wood", "--per-class", 7, "--train-per-class", 2, "--seed", 3, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{folder}\n"
    assert "18 pictures of 2 classes" in result.stderr
    return folder


def test_layout(drawn):
    record = json.loads((drawn / "dataset.json").read_text())
    assert record["anovl"] == __version__
    assert {key: record[key] for key in ("seed", "size", "per_class", "train_per_class")} == {
        "seed": 3,
        "size": 96,
        "per_class": 7,
        "train_per_class": 2,
    }
    assert [(each["name"], each["folder"], each["kind"]) for each in record["classes"]] == [
        ("bottle cap", "bottle_cap", "object"),
        ("wood", "wood", "texture"),
    ]
    expected = {"dataset.json"} | {row["image_path"] for row in record["files"]}
    expected |= {row["mask_path"] for row in record["files"] if row["mask_path"]}
    assert expected == digests(drawn).keys()
    assert len(record["files"]) == 18
    for name in ("bottle_cap", "wood"):
        kinds = {path.name for path in (drawn / name / "test").iterdir()} - {"good"}
        assert len(kinds) == 3
        assert kinds <= {kind.replace(" ", "_") for kind in CLASSES[name.replace("_", " ")].defects}
        assert kinds == {path.name for path in (drawn / name / "ground_truth").iterdir()}
        assert sorted(path.name for path in (drawn / name / "test/good").iterdir()) == [f"00{n}.png" for n in range(4)]
        assert sorted(path.name for path in (drawn / name / "train/good").iterdir()) == ["000.png", "001.png"]


def test_pictures_and_masks_are_what_the_generator_draws(drawn):
    rows = json.loads((drawn / "dataset.json").read_text())["files"]
    for row in rows:
        picture, mask = Image.open(drawn / row["image_path"]), find_mask(drawn / row["image_path"])
        sample = draw(row["class_name"], row["seed"], size=96, defect=row["defect"])
        assert (picture.mode, picture.size) == ("RGB", (96, 96))
        assert np.array_equal(picture, sample.image)
        assert row["caption"] == sample.caption
        assert (None if mask is None else mask.relative_to(drawn).as_posix()) == row["mask_path"]
        if row["defect"] is not None:
            truth = Image.open(mask)
            assert truth.mode == "L"
            assert np.array_equal(truth, sample.mask * np.uint8(255))
            assert sample.mask.any()
    assert len({row["seed"] for row in rows}) == len(rows)  # no good picture is the twin of a defective one
    assert sorted(item.image_path for item in iter_source(drawn)) == sorted(row["image_path"] for row in rows)


def test_same_seed_same_bytes_in_any_number_of_processes(drawn, tmp_path):
    arguments = ("--classes", "bottle_cap, wood", "--per-class", 7, "--train-per-class", 2, "--size", 96)
    assert run(tmp_path / "again", *arguments, "--seed", 3, "--workers", 2).exit_code == 0
    assert digests(tmp_path / "again") == digests(drawn)
    assert run(tmp_path / "other", *arguments, "--seed", 4, "--workers", 1).exit_code == 0
    before, other = digests(drawn), digests(tmp_path / "other")
    assert not {before[name] for name in before if "mask" not in name} & {other[name] for name in other if "mask" not in name}


def test_one_line(drawn, tmp_path):
    out, arguments = tmp_path / "line", ("--classes", "wood,bottle cap", "--per-class", 3, "--train-per-class", 1)
    assert run(out, *arguments, "--seed", 3, *SMALL, "--one-line").exit_code == 0
    record = json.loads((out / "dataset.json").read_text())
    lines = {each["name"]: each["line"] for each in record["classes"]}
    assert lines == {name: line_of(name, 3) for name in ("wood", "bottle cap")}
    for row in record["files"]:
        sample = draw(row["class_name"], row["seed"], size=96, defect=row["defect"], line=lines[row["class_name"]])
        assert np.array_equal(Image.open(out / row["image_path"]), sample.image)
    assert line_of("wood", 3) != line_of("wood", 4)
    assert not {"line"} & json.loads((drawn / "dataset.json").read_text())["classes"][0].keys()


def test_a_class_more_and_pictures_more_change_nothing_of_the_rest(drawn, tmp_path):
    assert run(tmp_path / "more", "--classes", "pill,wood", "--per-class", 9, "--seed", 3, *SMALL).exit_code == 0
    before, more = digests(drawn / "wood"), digests(tmp_path / "more" / "wood")
    for name in before:
        if not name.startswith("train"):
            assert more[name] == before[name], name
    assert len(list((tmp_path / "more/wood/test").rglob("*.png"))) == 9


@pytest.mark.parametrize("name", CLASSES)
def test_half_are_defective_and_kinds_take_turns(name):
    kinds = CLASSES[name].defects
    planned = list(plan(name, per_class=4 * len(kinds) + 1, seed=5))
    assert sum(each.defect is None for each in planned) == 2 * len(kinds) + 1
    for kind in kinds:
        assert [each.index for each in planned if each.defect == kind] == [0, 1]
    assert len({each.image_path for each in planned}) == len({each.seed(5) for each in planned}) == len(planned)


def test_small_sets_of_all_classes_have_many_kinds():
    kinds = {each.defect for name in CLASSES for each in plan(name, per_class=10)}
    assert len(kinds) > 10


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--classes", "wod"), "unknown class 'wod'; did you mean 'wood'"),
        (("--classes", "spaceship"), "washer"),
        (("--classes", " , "), "expected at least one"),
        (("--size", "95"), "expected 96 to 1024 pixels, got 95"),
        (("--size", "1025"), "expected 96 to 1024 pixels, got 1025"),
        (("--per-class", "0"), "'--per-class'"),
        (("--train-per-class", "-1"), "'--train-per-class'"),
        (("--seed", "-1"), "'--seed'"),
        (("--workers", "0"), "'--workers'"),
    ],
)
def test_wrong_settings_change_nothing(tmp_path, arguments, reason):
    result = run(tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_numbers_are_checked_in_python_too(tmp_path):
    for wrong in ({"per_class": 0}, {"per_class": 1, "seed": -1}, {"per_class": 1, "workers": 0}, {"per_class": 1, "size": 1}):
        with pytest.raises(UsageError, match="expected"):
            write_dataset(tmp_path / "out", ["wood"], **wrong)


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    result = run(tmp_path, "--classes", "wood")
    assert result.exit_code == 2
    assert "is not empty (mine.txt): name another folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    in_the_way = run(tmp_path / "mine.txt", "--classes", "wood")
    assert in_the_way.exit_code == 1
    assert "in the way" in in_the_way.stderr


def test_an_empty_folder_will_do(tmp_path):
    assert run(tmp_path, "--classes", "wood", "--per-class", 1, *SMALL).exit_code == 0
    assert (tmp_path / "wood/test/good/000.png").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o555)
    try:
        result = run(tmp_path / "out", "--classes", "wood", *SMALL)
    finally:
        tmp_path.chmod(0o755)
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def start(*arguments, **options):
    command = [*COMMAND, "synth", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_pictures(process, out, count):
    while len(list(out.rglob("0*.png"))) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_leaves_whole_files(tmp_path, workers):
    out = tmp_path / "out"
    process = start(out, "--classes", "wood", "--per-class", 5000, "--workers", workers, start_new_session=True)
    wait_for_pictures(process, out, 5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the drawing processes too
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert [line.split(" with ")[0] for line in stderr.splitlines()] == ["anovl: stopped", "anovl: interrupted"]
    assert list(out.rglob(".anovl-*")) == []
    assert not (out / "dataset.json").exists()
    for path in out.rglob("*.png"):
        Image.open(path).load()
        assert "ground_truth" in path.parts or path.parent.name == "good" or find_mask(path)


def test_an_interrupt_while_the_processes_start(tmp_path):
    process = start(tmp_path / "out", "--classes", "wood", "--per-class", 5000, "--workers", 2, start_new_session=True)
    while not psutil.Process(process.pid).children():
        time.sleep(0.005)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_kill_leaves_no_process_behind(tmp_path):
    out = tmp_path / "out"
    process = start(out, "--classes", "wood", "--per-class", 5000, "--workers", 2)
    wait_for_pictures(process, out, 3)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@pytest.mark.parametrize("workers", [1, 2])
def test_file_size_limit_stands_for_a_full_disk(tmp_path, workers):
    limits = (10_000, 10_000)
    process = start(
        *(tmp_path / "out", "--classes", "wood", "--per-class", 40, "--workers", workers),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot be written (File too large)" in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.rglob(".anovl-*")) == []


def test_help_imports_nothing_heavy():
    script = (
        "import sys, anovl.cli\nsys.argv = ['anovl', 'synth', '--help']\ntry: anovl.cli.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'PIL') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "--per-class" in output
    assert output.splitlines()[-1] == "[]"


def test_drawing_needs_no_torch(tmp_path):
    script = (
        "import sys, pathlib\nfrom anovl.data.synthetic.layout import write_dataset\n"
        f"write_dataset(pathlib.Path({str(tmp_path / 'out')!r}), ['wood'], per_class=1, size=96)\nprint('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
