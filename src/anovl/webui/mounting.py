"""The page inside a FastAPI application, with nothing of gradio's that talks to the world."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anovl.server.frame import PAGE_PATH
from anovl.webui.page import Page

MOST = 2**20  # bytes of a request that is no upload
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
        show_error=True,
        max_file_size=max_bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    mounted = next(route for route in app.routes if isinstance(route, Mount) and route.path == PAGE_PATH)
    inner: Any = mounted.app
    mounted.app = _NoAddresses(inner)

    @app.get("/", include_in_schema=False)
    @app.get(PAGE_PATH, include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(f"{PAGE_PATH}/")

    def stop() -> None:
        inner.stop_event.set()

    return stop


class _NoAddresses:
    """Refuses a request that names an address in place of an uploaded file, which gradio would fetch."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].rstrip("/").endswith("/gradio_api/upload"):
            await self.app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST:
                await PlainTextResponse(f"expected at most {MOST} bytes", 413)(scope, receive, send)
                return
        if _names_address(bytes(body)):
            refused = PlainTextResponse("expected an uploaded file, got an address; nothing is fetched", 400)
            await refused(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)


def _names_address(body: bytes) -> bool:
    """True for JSON with an object whose path is an address; a body that is no JSON names nothing that is understood."""
    try:
        values = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                return True
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return False
