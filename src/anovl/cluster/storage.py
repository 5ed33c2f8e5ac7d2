"""Files at any fsspec address: a folder of this machine, s3://, gs://, abfs://, hf://, ..."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anovl.addresses import AT_ONCE, explained, file_system, is_address
from anovl.errors import OutputError
from anovl.files import held_folder, replacing


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

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[str, bytes], None]]:
        """A `write` that does not wait for files at an address: `AT_ONCE` are under way. After the block all are written.

        Raises:
            OutputError: as `write`, of this file or one before it.
        """
        if self.local:
            yield self.write
            return
        coming: deque[Future[None]] = deque()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="anovl-write") as pool:

            def write(name: str, data: bytes) -> None:
                if len(coming) == AT_ONCE:
                    coming.popleft().result()
                coming.append(pool.submit(self.write, name, data))

            yield write
            while coming:
                coming.popleft().result()

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
