"""The squash to the model's input: passes in a fixed order."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anovl.data.resizing import squash

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def two_passes(picture, height, width, interpolation, *, vertical_first):
    columns, rows = picture.size
    between = (columns, height) if vertical_first else (width, rows)
    return np.asarray(picture.resize(between, FILTERS[interpolation]).resize((width, height), FILTERS[interpolation]))


@pytest.mark.parametrize("size", [(24, 24), (16, 40), (40, 16), (1, 7)])
def test_squash_gives_height_by_width(size):
    assert squash(noise(50, 30), size, "bicubic").size == (size[1], size[0])


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("shape", "vertical_first"),
    [
        ((300, 60), True),  # tall: height shrinks by 276, width by 36
        ((60, 300), False),  # wide
        ((100, 100), False),  # square
        ((96, 60), False),  # 72 = 2 * 36: not more than twice
        ((97, 60), True),  # 73 > 2 * 36
        ((12, 10), False),  # both grow
        ((200, 10), True),  # height shrinks, width grows
        ((10, 200), False),  # height grows, width shrinks
    ],
)
def test_order_of_passes(shape, vertical_first, interpolation):
    picture = noise(*shape)
    got = np.asarray(squash(picture, (24, 24), interpolation))
    np.testing.assert_array_equal(got, two_passes(picture, 24, 24, interpolation, vertical_first=vertical_first))


def test_order_of_passes_matters():
    picture = noise(300, 60)
    first, second = (two_passes(picture, 24, 24, "bicubic", vertical_first=v) for v in (True, False))
    assert (first != second).any()


def test_squash_is_identity_where_the_size_fits():
    picture = noise(24, 36)
    np.testing.assert_array_equal(np.asarray(squash(picture, (24, 36), "bicubic")), np.asarray(picture))


def test_squash_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None].repeat(3, -1))
    assert np.ptp(np.asarray(squash(stripes, (8, 8), "bilinear"))[:, 1:-1]) <= 2
