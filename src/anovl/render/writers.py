"""Sinks for predictions: a folder that survives a kill, or JSON lines on a stream. They know no model.

In a folder the row of an image is appended only after its pictures are in place, so a row means the image is
done; tables and pictures appear whole or not at all. Pictures are drawn and saved in threads beside the model.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
from PIL import Image

from anovl.errors import OutputError, UsageError, require_extra, suggest
from anovl.files import ERRORS, ROWS, RUN, TEMPORARY_PREFIX, check_settings, cut_torn_line, replacing, write_json
from anovl.render import overlay as drawing
from anovl.results import FloatArray, Prediction

log = logging.getLogger(__name__)

PICTURES = ("overlay", "heatmap", "mask", "map")
SAVERS = 2  # threads that draw and save
WAITING = 256 * 2**20  # bytes of maps that may wait for them
TableFormat = Literal["jsonl", "csv", "parquet"]
MapFormat = Literal["npy", "png16"]
COLUMNS = (
    "image_path",
    "image_size",
    "class_name",
    "pred_score",
    "pred_score_std",
    "patch_scores_std",
    "pred_label",
    "threshold",
    "pixel_threshold",
    "calibrated",
    "probability",
    "map_size",
    "regions",
    "timings_ms",
)
_NESTED = ("image_size", "map_size", "regions", "timings_ms")  # columns that a CSV keeps as JSON text


def save_image(image: Image.Image, path: Path) -> Path:
    """Write an image file, whole or not at all; its suffix is its format.

    Raises:
        OutputError: the file cannot be written, or no image format has that suffix.
    """
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise OutputError(f"{path}: no image format has this suffix; .png or .jpg would do")
    fast: dict[str, Any] = {"compress_level": 1} if path.suffix.lower() == ".png" else {}  # a third of the time
    with replacing(path) as temporary:
        image.save(temporary, **fast)
    return path


def save_map(anomaly_map: FloatArray, path: Path, form: MapFormat) -> None:
    """Write a map [H, W] in [0, 1]: .npy float32, or a 16-bit grey PNG (value x 65535)."""
    with replacing(path) as temporary:
        if form == "npy":
            np.save(temporary, anomaly_map)
        else:
            drawing.map_image(anomaly_map).save(temporary)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON lines file; none if it is absent.

    Raises:
        OutputError: a line is not a JSON object with an image_path.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or "image_path" not in row:
                raise OutputError(f"{path}: line {number} is not a row of anovl; move the file away to start anew")
            yield row


def check_folder(folder: Path, *, resume: bool) -> bool:
    """True for a folder that holds a run, which only `resume` may touch. Changes nothing.

    Raises:
        UsageError: a run is there and `resume` is off.
        OutputError: the path is not a folder, or cannot be looked into.
    """
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"{folder}: the output folder cannot be written (a file of that name is in the way)")
        earlier = next((name for name in (ROWS, RUN, f"{TEMPORARY_PREFIX}{ROWS}") if (folder / name).exists()), None)
    except PermissionError as exc:
        raise OutputError(f"{folder}: the output folder cannot be written ({exc.strerror})") from exc
    if earlier and not resume:
        raise UsageError(f"{folder} already holds a run ({earlier}): go on with it by --resume, or name another folder")
    return earlier is not None


class StreamWriter:
    """JSON lines on a text stream, flushed row by row."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.done: dict[str, bool] = {}
        self.written = 0

    def write(self, image_path: str | None, prediction: Prediction, **_pictures: Any) -> None:
        """One row; pictures have no place on a stream."""
        try:
            self.stream.write(json.dumps(row_of(image_path, prediction)) + "\n")
            self.stream.flush()
            self.written += 1
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(f"standard output cannot be written ({exc.strerror or exc})") from exc

    def write_error(self, image_path: str, reason: str) -> None:
        """An image that failed has no place on a stream; the log tells it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None


class FolderWriter:
    """An output folder: predictions.jsonl (and a table), run.json, errors.jsonl, one subfolder a kind of picture.

    Args:
        folder: is made if needed.
        settings: what run.json records; a resumed run must have the same under "settings".
        save: kinds of pictures, of overlay, heatmap, mask, map.
        table: "csv" or "parquet" adds that table beside predictions.jsonl.
        map_format: of the saved maps.
        resume: go on where an earlier run in the folder ended; its rows are kept.

    Attributes:
        done: images that the earlier run did, and whether they were anomalous.
        written: images that this run did; those still being saved when it ended early do not count.

    Raises:
        UsageError: an unknown kind; a run is already there and `resume` is off; other settings than before.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        save: Collection[str] = ("overlay",),
        table: TableFormat = "jsonl",
        map_format: MapFormat = "npy",
        resume: bool = False,
    ) -> None:
        for kind in save:
            if kind not in PICTURES:
                raise UsageError(suggest("picture to save", kind, PICTURES))
        if table == "parquet":
            require_extra("pyarrow.parquet", "parquet", "the parquet table")
        self.folder, self.save, self.table, self.map_format = folder, frozenset(save), table, map_format
        self.run: dict[str, Any] = dict(settings)
        self._rows_path, self._errors_path = (folder / f"{TEMPORARY_PREFIX}{name}" for name in (ROWS, ERRORS))
        self._prepare(resume=resume)
        self.done = {row["image_path"]: bool(row.get("pred_label")) for row in read_rows(self._rows_path)}
        self._rows: IO[str] | None = None
        self._errors: IO[str] | None = None
        self._savers = ThreadPoolExecutor(SAVERS, thread_name_prefix="anovl-save")
        self._saving: deque[tuple[Future[dict[str, Any]], int]] = deque()  # rows to come, and bytes of their maps
        self.written = self.failed = 0

    def _prepare(self, *, resume: bool) -> None:
        """Check what is in the folder and bring an earlier run's rows back to their working file."""
        folder = self.folder
        earlier = check_folder(folder, resume=resume)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if earlier:
                check_settings(folder, self.run["settings"])
                for table in TABLES:  # of fewer rows than this run will have
                    (folder / f"predictions.{table}").unlink(missing_ok=True)
            if (folder / ROWS).exists() and not self._rows_path.exists():
                with replacing(self._rows_path) as temporary:
                    shutil.copyfile(folder / ROWS, temporary)
            cut_torn_line(self._rows_path)
        except OSError as exc:
            if isinstance(exc, OutputError):
                raise
            raise OutputError(f"{folder}: the output folder cannot be written ({exc.strerror or exc})") from exc

    def __enter__(self) -> Self:
        self.run["status"] = "running"
        write_json(self.folder / RUN, self.run)
        try:
            self._rows = self._rows_path.open("a", encoding="utf-8")
            self._errors = self._errors_path.open("w", encoding="utf-8")
        except OSError as exc:
            raise OutputError(f"{self.folder}: cannot be written ({exc.strerror})") from exc
        return self

    def write(
        self,
        image_path: str | None,
        prediction: Prediction,
        *,
        stem: str,
        picture: Image.Image | None = None,
        truth: Image.Image | None = None,
    ) -> None:
        """Write an image's pictures, then its row, before long: the order of rows is that of the calls.

        Args:
            image_path: the image's name in the row.
            prediction: of the image.
            stem: relative path without suffix of its output files.
            picture: RGB, needed for the overlay.
            truth: ground-truth mask to draw, where there is one.
        """
        if self._rows is None:
            raise UsageError("FolderWriter: use it in a with statement")
        saving = self._savers.submit(self._save, image_path or stem, prediction, stem, picture, truth)
        self._saving.append((saving, prediction.anomaly_map.nbytes))
        most = 2 * SAVERS if self.save else 0
        while len(self._saving) > most or sum(size for _, size in self._saving) > WAITING:
            self._note_first()

    def _save(
        self, name: str, prediction: Prediction, stem: str, picture: Image.Image | None, truth: Image.Image | None
    ) -> dict[str, Any]:
        """Write an image's pictures; its row."""
        for kind in self.save:
            suffix = ".npy" if kind == "map" and self.map_format == "npy" else ".png"
            path = self.folder / kind / f"{stem}{suffix}"
            if kind == "map":
                save_map(prediction.anomaly_map, path, self.map_format)
            elif kind == "heatmap":
                save_image(drawing.heatmap(prediction), path)
            elif kind == "mask":
                save_image(drawing.mask_image(prediction), path)
            elif picture is not None:
                save_image(drawing.overlay(picture, prediction, truth), path)
        return row_of(name, prediction)

    def _note_first(self) -> None:
        """Append the row of the image that has waited longest, once it is saved."""
        _append(self._rows, self._saving.popleft()[0].result(), self._rows_path)
        self.written += 1

    def _finish(self, *, interrupted: bool) -> None:
        """Append the rows that are still to come; when interrupted those of images that are being saved, and begin no more."""
        try:
            while self._saving and not (interrupted and self._saving[0][0].cancel()):
                self._note_first()
        finally:
            self._savers.shutdown(wait=True, cancel_futures=True)

    def write_error(self, image_path: str, reason: str) -> None:
        """Note an image that failed."""
        self.failed += 1
        _append(self._errors, {"image_path": image_path, "error": reason}, self._errors_path)

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._finish(interrupted=kind is not None)
        except BaseException as exc:
            if kind is None:
                self._interrupted()
                raise
            log.debug("after the first error: %s", exc)  # which is the one to tell
        if kind is not None:
            self._interrupted()
            return
        self._close()
        _publish(self._errors_path, self.folder / ERRORS, keep=self.failed > 0)
        if self.table != "jsonl":
            with replacing(self.folder / f"predictions.{self.table}") as temporary:
                TABLES[self.table](read_rows(self._rows_path), temporary)
        _publish(self._rows_path, self.folder / ROWS, keep=True)
        self.run |= {"status": "done", "counts": {"scored": self.written + len(self.done), "failed": self.failed}}
        write_json(self.folder / RUN, self.run)

    def _close(self) -> None:
        for stream in (self._rows, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):  # every row was flushed when it was written
                    stream.close()

    def _interrupted(self) -> None:
        self._close()
        self.run["status"] = "interrupted"
        with contextlib.suppress(OSError):  # the first error is the one to tell
            write_json(self.folder / RUN, self.run)


def row_of(image_path: str | None, prediction: Prediction) -> dict[str, Any]:
    """A prediction's row, with the name its source gave the image."""
    return {**prediction.to_dict(), "image_path": image_path}


def _append(stream: IO[str] | None, row: Mapping[str, Any], path: Path) -> None:
    if stream is None:
        raise UsageError("FolderWriter: use it in a with statement")
    try:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror}); what is there so far is whole") from exc


def _publish(working: Path, final: Path, *, keep: bool) -> None:
    """Give a finished working file its final name, or remove both."""
    try:
        if not keep:
            working.unlink(missing_ok=True)
            final.unlink(missing_ok=True)
            return
        with working.open("rb+") as stream:
            os.fsync(stream.fileno())
        working.replace(final)
    except OSError as exc:
        raise OutputError(f"{final}: cannot be written ({exc.strerror}); the rows are in {working.name}") from exc


def _write_csv(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: json.dumps(value) if key in _NESTED else value for key, value in row.items()})


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    region = pa.struct(
        [
            ("box", pa.list_(pa.int32())),
            ("area", pa.int64()),
            ("peak", pa.float64()),
            ("centroid", pa.list_(pa.float64())),
        ]
    )
    types = {
        "image_size": pa.list_(pa.int32()),
        "pred_score": pa.float64(),
        "pred_score_std": pa.float64(),
        "patch_scores_std": pa.float64(),
        "pred_label": pa.bool_(),
        "threshold": pa.float64(),
        "pixel_threshold": pa.float64(),
        "calibrated": pa.bool_(),
        "probability": pa.float64(),
        "map_size": pa.list_(pa.int32()),
        "regions": pa.list_(region),
        "timings_ms": pa.map_(pa.string(), pa.float64()),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    with pq.ParquetWriter(str(path), schema) as writer:
        block: list[dict[str, Any]] = []
        for row in rows:
            name = row["image_path"].encode("utf-8", "backslashreplace").decode()  # file names may be no UTF-8
            block.append({**row, "image_path": name, "timings_ms": list(row["timings_ms"].items())})
            if len(block) == 1000:
                writer.write_table(pa.Table.from_pylist(block, schema=schema))
                block = []
        writer.write_table(pa.Table.from_pylist(block, schema=schema))


TABLES = {"csv": _write_csv, "parquet": _write_parquet}
