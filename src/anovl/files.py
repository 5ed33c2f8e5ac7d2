"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from anovl.errors import AnovlError, OutputError

TEMPORARY_PREFIX = ".anovl-"
ROWS, ERRORS, RUN = "predictions.jsonl", "errors.jsonl", "run.json"  # in a run's output folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed, else removed.

    The temporary name keeps the suffix, so that encoders that go by it work.

    Raises:
        OutputError: the folder or the file cannot be written (permissions, disk full, a file in the way).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{path.suffix}"
        temporary.touch(exist_ok=False)
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
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
