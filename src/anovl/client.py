"""Calls a service of `anovl serve`, with the standard library's HTTP."""

from __future__ import annotations

import base64
import http.client
import io
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from anovl.data.images import is_single_image, load_image
from anovl.errors import AnovlError, ImageNotFoundError, UnavailableError, UsageError
from anovl.results import FloatArray, Region


class ServiceError(AnovlError):
    """The service refused a request or failed; the message is its own.

    Attributes:
        status: of HTTP, such as 429.
        request_id: under which the service's log has it.
        retry_after_s: when to come again, where the service says so.
    """

    def __init__(self, status: int, detail: str, *, request_id: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(f"the service answered {status}: {detail}")
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class ServedPrediction:
    """What a service says about one image; the names are those of `anovl.Prediction`.

    Attributes:
        filename: what the image was called in the request.
        image_size, map_size: (H, W) in pixels.
        regions: None where they were not asked for.
        anomaly_map: float32 [H, W] in [0, 1]; None where it was not asked for.
        overlay: a PNG file; likewise.
        row: the whole row as it came.
    """

    filename: str
    image_size: tuple[int, int]
    class_name: str
    pred_score: float
    pred_label: bool
    threshold: float
    pixel_threshold: float
    calibrated: bool
    map_size: tuple[int, int]
    regions: list[Region] | None
    anomaly_map: FloatArray | None = field(repr=False)
    overlay: bytes | None = field(repr=False)
    row: dict[str, Any] = field(repr=False)


class Client:
    """A service under its URL. Each call has a connection of its own, so that threads may share a client.

    Args:
        url: such as "http://127.0.0.1:8000".
        token: where the service asks for one.
        timeout: seconds to wait for the service.

    Raises:
        UsageError: the URL is none.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 90.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"url: expected http://HOST:PORT or https://HOST, got {url!r}")
        self.url = url.rstrip("/")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._timeout = timeout
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def predict(
        self,
        images: Any,
        class_name: str | None = None,
        *,
        domain: str | None = None,
        defects: Sequence[str] = (),
        names: Sequence[str] = (),
        adapt: bool = False,
        seed: int | None = None,
        threshold: float | None = None,
        model: str | None = None,
        returns: Sequence[Literal["score", "regions", "map", "overlay"]] = ("score", "regions"),
        map_format: Literal["png16", "npy"] = "npy",
    ) -> list[ServedPrediction]:
        """Score images in one request.

        Args:
            images: one or several of what `anovl.load_image` takes; files are sent as they are, others as PNG.
            class_name: what they show; None leaves it to the service.
            domain, defects, adapt, seed: as in `anovl.AnoVL.predict`.
            names: words to name each region by, or "default" alone.
            threshold: None is the model's.
            model: its name in the service; None is the first.
            returns: "map" and "overlay" are sent on request alone.
            map_format: "npy" is exact, "png16" smaller and exact to 1e-5.

        Raises:
            ServiceError: the service refused or failed.
            UnavailableError: it cannot be reached.
            ImageError: an image cannot be read here.
        """
        given = [images] if is_single_image(images) else list(images)
        fields = {
            "class_name": class_name,
            "domain": domain,
            "adapt": "true" if adapt else None,
            "seed": seed,
            "threshold": threshold,
            "model": model,
            "map_format": map_format,
        }
        pairs = [(name, str(value)) for name, value in fields.items() if value is not None]
        lists = {"defects": defects, "names": names, "return": returns}
        pairs += [(name, value) for name, values in lists.items() for value in values]
        files = [_file(image, index) for index, image in enumerate(given)]
        body, content_type = _multipart(pairs, files)
        answer = self._json("POST", "/v1/predict", body, {"Content-Type": content_type})
        return [_prediction(row) for row in answer["predictions"]]

    def info(self) -> dict[str, Any]:
        """Versions, models and limits.

        Raises:
            ServiceError, UnavailableError: as `predict`.
        """
        return self._json("GET", "/v1/info")

    def ready(self) -> bool:
        """True where the service can be reached and takes requests."""
        try:
            self._json("GET", "/readyz")
        except (ServiceError, UnavailableError):
            return False
        return True

    def _json(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, self._base + path, body, self._headers | (headers or {}))
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else f"{type(exc).__name__} {exc}".strip()
            raise UnavailableError(f"{self.url}: no answer ({reason}); is `anovl serve` running there?") from exc
        finally:
            connection.close()
        try:
            values = json.loads(data)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise ServiceError(answer.status, f"expected JSON, got {data[:80]!r}; is {self.url} a service of anovl?")
        if answer.status >= 400:
            later = answer.getheader("Retry-After", "")
            raise ServiceError(
                answer.status,
                str(values.get("detail", values)),
                request_id=str(values.get("request_id", "")),
                retry_after_s=float(later) if later.isdigit() else None,
            )
        return values


def _file(image: Any, index: int) -> tuple[str, bytes]:
    """Name and bytes to send."""
    if isinstance(image, str | Path):
        path = Path(image)
        try:
            return path.name, path.read_bytes()
        except OSError as exc:
            raise ImageNotFoundError(str(image), f"cannot be read ({exc.strerror})") from exc
    if isinstance(image, bytes | bytearray | memoryview):
        return f"image{index}", bytes(image)
    stream = io.BytesIO()
    load_image(image).save(stream, "PNG", compress_level=1)
    return f"image{index}.png", stream.getvalue()


def _multipart(fields: Iterable[tuple[str, str]], files: Iterable[tuple[str, bytes]]) -> tuple[bytes, str]:
    """A form and its content type."""
    boundary = secrets.token_hex(16)
    body = io.BytesIO()
    for name, value in fields:
        body.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, data in files:
        quoted = name.encode("utf-8", "replace").decode().translate({34: "%22", 13: "%0D", 10: "%0A"})
        head = f'Content-Disposition: form-data; name="files"; filename="{quoted}"\r\nContent-Type: application/octet-stream'
        body.write(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())
    return body.getvalue(), f"multipart/form-data; boundary={boundary}"


def _prediction(row: dict[str, Any]) -> ServedPrediction:
    regions = row.get("regions")
    encoded, overlay = row.get("map"), row.get("overlay")
    return ServedPrediction(
        filename=row["filename"],
        image_size=tuple(row["image_size"]),
        class_name=row["class_name"],
        pred_score=row["pred_score"],
        pred_label=row["pred_label"],
        threshold=row["threshold"],
        pixel_threshold=row["pixel_threshold"],
        calibrated=row["calibrated"],
        map_size=tuple(row["map_size"]),
        regions=None if regions is None else [_region(region) for region in regions],
        anomaly_map=None if encoded is None else _map(base64.b64decode(encoded)),
        overlay=None if overlay is None else base64.b64decode(overlay),
        row=row,
    )


def _region(values: dict[str, Any]) -> Region:
    return Region(
        box=tuple(values["box"]),
        area=values["area"],
        peak=values["peak"],
        centroid=tuple(values["centroid"]),
        names=tuple((one["name"], one["similarity"]) for one in values["names"]),
    )


def _map(data: bytes) -> FloatArray:
    """A map from its file, .npy or 16-bit PNG."""
    if data.startswith(b"\x93NUMPY"):
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)), np.float32) / np.float32(65535)
