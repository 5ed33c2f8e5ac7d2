"""One process, its devices: torch jobs through the engine's loop (`anovl.engine.pipeline`)."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import torch
from PIL import Image
from torch import Tensor

from anovl.config import Tiling
from anovl.core.scoring import Scores
from anovl.data.sources import SourceItem
from anovl.engine import pipeline
from anovl.engine.pipeline import Outcome, Result, Result_co
from anovl.errors import OutOfMemoryError
from anovl.tiling import Layout


class Job(Protocol[Result_co]):
    """A model bound to a class, as the engine sees it."""

    @property
    def tiling(self) -> Tiling:
        """In which parts an image is looked at."""

    def layout(self, picture: Image.Image) -> Layout:
        """Where these parts are in an RGB picture."""

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """Anything that is an image -> RGB, and (H, W) of the whole image."""

    def preprocess(self, picture: Image.Image) -> Tensor:
        """RGB -> [3, H, W]."""

    def score(self, pixel_values: Tensor) -> Scores:
        """[B, 3, H, W] on the CPU -> scores on any device."""

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scores, timings: dict[str, float]) -> Result_co:
        """Scores of one image of (H, W) px, on the CPU -> what the run gives for it, a Prediction say."""


def run(
    job: Job[Result] | Sequence[Job[Result]],
    items: Iterable[SourceItem],
    *,
    batch_size: int = 8,
    workers: int = 2,
    keep_pictures: bool = False,
) -> Generator[Outcome[Result]]:
    """Score every item, in order, by a job or by one on each device; see `anovl.engine.pipeline.run`.

    Tiles go through in batches, the images that they are of one at a time.
    """
    jobs = job if isinstance(job, Sequence) else [job]
    works = [work_of(one, batch_size) for one in jobs]
    images = 1 if jobs and jobs[0].tiling.sides else batch_size
    return pipeline.run(works, items, batch_size=images, workers=workers, keep_pictures=keep_pictures)


def work_of(job: Job[Result], batch_size: int) -> pipeline.Work[Any, Scores, Result]:
    """A job as the loop takes it; `batch_size` is of the parts, where it looks at an image in parts."""
    return Stacked(job) if job.tiling.whole else InParts(job, batch_size)


@dataclass(frozen=True)
class Stacked(Generic[Result]):
    """A job as the loop (`pipeline.Work`) takes it: tensors stacked to a batch, its scores taken apart on the CPU."""

    job: Job[Result]

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """As the protocol says."""
        return self.job.load(image)

    def preprocess(self, picture: Image.Image) -> Tensor:
        """As the protocol says."""
        return self.job.preprocess(picture)

    def score(self, batch: Sequence[Tensor]) -> list[Scores]:
        """As the protocol says."""
        with out_of_memory_told():
            scores = self.job.score(torch.stack(list(batch))).cpu()
        return [scores.image(index) for index in range(len(batch))]

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scores, timings: dict[str, float]) -> Result:
        """As the protocol says."""
        return self.job.finish(item, size, scores, timings)


class InParts(Generic[Result]):
    """A job as the loop takes it, where images are looked at in parts: these go through in batches of their own.

    Args:
        job: the job.
        batch_size: parts a pass; halved when the device is out of memory.
    """

    def __init__(self, job: Job[Result], batch_size: int) -> None:
        self.job = job
        self._batcher = pipeline.Batcher(Stacked(job), batch_size)

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """As the protocol says."""
        return self.job.load(image)

    def preprocess(self, picture: Image.Image) -> tuple[Image.Image, Layout]:
        """The picture, of which parts are cut when their turn comes, and where these are."""
        return picture.copy(), self.job.layout(picture)  # the loop may shrink its own for drawing

    def score(self, batch: Sequence[tuple[Image.Image, Layout]]) -> list[Scores]:
        """As the protocol says."""
        parts = (self.job.preprocess(picture.crop(box)) for picture, layout in batch for box in layout.boxes)
        scored = self._batcher.passes(parts)
        return [layout.join([scores for scores, _ in itertools.islice(scored, len(layout.boxes))]) for _, layout in batch]

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scores, timings: dict[str, float]) -> Result:
        """As the protocol says."""
        return self.job.finish(item, size, scores, timings)


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
