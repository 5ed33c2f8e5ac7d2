"""Sources of a cluster run: what one machine takes, lists of paths as CSV, JSON lines or Parquet, and any fsspec address."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

from anovl.addresses import AT_ONCE, explained, file_system, is_address
from anovl.data.images import SUFFIXES
from anovl.data.sources import SourceItem, iter_source, named
from anovl.errors import ImageNotFoundError, ImageTooLargeError, UsageError, require_extra

LISTS = (".csv", ".jsonl", ".parquet")
PATH, BYTES = "image_path", "bytes"  # columns; a list has one of them


@dataclass(frozen=True)
class Remote:
    """An image file at an address."""

    url: str


@dataclass(frozen=True)
class Cell:
    """An image in a row of a Parquet file."""

    url: str
    group: int
    row: int


def items_of(source: str | list[str], *, exclude: list[Path]) -> Iterator[SourceItem]:
    """Every image of a source, in the same order each time; images are paths, `Remote` or `Cell`.

    Args:
        source: as for one machine; an address of a folder, a glob or an image; or a .csv, .jsonl or .parquet file, here or at
            an address, with a column image_path (relative to the file's folder, absolute or an address), or bytes (Parquet).
        exclude: as in `iter_source`.

    Raises:
        UsageError: no such source, or a list that is not as described.
        MissingExtraError: the package of a scheme is not installed.
    """
    if isinstance(source, str) and source.lower().endswith(LISTS):
        yield from _from_list(source)
    elif isinstance(source, str) and is_address(source):
        yield from _from_address(source)
    else:
        for item in iter_source(source, exclude=exclude):
            yield replace(item, image=Path(item.image).absolute())


def reads(images: Iterable[Path | Remote | Cell], *, max_bytes: int) -> Iterator[Callable[[], Path | bytes]]:
    """For each image of `items_of`, in order, what gives it as `load_image` takes it, or raises an ImageError.

    A file at an address takes one request; `AT_ONCE` of these are under way or wait for their turn.

    Args:
        images: of a shard.
        max_bytes: larger files at addresses are refused, once one byte over this is read.
    """
    column = lru_cache(1)(_column)  # images of a row group follow each other
    coming: deque[Callable[[], Path | bytes]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="anovl-read") as pool:
        for image in images:
            if len(coming) == AT_ONCE:
                yield coming.popleft()
            if isinstance(image, Path):
                coming.append(partial(Path, image))
            elif isinstance(image, Remote):
                coming.append(pool.submit(_file, image.url, max_bytes).result)
            else:
                coming.append(partial(_cell, image, column))
        while coming:
            yield coming.popleft()


@contextlib.contextmanager
def _unreadable(url: str) -> Iterator[None]:
    """Turn what a file system raises into an ImageNotFoundError."""
    try:
        yield
    except Exception as exc:
        reason = "no such file" if isinstance(exc, FileNotFoundError) else f"cannot be read ({exc})"
        raise ImageNotFoundError(url, reason) from exc


def _file(url: str, max_bytes: int) -> bytes:
    with _unreadable(url):
        system, path = file_system(url)
        try:
            data = bytes(system.cat_file(path, start=0, end=max_bytes + 1))  # without an end the size would be asked for first
        except Exception as exc:
            if "satisfiable" in str(exc).lower():  # HTTP's 416: an empty file has no range
                return b""
            raise
    if len(data) > max_bytes:
        raise ImageTooLargeError(url, f"over the limit of {max_bytes:,} bytes (--max-bytes)")
    return data


def _column(url: str, group: int) -> Any:
    """Images of a row group."""
    import pyarrow.parquet as pq

    with _unreadable(url):
        system, path = file_system(url)
        with system.open(path, "rb") as stream:
            return pq.ParquetFile(stream).read_row_group(group, columns=[BYTES]).column(0)


def _cell(cell: Cell, column: Callable[[str, int], Any]) -> bytes:
    data = column(cell.url, cell.group)[cell.row].as_py()
    if not isinstance(data, bytes):
        raise ImageNotFoundError(cell.url, f"expected bytes, got {type(data).__name__}")
    return data


def _from_address(url: str) -> Iterator[SourceItem]:
    system, path = file_system(url)
    with explained(url, UsageError):
        if "*" in path:
            root = path[: path.index("*")].rpartition("/")[0]
            files = system.glob(path)
        elif system.isfile(path):
            root, files = path.rpartition("/")[0], [path]
        else:
            root, files = path.rstrip("/"), system.find(path)
            if not files and not system.exists(path):
                raise FileNotFoundError(path)
    folders: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        relative = PurePosixPath(file[len(root) :].lstrip("/"))
        hidden = any(part.startswith(".") for part in relative.parts)
        masks = "ground_truth" in relative.parts[:-1]
        if relative.suffix.lower() in SUFFIXES and not hidden and not masks:
            folders[relative.parent].append(relative)
    taken: set[str] = set()
    for folder in sorted(folders):
        paths = [Path(relative) for relative in sorted(folders[folder])]
        for item in named(((path, path) for path in paths), taken):
            yield replace(item, image=Remote(system.unstrip_protocol(f"{root}/{item.image.as_posix()}")))


def _from_list(url: str) -> Iterator[SourceItem]:
    """Images that a list names, or holds."""
    system, path = file_system(url)
    if path.lower().endswith(".parquet"):
        require_extra("pyarrow.parquet", "parquet", "a Parquet source")
        yield from _from_parquet(url, system, path)
        return
    with explained(url, UsageError):
        text = bytes(system.cat_file(path)).decode("utf-8-sig")
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if path.lower().endswith(".jsonl")
            else list(csv.DictReader(io.StringIO(text, newline="")))
        )
    names = [row.get(PATH) if isinstance(row, dict) else None for row in rows]
    yield from _listed(url, names)


def _from_parquet(url: str, system: Any, path: str) -> Iterator[SourceItem]:
    import pyarrow.parquet as pq

    with explained(url, UsageError), system.open(path, "rb") as stream:
        file = pq.ParquetFile(stream)
        columns = file.schema_arrow.names
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        names = file.read(columns=[PATH]).column(0).to_pylist() if PATH in columns else None
    if BYTES in columns:
        number = 0
        for group, rows in enumerate(sizes):
            for row in range(rows):
                yield SourceItem(Cell(url, group, row), None, f"image-{number:06d}")
                number += 1
    elif names is None:
        raise UsageError(f"{url}: expected a column {PATH} or {BYTES}, found {', '.join(columns) or 'nothing'}")
    else:
        yield from _listed(url, names)


def _listed(url: str, names: list[Any]) -> Iterator[SourceItem]:
    """Images by the paths of a list, relative to its folder."""
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{url}: row {number}: expected {PATH}, got {name!r}")
    folder = url.rpartition("/")[0]
    for item in iter_source(list(names)):
        name = str(item.image_path)
        if is_address(name):
            image: Any = Remote(name)
        elif is_address(url):
            image = Remote(f"{folder}/{name}")
        else:
            image = (Path(folder) / name).absolute()
        yield replace(item, image=image)
