"""Sinks for predictions: a folder that survives a kill, or JSON lines on a stream. They know no model.

In a folder the row of an image is appended only after its pictures are in place and on disk, so a row means the image
is done; tables and pictures appear whole or not at all. Pictures are drawn and saved in threads beside the model.
"""

from __future__ import annotations

import contextlib
import itertools
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
from anovl.files import (
    ERRORS,
    ROWS,
    RUN,
    TEMPORARY_PREFIX,
    Journal,
    check_settings,
    check_unlocked,
    cut_torn_line,
    differences,
    held_folder,
    publish,
    read_run,
    remove_temporary,
    replacing,
    write_json,
)
from anovl.render import overlay as drawing
from anovl.render.tables import TABLES, TableFormat
from anovl.results import FloatArray, Prediction

log = logging.getLogger(__name__)

PICTURES = ("overlay", "heatmap", "mask", "map")
SAVERS = 2  # threads that draw and save
WAITING = 256 * 2**20  # bytes of maps that may wait for them
MapFormat = Literal["npy", "png16"]


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
        OutputError: the path is not a folder, cannot be looked into, or another run is writing there.
    """
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"{folder}: the output folder cannot be written (a file of that name is in the way)")
        check_unlocked(folder)
        return holds_run(folder, resume=resume)
    except OSError as exc:
        if isinstance(exc, OutputError):
            raise
        raise OutputError(f"{folder}: the output folder cannot be written ({exc.strerror})") from exc


def holds_run(folder: Path, *, resume: bool) -> bool:
    """As `check_folder`, of a folder that this process holds itself.

    Raises:
        UsageError: a run is there and `resume` is off.
    """
    earlier = next((name for name in (ROWS, RUN, f"{TEMPORARY_PREFIX}{ROWS}") if (folder / name).exists()), None)
    if earlier and not resume:
        raise UsageError(f"{folder} already holds a run ({earlier}): go on with it by --resume, or name another folder")
    return earlier is not None


class StreamWriter:
    """JSON lines on a text stream, flushed row by row."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.done: dict[str, bool] = {}
        self.written = 0
        self.begun = False  # there is nothing to go on with

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

    While it is entered no other process writes there. Entering raises UsageError where a run is already there and `resume` is
    off, or had other settings; OutputError where the folder cannot be written, or another run is writing there.

    Args:
        folder: is made if needed.
        record: what run.json records; a resumed run must have the same under "settings", and may have other "versions"
            and another "device": those of each run are kept under "runs", with the number of rows before its first.
        save: kinds of pictures, of overlay, heatmap, mask, map.
        table: "csv" or "parquet" adds that table beside predictions.jsonl.
        map_format: of the saved maps.
        resume: go on where an earlier run in the folder ended; its rows are kept.

    Attributes:
        begun: it was entered, so there is something to go on with.
        done: images that earlier runs did, and whether they were anomalous.
        written: images that this run did; those still being saved when it ended early do not count.

    Raises:
        UsageError: an unknown kind.
        MissingExtraError: the table needs a library that is not installed.
    """

    def __init__(
        self,
        folder: Path,
        record: Mapping[str, Any],
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
        self.run: dict[str, Any] = dict(record)
        self.begun = False
        self.done: dict[str, bool] = {}
        self.written = self.failed = 0
        self._resume = resume
        self._rows_path, self._errors_path = (folder / f"{TEMPORARY_PREFIX}{name}" for name in (ROWS, ERRORS))
        self._held = contextlib.ExitStack()  # the lock and the open files
        self._savers = ThreadPoolExecutor(SAVERS, thread_name_prefix="anovl-save")
        self._saving: deque[tuple[Future[dict[str, Any]], int]] = deque()  # rows to come, and bytes of their maps

    def __enter__(self) -> Self:
        check_folder(self.folder, resume=self._resume)
        try:
            with contextlib.ExitStack() as held:
                held.enter_context(held_folder(self.folder))
                self._prepare(earlier=holds_run(self.folder, resume=self._resume))
                self._rows, self._errors = Journal(self._rows_path), Journal(self._errors_path)
                held.callback(self._rows.close)
                held.callback(self._errors.close)
                self._held = held.pop_all()
        except OSError as exc:
            if isinstance(exc, OutputError):
                raise
            raise OutputError(f"{self.folder}: the output folder cannot be written ({exc.strerror or exc})") from exc
        self.begun = True
        return self

    def _prepare(self, *, earlier: bool) -> None:
        """Bring an earlier run's rows back to their working file, remove what it left besides, and note the new run."""
        folder = self.folder
        if earlier:
            check_settings(folder, self.run["settings"])
            for table in TABLES:  # of fewer rows than this run will have
                (folder / f"predictions.{table}").unlink(missing_ok=True)
        pictures = ((folder / kind).rglob(f"{TEMPORARY_PREFIX}*") for kind in PICTURES)
        remove_temporary(itertools.chain(folder.iterdir(), *pictures))
        self._errors_path.unlink(missing_ok=True)  # images that failed are tried again
        if (folder / ROWS).exists() and not self._rows_path.exists():
            with replacing(self._rows_path) as temporary:
                shutil.copyfile(folder / ROWS, temporary)
        cut_torn_line(self._rows_path)
        self.done = {row["image_path"]: bool(row.get("pred_label")) for row in read_rows(self._rows_path)}
        self.run |= {"runs": self._runs(read_run(folder)), "status": "running"}
        write_json(folder / RUN, self.run)

    def _runs(self, before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Software and device of the rows: of the runs before, and of this one where they are others."""
        software = {key: self.run.get(key) for key in ("versions", "device")}
        runs: list[dict[str, Any]] = [] if before is None else list(before.get("runs", []))
        other = differences({key: runs[-1][key] for key in software}, software) if runs else []
        if other:
            log.warning("%s: goes on with other versions or another device (%s)", self.folder, "; ".join(other))
        return [*runs, {"first_row": len(self.done), **software}] if other or not runs else runs

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
        if not self.begun:
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
        self._rows.append(self._saving.popleft()[0].result())
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
        self._errors.append({"image_path": image_path, "error": reason})

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._held:
            try:
                self._finish(interrupted=kind is not None)
                if kind is None:
                    self._publish()
            except BaseException as exc:
                if kind is None:
                    self._interrupted()
                    raise
                log.debug("after the first error: %s", exc)  # which is the one to tell
            if kind is not None:
                self._interrupted()

    def _publish(self) -> None:
        """Give what was written its final names; run.json says so last."""
        for journal in (self._rows, self._errors):
            journal.close()
        if self.failed:
            _rename(self._errors_path, self.folder / ERRORS)
        else:
            for path in (self._errors_path, self.folder / ERRORS):
                _remove(path)
        if self.table != "jsonl":
            with replacing(self.folder / f"predictions.{self.table}") as temporary:
                TABLES[self.table](read_rows(self._rows_path), temporary)
        _rename(self._rows_path, self.folder / ROWS)
        self.run |= {"status": "done", "counts": {"scored": self.written + len(self.done), "failed": self.failed}}
        write_json(self.folder / RUN, self.run)

    def _interrupted(self) -> None:
        self.run["status"] = "interrupted"
        with contextlib.suppress(OSError):  # the first error is the one to tell
            write_json(self.folder / RUN, self.run)


def row_of(image_path: str | None, prediction: Prediction) -> dict[str, Any]:
    """A prediction's row, with the name its source gave the image."""
    return {**prediction.to_dict(), "image_path": image_path}


def _rename(working: Path, final: Path) -> None:
    """Give a finished working file its final name."""
    try:
        publish(working, final)
    except OSError as exc:
        raise OutputError(f"{final}: cannot be written ({exc.strerror}); the rows are in {working.name}") from exc


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{path}: cannot be removed ({exc.strerror})") from exc
