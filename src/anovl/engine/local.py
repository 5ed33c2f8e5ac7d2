"""One process, its devices: torch jobs through the engine's loop (`anovl.engine.pipeline`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl.blending import join
from anovl.config import Recipe
from anovl.core.scoring import Scores
from anovl.data.sources import SourceItem
from anovl.engine import pipeline
from anovl.engine.pipeline import Outcome, Result, Result_co
from anovl.errors import OutOfMemoryError
from anovl.results import ImageScores, Pixels
from anovl.tiling import Layout


class Job(pipeline.Processor[Any, ImageScores, Result_co], Protocol):
    """A model bound to a class, as the engine sees it."""

    @property
    def recipe(self) -> Recipe:
        """What is in force; its tiling says in which parts an image is looked at."""

    def pixels(self, picture: Image.Image) -> Pixels:
        """An RGB picture, or a part of one, at the model's input size."""

    def score(self, images: Tensor) -> Scores:
        """[B, H, W, 3] uint8 on the CPU -> scores on any device."""


Finish = Callable[[SourceItem, tuple[int, int], ImageScores, dict[str, float]], Result]  # as `pipeline.Processor.finish`


def run(
    job: Job[Any] | Sequence[Job[Any]],
    items: Iterable[SourceItem],
    *,
    finish: Finish[Any] | None = None,
    batch_size: int = 8,
    workers: int = 2,
    keep_pictures: bool = False,
) -> Generator[Outcome[Any]]:
    """Score every item, in order, by a job or by one on each device; see `anovl.engine.pipeline.run`.

    Tiles go through in batches, the images that they are of one at a time. `finish` makes of scores what the run gives for an
    image; None is the job's own.
    """
    jobs = job if isinstance(job, Sequence) else [job]
    works = [work_of(one, batch_size, finish) for one in jobs]
    images = 1 if jobs and jobs[0].recipe.tiling.sides else batch_size
    return pipeline.run(works, items, batch_size=images, workers=workers, keep_pictures=keep_pictures)


def work_of(job: Job[Any], batch_size: int, finish: Finish[Any] | None = None) -> Stacked:
    """A job as the loop takes it; `batch_size` is of the parts, where it looks at an image in parts."""
    return Stacked(job, finish) if job.recipe.tiling.whole else InParts(job, batch_size, finish)


class Stacked:
    """A job as the loop (`pipeline.Work`) takes it: pixels stacked to a batch, its scores taken apart on the CPU.

    Args:
        job: the job.
        finish: as of `run`.
    """

    def __init__(self, job: Job[Any], finish: Finish[Any] | None = None) -> None:
        self.job = job
        self.load, self.preprocess, self.finish = job.load, job.preprocess, finish or job.finish

    def score(self, batch: Sequence[Any]) -> list[ImageScores]:
        """As the protocol says."""
        with out_of_memory_told():
            return images_of(self.job.score(torch.from_numpy(np.stack(batch))))


def images_of(scores: Scores) -> list[ImageScores]:
    """Scores of each image of a batch."""
    arrays = [None if values is None else values.cpu().numpy() for values in scores]
    count = len(scores.image_score)
    return [ImageScores._make(None if values is None else values[index] for values in arrays) for index in range(count)]


class InParts(Stacked):
    """A job as the loop takes it, where images are looked at in parts: these go through in batches of their own.

    Args:
        job, finish: as of `Stacked`.
        batch_size: parts a pass; halved when the device is out of memory.
    """

    def __init__(self, job: Job[Any], batch_size: int, finish: Finish[Any] | None = None) -> None:
        super().__init__(job, finish)
        self._batcher: pipeline.Batcher[Pixels, ImageScores] = pipeline.Batcher(Stacked(job), batch_size)

    def score(self, batch: Sequence[tuple[Pixels, Layout]]) -> list[ImageScores]:
        """As the protocol says."""
        parts = (
            self.job.pixels(Image.fromarray(picture[top:bottom, left:right]))
            for picture, layout in batch
            for left, top, right, bottom in layout.boxes
        )
        scored = self._batcher.passes(parts)
        return [join(layout, [one for one, _ in itertools.islice(scored, len(layout.boxes))]) for _, layout in batch]


@contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Turn torch's errors of the kind into an OutOfMemoryError, on which the loop halves its batches."""
    try:
        yield
    except RuntimeError as exc:
        if not _is_out_of_memory(exc):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemoryError(
            "one image alone does not fit into memory; use a smaller model or --image-size, --dtype bf16, or --device cpu"
        ) from exc


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA and MPS raise their own types, the CPU allocator a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
