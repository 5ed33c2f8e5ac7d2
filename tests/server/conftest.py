"""A service with a model that is no model, on a free port, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anovl.data.images import ImageLimits, load_sized_image
from anovl.errors import UsageError
from anovl.results import Prediction
from anovl.server.hosting import Words
from anovl.server.running import bind, make_server
from anovl.server.service import Service
from anovl.server.settings import Settings


class GreyModel:
    """Scores a picture by its mean brightness; waits where it is told to, fails for black pictures."""

    def __init__(self, limits, *, in_parts):
        self.limits, self.in_parts = limits, in_parts
        self.read = []
        self.gate = threading.Event()
        self.gate.set()
        self.batches = []

    def job(self, words: Words):
        if words.class_name == "unknown":
            raise UsageError("unknown class 'unknown'")
        return GreyJob(self, words.class_name or "thing", words.names)

    def describe(self):
        return {"kind": "grey", "classes": None}


class GreyJob:
    def __init__(self, model, class_name, names):
        self.model, self.class_name, self.names = model, class_name, names

    def load(self, image):
        return load_sized_image(image, limits=self.model.limits)

    def preprocess(self, picture):
        self.model.read.append(picture.size)
        return np.float32(np.asarray(picture).mean() / 255)

    def score(self, batch):
        self.model.gate.wait(20)
        self.model.batches.append((self.class_name, len(batch)))
        if not all(batch):
            raise RuntimeError("secret reason")
        return batch

    def finish(self, item, size, scores, timings):
        return Prediction(
            image_path=None,
            image_size=size,
            class_name=self.class_name,
            pred_score=scores,
            anomaly_map=np.full(size, scores, np.float32),
            patch_scores=np.full((2, 2), scores, np.float32),
            timings_ms=timings,
            names=self.names,
            name_scores=np.full((2, 2, len(self.names)), np.arange(len(self.names)) / 4, np.float32) if self.names else None,
        )


@contextlib.contextmanager
def running(*, in_parts=False, **settings):
    """A service at work: .url, .port, .model, .service, .server, and .ask(method, path, body, headers) -> answer."""
    chosen = Settings(**settings)
    model = GreyModel(ImageLimits(max_pixels=chosen.max_pixels, max_bytes=chosen.max_bytes), in_parts=in_parts)
    service = Service({"grey": model}, chosen, {"anovl": "0"})
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = make_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.005)

    def ask(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            data = answer.read()
        kind = answer.getheader("Content-Type", "")
        value = json.loads(data) if "json" in kind else data
        if answer.status >= 400:
            assert kind == "application/problem+json", (kind, data)
            assert value["status"] == answer.status
            assert value["request_id"] == answer.getheader("X-Request-Id")
        return SimpleNamespace(status=answer.status, headers=answer.headers, value=value)

    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, model=model, service=service, server=server, ask=ask)
    finally:
        model.gate.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        assert service.close(5)


@pytest.fixture
def serving():
    """serving(**settings): a running service."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(**settings))


@pytest.fixture(scope="module")
def shared():
    """A running service for tests that leave it as it was."""
    with running() as server:
        yield server


def png(grey=128, size=(8, 8)):
    stream = io.BytesIO()
    Image.new("L", size, grey).save(stream, "PNG")
    return stream.getvalue()


def form(*parts, boundary="b0undary"):
    """(name, value) or (name, file name, bytes) parts -> body and headers."""
    body = b""
    for name, *rest in parts:
        head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{rest[0]}"' if len(rest) == 2 else "")
        value = rest[-1] if isinstance(rest[-1], bytes) else rest[-1].encode()
        body += f"--{boundary}\r\n{head}\r\n\r\n".encode() + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.fixture(name="png")
def png_fixture():
    return png


@pytest.fixture(name="form")
def form_fixture():
    return form
