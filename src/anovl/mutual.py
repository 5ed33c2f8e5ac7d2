"""A set of images that score each other: all are encoded first, once, then compared block by block (`anovl.methods.musc`)."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl.config import DISPLAY_SIDE, Mutual
from anovl.core.scoring import Scores
from anovl.data.sources import SourceItem
from anovl.detection import DetectionJob
from anovl.engine import pipeline
from anovl.engine.local import Finish, images_of, out_of_memory_told
from anovl.engine.pipeline import Outcome
from anovl.errors import ImageError, UsageError
from anovl.methods.anovl import AnoVLMethod
from anovl.methods.few_shot import chosen_layers, fused
from anovl.methods.musc import LEAST, mutual_distances, rescored, settled_weight, standardized
from anovl.metrics.spill import SpilledArray, SpillFile
from anovl.results import ImageScores, Pixels

log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """What the encoder's one pass gave of an image.

    Attributes:
        scores: by the text.
        class_token: [C].
        tokens: for each path [M, D], standardized; fp32 or fp16.
        size: (H, W) of the image in px.
        timings: milliseconds of the stages so far.
    """

    scores: ImageScores
    class_token: Tensor
    tokens: tuple[Tensor, ...]
    size: tuple[int, int]
    timings: dict[str, float]


@dataclass(frozen=True)
class MutualJob:
    """A detector bound to a class, for images that score each other (`anovl.engine.pipeline.Work`).

    Attributes:
        job: the detector, words and map size.
        settings: of the mutual scores.

    Raises:
        UsageError: the method has no local tokens, the backbone no such layer; the detector a profile, a bank, several devices.
    """

    job: DetectionJob
    settings: Mutual

    def __post_init__(self) -> None:
        detector = self.job.detector
        if not isinstance(detector.method, AnoVLMethod):
            raise UsageError(f"batched: method {detector.method_name!r} has no patch tokens to compare; take another method")
        if detector.profile is not None:
            raise UsageError("batched: a score depends on the other images, so no profile holds for it; leave the profile out")
        if detector.bank is not None:
            raise UsageError("batched: this detector was fitted to good pictures; take it without the bank, or leave batched out")
        if not self.job.recipe.tiling.whole:
            raise UsageError("batched: compares whole images; leave tiles and crop out")
        if detector.replicas:
            raise UsageError(f"batched: computes on one device, got {detector.device}")
        layers = chosen_layers(self.settings.layers, detector.method.encoder)
        object.__setattr__(self, "settings", replace(self.settings, layers=layers))

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """As the protocol says."""
        return self.job.load(image)

    def preprocess(self, picture: Image.Image) -> Pixels:
        """As the protocol says."""
        return self.job.pixels(picture)

    @torch.inference_mode()
    def score(self, batch: Sequence[Pixels]) -> list[tuple[ImageScores, Tensor, tuple[Tensor, ...]]]:
        """Scores by the text, class token and tokens of each image, on the CPU."""
        job, backbone = self.job, self.job.detector.backbone
        method: Any = job.detector.method
        with out_of_memory_told():
            pixel_values = job.detector.to_pixel_values(torch.from_numpy(np.stack(batch)))
            scores, class_tokens, paths = method.look(pixel_values, job.text, job.adapters, layers=self.settings.layers)
            kind = torch.float32 if backbone.dtype == torch.float32 else torch.float16
            tokens = [standardized(path).to(kind).cpu() for path in paths]
        images, class_tokens = images_of(job.finite(scores)), class_tokens.float().cpu()
        return [(image, class_tokens[i], tuple(path[i] for path in tokens)) for i, image in enumerate(images)]

    def finish(
        self,
        item: SourceItem,
        size: tuple[int, int],
        scores: tuple[ImageScores, Tensor, tuple[Tensor, ...]],
        timings: dict[str, float],
    ) -> Encoded:
        """As the protocol says."""
        del item
        return Encoded(*scores, size, timings)


def run(
    job: DetectionJob,
    items: Iterable[SourceItem],
    *,
    settings: Mutual,
    finish: Finish[Any] | None = None,
    batch_size: int = 8,
    workers: int = 2,
    keep_pictures: bool = False,
) -> Generator[Outcome[Any]]:
    """Score images by each other: the first outcome comes after the last image was encoded; then all, in order.

    Tokens wait in a temporary file without a name, so that memory is bounded: of each image it holds the scores by the text and
    the class token. A picture that is asked for is read again.

    Args:
        job: a detector bound to a class.
        items: the images.
        settings: of the mutual scores.
        finish: makes of scores what the run gives for an image; None makes the job's Predictions.
        batch_size, workers, keep_pictures: as of `anovl.engine.pipeline.run`.

    Raises:
        UsageError: as `MutualJob`, or fewer than two images that can be used.
        OutputError: no room for the tokens.
    """
    together = MutualJob(job, settings)
    spill, stored = SpillFile(None), []
    encoded: list[Outcome[Encoded]] = []
    with closing(pipeline.run(together, items, batch_size=batch_size, workers=workers)) as outcomes:
        for outcome in outcomes:
            if outcome.prediction is not None:
                tokens = outcome.prediction.tokens
                stored.append([spill.append(path.numpy().ravel()) for path in tokens])
                outcome = replace(outcome, prediction=outcome.prediction._replace(tokens=()))  # noqa: PLW2901
            encoded.append(outcome)
    usable = [outcome.prediction for outcome in encoded if outcome.prediction is not None]
    if len(usable) < LEAST:
        raise UsageError(f"batched: images are compared with each other: expected at least {LEAST}, got {len(usable)}")
    log.info("encoded %d images; comparing them", len(usable))
    scores = iter(_scores(together, usable, stored))
    for outcome in encoded:
        item, one = outcome.item, outcome.prediction
        if one is None:
            yield Outcome(item, error=outcome.error)
            continue
        prediction = (finish or job.finish)(item, one.size, next(scores), one.timings)
        yield Outcome(item, prediction, picture=_picture(job, item) if keep_pictures else None)


@torch.inference_mode()
def _scores(job: MutualJob, usable: Sequence[Encoded], stored: Sequence[Sequence[SpilledArray]]) -> list[ImageScores]:
    """Scores of each image by the text and the others, or by the others alone."""
    method, device = job.job.detector.method, job.job.detector.backbone.device
    grid, settings = method.encoder.grid, job.settings
    distances = []
    for path in zip(*stored, strict=True):

        def read(numbers: Sequence[int], path: Sequence[SpilledArray] = path) -> Tensor:
            tokens = torch.from_numpy(np.stack([np.asarray(path[number]) for number in numbers]))
            return tokens.view(len(numbers), grid[0] * grid[1], -1)

        distances.append(mutual_distances(read, len(usable), grid, settings, device=device))
    distance = torch.stack(distances).mean(dim=0).unflatten(1, grid)
    if settings.weight is None:
        whole = Scores(distance.flatten(1).amax(dim=1) / 2, distance / 2)
    else:
        text = Scores(*(torch.from_numpy(np.stack(part)) for part in zip(*(one.scores[:2] for one in usable), strict=True)))
        weight = settled_weight(distance) if settings.weight == "auto" else settings.weight
        log.info("weight of the distances: %.3g", weight)
        whole = fused(text, distance, weight * method.logit_scale)
    images = rescored(whole.image_score, torch.stack([one.class_token for one in usable]), settings)
    found = images_of(Scores(images, whole.patch_scores))
    return [scores._replace(name_scores=one.scores.name_scores) for scores, one in zip(found, usable, strict=True)]


def _picture(job: DetectionJob, item: SourceItem) -> Image.Image | None:
    """The image again, small enough to draw on; None where it has gone since."""
    try:
        picture, _ = job.load(item.image)
    except ImageError as exc:
        log.warning("not drawn: %s", exc)
        return None
    picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    return picture
