"""Runs an exported file with onnxruntime or OpenVINO: the same results as `anovl.AnoVL`, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from anovl.config import OutputSize
from anovl.data.images import ImageLimits
from anovl.data.resizing import squash
from anovl.data.sources import SourceItem, iter_source
from anovl.engine import pipeline
from anovl.engine.artefact import read_card
from anovl.engine.sessions import Images, open_session
from anovl.errors import AnovlError, UsageError
from anovl.results import FloatArray, Prediction

Scored = tuple[np.float32, FloatArray]  # image score, patch scores [h, w]


class ExportedModel:
    """A file made by `anovl export`, loaded.

    Args:
        path: .onnx (onnxruntime) or .xml with its .bin (OpenVINO).
        device, dtype, threads: see `anovl.engine.sessions.open_session`.
        threshold: the decision is pred_score >= threshold; None is the file's own.
        limits: what images to refuse.

    Attributes:
        card: what the file says about itself.

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
        self.threshold = self.card.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold: expected a value in [0, 1], got {threshold}")
        self.limits = limits or ImageLimits()

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

    def job(self, class_name: str | None = None, *, output_size: OutputSize | None = None) -> ExportedJob:
        """This model bound to a class, for the engine's loop."""
        chosen = output_size or self.card.recipe.output_size
        if chosen not in get_args(OutputSize):
            raise UsageError(f"output_size: expected 'image' or 'input', got {output_size!r}")
        return ExportedJob(self, self.card.index(class_name), chosen)


@dataclass(frozen=True)
class ExportedJob:
    """An exported model bound to a class; the loop's view of it (`anovl.engine.pipeline.Work`)."""

    model: ExportedModel
    index: int
    output_size: OutputSize

    @cached_property
    def limits(self) -> ImageLimits:
        """What images to refuse."""
        return self.model.limits

    def preprocess(self, picture: Image.Image) -> Images:
        """RGB -> [H, W, 3] at the input size; scaling and normalisation are in the file."""
        return np.asarray(squash(picture, self.model.card.image_size, self.model.card.recipe.interpolation))

    def score(self, batch: Sequence[Images]) -> list[Scored]:
        """Scores of each image."""
        scores, patches = self.model.session(np.stack(batch), self.index)
        if not (np.isfinite(scores).all() and np.isfinite(patches).all()):
            raise AnovlError(
                f"the exported model gave values that are not finite in {self.model.card.precision}; export it in fp32"
            )
        return list(zip(scores, patches, strict=True))

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scored, timings: dict[str, float]) -> Prediction:
        """Patch grid to map, scores to a Prediction."""
        start = time.perf_counter()
        card, (image_score, patches) = self.model.card, scores
        grid = smooth(patches) if card.recipe.smoothing else patches
        target = size if self.output_size == "image" else card.image_size
        anomaly_map = to_image_size(grid, target, align_corners=card.recipe.align_corners)
        timings["upsample"] = (time.perf_counter() - start) * 1000
        return Prediction(
            image_path=str(item.image) if isinstance(item.image, str | Path) else None,
            image_size=size,
            class_name=card.classes[self.index],
            pred_score=float(image_score),
            threshold=self.model.threshold,
            anomaly_map=anomaly_map,
            patch_scores=patches,
            timings_ms=timings,
            score_range=card.score_range,
        )


def smooth(patch_scores: FloatArray) -> FloatArray:
    """3x3 mean on the grid [h, w], edges replicated; numpy's twin of `anovl.core.scoring.smooth`."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(patch_scores, 1, mode="edge"), (3, 3))
    return np.asarray(windows.mean(axis=(2, 3), dtype=np.float32))


def to_image_size(patch_scores: FloatArray, size: tuple[int, int], *, align_corners: bool) -> FloatArray:
    """Bilinear up-sampling of the grid [h, w] to [H, W], as two products with the weights of rows and columns.

    numpy's twin of `anovl.core.scoring.to_image_size`.
    """
    rows, columns = (_weights(n, m, align_corners=align_corners) for n, m in zip(patch_scores.shape, size, strict=True))
    return np.asarray(np.clip(rows @ patch_scores @ columns.T, 0.0, 1.0), dtype=np.float32)


def _weights(count: int, target: int, *, align_corners: bool) -> FloatArray:
    """Bilinear weights [target, count] of the samples along one axis."""
    if align_corners:
        places = np.linspace(0, count - 1, target)
    else:
        places = ((np.arange(target) + 0.5) * count / target - 0.5).clip(0, count - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count))), dtype=np.float32)
