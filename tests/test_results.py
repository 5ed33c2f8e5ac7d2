"""Predictions: checked where they are made; mask, regions, row and drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from anovl.errors import ImageNotFoundError, OutputError, UsageError
from anovl.results import Prediction, Region


def make(values=None, **changes) -> Prediction:
    values = np.zeros((4, 6), np.float32) if values is None else np.asarray(values, np.float32)
    fields = {
        "image_path": "a.png",
        "image_size": values.shape,
        "class_name": "nut",
        "pred_score": 0.25,
        "anomaly_map": values,
        "patch_scores": np.zeros((2, 2), np.float32),
    }
    return Prediction(**{**fields, **changes})


@pytest.mark.parametrize("name", ["anomaly_map", "patch_scores"])
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4), np.float16),
        np.zeros((1, 4, 4), np.float32),
        np.zeros(4, np.float32),
        np.full((2, 2), 1.5, np.float32),
        np.full((2, 2), -0.1, np.float32),
        np.array([[0, np.nan]], np.float32),
        np.array([[0, np.inf]], np.float32),
        np.zeros((0, 4), np.float32),
    ],
)
def test_arrays_are_checked(name, array):
    with pytest.raises(UsageError, match=name):
        make(**{name: array})


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf")])
def test_score_is_checked(score):
    with pytest.raises(UsageError, match="pred_score"):
        make(pred_score=score)


@pytest.mark.parametrize("score_range", [(0.5, 0.5), (0.6, 0.4), (0.0, float("nan"))])
def test_score_range_is_checked(score_range):
    with pytest.raises(UsageError, match="score_range"):
        make(score_range=score_range)


def test_bounds_are_allowed():
    assert make(np.array([[0, 1]]), pred_score=1.0).pred_label is True
    assert make(pred_score=0.0, threshold=0.0).pred_label is True


@pytest.mark.parametrize(("score", "label"), [(0.5, True), (np.nextafter(0.5, 0), False), (0.7, True), (0.3, False)])
def test_label_at_the_threshold(score, label):
    assert make(pred_score=float(score)).pred_label is label
    assert make(pred_score=0.7, threshold=0.7).pred_label


def test_mask():
    prediction = make([[0.2, 0.5, 0.49], [0.7, 0.0, 1.0]])
    assert prediction.mask().dtype == bool
    assert prediction.mask().tolist() == [[False, True, False], [True, False, True]]
    assert prediction.mask(0.7).tolist() == [[False, False, False], [True, False, True]]
    assert make([[0.5]], threshold=0.6).mask().tolist() == [[False]]


def test_pixels_have_a_threshold_of_their_own():
    prediction = make([[0.2, 0.5, 0.7]], pred_score=0.55, threshold=0.6, pixel_threshold=0.7, calibrated=True)
    assert prediction.mask().tolist() == [[False, False, True]]
    assert [region.area for region in prediction.regions()] == [1]
    row = prediction.to_dict()
    assert (row["pred_label"], row["threshold"], row["pixel_threshold"], row["calibrated"]) == (False, 0.6, 0.7, True)
    other = prediction.at(0.5)
    assert (other.pred_label, other.mask().tolist(), other.calibrated) == (True, [[False, True, True]], False)
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="pixel_threshold"):
            make(pixel_threshold=value)


def test_regions_of_a_hand_made_map():
    anomaly_map = np.zeros((6, 8), np.float32)
    anomaly_map[0, 0:3] = 0.75  # a bar in the corner
    anomaly_map[3:5, 4:6] = [[0.5, 0.5], [0.5, 1.0]]  # a block
    anomaly_map[5, 1] = 0.75  # one pixel
    assert make(anomaly_map).regions() == [
        Region(box=(4, 3, 6, 5), area=4, peak=1.0, centroid=(4.5, 3.5)),
        Region(box=(0, 0, 3, 1), area=3, peak=0.75, centroid=(1.0, 0.0)),
        Region(box=(1, 5, 2, 6), area=1, peak=0.75, centroid=(1.0, 5.0)),
    ]
    assert [region.area for region in make(anomaly_map).regions(min_area=3)] == [4, 3]
    assert [region.area for region in make(anomaly_map).regions(0.75)] == [1, 3, 1]
    assert make(anomaly_map).regions(0.75, min_area=9) == []


def test_pixels_that_touch_at_a_corner_are_one_region():
    assert make([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).regions() == [Region((0, 0, 2, 2), 2, 1.0, (0.5, 0.5))]
    assert make([[0, 1], [1, 0]]).regions()[0].area == 2
    assert len(make([[1, 0, 1]]).regions()) == 2


def test_region_inside_anothers_box():
    anomaly_map = np.ones((5, 5), np.float32)
    anomaly_map[1:4, 1:4] = 0
    anomaly_map[2, 2] = 0.5
    ring, dot = make(anomaly_map).regions()
    assert (ring.box, ring.area, ring.centroid) == ((0, 0, 5, 5), 16, (2.0, 2.0))
    assert (dot.box, dot.area, dot.peak) == ((2, 2, 3, 3), 1, 0.5)


def test_no_regions():
    assert make().regions() == []
    assert make().regions(0.0)[0].area == 24


@pytest.mark.parametrize("number", [float, np.float32, np.float64])
def test_row_is_plain_json(number):
    prediction = make([[0, 1, 1]], pred_score=number(0.75), timings_ms={"encode": 1.23456}, image_size=(10, 30))
    assert json.loads(json.dumps(prediction.to_dict())) == {
        "image_path": "a.png",
        "image_size": [10, 30],
        "class_name": "nut",
        "pred_score": 0.75,
        "pred_score_std": None,
        "patch_scores_std": None,
        "pred_label": True,
        "threshold": 0.5,
        "pixel_threshold": 0.5,
        "calibrated": False,
        "probability": None,
        "map_size": [1, 3],
        "regions": [
            {"box": [1, 0, 3, 1], "area": 2, "peak": 1.0, "centroid": [1.5, 0.0], "name": None, "margin": None, "names": []}
        ],
        "timings_ms": {"encode": 1.235},
    }


def test_plot_reads_the_picture_again_or_takes_one(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 0, 0)).save(path)
    prediction = make(np.zeros((200, 300)), image_path=str(path))
    assert prediction.plot().getpixel((150, 100)) == (200, 0, 0)
    assert prediction.plot(Image.new("RGB", (300, 200), (0, 0, 200))).getpixel((150, 100)) == (0, 0, 200)
    assert prediction.plot(np.zeros((200, 300, 3), np.uint8)).getpixel((150, 100)) == (0, 0, 0)


def test_plot_without_a_picture(tmp_path):
    with pytest.raises(UsageError, match="plot"):
        make(image_path=None).plot()
    with pytest.raises(ImageNotFoundError, match="gone"):
        make(image_path=str(tmp_path / "gone.png")).plot()


@pytest.mark.parametrize("name", ["out.png", "deep/out.jpg", "out.PNG", "out.webp"])
def test_save(tmp_path, name):
    prediction = make(np.zeros((200, 300)), image_path=None)
    path = prediction.save(tmp_path / name, np.full((200, 300, 3), 90, np.uint8))
    assert path == tmp_path / name
    with Image.open(path) as picture:
        assert picture.size == prediction.plot(Image.new("RGB", (300, 200))).size
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert prediction.save(str(path), np.zeros((200, 300), np.uint8)) == path


@pytest.mark.parametrize("name", ["out", "out.txt", "out.psd", "out.h5"])
def test_save_under_a_name_that_is_no_format(tmp_path, name):
    with pytest.raises(OutputError, match=name):
        make().save(tmp_path / name, Image.new("RGB", (6, 4)))
    assert list(tmp_path.iterdir()) == []
