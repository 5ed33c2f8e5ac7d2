"""How fast the drawn world is drawn: pictures a second on the cores of this machine, beside plain noise saved as PNG.

python benchmarks/synth.py --size 240
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from anovl.data.synthetic import CLASSES
from anovl.data.synthetic.layout import write_dataset


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    total = len(CLASSES) * options.per_class
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "warm", list(CLASSES)[:2], per_class=16, size=options.size, workers=options.workers)
        began = time.perf_counter()
        write_dataset(
            Path(folder) / "set", list(CLASSES), per_class=options.per_class, size=options.size, workers=options.workers
        )
        drawn = total / (time.perf_counter() - began)
        rng = np.random.default_rng(0)
        began = time.perf_counter()
        for number in range(50):
            noise = rng.integers(0, 256, (options.size, options.size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(Path(folder) / f"{number}.png", compress_level=1)
        plain = 50 / (time.perf_counter() - began)
    print(f"{total} pictures of {options.size} px by {options.workers} processes: {drawn:.0f} a second")
    print(f"noise saved as PNG by one process: {plain:.0f} a second; drawing takes {plain / drawn:.1f} times as long")


if __name__ == "__main__":
    main()
