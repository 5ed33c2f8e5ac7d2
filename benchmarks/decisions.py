"""What helps beside the words: adaptation, a few good pictures, the other pictures, tiles; each against the training-free map.

    python benchmarks/decisions.py --folder FOLDER [--parts any lines real] [--real PATH:NAME:TILE ...]

Prints one table in Markdown. Parts: "any", drawn pictures that each show another design, of a seed that nothing was trained on or
chosen by; "lines", the same classes where all pictures of a class come from one production line (`anovl synth --one-line`);
"real", folders in the layout of MVTec AD. Brackets hold 95 % intervals: of the training-free map's figure (TFA), in other rows of
the difference to it; bold is better, italic worse beyond chance. Of drawn pictures classes are drawn anew, of real ones pictures,
the same for both rows. Maps are compared at the pictures' own size. Where a real folder has no good training pictures, those for
the shots are taken from the good test pictures, for all rows. A killed run goes on in its folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from paired import drawn_figures

from anovl import AnoVL, evaluate
from anovl.config import Mutual, Tiling
from anovl.data.datasets import Category, Dataset, load
from anovl.data.synthetic.layout import write_whole
from anovl.evaluation import Evaluation, Variant
from anovl.fitting import drawn

FIGURES = ("image_auroc", "pixel_auroc", "pixel_pro")
SHOTS = (1, 2, 4, 8)
RESAMPLES = 2000
PARTS = {"any": "drawn, any design", "lines": "drawn, one line a class", "real": "real"}


def rows(detector: AnoVL, shots: Sequence[int], tile: int) -> list[Variant]:
    """What is compared; the first is the training-free map."""
    plain = Variant(name="TFA", detector=detector)
    tiled = detector.with_recipe(detector.recipe.having(tiling=Tiling(sides=(tile,))))
    return [
        plain,
        replace(plain, name="TTA", adapt=True),
        *(replace(plain, name=f"{count} shot{'s' if count > 1 else ''}", shots=count) for count in shots),
        replace(plain, name="batched", batched=Mutual()),
        replace(plain, name="batched, no text", batched=Mutual(weight=None)),
        replace(plain, name=f"tiles of {tile} px", detector=tiled),
    ]


def with_training_pictures(category: Category, shots: int) -> Category:
    """The category with good pictures to fit to, if need be taken from its test pictures, at most half of the good ones."""
    if category.train:
        return category
    good = [sample for sample in category.test if not sample.anomalous]
    taken = drawn(good, min(shots, len(good) // 2), 0, name=category.name)
    return replace(category, train=tuple(taken), test=tuple(sample for sample in category.test if sample not in taken))


def by_class(done: Evaluation) -> dict[str, np.ndarray]:
    """Figures of each variant where classes are drawn anew, [1 + resamples, 3], the first those of all classes."""
    cells = {variant.name: done.measured(variant.name).values() for variant in done.variants}
    values = {name: np.array([[one.figures[key] for key in FIGURES] for one in each], float) for name, each in cells.items()}
    count = len(done.dataset.categories)
    draws = np.vstack([np.arange(count), np.random.default_rng(0).integers(count, size=(RESAMPLES, count))])
    return {name: own[draws].mean(axis=1) for name, own in values.items()}


def by_picture(done: Evaluation) -> dict[str, np.ndarray]:
    """The same of one class where its pictures are drawn anew."""
    (category,) = done.dataset.categories
    found = drawn_figures(done, category.name, RESAMPLES)
    whole = {variant.name: done.mean(variant.name) for variant in done.variants}
    return {name: np.vstack([[whole[name][key] for key in FIGURES], own]) for name, own in found.items()}


def table(title: str, found: dict[str, np.ndarray]) -> None:
    """Rows of the table."""
    for name, own in found.items():
        cells = [_cell(own[:, k], None if name == "TFA" else found["TFA"][:, k]) for k in range(len(FIGURES))]
        print(f"| {title} | {name} | {' | '.join(cells)} |", flush=True)
        title = ""


def _cell(own: np.ndarray, base: np.ndarray | None) -> str:
    sign, digits = ("", 1) if base is None else ("+", 2)
    low, high = 100 * np.quantile((own if base is None else own - base)[1:], [0.025, 0.975])
    mark = "" if base is None else "**" if low > 0 else "_" if high < 0 else ""
    return f"{mark}{100 * own[0]:.1f}{mark} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def prepared(dataset: Dataset, shots: int) -> Dataset:
    """The data set with good pictures to fit to."""
    return replace(dataset, categories=tuple(with_training_pictures(one, shots) for one in dataset.categories))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps drawn pictures and scores")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["any", "lines", "real"])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--classes", help="names with commas between; default all")
    parser.add_argument("--per-class", type=int, default=12)
    parser.add_argument("--seed", type=int, default=90)
    parser.add_argument("--size", type=int, default=480, help="px of drawn pictures; tiles are half as large")
    parser.add_argument("--real", action="append", default=[], metavar="PATH:NAME:TILE")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = AnoVL.from_pretrained(options.model)
    names = options.classes.split(",") if options.classes else None
    print("| pictures | | image AUROC | pixel AUROC | PRO |\n|---|---|---|---|---|")
    for part in options.parts:
        if part == "real":
            for real in options.real:
                place, name, tile = real.rsplit(":", 2)
                dataset = prepared(load("folder", Path(place), class_name=name), max(SHOTS))
                shots = [count for count in SHOTS if count <= min(len(one.train) for one in dataset.categories)]
                folder, variants = options.folder / "scores" / name, rows(detector, shots, int(tile))
                done = evaluate(variants, dataset, resolution="original", folder=folder, resume=True)
                table(f"{name}, {sum(len(one.test) for one in dataset.categories)}", by_picture(done))
            continue
        root, folder = options.folder / "drawn" / part, options.folder / "scores" / part
        sizes = {"per_class": options.per_class, "train_per_class": max(SHOTS), "seed": options.seed, "size": options.size}
        write_whole(root, names, one_line=part == "lines", **sizes)
        dataset, variants = load("synthetic", root), rows(detector, SHOTS, options.size // 2)
        done = evaluate(variants, dataset, resolution="original", folder=folder, resume=True)
        table(f"{PARTS[part]}, {len(dataset.categories)} x {options.per_class}", by_class(done))


if __name__ == "__main__":
    main()
