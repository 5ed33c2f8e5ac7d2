"""Drawing on a scale that the score fixes: the same value has the same colour in every picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anovl.render.overlay import (
    CONTOUR,
    MAX_SIDE,
    MIN_SIDE,
    TRUTH,
    blend,
    colourise,
    contour,
    display_size,
    heatmap,
    mask_image,
    normalise,
    overlay,
)
from anovl.results import Prediction

COLD, HOT = (20, 26, 84), (230, 45, 30)


def make(anomaly_map, **changes) -> Prediction:
    anomaly_map = np.asarray(anomaly_map, np.float32)
    fields = {"image_path": None, "image_size": anomaly_map.shape, "class_name": "nut", "pred_score": 0.5}
    return Prediction(**{**fields, "anomaly_map": anomaly_map, "patch_scores": np.zeros((1, 1), np.float32), **changes})


def black(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height))


@pytest.mark.parametrize("others", [0.0, 0.3, 1.0])
def test_same_value_same_colour(others):
    values = np.full((300, 400), others)
    values[:150] = 0.4
    drawn = {
        (heatmap(make(values)).getpixel((200, 50)), overlay(black(300, 400), make(values, threshold=0.9)).getpixel((200, 50)))
    }
    alone = np.full((300, 400), 0.4)
    assert drawn == {(heatmap(make(alone)).getpixel((0, 0)), overlay(black(300, 400), make(alone)).getpixel((200, 50)))}


def test_picture_without_defect_stays_as_it_is():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    drawn = np.asarray(overlay(picture, make(np.full((300, 400), 0.05))))[:, :400]
    assert np.abs(drawn.astype(int) - np.asarray(picture)).max() <= 2


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((1, 1), (MIN_SIDE, MIN_SIDE)),
        ((10000, 3), (1, MAX_SIDE)),
        ((3, 10000), (MAX_SIDE, 1)),
        ((300, 500), (500, 300)),
        ((MIN_SIDE, 10), (10, MIN_SIDE)),
        ((MAX_SIDE, MAX_SIDE), (MAX_SIDE, MAX_SIDE)),
        ((128, 64), (128, 256)),
        ((3200, 1600), (800, 1600)),
    ],
)
def test_display_size(image_size, expected):
    assert display_size(image_size) == expected


@pytest.mark.parametrize("image_size", [(1, 1), (10000, 3), (3, 10000), (40, 60)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_overlay_of_any_size(image_size, value):
    width, height = display_size(image_size)
    drawn = overlay(black(*image_size), make(np.full(image_size, value)), truth=Image.new("1", image_size[::-1], 1))
    assert drawn.mode == "RGB"
    assert drawn.height == max(height, MIN_SIDE)
    assert drawn.width > width
    assert drawn.getpixel((0, 0)) == (CONTOUR if value == 1 else TRUTH)  # framed


def test_map_smaller_than_the_picture_is_stretched():
    drawn = overlay(black(300, 400), make(np.array([[0, 1]]), image_size=(300, 400), threshold=1.0))
    assert drawn.getpixel((10, 150)) == (0, 0, 0)
    np.testing.assert_allclose(drawn.getpixel((380, 100)), np.array(HOT) * 0.7, atol=1)


def test_contour_is_the_inner_border():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    expected = mask.copy()
    expected[3:6, 3:6] = False
    np.testing.assert_array_equal(contour(mask, 1), expected)
    expected[3:6, 3:6] = True
    expected[4, 4] = False
    np.testing.assert_array_equal(contour(mask, 2), expected)


def test_regions_are_framed_and_named_where_there_are_names():
    values = np.zeros((300, 400), np.float32)
    values[100:150, 390:] = 0.9  # at the right edge: the name must not run out of the picture
    one = make(values)
    named = replace(one, names=("discoloration", "cut"), name_scores=np.full((1, 1, 2), [0.5, 0.25], np.float32))
    plain, drawn = (np.asarray(overlay(black(300, 400), each)) for each in (one, named))
    yellow = (drawn == (255, 214, 10)).all(axis=-1)
    assert not (plain == (255, 214, 10)).all(axis=-1).any()
    assert yellow[100, 390:400].all()  # the box
    assert yellow[70:98, 200:380].sum() > 200  # the name above it, moved to the left
    assert not yellow[:, 400:].any()  # nothing on the bar
    short = replace(named, names=("x", "cut"))
    assert (np.asarray(overlay(black(300, 400), short)) != drawn).any()


def test_mask_of_the_whole_picture_is_framed():
    frame = contour(np.ones((4, 5), bool), 1)
    assert frame.sum() == 14
    assert not frame[1:-1, 1:-1].any()


def test_mask_is_drawn_white():
    values = np.zeros((300, 400))
    values[100:200, 100:200] = 1
    drawn = np.asarray(overlay(black(300, 400), make(values)))[:, :400]
    white = (drawn == CONTOUR).all(-1)
    assert white[100, 150]
    assert white[199, 150]
    assert white[150, 100]
    np.testing.assert_array_equal(white, contour(values > 0, 1))


def test_truth_is_drawn_green():
    truth = np.zeros((300, 400), np.uint8)
    truth[100:200, 50:150] = 1  # any value over 0
    prediction = make(np.zeros((300, 400)))
    drawn = np.asarray(overlay(black(300, 400), prediction, Image.fromarray(truth)))[:, :400]
    np.testing.assert_array_equal((drawn == TRUTH).all(-1), contour(truth > 0, 1))
    assert not (np.asarray(overlay(black(300, 400), prediction)) == TRUTH).all(-1).any()


def test_heatmap_and_mask_pixel_for_pixel():
    values = np.array([[0.0, 0.25, 0.5], [0.499, 0.75, 1.0]], np.float32)
    drawn = np.asarray(heatmap(make(values)))
    assert drawn.shape == (2, 3, 3)
    np.testing.assert_array_equal(drawn, colourise(values))
    assert tuple(drawn[0, 0]) == COLD
    assert tuple(drawn[1, 2]) == HOT
    np.testing.assert_allclose(drawn[0, 2], (60, 170, 160), atol=3)
    assert np.asarray(mask_image(make(values))).tolist() == [[0, 0, 255], [0, 255, 255]]


def test_colours_rise_in_red_minus_blue():
    warmth = colourise(np.linspace(0, 1, 256, dtype=np.float32)[None])[0].astype(int) @ [1, 0, -1]
    assert (np.diff(warmth) >= -2).all()


def test_narrow_score_range():
    values = np.array([[0.1, 0.4, 0.5, 0.6, 0.9]], np.float32)
    np.testing.assert_allclose(normalise(values, (0.4, 0.6)), [[0, 0, 0.5, 1, 1]], atol=1e-6)
    drawn = np.asarray(heatmap(make(values, score_range=(0.4, 0.6))))[0]
    assert [tuple(c) for c in drawn[[0, 1, 3, 4]]] == [COLD, COLD, HOT, HOT]
    np.testing.assert_allclose(drawn[2], (60, 170, 160), atol=3)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.502, 1.0])
def test_overlay_on_a_narrow_range_with_the_threshold_anywhere(threshold):
    drawn = overlay(black(300, 400), make(np.full((300, 400), 0.505), score_range=(0.499, 0.505), threshold=threshold))
    np.testing.assert_allclose(drawn.getpixel((200, 150)), np.array(HOT) * 0.7, atol=1)


def test_outline_goes_by_the_threshold_of_pixels():
    values = np.zeros((300, 400), np.float32)
    values[100:200, 100:300] = 0.6
    seen = [
        np.asarray(overlay(black(300, 400), make(values, **thresholds)).crop((0, 0, 400, 300)))
        for thresholds in ({"threshold": 0.5}, {"threshold": 0.9, "pixel_threshold": 0.5}, {"threshold": 0.9})
    ]
    assert (seen[0] == seen[1]).all()
    assert (seen[0] != seen[2]).any()


@pytest.mark.parametrize("height", [30, 300])
def test_colour_bar(height):
    drawn = np.asarray(overlay(black(height, 400), make(np.zeros((height, 400)), threshold=0.5)))
    bar = drawn[:, 420].astype(int)  # through the middle of the bar
    hot, cold = (np.abs(bar - colour).max(-1) <= 8 for colour in (HOT, COLD))
    assert hot.any()
    assert cold.any()
    assert np.flatnonzero(hot).max() < np.flatnonzero(cold).min()  # hot on top
    assert np.flatnonzero(cold).min() - np.flatnonzero(hot).min() > 100


def test_blend_shows_the_picture_alone_where_nothing_is_to_be_drawn():
    picture = Image.new("RGB", (40, 20), (90, 120, 30))
    one = make(np.full((10, 20), 0.9))
    assert np.array_equal(np.asarray(blend(picture, one, opacity=0, contours=False)), np.asarray(picture))
    hot, framed = (np.asarray(blend(picture, one, contours=contours)).astype(int) for contours in (False, True))
    assert hot[10, 20, 0] > 150  # red over the green
    assert (framed[0, :] == 255).all()
    assert (framed[5:15, 5:35] == hot[5:15, 5:35]).all()
    half = np.asarray(blend(picture, one, opacity=0.35, contours=False)).astype(int)
    assert np.abs(half - (hot + np.asarray(picture)) / 2).max() <= 2
