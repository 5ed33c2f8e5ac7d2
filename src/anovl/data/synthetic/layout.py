"""A drawn data set on disk, in the layout of MVTec AD: the same bytes from the same seed, whoever writes it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from anovl.data.synthetic import CLASSES, MAX_SIZE, MIN_SIZE, draw
from anovl.errors import OutOfMemoryError, OutputError, UsageError, suggest
from anovl.files import TEMPORARY_PREFIX, replacing

RECORD = "dataset.json"
_QUEUED = 4  # pictures a process has waiting for it


Job = tuple[Path, "Planned", int, int, bool]  # folder, what, seed and size of the data set, whether a class is one line


@dataclass(frozen=True)
class Planned:
    """One picture to draw.

    Attributes:
        class_name: as in `CLASSES`.
        split: "train" or "test".
        defect: its kind, or None.
        index: from 0 in its folder.
    """

    class_name: str
    split: str
    defect: str | None
    index: int

    @property
    def image_path(self) -> str:
        """Below the data set's folder."""
        return f"{folder_name(self.class_name)}/{self.split}/{folder_name(self.defect or 'good')}/{self.index:03d}.png"

    @property
    def mask_path(self) -> str | None:
        """Below the data set's folder; a good picture has none."""
        if self.defect is None:
            return None
        return f"{folder_name(self.class_name)}/ground_truth/{folder_name(self.defect)}/{self.index:03d}_mask.png"

    def seed(self, dataset_seed: int) -> int:
        """What the picture is drawn from; no other class, nor how many pictures there are, has a say."""
        return _mixed(dataset_seed, self.class_name, self.split, self.defect or "good", self.index)


def line_of(class_name: str, seed: int) -> int:
    """The line of a class in a data set of this seed, where a class is one line."""
    return _mixed(seed, class_name, "line")


def folder_name(name: str) -> str:
    """The folder of a class or a defect: "metal nut" is in metal_nut."""
    return name.replace(" ", "_")


def plan(class_name: str, *, per_class: int, seed: int = 0, train_per_class: int = 0) -> Iterator[Planned]:
    """The pictures of a class: `train_per_class` good ones, then `per_class` to test, half of them defective.

    Defects take turns, from one that seed and class choose, so that a small set of many classes has all kinds. More
    pictures a class add pictures and change none.
    """
    kinds = CLASSES[class_name].defects
    first = _mixed(seed, class_name, "first defect") % len(kinds)
    defective = per_class // 2
    yield from (Planned(class_name, "train", None, index) for index in range(train_per_class))
    yield from (Planned(class_name, "test", None, index) for index in range(per_class - defective))
    for turn in range(defective):
        yield Planned(class_name, "test", kinds[(first + turn) % len(kinds)], turn // len(kinds))


def write_dataset(
    folder: Path,
    classes: Sequence[str] | None = None,
    *,
    per_class: int,
    seed: int = 0,
    size: int = 240,
    train_per_class: int = 0,
    one_line: bool = False,
    workers: int = 1,
    version: str | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Draw a data set: CLASS/test/KIND/000.png, CLASS/ground_truth/KIND/000_mask.png, CLASS/train/good, dataset.json.

    Every file appears whole or not at all; dataset.json comes last.

    Args:
        folder: where; new or empty.
        classes: names from `CLASSES`, "_" for " " allowed; None for all.
        per_class: test pictures a class, half of them defective, one more good where the number is odd.
        seed: a whole number from 0; the files depend on it, the class, the size and `one_line` alone.
        size: pixels of a side.
        train_per_class: good pictures a class to train on.
        one_line: all pictures of a class show one production line (`draw`), which seed and class choose; dataset.json says
            its number.
        workers: processes that draw; one draws here. With more, the caller's module must be importable, as
            always with `multiprocessing`.
        version: of anovl, for dataset.json.
        on_picture: is called after each picture.

    Returns:
        what dataset.json holds.

    Raises:
        UsageError: an unknown class, a number out of range, a folder that is not empty.
        OutputError: the folder cannot be written.
        OutOfMemoryError: a drawing process was killed.
    """
    names = check_settings(
        folder, classes, per_class=per_class, seed=seed, size=size, train_per_class=train_per_class, workers=workers
    )
    planned = [each for name in names for each in plan(name, per_class=per_class, seed=seed, train_per_class=train_per_class)]
    jobs = ((folder, each, seed, size, one_line) for each in planned)
    files: list[dict[str, Any]] = []
    workers = min(workers, len(planned))
    with closing(_here(jobs) if workers == 1 else _in_processes(jobs, workers)) as captions:
        for each, caption in zip(planned, captions, strict=True):
            files.append(
                {
                    "image_path": each.image_path,
                    "mask_path": each.mask_path,
                    "class_name": each.class_name,
                    "defect": each.defect,
                    "caption": caption,
                    "seed": each.seed(seed),
                }
            )
            on_picture()
    record = {
        "anovl": version,
        "seed": seed,
        "size": size,
        "per_class": per_class,
        "train_per_class": train_per_class,
        "classes": [
            {"name": name, "folder": folder_name(name), "kind": CLASSES[name].kind, "held_out": CLASSES[name].held_out}
            | ({"line": line_of(name, seed)} if one_line else {})
            for name in names
        ],
        "files": files,
    }
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def write_whole(folder: Path, classes: Sequence[str] | None = None, **settings: Any) -> None:
    """As `write_dataset`, but the folder appears whole or not at all; nothing is drawn where it is already."""
    if (folder / RECORD).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as scratch:
        write_dataset(Path(scratch, folder.name), classes, **settings)
        Path(scratch, folder.name).replace(folder)


def check_settings(
    folder: Path,
    classes: Sequence[str] | None,
    *,
    per_class: int,
    seed: int,
    size: int,
    train_per_class: int,
    workers: int,
) -> list[str]:
    """Names of the classes, each once, if the settings of `write_dataset` are valid. Changes nothing.

    Raises:
        UsageError, OutputError: as `write_dataset`.
    """
    names = list(CLASSES) if classes is None else list(dict.fromkeys(name.strip().replace("_", " ") for name in classes))
    for name in names:
        if name not in CLASSES:
            raise UsageError(suggest("class", name, CLASSES, "all: " + ", ".join(CLASSES) if len(CLASSES) > 12 else ""))
    if not names:
        raise UsageError("classes: expected at least one; leave them out for all")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"size: expected {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")
    for what, value, least in (
        ("per class", per_class, 1),
        ("train per class", train_per_class, 0),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if value < least:
            raise UsageError(f"{what}: expected a whole number from {least}, got {value}")
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"{folder}: the output folder cannot be written (a file of that name is in the way)")
        there = next(folder.iterdir(), None) if folder.is_dir() else None
    except PermissionError as exc:
        raise OutputError(f"{folder}: the output folder cannot be written ({exc.strerror})") from exc
    if there is not None:
        raise UsageError(f"{folder} is not empty ({there.name}): name another folder, or remove it first")
    return names


def _mixed(*parts: object) -> int:
    """A number from names and numbers, of 53 bits: exact in every JSON reader."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8]) >> 11


def _write(job: Job) -> str:
    """Draw a picture, write it and its mask; its caption."""
    folder, planned, seed, size, one_line = job
    line = line_of(planned.class_name, seed) if one_line else None
    sample = draw(planned.class_name, planned.seed(seed), size=size, defect=planned.defect, line=line)
    if planned.mask_path is not None:
        _save(Image.fromarray(sample.mask).convert("L"), folder / planned.mask_path)
    _save(Image.fromarray(sample.image), folder / planned.image_path)
    return sample.caption


def _save(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, compress_level=1)


def _here(jobs: Iterator[Job]) -> Generator[str, None, None]:
    """`_write` of each job, in order, in this process."""
    yield from map(_write, jobs)


def _in_processes(jobs: Iterator[Job], workers: int) -> Generator[str, None, None]:
    """`_write` of each job, in order. An interrupt is the caller's: what is being written is finished, no more begun."""
    pending: deque[Future[str]] = deque()
    # New processes, not copies of this one: torch's threads do not survive a copy.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            for job in jobs:
                with _no_interrupt():
                    pending.append(pool.submit(_write, job))
                if len(pending) >= _QUEUED * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as exc:
            raise OutOfMemoryError("a drawing process was killed, for want of memory perhaps; one worker needs less") from exc
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold SIGINT back; processes started meanwhile, as `submit` does, never see it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """In a drawing process: end when the one that asked for it is gone, by a kill too."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
