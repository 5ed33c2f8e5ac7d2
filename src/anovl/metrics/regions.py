"""Measures of maps against masks that count each defect once, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anovl.errors import UsageError
from anovl.metrics.curves import as_labels, as_scores

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


def pro(maps: Iterable[npt.ArrayLike], masks: Iterable[npt.ArrayLike], *, limit: float = 0.3) -> float:
    """Per-region overlap (Bergmann et al. 2020, "Uninformed Students"), exact at every threshold.

    At each threshold: the share of a region's pixels at or above it, mean over the 8-connected regions of all
    images, against the false-positive rate over the good pixels of all images. The area under that curve up to
    `limit`, linearly interpolated there, divided by `limit`.

    Args:
        maps: one [H, W] an image, finite numbers; larger means more anomalous; sizes may differ between images.
        masks: one [H, W] a map, bool or 0 and 1; True on the defect.
        limit: largest false-positive rate that counts, above 0 and at most 1.

    Returns:
        the normalised area, 0 to 1.

    Raises:
        UsageError: not as many masks as maps, a map or mask that is not as above, no defect or no good pixel at all.
    """
    if not 0 < limit <= 1:
        raise UsageError(f"limit: expected a false-positive rate above 0 and at most 1, got {limit}")
    good, bad, weight = [], [], []  # scores of good pixels; of defect pixels; what each of these adds to the overlap
    regions = 0
    for index, (raw_map, raw_mask) in enumerate(zip_longest(maps, masks)):
        if raw_map is None or raw_mask is None:
            raise UsageError(f"masks: expected one a map, got {'fewer' if raw_mask is None else 'more'} (maps: {index} and on)")
        values, mask = as_scores(f"map {index}", raw_map), as_labels(f"mask {index}", raw_mask)
        if values.ndim != 2 or values.shape != mask.shape:
            raise UsageError(f"map {index}: expected (H, W) of map and mask alike, got {values.shape} and {mask.shape}")
        labels, count = ndimage.label(mask, EIGHT_CONNECTED)
        inside = labels[mask]
        good.append(values[~mask])
        bad.append(values[mask])
        weight.append(1 / np.bincount(inside)[inside] if count else np.empty(0))
        regions += count
    if regions == 0 or not any(part.size for part in good):
        kind = "no mask marks a defect" if regions == 0 else "the masks leave no good pixel"
        raise UsageError(f"PRO needs defects and good pixels; of {len(good)} images, {kind}")
    rate, overlap = _curve(np.sort(np.concatenate(good)), np.concatenate(bad), np.concatenate(weight) / regions)
    return _area(rate, overlap, limit) / limit


def _curve(
    good: npt.NDArray[np.floating], bad: npt.NDArray[np.floating], weight: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Corners of the curve, false-positive rate and overlap, both rising from 0 to 1.

    The overlap changes only at scores of defect pixels: at each of these the curve goes straight from the point
    just above the score to the point at it (good pixels of the same score make it slant), between them it is level.

    Args:
        good: scores of good pixels, sorted.
        bad: scores of defect pixels.
        weight: share of the overlap that each defect pixel is; 1 in all.
    """
    order = np.argsort(bad)[::-1]
    bad = bad[order]
    last = np.flatnonzero(np.append(bad[1:] != bad[:-1], True))  # of each run of equal scores
    covered = np.cumsum(weight[order])[last]
    covered[-1] = 1.0  # less rounding
    above, at = ((good.size - np.searchsorted(good, bad[last], side)) / good.size for side in ("right", "left"))
    rate = np.concatenate([[0.0], np.column_stack([above, at]).ravel(), [1.0]])
    overlap = np.concatenate([[0.0], np.column_stack([np.append(0.0, covered[:-1]), covered]).ravel(), [1.0]])
    return rate, overlap


def _area(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], limit: float) -> float:
    """Area under the corners (x, y) from x = 0, up to `limit`; x rises from 0 to 1."""
    inside = int(np.searchsorted(x, limit, "right"))
    if inside < len(x):
        share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        y = np.append(y[:inside], y[inside - 1] + share * (y[inside] - y[inside - 1]))
        x = np.append(x[:inside], limit)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
