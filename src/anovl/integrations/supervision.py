"""Regions of a prediction as `Detections` of supervision, for its annotators, filters and sinks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from anovl.errors import UsageError, require_extra
from anovl.results import Prediction


def to_detections(prediction: Prediction, threshold: float | None = None, *, min_area: int = 1) -> Any:
    """The regions as `supervision.Detections`, in the order of `Prediction.regions`.

    Args:
        prediction: with its map at the image's own size.
        threshold, min_area: as in `Prediction.regions`.

    Returns:
        Detections of n regions: xyxy [n, 4] in pixels, right and bottom exclusive; mask [n, H, W]; confidence, the peak of the
        map inside; class_id 0; data "class_name" and "area"; metadata image_path, pred_score, pred_label.

    Raises:
        MissingExtraError: supervision is not installed.
        UsageError: the map has another size than the image.
    """
    sv = require_extra("supervision", "supervision", "to_detections")
    shape = prediction.anomaly_map.shape
    if shape != tuple(prediction.image_size):
        raise UsageError(
            f"to_detections: expected a map of the image's size {prediction.image_size}, got {shape}; predict with "
            'output_size="image"'
        )
    labels, count = ndimage.label(prediction.mask(threshold), structure=np.ones((3, 3), dtype=int))
    index = np.arange(1, count + 1)
    peaks = np.asarray(ndimage.maximum(prediction.anomaly_map, labels, index), np.float32).reshape(count)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = [i for i in sorted(range(count), key=lambda i: (-peaks[i], -areas[i])) if areas[i] >= min_area]
    regions = prediction.regions(threshold, min_area=min_area)
    return sv.Detections(
        xyxy=np.array([region.box for region in regions], np.float32).reshape(-1, 4),
        mask=np.stack([labels == i + 1 for i in order]) if order else np.zeros((0, *shape), bool),
        confidence=np.array([region.peak for region in regions], np.float32),
        class_id=np.zeros(len(regions), int),
        data={
            "class_name": np.array([prediction.class_name] * len(regions), dtype=str),
            "area": np.array([region.area for region in regions], int),
        },
        metadata={
            "image_path": prediction.image_path,
            "pred_score": prediction.pred_score,
            "pred_label": prediction.pred_label,
        },
    )
