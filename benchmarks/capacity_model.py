"""Shards on their way through a cluster, simulated: where they wait, how many are done a second, what is busy.

Times are constants and the queues first come, first served, so that a run is the same each time. Machines of a kind are one pool:
work finds a free one wherever it is. `capacity.py` says what a shard's steps take.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from simpy.resources.resource import Request

WARM_UP = 0.2  # of the shards, before and after those that are counted


@dataclass(frozen=True)
class Use:
    """A time that a step takes.

    Attributes:
        of: the resource it needs meanwhile, and waits for; empty for a wait that needs none, such as a latency.
        seconds: how long.
    """

    of: str
    seconds: float


@dataclass(frozen=True)
class Step:
    """What happens to a shard in one place.

    Attributes:
        slot: the resource that it holds from the first use to the last, a Ray worker say.
        uses: one after another.
    """

    slot: str
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class Flow:
    """A run, once it was under way.

    Attributes:
        rate: shards a second, the slope through the ends of those counted.
        in_flight: shards that were begun and not done, mean over time.
        seconds: of a shard, from its begin to its end, mean.
        busy: of each resource the share of its capacity that was in use.
    """

    rate: float
    in_flight: float
    seconds: float
    busy: dict[str, float]

    @property
    def busiest(self) -> list[str]:
        """Resources, the busiest first; of those that are equal to a percent the one that was named first."""
        return sorted(self.busy, key=lambda name: -round(self.busy[name], 2))


class _Cluster:
    """Resources, and how long each was in use."""

    def __init__(self, capacities: Mapping[str, int]) -> None:
        self.clock = simpy.Environment()
        self.pools = {name: simpy.Resource(self.clock, capacity) for name, capacity in capacities.items()}
        self.used = dict.fromkeys(capacities, 0.0)
        self.spans: list[tuple[float, float]] = []  # of each shard that is done, in the order of their ends
        self.snapshots: list[dict[str, float]] = []  # `used` at those ends

    def shard(self, steps: Sequence[Step], ticket: Request) -> Generator[Any, Any, None]:
        """One shard's way; at its end it gives back the ticket."""
        began = self.clock.now
        for step in steps:
            with self.pools[step.slot].request() as slot:
                yield slot
                entered = self.clock.now
                for use in step.uses:
                    yield from self._use(use)
                self.used[step.slot] += self.clock.now - entered
        self.spans.append((began, self.clock.now))
        self.snapshots.append(dict(self.used))
        ticket.resource.release(ticket)

    def _use(self, use: Use) -> Generator[Any, Any, None]:
        if not use.of:
            yield self.clock.timeout(use.seconds)
            return
        with self.pools[use.of].request() as turn:
            yield turn
            yield self.clock.timeout(use.seconds)
            self.used[use.of] += use.seconds

    def feed(self, steps: Sequence[Step], shards: int, window: int) -> Generator[Any, Any, None]:
        """Begin the shards, never more than `window` at once."""
        tickets = simpy.Resource(self.clock, window)
        for _ in range(shards):
            ticket = tickets.request()
            yield ticket
            self.clock.process(self.shard(steps, ticket))


def simulate(steps: Sequence[Step], capacities: Mapping[str, int], *, shards: int, window: int) -> Flow:
    """Let shards go through the steps of a cluster.

    Args:
        steps: of every shard, in order.
        capacities: of each resource that a step names, how many may use it at once; slots last, so that what a full slot waits
            for is told as the busiest.
        shards: how many; the first and the last fifth are not counted.
        window: shards that are begun and not done, at most, as Ray's back-pressure holds them.

    Raises:
        ValueError: too few shards to count any.
    """
    first, last = round(WARM_UP * shards), round((1 - WARM_UP) * shards) - 1
    if last <= first:
        raise ValueError(f"shards: expected at least 4, got {shards}")
    cluster = _Cluster(capacities)
    cluster.clock.process(cluster.feed(steps, shards, window))
    cluster.clock.run()
    start, end = cluster.spans[first][1], cluster.spans[last][1]
    length = end - start
    counted = cluster.spans[first + 1 : last + 1]
    present = sum(max(0.0, min(done, end) - max(began, start)) for began, done in cluster.spans)
    return Flow(
        rate=float(np.polyfit([done for _, done in counted], range(len(counted)), 1)[0]),  # ends come in waves
        in_flight=present / length,
        seconds=sum(done - began for began, done in counted) / len(counted),
        busy={
            name: (cluster.snapshots[last][name] - cluster.snapshots[first][name]) / (length * capacity)
            for name, capacity in capacities.items()
        },
    )
