"""The engine's loop: decode in threads, score in batches, results in the order of the source. It knows no torch."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, Literal, Protocol, TypeVar

from PIL import Image

from anovl.config import DISPLAY_SIDE
from anovl.data.sources import SourceItem
from anovl.errors import AnovlError, ImageDecodeError, ImageError, OutOfMemoryError, UsageError

log = logging.getLogger(__name__)

MAPS_AHEAD = 256 * 2**20  # bytes of maps that are made before their turn

Input = TypeVar("Input")
Input_co = TypeVar("Input_co", covariant=True)
Scored = TypeVar("Scored")
Scored_contra = TypeVar("Scored_contra", contravariant=True)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Processor(Protocol[Input_co, Scored_contra, Result_co]):
    """What comes before and after a model that is bound to a class."""

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """Anything that is an image -> RGB, and (H, W) of the whole image; ImageError where it cannot be used."""

    def preprocess(self, picture: Image.Image) -> Input_co:
        """RGB -> what the model reads of one image."""

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Scored_contra, timings: dict[str, float]) -> Result_co:
        """Scores of one image of (H, W) px -> what the run gives for it, a Prediction say."""


class Work(Processor[Input, Scored, Result_co], Protocol):
    """A model bound to a class, as the loop sees it."""

    def score(self, batch: Sequence[Input]) -> Sequence[Scored]:
        """Scores of each image; OutOfMemoryError where the batch does not fit."""


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
class Decoded(Generic[Input]):
    """An image that waits for the model.

    Attributes:
        pixels: what the model reads.
        size: (H, W) of the whole image in px.
        picture: for drawing, where it was asked for.
        timings: milliseconds of the stages so far.
    """

    item: SourceItem
    pixels: Input
    size: tuple[int, int]
    picture: Image.Image | None
    timings: dict[str, float]


# a batch with the broken images between its own, in order; and the same with scores
Slots = list[Decoded[Input] | Outcome[Any]]
ScoredSlots = list[tuple[Decoded[Input], Scored] | Outcome[Any]]


def results(outcomes: Generator[Outcome[Result]], *, on_error: Literal["raise", "skip"] = "raise") -> Iterator[Result]:
    """What the run gives for each image: a broken one raises its error, or is logged and left out.

    Raises:
        UsageError: on_error is neither.
        AnovlError: of the first broken image, for "raise".
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
    with closing(outcomes):
        for outcome in outcomes:
            if outcome.prediction is not None:
                yield outcome.prediction
            elif on_error == "raise":
                raise outcome.error or AnovlError("no result")
            else:
                log.warning("skipped %s", outcome.error)


def run(
    work: Work[Input, Scored, Result] | Sequence[Work[Input, Scored, Result]],
    items: Iterable[SourceItem],
    *,
    batch_size: int = 8,
    workers: int = 2,
    keep_pictures: bool = False,
) -> Generator[Outcome[Result]]:
    """Score every item, in order; memory is bounded by the batch.

    Broken images come back as outcomes with an error; everything else raises, after the outcomes before it. When the
    device is out of memory the batch is halved, once and for all, and the run goes on. Maps of a batch are made in threads
    while the next one is scored. Closing the iterator (Ctrl-C, an error in the caller) stops the threads.

    Several works, which must give the same on a device each, score in a thread each; whichever is free takes the next batch.

    Raises:
        UsageError: batch_size or workers below 1, or no work.
        OutOfMemoryError: one image alone does not fit.
    """
    if batch_size < 1 or workers < 1:
        raise UsageError(f"batch_size and workers: expected at least 1, got {batch_size} and {workers}")
    works = list(work) if isinstance(work, Sequence) else [work]
    if not works:
        raise UsageError("work: expected at least one, got none")
    batchers = [Batcher(one, batch_size) for one in works]
    scorers = ThreadPoolExecutor(len(works), thread_name_prefix="anovl-score")
    decoders = ThreadPoolExecutor(workers, thread_name_prefix="anovl-decode")
    finishers = ThreadPoolExecutor(workers, thread_name_prefix="anovl-finish")
    coming: deque[Callable[[], Outcome[Result]]] = deque()
    wait = True
    try:
        batches = _decoded(works[0], items, batchers, decoders, ahead=workers, keep_pictures=keep_pictures)
        for scored in _scored(batchers, batches, scorers) if len(works) > 1 else map(batchers[0].score, batches):
            yield from _results(coming)  # of the batch before
            _finish(works[0], scored, finishers, coming)
        yield from _results(coming)
    except Exception:
        yield from _results(coming)
        raise
    except GeneratorExit:
        wait = False  # it may be the garbage collector that closes, in any thread that holds any lock
        raise
    finally:
        for pool in (scorers, decoders, finishers):
            pool.shutdown(wait=wait, cancel_futures=True)


def _results(coming: deque[Callable[[], Outcome[Result]]]) -> Iterator[Outcome[Result]]:
    while coming:
        yield coming.popleft()()


def _decoded(
    work: Work[Input, Any, Any],
    items: Iterable[SourceItem],
    batchers: Sequence[Batcher[Input, Any]],
    pool: ThreadPoolExecutor,
    *,
    ahead: int,
    keep_pictures: bool,
) -> Iterator[Slots[Input]]:
    """Decoded images, a batch at a time with the broken ones between them; `ahead` more than a batch are under way."""
    source = iter(items)
    pending: deque[Future[Decoded[Input] | Outcome[Any]]] = deque()
    slots: Slots[Input] = []
    while True:
        size = max(batcher.size for batcher in batchers)
        for item in itertools.islice(source, max(0, size + ahead - len(pending))):
            pending.append(pool.submit(_decode, work, item, keep_picture=keep_pictures))
        if not pending:
            break
        slots.append(pending.popleft().result())
        if sum(isinstance(slot, Decoded) for slot in slots) >= size or len(slots) >= 4 * size:
            yield slots
            slots = []
    yield slots


def _decode(work: Work[Input, Any, Any], item: SourceItem, *, keep_picture: bool) -> Decoded[Input] | Outcome[Any]:
    try:
        return decode(work, item, keep_picture=keep_picture)
    except ImageError as exc:
        return Outcome(item, error=exc)


def decode(work: Processor[Input, Any, Any], item: SourceItem, *, keep_picture: bool) -> Decoded[Input]:
    """An image as the model reads it, with a copy of at most 1600 px for drawing where that is asked for.

    Raises:
        ImageError: it cannot be used.
    """
    start = time.perf_counter()
    before = _state(item.image)
    picture, size = work.load(item.image)
    if (after := _state(item.image)) != before and after is not None:  # one that was read and is gone is whole
        raise ImageDecodeError(str(item.image), "changed while it was read, and may not be whole; try it again")
    decoded = time.perf_counter()
    pixels = work.preprocess(picture)
    timings = {"decode": (decoded - start) * 1000, "resize": (time.perf_counter() - decoded) * 1000}
    if keep_picture:
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    return Decoded(item, pixels, size, picture if keep_picture else None, timings)


def _state(image: Any) -> tuple[int, int, int] | None:
    """What changes with a file's content; None for what is no file, or none any more."""
    if not isinstance(image, str | Path):
        return None
    try:
        info = os.stat(image)  # noqa: PTH116 -- a name that is no path, with a NUL byte say, is the reader's to refuse
    except (OSError, ValueError):
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


class Batcher(Generic[Input, Scored]):
    """Scores decoded images and remembers the batch size that fits."""

    def __init__(self, work: Work[Input, Scored, Any], size: int) -> None:
        self.work = work
        self.size = size

    def score(self, slots: Slots[Input]) -> ScoredSlots[Input, Scored]:
        """The slots, in order, each image with its scores."""
        scored = self.passes(slot.pixels for slot in slots if isinstance(slot, Decoded))
        return [slot if isinstance(slot, Outcome) else self._timed(slot, *next(scored)) for slot in slots]

    def passes(self, pixels: Iterable[Input]) -> Iterator[tuple[Scored, float]]:
        """Scores of each in turn, and its share of the milliseconds; no more than a batch is taken ahead."""
        source = iter(pixels)
        batch: list[Input] = []
        while batch := [*batch, *itertools.islice(source, max(0, self.size - len(batch)))]:
            began = time.perf_counter()
            try:
                scores = self.work.score(batch[: self.size])
            except OutOfMemoryError as exc:
                self._halve(len(batch[: self.size]), exc)
                continue
            share = (time.perf_counter() - began) * 1000 / len(scores)
            batch = batch[len(scores) :]
            for own in scores:
                yield own, share

    @staticmethod
    def _timed(image: Decoded[Input], scores: Scored, share: float) -> tuple[Decoded[Input], Scored]:
        log.info("scored %s", image.item.key)
        image.timings["encode"] = share
        return image, scores

    def _halve(self, tried: int, cause: OutOfMemoryError) -> None:
        if tried == 1:
            raise cause
        self.size = tried // 2
        log.warning("out of memory with a batch of %d: going on with %d", tried, self.size)


def _scored(
    batchers: Sequence[Batcher[Input, Scored]], batches: Iterator[Slots[Input]], pool: ThreadPoolExecutor
) -> Iterator[ScoredSlots[Input, Scored]]:
    """Scored batches, in order: one is under way on each device, and one more waits for the first that is free."""
    free: SimpleQueue[Batcher[Input, Scored]] = SimpleQueue()
    for batcher in batchers:
        free.put(batcher)

    def score(slots: Slots[Input]) -> ScoredSlots[Input, Scored]:
        batcher = free.get()  # there is one for each thread of the pool
        try:
            return batcher.score(slots)
        finally:
            free.put(batcher)

    def submitted() -> Iterator[Future[ScoredSlots[Input, Scored]]]:
        try:
            for slots in batches:
                yield pool.submit(score, slots)
        except Exception as exc:  # noqa: BLE001 -- of the source: it is raised once the batches before it are out
            failed: Future[ScoredSlots[Input, Scored]] = Future()
            failed.set_exception(exc)
            yield failed

    coming: deque[Future[ScoredSlots[Input, Scored]]] = deque()
    for future in submitted():
        coming.append(future)
        if len(coming) > len(batchers):
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _finish(
    work: Work[Input, Scored, Result],
    scored: ScoredSlots[Input, Scored],
    pool: ThreadPoolExecutor,
    coming: deque[Callable[[], Outcome[Result]]],
) -> None:
    """Queue what gives each outcome: made in a thread while memory for maps allows, else when its turn comes."""

    def make(image: Decoded[Input], scores: Scored) -> Outcome[Result]:
        return Outcome(image.item, work.finish(image.item, image.size, scores, image.timings), picture=image.picture)

    free = MAPS_AHEAD
    for slot in scored:
        if isinstance(slot, Outcome):
            coming.append(lambda outcome=slot: outcome)  # type: ignore[misc]
            continue
        image, scores = slot
        free -= 4 * image.size[0] * image.size[1]
        call = partial(make, image, scores)
        coming.append(pool.submit(call).result if free >= 0 else call)
