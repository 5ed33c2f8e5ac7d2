"""An output folder after a kill at each single operation on its files, two runs at once, and disks that refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anovl.errors import OutputError
from anovl.files import LOCK, SYNC_ROWS, Journal, cut_torn_line, locked, replacing
from anovl.render.writers import FolderWriter, check_folder, read_rows

EVERYWHERE = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from anovl.files import TEMPORARY_PREFIX
from anovl.render.writers import FolderWriter, read_rows
from anovl.results import Prediction

NAMES = ("a", "deep/b", "c")
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}
root = Path(sys.argv[1])

def run(folder, resume):
    zeros = np.zeros((4, 4), np.float32)
    scored = []
    with FolderWriter(folder, {"settings": {"a": 1}}, save=("map", "mask"), table="csv", resume=resume) as writer:
        for name in NAMES:
            if f"{name}.png" not in writer.done:
                scored.append(name)
                writer.write(f"{name}.png", Prediction(f"{name}.png", (4, 4), "nut", 0.5, zeros, zeros), stem=name)
        writer.write_error("broken.png", "is broken")
    return scored

def run_until(folder, operation, resume):
    # In a child: SIGKILL just before the operation of that number on a file of the folder.
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        if event in OPERATIONS and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == operation:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    run(folder, resume)
    os._exit(0)

def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

run(root / "calm", False)
calm = files(root / "calm")
operation = 0
while True:
    operation += 1
    folder = root / str(operation)
    ended = run_until(folder, operation, False)
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, (operation, ended)
    run_until(folder, operation % 7 + 3, True)  # and again while it goes on
    rows = [r for name in (f"{TEMPORARY_PREFIX}predictions.jsonl", "predictions.jsonl") for r in read_rows(folder / name)]
    kept = {row["image_path"] for row in rows}
    scored = run(folder, True)
    assert kept.isdisjoint(f"{name}.png" for name in scored), (operation, kept, scored)
    assert files(folder) == calm, (operation, files(folder).keys() ^ calm.keys())
print(operation - 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_before_each_operation_on_a_file(tmp_path):
    done = subprocess.run([sys.executable, "-c", EVERYWHERE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 60  # places to be killed at


# Two runs at once


def enter(folder: Path, **options) -> dict[str, bool]:
    with FolderWriter(folder, {"settings": {}}, **options) as writer:
        return writer.done


def test_a_second_run_is_told_who_writes(tmp_path):
    out = tmp_path / "out"
    with FolderWriter(out, {"settings": {}}, save=()):
        for attempt in (lambda: enter(out, resume=True), lambda: enter(out), lambda: check_folder(out, resume=True)):
            with pytest.raises(
                OutputError, match=rf"another run is writing there \(process {os.getpid()} on .+, since 2\d{{3}}-"
            ):
                attempt()
    assert sorted(path.name for path in out.iterdir()) == ["predictions.jsonl", "run.json"]
    assert enter(out, resume=True) == {}


HOLDER = """
import sys, time
from pathlib import Path
from anovl.render.writers import FolderWriter
with FolderWriter(Path(sys.argv[1]), {"settings": {}}, save=()):
    print("in", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_run_does_not_hold(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(OutputError, match=rf"process {holder.pid} on"):
        enter(tmp_path, resume=True)
    holder.kill()
    holder.communicate()
    assert (tmp_path / LOCK).exists()
    assert enter(tmp_path, resume=True) == {}
    assert not (tmp_path / LOCK).exists()


def test_one_of_many_that_begin_at_once_gets_the_folder(tmp_path):
    inside, most, got = 0, 0, []
    guard, start = threading.Lock(), threading.Barrier(8)

    def take() -> None:
        nonlocal inside, most
        start.wait()
        for _ in range(200):
            try:
                with locked(tmp_path):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                        got.append(1)
                    with guard:
                        inside -= 1
            except OutputError:
                pass

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert got


# Rows on disk


def test_rows_are_on_disk_after_so_many(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    monkeypatch.setattr("anovl.files.time.monotonic", lambda: 0.0)
    journal = Journal(tmp_path / "rows.jsonl")
    synced.clear()
    for index in range(2 * SYNC_ROWS + 1):
        journal.append({"image_path": f"{index:04d}"})
    width = len('{"image_path": "0000"}\n')
    assert synced == [SYNC_ROWS * width, 2 * SYNC_ROWS * width]
    journal.close()
    assert synced[-1] == (2 * SYNC_ROWS + 1) * width


def test_rows_are_on_disk_after_a_second_of_work(tmp_path, monkeypatch):
    synced, now = [], [0.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("anovl.files.time.monotonic", lambda: now[0])
    journal = Journal(tmp_path / "rows.jsonl")
    synced.clear()
    for now[0] in (0.2, 0.9, 1.1, 1.2, 2.0, 2.2):
        journal.append({"image_path": "a"})
    assert len(synced) == 2


def test_content_then_name_then_folder_reach_the_disk(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, Path.replace

    def noted_sync(number):
        done.append("folder" if Path(f"/proc/self/fd/{number}").is_dir() else "content")
        fsync(number)

    def noted_rename(self, target):
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    with replacing(tmp_path / "new/run.json") as temporary:
        temporary.write_text("{}")
    assert done == ["folder", "content", "name", "folder"]  # the new folder's own name first


@pytest.mark.parametrize(
    ("content", "whole"), [(b"", 0), (b"{}\n{}\n", 6), (b"{}\n{}", 3), (b"{}\n\0\0\0", 3), (b"{}\n\0\0}\n{}\n", 3), (b"\0\n", 0)]
)
def test_torn_by_a_kill_or_zeroed_by_a_power_loss(tmp_path, content, whole):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == content[:whole]


def test_a_row_that_does_not_fit_is_taken_back(tmp_path):
    script = """
import resource, signal, sys
from pathlib import Path
from anovl.errors import OutputError
from anovl.files import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
journal = Journal(Path(sys.argv[1]))
journal.append({"image_path": "a" * 40})
try:
    journal.append({"image_path": "b" * 80})
except OutputError as exc:
    print(exc)
journal.append({"image_path": "c"})
"""
    path = tmp_path / "rows.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "what is there so far is whole" in done.stdout
    assert [row["image_path"] for row in read_rows(path)] == ["a" * 40, "c"]


# Whose rows are whose


def test_other_software_is_told_and_kept(tmp_path, caplog):
    def run(version: str, *names: str) -> dict:
        record = {"versions": {"anovl": version, "numpy": "2"}, "device": "cpu", "settings": {}}
        with FolderWriter(tmp_path, record, save=(), resume=True) as writer:
            for name in names:
                writer._rows.append({"image_path": name})
                writer.written += 1
        return json.loads((tmp_path / "run.json").read_text())

    run("1", "a", "b")
    assert len(run("1", "c")["runs"]) == 1
    assert caplog.text == ""
    assert run("2", "d")["runs"] == [
        {"first_row": 0, "versions": {"anovl": "1", "numpy": "2"}, "device": "cpu"},
        {"first_row": 3, "versions": {"anovl": "2", "numpy": "2"}, "device": "cpu"},
    ]
    assert "versions.anovl: was '1', is '2'" in caplog.text
    assert "numpy" not in caplog.text
