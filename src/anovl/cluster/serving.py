"""The service of `anovl serve` on Ray Serve: its application in replicas with models of their own, behind Ray's HTTP proxies."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anovl.client import Client, ServiceError
from anovl.cluster.run import WATCH_SECONDS, Pool
from anovl.errors import AnovlError, UnavailableError
from anovl.server.app import create_app
from anovl.server.frame import REQUEST_ID
from anovl.server.hosting import Model
from anovl.server.metrics import merged
from anovl.server.running import IDLE_S, log_json, url_of
from anovl.server.service import Service
from anovl.server.settings import Settings

log = logging.getLogger(__name__)

NAME = "anovl"  # of the application in Ray Serve
ROUTE_SECONDS = 30  # until the proxy of this machine knows where the replicas are
METRICS_SECONDS = 5
MARGIN_SECONDS = 5  # for Ray, beside what the settings give a request or a stop
_QUIET = {"log_level": "WARNING", "enable_access_log": False}

Load = Callable[[], Mapping[str, Model]]


class Replica:
    """In an actor: a service and its application, which Ray calls for every request that it sends here.

    Args:
        load: the models by their names.
        settings: limits and pace, of this replica.
        versions: for /v1/info.
        level: of the log, JSON lines on the actor's stderr.
    """

    def __init__(self, load: Load, settings: Settings, versions: Mapping[str, str], level: int) -> None:
        log_json([logging.StreamHandler()], level)
        self._service = _Service(load(), settings, versions)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Unnamed(create_app(self._service))

    async def drain(self) -> None:
        """As `Service.drain`."""
        await self._service.drain()

    async def exposition(self) -> tuple[str, bytes]:
        """Name of this replica, and what Prometheus reads of it."""
        return self._service.name, self._service.metrics.text()


class _Service(Service):
    """Tells Prometheus of all replicas: which of them a request reaches is left to chance."""

    def __init__(self, models: Mapping[str, Model], settings: Settings, versions: Mapping[str, str]) -> None:
        super().__init__(models, settings, versions)
        from ray import serve

        self.name = serve.get_replica_context().replica_id.unique_id
        self._all = serve.get_deployment_handle(NAME, app_name=NAME)

    async def exposition(self) -> bytes:
        """As the base class says, with the label "replica"."""
        try:
            told = await self._all.broadcast("exposition").results_async(timeout_s=METRICS_SECONDS, return_exceptions=True)
        except Exception:
            log.warning("the other replicas tell no metrics", exc_info=True)
            told = []
        own = {self.name: self.metrics.text()}
        return merged(own | dict(pair for pair in told if isinstance(pair, tuple)))


class _Unnamed:
    """An application whose answers do not name the request: Ray's proxy does, by the id that it gave the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID]
            await send(message)

        await self._app(scope, receive, sent)


def serve(load: Load, settings: Settings, versions: Mapping[str, str], listener: socket.socket, *, pool: Pool) -> None:
    """Answer on the cluster that is connected until SIGTERM or SIGINT.

    Args:
        load: the models by their names, in each replica.
        settings: of each replica.
        versions: for /v1/info.
        listener: bound to the address that the proxies of the cluster will listen on; closed.
        pool: the replicas; Ray adds one where more than `batch_size` requests are on their way to each.

    Raises:
        AnovlError: Ray Serve runs there already, a replica cannot start, or the application is lost.
    """
    from ray import serve as ray_serve

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # what it says comes as an exception, too
    if ray_serve.status().proxies:
        raise AnovlError(
            "Ray Serve runs on this cluster already, and listens on one address alone; "
            "end it with `serve shutdown`, or name another cluster by --address"
        )
    replicas = ray_serve.deployment(
        name=NAME,
        autoscaling_config={
            "min_replicas": pool.smallest,
            "max_replicas": pool.largest,
            "target_ongoing_requests": pool.batch_size,
        },
        max_ongoing_requests=2 * settings.queue_size,  # the service's own answer to one too many is the better one
        ray_actor_options={"num_cpus": 1, "num_gpus": pool.gpus},
        graceful_shutdown_timeout_s=settings.drain_s + MARGIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=_QUIET,
    )(ray_serve.ingress()(Replica))
    url = url_of(listener)
    host, port = listener.getsockname()[:2]
    listener.close()
    options = {
        "host": host,
        "port": port,
        "keep_alive_timeout_s": IDLE_S,
        "request_timeout_s": settings.timeout_s + MARGIN_SECONDS,
    }
    try:
        with _explained("the service cannot start on the cluster"):
            ray_serve.start(http_options=options, logging_config=_QUIET)
            level = logging.getLogger("anovl").getEffectiveLevel()
            handle = ray_serve.run(replicas.bind(load, settings, dict(versions), level), name=NAME)
        _await_route(Client(url, settings.token))
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        log.info("listening", extra={"fields": {"url": url}})
        while not stop.wait(WATCH_SECONDS):
            with _explained("the cluster is lost"):
                if NAME not in ray_serve.status().applications:
                    raise AnovlError("the application was removed from Ray Serve by somebody else")
        log.info("stopping")
        with _explained("stopping"):
            handle.broadcast("drain").results(timeout_s=settings.drain_s + MARGIN_SECONDS, return_exceptions=True)
    finally:
        with contextlib.suppress(Exception):
            ray_serve.shutdown()
    log.info("stopped")


def _await_route(client: Client) -> None:
    """Return when the service answers through the proxy.

    Raises:
        UnavailableError: it does not.
    """
    until = time.monotonic() + ROUTE_SECONDS
    while True:
        try:
            client.info()
            return
        except (ServiceError, UnavailableError) as exc:
            if time.monotonic() > until:
                raise UnavailableError(f"{client.url}: {exc}; run the command on the head node of the cluster") from exc
        time.sleep(0.1)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """One line for what Ray raises."""
    try:
        yield
    except AnovlError:
        raise
    except Exception as exc:
        lines: list[Any] = str(exc).strip().splitlines() or [type(exc).__name__]
        raise AnovlError(f"{what}: {lines[-1][:300]}") from exc
