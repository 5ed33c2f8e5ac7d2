"""Errors as RFC 9457 has them: one exception, and which status stands for which error of the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from anovl.errors import AnovlError, ImageError, ImageTooLargeError, OutOfMemoryError, UsageError

MEDIA_TYPE = "application/problem+json"
SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_STATUS: tuple[tuple[type[AnovlError], int], ...] = (
    (ImageTooLargeError, 413),
    (ImageError, 415),
    (UsageError, 422),
    (OutOfMemoryError, 503),
)


class Problem(Exception):  # noqa: N818 -- RFC 9457 calls it so
    """An answer that is an error.

    Args:
        status: of HTTP.
        detail: for the caller: what was expected, what came, what to do.
        headers: to go with it.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def full(detail: str) -> Problem:
    """The answer to one who comes when there is no room."""
    return Problem(429, detail, {"Retry-After": "1"})


def fault() -> Problem:
    """The answer where the reason is nobody's business but the operator's."""
    return Problem(500, "the service failed; its log has the reason under this request's id")


def problem_of(error: Exception) -> Problem | None:
    """What stands for an error; None for one that is our own fault."""
    if isinstance(error, Problem):
        return error
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return Problem(status, str(error))
    return None


def response(problem: Problem, request_id: str) -> Response:
    """The problem as an answer."""
    values = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id,
    }
    return Response(json.dumps(values), problem.status, problem.headers, MEDIA_TYPE)
