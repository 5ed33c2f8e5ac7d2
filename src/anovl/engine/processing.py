"""What happens to an image before a model sees it and to its scores afterwards, by numpy and Pillow: no torch, and no model."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anovl.config import Recipe
from anovl.data.images import ImageLimits, load_sized_image
from anovl.data.resizing import squash
from anovl.data.sources import SourceItem
from anovl.engine.maps import anomaly_map
from anovl.profiles import Profile
from anovl.results import ImageScores, Pixels, Prediction
from anovl.tiling import Layout, lay_out


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """The two ends of a model that is bound to a class (`anovl.engine.pipeline.Processor`).

    Attributes:
        class_name: what the images show.
        recipe: in force; its interpolation, decoding, tiles, maps and their size count here.
        image_size: (H, W) of the model's input.
        grid: (h, w) of the model's patches.
        limits: what images to refuse.
        threshold: the decision is pred_score >= threshold.
        profile: where it comes from; None where it is not calibrated.
        score_range: see `Prediction`.
        names: words to name regions by.
    """

    class_name: str
    recipe: Recipe
    image_size: tuple[int, int]
    grid: tuple[int, int]
    limits: ImageLimits
    threshold: float
    profile: Profile | None
    score_range: tuple[float, float]
    names: tuple[str, ...] = ()

    def without_model(self) -> ImageProcessor:
        """These ends alone, small to send to a process that loads and finishes what another one scores."""
        return ImageProcessor(**{one.name: getattr(self, one.name) for one in fields(ImageProcessor)})

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """Anything that is an image -> RGB, and (H, W) of the whole image; see `anovl.data.images.load_sized_image`."""
        return load_sized_image(
            image, limits=self.limits, reduced_for=self.image_size if self.recipe.decode == "reduced" else None
        )

    def layout(self, picture: Image.Image) -> Layout:
        """The parts of an RGB picture that are looked at."""
        return lay_out(picture, self.recipe.tiling, self.grid)

    def preprocess(self, picture: Image.Image) -> Any:
        """Its `pixels`; or, where it is looked at in parts, which are cut when their turn comes, all of it and its `layout`."""
        return self.pixels(picture) if self.recipe.tiling.whole else (np.asarray(picture), self.layout(picture))

    def pixels(self, picture: Image.Image) -> Pixels:
        """What the model reads of an RGB picture: [H, W, 3] at its input size; it scales and normalises them itself."""
        return np.asarray(squash(picture, self.image_size, self.recipe.interpolation))

    def finish(self, item: SourceItem, size: tuple[int, int], scores: ImageScores, timings: dict[str, float]) -> Prediction:
        """Patch grid to map, scores to a Prediction."""
        start = time.perf_counter()
        made = anomaly_map(scores.patch_scores, size if self.recipe.output_size == "image" else self.image_size, self.recipe)
        timings["upsample"] = (time.perf_counter() - start) * 1000
        profile, score = self.profile, float(scores.image_score)
        return Prediction(
            image_path=str(item.image) if isinstance(item.image, str | Path) else None,
            image_size=size,
            class_name=self.class_name,
            pred_score=score,
            threshold=self.threshold,
            pixel_threshold=self.threshold if profile is None else profile.pixel_threshold,
            calibrated=profile is not None,
            probability=None if profile is None else profile.probability(score),
            anomaly_map=made,
            patch_scores=scores.patch_scores,
            pred_score_std=None if scores.image_seeds is None else float(scores.image_seeds.std(ddof=1)),
            patch_scores_std=None if scores.patch_seeds is None else scores.patch_seeds.std(axis=0, ddof=1),
            timings_ms=timings,
            score_range=self.score_range,
            names=self.names,
            name_scores=scores.name_scores,
        )
