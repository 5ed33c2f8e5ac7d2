"""Intervals of a class's figures and of their differences between variants, by drawing its pictures with replacement.

The same draws serve all variants, so that differences are paired. Pixels are counted at some levels of their scores, so that a
draw is a product of matrices; figures themselves never come from here.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label

from anovl.data.datasets import read_mask, resize_mask
from anovl.evaluation import Evaluation

LEVELS = 500
LIMIT = 0.3  # of the false-positive rate, for PRO


def drawn_figures(done: Evaluation, category: str, resamples: int) -> dict[str, np.ndarray]:
    """Image AUROC, pixel AUROC and PRO of each variant, [resamples, 3], in sets of pictures that are the same for all."""
    (chosen,) = (one for one in done.dataset.categories if one.name == category)
    bad = np.array([bool(sample.anomalous) for sample in chosen.test])
    rng, times = np.random.default_rng(0), np.zeros((resamples, bad.size))
    for kind in (np.flatnonzero(bad), np.flatnonzero(~bad)):
        times += [np.bincount(rng.choice(kind, kind.size), minlength=bad.size) for _ in range(resamples)]
    found = {}
    for variant in done.variants:
        scored = done.cells[variant.name, category].scored
        scores = np.array([float(one.image_scores[0]) for one in scored])
        wins = (np.sign(scores[bad][:, None] - scores[~bad]) + 1) / 2
        image = np.einsum("rb,bg,rg->r", times[:, bad], wins, times[:, ~bad]) / (bad.sum() * (~bad).sum())
        maps, masks = [], []
        for sample, one in zip(chosen.test, scored, strict=True):
            size = one.size if done.resolution == "original" else variant.detector.backbone.image_size
            maps.append(variant.detector.anomaly_map(one.patch_scores[0], size))
            masks.append(resize_mask(read_mask(sample, one.size), size))
        false, hits, overlap = (_shares(times @ counts) for counts in _counted(maps, masks))
        found[variant.name] = np.column_stack([image, _area(false, hits, 1.0), _area(false, overlap, LIMIT)])
    return found


def _counted(maps: list[np.ndarray], masks: list[np.ndarray]) -> list[np.ndarray]:
    """Good pixels, defect pixels and shares of regions of each picture between levels of the score, from the highest, [N, L]."""
    scores = np.concatenate([values[mask] for values, mask in zip(maps, masks, strict=True)])
    levels = np.unique(np.quantile(scores, np.linspace(0, 1, LEVELS)))
    counts: list[list[np.ndarray]] = [[], [], []]
    for values, mask in zip(maps, masks, strict=True):
        place = len(levels) - np.searchsorted(levels, values, "right")
        regions = label(mask, np.ones((3, 3)))[0]
        weights = (1 / np.maximum(np.bincount(regions.ravel()), 1))[regions]
        for kind, (where, weight) in enumerate(((~mask, None), (mask, None), (mask, weights[mask]))):
            counts[kind].append(np.bincount(place[where], weight, minlength=len(levels) + 1))
    return [np.stack(rows) for rows in counts]


def _shares(counts: np.ndarray) -> np.ndarray:
    """Shares at each level or above, [R, L + 1], from 0 to 1."""
    sums = np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0)))
    shares: np.ndarray = sums / sums[:, -1:]
    return shares


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> list[float]:
    """Under each curve up to x = limit, as a share of the most there can be."""
    areas = []
    for along, up in zip(x, y, strict=True):
        inside = along < limit
        ends = np.append(along[inside], limit), np.append(up[inside], np.interp(limit, along, up))
        areas.append(float(np.trapezoid(ends[1], ends[0])) / limit)
    return areas
