"""Regions as supervision's Detections: the same boxes and pixels, and its annotators draw them."""

import numpy as np
import pytest
import supervision as sv

from anovl.errors import UsageError
from anovl.integrations.supervision import to_detections
from anovl.results import Prediction


def prediction(values, size=None):
    values = np.asarray(values, np.float32)
    return Prediction(
        image_path="nut.png",
        image_size=size or values.shape,
        class_name="metal nut",
        pred_score=0.9,
        anomaly_map=values,
        patch_scores=values,
    )


@pytest.fixture
def two():
    values = np.full((40, 60), 0.1)
    values[5:15, 10:30] = 0.7  # larger, and round the other one's box
    values[8:10, 12:14] = 0.2
    values[25, 40] = 0.9
    values[26, 41] = 0.8  # diagonal neighbours are one region
    return prediction(values)


def test_regions_become_detections(two):
    found = to_detections(two)
    regions = two.regions()
    assert len(found) == len(regions) == 2
    np.testing.assert_array_equal(found.xyxy, [[40, 25, 42, 27], [10, 5, 30, 15]])
    np.testing.assert_allclose(found.confidence, [0.9, 0.7])
    assert found.mask.sum(axis=(1, 2)).tolist() == found.data["area"].tolist() == [2, 196]
    for mask, region in zip(found.mask, regions, strict=True):
        left, top, right, bottom = region.box
        assert mask[top:bottom, left:right].sum() == mask.sum() == region.area
    np.testing.assert_array_equal(found.mask.any(axis=0), two.mask())
    assert set(found.data["class_name"]) == {"metal nut"}
    assert found.metadata == {"image_path": "nut.png", "pred_score": 0.9, "pred_label": True}


def test_threshold_and_small_regions(two):
    assert len(to_detections(two, 0.75)) == 1
    assert to_detections(two, min_area=3).data["area"].tolist() == [196]
    none = to_detections(two, 0.95)
    assert len(none) == 0
    assert none.mask.shape == (0, 40, 60)


def test_its_annotators_draw_them(two):
    scene = np.zeros((40, 60, 3), np.uint8)
    found = to_detections(two)
    boxes = sv.BoxAnnotator(color=sv.Color.RED, thickness=1).annotate(scene.copy(), found)
    assert boxes[25, 40].any()
    assert not boxes[35, 5].any()
    masks = sv.MaskAnnotator(color=sv.Color.RED, opacity=1.0).annotate(scene.copy(), found)
    np.testing.assert_array_equal(masks.any(axis=2), two.mask())
    labelled = sv.LabelAnnotator().annotate(scene.copy(), found)  # writes data["class_name"]
    assert labelled.any()


def test_a_map_of_another_size_is_refused():
    with pytest.raises(UsageError, match=r"expected a map of the image's size \(80, 120\), got \(40, 60\)"):
        to_detections(prediction(np.zeros((40, 60)), size=(80, 120)))
