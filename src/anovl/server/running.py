"""The process of a service: its socket, uvicorn, signals, and a log of JSON lines."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from anovl.errors import AnovlError
from anovl.server import frame, problems
from anovl.server.app import MountPage, create_app
from anovl.server.problems import Problem
from anovl.server.service import Service

log = logging.getLogger(__name__)

HEADERS_S = 10.0  # for the head of a request to arrive
IDLE_S = 5  # a connection may stay open so long without a request
ANSWER_S = 60.0  # for the caller to take an answer, which waits in memory meanwhile


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """As the base class says."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_json(handlers: list[logging.Handler], level: int) -> None:
    """Make the log one of JSON lines, uvicorn's warnings among them."""
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
    for name, least in (("anovl", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, False
        logger.setLevel(least)


class _Connection(H11Protocol):
    """uvicorn's, but a connection whose next request does not come is closed, and so is one whose answer is not taken."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait(ANSWER_S if self.transport.get_write_buffer_size() else HEADERS_S)

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP; none where one is on its way already."""
        del msg
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            own = secrets.token_hex(8)
            answer = problems.response(Problem(400, "expected a request in HTTP/1.1 with a head of at most 64 kB"), own)
            headers = [*answer.raw_headers, (frame.REQUEST_ID.encode(), own.encode()), (b"connection", b"close")]
            start = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (start, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self, seconds: float) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's, with our way to stop: the exit code is 0, and no request is waited for longer than `drain_s`."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT; a second one does not wait."""
        del sig, frame
        self.force_exit = self.should_exit
        self.should_exit = self._service.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for listener in sockets or ():
            log.info("listening", extra={"fields": {"url": url_of(listener)}})
        for call in self._service.on_start:
            call()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the socket, answer what was accepted."""
        log.info("stopping", extra={"fields": {"images": self._service.admission.images}})
        for call in self._service.on_stop:
            call()
        asyncio.get_running_loop().call_later(self._service.settings.drain_s, self._service.give_up)
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket of the address, not listening yet.

    Raises:
        AnovlError: it is taken, or no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as exc:
        raise AnovlError(f"--host {host} --port {port}: cannot be used ({exc}); name another") from exc
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(service: Service, page: MountPage | None = None) -> uvicorn.Server:
    """A server of a service; `run(sockets=[...])` answers until a signal comes, or its `should_exit` is set."""
    config = uvicorn.Config(
        create_app(service, page),
        http=_Connection,
        ws="none",
        lifespan="on" if page else "off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=int(service.settings.drain_s) + 1,
    )
    return _Server(config, service)


def serve(service: Service, listener: socket.socket, page: MountPage | None = None) -> bool:
    """Answer until SIGTERM or SIGINT, then end the service's threads.

    Returns:
        False where one does not end: it may compute for a minute, and the interpreter would wait for it.
    """
    make_server(service, page).run(sockets=[listener])
    ended = service.close()
    log.info("stopped")
    return ended
