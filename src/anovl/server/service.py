"""The service without its HTTP: models, limits, threads, and what is under way."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from starlette.requests import Request

from anovl.server import answering, reading
from anovl.server.batching import Admission
from anovl.server.hosting import Host, Model, pick
from anovl.server.metrics import Metrics
from anovl.server.problems import Problem
from anovl.server.settings import BODIES, Settings

_POLL_S = 0.05


class Service:
    """Models under their names, and how requests get through them.

    Args:
        models: at least one; the first is the default.
        settings: limits and pace.
        versions: for /v1/info.

    Attributes:
        draining: accepts nothing new.
        on_start: called in the event loop when it listens.
        on_stop: called in the event loop when it stops, to end connections that stay open by themselves.
    """

    def __init__(self, models: Mapping[str, Model], settings: Settings, versions: Mapping[str, str]) -> None:
        self.settings = settings
        self.versions = dict(versions)
        self.admission = Admission(
            images=settings.queue_size, body_bytes=BODIES * settings.max_bytes, pixels=BODIES * settings.max_pixels
        )
        self.metrics = Metrics(lambda: self.admission.images)
        self._threads = f"anovl-{secrets.token_hex(3)}-"
        self.hosts = {
            name: Host(name, model, settings, threads=self._threads, observe=self.metrics.batches_of(name))
            for name, model in models.items()
        }
        self.draining = False
        self.on_start: list[Callable[[], object]] = []
        self.on_stop: list[Callable[[], object]] = []
        self._gave_up = False
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix=f"{self._threads}images")
        self._running: set[asyncio.Timeout] = set()

    async def predict(self, request: Request) -> bytes:
        """The JSON answer to a request to score.

        Raises:
            Problem: it cannot be answered.
            AnovlError: likewise; see `anovl.server.problems.problem_of`.
        """
        if self.draining:
            raise Problem(503, "the service is stopping; try another, or later")
        arrived = False
        try:
            async with asyncio.timeout(self.settings.timeout_s) as timeout:
                with self._tracked(timeout), self.admission.ticket() as ticket:
                    content_type = reading.content_type(request)
                    body = await reading.read_body(request, ticket, max_bytes=self.settings.max_bytes)
                    arrived = True
                    loop = asyncio.get_running_loop()
                    parse = partial(reading.parse, content_type, body, max_files=self.settings.max_files)
                    fields, uploads = await loop.run_in_executor(self._pool, parse)
                    del body, parse
                    ticket.take_images(len(uploads))
                    request.state.images = len(uploads)
                    host = pick(self.hosts, fields.model)
                    job = await host.job(fields.words(self.settings.class_name))
                    rows = await answering.answer(
                        uploads, fields, job, ticket, host=host, pool=self._pool, max_pixels=self.settings.max_pixels
                    )
                    whole = {"request_id": request.state.request_id, "model": host.name, "predictions": rows}
                    return await loop.run_in_executor(self._pool, lambda: json.dumps(whole).encode())
        except TimeoutError as exc:
            if self._gave_up:
                raise Problem(503, "the service stopped before the answer was ready; try another, or later") from exc
            if not arrived:
                raise Problem(408, f"the request did not arrive within {self.settings.timeout_s:g} s; send it faster") from exc
            raise Problem(
                504, f"no answer within {self.settings.timeout_s:g} s (--timeout-s); send fewer images, or later"
            ) from exc

    @contextmanager
    def _tracked(self, timeout: asyncio.Timeout) -> Iterator[None]:
        self._running.add(timeout)
        try:
            yield
        finally:
            self._running.discard(timeout)

    async def exposition(self) -> bytes:
        """For Prometheus."""
        return self.metrics.text()

    def give_up(self) -> None:
        """Answer whatever is under way with 503, at once; in the event loop."""
        self._gave_up = True
        now = asyncio.get_running_loop().time()
        for timeout in self._running:
            if not timeout.expired():
                timeout.reschedule(now)

    async def drain(self) -> None:
        """Accept nothing new; return when what was accepted is answered, with 503 after `drain_s`."""
        self.draining = True
        asyncio.get_running_loop().call_later(self.settings.drain_s, self.give_up)
        while self._running:
            await asyncio.sleep(_POLL_S)

    def close(self, timeout_s: float = 1.0) -> bool:
        """End the threads.

        Returns:
            False where one is still at work after `timeout_s`, encoding the prompts of a new class, say.
        """
        for host in self.hosts.values():
            host.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + timeout_s
        own = [thread for thread in threading.enumerate() if thread.name.startswith(self._threads)]
        for thread in own:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in own)
