"""What it costs to have pictures and rows on disk in order: a writer as it is beside one whose disk is never waited for.

    python benchmarks/syncing.py [--pictures 500] [--rounds 5] [--folder .]

Heat maps, maps and rows of 500 pictures of 64 px into a folder on the disk to measure, without a model. Both take turns; printed
are medians. Behind a model the savers' threads wait beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from anovl.render.writers import FolderWriter
from anovl.results import Prediction


def write(folder: Path, count: int) -> float:
    """Seconds that a run without a model takes."""
    found = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    began = time.perf_counter()
    with FolderWriter(folder, {"settings": {}}, save=("heatmap", "map")) as writer:
        for index in range(count):
            name = f"{index:05d}"
            writer.write(f"{name}.png", Prediction(f"{name}.png", (64, 64), "part", 0.5, found, found), stem=name)
    return time.perf_counter() - began


def main() -> None:
    """Measure both and print the difference."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pictures", type=int, default=500)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--folder", type=Path, default=Path())
    given = options.parse_args()
    spent: dict[str, list[float]] = {"synced": [], "not synced": []}
    for _ in range(given.rounds):
        for name, times in spent.items():
            disk: AbstractContextManager[Any] = patch("os.fsync") if name == "not synced" else nullcontext()
            with TemporaryDirectory(dir=given.folder) as scratch, disk:
                times.append(write(Path(scratch) / "out", given.pictures))
    synced, plain = (statistics.median(times) for times in spent.values())
    each = (synced - plain) / given.pictures * 1000
    print(
        f"{given.pictures} pictures: {synced:.2f} s, {plain:.2f} s without waiting for the disk: "
        f"{synced / plain:.2f} times, {each:.1f} ms a picture"
    )


if __name__ == "__main__":
    main()
