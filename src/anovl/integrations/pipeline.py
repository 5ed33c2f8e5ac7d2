"""A pipeline in the manner of transformers: a task and a model make a function from pictures to plain dictionaries."""

from __future__ import annotations

import re
from typing import Any

from anovl.config import DEFAULT_MODEL
from anovl.data.images import is_single_image
from anovl.detector import AnoVL
from anovl.errors import UsageError, suggest
from anovl.render.overlay import heatmap, mask_image
from anovl.results import Prediction

TASK = "zero-shot-anomaly-detection"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class AnomalyDetectionPipeline:
    """Pictures to dictionaries; made by `pipeline`.

    Attributes:
        model: the detector.
    """

    def __init__(self, model: AnoVL) -> None:
        self.model = model

    def __call__(
        self, images: Any, class_name: str, *, threshold: float | None = None, batch_size: int = 8, **options: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Find defects.

        Args:
            images: one picture or a list of them: whatever `anovl.load_image` takes. Nothing is fetched from a network.
            class_name: what they show, such as "metal nut".
            threshold: of the decision, mask and regions, in [0, 1]; None is the model's.
            batch_size: pictures a pass.
            **options: domain, defects, wording, adapt, seed, as in `anovl.AnoVL.predict`.

        Returns:
            a dictionary for one picture, a list of them for a list: score in [0, 1]; label "anomalous" or "normal"; regions,
            the highest first, each with its score and box {xmin, ymin, xmax, ymax} in pixels, xmax and ymax exclusive; mask, a
            PIL image of mode L, 255 where anomalous; heatmap, a PIL image; anomaly_map, float32 [H, W] in [0, 1]. All are of
            the picture's size.

        Raises:
            ImageError: a picture cannot be used.
            UsageError: a URL, or as `anovl.AnoVL.predict`.
        """
        single = is_single_image(images)
        if not single and not isinstance(images, list | tuple):
            raise UsageError(f"images: expected a picture or a list of pictures, got {type(images).__name__}")
        given = [images] if single else images
        for image in given:
            if isinstance(image, str) and _URL.match(image):
                raise UsageError(
                    f"images: expected a file or a picture, got a URL ({image}); nothing is downloaded, save it first"
                )
        predictions = self.model.stream(given, class_name, output_size="image", batch_size=batch_size, **options)
        found = [_as_dict(one if threshold is None else one.at(threshold)) for one in predictions]
        return found[0] if single else found


def pipeline(task: str = TASK, model: str | AnoVL = DEFAULT_MODEL, **loading: Any) -> AnomalyDetectionPipeline:
    """A function that finds defects in pictures, in the manner of ``transformers.pipeline``.

    Args:
        task: "zero-shot-anomaly-detection".
        model: a name, such as "mini", or a detector.
        **loading: device, dtype, recipe, ..., as in `anovl.AnoVL.from_pretrained`, for a name.

    Raises:
        UsageError: another task, options for a detector that is there, or as `anovl.AnoVL.from_pretrained`.
        UnavailableError, CheckpointError: likewise.
    """
    if task != TASK:
        raise UsageError(suggest("task", task, [TASK]))
    if isinstance(model, AnoVL):
        if loading:
            raise UsageError(
                f"pipeline: the model is loaded already, {', '.join(loading)} cannot change it; pass its name instead"
            )
        return AnomalyDetectionPipeline(model)
    return AnomalyDetectionPipeline(AnoVL.from_pretrained(model, **loading))


def _as_dict(prediction: Prediction) -> dict[str, Any]:
    return {
        "score": prediction.pred_score,
        "label": "anomalous" if prediction.pred_label else "normal",
        "regions": [
            {"score": region.peak, "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), region.box, strict=True))}
            for region in prediction.regions()
        ],
        "mask": mask_image(prediction),
        "heatmap": heatmap(prediction),
        "anomaly_map": prediction.anomaly_map,
    }
