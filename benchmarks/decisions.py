"""What helps beside the words: adaptation, a few good pictures, the other pictures; each against the training-free map.

    python benchmarks/decisions.py [--model mini --per-class 12 --seed 90] [--real FOLDER:NAME ...]

Drawn pictures of seeds that training never saw, 31 classes; the mean over the classes and 95 % intervals by drawing classes with
replacement, of a difference class by class. A folder of real pictures in the layout of MVTec AD is one class: its intervals come
from drawing pictures. Where it has no good training pictures, those for the shots are taken from the good test pictures, for
all rows.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anovl import AnoVL, evaluate
from anovl.config import Mutual
from anovl.data.datasets import Category, Dataset, load
from anovl.data.synthetic.layout import write_dataset
from anovl.evaluation import Evaluation, Variant
from anovl.fitting import drawn

FIGURES = ("image_auroc", "pixel_auroc", "pixel_pro")
SHOTS = (1, 2, 4, 8)
RESAMPLES = 2000


def rows(detector: AnoVL, shots: Sequence[int]) -> list[Variant]:
    """What is compared; the first is the training-free map."""
    plain = Variant(name="TFA", detector=detector)
    return [
        plain,
        replace(plain, name="TTA", adapt=True),
        *(replace(plain, name=f"{count} shot", shots=count) for count in shots),
        replace(plain, name="batched", batched=Mutual()),
        replace(plain, name="batched, no text", batched=Mutual(weight=None)),
    ]


def with_training_pictures(category: Category, shots: int) -> Category:
    """The category with good pictures to fit to, if need be taken from its test pictures, at most half of the good ones."""
    if category.train:
        return category
    good = [sample for sample in category.test if not sample.anomalous]
    taken = drawn(good, min(shots, len(good) // 2), 0, name=category.name)
    return replace(category, train=tuple(taken), test=tuple(sample for sample in category.test if sample not in taken))


def by_class(done: Evaluation) -> None:
    """A table with intervals over classes."""
    values = {
        name: np.array(
            [
                [done.cells[name, category.name].measured.figures[figure] for figure in FIGURES]
                for category in done.dataset.categories
            ],
            dtype=float,
        )
        * 100
        for name in (variant.name for variant in done.variants)
    }
    count = len(done.dataset.categories)
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    base = values["TFA"]
    print(f"{'':18}" + "".join(f"{figure.replace('_', ' '):>22}" for figure in FIGURES) + "   minus TFA")
    for name, own in values.items():
        cells = [_interval(own[:, k], draws) for k in range(len(FIGURES))]
        gains = [_interval((own - base)[:, k], draws, sign="+") for k in range(len(FIGURES))] if own is not base else []
        print(f"{name:18}" + "".join(f"{cell:>22}" for cell in cells) + "   " + "  ".join(gains))


def _interval(values: np.ndarray, draws: np.ndarray, sign: str = "") -> str:
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def by_picture(done: Evaluation) -> None:
    """A table of one class with intervals over pictures."""
    (category,) = done.dataset.categories
    print(f"\n{category.class_name}: {len(category.test)} pictures")
    print(f"{'':18}" + "".join(f"{figure.replace('_', ' '):>22}" for figure in FIGURES))
    for variant in done.variants:
        one = done.cells[variant.name, category.name].measured
        cells = [
            f"{100 * (one.figures[figure] or 0):.1f} [{100 * one.intervals[figure][0]:.1f}, {100 * one.intervals[figure][1]:.1f}]"
            for figure in FIGURES
        ]
        print(f"{variant.name:18}" + "".join(f"{cell:>22}" for cell in cells))


def prepared(dataset: Dataset, shots: int) -> Dataset:
    """The data set with good pictures to fit to."""
    return replace(dataset, categories=tuple(with_training_pictures(one, shots) for one in dataset.categories))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--classes", help="names with commas between; default all")
    parser.add_argument("--per-class", type=int, default=12)
    parser.add_argument("--seed", type=int, default=90)
    parser.add_argument("--real", action="append", default=[], metavar="FOLDER:NAME")
    options = parser.parse_args()
    detector = AnoVL.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "drawn"
        names = options.classes.split(",") if options.classes else None
        write_dataset(root, names, per_class=options.per_class, train_per_class=max(SHOTS), seed=options.seed)
        done = evaluate(rows(detector, SHOTS), load("folder", root))
        print(f"{options.model}, {len(done.dataset.categories)} drawn classes, {options.per_class} pictures a class, percent")
        by_class(done)
    for real in options.real:
        place, _, name = real.rpartition(":")
        dataset = prepared(load("folder", Path(place), class_name=name), max(SHOTS))
        shots = [count for count in SHOTS if count <= min(len(one.train) for one in dataset.categories)]
        by_picture(evaluate(rows(detector, shots), dataset, bootstrap=500))


if __name__ == "__main__":
    main()
