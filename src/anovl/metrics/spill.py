"""Arrays in a file that has no name, so that nothing is left behind however the process ends."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anovl.errors import OutputError
from anovl.metrics.steps import Array


class SpillFile:
    """One temporary file for any number of arrays, made when the first one comes.

    The system removes it with the last process that holds it. A pickle of it carries its content.

    Args:
        folder: where; None for the system's own folder for temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: Any = None
        self._size = 0

    def append(self, array: Array) -> SpilledArray:
        """Write a one-dimensional array that is not empty.

        Raises:
            OutputError: no file can be made in the folder, or there is no room for it.
        """
        try:
            if self._file is None:
                # No buffer: one that cannot be written would stand in the way of reading what has been.
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - open while its arrays live
                weakref.finalize(self, self._file.close)
            self._file.seek(self._size)
            rest = array.data.cast("B")
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as exc:
            where = self._folder or tempfile.gettempdir()
            raise OutputError(f"{where}: cannot take {array.nbytes} more bytes, free some or name another folder: {exc}") from exc
        start, self._size = self._size, self._size + array.nbytes
        return SpilledArray(self, start, array.size, array.dtype)

    def fill(self, array: Array, start: int) -> None:
        """Read an array that is not empty from a place in bytes."""
        self._file.seek(start)
        rest = array.data.cast("B")
        while rest:
            rest = rest[self._file.readinto(rest) :]

    def __getstate__(self) -> tuple[Path | None, Array]:
        content = np.empty(self._size, np.uint8)
        if self._size:
            self.fill(content, 0)
        return self._folder, content

    def __setstate__(self, state: tuple[Path | None, Array]) -> None:
        self._folder, content = state
        self._file, self._size = None, 0
        if content.size:
            self.append(content)


@dataclass(frozen=True)
class SpilledArray:
    """A one-dimensional array in a file: an element is read, a slice is another of these, `np.asarray` reads it all."""

    file: SpillFile
    start: int
    size: int
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | slice) -> Any:
        if not isinstance(key, slice):
            place = range(self.size)[key]
            return np.asarray(self[place : place + 1])[0]
        first, last, _ = key.indices(self.size)
        return SpilledArray(self.file, self.start + first * self.dtype.itemsize, max(0, last - first), self.dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:  # noqa: FBT001 - numpy's protocol
        array = np.empty(self.size, self.dtype)
        if self.size:
            self.file.fill(array, self.start)
        return array if dtype is None else array.astype(dtype, copy=False)
