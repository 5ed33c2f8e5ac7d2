"""An evaluation on a cluster: shards of images to scores, shards of scores to parts of the figures, which add up here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anovl.addresses import is_local
from anovl.cluster.run import Pool, execute, fetch
from anovl.cluster.shards import row, unpack
from anovl.cluster.sources import Remote
from anovl.cluster.stages import Decode
from anovl.data.datasets import Category
from anovl.data.sources import SourceItem
from anovl.engine.local import work_of
from anovl.engine.pipeline import Outcome, Work
from anovl.evaluation import Scored, Variant
from anovl.evaluation.measuring import Part, compare
from anovl.evaluation.scoring import Task


@dataclass(frozen=True, kw_only=True)
class Ray:
    """A cluster that is connected (`anovl.evaluation.Engine`).

    Attributes:
        load: the variants, in a worker; those of `evaluate`, in their order.
        pool: the actors that score.
        shard_size: images that go through the stages together.
    """

    load: Callable[[], Sequence[Variant]]
    pool: Pool
    shard_size: int

    def score(self, tasks: Sequence[Task], *, batch_size: int) -> Generator[Outcome[Scored]]:
        """As the protocol says; tasks share the actors, each of which loads its model once."""
        firsts: dict[str, Task] = {}
        for task in tasks:
            firsts.setdefault(task.variant.name, task)
        processors = {  # all of a variant preprocess alike, whatever it is fitted to
            name: replace(task.variant, shots=None).job(task.category, task.seeds).without_model()
            for name, task in firsts.items()
        }
        rows = [
            row(number, items[start : start + self.shard_size], task=number)
            for number, items in enumerate(list(map(_portable, task.items)) for task in tasks)
            for start in range(0, len(items), self.shard_size)
        ]
        results = execute(
            rows,
            decode=Decode([processors[task.variant.name] for task in tasks]),
            bind=_Bind(self.load, [(task.variant.name, _without_images(task), task.seeds) for task in tasks], batch_size),
            pool=replace(self.pool, batch_size=batch_size),
            ordered=True,
        )
        for shard in results:
            for slot in unpack(shard["data"]):
                if isinstance(slot, Outcome):
                    yield slot
                else:
                    image, scores = slot
                    yield Outcome(image.item, Scored.of(image.item, image.size, scores, image.timings))

    def compare(self, task: Task, scored: Sequence[Scored], size: tuple[int, int] | None) -> Iterator[Part]:
        """As the protocol says; as many shards at once as the cluster has CPUs, and as many more in line."""
        import ray

        remote: Any = ray.remote(num_cpus=1)(compare)
        coming: deque[Any] = deque()
        most = 2 * int(ray.cluster_resources()["CPU"])
        for start in range(0, len(scored), self.shard_size):
            chosen = slice(start, start + self.shard_size)
            if len(coming) == most:
                yield fetch(coming.popleft())
            coming.append(
                remote.remote(
                    replace(task.category, test=task.category.test[chosen], train=()),
                    scored[chosen],
                    recipe=task.variant.recipe,
                    size=size,
                )
            )
        while coming:
            yield fetch(coming.popleft())


def _portable(item: SourceItem) -> SourceItem:
    """The item as the stages read it."""
    return item if is_local(item.image) else replace(item, image=Remote(str(item.image)))


def _without_images(task: Task) -> Category:
    """The category without the images that an actor does not read: all but those that it is fitted to."""
    return replace(task.category, test=(), train=() if task.variant.shots is None else task.category.train)


class _Bind:
    """In an actor: the job of a task.

    Args:
        load: as of `Ray`.
        tasks: name of the variant, category without test images, seeds.
        batch_size: parts of an image a pass.
    """

    def __init__(
        self, load: Callable[[], Sequence[Variant]], tasks: list[tuple[str, Category, tuple[int, ...]]], batch_size: int
    ) -> None:
        self._load, self._tasks, self._batch_size = load, tasks, batch_size
        self._variants: dict[str, Variant] = {}

    def __call__(self, task: int) -> Work[Any, Any, Any]:
        if not self._variants:
            self._variants = {variant.name: variant for variant in self._load()}
        name, category, seeds = self._tasks[task]
        return work_of(self._variants[name].job(category, seeds), self._batch_size)
