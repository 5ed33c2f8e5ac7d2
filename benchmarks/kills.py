"""SIGKILL at random moments of `anovl predict`, resumed each time: the result must be that of a run that was let be.

    python benchmarks/kills.py [--model part.onnx] [--kills 200] [--pictures 500] [--seed 0]

An exported file starts in about a second; without --model, mini is exported first. A round is a run of all pictures (and of
two that are broken), killed and resumed until an attempt reaches its end. After each round everything is compared with the
undisturbed run: files, rows, scores and maps to 1e-5, errors, the table. Rounds go on until there were enough kills. What
each attempt scored is counted from its log (`anovl -v`): never a picture that had its row before, and at most those in flight
again. Stops at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from anovl.files import LOCK
from anovl.render.writers import SAVERS

BATCH = 8
IN_FLIGHT = 2 * BATCH + 2 * SAVERS  # a batch that is scored, the one before on its way to the savers, theirs
SIGKILLED = -9


@dataclass
class Count:
    """What happened so far; `seconds` is how long the last attempt had its folder."""

    kills: int = 0
    kills_with_rows: int = 0
    rounds: int = 0
    attempts: int = 0
    scored: int = 0
    again: int = 0
    most_again: int = 0
    seconds: float = 0.0
    leftovers: Counter[str] = field(default_factory=Counter)


def require(*, holds: bool, what: str) -> None:
    """Stop with a line where something is not as it must be."""
    if not holds:
        sys.exit(f"kills: {what}")


def draw(folder: Path, count: int) -> None:
    """Small pictures of noise, each another, and two that are broken."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.png")
    for name in ("00001-broken.png", f"{count // 2:05d}-broken.png"):
        (folder / name).write_bytes(b"no picture")


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """The whole rows of a file by picture; none twice."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    named = {row["image_path"]: row for row in rows}
    require(holds=len(named) == len(rows), what=f"{path}: a picture is there twice")
    return named


def rows_now(out: Path) -> dict[str, dict[str, Any]]:
    """Those of a run that may have ended anywhere."""
    working = out / ".anovl-predictions.jsonl"
    return rows_of(working if working.exists() else out / "predictions.jsonl")


def files_of(out: Path) -> set[str]:
    """Every file below a folder."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def compare(out: Path, calm: Path) -> None:
    """Stop where a finished run is not the undisturbed one."""
    require(holds=files_of(out) == files_of(calm), what=f"other files: {sorted(files_of(out) ^ files_of(calm))[:5]}")
    got, expected = rows_of(out / "predictions.jsonl"), rows_of(calm / "predictions.jsonl")
    require(holds=list(got) == list(expected), what="other rows, or in another order")
    for name, row in expected.items():
        require(holds=abs(got[name]["pred_score"] - row["pred_score"]) <= 1e-5, what=f"{name}: another score")
        plain = [{key: one[key] for key in one if key not in ("pred_score", "regions", "timings_ms")} for one in (got[name], row)]
        require(holds=plain[0] == plain[1], what=f"{name}: another row")
    for path in (calm / "map").iterdir():
        apart = np.abs(np.load(out / "map" / path.name) - np.load(path)).max()
        require(holds=bool(apart <= 1e-5), what=f"{path.name}: another map, by {apart:.1e}")
    for path in (calm / "heatmap").iterdir():
        with Image.open(out / "heatmap" / path.name) as one, Image.open(path) as other:
            apart = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max()
        require(holds=bool(apart <= 1), what=f"{path.name}: another heat map")
    require(
        holds=(out / "errors.jsonl").read_text() == (calm / "errors.jsonl").read_text(),
        what="errors.jsonl: other errors, or torn",
    )
    table = len((out / "predictions.csv").read_text().splitlines())
    require(holds=table == len(expected) + 1, what=f"predictions.csv: {table} lines")
    status = json.loads((out / "run.json").read_text())["status"]
    require(holds=status == "done", what=f"run.json: status {status}")


def holds(process: int, out: Path) -> bool:
    """True once a process has the output folder."""
    try:
        return (out / LOCK).read_text().startswith(f"process {process} ")
    except FileNotFoundError:
        return False


def attempt(command: list[str], out: Path, log: Path, delay: float | None, count: Count) -> int:
    """One run, killed so many seconds after it took the folder unless it ended before; its exit code."""
    before = rows_now(out)
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "-o", str(out), "--resume"], stderr=stream)  # noqa: S603 -- our own
        while process.poll() is None and not holds(process.pid, out):
            time.sleep(0.002)
        began = time.monotonic()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    count.seconds = time.monotonic() - began
    code = process.returncode
    require(holds=code in (3, SIGKILLED), what=f"exit code {code}: {log.read_text()[-1000:]}")
    scored = re.findall(r"^anovl: INFO: scored (\S+)$", log.read_text(), re.MULTILINE)
    twice = [name for name in scored if name in before]
    require(holds=not twice and len(set(scored)) == len(scored), what=f"scored again though its row was there: {twice[:3]}")
    after = rows_now(out)
    require(holds=before.keys() <= after.keys(), what="a row went away")
    lost = len(set(scored) - after.keys())
    require(holds=lost <= IN_FLIGHT, what=f"{lost} pictures lost by one kill, more than the {IN_FLIGHT} in flight")
    for name in after:
        stem = name.removesuffix(".png")
        whole = (out / "heatmap" / f"{stem}.png").is_file() and (out / "map" / f"{stem}.npy").is_file()
        require(holds=whole, what=f"{name}: a row without its pictures")
    count.attempts += 1
    count.scored += len(scored)
    count.again += lost
    count.most_again = max(count.most_again, lost)
    if code == SIGKILLED:
        count.kills += 1
        count.kills_with_rows += bool(scored)
        count.leftovers["temporary file"] += any(re.search(r"\.anovl-[0-9a-f]{12}", name) for name in files_of(out))
        working = out / ".anovl-predictions.jsonl"
        count.leftovers["torn row"] += working.exists() and not (b"\n" + working.read_bytes()).endswith(b"\n")
    return code


def main() -> None:
    """Kill until there were enough, then say what happened."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, help="a file of `anovl export`; default: mini, exported")
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--pictures", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    chance = random.Random(given.seed)  # noqa: S311 -- no secret
    anovl = [sys.executable, "-m", "anovl"]
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        model = given.model or root / "part.onnx"
        if given.model is None:
            export = [*anovl, "export", str(model), "--class-name", "part", "--model", "mini"]
            subprocess.run(export, check=True)  # noqa: S603 -- our own
        draw(root / "pictures", given.pictures)
        command = [*anovl, "-v", "predict", str(root / "pictures"), "--model", str(model), "--batch-size", str(BATCH)]
        command += ["--save", "heatmap,map", "--format", "csv"]
        calm, undisturbed, count, began = root / "calm", Count(), Count(), time.monotonic()
        attempt(command, calm, root / "log", None, undisturbed)
        print(f"an undisturbed run holds its folder for {undisturbed.seconds:.1f} s", flush=True)
        while count.kills < given.kills:
            out = root / f"round-{count.rounds}"
            while True:
                delay = chance.uniform(0, undisturbed.seconds / 4) if count.kills < given.kills else None
                if attempt(command, out, root / "log", delay, count) != SIGKILLED:
                    break
            compare(out, calm)
            count.rounds += 1
            print(f"round {count.rounds}: {count}", flush=True)
        seconds = time.monotonic() - began
    print(
        f"{count.kills} kills ({count.kills_with_rows} after the first picture was scored) in {count.rounds} runs of "
        f"{given.pictures} pictures, {seconds:.0f} s: each result equals the undisturbed one. {count.scored:,} pictures scored, "
        f"{count.again:,} of them lost in flight, at most {count.most_again} by one kill (bound {IN_FLIGHT}). "
        f"{count.leftovers['temporary file']} kills left a temporary file, {count.leftovers['torn row']} a torn row."
    )


if __name__ == "__main__":
    main()
