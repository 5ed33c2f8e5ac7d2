"""anovl predict on Ray beside the local engine, and on two workers beside one: ratios of one run.

    python benchmarks/cluster.py [--images 2000] [--large 60] [--rounds 1]

`overhead`: small pictures, `mini`, no overlays, one actor on this machine's cores, over the local engine; once as whole commands
and once without the start of either (a run of one picture taken off). `scaling`: pictures of 3000 px, whose decoding costs more
than their scoring, on a cluster of one decoding CPU and of two, beside one actor, without the start.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from ray.cluster_utils import Cluster


def draw(folder: Path, count: int, side: int, suffix: str) -> Path:
    """Noise, smooth enough for a file of usual size."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(folder / f"{index:05d}{suffix}")
    return folder


def seconds(source: Path, *options: str) -> float:
    """Of a command."""
    with TemporaryDirectory() as output:
        line = ["predict", str(source), "--class-name", "nut", "--model", "mini", "--save", "none", "-o", f"{output}/out"]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "anovl", "-q", *line, *options], check=True, stderr=subprocess.DEVNULL)  # noqa: S603
        return time.perf_counter() - began


def on_cluster(cpus: int, sources: list[Path]) -> list[float]:
    """Seconds for each source on a cluster of its own with an actor's CPU and some for decoding."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1 + cpus, "object_store_memory": 500 * 2**20})
    try:
        options = ("--engine", "ray", "--address", cluster.address, "--shard-size", "4", "--output-size", "input")
        return [seconds(source, *options) for source in sources]
    finally:
        cluster.shutdown()


def main() -> None:
    """Print the ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--large", type=int, default=60)
    options.add_argument("--rounds", type=int, default=1)
    given = options.parse_args()
    with TemporaryDirectory() as name:
        root = Path(name)
        one, small = draw(root / "one", 1, 128, ".png"), draw(root / "small", given.images, 128, ".png")
        large = draw(root / "large", given.large, 3000, ".png")
        whole, bare, scaling = [], [], []
        for _ in range(given.rounds):
            (local_start, local), (ray_start, ray) = (
                [seconds(source, *more) for source in (one, small)] for more in ((), ("--engine", "ray"))
            )
            print(
                f"local {local:.1f} s, of these {local_start:.1f} s start; Ray {ray:.1f} s, of these {ray_start:.1f} s start",
                flush=True,
            )
            whole.append(ray / local)
            bare.append((ray - ray_start) / (local - local_start))
            (start_1, run_1), (start_2, run_2) = (on_cluster(cpus, [one, large]) for cpus in (1, 2))
            print(f"decoding: one worker {run_1 - start_1:.1f} s, two {run_2 - start_2:.1f} s", flush=True)
            scaling.append((run_1 - start_1) / (run_2 - start_2))
    print(f"overhead of Ray: whole command {statistics.median(whole):.2f}, without the start {statistics.median(bare):.2f}")
    print(f"scaling from one worker to two: {statistics.median(scaling):.2f}")


if __name__ == "__main__":
    main()
