"""A detector bound to a class: what an engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anovl.config import Adaptation, Decode, OutputSize, Tiling
from anovl.core.adapter import Adapter, check_seeds, draw_start
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures, name_directions
from anovl.devices import DTYPES
from anovl.engine.processing import ImageProcessor
from anovl.errors import AnovlError, UsageError
from anovl.methods import method_class
from anovl.naming import name_prompts, vocabulary
from anovl.profiles import Origin, fitted_name, settings_of

if TYPE_CHECKING:
    from anovl.detector import AnoVL


@dataclass(frozen=True, kw_only=True)
class DetectionJob(ImageProcessor):
    """A detector bound to a class; the engine's view of it (`anovl.engine.local.Job`).

    Attributes:
        detector: what scores; thresholds, limits and the like are its own when the class was bound.
        origin: what scores depend on.
        text: features of the class's prompts.
        adapters: of the adaptation, one a seed.
    """

    detector: AnoVL
    origin: Origin
    text: TextFeatures
    adapters: tuple[Adapter, ...] = ()

    def per_device(self) -> list[DetectionJob]:
        """This job, and one that gives the same on each replica of its detector, for `anovl.engine.local.run`."""
        return [self, *(self._on(replica) for replica in self.detector.replicas)]

    @torch.inference_mode()
    def _on(self, replica: AnoVL) -> DetectionJob:
        device = replica.backbone.device
        text = self.text.to(device)
        adapters = tuple(Adapter(text, one.settings, one.start.to(device)) for one in self.adapters)
        return replace(self, detector=replica, text=text, adapters=adapters)

    @torch.inference_mode()
    def score(self, images: Tensor) -> Scores:
        """[B, H, W, 3] uint8, RGB, at the input size -> scores.

        Raises:
            AnovlError: one is not finite.
        """
        return self.finite(self.detector.method.score(self.detector.to_pixel_values(images), self.text, self.adapters))

    def finite(self, scores: Scores) -> Scores:
        """The same scores.

        Raises:
            AnovlError: one is not finite.
        """
        if not all(bool(values.isfinite().all()) for values in scores if values is not None):
            raise AnovlError(f"the model gave values that are not finite in {self.detector.backbone.dtype}; try --dtype fp32")
        return scores


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
    return DetectionJob(
        detector=detector,
        origin=origin,
        text=text,
        adapters=adapters,
        class_name=class_name,
        recipe=recipe,
        image_size=detector.backbone.image_size,
        grid=detector.method.encoder.grid,
        limits=detector.limits,
        threshold=detector.threshold,
        profile=detector.profile,
        score_range=detector.score_range,
        names=named,
    )


@torch.inference_mode()
def _adapters(detector: AnoVL, text: TextFeatures, settings: Adaptation, seeds: Sequence[int]) -> tuple[Adapter, ...]:
    """One adaptation of the class a seed."""
    rows, columns = detector.method.encoder.grid
    return tuple(Adapter(text, settings, draw_start(settings, text, rows * columns, one)) for one in seeds)
