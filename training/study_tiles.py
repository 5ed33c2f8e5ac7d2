"""How the scales of tiles are best joined, on drawn pictures of seeds that docs/high_resolution.md reports nothing else on.

    python training/study_tiles.py mini --per-class 8 --size 1024

Scores every part once, then compares ways to join them: which scales, arithmetic or harmonic mean, and the image score.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context

import numpy as np
import torch
from evaluate import SEEDS, load
from PIL import Image
from torch import Tensor

from anovl import AnoVL
from anovl.blending import blend
from anovl.config import Tiling
from anovl.core.scoring import to_image_size
from anovl.data.synthetic import CLASSES, Sample, draw
from anovl.engine import local
from anovl.metrics import PixelMetrics, auroc
from anovl.results import ImageScores

MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda maps: maps.mean(dim=0),
    "harmonic": lambda maps: len(maps) / (1 / maps.clamp_min(1e-6)).sum(dim=0),
    "largest": lambda maps: maps.amax(dim=0),
}
IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda scores: scores[0],
    "mean of whole and largest tile": lambda scores: (scores[0] + scores[1:].max()) / 2,
    "largest of all": lambda scores: scores.max(),
    "mean of all": lambda scores: scores.mean(),
}


def scored(detector: AnoVL, sample: Sample, sides: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """For the whole and each size of tiles: the blended grid [h, w], all of one shape, and image scores of its tiles [T]."""
    job = detector.job(sample.class_name, tiles=Tiling(sides=tuple(sides)))
    picture = Image.fromarray(sample.image)
    layout = job.layout(picture)
    pixels = [job.pixels(picture.crop(box)) for box in layout.boxes]
    batches: list[list[ImageScores]] = [local.Stacked(job).score(pixels[start : start + 8]) for start in range(0, len(pixels), 8)]
    parts = list(chain.from_iterable(batches))
    counts = [len(scale.corners) for scale in layout.scales]
    grids = torch.from_numpy(np.stack([part.patch_scores[None] for part in parts])).split(counts)
    maps = [blend(own, scale, layout.shape)[0] for own, scale in zip(grids, layout.scales, strict=True)]
    return maps, list(torch.from_numpy(np.stack([part.image_score for part in parts])).split(counts))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument(
        "--classes", default="washer,gear,pill,circuit board,coin,biscuit,leather,wood,tile,fabric,concrete,asphalt"
    )
    parser.add_argument("--per-class", type=int, default=8)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 256])
    options = parser.parse_args()
    torch.set_num_threads(2)
    detector = AnoVL(load(options.model))
    sides = sorted(options.sides, reverse=True)
    names = ["whole", *map(str, sides)]
    chosen = [(0,), *((index,) for index in range(1, len(names))), *((0, index) for index in range(1, len(names)))]
    chosen += [tuple(range(len(names)))] if len(names) > 2 else []
    figures: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    images: dict[tuple[str, str], list[float]] = {}
    for class_name in options.classes.split(","):
        kinds = CLASSES[class_name].defects
        jobs = [kinds[index // 2 % len(kinds)] if index % 2 else None for index in range(options.per_class)]
        drawn = partial(_drawn, class_name, options.size)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            samples = list(pool.map(drawn, range(len(jobs)), jobs))
        results = [scored(detector, sample, sides) for sample in samples]
        for rows in chosen:
            title = " + ".join(names[row] for row in rows)
            for how, mean in MEANS.items() if len(rows) > 1 else [("-", MEANS["arithmetic"])]:
                metrics = PixelMetrics()
                for sample, (maps, _) in zip(samples, results, strict=True):
                    joined = mean(torch.stack([maps[row] for row in rows]))
                    metrics.update(to_image_size(joined[None], sample.mask.shape, align_corners=False)[0].numpy(), sample.mask)
                found = metrics.compute()
                figures.setdefault((title, how), []).append((found.auroc, found.ap, found.pro))
            if rows[0] == 0 and len(rows) > 1:
                labels = [sample.defect is not None for sample in samples]
                for how, score in IMAGES.items():
                    values = [float(score(torch.cat([own[row] for row in rows]))) for _, own in results]
                    images.setdefault((title, how), []).append(auroc(np.array(values), np.array(labels)))
        print(class_name, flush=True)
    print("maps: pixel AUROC, AP, PRO in percent, means over the classes")
    for (title, how), rows_ in figures.items():
        print(f"{title:20} {how:12}" + " ".join(f"{100 * value:6.2f}" for value in np.mean(rows_, axis=0)))
    print("image AUROC in percent")
    for (title, how), row in images.items():
        print(f"{title:20} {how:32} {100 * np.mean(row):6.2f}")


def _drawn(class_name: str, size: int, index: int, defect: str | None) -> Sample:
    return draw(class_name, SEEDS["validation"] + 2**40 + index, defect=defect, size=size)


if __name__ == "__main__":
    main()
