"""Files that appear whole or not at all, rows that outlive a crash, and folders that one process writes to."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from anovl.errors import AnovlError, OutputError, UsageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

log = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".anovl-"
ROWS, ERRORS, RUN = "predictions.jsonl", "errors.jsonl", "run.json"  # in a run's output folder
LOCK = f"{TEMPORARY_PREFIX}lock"
SYNC_ROWS, SYNC_SECONDS = 64, 1.0  # rows, and seconds of work, that a power loss may take

_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r"[0-9a-f]{12}(\.\w+)?")
_LOCKED_BYTE = 1 << 30  # Windows locks bytes: one that nobody reads
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})  # file systems without


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success its content, then its new name are flushed to disk, else it is removed.

    The temporary name keeps the suffix, so that encoders that go by it work.

    Raises:
        OutputError: the folder or the file cannot be written (permissions, disk full, a file in the way).
    """
    temporary = _temporary(path)
    try:
        yield temporary
        publish(temporary, path)
    except AnovlError:
        raise
    except OSError as exc:
        reason = exc.strerror or f"{exc}; is the disk full?"  # numpy reports a short write without an errno
        raise OutputError(f"{path}: cannot be written ({reason})") from exc
    finally:
        with contextlib.suppress(OSError):  # a disk that is read-only by now; the first error is the one to tell
            temporary.unlink(missing_ok=True)


def publish(working: Path, final: Path) -> None:
    """Give a file its final name in the same folder, durably: its content is on disk before its name."""
    with working.open("rb+") as stream:
        os.fsync(stream.fileno())
    working.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can do that."""
    if sys.platform == "win32":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(number)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, durably."""
    missing = list(itertools.takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def check_writable(path: Path) -> None:
    """Fail as `replacing` would before there is anything to write. Leaves nothing behind but the folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    _temporary(path).unlink()


def _temporary(path: Path) -> Path:
    """An empty file beside a path, in its folder, which is made if needed."""
    try:
        make_folder(path.parent)
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{path.suffix}"
        temporary.touch(exist_ok=False)
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    return temporary


def remove_temporary(files: Iterable[Path]) -> None:
    """Remove those of the files that a killed process left of `replacing`; nobody else may be writing there."""
    for path in files:
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an indented JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The run.json of a folder; None where there is none.

    Raises:
        OutputError: the file is not a run.json of this package.
    """
    path = folder / RUN
    try:
        return parse_run(path.read_bytes(), path)
    except FileNotFoundError:
        return None


def parse_run(text: bytes, name: str | Path) -> dict[str, Any]:
    """The content of a run.json, which messages call by a name.

    Raises:
        OutputError: it is none of this package.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):
        run = json.loads(text)
        if isinstance(run["settings"], dict):
            return dict(run)
    raise OutputError(f"{name}: not a run.json of anovl; name another folder")


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder whose run.json records other settings. Changes nothing; no run.json is no objection.

    Raises:
        UsageError: a setting differs; the message names each.
        OutputError: the file is not a run.json of this package.
    """
    if (run := read_run(folder)) is not None:
        check_same(folder, run["settings"], settings)


def check_same(place: str | Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a place with other settings than before.

    Raises:
        UsageError: a setting differs; the message names each.
    """
    if other := differences(before, settings):
        raise UsageError(f"{place}: cannot resume with other settings ({'; '.join(other)}); name another folder")


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two settings, "recipe.layers: was 6, is 1" say, as they stand in a JSON file."""
    now = json.loads(json.dumps(now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{name}: was {before!r}, is {now!r}"]
    keys = sorted({*before, *now})
    return [one for key in keys for one in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)]


def cut_torn_line(path: Path) -> None:
    """Drop a last row that a killed run did not finish, and all from where a power loss left zeros in place of data."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        whole = 0
        for line in stream:
            if not line.endswith(b"\n") or b"\0" in line:
                break
            whole += len(line)
        stream.truncate(whole)


class Journal:
    """A file of JSON lines that grows row by row.

    A row has left the process when `append` returns, so that a kill takes none; it is on disk at the latest with the row
    that comes `SYNC_ROWS` later, or `SYNC_SECONDS` later. A row that does not fit on the disk is taken back whole.

    Args:
        path: is made if needed, and then on disk itself.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream = path.open("ab", buffering=0)
            self.sync()
            sync_folder(path.parent)
        except OSError as exc:
            raise OutputError(f"{path}: cannot be written ({exc.strerror})") from exc
        self._end = self._stream.seek(0, os.SEEK_END)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row.

        Raises:
            OutputError: the disk is full, say; the rows before it are there.
        """
        line = memoryview(json.dumps(row).encode() + b"\n")
        try:
            left = line
            while left:
                left = left[self._stream.write(left) :]
            self._end += len(line)
            self._waiting += 1
            if self._waiting >= SYNC_ROWS or time.monotonic() >= self._synced + SYNC_SECONDS:
                self.sync()
        except OSError as exc:
            with contextlib.suppress(OSError):  # what cannot be cut now is cut by `cut_torn_line`
                self._stream.truncate(self._end)
            raise OutputError(f"{self.path}: cannot be written ({exc.strerror}); what is there so far is whole") from exc

    def sync(self) -> None:
        """Wait until all rows are on disk."""
        os.fsync(self._stream.fileno())
        self._waiting, self._synced = 0, time.monotonic()

    def close(self) -> None:
        """Wait until all rows are on disk where it takes them, and let go of the file."""
        if self._stream.closed:
            return
        with contextlib.suppress(OSError):  # `publish` tells it, or another error came first
            self.sync()
        self._stream.close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is there, for this process alone; the system lets go of it when the process ends, in any way.

    Raises:
        OutputError: another process, or another thread of this one, holds it.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    while True:
        stream = path.open("a+", encoding="utf-8")
        _take(stream, folder)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                break
        stream.close()  # the one who held it before has removed it
    try:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        stream.flush()
        yield
    finally:
        if sys.platform == "win32":
            stream.close()  # a file that is open cannot be removed
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        stream.close()


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Make an output folder where it is missing, and hold it for this process alone; see `locked`.

    Raises:
        OutputError: it cannot be written, or another run is writing there.
    """
    with contextlib.ExitStack() as held:
        try:
            make_folder(folder)
            held.enter_context(locked(folder))
        except OSError as exc:
            if isinstance(exc, OutputError):
                raise
            raise OutputError(f"{folder}: the output folder cannot be written ({exc.strerror or exc})") from exc
        yield


def check_unlocked(folder: Path) -> None:
    """Fail as `locked` would. Changes nothing.

    Raises:
        OutputError: another process holds the folder.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (folder / LOCK).open("r+", encoding="utf-8") as stream:
        _take(stream, folder)


def _take(stream: IO[str], folder: Path) -> None:
    """Lock an open file, or close it and say who holds it."""
    try:
        if sys.platform == "win32":
            stream.seek(_LOCKED_BYTE)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in _NO_LOCKS:
            log.warning("%s: cannot be locked (%s); let no other run write there", folder, exc.strerror)
            return
        with stream:
            stream.seek(0)
            holder = stream.read() or "it has just begun"
        raise OutputError(f"{folder}: another run is writing there ({holder}); wait for its end, or name another folder") from exc
