"""A detector bound to a class: what an engine runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from anovl.config import Decode, OutputSize, Tiling
from anovl.core.adapter import Adapter
from anovl.core.scoring import Scores, TextFeatures
from anovl.data.images import ImageLimits, load_sized_image
from anovl.data.sources import SourceItem
from anovl.devices import to_device
from anovl.errors import AnovlError
from anovl.profiles import Origin
from anovl.results import FloatArray, Prediction
from anovl.tiling import Layout, lay_out

if TYPE_CHECKING:
    from anovl.detector import AnoVL


@dataclass(frozen=True)
class DetectionJob:
    """A detector bound to a class; the engine's view of it (`anovl.engine.local.Job`)."""

    detector: AnoVL
    origin: Origin
    text: TextFeatures
    output_size: OutputSize
    tiling: Tiling
    grid: tuple[int, int]
    decode: Decode = "full"
    adapters: tuple[Adapter, ...] = ()

    @property
    def class_name(self) -> str:
        """What the images show."""
        return self.origin.class_name

    @property
    def limits(self) -> ImageLimits:
        """What images to refuse."""
        return self.detector.limits

    def without_model(self) -> DetectionJob:
        """As `AnoVL.without_model`: this job for a process that loads and finishes what another one scores."""
        return replace(self, detector=self.detector.without_model(), adapters=())

    def per_device(self) -> list[DetectionJob]:
        """This job, and one that gives the same on each replica of its detector, for `anovl.engine.local.run`."""
        return [self, *(self._on(replica) for replica in self.detector.replicas)]

    @torch.inference_mode()
    def _on(self, replica: AnoVL) -> DetectionJob:
        device = replica.backbone.device
        text = self.text.to(device)
        adapters = tuple(Adapter(text, one.settings, one.start.to(device)) for one in self.adapters)
        return replace(self, detector=replica, text=text, adapters=adapters)

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """Anything that is an image -> RGB, and (H, W) of the whole image; see `anovl.data.images.load_sized_image`."""
        return load_sized_image(
            image, limits=self.limits, reduced_for=self.detector.backbone.image_size if self.decode == "reduced" else None
        )

    def layout(self, picture: Image.Image) -> Layout:
        """The parts of an RGB picture that are looked at."""
        return lay_out(picture, self.tiling, self.grid)

    def preprocess(self, picture: Image.Image) -> Tensor:
        """RGB -> [3, H, W]."""
        return self.detector.preprocess(picture)

    @torch.inference_mode()
    def score(self, pixel_values: Tensor) -> Scores:
        """[B, 3, H, W] -> scores."""
        scores = self.detector.method.score(to_device(pixel_values, self.detector.backbone.device), self.text, self.adapters)
        if not all(bool(values.isfinite().all()) for values in scores if values is not None):
            raise AnovlError(f"the model gave values that are not finite in {self.detector.backbone.dtype}; try --dtype fp32")
        return scores

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scores, timings: dict[str, float]) -> Prediction:
        """Patch grid to map, scores to a Prediction."""
        start = time.perf_counter()
        target = size if self.output_size == "image" else self.detector.backbone.image_size
        patch_scores: FloatArray = scores.patch_scores.numpy()
        anomaly_map = self.detector.anomaly_map(patch_scores, target)
        timings["upsample"] = (time.perf_counter() - start) * 1000
        profile = self.detector.profile
        return Prediction(
            image_path=str(item.image) if isinstance(item.image, str | Path) else None,
            image_size=size,
            class_name=self.class_name,
            pred_score=float(scores.image_score),
            threshold=self.detector.threshold,
            pixel_threshold=self.detector.threshold if profile is None else profile.pixel_threshold,
            calibrated=profile is not None,
            probability=None if profile is None else profile.probability(float(scores.image_score)),
            anomaly_map=anomaly_map,
            patch_scores=patch_scores,
            pred_score_std=None if scores.image_seeds is None else float(scores.image_seeds.std()),
            patch_scores_std=None if scores.patch_seeds is None else scores.patch_seeds.std(dim=0).numpy(),
            timings_ms=timings,
            score_range=self.detector.score_range,
        )
