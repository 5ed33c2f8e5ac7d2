"""What a user points at -> single images in a fixed order, each with the name its results go by."""

from __future__ import annotations

import glob
import itertools
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from anovl.data.images import SUFFIXES, describe, is_single_image
from anovl.errors import UsageError
from anovl.files import ROWS, RUN

log = logging.getLogger(__name__)

_OTHER_IMAGES = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg", ".psd", ".exr"}
)


@dataclass(frozen=True)
class SourceItem:
    """One image of a source.

    Attributes:
        image: what `load_image` takes.
        image_path: its name in results, relative to the source with "/" between folders; None without a file.
        stem: unique name of its output files, a relative path without suffix; never leaves the output folder.
    """

    image: Any
    image_path: str | None
    stem: str

    @property
    def key(self) -> str:
        """What identifies the image in a run: its path, or its output name where it has none."""
        return self.stem if self.image_path is None else self.image_path


def iter_source(source: Any, *, exclude: Collection[Path] = ()) -> Iterator[SourceItem]:
    """Every image of a source, lazily, in the same order each time for files on disk.

    Args:
        source: an image (see `load_image`), a folder (searched through, by file suffix; hidden entries, a
            ground_truth folder beside a test folder, and outputs of earlier runs left out), a glob, or an iterable
            of images and paths.
        exclude: folders not to search, such as those a run writes its pictures to.

    Raises:
        UsageError: no such file or folder, or a type that is no source.
    """
    if isinstance(source, str | Path):
        yield from _from_path(source, exclude)
    elif is_single_image(source):
        yield SourceItem(source, None, "image-000000")
    elif isinstance(source, Iterable):
        yield from _from_iterable(source)
    else:
        raise UsageError(f"source: expected an image, a folder, a glob or an iterable, got {type(source).__name__}")


def left_out(folder: Path) -> Counter[str]:
    """What a search of the folder passes over and a user may miss, with the number of each."""
    found: Counter[str] = Counter()
    for here, folders, files in os.walk(folder):
        found.update(
            f"{suffix} files, a format that is not read"
            for name in files
            if (suffix := Path(name).suffix.lower()) in _OTHER_IMAGES
        )
        found.update("linked folders, to be named as sources of their own" for name in folders if Path(here, name).is_symlink())
    return found


def find_mask(image: Path) -> Path | None:
    """The ground-truth mask of an image in the MVTec AD layout, where there is one.

    ".../test/scratch/000.png" has ".../ground_truth/scratch/000_mask.png" (or "000.png").
    """
    defect = image.absolute().parent
    if defect.parent.name != "test":
        return None
    folder = defect.parent.parent / "ground_truth" / defect.name
    candidates = (folder / f"{image.stem}_mask.png", folder / f"{image.stem}.png")
    return next((path for path in candidates if path.is_file()), None)


def _from_path(source: str | Path, exclude: Collection[Path]) -> Iterator[SourceItem]:
    path = Path(source)
    try:
        is_folder, is_there = path.is_dir(), os.path.lexists(path)
    except (OSError, ValueError) as exc:  # a name that is too long, or has a NUL byte
        raise UsageError(f"source: not a file name: {str(source)[:80]!r} ({exc})") from exc
    if is_folder:
        yield from _from_folder(path, exclude)
    elif is_there:
        yield SourceItem(path, path.name, _safe(Path(path.stem)))
    elif glob.has_magic(str(source)):
        matches = glob.glob(str(source), recursive=True)  # noqa: PTH207 -- Path.glob takes no absolute pattern
        root = Path(*_plain_parts(path))
        skip = tuple(os.path.realpath(folder) + os.sep for folder in exclude)
        files: dict[str, Path] = {}  # by real path: a link to a folder above would list its files again and again
        for file in sorted(Path(match) for match in matches):
            real = os.path.realpath(file)
            if file.suffix.lower() in SUFFIXES and not os.path.isdir(real) and not real.startswith(skip):  # noqa: PTH112
                files.setdefault(real, file)
        yield from named(((file, file.relative_to(root) if root.parts else file) for file in files.values()), set())
    else:
        raise UsageError(f"source: no such file or folder: {source}")


def _plain_parts(pattern: PurePath) -> list[str]:
    """Leading parts of a glob that hold no wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _from_folder(root: Path, exclude: Collection[Path]) -> Iterator[SourceItem]:
    skip = {os.path.realpath(folder) for folder in exclude}

    def unreadable(error: OSError) -> None:
        log.warning("skipping a folder that cannot be read: %s (%s)", error.filename, error.strerror)

    for folder, folders, files in os.walk(root, onerror=unreadable):
        here = Path(folder)
        masks = {"ground_truth"} if "test" in folders else set()
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in masks
            and os.path.realpath(here / name) not in skip
            and not all((here / name / file).is_file() for file in (RUN, ROWS))  # what an earlier run wrote
        )
        names = sorted(name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        # A subfolder "x.png" would stand where the output "x.png" of a picture "x" goes.
        clashing = (Path(folder, name).relative_to(root) for name in folders if Path(name).suffix in (".png", ".npy"))
        reserved = {_safe(path.with_suffix("")) for path in clashing}
        yield from named(((here / name, (here / name).relative_to(root)) for name in names), reserved)


def named(pairs: Iterable[tuple[Path, Path]], taken: set[str]) -> Iterator[SourceItem]:
    """Items of files listed together; files that differ in the suffix only keep it in their output name."""
    listed = list(pairs)
    counts = Counter(relative.with_suffix("") for _, relative in listed)
    for path, relative in listed:
        stem = relative if counts[relative.with_suffix("")] > 1 else relative.with_suffix("")
        yield SourceItem(path, relative.as_posix(), _unique(_safe(stem), taken))


def _from_iterable(images: Iterable[Any]) -> Iterator[SourceItem]:
    """Items of a list, whose clashes are known, or of an iterator, where a name must not depend on what comes."""
    counts = (
        Counter(_bare(image) for image in images if isinstance(image, str | Path)) if isinstance(images, list | tuple) else None
    )
    taken: set[str] = set()
    for index, image in enumerate(images):
        if isinstance(image, str | Path):
            alone = counts is not None and counts[_bare(image)] == 1
            stem = (_bare(image) if alone else Path(image)) if Path(image).name else Path(f"image-{index:06d}")
            yield SourceItem(Path(image), str(image), _unique(_safe(stem), taken))
        elif is_single_image(image):
            yield SourceItem(image, None, _unique(f"image-{index:06d}", taken))
        else:
            raise UsageError(f"source: element {index} is no image: {describe(image)}")


def _bare(image: str | Path) -> Path:
    """The path without its suffix."""
    return Path(image).with_suffix("") if Path(image).name else Path(image)


def _unique(stem: str, taken: set[str]) -> str:
    """The stem, or the stem with the first free number; remembers it."""
    if stem in taken:
        stem = next(name for n in itertools.count(2) if (name := f"{stem}-{n}") not in taken)
    taken.add(stem)
    return stem


def _safe(path: Path) -> str:
    """A relative path that stays below the folder it is joined to."""
    parts = path.relative_to(path.anchor).parts
    return "/".join("_up" if part == ".." else part for part in parts) or "image"
