"""What a visitor's run found: scores stay, maps are made again from the patch grid when they are looked at."""

from __future__ import annotations

import io
import itertools
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from anovl.data.sources import SourceItem
from anovl.engine import pipeline
from anovl.engine.pipeline import Work
from anovl.errors import ImageError, UsageError
from anovl.profiles import Origin
from anovl.render.overlay import blend
from anovl.render.writers import FolderWriter
from anovl.results import Prediction

PANEL, TILE = 1024, 192  # longest sides of a picture on the page, px

Job = Work[Any, Any, Prediction]


@dataclass(frozen=True, eq=False)
class Found:
    """One scored image, without its map.

    Attributes:
        size: (H, W) of the image in px.
        scores: as the model gave them; the map is made of them.
        timings: milliseconds of each stage.
        pred_score, score_range: as in `Prediction`.
        peak: largest value of the map.
        tile: a small overlay for the gallery, a JPEG file.
    """

    item: SourceItem
    size: tuple[int, int]
    scores: Any
    timings: dict[str, float]
    pred_score: float
    score_range: tuple[float, float]
    peak: float
    tile: bytes

    @property
    def name(self) -> str:
        """The file's."""
        return self.item.key


@dataclass(frozen=True)
class _Keeping:
    """A job whose results are small: the map is looked at and let go."""

    job: Job

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """As the protocol says."""
        return self.job.load(image)

    def preprocess(self, picture: Image.Image) -> tuple[Any, Image.Image]:
        """What the model reads, and a small copy for the gallery."""
        tile = picture.copy() if max(picture.size) <= TILE else picture.reduce(max(1, max(picture.size) // (2 * TILE)))
        tile.thumbnail((TILE, TILE))
        return self.job.preprocess(picture), tile

    def score(self, batch: Sequence[tuple[Any, Image.Image]]) -> list[tuple[Any, Image.Image]]:
        """As the protocol says."""
        scores = self.job.score([pixels for pixels, _ in batch])
        return [(one, tile) for one, (_, tile) in zip(scores, batch, strict=True)]

    def finish(
        self, item: SourceItem, size: tuple[int, int], scores: tuple[Any, Image.Image], timings: dict[str, float]
    ) -> Found:
        """As the protocol says."""
        own, tile = scores
        prediction = self.job.finish(item, size, own, timings)
        drawn = jpeg(blend(tile, prediction, contours=False))
        return Found(
            item=item,
            size=size,
            scores=own,
            timings=prediction.timings_ms,
            pred_score=prediction.pred_score,
            score_range=prediction.score_range,
            peak=float(prediction.anomaly_map.max()),
            tile=drawn,
        )


class Looks:
    """The maps and pictures that visitors look at, the latest ones, in bounded memory; any thread may ask.

    Args:
        most_bytes: of maps that are kept; a larger one is made at every look.
    """

    def __init__(self, most_bytes: int = 2**28) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[Found, tuple[Prediction, Image.Image]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, found: Found, make: Callable[[Found], tuple[Prediction, Image.Image]]) -> tuple[Prediction, Image.Image]:
        """What is kept of an image, else what `make` gives."""
        with self._lock:
            if found in self._kept:
                self._kept.move_to_end(found)
                return self._kept[found]
        made = make(found)
        with self._lock:
            self._kept[found] = made
            while sum(prediction.anomaly_map.nbytes for prediction, _ in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        return made


@dataclass(frozen=True)
class Thresholds:
    """From where an image, and a pixel, counts as anomalous; both in [0, 1].

    Attributes:
        calibrated: they are a profile's.
    """

    image: float
    pixel: float
    calibrated: bool = False


@dataclass(eq=False)
class Session:
    """One run of a visitor.

    Args:
        job: the model bound to a class.
        settings: of the run, for run.json.
        looks: shared by visitors.
        in_parts: images wait for the model at their full size.

    Attributes:
        found: in the order of the source.
        failed: (name, reason) of images that could not be used.
        selected: the one that is looked at.
        stopped: set to end the run after the picture that is at hand.
    """

    job: Job
    settings: Mapping[str, Any]
    looks: Looks
    in_parts: bool = False
    found: list[Found] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    selected: Found | None = None
    stopped: bool = False

    def run(self, items: Iterable[SourceItem], *, batch_size: int, workers: int) -> Generator[int]:
        """Score images; yields how many are done after each."""
        outcomes = pipeline.run(_Keeping(self.job), items, batch_size=1 if self.in_parts else batch_size, workers=workers)
        with closing(outcomes):
            for outcome in outcomes:
                if outcome.prediction is not None:
                    self.found.append(outcome.prediction)
                else:
                    self.failed.append((outcome.item.key, reason(outcome.error)))
                yield len(self.found) + len(self.failed)
                if self.stopped:
                    break

    @property
    def origin(self) -> Origin:
        """What the scores depend on, for a profile."""
        job: Any = self.job
        origin: Origin = getattr(job, "job", job).origin  # a torch job comes stacked
        return origin

    def select(self, place: int) -> None:
        """Look at the image of this place in `ranked`; the nearest for a place that is none."""
        ranked = self.ranked
        self.selected = ranked[min(max(place, 0), len(ranked) - 1)] if ranked else None

    def score_range(self) -> tuple[float, float]:
        """What the sliders must reach: the drawing scale of the run, and all scores and peaks."""
        low, high = self.found[0].score_range
        values = [value for found in self.found for value in (found.pred_score, found.peak)]
        return min(low, *values), max(high, *values)

    @property
    def ranked(self) -> list[Found]:
        """Highest score first."""
        return sorted(self.found, key=lambda found: -found.pred_score)

    def look(self) -> tuple[Prediction, Image.Image]:
        """The selected image's prediction with its whole map, and its picture of 512 to 1024 px; nothing is scored again.

        Raises:
            UsageError: nothing is selected.
            ImageError: the file is no longer there.
        """
        if self.selected is None:
            raise UsageError("select a picture first")
        return self.looks.get(self.selected, self._look)

    def _look(self, found: Found) -> tuple[Prediction, Image.Image]:
        picture = self._picture(found)
        scale = min(max(*picture.size, PANEL // 2), PANEL) / max(picture.size)  # a small one is enlarged
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return self._prediction(found), picture.resize(size)

    def write_archive(self, path: Path, thresholds: Thresholds, versions: Mapping[str, str]) -> None:
        """A zip of what `anovl predict -o` writes: predictions.jsonl and .csv, overlays, masks, run.json.

        Raises:
            UsageError: nothing was scored.
            ImageError: a file is no longer there.
            OutputError: the disk is full, say.
        """
        if not self.found:
            raise UsageError("nothing to download yet: score some pictures first")
        settings = {**self.settings, "threshold": thresholds.image, "pixel_threshold": thresholds.pixel}
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            folder = Path(scratch) / path.stem
            record = {"versions": dict(versions), "settings": settings}
            with FolderWriter(folder, record, save=("overlay", "mask"), table="csv") as writer:
                for found in self.found:
                    prediction = decided(self._prediction(found), thresholds)
                    writer.write(found.name, prediction, stem=found.item.stem, picture=self._picture(found))
                for failure in self.failed:
                    writer.write_error(*failure)
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
                for file in sorted(folder.rglob("*")):
                    if file.is_file():
                        archive.write(file, file.relative_to(folder.parent))

    def _prediction(self, found: Found) -> Prediction:
        return self.job.finish(found.item, found.size, found.scores, dict(found.timings))

    def _picture(self, found: Found) -> Image.Image:
        picture = pipeline.decode(self.job, found.item, keep_picture=True).picture
        if picture is None:
            raise UsageError(f"{found.name}: no picture was kept")
        return picture


def jpeg(picture: Image.Image) -> bytes:
    """A small picture as a file."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def decided(prediction: Prediction, thresholds: Thresholds) -> Prediction:
    """The same scores under other thresholds."""
    return replace(prediction, threshold=thresholds.image, pixel_threshold=thresholds.pixel, calibrated=thresholds.calibrated)


def named(paths: Iterable[str | Path]) -> list[SourceItem]:
    """Items of uploaded files, under their own names; equal names are numbered."""
    items: list[SourceItem] = []
    taken: set[str] = set()
    for path in map(Path, paths):
        numbered = (f"{path.stem}-{number}" for number in itertools.count(2))
        stem = next(name for name in itertools.chain([path.stem], numbered) if name.lower() not in taken)
        taken.add(stem.lower())
        items.append(SourceItem(path, f"{stem}{path.suffix}", stem))
    return items


def reason(error: Exception | None) -> str:
    """Why an image cannot be used, without the path it was uploaded to; any other error's own words."""
    return error.reason if isinstance(error, ImageError) else str(error)
