"""What Prometheus reads of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as MEDIA_TYPE
from prometheus_client.parser import text_string_to_metric_families

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


class _Merged:
    """Expositions of several services as one, where each sample has a label with its service's name."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._families: dict[str, Metric] = {}
        for name, text in texts.items():
            for family in text_string_to_metric_families(text.decode()):
                found = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    found.add_sample(sample.name, {**sample.labels, "replica": name}, sample.value)

    def collect(self) -> Iterable[Metric]:
        """As a registry does."""
        return self._families.values()


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Expositions as one.

    Args:
        texts: of each replica by its name, which becomes the label "replica".
    """
    return generate_latest(_Merged(texts))


__all__ = ["MEDIA_TYPE", "Metrics", "merged"]
