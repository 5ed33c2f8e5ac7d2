"""Scores of an image from those of its parts (`anovl.tiling`): their patch grids blended to one without seams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anovl.results import FloatArray, ImageScores
from anovl.tiling import Layout, Scale, Shape


def join(layout: Layout, parts: Sequence[ImageScores]) -> ImageScores:
    """Scores of an image from those of its parts, one for each of the layout's boxes.

    Patches: the mean over the scales of what `blend` makes of each; 0 outside of what is looked at. Image score: that of the
    whole. With several seeds each is joined for itself.
    """
    whole = parts[0]
    several = whole.patch_seeds is not None
    joined = _joined(layout, [one.patch_seeds if several else one.patch_scores[None] for one in parts])  # type: ignore[misc]
    named = None
    if whole.name_scores is not None:
        named = _joined(layout, [one.name_scores.transpose(2, 0, 1) for one in parts]).transpose(1, 2, 0)  # type: ignore[union-attr]
    return ImageScores(whole.image_score, joined.mean(axis=0), whole.image_seeds, joined if several else None, named)


def _joined(layout: Layout, patches: Sequence[FloatArray]) -> FloatArray:
    """Grids of the parts, each [S, h, w], as one of the image, [S, rows, columns]."""
    grids = torch.from_numpy(np.stack(patches))
    split = grids.split([len(scale.corners) for scale in layout.scales])
    maps = [blend(own, scale, layout.shape) for own, scale in zip(split, layout.scales, strict=True)]
    joined = torch.zeros(grids.shape[1], *layout.grid)
    top, left = layout.start
    joined[:, top : top + layout.shape[0], left : left + layout.shape[1]] = torch.stack(maps).mean(dim=0)
    return joined.numpy()


def blend(patches: Tensor, scale: Scale, shape: Shape) -> Tensor:
    """One grid of the tiles of a scale: a cell is the mean of the tiles over it, each weighted by its distance from their edges.

    Weights add up to 1 in each cell and run linearly from tile to tile, so that there is no seam.

    Args:
        patches: [T, S, h, w], tiles in the order of the scale's corners.
        scale: where they are.
        shape: (rows, columns) of the result; where the scale has others, up-sampled bilinearly.

    Returns:
        [S, rows, columns] fp32
    """
    rows, columns = patches.shape[-2:]
    window = torch.outer(*(n / 2 - (torch.arange(n) - (n - 1) / 2).abs() for n in (rows, columns)))
    total = torch.zeros(patches.shape[1], *scale.shape)
    weights = torch.zeros(scale.shape)
    for (top, left), own in zip(scale.corners, patches, strict=True):
        total[:, top : top + rows, left : left + columns] += window * own
        weights[top : top + rows, left : left + columns] += window
    return F.interpolate((total / weights)[None], size=shape, mode="bilinear", align_corners=False)[0]
