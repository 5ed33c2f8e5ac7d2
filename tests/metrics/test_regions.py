"""PRO: hand-computed values, the published evaluation code's numbers, and a plain loop over thresholds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from anovl.errors import UsageError
from anovl.metrics import pro


def regions_of(mask):
    """Sets of pixels that touch, corners too, by flood fill."""
    left = {(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)}
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            region.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        yield region


def plain_pro(maps, masks, limit):
    """The definition, one threshold after the other."""
    thresholds = sorted({float(value) for each in maps for value in each.ravel()}, reverse=True)
    points = [(0.0, 0.0)]
    good = sum(int((~mask).sum()) for mask in masks)
    for threshold in thresholds:
        wrong = sum(int((each[~mask] >= threshold).sum()) for each, mask in zip(maps, masks, strict=True))
        shares = [
            sum(each[pixel] >= threshold for pixel in region) / len(region)
            for each, mask in zip(maps, masks, strict=True)
            for region in regions_of(mask)
        ]
        points.append((wrong / good, sum(shares) / len(shares)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (limit - x0) / (x1 - x0) * (y1 - y0)  # noqa: PLW2901
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@st.composite
def evaluation_sets(draw):
    """One to three small images of different sizes, in scores of few levels, with defects and good pixels."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3))
    levels = draw(st.sampled_from([2, 4, 1000]))
    maps = [draw(hnp.arrays(np.int64, shape, elements=st.integers(0, levels))) / levels for shape in shapes]
    masks = [draw(hnp.arrays(np.bool_, shape)) for shape in shapes]
    masks[0].flat[0] = True
    maps, masks = [*maps, np.full((1, 2), 0.5)], [*masks, np.zeros((1, 2), bool)]
    return maps, masks


@given(evaluation_sets(), st.sampled_from([0.05, 0.3, 1 / 3, 0.5, 1.0]))
def test_equals_a_loop_over_thresholds(images, limit):
    maps, masks = images
    value = pro(maps, masks, limit=limit)
    assert value == pytest.approx(plain_pro(maps, masks, limit), abs=1e-12)
    assert 0 <= value <= 1 + 1e-12
    assert pro(maps[::-1], masks[::-1], limit=limit) == pytest.approx(value, abs=1e-12)


def test_by_hand():
    # Two regions, of 1 and 2 pixels, and 4 good pixels. Thresholds: 0.9 covers the first region: (0, 1/2);
    # 0.8 a good pixel: (1/4, 1/2); 0.7 half of the second and a good pixel: (2/4, 3/4); 0.1 the rest: (1, 1).
    scores = np.array([[0.9, 0.8, 0.7, 0.1, 0.7, 0.1, 0.1]])
    mask = np.array([[1, 0, 1, 1, 0, 0, 0]], bool)
    assert pro([scores], [mask], limit=0.25) == pytest.approx(0.5)
    assert pro([scores], [mask], limit=0.5) == pytest.approx((0.5 + 0.625) / 2)
    assert pro([scores], [mask], limit=0.375) == pytest.approx((0.25 * 0.5 + 0.125 * 0.5625) / 0.375)
    assert pro([scores], [mask], limit=1.0) == pytest.approx(0.25 * 0.5 + 0.25 * 0.625 + 0.5 * 0.875)


def test_a_perfect_a_reversed_and_a_flat_map():
    mask = np.zeros((20, 20), bool)
    mask[3:6, 3:9] = mask[12, 12] = True
    assert pro([mask.astype(float)], [mask]) == pytest.approx(1)
    assert pro([1 - mask.astype(float)], [mask]) == 0
    assert pro([np.zeros(mask.shape)], [mask]) == pytest.approx(0.15)  # one threshold: straight from (0, 0) to (1, 1)


def test_small_regions_count_as_much_as_large_ones():
    mask = np.zeros((30, 30), bool)
    mask[:10, :10] = mask[20, 20] = True
    only_large, only_small = np.zeros((2, 30, 30))
    only_large[:10, :10] = only_small[20, 20] = 1
    assert pro([only_large], [mask]) == pytest.approx(pro([only_small], [mask]))


def test_pixels_that_touch_at_corners_are_one_region():
    mask = np.zeros((6, 6), bool)
    mask[1, 1] = mask[2, 2] = mask[4, 5] = True
    scores = np.zeros((6, 6))
    scores[1, 1] = 1
    # a quarter of the mean overlap at rate 0, then straight to (1, 1)
    assert pro([scores], [mask], limit=1.0) == pytest.approx((0.25 + 1) / 2)


@pytest.mark.parametrize("limit", ["0.05", "0.3", "1.0"])
def test_released_values(golden_dir, limit):
    golden = load_file(golden_dir / "released.safetensors")
    value = pro(golden["metrics/maps"], golden["metrics/masks"], limit=float(limit))
    assert value == pytest.approx(golden[f"metrics/aupro_{limit}"][0], abs=1e-6)


def test_iterators_of_mixed_types():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    scores = np.arange(16).reshape(4, 4)
    maps = [scores.astype(np.float32) / 16, scores / 16, scores.astype(np.float16) / 16]
    assert pro(iter(maps), (mask.astype(np.uint8) for _ in maps)) == pro(maps[1:2], [mask])


@pytest.mark.parametrize(
    ("maps", "masks", "limit", "reason"),
    [
        ([np.zeros((2, 2))], [np.zeros((2, 2), bool)], 0.3, "of 1 images, no mask marks a defect"),
        ([np.zeros((2, 2))], [np.ones((2, 2), bool)], 0.3, "leave no good pixel"),
        ([], [], 0.3, "of 0 images"),
        ([np.zeros((2, 2))], [np.ones((2, 3), bool)], 0.3, r"map 0: .* got \(2, 2\) and \(2, 3\)"),
        ([np.zeros((1, 2, 2))], [np.ones((1, 2, 2), bool)], 0.3, r"map 0: expected \(H, W\)"),
        ([np.zeros((2, 2))] * 2, [np.ones((2, 2), bool)], 0.3, "expected one a map, got fewer"),
        ([np.zeros((2, 2))], [np.ones((2, 2), bool)] * 2, 0.3, "expected one a map, got more"),
        ([np.full((2, 2), np.nan)], [np.ones((2, 2), bool)], 0.3, "map 0: expected finite numbers"),
        ([np.zeros((2, 2))], [np.full((2, 2), 255)], 0.3, "mask 0: expected bool"),
        ([np.zeros((2, 2))], [np.eye(2, dtype=bool)], 0.0, "limit"),
        ([np.zeros((2, 2))], [np.eye(2, dtype=bool)], 30, "limit"),
    ],
)
def test_what_gives_no_number(maps, masks, limit, reason):
    with pytest.raises(UsageError, match=reason):
        pro(maps, masks, limit=limit)
