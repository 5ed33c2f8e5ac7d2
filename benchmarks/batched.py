"""Images that score each other: CPU time an image and peak memory, for some numbers of images, beside each image alone.

    python benchmarks/batched.py [--runs 1000:1 5000:0.2 --size 96 --model mini]

A run is COUNT:SHARE, SHARE of the images each is compared with, in a process of its own. Pictures are parts of drawn ones with
noise of their own, in files, since what a source holds in memory is not the method's. CPU time, of all threads, so that other
programs count less. What costs grows with COUNT times SHARE for each image; memory with COUNT times SHARE alone, in blocks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DRAWN = 40  # different pictures under the noise


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Files of size x size px, no two alike."""
    from anovl.data.synthetic import draw

    rng = np.random.default_rng(0)
    whole = [draw("washer", index, size=2 * size).image for index in range(DRAWN)]
    for index in range(count):
        top, left = rng.integers(size, size=2)
        part = whole[index % DRAWN][top : top + size, left : left + size]
        noisy = part.astype(np.int16) + rng.integers(-8, 9, part.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.png", compress_level=1)


def measure(folder: str, model: str, size: int, share: float) -> None:
    """One run: a line of JSON."""
    from anovl import AnoVL
    from anovl.config import Mutual

    detector = AnoVL.from_pretrained(model, image_size=size)
    pictures = sorted(Path(folder).iterdir())
    alone = pictures[: min(500, len(pictures))]
    options: dict[str, Any] = {"class_name": "washer", "output_size": "input", "batch_size": 32}
    list(detector.stream(pictures[:32], **options))  # text features, warm
    began = time.process_time()
    for _ in detector.stream(alone, **options):
        pass
    each = (time.process_time() - began) / len(alone)
    before = peak()
    began = time.process_time()
    scores = [one.pred_score for one in detector.stream(pictures, batched=Mutual(share=share), **options)]
    spent = (time.process_time() - began) / len(pictures)
    patches = detector.method.encoder.grid[0] * detector.method.encoder.grid[1]
    print(
        json.dumps({"alone": each, "batched": spent, "before": before, "peak": peak(), "patches": patches, "scores": len(scores)})
    )


def peak() -> int:
    """Bytes of memory this process has taken at most (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=["1000:1", "5000:0.2"], metavar="COUNT:SHARE")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        measure(options.folder, options.model, options.size, options.share)
        return
    for run in options.runs:
        count, share = run.split(":")
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder), int(count), options.size)
            command = [sys.executable, __file__, "--folder", folder, "--share", share, "--model", options.model]
            answer = subprocess.run([*command, "--size", str(options.size)], check=True, capture_output=True, text=True)  # noqa: S603
        found = json.loads(answer.stdout.splitlines()[-1])
        print(f"{options.model}, {count} images of {found['patches']} patches, each compared with {float(share):.0%} of them")
        print(
            f"  {1000 * found['batched']:.1f} ms of CPU an image, alone {1000 * found['alone']:.1f} ms: "
            f"{found['batched'] / found['alone']:.1f} times"
        )
        print(f"  peak memory {found['peak'] / 1e6:.0f} MB, before the run {found['before'] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
