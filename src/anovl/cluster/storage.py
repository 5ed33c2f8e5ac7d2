"""Files at any fsspec address: a folder of this machine, s3://, gs://, abfs://, hf://, ..."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anovl.errors import AnovlError, MissingExtraError, OutputError, UsageError, require_extra, suggest
from anovl.files import held_folder, replacing

AT_ONCE = 16  # requests of a task that are under way


def is_address(text: str) -> bool:
    """True for what names its file system, such as "s3://bucket/folder"."""
    return "://" in text


def file_system(url: str) -> tuple[Any, str]:
    """The file system of an address and the path in it; a path of this machine is one of its own.

    Raises:
        UsageError: an unknown scheme, or memory://, which no other process sees.
        MissingExtraError: the scheme's package is not installed.
    """
    require_extra("fsspec", "ray", "an address")
    import fsspec
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0] if is_address(url) else "file"
    known = fsspec.available_protocols()
    if scheme not in known:
        raise UsageError(f"{url}: {suggest('scheme', scheme, known)}")
    more: dict[str, Any] = {}
    if scheme in ("s3", "s3a"):  # botocore's pool holds 10
        more = {"config_kwargs": {"max_pool_connections": AT_ONCE, **conf.get("s3", {}).get("config_kwargs", {})}}
    try:
        found, path = url_to_fs(url, **more)
    except ImportError as exc:
        raise MissingExtraError(f"{url}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{url}: not an address ({exc})") from exc
    return found, path


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


@dataclass(frozen=True)
class Folder:
    """An output folder; files in it appear whole or not at all, on object stores because these know no half file.

    Attributes:
        url: a path of this machine or an address.
    """

    url: str

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of a folder of this machine; an object store knows no lock.

        Raises:
            OutputError: another run is in it, or it cannot be written.
        """
        if not self.local:
            yield
            return
        with held_folder(Path(file_system(self.url)[1])):
            yield

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one that is there.

        Raises:
            OutputError: it cannot be written.
        """
        system, root = file_system(self.url)
        if self.local:
            with replacing(Path(root) / name) as temporary:
                temporary.write_bytes(data)
            return
        with explained(f"{self.url}/{name}", OutputError):
            system.pipe_file(f"{root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none.

        Raises:
            OutputError: it cannot be reached.
        """
        system, root = file_system(self.url)
        with explained(self.url, OutputError):
            try:
                return bytes(system.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

    def read_all(self, folder: str) -> dict[str, bytes]:
        """Content of the files in a subfolder by their names; none where it does not exist.

        Raises:
            OutputError: it cannot be reached.
        """
        system, root = file_system(self.url)
        system.invalidate_cache()
        with explained(self.url, OutputError):
            try:
                paths = system.ls(f"{root}/{folder}", detail=False)
            except FileNotFoundError:
                return {}
            return {PurePosixPath(path).name: bytes(data) for path, data in (system.cat(paths) if paths else {}).items()}

    def remove(self, name: str) -> None:
        """Remove a file, if there is one.

        Raises:
            OutputError: it cannot be removed.
        """
        system, root = file_system(self.url)
        with explained(f"{self.url}/{name}", OutputError), contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{root}/{name}")

    def write_json(self, name: str, value: Any) -> None:
        """Write an indented JSON file."""
        self.write(name, (json.dumps(value, indent=2) + "\n").encode())

    @property
    def local(self) -> bool:
        """True for a folder of this machine."""
        return not is_address(self.url) or self.url.startswith(("file://", "local://"))
