"""What a service is run with."""

from __future__ import annotations

from dataclasses import dataclass, field

from anovl.errors import UsageError

BODIES = 4  # largest bodies, and largest maps, that are held in memory at once; more are told to come later


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
