"""fsspec addresses: s3://, gs://, abfs://, hf://, ..."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from anovl.errors import AnovlError, MissingExtraError, UsageError, require_extra, suggest

AT_ONCE = 16  # requests of a task that are under way


def is_address(text: str) -> bool:
    """True for what names its file system, such as "s3://bucket/folder"."""
    return "://" in text


def file_system(url: str) -> tuple[Any, str]:
    """The file system of an address and the path in it; a path of this machine is one of its own.

    Raises:
        UsageError: an unknown scheme, or an address that it does not know.
        MissingExtraError: the scheme's package is not installed.
    """
    require_extra("fsspec", "ray", "an address")
    import fsspec
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0] if is_address(url) else "file"
    known = fsspec.available_protocols()
    if scheme not in known:
        raise UsageError(f"{url}: {suggest('scheme', scheme, known)}")
    try:
        found, path = url_to_fs(url, **_options(scheme))
    except ImportError as exc:
        raise MissingExtraError(f"{url}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{url}: not an address ({exc})") from exc
    return found, path


def _options(scheme: str) -> dict[str, Any]:
    """What a file system is opened with, beside the user's fsspec settings."""
    from fsspec.config import conf

    if scheme not in ("s3", "s3a"):
        return {}
    return {"config_kwargs": {"max_pool_connections": AT_ONCE, **conf.get("s3", {}).get("config_kwargs", {})}}  # botocore's 10


def path_of(name: str | Path) -> Path:
    """A path; of an address one of its file system, which reads and lists like a path of this machine.

    Raises:
        UsageError, MissingExtraError: as `file_system`.
    """
    if not isinstance(name, str) or not is_address(name):
        return Path(name) if isinstance(name, str) else name
    require_extra("upath", "ray", "an address")
    from upath import UPath

    file_system(name)
    return cast("Path", UPath(name, **_options(name.partition("://")[0])))


def is_local(path: object) -> bool:
    """True for a path of this machine, False for one of another file system, as `path_of` gives them."""
    return isinstance(path, Path)


@contextlib.contextmanager
def explained(url: str, error: type[AnovlError]) -> Iterator[None]:
    """Turn what a file system raises into one line about the address."""
    try:
        yield
    except AnovlError:
        raise
    except FileNotFoundError as exc:
        raise error(f"{url}: no such file, folder or bucket") from exc
    except Exception as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise error(f"{url}: cannot be reached ({reason[:200]})") from exc
