"""What needs a process of its own: signals, pipes, limits, memory."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "anovl"]


@pytest.fixture
def many(tmp_path):
    """many(n): a folder of n small pictures."""

    def draw(count, size=64):
        folder = tmp_path / "many"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
                folder / f"{index:05d}.png", compress_level=0
            )
        return folder

    return draw


def start(*arguments, **options):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def working_rows(out):
    path = out / ".anovl-predictions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_rows(process, out, count):
    while working_rows(out) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def rows(out):
    return {row["image_path"]: row for row in map(json.loads, (out / "predictions.jsonl").read_text().splitlines())}


def leftovers(out):
    return [path.name for path in out.rglob(".anovl-*")]


@pytest.mark.slow
def test_interrupt_ends_cleanly_and_resume_completes(many, golden_name, tmp_path):
    folder, out = many(600), tmp_path / "out"
    arguments = ("predict", folder, "--class-name", "nut", "--model", golden_name, "-o", out, "--save", "none")
    process = start(*arguments)
    wait_for_rows(process, out, 16)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "--resume goes on" in stderr
    assert not (out / "predictions.jsonl").exists()
    assert 16 <= working_rows(out) < 600
    resumed = start(*arguments, "--resume")
    _, stderr = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, stderr
    assert len(rows(out)) == 600
    assert leftovers(out) == []


@pytest.mark.slow
def test_kill_and_resume_equal_an_undisturbed_run(many, golden_name, tmp_path):
    folder, out, calm = many(300), tmp_path / "out", tmp_path / "calm"
    arguments = ("predict", folder, "--class-name", "nut", "--model", golden_name, "--save", "overlay,map", "-o")
    for stop in (20, 120):
        process = start(*arguments, out, *(["--resume"] if out.exists() else []))
        wait_for_rows(process, out, stop)
        process.kill()
        process.communicate()
    with (out / ".anovl-predictions.jsonl").open("a") as stream:
        stream.write('{"image_path": "00200.png", "pred_sc')  # a row torn by the kill
    for target, flags in ((out, ["--resume"]), (calm, [])):
        process = start(*arguments, target, *flags)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    disturbed, undisturbed = rows(out), rows(calm)
    assert disturbed.keys() == undisturbed.keys()
    assert all(abs(disturbed[key]["pred_score"] - row["pred_score"]) < 1e-5 for key, row in undisturbed.items())
    names = [{path.relative_to(root).as_posix() for path in root.rglob("*")} for root in (out, calm)]
    assert names[0] == names[1]
    assert leftovers(out) == []
    for path in (calm / "map").iterdir():
        assert np.abs(np.load(path) - np.load(out / "map" / path.name)).max() < 1e-5


@pytest.mark.slow
def test_random_kills(golden_name, tmp_path):
    """benchmarks/kills.py with few kills; KILLS=200 has more."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    export = ("export", tmp_path / "part.onnx", "--class-name", "nut", "--model", golden_name, "--image-size", "64")
    subprocess.run([*COMMAND, *map(str, export)], check=True, capture_output=True, env=environment)
    kills = os.environ.get("KILLS", "6")
    script = [sys.executable, "benchmarks/kills.py", "--model", str(tmp_path / "part.onnx"), "--kills", kills]
    done = subprocess.run([*script, "--pictures", "200"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{kills} kills" in done.stdout


@pytest.mark.slow
def test_a_second_run_says_who_writes(many, golden_name, tmp_path):
    folder, out = many(600), tmp_path / "out"
    arguments = ("predict", folder, "--class-name", "nut", "--model", golden_name, "-o", out, "--save", "none")
    first = start(*arguments)
    wait_for_rows(first, out, 8)
    for flags in ([], ["--resume"]):
        second = start(*arguments, *flags)
        _, stderr = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"another run is writing there (process {first.pid} on " in stderr
        assert len(stderr.splitlines()) == 1
    first.kill()
    first.communicate()
    assert "another run" not in start(*arguments).communicate(timeout=60)[1]


def test_file_size_limit_stands_for_a_full_disk(many, golden_name, tmp_path):
    import resource

    out = tmp_path / "out"
    process = start(
        *("predict", many(40, size=300), "--class-name", "nut", "--model", golden_name, "-o", out, "--save", "map"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot be written" in stderr
    assert "is the disk full?" in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in out.rglob("*.npy")] == []


def test_a_reader_that_goes_away(tmp_path):
    process = start("prompts", "metal nut", bufsize=0)
    process.stdout.close()
    assert process.wait(timeout=30) == 1
    assert "Traceback" not in process.stderr.read()


def test_offline_process_says_what_is_missing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    process = start("predict", tmp_path, "--class-name", "nut", "--offline", "--cache-dir", tmp_path / "cache")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 5
    for part in ("vit_b_16_plus_240-laion400m_e32-699c4b84.pt", "https://", str(tmp_path / "cache"), "--model mini"):
        assert part in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.slow
def test_2000_images_in_constant_memory(many, golden_name, tmp_path):
    folder, out = many(2000, size=128), tmp_path / "out"
    process = start(
        "predict", folder, "--class-name", "nut", "--model", golden_name, "-o", out, "--save", "overlay", "--batch-size", "8"
    )
    memory = {}
    for mark in (200, 600, 1000, 1900):
        wait_for_rows(process, out, mark)
        memory[mark] = psutil.Process(process.pid).memory_info().rss / 2**20
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    print(memory)
    assert memory[1900] - memory[200] < 40, memory  # MB; 1,700 pictures of 128 px are 84 MB decoded, their maps 111 MB
    assert len(rows(out)) == 2000


def test_python_dash_m():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True, env=environment).stdout
    assert output.startswith("anovl ")
