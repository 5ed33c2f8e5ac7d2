"""What Prometheus reads of a service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as MEDIA_TYPE

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service, in a registry of its own.

    Args:
        queue: tells how many images are accepted and not yet answered.
    """

    def __init__(self, queue: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("anovl_requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self._seconds = Histogram(
            "anovl_request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._images = Counter("anovl_images", "Images scored and answered.", registry=self.registry)
        self._batches = Histogram("anovl_batch_images", "Images of a pass.", ["model"], buckets=_SIZES, registry=self.registry)
        Gauge("anovl_queue_images", "Images accepted and not yet answered.", registry=self.registry).set_function(queue)

    def answered(self, path: str, status: int, seconds: float, images: int) -> None:
        """Count a request."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)
        if status < 400:
            self._images.inc(images)

    def batches_of(self, model: str) -> Callable[[int], object]:
        """What counts the batches of a model."""
        return self._batches.labels(model).observe

    def text(self) -> bytes:
        """The exposition, of `MEDIA_TYPE`."""
        return generate_latest(self.registry)


__all__ = ["MEDIA_TYPE", "Metrics"]
