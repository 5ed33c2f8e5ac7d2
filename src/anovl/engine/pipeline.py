"""The engine's loop: decode in threads, score in batches, results in the order of the source. It knows no torch."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from PIL import Image

from anovl.config import DISPLAY_SIDE
from anovl.data.images import ImageLimits, load_image
from anovl.data.sources import SourceItem
from anovl.errors import AnovlError, ImageError, OutOfMemoryError, UsageError

log = logging.getLogger(__name__)

Pixels = TypeVar("Pixels")
Scored = TypeVar("Scored")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Pixels, Scored, Result_co]):
    """A model bound to a class, as the loop sees it."""

    @property
    def limits(self) -> ImageLimits:
        """What images to refuse."""

    def preprocess(self, picture: Image.Image) -> Pixels:
        """RGB -> what the model reads of one image."""

    def score(self, batch: Sequence[Pixels]) -> Sequence[Scored]:
        """Scores of each image; OutOfMemoryError where the batch does not fit."""

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scored, timings: dict[str, float]) -> Result_co:
        """Scores of one image of (H, W) px -> what the run gives for it, a Prediction say."""


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
class _Decoded(Generic[Pixels]):
    item: SourceItem
    pixels: Pixels
    size: tuple[int, int]
    picture: Image.Image | None
    decode_ms: float


def results(outcomes: Iterator[Outcome[Result]], *, on_error: Literal["raise", "skip"] = "raise") -> Iterator[Result]:
    """What the run gives for each image: a broken one raises its error, or is logged and left out.

    Raises:
        UsageError: on_error is neither.
        AnovlError: of the first broken image, for "raise".
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
    for outcome in outcomes:
        if outcome.prediction is not None:
            yield outcome.prediction
        elif on_error == "raise":
            raise outcome.error or AnovlError("no result")
        else:
            log.warning("skipped %s", outcome.error)


def run(
    work: Work[Pixels, Scored, Result],
    items: Iterable[SourceItem],
    *,
    batch_size: int = 8,
    workers: int = 2,
    keep_pictures: bool = False,
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
    batcher = _Batcher(work, batch_size)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="anovl-decode")
    pending: deque[Future[_Decoded[Pixels] | Outcome[Result]]] = deque()
    source = iter(items)
    waiting: list[_Decoded[Pixels] | Outcome[Result]] = []
    try:
        while True:
            for item in itertools.islice(source, max(0, batcher.size + workers - len(pending))):
                pending.append(pool.submit(_decode, work, item, keep_picture=keep_pictures))
            if not pending:
                break
            waiting.append(pending.popleft().result())
            if sum(isinstance(slot, _Decoded) for slot in waiting) >= batcher.size or len(waiting) >= 4 * batcher.size:
                yield from batcher.outcomes(waiting)
                waiting = []
        yield from batcher.outcomes(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(work: Work[Pixels, Scored, Result], item: SourceItem, *, keep_picture: bool) -> _Decoded[Pixels] | Outcome[Result]:
    start = time.perf_counter()
    try:
        picture = load_image(item.image, limits=work.limits)
        pixels = work.preprocess(picture)
    except ImageError as exc:
        return Outcome(item, error=exc)
    size = (picture.height, picture.width)
    if keep_picture:
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    ms = (time.perf_counter() - start) * 1000
    return _Decoded(item, pixels, size, picture if keep_picture else None, ms)


class _Batcher(Generic[Pixels, Scored, Result]):
    """Scores decoded images and remembers the batch size that fits."""

    def __init__(self, work: Work[Pixels, Scored, Result], size: int) -> None:
        self.work = work
        self.size = size

    def outcomes(self, slots: list[_Decoded[Pixels] | Outcome[Result]]) -> Iterator[Outcome[Result]]:
        """Outcomes of the slots, in order."""
        decoded = [slot for slot in slots if isinstance(slot, _Decoded)]
        scored = self._score(decoded)
        for slot in slots:
            yield slot if isinstance(slot, Outcome) else next(scored)

    def _score(self, decoded: list[_Decoded[Pixels]]) -> Iterator[Outcome[Result]]:
        start = 0
        while start < len(decoded):
            batch = decoded[start : start + self.size]
            began = time.perf_counter()
            try:
                scores = self.work.score([image.pixels for image in batch])
            except OutOfMemoryError as exc:
                self._halve(len(batch), exc)
                continue
            share = (time.perf_counter() - began) * 1000 / len(batch)
            for image, own in zip(batch, scores, strict=True):
                timings = {"decode": image.decode_ms, "encode": share}
                prediction = self.work.finish(image.item, image.size, own, timings)
                yield Outcome(image.item, prediction, picture=image.picture)
            start += len(batch)

    def _halve(self, tried: int, cause: OutOfMemoryError) -> None:
        if tried == 1:
            raise cause
        self.size = tried // 2
        log.warning("out of memory with a batch of %d: going on with %d", tried, self.size)
