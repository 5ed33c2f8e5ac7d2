"""anovl predict on Ray beside the local engine, and on two workers beside one: ratios of one run.

    python benchmarks/cluster.py [--images 2000] [--large 240] [--rounds 1] [--only overhead|scaling] [--keep FOLDER]

`overhead`: `mini` on this machine, over the local engine; pictures of 1024 px with their overlays, as the command saves them,
and pictures of 128 px with nothing saved; each once as whole commands and once without the start of either (a run of one picture
taken off). `scaling`: pictures of 3000 px, whose decoding costs more than their scoring, on a cluster of one decoding CPU and of
two, beside one actor, without the start.
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

DISTINCT = 20


def draw(folder: Path, count: int, side: int, suffix: str) -> Path:
    """Noise, smooth enough for a file of usual size; after `DISTINCT` pictures the same again. None where they are there."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:05d}{suffix}"
        if index >= DISTINCT:
            path.hardlink_to(folder / f"{index % DISTINCT:05d}{suffix}")
            continue
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(path)
    return folder


def seconds(source: Path, *options: str, save: str = "none") -> float:
    """Of a command."""
    with TemporaryDirectory() as output:
        line = ["predict", str(source), "--class-name", "nut", "--model", "mini", "--save", save, "-o", f"{output}/out"]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "anovl", "-q", *line, *options], check=True, stderr=subprocess.DEVNULL)  # noqa: S603
        return time.perf_counter() - began


def overhead(one: Path, many: Path, save: str) -> tuple[float, float]:
    """Of Ray over the local engine: whole commands, and without their start."""
    (local_start, local), (ray_start, ray) = (
        [seconds(source, "--engine", engine, save=save) for source in (one, many)] for engine in ("local", "ray")
    )
    told = f"local {local:.1f} s, of these {local_start:.1f} s start; Ray {ray:.1f} s, of these {ray_start:.1f} s start"
    print(f"{many.name}: {told}", flush=True)
    return ray / local, (ray - ray_start) / (local - local_start)


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
    options.add_argument("--large", type=int, default=240)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--only", choices=("overhead", "scaling"))
    options.add_argument("--keep", type=Path, help="folder of the pictures, for the next run; default one that goes")
    given = options.parse_args()
    with TemporaryDirectory() as name:
        root = given.keep or Path(name)
        one = draw(root / "one", 1, 128, ".png")
        kinds: dict[str, tuple[Path, str]] = {}
        large: Path | None = None
        if given.only != "scaling":
            kinds["1024 px, overlays"] = (draw(root / f"{given.images} of 1024px", given.images, 1024, ".jpg"), "overlay")
            kinds["128 px, nothing saved"] = (draw(root / f"{given.images} of 128px", given.images, 128, ".png"), "none")
        if given.only != "overhead":
            large = draw(root / f"{given.large} large", given.large, 3000, ".png")
        costs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        scaling = []
        for _ in range(given.rounds):
            for kind, (many, save) in kinds.items():
                costs[kind].append(overhead(one, many, save))
            if large is not None:
                (start_1, run_1), (start_2, run_2) = (on_cluster(cpus, [one, large]) for cpus in (1, 2))
                print(f"decoding: one worker {run_1 - start_1:.1f} s, two {run_2 - start_2:.1f} s", flush=True)
                scaling.append((run_1 - start_1) / (run_2 - start_2))
    for kind, ratios in costs.items():
        whole, bare = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"overhead of Ray, {kind}: whole command {whole:.2f}, without the start {bare:.2f}")
    if scaling:
        print(f"scaling from one worker to two: {statistics.median(scaling):.2f}")


if __name__ == "__main__":
    main()
