"""Around every request: its id, the token, one line in the log, counters, and an answer for what nobody foresaw."""

from __future__ import annotations

import base64
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anovl.server.metrics import Metrics
from anovl.server.problems import Problem, fault, response

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
OPEN_PATH = "/healthz"  # answers without the token
PAGE_PATH = "/ui"  # of the page, where there is one
PATHS = ("/v1/predict", OPEN_PATH, "/readyz", "/v1/info", "/metrics", "/openapi.json")
_GONE = 499  # in the log: the caller went away
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOGGED_PATH = 200


class Frame:
    """The outermost ASGI application.

    Args:
        app: what answers.
        metrics: where requests are counted.
        token: what callers must bring; None lets everybody in.
        page: there is one, which a browser opens with the token as the password of HTTP Basic authentication.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str | None, *, page: bool = False) -> None:
        self.app = app
        self.metrics = metrics
        self._page = page
        self._expected = None if token is None else f"Bearer {token}".encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the events of the server's life."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        state = scope.setdefault("state", {})
        own = _request_id(scope)
        state["request_id"] = own
        sent = _Sent(send, own)
        try:
            if self._may(scope):
                await self.app(scope, receive, sent)
            else:
                way, scheme = ("'Authorization: Bearer TOKEN' with the service's token", "Bearer")
                if self._is_page(scope):
                    way, scheme = ("the service's token as the password", 'Basic realm="anovl"')
                refused = Problem(401, f"expected {way}", {"WWW-Authenticate": scheme})
                await response(refused, own)(scope, receive, sent)
        except ClientDisconnect:
            sent.status = sent.status or _GONE
        except Exception:
            log.exception("request failed", extra={"fields": {"id": own}})
            if not sent.status:
                await response(fault(), own)(scope, receive, sent)
        seconds = time.perf_counter() - began
        path, status, images = scope["path"], sent.status or _GONE, state.get("images", 0)
        known = path if path in PATHS else PAGE_PATH if self._is_page(scope) else "other"
        self.metrics.answered(known, status, seconds, images)
        told = {"id": own, "method": scope["method"], "path": path[:_LOGGED_PATH], "status": status}
        log.info("request", extra={"fields": told | {"ms": round(seconds * 1000, 1), "images": images}})

    def _may(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] == OPEN_PATH:
            return True
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if self._is_page(scope) and given[:6].lower() == b"basic ":
            given = b"Bearer " + _password(given[6:])
        return hmac.compare_digest(given, self._expected)

    def _is_page(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return self._page and (path in ("/", PAGE_PATH) or path.startswith(f"{PAGE_PATH}/"))


def _password(credentials: bytes) -> bytes:
    """Of HTTP Basic authentication; empty where there is none."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


@dataclass
class _Sent:
    """Passes an answer on with the request's id, and remembers its status; 0 is none yet."""

    send: Send
    request_id: str
    status: int = field(default=0)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
        await self.send(message)


def _request_id(scope: Scope) -> str:
    """The caller's, where it is one, else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else secrets.token_hex(8)
