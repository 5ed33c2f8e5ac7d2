"""The service of `anovl serve` on Ray Serve: replicas of its application behind the HTTP proxies of the cluster."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from anovl.client import Client, ServiceError
from anovl.cluster.replica import NAME, Load, Replica
from anovl.cluster.run import WATCH_SECONDS, Pool
from anovl.errors import AnovlError, UnavailableError
from anovl.server.running import IDLE_S, url_of
from anovl.server.settings import Settings

log = logging.getLogger(__name__)

ROUTE_SECONDS = 30  # until the proxy of this machine knows where the replicas are
MARGIN_SECONDS = 5  # for Ray, beside what the settings give a request or a stop
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


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
    if reason := pool.starves(spare=0):
        log.warning("%s: waiting for the cluster to grow", reason)
    replicas = ray_serve.deployment(
        name=NAME,
        autoscaling_config={
            "min_replicas": pool.smallest,
            "max_replicas": pool.largest,
            "target_ongoing_requests": pool.batch_size,
        },
        max_ongoing_requests=2 * settings.queue_size,  # the service's own answer to one too many is the better one
        ray_actor_options={"num_cpus": pool.cpus, "num_gpus": pool.gpus},
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
            handle = _deploy(replicas.bind(load, settings, dict(versions), level))
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
        try:
            handle.broadcast("drain").results(timeout_s=settings.drain_s + MARGIN_SECONDS, return_exceptions=True)
        except Exception as exc:
            log.warning("the replicas did not end their work: %s", exc)
    finally:
        with contextlib.suppress(Exception):
            ray_serve.shutdown()
    log.info("stopped")


def _deploy(application: Any) -> Any:
    """The handle of an application, when as many replicas are there as it begins with.

    Raises:
        RuntimeError: with the reason of a replica that cannot start.
    """
    from ray import serve as ray_serve

    try:
        return ray_serve.run(application, name=NAME)
    except RuntimeError as exc:
        told = ray_serve.status().applications[NAME].deployments[NAME].message  # its last line is that of the traceback
        raise RuntimeError(told.strip().rpartition("\n")[2].removeprefix("anovl.errors.")) from exc


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
                raise UnavailableError(f"{exc}; run the command on the head node of the cluster") from exc
        time.sleep(0.1)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """One line for what Ray raises."""
    try:
        yield
    except AnovlError:
        raise
    except Exception as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise AnovlError(f"{what}: {lines[-1][:300]}") from exc
