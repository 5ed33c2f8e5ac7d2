"""Images of different requests through one model: batches, and how much is let in at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from anovl.engine.pipeline import Work
from anovl.errors import AnovlError, OutOfMemoryError
from anovl.server.problems import full

log = logging.getLogger(__name__)

Job = Work[Any, Any, Any]


@dataclass(frozen=True, eq=False)
class _Entry:
    job: Job
    pixels: Any
    future: Future[Any] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """One thread that scores images, those of one job together.

    The oldest image says which job is next and waits at most `max_wait_s` for more of it; later ones keep their order. An
    image whose future was cancelled before its batch began is left out. An error of a batch is looked for in its halves, so
    that it reaches nobody but the image that caused it.

    Args:
        name: of the thread.
        batch_size: largest batch; halved for good when the device is out of memory.
        max_wait_s: see above.
        observe: told the size of every batch.
    """

    def __init__(
        self, name: str, *, batch_size: int, max_wait_s: float, observe: Callable[[int], object] = lambda _: None
    ) -> None:
        self.batch_size = batch_size
        self._max_wait = max_wait_s
        self._observe = observe
        self._entries: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, pixels: Any) -> Future[Any]:
        """The scores of an image that the job has preprocessed, when they are there.

        Raises:
            AnovlError: the batcher is closed.
        """
        entry = _Entry(job, pixels)
        with self._changed:
            if self._closed:
                raise AnovlError("the batcher is closed")
            self._entries.append(entry)
            self._changed.notify()
        entry.future.add_done_callback(self._drop)  # knows no entry: a circle would keep its image
        return entry.future

    def _drop(self, future: Future[Any]) -> None:
        """Let go of an image that nobody waits for any more: it may be a large one."""
        if future.cancelled():
            with self._changed:
                self._entries = deque(entry for entry in self._entries if entry.future is not future)

    def close(self, timeout_s: float | None = None) -> None:
        """Score what is waiting, then end the thread; return after `timeout_s` in any case."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while batch := self._next():
            running = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if running:
                self._observe(len(running))
                self._score(running)
            del batch, running  # what waits at its full size may be large

    def _next(self) -> list[_Entry]:
        """The next batch; empty at the end."""
        with self._changed:
            while True:
                while not self._entries and not self._closed:
                    self._changed.wait()
                if not self._entries:
                    return []
                first = self._entries[0]
                batch = [entry for entry in self._entries if entry.job is first.job][: self.batch_size]
                left = first.arrived + self._max_wait - time.monotonic()
                if len(batch) == self.batch_size or left <= 0 or self._closed:
                    break
                self._changed.wait(left)
            taken = set(map(id, batch))
            self._entries = deque(entry for entry in self._entries if id(entry) not in taken)
            return batch

    def _score(self, batch: Sequence[_Entry]) -> None:
        try:
            scores = list(batch[0].job.score([entry.pixels for entry in batch]))
            if len(scores) != len(batch):
                raise AnovlError(f"the model gave {len(scores)} scores for {len(batch)} images")
        except Exception as exc:  # it goes to whoever waits for the image
            if len(batch) == 1:
                batch[0].future.set_exception(exc)
                return
            half = len(batch) // 2
            if isinstance(exc, OutOfMemoryError) and self.batch_size > half:
                self.batch_size = half
                log.warning("out of memory with a batch of %d: going on with %d", len(batch), half)
            self._score(batch[:half])
            self._score(batch[half:])
            return
        for entry, own in zip(batch, scores, strict=True):
            entry.future.set_result(own)


class Admission:
    """Counts what accepted requests hold; used by the event loop alone.

    Args:
        images: most that may be accepted and not yet answered.
        body_bytes: most of all bodies in memory.
        pixels: most of all maps that are to be sent.
    """

    def __init__(self, *, images: int, body_bytes: int, pixels: int) -> None:
        self._most_images, self._most_bytes, self._most_pixels = images, body_bytes, pixels
        self.images = 0
        self.body_bytes = 0
        self.pixels = 0

    def check(self, *, images: int = 0, body_bytes: int = 0, pixels: int = 0) -> None:
        """Raise the problem 429 where there is no room for so many more."""
        if self.images + images > self._most_images:
            raise full(f"{self.images} of {self._most_images} places for images are taken, {images} more came; try again later")
        if self.body_bytes + body_bytes > self._most_bytes:
            raise full(f"requests of {self.body_bytes:,} bytes are being worked on; try again later")
        if self.pixels + pixels > self._most_pixels:
            raise full(f"maps of {self.pixels:,} pixels are being made; try again later")

    @contextmanager
    def ticket(self) -> Iterator[Ticket]:
        """A request's share, given back at the end; Problem 429 where there is no room for a single image."""
        self.check(images=1)
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self.images -= ticket.images
            self.body_bytes -= ticket.body_bytes
            self.pixels -= ticket.pixels


@dataclass
class Ticket:
    """What one request holds."""

    admission: Admission
    images: int = 0
    body_bytes: int = 0
    pixels: int = 0

    def take_images(self, count: int) -> None:
        """Count images that are to be scored; Problem 429 where there is no room for all of them."""
        self.admission.check(images=count)
        self.admission.images += count
        self.images += count

    def take_bytes(self, count: int) -> None:
        """Count bytes that were read; Problem 429 where it is too much."""
        self.admission.check(body_bytes=count)
        self.admission.body_bytes += count
        self.body_bytes += count

    def take_pixels(self, count: int) -> None:
        """Count pixels of maps that are to be sent; Problem 429 where it is too much."""
        self.admission.check(pixels=count)
        self.admission.pixels += count
        self.pixels += count
