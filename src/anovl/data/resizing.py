"""An RGB picture -> the model's input; in numpy, for torch would give each thread that decodes a pool of its own threads."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anovl.config import Interpolation
from anovl.results import FloatArray

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def squash(picture: Image.Image, size: tuple[int, int], interpolation: Interpolation) -> Image.Image:
    """Resize to (H, W) without keeping the aspect, antialiased, by two 8-bit passes in a fixed order.

    Pillow rounds to 8 bit between the passes, and which pass comes first differs between its versions, so
    the order is fixed here: vertical first where the height shrinks by more than twice what the width does
    (Pillow 13; python-pillow/Pillow#9549). Every Pillow then gives the same pixels.
    """
    height, width = size
    columns, rows = picture.size
    vertical_first = rows > height and rows - height > 2 * (columns - width)
    between = (columns, height) if vertical_first else (width, rows)
    return picture.resize(between, _FILTERS[interpolation]).resize((width, height), _FILTERS[interpolation])


def to_pixel_values(
    picture: Image.Image,
    *,
    size: tuple[int, int],
    interpolation: Interpolation,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> FloatArray:
    """Squash, scale to [0, 1], normalise.

    Args:
        picture: RGB.
        size: (H, W) of the model's input.
        interpolation: filter of the squash.
        mean, std: of the checkpoint, per channel, on the [0, 1] scale.

    Returns:
        [3, H, W]
    """
    values = np.asarray(squash(picture, size, interpolation)).transpose(2, 0, 1).astype(np.float32, order="C")
    values /= 255
    values -= np.asarray(mean, np.float32)[:, None, None]
    values /= np.asarray(std, np.float32)[:, None, None]
    return values
