"""The page inside a FastAPI application, with nothing of gradio's that talks to the world."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from importlib.resources import files
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anovl.server.frame import PAGE_PATH
from anovl.webui.page import Page

MOST = 2**20  # bytes of a request that is no upload
_API = "/gradio_api/"
_POSTS = ("queue/join", "upload", "cancel", "reset")  # calls that the page makes
_HEAD = """<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Crect width='16' height='16' rx='4' fill='%23115e59'/%3E%3Ccircle cx='9' cy='7' r='4' fill='%23f59e0b'/%3E%3C/svg%3E">"""
_LIGHT = {
    "block_info_text_color": "*neutral_600",
    "block_label_text_color": "*neutral_700",
    "block_title_text_color": "*neutral_700",
    "body_text_color_subdued": "*neutral_600",
    "input_placeholder_color": "*neutral_500",
    "link_text_color": "*primary_800",
    "link_text_color_hover": "*primary_900",
    "link_text_color_visited": "*primary_800",
    "link_text_color_active": "*primary_800",
    "color_accent": "*primary_700",
    "slider_color": "*primary_600",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_text_color": "white",
}
_DARK = {
    "block_info_text_color_dark": "*neutral_300",
    "block_label_text_color_dark": "*neutral_200",
    "block_title_text_color_dark": "*neutral_200",
    "body_text_color_subdued_dark": "*neutral_300",
    "input_placeholder_color_dark": "*neutral_400",
    "link_text_color_dark": "*primary_300",
    "link_text_color_hover_dark": "*primary_200",
    "link_text_color_visited_dark": "*primary_300",
    "link_text_color_active_dark": "*primary_300",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "button_primary_text_color_dark": "white",
}


def mount(app: FastAPI, page: Page, *, max_bytes: int) -> Callable[[], None]:
    """Add the page at /ui, and a way to it from /.

    Args:
        app: whose lifespan must run.
        page: of the models.
        max_bytes: of an uploaded file.

    Returns:
        what ends the open connections of visitors; to be called in the event loop.
    """
    text, code = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # fonts of the visitor's machine
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=text, font_mono=code).set(**_LIGHT, **_DARK)
    gr.mount_gradio_app(
        app,
        page.build(),
        path=PAGE_PATH,
        theme=theme,
        css=files("anovl.webui").joinpath("page.css").read_text(encoding="utf-8"),
        head=_HEAD,
        footer_links=[],
        run_history=False,
        show_error=False,  # what nobody foresaw may name folders
        max_file_size=max_bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    mounted = next(route for route in app.routes if isinstance(route, Mount) and route.path == PAGE_PATH)
    inner: Any = mounted.app
    mounted.app = _Guard(inner, inner.get_blocks().fns.keys())

    @app.get("/", include_in_schema=False)
    @app.get(PAGE_PATH, include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(f"{PAGE_PATH}/")

    def stop() -> None:
        inner.stop_event.set()

    return stop


class _Guard:
    """Lets through what the page itself sends: its uploads and its events, none of which names an address to fetch.

    Args:
        app: gradio's.
        events: numbers of the page's events.
    """

    def __init__(self, app: ASGIApp, events: Collection[int]) -> None:
        self.app = app
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        name = scope["path"].partition(_API)[2].rstrip("/")
        if scope["method"] != "POST" or name not in _POSTS:
            await PlainTextResponse("the page has no such call; POST to /v1/predict", 404)(scope, receive, send)
            return
        if name == "upload":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > MOST:
                await PlainTextResponse(f"expected at most {MOST} bytes", 413)(scope, receive, send)
                return
        if problem := _problem_of(bytes(body), self._events if name == "queue/join" else None):
            await PlainTextResponse(problem, 422)(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)


def _problem_of(body: bytes, events: Collection[int] | None) -> str:
    """Why a call cannot be let through; empty where it can.

    Args:
        body: of the call.
        events: numbers of which it must name one; None for a call that names none.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return "expected JSON"
    if events is not None and not (isinstance(call, dict) and type(call.get("fn_index")) is int and call["fn_index"] in events):
        return "expected an event of the page"
    values = [call]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                return "expected an uploaded file, got an address; nothing is fetched"
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return ""
