"""`anovl predict` over very many small pictures: does its memory grow, does it slow down?

    python benchmarks/streaming.py [--count 100000] [--engine local]

200 drawn pictures of 64 to 96 px, linked under as many names as --count says, 1,000 a folder; `mini` at 96 px, rows only. About
twice a second: rows that are there, CPU time, and resident memory: of the command's process, what all its processes have to
themselves, and the most that one of them shares, which with Ray is the object store. The first tenth is timed from the first rows
on, without the start. CPU time tells of a slow-down also where other programs take the cores.
"""

from __future__ import annotations

import argparse
import bisect
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from PIL import Image

from anovl.data.synthetic import CLASSES, draw

DISTINCT, A_FOLDER = 200, 1000
SHARD = 64  # images a shard of `--engine ray`
MB = 2**20


@dataclass(frozen=True)
class Sample:
    """At one moment.

    Attributes:
        at: seconds since the start.
        rows: so far.
        cpu: seconds of CPU so far.
        command: bytes of the command's process.
        private: bytes of all processes that they do not share.
        shared: bytes of the process that shares most.
    """

    at: float
    rows: int
    cpu: float
    command: int
    private: int
    shared: int


def draw_links(folder: Path, count: int) -> None:
    """So many names for the distinct pictures, drawn beside the folder."""
    drawn = folder.with_name("drawn")
    drawn.mkdir()
    names = list(CLASSES)
    for index in range(DISTINCT):
        picture = Image.fromarray(draw(names[index % len(names)], index, size=96).image)
        picture.thumbnail((64 + index % 33,) * 2)
        picture.save(drawn / f"{index}.png")
    for number in range(count):
        path = folder / f"{number // A_FOLDER:04d}" / f"{number % A_FOLDER:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(drawn / f"{number % DISTINCT}.png", path)


def rows_so_far(out: Path, engine: str) -> Iterator[int]:
    """Rows on disk, each time it is asked: lines of the working file, or shards that are done."""
    rows, read = 0, 0
    while True:
        with suppress(FileNotFoundError):
            if engine == "ray":
                rows = SHARD * sum(path.name.startswith("part-") for path in (out / "done").iterdir())
            else:
                with (out / ".anovl-predictions.jsonl").open("rb") as stream:
                    stream.seek(read)
                    new = stream.read()
                rows, read = rows + new.count(b"\n"), read + len(new)
        yield rows


def usage(process: psutil.Process, spent: dict[int, float]) -> tuple[float, int, int, int]:
    """Of a process and all below it: what a `Sample` says, from `cpu` on.

    Args:
        spent: CPU seconds by process, also of those that have ended; is brought up to date.
    """
    command = private = shared = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            times, memory = one.cpu_times(), one.memory_info()
            spent[one.pid] = times.user + times.system
            command += memory.rss if one == process else 0
            private += memory.rss - memory.shared
            shared = max(shared, memory.shared)
    return sum(spent.values()), command, private, shared


def watch(line: list[str], out: Path, engine: str) -> list[Sample]:
    """Run a command, and look at it until it ends."""
    samples: list[Sample] = []
    rows, spent = rows_so_far(out, engine), dict[int, float]()
    process = psutil.Popen(line, stderr=subprocess.DEVNULL)
    began = time.perf_counter()
    while process.poll() is None:
        samples.append(Sample(time.perf_counter() - began, next(rows), *usage(process, spent)))
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"streaming: exit code {process.returncode}")
    return [one for one in samples if one.command]


def at(samples: list[Sample], rows: float) -> tuple[float, float]:
    """Seconds and CPU seconds at which so many rows were there, between two samples."""
    after = bisect.bisect_left(samples, rows, key=lambda one: one.rows)
    one, other = samples[max(0, after - 1)], samples[min(after, len(samples) - 1)]
    part = (rows - one.rows) / (other.rows - one.rows) if other.rows > one.rows else 1.0
    return one.at + part * (other.at - one.at), one.cpu + part * (other.cpu - one.cpu)


def rate(samples: list[Sample], start: float, end: float) -> tuple[float, float]:
    """Images a second and CPU milliseconds an image between two numbers of rows."""
    (began, cpu), (ended, cpu_after) = at(samples, start), at(samples, end)
    return (end - start) / (ended - began), 1000 * (cpu_after - cpu) / (end - start)


def report(samples: list[Sample], count: int) -> None:
    """Print the figures."""
    first = next(one.rows for one in samples if one.rows)
    last = min(count, samples[-1].rows)
    tenths = rate(samples, first, count / 10), rate(samples, 0.9 * count, last)
    print(f"{count:,} pictures in {samples[-1].at:.0f} s, of these {at(samples, first)[0]:.1f} s to the first rows")
    for name, (images, cpu) in zip(("first tenth", "last tenth"), tenths, strict=True):
        print(f"{name}: {images:.1f} images/s, {cpu:.2f} ms of CPU an image")
    print(f"last over first: images/s {tenths[1][0] / tenths[0][0]:.3f}, CPU an image {tenths[1][1] / tenths[0][1]:.3f}")
    tenth = next(one for one in samples if one.rows >= count / 10)
    end = next(one for one in reversed(samples) if one.rows < last)
    for name, part in (("the command", "command"), ("all processes, private", "private"), ("one process, shared", "shared")):
        most = max(samples, key=lambda one, part=part: getattr(one, part))  # type: ignore[misc]
        early, late, top = (getattr(one, part) / MB for one in (tenth, end, most))
        print(f"memory of {name}: {early:.0f} MB at 10 %, {late:.0f} MB at the end, peak {top:.0f} MB at {most.rows:,} rows")


def main() -> None:
    """Draw, run, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=100_000)
    options.add_argument("--engine", choices=("local", "ray"), default="local")
    given = options.parse_args()
    with TemporaryDirectory() as name:
        source, out = Path(name, "pictures"), Path(name, "out")
        draw_links(source, given.count)
        line = ["predict", str(source), "--class-name", "part", "--model", "mini", "--image-size", "96", "--threads", "1"]
        command = [sys.executable, "-m", "anovl", "-q", *line, "--save", "none", "-o", str(out), "--engine", given.engine]
        report(watch(command, out, given.engine), given.count)


if __name__ == "__main__":
    main()
