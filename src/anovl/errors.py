"""Every error a user can cause, each with the exit code the command line ends with."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import ClassVar


class AnovlError(Exception):
    """Base of all errors of this package; its message says what was expected, what came, what to do.

    Attributes:
        exit_code: 1 failure; 2 usage; 3 some inputs failed; 5 missing extra or model not available offline.
    """

    exit_code: ClassVar[int] = 1


class UsageError(AnovlError, ValueError):
    """An argument, setting or combination of them is not valid."""

    exit_code: ClassVar[int] = 2


class NothingToDoError(UsageError):
    """The source holds no image."""


class UnavailableError(AnovlError):
    """A model or an optional package is needed and is not on this machine."""

    exit_code: ClassVar[int] = 5


class MissingExtraError(UnavailableError, ImportError):
    """An optional dependency is not installed."""


class CheckpointError(AnovlError):
    """A checkpoint was found and cannot be used: wrong checksum, format or architecture."""


class OutputError(AnovlError, OSError):
    """An output file or folder could not be written."""


class OutOfMemoryError(AnovlError, MemoryError):
    """One image alone does not fit into memory."""


class ImageError(AnovlError):
    """One image cannot be used.

    Attributes:
        path: what the user called the image (a path, or a description such as "bytes").
        reason: why, without the path.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class ImageNotFoundError(ImageError, FileNotFoundError):
    """The image file does not exist or cannot be read (permissions, vanished, a folder)."""


class ImageDecodeError(ImageError, ValueError):
    """The bytes, array or tensor is not an image this package understands."""


class ImageTooLargeError(ImageError, ValueError):
    """The image is over a limit on pixels or bytes."""


def suggest(kind: str, given: str, valid: Iterable[str], hint: str = "") -> str:
    """Sentence for an unknown name: the nearest valid names first, all of them where they are few.

    Args:
        kind: what the name is of, such as "recipe".
        given: the name that came.
        valid: the names that would do.
        hint: a sentence to end with.

    Returns:
        "unknown KIND 'GIVEN'; did you mean ...?" with the list of valid names where there are at most 12.
    """
    names = sorted(set(valid))
    lower = {name.lower(): name for name in names}
    near = [lower[n] for n in difflib.get_close_matches(given.lower(), list(lower), n=5, cutoff=0.6)]
    parts = [f"unknown {kind} {given!r}"]
    if near:
        parts.append("did you mean " + ", ".join(repr(n) for n in near) + "?")
    if len(names) <= 12:
        parts.append("valid: " + ", ".join(names))
    if hint:
        parts.append(hint)
    return "; ".join(parts)


def require_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtraError(f"{purpose} needs {module}, which is not installed: pip install 'anovl[{extra}]'") from exc
