"""One process, one device: decode in threads, score in batches, results in the order of the source."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from anovl.config import DISPLAY_SIDE
from anovl.core.scoring import Scores
from anovl.data.images import ImageLimits, load_image
from anovl.data.sources import SourceItem
from anovl.errors import AnovlError, ImageError, OutOfMemoryError, UsageError

log = logging.getLogger(__name__)


Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


class Job(Protocol[Made]):
    """A model bound to a class, as the engine sees it."""

    @property
    def limits(self) -> ImageLimits:
        """What images to refuse."""

    def preprocess(self, picture: Image.Image) -> Tensor:
        """RGB -> [3, H, W]."""

    def score(self, pixel_values: Tensor) -> Scores:
        """[B, 3, H, W] on the CPU -> scores on any device."""

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scores, timings: dict[str, float]) -> Made:
        """Scores of one image of (H, W) px, on the CPU -> what the run gives for it, a Prediction say."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one image: a prediction (or what else the job makes), or the error that says why not.

    Attributes:
        picture: a copy of at most 1600 px for drawing, where `keep_pictures` asked for it.
    """

    item: SourceItem
    prediction: Result | None = None
    error: AnovlError | None = None
    picture: Image.Image | None = None


@dataclass(frozen=True)
class _Decoded:
    item: SourceItem
    pixel_values: Tensor
    size: tuple[int, int]
    picture: Image.Image | None
    decode_ms: float


def run(
    job: Job[Result], items: Iterable[SourceItem], *, batch_size: int = 8, workers: int = 2, keep_pictures: bool = False
) -> Iterator[Outcome[Result]]:
    """Score every item, in order; memory is bounded by the batch.

    Broken images come back as outcomes with an error; everything else raises. When the device is out of
    memory the batch is halved, once and for all, and the run goes on. Closing the iterator (Ctrl-C, an
    error in the caller) stops the threads.

    Raises:
        UsageError: batch_size or workers below 1.
        OutOfMemoryError: one image alone does not fit.
    """
    if batch_size < 1 or workers < 1:
        raise UsageError(f"batch_size and workers: expected at least 1, got {batch_size} and {workers}")
    batcher = _Batcher(job, batch_size)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="anovl-decode")
    pending: deque[Future[_Decoded | Outcome[Result]]] = deque()
    source = iter(items)
    waiting: list[_Decoded | Outcome[Result]] = []
    try:
        while True:
            for item in itertools.islice(source, max(0, batcher.size + workers - len(pending))):
                pending.append(pool.submit(_decode, job, item, keep_picture=keep_pictures))
            if not pending:
                break
            waiting.append(pending.popleft().result())
            if sum(isinstance(slot, _Decoded) for slot in waiting) >= batcher.size or len(waiting) >= 4 * batcher.size:
                yield from batcher.outcomes(waiting)
                waiting = []
        yield from batcher.outcomes(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(job: Job[Result], item: SourceItem, *, keep_picture: bool) -> _Decoded | Outcome[Result]:
    start = time.perf_counter()
    try:
        picture = load_image(item.image, limits=job.limits)
        pixel_values = job.preprocess(picture)
    except ImageError as exc:
        return Outcome(item, error=exc)
    size = (picture.height, picture.width)
    if keep_picture:
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    ms = (time.perf_counter() - start) * 1000
    return _Decoded(item, pixel_values, size, picture if keep_picture else None, ms)


class _Batcher(Generic[Result]):
    """Scores decoded images and remembers the batch size that fits."""

    def __init__(self, job: Job[Result], size: int) -> None:
        self.job = job
        self.size = size

    def outcomes(self, slots: list[_Decoded | Outcome[Result]]) -> Iterator[Outcome[Result]]:
        """Outcomes of the slots, in order."""
        decoded = [slot for slot in slots if isinstance(slot, _Decoded)]
        scored = self._score(decoded)
        for slot in slots:
            yield slot if isinstance(slot, Outcome) else next(scored)

    def _score(self, decoded: list[_Decoded]) -> Iterator[Outcome[Result]]:
        start = 0
        while start < len(decoded):
            batch = decoded[start : start + self.size]
            began = time.perf_counter()
            try:
                scores = self.job.score(torch.stack([image.pixel_values for image in batch])).cpu()
            except RuntimeError as exc:
                if not _is_out_of_memory(exc):
                    raise
                self._halve(len(batch), exc)
                continue
            share = (time.perf_counter() - began) * 1000 / len(batch)
            for i, image in enumerate(batch):
                timings = {"decode": image.decode_ms, "encode": share}
                prediction = self.job.finish(image.item, image.size, scores.image(i), timings)
                yield Outcome(image.item, prediction, picture=image.picture)
            start += len(batch)

    def _halve(self, tried: int, cause: RuntimeError) -> None:
        if tried == 1:
            raise OutOfMemoryError(
                "one image alone does not fit into memory; use a smaller model or --image-size, --dtype bf16, or --device cpu"
            ) from cause
        self.size = tried // 2
        log.warning("out of memory with a batch of %d: going on with %d", tried, self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA and MPS raise their own types, the CPU allocator a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
