"""The squash of a picture to a model's input size; no torch, so that an exported model runs without it."""

from __future__ import annotations

from PIL import Image

from anovl.config import Interpolation

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
