"""A run of the engine from the command line: sources, progress, what is written, the exit code."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anovl.cli.app import is_quiet
from anovl.errors import ImageError, NothingToDoError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from anovl.data.sources import SourceItem
    from anovl.detection import DetectionJob
    from anovl.engine.pipeline import Outcome
    from anovl.engine.runtime import ExportedJob
    from anovl.render.writers import FolderWriter, StreamWriter
    from anovl.results import Prediction

log = logging.getLogger(__name__)

SOME_FAILED, ANOMALIES_FOUND = 3, 4

Source = str | list[str]
Engine = Callable[..., "Generator[Outcome[Prediction]]"]


def named_source(arguments: list[str]) -> Source:
    """What the arguments name: "-" for stdin, one folder, glob or file, or a list of files (a shell's glob).

    Raises:
        UsageError: "-" or a folder beside other arguments.
    """
    if len(arguments) == 1:
        return arguments[0]
    for argument in arguments:
        if argument == "-" or Path(argument).is_dir():
            raise UsageError(f"source: name one folder, or image files only; got {argument!r} beside {len(arguments) - 1} more")
    return arguments


def resolved(source: Source) -> Source:
    """The source as run.json records it: absolute, so that a resumed run can tell another one."""
    if source == "-":
        return source
    return os.path.abspath(source) if isinstance(source, str) else [os.path.abspath(path) for path in source]  # noqa: PTH100


def items_of(source: Source, folder: Path | None) -> Iterator[SourceItem]:
    """Images of a source, in order, without what a run wrote to its output folder; stdin is read as it comes."""
    from anovl.data.sources import iter_source

    if source == "-":
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)  # file names may be no UTF-8
        return iter_source(line for line in lines if line)
    from anovl.render.writers import PICTURES

    return iter_source(source, exclude=[folder / kind for kind in PICTURES] if folder else [])


def count_images(source: Source, folder: Path | None) -> int | None:
    """How many images there are; None where only the end will tell.

    Raises:
        NothingToDoError: none.
    """
    if source == "-":
        return None
    from anovl.data.sources import left_out

    count = sum(1 for _ in items_of(source, folder))
    for what, number in left_out(Path(source)).items() if isinstance(source, str) else ():
        log.warning("left out: %d %s", number, what)
    if count == 0:
        raise NothingToDoError(f"source: no image in {source} (PNG, JPEG, BMP, TIFF, WebP, GIF, PPM, by file suffix)")
    return count


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[], None]]:
    """A bar with rate and time left on stderr, on a terminal only; yields what to call after each image."""
    if is_quiet() or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=total, rate="")

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} images/s" if speed else "")

        yield advance


@contextmanager
def resumable(begun: Callable[[], bool]) -> Iterator[None]:
    """Say how to go on when what is inside ends early; `begun` tells whether there is something to go on with."""
    try:
        yield
    except BaseException:
        if begun():
            typer.echo("anovl: stopped; the same command with --resume goes on where it was", err=True)
        raise


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a detector bound to a class, a source, and how to work.

    Attributes:
        engine: what scores the items with the job, as `anovl.engine.pipeline.run` does.
        draws: keep pictures for the overlays.
    """

    job: DetectionJob | ExportedJob
    engine: Engine
    source: Source
    folder: Path | None
    count: int | None
    batch_size: int
    workers: int
    draws: bool

    def execute(self, writer: FolderWriter | StreamWriter, *, fail_on_anomaly: bool) -> int:
        """Score what is left to do, write it, sum up.

        Returns:
            the exit code.
        """
        items = self._items()
        failed = anomalous = 0
        try:
            with writer, closing(self._outcomes(items, writer.done)) as outcomes:
                for outcome in outcomes:
                    item, prediction = outcome.item, outcome.prediction
                    if prediction is None:
                        failed += 1
                        reason = outcome.error.reason if isinstance(outcome.error, ImageError) else str(outcome.error)
                        writer.write_error(item.key, reason)
                        continue
                    truth = self._truth(item) if self.draws else None
                    writer.write(item.image_path, prediction, stem=item.stem, picture=outcome.picture, truth=truth)
                    anomalous += prediction.pred_label
        except BaseException:
            if writer.begun:
                reached = f"stopped with {writer.written + len(writer.done)} images done"
                typer.echo(f"anovl: {reached}; the same command with --resume goes on", err=True)
            raise
        anomalous += sum(writer.done.values())
        if not is_quiet():
            kept = f", {len(writer.done)} kept from before" if writer.done else ""
            where = f" -> {self.folder}" if self.folder else ""
            typer.echo(f"anovl: {writer.written} scored, {anomalous} anomalous, {failed} failed{kept}{where}", err=True)
        if failed:
            return SOME_FAILED
        return ANOMALIES_FOUND if fail_on_anomaly and anomalous else 0

    def outcomes(self) -> Generator[Outcome[Prediction]]:
        """What becomes of each image, in order; progress is shown, and those that fail are logged.

        Raises:
            NothingToDoError: no path came on stdin; at once, before the first outcome is asked for.
        """
        return self._outcomes(self._items(), done=())

    def _items(self) -> Iterator[SourceItem]:
        """The images; NothingToDoError where no path came on stdin."""
        source = items_of(self.source, self.folder)
        first = next(source, None)
        if first is None:
            raise NothingToDoError("source: no path came on stdin")
        return itertools.chain([first], source)

    def _outcomes(self, items: Iterator[SourceItem], done: Collection[str]) -> Generator[Outcome[Prediction]]:
        left = None if self.count is None else max(0, self.count - len(done))
        ahead = (item for item in items if item.key not in done)
        engine = self.engine(self.job, ahead, batch_size=self.batch_size, workers=self.workers, keep_pictures=self.draws)
        with progress(left) as advance, closing(engine):
            for outcome in engine:
                advance()
                if outcome.prediction is None:
                    log.warning("skipped %s", outcome.error)
                yield outcome

    def _truth(self, item: SourceItem) -> Image.Image | None:
        """The ground-truth mask of an image, where the MVTec layout has one that can be read."""
        from anovl.data.images import load_image
        from anovl.data.sources import find_mask

        path = find_mask(item.image) if isinstance(item.image, Path) else None
        if path is None:
            return None
        try:
            return load_image(path, limits=self.job.limits)
        except ImageError as exc:
            log.warning("ground truth not drawn: %s", exc)
            return None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(H, W) from "240" or "240x320"."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise UsageError(f"image size: expected S or HxW in pixels, such as 240 or 240x320, got {text!r}")
    return int(sides[0]), int(sides[-1])
