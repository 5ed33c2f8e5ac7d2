"""A detector bound to a class: what an engine runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from anovl.config import Adaptation, Decode, OutputSize, Tiling
from anovl.core.adapter import Adapter, check_seeds, draw_start
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures, name_directions
from anovl.data.images import ImageLimits, load_sized_image
from anovl.data.sources import SourceItem
from anovl.devices import DTYPES, to_device
from anovl.errors import AnovlError, UsageError
from anovl.methods import method_class
from anovl.naming import name_prompts, vocabulary
from anovl.profiles import Origin, fitted_name, settings_of
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
    names: tuple[str, ...] = ()

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
        return self.finite(scores)

    def finite(self, scores: Scores) -> Scores:
        """The same scores.

        Raises:
            AnovlError: one is not finite.
        """
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
            names=self.names,
            name_scores=None if scores.name_scores is None else scores.name_scores.numpy(),
        )


def bind(
    detector: AnoVL,
    class_name: str,
    *,
    domain: str | None,
    defects: Sequence[str],
    wording: Wording | None,
    output_size: OutputSize | None,
    decode: Decode | None,
    adapt: bool | Adaptation,
    seed: int | Sequence[int],
    names: str | Sequence[str],
    tiles: int | Tiling | None,
) -> DetectionJob:
    """See `AnoVL.job`."""
    words = wording or detector.method.wording
    if domain is not None:
        words = replace(words, domain=domain)
    if defects:
        words = replace(words, defects=(*words.defects, *defects))
    recipe = detector.recipe.having(output_size=output_size, decode=decode, tiling=Tiling.of(tiles))
    prompts = detector.prompts(class_name, words)
    named = vocabulary(names)
    method_class(detector.method_name, adapt=bool(adapt), names=bool(named))  # refuses what it cannot do
    if adapt and len(prompts.normal) != len(prompts.abnormal):
        counts = f"{len(prompts.normal)} and {len(prompts.abnormal)}"
        raise UsageError(f"adapt: Eq. (9) needs normal and abnormal prompts in pairs, got {counts}; give each state its opposite")
    if not isinstance(adapt, bool | Adaptation):
        raise UsageError(f"adapt: expected True, False or an Adaptation, got {adapt!r}")
    seeds = check_seeds(seed) if adapt else check_seeds(seed)[:0]
    settings = adapt if isinstance(adapt, Adaptation) else detector.method.recipe.adaptation
    recipe = replace(
        detector.method.recipe, output_size=recipe.output_size, decode=recipe.decode, adaptation=settings, tiling=recipe.tiling
    )
    origin = Origin(
        class_name=class_name,
        model=detector.backbone.name,
        weights=detector.backbone.weights_id,
        method=detector.method_name,
        recipe=settings_of(recipe, adapts=bool(adapt)),
        words=words.to_dict(),
        seeds=seeds,
        image_size=detector.backbone.image_size,
        precision=next(name for name, dtype in DTYPES.items() if dtype == detector.backbone.dtype and name != "auto"),
    )
    if detector.bank is not None:
        if not recipe.tiling.whole:
            raise UsageError("tiles: a bank holds tokens of whole pictures; leave the tiles and the crop out, or the bank")
        detector.bank.check(origin)
        origin = replace(origin, method=fitted_name(detector.method_name, detector.bank.key))
    if detector.profile is not None:
        detector.profile.check(origin)
    text = detector.texts.features(prompts)
    if named:
        own = detector.texts.features(name_prompts(class_name, words, named, style=recipe.prompts))
        text = text._replace(names=name_directions(own, len(named)))
    adapters = _adapters(detector, text, settings, seeds)
    grid = detector.method.encoder.grid
    return DetectionJob(detector, origin, text, recipe.output_size, recipe.tiling, grid, recipe.decode, adapters, names=named)


@torch.inference_mode()
def _adapters(detector: AnoVL, text: TextFeatures, settings: Adaptation, seeds: Sequence[int]) -> tuple[Adapter, ...]:
    """One adaptation of the class a seed."""
    rows, columns = detector.method.encoder.grid
    return tuple(Adapter(text, settings, draw_start(settings, text, rows * columns, one)) for one in seeds)
