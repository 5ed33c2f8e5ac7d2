"""An image in parts: overlapping tiles at one or several scales beside the whole, their patch grids blended to one without seams.

Everything is placed in cells, the patches of the finest scale: a whole number of cells covers the image, so that a tile's patches
are cells of its scale and nothing is resampled between the tiles of a scale. What comes out is a patch grid of the image as any
other, only finer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anovl.config import Tiling
from anovl.core.scoring import Scores
from anovl.data.foreground import foreground_box

Box = tuple[int, int, int, int]  # left, top, right, bottom, px, as Pillow has it
Shape = tuple[int, int]  # rows, columns
TOLERANCE = 1e-6  # of a number of cells that should be whole


@dataclass(frozen=True)
class Scale:
    """Tiles of one size.

    Attributes:
        shape: cells that cover what is looked at.
        corners: (row, column) of the first cell of each tile.
    """

    shape: Shape
    corners: tuple[Shape, ...]


@dataclass(frozen=True)
class Layout:
    """The parts of an image.

    Attributes:
        grid: (rows, columns) cells of the image.
        start, shape: the first cell, and how many, of what is looked at.
        scales: the whole of it first, as one tile.
        boxes: the tiles of all scales, in px of the image.
    """

    grid: Shape
    start: Shape
    shape: Shape
    scales: tuple[Scale, ...]
    boxes: tuple[Box, ...]

    def join(self, parts: Sequence[Scores]) -> Scores:
        """Scores of the image from those of its parts, one for each of `boxes`, as `Scores.image` gives them.

        Patches: the mean over the scales of what `blend` makes of each; 0 outside of what is looked at. Image score: that of the
        whole. With several seeds each is joined for itself.
        """
        several = parts[0].patch_seeds is not None
        patches = torch.stack([one.patch_seeds if several else one.patch_scores[None] for one in parts])  # type: ignore[misc]
        joined = self._joined(patches)
        named = None
        if parts[0].name_scores is not None:
            grids = torch.stack([one.name_scores.permute(2, 0, 1) for one in parts])  # type: ignore[union-attr]
            named = self._joined(grids).permute(1, 2, 0)
        whole = parts[0]
        return Scores(whole.image_score, joined.mean(dim=0), whole.image_seeds, joined if several else None, named)

    def _joined(self, patches: Tensor) -> Tensor:
        """Grids of the parts [T, S, h, w] as one of the image, [S, rows, columns]."""
        split = patches.split([len(scale.corners) for scale in self.scales])
        maps = [blend(own, scale, self.shape) for own, scale in zip(split, self.scales, strict=True)]
        joined = torch.zeros(patches.shape[1], *self.grid)
        top, left = self.start
        joined[:, top : top + self.shape[0], left : left + self.shape[1]] = torch.stack(maps).mean(dim=0)
        return joined


def lay_out(picture: Image.Image, tiling: Tiling, tile: Shape) -> Layout:
    """The parts of an RGB picture for a model with a patch grid (h, w).

    The finest cells are as large as a patch in the smallest tile, or in the box where there are no tiles; the box around the
    foreground is widened to whole cells.
    """
    size = (picture.height, picture.width)
    found = foreground_box(picture) if tiling.crop == "foreground" else None
    top, left, bottom, right = (0, 0, *size) if found is None else found
    spans = ((top, bottom), (left, right))
    cells = [(stop - first) / count for (first, stop), count in zip(spans, tile, strict=True)]
    if tiling.sides:
        cells = [min(min(tiling.sides) / max(tile), *cells)] * 2
    grid, start, shape = (_pair(values) for values in zip(*map(_snapped, size, spans, cells, tile), strict=True))
    bounds = [number * length / count for number, length, count in zip(shape, size, grid, strict=True)]  # of the box, px
    scales = [Scale(tile, ((0, 0),))]
    for side in sorted(tiling.sides, reverse=True):
        cell = min(side / max(tile), *(bound / count for bound, count in zip(bounds, tile, strict=True)))
        own = _pair([max(count, math.floor(bound / cell + TOLERANCE)) for bound, count in zip(bounds, tile, strict=True)])
        rows, columns = (_corners(number, count, tiling.overlap) for number, count in zip(own, tile, strict=True))
        if own not in [scale.shape for scale in scales]:
            scales.append(Scale(own, tuple(product(rows, columns))))
    boxes = tuple(_box(size, grid, start, shape, scale, corner, tile) for scale in scales for corner in scale.corners)
    return Layout(grid, start, shape, tuple(scales), boxes)


def _pair(values: Sequence[int]) -> Shape:
    first, second = values
    return first, second


def _snapped(length: int, span: tuple[int, int], cell: float, tile: int) -> tuple[int, int, int]:
    """Along an axis: cells of the image, the first of the span, and how many; at least a tile's."""
    count = max(tile, math.floor(length / cell + TOLERANCE))
    size = length / count
    number = max(tile, math.ceil((span[1] - span[0]) / size - TOLERANCE))
    first = round((span[0] + span[1]) / 2 / size - number / 2)
    return count, min(max(first, 0), count - number), number


def _corners(cells: int, tile: int, overlap: float) -> list[int]:
    """First cells of the tiles along an axis, evenly spread."""
    steps = math.ceil((cells - tile) / max(1, math.floor(tile * (1 - overlap))))
    return [round(number * (cells - tile) / steps) for number in range(steps + 1)] if steps else [0]


def _box(size: Shape, grid: Shape, start: Shape, shape: Shape, scale: Scale, corner: Shape, tile: Shape) -> Box:
    """A tile in px of the image."""
    edges = []
    for axis in (0, 1):
        cell = size[axis] / grid[axis]
        own = shape[axis] * cell / scale.shape[axis]
        first = start[axis] * cell + corner[axis] * own
        begin = min(round(first), size[axis] - 1)
        edges.append((begin, min(max(round(first + tile[axis] * own), begin + 1), size[axis])))
    (top, bottom), (left, right) = edges
    return left, top, right, bottom


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
