"""Runs an exported file with onnxruntime or OpenVINO: the same results as `anovl.AnoVL`, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anovl.calibration import calibrate, peaks
from anovl.config import Decode, OutputSize
from anovl.data.images import ImageLimits
from anovl.data.sources import SourceItem, iter_source
from anovl.engine import pipeline
from anovl.engine.artefact import read_card
from anovl.engine.processing import ImageProcessor
from anovl.engine.sessions import open_session
from anovl.errors import AnovlError, UsageError
from anovl.profiles import DEFAULT_FPR, Origin, Profile, fitted_name, settings_of
from anovl.results import ImageScores, Pixels, Prediction


class ExportedModel:
    """A file made by `anovl export`, loaded.

    Args:
        path: .onnx (onnxruntime) or .xml with its .bin (OpenVINO).
        device, dtype, threads: see `anovl.engine.sessions.open_session`.
        threshold: the decision is pred_score >= threshold; None is the file's own, or its profile's.
        limits: what images to refuse.

    Attributes:
        card: what the file says about itself.
        profile: where the thresholds come from, None where they are not calibrated.

    Raises:
        UsageError, MissingExtraError, CheckpointError: as `open_session`, and a file that is not ours or of another
            version.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        threshold: float | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        path = Path(path)
        self.session = open_session(path, device=device, dtype=dtype, threads=threads)
        self.card = read_card(self.session.metadata, path)
        self.precision = "bf16" if dtype == "bf16" else self.card.precision
        self.profile = self.card.profile if threshold is None else None
        self.threshold = self.card.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold: expected a value in [0, 1], got {threshold}")
        self.limits = limits or ImageLimits()

    def with_profile(self, profile: Profile) -> ExportedModel:
        """The same session with the thresholds of a profile; as `anovl.AnoVL.with_profile`."""
        other = copy(self)
        other.profile, other.threshold = profile, profile.image_threshold
        return other

    def calibrate(self, source: Any, class_name: str | None = None, *, fpr: float = DEFAULT_FPR, **options: Any) -> Profile:
        """The profile of a set of good pictures; as `anovl.AnoVL.calibrate`."""
        plain = copy(self)
        plain.profile = None  # of whatever it is, scores do not depend on it
        job = plain.job(class_name, **options)
        return calibrate([peaks(one) for one in pipeline.results(pipeline.run(job, iter_source(source)))], job.origin, fpr=fpr)

    def predict(self, image: Any, class_name: str | None = None, *, output_size: OutputSize | None = None) -> Prediction:
        """Score one image.

        Args:
            image: see `anovl.load_image`.
            class_name: one of ``card.classes``; None is the only one.
            output_size: "image" or "input"; default the recipe's.

        Raises:
            ImageError: the image cannot be used.
            UsageError: the file does not hold the class.
        """
        job = self.job(class_name, output_size=output_size)
        (prediction,) = pipeline.results(pipeline.run(job, [SourceItem(image, None, "image")], batch_size=1, workers=1))
        return prediction

    def stream(
        self,
        source: Any,
        class_name: str | None = None,
        *,
        output_size: OutputSize | None = None,
        batch_size: int = 8,
        workers: int = 2,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Prediction]:
        """Score a folder, glob, list or iterator of images; as `anovl.AnoVL.stream`."""
        job = self.job(class_name, output_size=output_size)
        outcomes = pipeline.run(job, iter_source(source), batch_size=batch_size, workers=workers)
        yield from pipeline.results(outcomes, on_error=on_error)

    def job(
        self, class_name: str | None = None, *, output_size: OutputSize | None = None, decode: Decode | None = None
    ) -> ExportedJob:
        """This model bound to a class, for the engine's loop; what is None is the recipe's.

        Raises:
            UsageError: the file does not hold the class, or the model has a profile of something else.
        """
        card = self.card
        recipe = card.recipe.having(output_size=output_size, decode=decode)
        index = card.index(class_name)
        origin = Origin(
            class_name=card.classes[index],
            model=card.model["name"],
            weights=card.model["weights_sha256"],
            method=card.method if card.bank is None else fitted_name(card.method, card.bank["key"]),
            recipe=settings_of(recipe, adapts=card.seed is not None),
            words=card.words,
            seeds=() if card.seed is None else (card.seed,),
            image_size=card.image_size,
            precision=self.precision,
        )
        if self.profile is not None:
            self.profile.check(origin)
        return ExportedJob(
            model=self,
            origin=origin,
            index=index,
            class_name=origin.class_name,
            recipe=recipe,
            image_size=card.image_size,
            grid=card.grid,
            limits=self.limits,
            threshold=self.threshold,
            profile=self.profile,
            score_range=card.score_range,
        )


@dataclass(frozen=True, kw_only=True)
class ExportedJob(ImageProcessor):
    """An exported model bound to a class; the loop's view of it (`anovl.engine.pipeline.Work`)."""

    model: ExportedModel
    origin: Origin
    index: int

    def score(self, batch: Sequence[Pixels]) -> list[ImageScores]:
        """Scores of each image."""
        scores, patches = self.model.session(np.stack(batch), self.index)
        if not (np.isfinite(scores).all() and np.isfinite(patches).all()):
            raise AnovlError(
                f"the exported model gave values that are not finite in {self.model.card.precision}; export it in fp32"
            )
        return [ImageScores(*one) for one in zip(scores, patches, strict=True)]
