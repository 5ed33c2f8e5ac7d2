"""Patch grid to anomaly map: numpy's twins of `anovl.core.scoring.smooth` and `to_image_size`, for one image.

They need no torch and use one thread, so that maps are made beside the model without taking its threads' cores.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from anovl.config import Recipe
from anovl.results import FloatArray


def anomaly_map(patch_scores: FloatArray, size: tuple[int, int], recipe: Recipe) -> FloatArray:
    """The map [H, W] of a patch grid [h, w] at a size, smoothed and up-sampled as the recipe says."""
    grid = smooth(patch_scores) if recipe.smoothing else patch_scores
    return to_image_size(grid, size, align_corners=recipe.align_corners)


def smooth(patch_scores: FloatArray) -> FloatArray:
    """3x3 mean on the grid [h, w], edges replicated."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(patch_scores, 1, mode="edge"), (3, 3))
    return np.asarray(windows.mean(axis=(2, 3), dtype=np.float32))


def to_image_size(patch_scores: FloatArray, size: tuple[int, int], *, align_corners: bool) -> FloatArray:
    """Bilinear up-sampling of the grid [h, w] to [H, W], values kept in [0, 1].

    Columns first, while the rows are few; then the rows between each two of them, which stay in the cache meanwhile.
    """
    left, beyond = _places(patch_scores.shape[1], size[1], align_corners=align_corners)
    up, below = _places(patch_scores.shape[0], size[0], align_corners=align_corners)
    grid = np.pad(patch_scores, ((0, 1), (0, 1)), mode="edge")
    wide = grid[:, left] + beyond * (grid[:, left + 1] - grid[:, left])  # [h + 1, W]
    result = np.empty(size, np.float32)
    ends = np.searchsorted(up, np.arange(len(grid)))  # of the rows between the same two
    for row, (first, last) in enumerate(itertools.pairwise(ends)):
        band = result[first:last]
        np.multiply(below[first:last, None], wide[row + 1] - wide[row], out=band)
        band += wide[row]
        np.clip(band, 0.0, 1.0, out=band)
    return result


def _places(count: int, target: int, *, align_corners: bool) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """For each of `target` samples along an axis of `count`: the place before it, and how far beyond that it is, in [0, 1)."""
    if align_corners:
        places = np.linspace(0, count - 1, target)
    else:
        places = ((np.arange(target) + 0.5) * count / target - 0.5).clip(0, count - 1)
    before = places.astype(np.intp)
    return before, (places - before).astype(np.float32)
