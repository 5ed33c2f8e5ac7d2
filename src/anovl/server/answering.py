"""From the image files of a request to its rows: decode and draw in a pool, score in the model's batches."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from anovl.data.sources import SourceItem
from anovl.engine.pipeline import Decoded, decode
from anovl.errors import ImageError, ImageTooLargeError
from anovl.render.overlay import map_image, overlay
from anovl.results import FloatArray, Prediction
from anovl.server.batching import Job, Ticket
from anovl.server.hosting import Host
from anovl.server.problems import Problem
from anovl.server.reading import Fields, Upload


async def answer(
    uploads: Sequence[Upload], fields: Fields, job: Job, ticket: Ticket, *, host: Host, pool: Executor, max_pixels: int
) -> list[dict[str, Any]]:
    """A row for each image, in their order; the first that cannot be used fails all.

    Images that wait for their scores at their full size are read when it is their turn, one after another.

    Raises:
        Problem: 415 or 413 with the file's name; 413 or 429 for maps of too many pixels.
        Exception: what the job raised.
    """
    loop = asyncio.get_running_loop()
    draws = "overlay" in fields.returns
    pairs: list[tuple[Decoded[Any], Any]] = []

    async def score(some: Sequence[Upload]) -> None:
        decoded: list[Decoded[Any]] = await _all([loop.run_in_executor(pool, _decode, job, one, draws) for one in some])
        if "map" in fields.returns:
            _take_maps(ticket, [one.size for one, _ in pairs] + [one.size for one in decoded], max_pixels)
        began = time.perf_counter()
        scores = await _all([asyncio.wrap_future(host.batcher.submit(job, one.pixels)) for one in decoded])
        for one in decoded:
            one.timings["score"] = (time.perf_counter() - began) * 1000
        pairs.extend(zip([replace(one, pixels=None) for one in decoded], scores, strict=True))

    if host.turns is None:
        await score(uploads)
    else:
        for upload in uploads:
            async with host.turns:
                await score([upload])
    return await _all([loop.run_in_executor(pool, _row, job, one, own, fields) for one, own in pairs])


def _take_maps(ticket: Ticket, sizes: Sequence[tuple[int, int]], max_pixels: int) -> None:
    """Count the maps of all images so far; Problem 413 or 429 where they are too much."""
    total = sum(height * width for height, width in sizes)
    if total > max_pixels:
        raise Problem(413, f"maps of {total:,} pixels in one answer, over {max_pixels:,} (--max-pixels); send fewer images")
    ticket.take_pixels(total - ticket.pixels)


async def _all(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Every result; the first error in order, once all have ended. What has not begun when the caller is cancelled never does."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _decode(job: Job, upload: Upload, keep_picture: bool) -> Decoded[Any]:  # noqa: FBT001 -- an executor passes by position
    try:
        return decode(job, SourceItem(upload.data, None, upload.filename), keep_picture=keep_picture)
    except ImageError as exc:
        status = 413 if isinstance(exc, ImageTooLargeError) else 415
        raise Problem(status, f"{upload.filename}: {exc.reason}") from exc


def _row(job: Job, image: Decoded[Any], scores: Any, fields: Fields) -> dict[str, Any]:
    prediction: Prediction = job.finish(image.item, image.size, scores, image.timings)
    if fields.threshold is not None:
        prediction = prediction.at(fields.threshold)
    row = {"filename": image.item.stem, **prediction.to_dict()}
    del row["image_path"]
    if "regions" not in fields.returns:
        del row["regions"]
    if "map" in fields.returns:
        row["map"] = _base64(encode_map(prediction.anomaly_map, fields.map_format))
    if image.picture is not None:
        row["overlay"] = _base64(_png(overlay(image.picture, prediction)))
    return row


def encode_map(anomaly_map: FloatArray, form: str) -> bytes:
    """A map [H, W] in [0, 1] as a file: "npy" float32, or "png16", value x 65535."""
    if form == "npy":
        stream = io.BytesIO()
        np.save(stream, anomaly_map)
        return stream.getvalue()
    return _png(map_image(anomaly_map))


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
