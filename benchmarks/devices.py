"""Pictures a second on two devices against one: stand-ins that only wait, then two models on this machine's CPU.

    python benchmarks/devices.py [--model mini] [--batch 8] [--batches 30] [--threads 1] [--rounds 5]

A stand-in takes 50 ms a batch and no core, as a GPU would: what is lost to the engine shows. Two models on one CPU share its
cores: each takes --threads of them, and decoding and maps take their share beside both. Turns are taken within each round;
printed are medians of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import ratio, times_in_turn
from PIL import Image

from anovl.data.sources import SourceItem
from anovl.detector import AnoVL
from anovl.engine import local, pipeline

SIDE = 240
WAIT = 0.05


class StandIn:
    """A device that takes its time and does nothing (`anovl.engine.pipeline.Work`)."""

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """The picture as it is."""
        return Image.fromarray(image), image.shape[:2]

    def preprocess(self, picture: Image.Image) -> float:
        """One number of it."""
        return float(np.asarray(picture).mean())

    def score(self, batch: Sequence[float]) -> Sequence[float]:
        """The same, after a while."""
        time.sleep(WAIT)
        return batch

    def finish(self, item: SourceItem, size: tuple[int, int], scores: float, timings: dict[str, float]) -> float:
        """The same."""
        del item, size, timings
        return scores


def compare(name: str, calls: dict[str, Callable[[], object]], pictures: int, rounds: int) -> str:
    """A line: pictures a second on one device and on two, and the ratio."""
    times = times_in_turn(calls, "cpu", rounds)
    one, two = (pictures / statistics.median(spent) for spent in times.values())
    return f"{name:30} {one:8.1f} {two:8.1f} pictures/s   x{ratio(times['one'], times['two']):.2f}"


def main() -> None:
    """Parse, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="mini")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--batches", type=int, default=30)
    options.add_argument("--threads", type=int, default=1, help="of each model")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    items = [SourceItem(image, None, str(index)) for index in range(args.batch * args.batches)]
    work = StandIn()
    with TemporaryDirectory() as folder:
        jobs = AnoVL.from_pretrained(args.model, device="cpu,cpu", cache_dir=folder).job("metal nut").per_device()
    waits: dict[str, Callable[[], object]] = {
        "one": lambda: list(pipeline.run(work, items, batch_size=args.batch)),
        "two": lambda: list(pipeline.run([work, work], items, batch_size=args.batch)),
    }
    models: dict[str, Callable[[], object]] = {
        "one": lambda: list(local.run(jobs[0], items, batch_size=args.batch)),
        "two": lambda: list(local.run(jobs, items, batch_size=args.batch)),
    }
    print(f"{'':30} {'one':>8} {'two':>8}")
    print(compare("stand-ins, 50 ms a batch", waits, len(items), args.rounds))
    print(compare(f"{args.model}, cpu against cpu,cpu", models, len(items), args.rounds))


if __name__ == "__main__":
    main()
