"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anovl.errors import AnovlError, OutputError, UsageError

TEMPORARY_PREFIX = ".anovl-"
ROWS, ERRORS, RUN = "predictions.jsonl", "errors.jsonl", "run.json"  # in a run's output folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed, else removed.

    The temporary name keeps the suffix, so that encoders that go by it work.

    Raises:
        OutputError: the folder or the file cannot be written (permissions, disk full, a file in the way).
    """
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except AnovlError:
        raise
    except OSError as exc:
        reason = exc.strerror or f"{exc}; is the disk full?"  # numpy reports a short write without an errno
        raise OutputError(f"{path}: cannot be written ({reason})") from exc
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Fail as `replacing` would before there is anything to write. Leaves nothing behind but the folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    _temporary(path).unlink()


def _temporary(path: Path) -> Path:
    """An empty file beside a path, in its folder, which is made if needed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{path.suffix}"
        temporary.touch(exist_ok=False)
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    return temporary


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an indented JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder whose run.json records other settings. Changes nothing; no run.json is no objection.

    Raises:
        UsageError: a setting differs; the message names each.
        OutputError: the file is not a run.json of this package.
    """
    path = folder / RUN
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        keys = sorted({*before.keys(), *settings})
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OutputError(f"{path}: not a run.json of anovl; name another folder") from exc
    now = json.loads(json.dumps(settings))
    other = [f"{key}: was {before.get(key)!r}, is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]
    if other:
        raise UsageError(f"{folder}: cannot resume with other settings ({'; '.join(other)}); name another folder")


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last newline: a row that a killed run began and did not finish."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        stream.truncate(end)
