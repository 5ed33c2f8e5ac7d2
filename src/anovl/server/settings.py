"""What a service is run with."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from anovl.engine.artefact import is_exported
from anovl.errors import UsageError, suggest
from anovl.profiles import Origin

BODIES = 4  # largest bodies, and largest maps, that are held in memory at once; more are told to come later
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # of a model


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and pace of a service.

    Attributes:
        class_name: what the images show where a request does not say it.
        batch_size: images a pass of a model.
        max_wait_ms: how long an image waits for others to share its pass.
        queue_size: images that are accepted and not yet answered, over all requests.
        max_bytes: of a request's body.
        max_pixels: of an image, and of all maps that one answer holds.
        max_files: images a request.
        timeout_s: for reading a request and answering it.
        drain_s: after a stop, how long accepted requests may go on.
        workers: threads that decode images and make maps.
        token: what callers must bring; None lets everybody in.

    Raises:
        UsageError: a value that cannot work.
    """

    class_name: str | None = None
    batch_size: int = 8
    max_wait_ms: float = 5.0
    queue_size: int = 64
    max_bytes: int = 64 * 2**20
    max_pixels: int = 40_000_000
    max_files: int = 16
    timeout_s: float = 60.0
    drain_s: float = 7.0
    workers: int = 2
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue_size", "max_bytes", "max_pixels", "max_files", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.max_wait_ms >= 0 or not self.timeout_s > 0 or not self.drain_s >= 0:
            raise UsageError(f"max_wait_ms, timeout_s, drain_s: expected times, got {self}")
        if self.max_files > self.queue_size:
            raise UsageError(
                f"max_files: {self.max_files} would never fit into a queue of {self.queue_size}; make one equal the other"
            )
        if self.token is not None and not (
            self.token and self.token.isascii() and self.token.isprintable() and " " not in self.token
        ):
            raise UsageError("token: expected printable ASCII without spaces; write another to the file")

    def limits(self) -> dict[str, int | float]:
        """What a caller should know."""
        names = ("batch_size", "max_wait_ms", "queue_size", "max_bytes", "max_pixels", "max_files", "timeout_s")
        return {name: getattr(self, name) for name in names}


class _Made(Protocol):
    """What was made of good pictures of a class, and holds for it."""

    @property
    def origin(self) -> Origin:
        """Of what it was made."""


Made = TypeVar("Made", bound=_Made)


def parse_models(texts: list[str]) -> dict[str, str]:
    """{name: model} from "NAME=MODEL", or a model alone, which is called by its own name or that of its file.

    Raises:
        UsageError: none is given, or two have one name.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, model = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            model = text
            name = Path(text).stem if is_exported(text) else Path(text).name
        if not model or not name:
            raise UsageError(f"--model: expected NAME=MODEL or a model, such as 'mini' or 'part=part.onnx', got {text!r}")
        if name in found:
            raise UsageError(f"--model: two are called {name!r}; give one another name, as in 'other={model}'")
        found[name] = model
    if not found:
        raise UsageError("--model: expected at least one, such as 'mini'")
    return found


def parse_files(
    option: str, texts: Sequence[str], models: Collection[str], load: Callable[[str], Made]
) -> dict[str, dict[str, Made]]:
    """{model: {class: what is loaded}} from "NAME=FILE", or a file alone, which is for the first model.

    Raises:
        UsageError: a file is none of its kind, there is no such model, or two are for one class.
    """
    found: dict[str, dict[str, Made]] = {name: {} for name in models}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            name, path = next(iter(models)), text
        if name not in found:
            raise UsageError(suggest(f"{option}: model", name, models))
        made = load(path)
        if made.origin.class_name in found[name]:
            raise UsageError(f"{option}: two for {made.origin.class_name!r} of {name}; leave one out")
        found[name][made.origin.class_name] = made
    return found
