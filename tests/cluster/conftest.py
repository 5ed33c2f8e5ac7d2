"""An S3 server."""

import threading

import httpx
import pytest


class Bucket:
    """A bucket "plant" at a server of this process, which notes what it is asked for."""

    def __init__(self, server):
        import s3fs

        self._app, self._lock = server.app, threading.Lock()
        self.clear()
        server.app = self._answer
        s3fs.S3FileSystem.clear_instance_cache()  # of another server
        self.files = s3fs.S3FileSystem()
        self.files.mkdir("plant")

    def clear(self, *, together=1):
        """Forget what was asked for; no picture is given or taken before so many requests are there at once."""
        self.asked, self.ranges, self.most, self._now = [], [], 0, 0
        self._together, self._met = together, threading.Event()

    def _answer(self, environ, start_response):
        with self._lock:
            self.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            self.ranges.append(environ.get("HTTP_RANGE"))
            self._now += 1
            self.most = max(self.most, self._now)
            if self._now == self._together:
                self._met.set()
        try:
            if environ["PATH_INFO"].endswith(".png"):
                self._met.wait(20)
            return self._app(environ, start_response)
        finally:
            with self._lock:
                self._now -= 1


@pytest.fixture
def bucket(monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", url),
        ):
            monkeypatch.setenv(name, value)
        made = Bucket(server._server)
        yield made
        made.clear()
        httpx.post(f"{url}/moto-api/reset")  # it outlives the server
    finally:
        server.stop()
