"""One process, its devices: torch jobs through the engine's loop (`anovl.engine.pipeline`)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import torch
from PIL import Image
from torch import Tensor

from anovl.core.scoring import Scores
from anovl.data.sources import SourceItem
from anovl.engine import pipeline
from anovl.engine.pipeline import Outcome, Result, Result_co
from anovl.errors import OutOfMemoryError


class Job(Protocol[Result_co]):
    """A model bound to a class, as the engine sees it."""

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
    """Score every item, in order, by a job or by one on each device; see `anovl.engine.pipeline.run`."""
    jobs = job if isinstance(job, Sequence) else [job]
    works = [Stacked(one) for one in jobs]
    return pipeline.run(works, items, batch_size=batch_size, workers=workers, keep_pictures=keep_pictures)


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
