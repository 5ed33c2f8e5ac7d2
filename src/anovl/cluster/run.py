"""A run on Ray Data: the cluster, the pool of models, the stages that shards go through."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from anovl.cluster.shards import Row, on_tables, table_of
from anovl.cluster.stages import Bind, Decode, Score
from anovl.config import cores
from anovl.errors import AnovlError, UnavailableError, UsageError, require_extra

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

CONNECT_SECONDS = 10
WATCH_SECONDS = 30
STAGE_CPUS = 0.5  # that decoding and writing reserve a task: Ray keeps a share for each, of which one or the other lies idle
DECODE_MEMORY = 2**28  # bytes that a node keeps free for each; it also keeps Ray from decoding inside the actors


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors that score, a model each.

    Attributes:
        smallest, largest: how many there are; Ray adds and removes them by the load.
        cpus: what each takes; torch computes with as many threads.
        gpus: what each takes of a GPU, 0.5 for two on one; 0 scores on a CPU.
        batch_size: images a pass.
    """

    smallest: int = 1
    largest: int = 1
    cpus: int = 1
    gpus: float = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest or self.cpus < 1 or self.gpus < 0:
            raise UsageError(f"actors: expected 1 <= MIN <= MAX, CPUs of at least 1, GPUs of at least 0, got {self}")

    def starves(self, spare: float = STAGE_CPUS) -> str:
        """Why nothing will be done on the cluster as it is; empty where it will.

        Args:
            spare: CPUs that the actors must leave, to decode on; 0 where they decode themselves.
        """
        import ray

        resources = ray.cluster_resources()
        cores, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        if gpus < self.smallest * self.gpus:
            return f"{self.smallest} actors take {self.smallest * self.gpus:g} GPUs, and there are {gpus:g}"
        if cores >= self.smallest * self.cpus + spare:
            return ""
        told = f"leave none of {cores:g} CPUs to decode" if spare else f"take {self.cpus} CPUs each, and there are {cores:g}"
        return f"{self.smallest} actors {told}"


@contextlib.contextmanager
def connected(address: str | None, pool: Pool) -> Iterator[None]:
    """A Ray cluster to run on: the one at the address, or this machine for as long as this lasts.

    This machine decodes on all cores beside the actors, as the local engine does: Ray counts its cores twice.

    Raises:
        MissingExtraError: Ray is not installed.
        UnavailableError: no cluster answers there.
        UsageError: this machine has no such GPUs.
    """
    ray: Any = require_extra("ray", "ray", "--engine ray")
    require_extra("ray.data", "ray", "--engine ray")
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
        try:
            _knock(address)
            ray.init(
                address=address or "local",
                num_cpus=None if address else cores() + pool.largest * pool.cpus,
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=None if address else False,
            )
        except Exception as exc:
            reason = str(exc).strip().partition("\n")[0]
            raise UnavailableError(f"no Ray cluster at {address or 'this machine'} ({reason}); see `ray status`") from exc
    try:
        if address is None and (reason := pool.starves(spare=0)):
            raise UsageError(f"{reason}; take fewer, or name a cluster, --address")
        yield
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def connected_while(address: str | None, pool: Pool, load: Callable[[], Loaded]) -> Iterator[Loaded]:
    """As `connected`; what is loaded in the meantime.

    Raises:
        AnovlError: as `connected`, or as `load` does.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="anovl-load") as loader:
        loading = loader.submit(load)
        with connected(address, pool):
            yield loading.result()


def _knock(address: str | None) -> None:
    """Fail at once where nothing listens: Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def execute(
    rows: Sequence[Row],
    *,
    decode: Decode,
    bind: Bind,
    pool: Pool,
    write: Callable[[Row], Row] | None = None,
    ordered: bool = False,
) -> Generator[Row]:
    """Run shards through the stages; yields what the last one made of each. A shard of a lost worker or node is done again.

    Args:
        rows: one a shard, of items.
        decode: on CPU tasks.
        bind: gives the actors their model.
        pool: the actors.
        write: on CPU tasks; None ends with the scores.
        ordered: results in the order of the shards, not as they come.

    Raises:
        AnovlError: of a worker, or that the cluster gave up.
    """
    if not rows:
        return
    from ray import data
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = ordered
    tables: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    with _watched(pool):
        try:
            stages = (
                data.from_blocks([table_of(shard) for shard in rows])
                .map_batches(on_tables(decode), num_cpus=STAGE_CPUS, memory=DECODE_MEMORY, **tables)
                .map_batches(
                    _Score,
                    fn_constructor_args=(bind, pool.batch_size),
                    compute=ActorPoolStrategy(min_size=pool.smallest, max_size=pool.largest),
                    num_cpus=pool.cpus,
                    num_gpus=pool.gpus,
                    **tables,
                )
            )
            if write is not None:
                stages = stages.map_batches(on_tables(write), num_cpus=STAGE_CPUS, **tables)
            yield from stages.iter_rows()
        except Exception as exc:
            raise _cause(exc) from exc


class _Score:
    """`Score` in an actor, for Ray makes these of a class."""

    def __init__(self, bind: Bind, batch_size: int) -> None:
        self._call = on_tables(Score(bind, batch_size))

    def __call__(self, table: Any) -> Any:
        return self._call(table)


@contextlib.contextmanager
def _watched(pool: Pool) -> Iterator[None]:
    """Tell of a cluster, from the start or after the loss of a node, on which the run can but wait."""
    over = threading.Event()

    def watch() -> None:
        while True:
            if reason := pool.starves():
                log.warning("%s: waiting for the cluster to grow; or stop, and --resume with fewer --actors", reason)
                return
            if over.wait(WATCH_SECONDS):
                return

    thread = threading.Thread(target=watch, name="anovl-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fetch(reference: Any) -> Any:
    """The result of a task of Ray.

    Raises:
        AnovlError: of the worker, or that the cluster gave up.
    """
    import ray

    try:
        return ray.get(reference)
    except Exception as exc:
        raise _cause(exc) from exc


def _cause(error: BaseException) -> AnovlError:
    """What a worker raised, out of what Ray wraps around it."""
    inner: BaseException | None = error
    while inner is not None:
        for one in (inner, getattr(inner, "cause", None)):
            if isinstance(one, AnovlError):
                return one
        inner = inner.__cause__ or getattr(inner, "cause", None)
    return AnovlError(f"the cluster gave up: {str(error).strip().splitlines()[-1][:300]}")
