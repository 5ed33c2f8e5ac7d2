"""A run on a real cluster of two nodes, processes of this machine: the local engine's numbers, kills, S3."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl.cli import app
from anovl.data.synthetic.layout import write_dataset

pytest.importorskip("ray.data")
import psutil
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

STORE = 200 * 2**20
COUNT = 24


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of two cores each."""
    os.environ["ANOVL_CACHE"] = str(tmp_path_factory.mktemp("cache"))  # workers inherit it
    node = {"num_cpus": 2, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.second = made.add_node(**node)
    yield made
    made.shutdown()
    del os.environ["ANOVL_CACHE"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of several sizes in two folders, one of them broken."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("source")
    for index in range(COUNT):
        path = root / ("a" if index % 2 else "b/c") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)).save(path)
    (root / "a" / "broken.png").write_bytes(b"no picture")
    return root


def arguments(source, output, *more) -> list[str]:
    return ["predict", str(source), "--class-name", "nut", "--model", "mini", "-o", str(output), *more]


def on(cluster, *more) -> list[str]:
    return ["--engine", "ray", "--address", cluster.address, "--shard-size", "3", *more]


def call(line, code=3) -> str:
    result = CliRunner().invoke(app, line)
    assert result.exit_code == code, result.output
    return result.output


def process(line, code=3) -> str:
    """As `call`, in a process of its own with a cluster of its own."""
    done = subprocess.run([sys.executable, "-m", "anovl", *line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def rows_of(output) -> dict:
    rows = [row for path in sorted(Path(output, "predictions").iterdir()) for row in pq.read_table(path).to_pylist()]
    named = {row["image_path"]: row for row in rows}
    assert len(named) == len(rows)  # every image once
    return named


@pytest.fixture(scope="module")
def local(folder, tmp_path_factory) -> dict:
    """Rows of the local engine."""
    return locally(folder, tmp_path_factory.mktemp("local") / "out", "--save", "map,overlay")


def locally(folder, output, *more) -> dict:
    call(arguments(folder, output, *more))
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return {"output": output, "rows": {row["image_path"]: row for row in rows}}


def check_maps(output, local) -> None:
    for name in local["rows"]:
        stem = Path(name).with_suffix("")
        ours, theirs = (np.load(Path(where, "map", f"{stem}.npy")) for where in (output, local["output"]))
        assert np.abs(ours - theirs).max() <= 1e-5


def check(output, local) -> None:
    """Each row of the local engine once, with its fields and numbers; the broken picture in errors."""
    rows = rows_of(output)
    assert rows.keys() == local["rows"].keys()
    for name, expected in local["rows"].items():
        row = rows[name]
        assert row.keys() == expected.keys()
        assert row["pred_score"] == pytest.approx(expected["pred_score"], abs=1e-5)
        assert [region["area"] for region in row["regions"]] == [region["area"] for region in expected["regions"]]
        for field in ("image_size", "map_size", "class_name", "pred_label", "threshold", "pixel_threshold", "calibrated"):
            assert row[field] == expected[field], field
    (error,) = [json.loads(line) for line in Path(output, "errors.jsonl").read_text().splitlines()]
    assert error["image_path"] == "a/broken.png"
    assert json.loads(Path(output, "run.json").read_text())["counts"]["scored"] == COUNT


def when(begun, action) -> threading.Thread:
    """Do something once something has begun."""

    def wait() -> None:
        while not begun():
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def when_begun(output, action) -> threading.Thread:
    """Do something once the first shard is done."""
    return when(lambda: Path(output, "done").is_dir() and any(Path(output, "done").iterdir()), action)


def actors() -> list[psutil.Process]:
    """What scores, in our own clusters alone."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended meanwhile
            if "::MapWorker(" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_actors() -> list[int]:
    """Their process ids."""
    killed = []
    for process in actors():
        process.kill()
        killed.append(process.pid)
    return killed


def test_as_the_local_engine(cluster, folder, local, tmp_path):
    output = tmp_path / "out"
    call(arguments(folder, output, *on(cluster, "--save", "map,overlay", "--actors", "1..2")))
    check(output, local)
    check_maps(output, local)
    for name in local["rows"]:
        stem = Path(name).with_suffix("")
        ours, theirs = (np.asarray(Image.open(Path(where, "overlay", f"{stem}.png"))) for where in (output, local["output"]))
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    call(arguments(folder, output, *on(cluster, "--save", "map,overlay")), 2)  # a run is there


def test_tiles_as_the_local_engine(cluster, folder, tmp_path):
    tiles = ("--save", "map", "--tile", "32", "--tile-overlap", "0.5", "--crop", "foreground")
    expected = locally(folder, tmp_path / "local", *tiles)
    call(arguments(folder, tmp_path / "out", *on(cluster, *tiles)))
    check(tmp_path / "out", expected)
    check_maps(tmp_path / "out", expected)


def test_a_bank_as_the_local_engine(cluster, folder, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    call(["fit", str(folder / "b/c"), "--class-name", "nut", "--model", "mini", "--shots", "4", "-o", "bank.safetensors"], 0)
    expected = locally(folder, tmp_path / "local", "--save", "map", "--bank", "bank.safetensors")
    assert all(row["pred_score"] >= local["rows"][name]["pred_score"] for name, row in expected["rows"].items())
    line = arguments(folder, tmp_path / "out", *on(cluster, "--save", "map", "--bank", "bank.safetensors"))
    call(line)
    check(tmp_path / "out", expected)
    check_maps(tmp_path / "out", expected)
    told = json.loads((tmp_path / "out/run.json").read_text())
    assert told["settings"]["bank"] == json.loads((tmp_path / "local/run.json").read_text())["settings"]["bank"]
    assert "calibrate --bank" in told["guarantee"]
    assert "bank" in call([*line[:-2], "--resume"], 2)  # the same run without it is another


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Two drawn categories with masks, in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, ["washer", "leather"], per_class=18, train_per_class=3, size=96, workers=1)
    return root


@pytest.fixture(scope="module")
def evaluated(dataset, tmp_path_factory) -> Path:
    """What the local engine makes of it."""
    output = tmp_path_factory.mktemp("evaluated") / "out"
    call(evaluation(dataset, output), 0)
    return output


def evaluation(dataset, output, *more) -> list[str]:
    line = ["evaluate", "synthetic", str(dataset), "--model", "mini", "-o", str(output), "--method=anovl", "--method=anovl+tta"]
    return [*line, "--seed", "0", "--seed", "1", "--resolution", "original", *more]


def test_an_evaluation_as_the_local_engine(cluster, dataset, evaluated, tmp_path):
    output = tmp_path / "out"
    call(evaluation(dataset, output, *on(cluster, "--shard-size", "5")), 0)
    same(output, evaluated)
    call(evaluation(dataset, output, *on(cluster)), 2)  # a run is there
    kept = (output / "scores" / "anovl+tta" / "leather.jsonl").read_text().splitlines(keepends=True)
    (output / "scores" / "anovl+tta" / "leather.jsonl").write_text("".join(kept[:9]) + kept[9][:20])  # as a kill leaves it
    call(evaluation(dataset, output, *on(cluster, "--shard-size", "4", "--resume")), 0)
    same(output, evaluated)


def test_an_evaluation_with_shots_as_the_local_engine(cluster, dataset, tmp_path):
    shots = ("--shots", "2", "--limit", "8")
    call(evaluation(dataset, tmp_path / "local", *shots), 0)
    call(evaluation(dataset, tmp_path / "out", *on(cluster, *shots)), 0)
    same(tmp_path / "out", tmp_path / "local")
    assert json.loads((tmp_path / "out/report.json").read_text())["method"] == "anovl+2shot"


def test_an_evaluation_whose_worker_is_killed(cluster, dataset, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(dataset)  # the workers are elsewhere
    output, killed, scores = tmp_path / "out", [], tmp_path / "out/scores/anovl/washer.jsonl"
    thread = when(lambda: scores.exists() and scores.stat().st_size, lambda: killed.extend(kill_actors()))
    call(evaluation(".", output, *on(cluster, "--shard-size", "2")), 0)
    thread.join(10)
    assert killed
    same(output, evaluated)


def same(output, expected) -> None:
    """Every figure, of the report and of each image."""
    ours, theirs = (json.loads((where / "report.json").read_text()) for where in (output, expected))
    near(ours, theirs, "report")
    ours, theirs = (list(csv.reader((where / "images.csv").open())) for where in (output, expected))
    assert [row[:5] for row in ours] == [row[:5] for row in theirs]
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert [float(cell or -1) for cell in mine[5:]] == pytest.approx([float(cell or -1) for cell in other[5:]], abs=1e-5)


def near(ours, theirs, where) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            near(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            near(*pair, f"{where}[{index}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-5), where
    else:
        assert ours == theirs, where


def test_a_worker_is_killed(cluster, folder, local, tmp_path):
    output, killed = tmp_path / "out", []
    thread = when_begun(output, lambda: killed.extend(kill_actors()))
    call(arguments(folder, output, *on(cluster, "--save", "none", "--shard-size", "1")))
    thread.join(10)
    assert killed
    check(output, local)


def test_actors_are_added_by_the_load(cluster, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(800):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{index}.bmp")
    counts, over = set(), threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            counts.add(len(actors()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        call(arguments(tmp_path, tmp_path / "out", *on(cluster, "--save", "none", "--actors", "1..2")), 0)
    finally:
        over.set()
        thread.join()
    assert max(counts) == 2
    assert len(rows_of(tmp_path / "out")) == 800


def test_the_driver_is_killed_and_resumed(cluster, folder, local, tmp_path):
    output = tmp_path / "out"
    line = arguments(folder, output, *on(cluster, "--save", "none", "--shard-size", "1"))
    driver = subprocess.Popen([sys.executable, "-m", "anovl", *line], stderr=subprocess.PIPE)
    when_begun(output, lambda: os.kill(driver.pid, signal.SIGKILL)).join(120)
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    time.sleep(2)  # its workers end after it
    before = {path.name: path.stat().st_mtime_ns for path in (output / "done").iterdir()}
    assert 0 < len(before) < COUNT + 1
    call([*line, "--resume"])
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (output / "done").iterdir()}.items()
    check(output, local)
    assert "shard_size" in call([*line[:-1], "2", "--resume"], 2)


def test_a_bucket(folder, local, dataset, evaluated, bucket, tmp_path):
    bucket.files.put(f"{folder}/", "plant/in/", recursive=True)
    line = ["--engine", "ray", "--shard-size", "3", "--save", "overlay"]
    process(arguments("s3://plant/in", "s3://plant/out", *line))
    bucket.files.invalidate_cache()
    bucket.files.get("plant/out/", f"{tmp_path}/out/", recursive=True)
    check(tmp_path / "out", local)
    assert len(list((tmp_path / "out" / "overlay").rglob("*.png"))) == COUNT
    bucket.files.put(f"{dataset}/", "plant/data/", recursive=True)
    for where in (["--engine", "ray"], []):
        output = tmp_path / f"evaluated{len(where)}"
        process(evaluation("s3://plant/data", output, *where), 0)
        same(output, evaluated)
    assert "bucket" in process(arguments("s3://nowhere/in", "s3://plant/other", *line), 2)
    assert "bucket" in process(arguments(folder, "s3://nowhere/out", *line), 1)


def test_more_actors_than_cores(folder, tmp_path):
    line = arguments(folder, tmp_path / "out", "--engine", "ray", "--actors", "1000")
    assert "on this machine's cores, got 1000" in process(line, 2)
    assert not (tmp_path / "out").exists()


def test_no_cluster_answers(folder, tmp_path):
    line = arguments(folder, tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    assert "no Ray cluster at 127.0.0.1:1" in process(line, 5)
    assert not (tmp_path / "out").exists()


def test_a_node_is_lost(cluster, folder, local, tmp_path):  # the last one: the node does not come back
    output = tmp_path / "out"
    thread = when_begun(output, lambda: cluster.remove_node(cluster.second, allow_graceful=False))
    call(arguments(folder, output, *on(cluster, "--save", "none", "--shard-size", "1")))
    thread.join(30)
    check(output, local)
