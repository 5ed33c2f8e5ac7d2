"""How often a region gets the name of the defect that was drawn, against chance; and what naming costs.

    python benchmarks/naming.py [--model mini] [--seed 31] [--per-class 16] [--classes tile ...] [--names scratch,hole,...]
    python benchmarks/naming.py --cost mini ViT-B-16-plus-240

Each defective picture of a drawn set counts once: by the largest region of its ground truth, and by the highest region of the
prediction's mask whose box touches the defect; pictures without one are missed. Intervals are 95 % binomial (exact).
Chance is 1 and 3 names of all; "frequent" always tells the most frequent kinds. Costs are of one score on a batch of 8 with the
default names and without, text encoded beforehand; all but mini with random weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from common import random_model, ratio, times_in_turn
from scipy.stats import binomtest

from anovl.config import DEFECT_NAMES
from anovl.core.scoring import TextFeatures
from anovl.data.synthetic import CLASSES, draw
from anovl.data.synthetic.layout import plan
from anovl.detector import AnoVL
from anovl.naming import vocabulary
from anovl.results import Region

WORDS = {"bent": "bend"}  # kinds whose word is another than their own
Told = tuple[str, list[str] | None]  # the drawn kind's word, and the names of the region, if there is one


def told(detector: AnoVL, class_name: str, names: Sequence[str], *, seed: int, per_class: int) -> tuple[list[Told], list[Told]]:
    """Of each defective picture of a class: by the ground truth's region, and by the prediction's."""
    planned = [one for one in plan(class_name, per_class=2 * per_class, seed=seed) if one.defect is not None]
    samples = [draw(class_name, one.seed(seed), defect=one.defect) for one in planned]
    true, found = [], []
    predictions = detector.stream([sample.image for sample in samples], class_name, names=names)
    for sample, prediction in zip(samples, predictions, strict=True):
        kind = str(sample.defect)
        word = WORDS.get(kind, kind)
        drawn = replace(prediction, anomaly_map=sample.mask.astype(np.float32)).regions(0.5)
        true.append((word, _names(max(drawn, key=lambda region: region.area, default=None))))
        touching = (r for r in prediction.regions() if sample.mask[r.box[1] : r.box[3], r.box[0] : r.box[2]].any())
        found.append((word, _names(next(touching, None))))
    return true, found


def _names(region: Region | None) -> list[str] | None:
    return None if region is None else [name for name, _ in region.names]


def share(hits: int, count: int) -> str:
    """A share in percent with its interval."""
    interval = binomtest(hits, count).proportion_ci()
    return f"{100 * hits / count:5.1f} ({100 * interval.low:4.1f} to {100 * interval.high:4.1f})"


def show(title: str, every: Sequence[Told], names: Sequence[str]) -> None:
    """A table: all, and each kind."""
    named = [(word, best) for word, best in every if best]
    print(f"\n{title}: {len(named)} of {len(every)} pictures, the others are missed")
    count = len(named)
    often = [number for _, number in Counter(word for word, _ in named).most_common(3)]
    print(f"  chance    top-1 {100 / len(names):5.1f}   top-3 {300 / len(names):5.1f}")
    print(f"  frequent  top-1 {100 * often[0] / count:5.1f}   top-3 {100 * sum(often) / count:5.1f}")
    for kind in (None, *sorted({word for word, _ in named})):
        ours = [(word, best) for word, best in named if kind in (None, word)]
        first, three = sum(word == best[0] for word, best in ours), sum(word in best for word, best in ours)
        first_told = sum(best[0] == kind for _, best in named)
        rest = "" if kind is None else f"   told first {first_told}"
        print(f"  {kind or 'all':15} n {len(ours):4}   top-1 {share(first, len(ours))}   top-3 {share(three, len(ours))}{rest}")


def cost(name: str) -> None:
    """What names add to one pass."""
    folder = tempfile.mkdtemp()
    detector = AnoVL.from_pretrained(name) if name == "mini" else AnoVL(random_model(name)[1], cache_dir=folder)
    pixels = torch.randn(8, 3, *detector.backbone.image_size)
    width = detector.encode(pixels[:1])[0].shape[1]
    unit = torch.nn.functional.normalize(torch.randn(16 + 2, width), dim=-1)
    plain, named = TextFeatures(unit[:2], unit[:2]), TextFeatures(unit[:2], unit[:2], unit[2:])
    calls: dict[str, Callable[[], object]] = {
        "plain": partial(detector.method.score, pixels, plain),
        "named": partial(detector.method.score, pixels, named),
    }
    with torch.inference_mode():
        times = times_in_turn(calls, "cpu", 9)
    spent = 1000 * statistics.median(times["named"]) / len(pixels)
    print(f"{name:20} {spent:8.2f} ms an image with 16 names, x{ratio(times['named'], times['plain']):.3f} of without")


def main() -> None:
    """Parse, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="mini")
    options.add_argument("--seed", type=int, default=31)
    options.add_argument("--per-class", type=int, default=16, help="defective pictures")
    options.add_argument("--classes", nargs="+", default=list(CLASSES))
    options.add_argument("--names", default=",".join(DEFECT_NAMES))
    options.add_argument("--cost", nargs="+", metavar="MODEL")
    given = options.parse_args()
    torch.set_num_threads(2)
    if given.cost:
        for name in given.cost:
            cost(name)
        return
    detector = AnoVL.from_pretrained(given.model)
    names = vocabulary(given.names)
    true: list[Told] = []
    found: list[Told] = []
    for class_name in given.classes:
        ours = told(detector, class_name, names, seed=given.seed, per_class=given.per_class)
        true += ours[0]
        found += ours[1]
    print(f"{given.model}, seed {given.seed}, {len(given.classes)} classes, {len(names)} names")
    show("ground truth's regions", true, names)
    show("predicted regions", found, names)


if __name__ == "__main__":
    main()
