"""Tiles against no tiles, on small defects: figures with intervals, and how many times as long it takes.

    python benchmarks/tiles.py --data ../shared/data/magnetic_tile --sides 128
    python benchmarks/tiles.py --drawn leather,concrete,washer,circuit_board --seed 4001 --size 1024 --sides 256

Every row is the same model: the whole image as in the paper, tiles beside it, the crop to the foreground, both. Maps are
compared at each image's own size. Intervals are bootstrapped over the images; the last column is the mean difference of the AUROC
within each defective image to the first row's, with its interval. Times are medians of rounds in which the rows take turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import ratio, times_in_turn

from anovl import AnoVL, datasets
from anovl.config import Tiling
from anovl.data.sources import SourceItem
from anovl.data.synthetic.layout import write_dataset
from anovl.detection import DetectionJob
from anovl.engine import local
from anovl.evaluation import Evaluation, Variant, evaluate

SHOWN = ("pixel_auroc", "pixel_ap", "pixel_pro", "image_auroc")
RESAMPLES = 500


def variants(model: str, sides: tuple[int, ...], *, crop: bool, adapt: bool) -> list[Variant]:
    """The rows: one backbone under recipes that differ in the tiling."""
    detector = AnoVL.from_pretrained(model, device="cpu")
    tilings = {"whole": Tiling(), "tiles": Tiling(sides=sides)}
    if crop:
        tilings |= {"crop": Tiling(crop="foreground"), "tiles, crop": Tiling(sides=sides, crop="foreground")}
    return [
        Variant(name=name, detector=detector.with_recipe(detector.recipe.having(tiling=tiling)), adapt=adapt)
        for name, tiling in tilings.items()
    ]


def shown(done: Evaluation, variant: str, category: str) -> str:
    """A line of figures in percent with their intervals, and the difference to the whole image."""
    measured, base = done.measured(variant)[category], done.measured("whole")[category]
    cells = []
    for name in SHOWN:
        low, high = measured.intervals[name]
        cells.append(f"{100 * (measured.figures[name] or 0):5.1f} ({100 * low:4.1f} to {100 * high:5.1f})")
    gains = [
        100 * (mine.pixel_auroc - theirs.pixel_auroc)
        for mine, theirs in zip(measured.images, base.images, strict=True)
        if mine.pixel_auroc is not None and theirs.pixel_auroc is not None
    ]
    rng = np.random.default_rng(0)
    means = [float(np.mean(rng.choice(gains, len(gains)))) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return "  ".join(cells) + f"  {np.mean(gains):+5.1f} ({low:+.1f} to {high:+.1f})"


def score(job: DetectionJob, items: list[SourceItem]) -> None:
    """Scores and maps of images, as a run makes them."""
    for _ in local.run(job, items):
        pass


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a category in the layout of MVTec AD")
    source.add_argument("--drawn", help="classes to draw, with commas between")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--sides", type=int, nargs="+", required=True)
    parser.add_argument("--crop", action="store_true", help="rows with the crop to the foreground too")
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--limit", type=int, help="images a category")
    parser.add_argument("--per-class", type=int, default=12)
    parser.add_argument("--seed", type=int, default=4001)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = variants(options.model, tuple(options.sides), crop=options.crop, adapt=options.adapt)
    with TemporaryDirectory() if options.data is None else nullcontext(options.data) as folder:
        if options.data is None:
            names = [name.replace("_", " ") for name in options.drawn.split(",")]
            root = Path(folder) / "drawn"
            write_dataset(root, names, per_class=options.per_class, seed=options.seed, size=options.size, workers=options.threads)
        else:
            root = Path(folder)
        data = datasets.load("folder", root)
        done = evaluate(rows, data, resolution="original", limit=options.limit, bootstrap=RESAMPLES)
        sample = data.categories[0].test[0]
        items = [SourceItem(sample.image, sample.key, sample.key)]
        jobs = {row.name: row.detector.job("part", adapt=options.adapt) for row in rows}
        calls: dict[str, Callable[[], object]] = {name: partial(score, job, items) for name, job in jobs.items()}
        spent = times_in_turn(calls, "cpu", options.rounds)
    print(f"{'':24} {'':12} " + "  ".join(f"{name.replace('_', ' '):>21}" for name in SHOWN) + "  within an image")
    for category in done.dataset.categories:
        for row in rows:
            print(f"{category.name:24} {row.name:12} {shown(done, row.name, category.name)}")
        for kind in done.measured("whole")[category.name].by_defect:
            both = ", ".join(
                f"{row.name} {100 * (done.measured(row.name)[category.name].by_defect[kind]['pixel_auroc'] or 0):.1f}"
                for row in rows
            )
            print(f"  {kind}: pixel AUROC {both}")
    if len(done.dataset.categories) > 1:
        for row in rows:
            print(f"{'mean':24} {row.name:12} " + "  ".join(f"{100 * (done.mean(row.name)[name] or 0):5.1f}" for name in SHOWN))
    for row in rows:
        took = statistics.median(spent[row.name])
        print(f"time of an image, {row.name}: {1000 * took:.0f} ms, x{ratio(spent[row.name], spent['whole']):.1f}")


if __name__ == "__main__":
    main()
