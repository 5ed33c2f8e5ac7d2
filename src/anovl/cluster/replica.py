"""What Ray Serve runs in each actor of `anovl serve --engine ray`: a service with its models, and its application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anovl.server.app import create_app
from anovl.server.frame import REQUEST_ID
from anovl.server.hosting import Model
from anovl.server.metrics import merged
from anovl.server.running import log_json
from anovl.server.service import Service
from anovl.server.settings import Settings

log = logging.getLogger(__name__)

NAME = "anovl"  # of the application in Ray Serve, and of its one deployment
METRICS_SECONDS = 5

Load = Callable[[], Mapping[str, Model]]


class Replica:
    """A service; Ray calls its application for every request that it sends here.

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
        """Name of this replica, and what Prometheus reads of it alone."""
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
        return merged(own | dict(pair for pair in told if isinstance(pair, tuple)))  # an exception is a replica's that was lost


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
