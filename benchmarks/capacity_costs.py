"""What each stage of a run on a cluster costs on this machine: CPU seconds of one thread, for `capacity.py`.

CPU seconds and not those of a clock, so that other programs on the machine disturb little. Medians of rounds.
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import ray
import torch
from common import random_model
from PIL import Image
from streaming import usage

from anovl.benchmarking import DRAWN_CLASS
from anovl.cluster.run import Pool, execute
from anovl.cluster.shards import Row, row
from anovl.cluster.stages import Decode, Write
from anovl.cluster.storage import Folder
from anovl.config import DISPLAY_SIDE
from anovl.data.sources import SourceItem
from anovl.data.synthetic import MAX_SIZE, draw
from anovl.detection import DetectionJob
from anovl.detector import AnoVL
from anovl.engine.local import Stacked
from anovl.engine.pipeline import Decoded
from anovl.render.overlay import overlay
from anovl.render.writers import row_of

SIDES, FORMATS = (256, 1024, 3000), ("JPEG", "PNG")
ARCH = "ViT-B-16-plus-240"
DISTINCT, BATCH, SHARD = 4, 8, 64
SHARDS = {1: (100, 400), 480: (20, 80)}  # of images of this side: between which two results Ray's cost is taken


def picture_file(index: int, side: int, form: str) -> bytes:
    """A drawn picture, every second one scratched; those beyond what can be drawn are enlarged."""
    drawn = draw(DRAWN_CLASS, index, defect="scratch" if index % 2 else None, size=min(side, MAX_SIZE))
    file = io.BytesIO()
    Image.fromarray(drawn.image).resize((side, side)).save(file, form, quality=92)
    return file.getvalue()


def shrunk(picture: Image.Image) -> Image.Image:
    """A copy as overlays are drawn on."""
    copy = picture.copy()
    copy.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    return copy


def as_png(picture: Image.Image) -> bytes:
    """A file as the writing task makes it."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def seconds(call: Callable[[], object], rounds: int = 3, *, clock: Callable[[], float] = time.process_time) -> float:
    """Of a call, median of the rounds after one that warms up."""
    spent = []
    for _ in range(rounds + 1):
        began = clock()
        call()
        spent.append(clock() - began)
    return statistics.median(spent[1:])


def picture_costs(job: DetectionJob, side: int, form: str) -> dict[str, float]:
    """Seconds an image of each stage, and bytes, for pictures of one size and format."""
    files = [picture_file(index, side, form) for index in range(DISTINCT)]
    pictures = [job.load(file)[0] for file in files]
    scores = Stacked(job).score([job.pixels(picture) for picture in pictures])
    item = SourceItem(None, "folder/picture", "picture")
    found = [job.finish(item, (side, side), one, {}) for one in scores]
    shown = [shrunk(picture) for picture in pictures]
    overlays = [overlay(*pair) for pair in zip(shown, found, strict=True)]
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{index}.{form}") for index in range(DISTINCT)]
        for path, file in zip(paths, files, strict=True):
            path.write_bytes(file)
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: [path.read_bytes() for path in paths],
            "decode": lambda: [job.load(file) for file in files],
            "resize": lambda: [job.pixels(picture) for picture in pictures],
            "map": lambda: [job.finish(item, (side, side), one, {}) for one in scores],
            "row": lambda: [json.dumps(row_of(item.key, one)) for one in found],
            "shrink": lambda: [shrunk(picture) for picture in pictures],
            "draw": lambda: [overlay(*pair) for pair in zip(shown, found, strict=True)],
            "png": lambda: [as_png(one) for one in overlays],
        }
        costs = {name: seconds(call) / DISTINCT for name, call in calls.items()}
    sizes = {
        "file bytes": [len(file) for file in files],
        "shown bytes": [3 * one.width * one.height for one in shown],
        "png bytes": [len(as_png(one)) for one in overlays],
    }
    return costs | {name: float(np.mean(each)) for name, each in sizes.items()}


def encode_seconds(job: DetectionJob) -> float:
    """An image of a batch through the model and against the prompts."""
    pixels = torch.randint(256, (BATCH, *job.image_size, 3), dtype=torch.uint8)
    return seconds(lambda: job.score(pixels)) / BATCH


def shard_costs(job: DetectionJob) -> dict[str, float]:
    """Seconds that a shard's rows take to write as Parquet with their mark, on a clock, for the disk is waited for."""
    item = SourceItem(None, "folder/picture", "picture")
    (scores,) = Stacked(job).score([np.zeros((*job.image_size, 3), np.uint8)])
    scored = [(Decoded(item, None, (1, 1), None, {}), scores)] * SHARD
    with TemporaryDirectory() as folder:
        write = Write(job, Folder(folder), (), "npy")
        shard = row(0, scored)
        disk = seconds(lambda: write(shard), clock=time.perf_counter)
        return {"cpu": seconds(lambda: write(shard)), "disk": disk}


class _Nothing:
    """Work that takes no time: what is left of a run is Ray's own.

    Args:
        side: of the images that go from the tasks to the actors, in px.
    """

    def __init__(self, side: int) -> None:
        self._side = side

    def load(self, _image: Any) -> tuple[Image.Image, tuple[int, int]]:
        return Image.new("RGB", (1, 1)), (1, 1)

    def preprocess(self, _picture: Image.Image) -> Any:
        return np.full((self._side, self._side, 3), 127, np.uint8)

    def score(self, batch: Sequence[Any]) -> list[float]:
        return [0.0] * len(batch)

    def finish(self, *_: Any) -> None:
        """Never called: `_written` is what writes."""


def _written(shard: Row) -> Row:
    return {"shard": shard["shard"]}


def ray_costs() -> dict[str, float]:
    """CPU seconds of Ray for a shard that holds and does nothing, in the driver and elsewhere, and for a byte that travels."""
    item = SourceItem(Path("nothing"), "nothing", "nothing")
    process = psutil.Process()
    slopes = []
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for side, (first, last) in SHARDS.items():
            work, marks, spent = _Nothing(side), [], dict[int, float]()
            rows = [row(number, [item] * SHARD) for number in range(first + last)]
            done = execute(rows, decode=Decode([work]), bind=lambda _, work=work: work, pool=Pool(), write=_written)  # type: ignore[misc]
            for number, _ in enumerate(done, 1):
                if number in (first, last):  # all workers are there
                    marks.append((usage(process, spent)[0], spent[process.pid]))
            slopes.append([(end - start) / (last - first) for start, end in zip(*marks, strict=True)])
    finally:
        ray.shutdown()
    (empty, driver), (full, _) = slopes
    return {"driver": driver, "workers": empty - driver, "byte": (full - empty) / (SHARD * 3 * max(SHARDS) ** 2)}


def measure() -> dict[str, Any]:
    """All costs."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as cache:
        small = AnoVL.from_pretrained("mini", device="cpu", cache_dir=cache).job(DRAWN_CLASS)
        large = AnoVL(random_model(ARCH)[1], cache_dir=cache).job(DRAWN_CLASS)
        pictures = {f"{side} {form}": picture_costs(small, side, form) for side in SIDES for form in FORMATS}
        models = {"mini": encode_seconds(small), ARCH: encode_seconds(large)}
        shard = shard_costs(small)
    pixels = 3 * float(np.prod(small.image_size))
    return {
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}",
        "pictures": pictures,
        "models": models,
        "input bytes": pixels,
        "shard": shard,
        "ray": ray_costs(),
    }
