"""Regions of a mask, and the per-region overlap as the literature computes it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anovl.metrics.runs import Run

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
LEGACY_THRESHOLDS = 200
BLOCK = 1 << 16  # scores read at a time


def region_shares(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], int]:
    """What each pixel of a defect adds to the overlap: one over the area of its 8-connected region.

    Args:
        mask: [H, W], True on the defect.

    Returns:
        shares, one for each True pixel in the order of `mask[mask]`, and the number of regions, their sum.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.empty(0), 0
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    labels, count = ndimage.label(box, EIGHT_CONNECTED)
    inside = labels[box]
    return 1 / np.bincount(inside)[inside], int(count)


def legacy_pro(good: Sequence[Run], bad: Sequence[Run], *, limit: float) -> float:
    """PRO as most published tables have it, from 200 thresholds; up to a point below the exact one.

    The thresholds rise from the smallest score in steps of (largest - smallest) / 200, the second one rounded to the
    scores' own precision and the others spaced alike, as the range function of numpy has them; the largest score is
    none of them. Covered is what exceeds a threshold. Of the points with a false-positive rate below the limit, the
    rates are stretched to [0, 1]; the area is trapezoidal, with nothing interpolated at the limit.

    Args:
        good, bad: sorted runs of all good pixels and of all defect pixels, at least one of each.
        limit: of the false-positive rate.

    Returns:
        the area; NaN where fewer than two different rates are below the limit, or the scores' range overflows.
    """
    low = min(run.scores[0] for run in (*good, *bad))
    high = max(run.scores[-1] for run in (*good, *bad))
    with np.errstate(over="ignore"):
        span = high - low
        step = float(low + span / span.dtype.type(LEGACY_THRESHOLDS)) - float(low)
    if not np.isfinite(step):
        return float("nan")
    thresholds = np.float64(low) + np.arange(LEGACY_THRESHOLDS) * step
    alarms = np.array([sum(len(run) - bisect_right(run.scores, each) for run in good) for each in thresholds])
    gained = np.zeros(LEGACY_THRESHOLDS + 1)  # overlap by the number of thresholds that a score exceeds
    for part in (run[start : start + BLOCK].load() for run in bad for start in range(0, len(run), BLOCK)):
        exceeded = np.searchsorted(thresholds, part.scores, "left")
        gained += np.bincount(exceeded, weights=part.shares, minlength=gained.size)
    rate = alarms / sum(map(len, good))
    below = rate < limit
    x, y = rate[below], (gained[::-1].cumsum()[-2::-1] / gained.sum())[below]
    width = x[0] - x[-1] if x.size else 0.0
    return float(-np.diff(x) @ (y[1:] + y[:-1]) / 2 / width) if width else float("nan")
