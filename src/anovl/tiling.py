"""An image in parts: where overlapping tiles at one or several scales beside the whole lie; `anovl.blending` joins their scores.

Everything is placed in cells, the patches of the finest scale: a whole number of cells covers the image, so that a tile's patches
are cells of its scale and nothing is resampled between the tiles of a scale. What comes out is a patch grid of the image as any
other, only finer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from PIL import Image

from anovl.config import Tiling
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
