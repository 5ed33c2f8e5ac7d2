"""The client's own part; what needs a service is in tests/server and tests/interfaces/test_serve.py."""

import socket
import subprocess
import sys

import pytest

import anovl
from anovl.client import _multipart


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://"])
def test_urls(url):
    with pytest.raises(anovl.AnovlError, match="url: expected"):
        anovl.Client(url)


def test_nobody_answers(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        client = anovl.Client(f"http://127.0.0.1:{taken.getsockname()[1]}", timeout=5)
        assert not client.ready()
        with pytest.raises(anovl.AnovlError, match="is `anovl serve` running there"):
            client.info()
        with pytest.raises(anovl.AnovlError, match="cannot be read"):
            client.predict(tmp_path / "none.png")


def test_names_cannot_break_the_form():
    body, _ = _multipart([], [('a"\r\nX: y.png', b"")])
    assert b'filename="a%22%0D%0AX: y.png"' in body


def test_it_needs_no_torch():
    script = (
        "import sys, anovl; anovl.Client('http://a'); print([m for m in ('torch', 'open_clip', 'fastapi') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
