"""What Ray's workers do with a shard: decode, score, write. One row of a data set is one shard (`anovl.cluster.shards`).

Workers that decode and write import no torch: Ray starts and ends them all the time, and it takes most of their start.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anovl.cluster.shards import Row, pack, row, unpack
from anovl.cluster.sources import Remote, reads
from anovl.cluster.storage import Folder
from anovl.config import MAX_IMAGE_BYTES
from anovl.data.sources import SourceItem
from anovl.engine import pipeline
from anovl.engine.pipeline import Outcome, Processor, Work
from anovl.errors import ImageError
from anovl.files import ROWS
from anovl.render import overlay as drawing
from anovl.render.tables import TABLES
from anovl.render.writers import MapFormat, row_of
from anovl.results import Prediction

PARTS, DONE = "predictions", "done"  # folders of the output

TASKS = 4  # whose models an actor keeps bound

Bind = Callable[[int], Work[Any, Any, Any]]  # in a worker: the model of a task


def part(shard: int) -> str:
    """The name of a shard's files, without suffix."""
    return f"part-{shard:06d}"


@dataclass(frozen=True)
class Decode:
    """On any CPU: images to what the model reads.

    Attributes:
        processors: of the tasks.
        draws: keep pictures for the overlays.
        max_bytes: larger files at addresses are refused once so much is read; processors refuse those of this machine unread.
    """

    processors: Sequence[Processor[Any, Any, Any]]
    draws: bool = False
    max_bytes: int = MAX_IMAGE_BYTES

    def __call__(self, shard: Row) -> Row:
        """Items to decoded images; broken ones to their errors."""
        items: Sequence[SourceItem] = unpack(shard["data"])
        processor = self.processors[shard["task"]]
        images = reads((item.image for item in items), max_bytes=self.max_bytes)
        slots, pictures = [], []
        for item, image in zip(items, images, strict=True):
            slot = self._decode(processor, item, image)
            slots.append(replace(slot, picture=None))
            if self.draws:
                pictures.append(None if slot.picture is None else np.asarray(slot.picture))
        return row(shard["shard"], slots, task=shard["task"], pictures=pictures)

    def _decode(self, processor: Processor[Any, Any, Any], item: SourceItem, image: Callable[[], Any]) -> Any:
        try:
            decoded = pipeline.decode(processor, replace(item, image=image()), keep_picture=self.draws)
            return replace(decoded, item=item)
        except ImageError as exc:
            named = isinstance(item.image, Path)  # else the processor saw bytes
            return Outcome(item, error=exc if named else type(exc)(_name(item), exc.reason))


def _name(item: SourceItem) -> str:
    """What messages call an image that is read from elsewhere."""
    return item.image.url if isinstance(item.image, Remote) else f"{item.image.url}, {item.key}"


class Score:
    """In an actor, which holds a model: decoded images to scores.

    Args:
        bind: gives the model, bound to its class.
        batch_size: images a pass.
    """

    def __init__(self, bind: Bind, batch_size: int) -> None:
        self._bind = lru_cache(TASKS)(bind)
        self._batcher = pipeline.Batcher(self._bind(0), batch_size)

    def __call__(self, shard: Row) -> Row:
        """Decoded images to pairs of them, without their pixels, and scores; pictures are passed on as they are."""
        self._batcher.work = self._bind(shard["task"])
        slots = self._batcher.score(unpack(shard["data"]))
        lean = [slot if isinstance(slot, Outcome) else (replace(slot[0], pixels=None), slot[1]) for slot in slots]
        return shard | {"data": pack(lean)}


@dataclass(frozen=True)
class Write:
    """On any CPU: scores to rows and pictures, and last the mark that the shard is done.

    Done twice, as after the loss of a node, it writes the same files again.

    Attributes:
        processor: what makes predictions of scores.
        folder: of the output.
        save: kinds of pictures.
        map_format: of saved maps.
    """

    processor: Processor[Any, Any, Prediction]
    folder: Folder
    save: Collection[str]
    map_format: MapFormat

    def __call__(self, shard: Row) -> Row:
        """Scores to the summary that the mark holds."""
        rows: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        pictures = unpack(shard["pictures"])
        name = part(shard["shard"])
        with self.folder.writing() as write:
            for number, slot in enumerate(unpack(shard["data"])):
                if isinstance(slot, Outcome):
                    reason = slot.error.reason if isinstance(slot.error, ImageError) else str(slot.error)
                    errors.append({"image_path": slot.item.key, "error": reason})
                    continue
                image, scores = slot
                if pictures:
                    image = replace(image, picture=Image.fromarray(pictures[number]))
                prediction = self.processor.finish(image.item, image.size, scores, image.timings)
                for kind in self.save:
                    write(*self._file(kind, image, prediction))
                rows.append(row_of(image.item.key, prediction))
            write(f"{PARTS}/{name}.parquet", _parquet(rows))
        summary = {"scored": len(rows), "anomalous": sum(one["pred_label"] for one in rows), "errors": errors}
        self.folder.write_json(f"{DONE}/{name}.json", summary)
        return {"shard": shard["shard"], "summary": json.dumps(summary)}

    def _file(self, kind: str, image: pipeline.Decoded[None], prediction: Prediction) -> tuple[str, bytes]:
        """Name and content of a picture."""
        stream = io.BytesIO()
        if kind == "map" and self.map_format == "npy":
            np.save(stream, prediction.anomaly_map)
            return f"map/{image.item.stem}.npy", stream.getvalue()
        _picture(kind, image, prediction).save(stream, "PNG", compress_level=1)
        return f"{kind}/{image.item.stem}.png", stream.getvalue()


def _picture(kind: str, image: pipeline.Decoded[None], prediction: Prediction) -> Image.Image:
    if kind == "map":
        return drawing.map_image(prediction.anomaly_map)
    if kind == "heatmap":
        return drawing.heatmap(prediction)
    if kind == "overlay" and image.picture is not None:
        return drawing.overlay(image.picture, prediction)
    return drawing.mask_image(prediction)


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ROWS).with_suffix(".parquet")
        TABLES["parquet"](iter(rows), path)
        return path.read_bytes()
