"""A run on Ray Data: which shards are left, the stages, what the whole run did."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from anovl.cluster.stages import DONE, Decode, Row, Score, Write, part, row
from anovl.cluster.storage import Folder
from anovl.data.sources import SourceItem
from anovl.engine.pipeline import Work
from anovl.errors import AnovlError, OutputError, UnavailableError, UsageError, require_extra
from anovl.files import ERRORS, RUN
from anovl.results import Prediction

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
DECODE_MEMORY = 2**28  # bytes that a node keeps free for each; it also keeps Ray from decoding inside the actors


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors that score, a model each.

    Attributes:
        smallest, largest: how many there are; Ray adds and removes them by the load.
        gpus: what each takes of a GPU, 0.5 for two on one; 0 scores on a CPU.
        batch_size: images a pass.
    """

    smallest: int = 1
    largest: int = 1
    gpus: float = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest or self.gpus < 0:
            raise UsageError(f"actors: expected 1 <= MIN <= MAX and GPUs of at least 0, got {self}")


def shards_of(items: Iterable[SourceItem], size: int) -> tuple[list[list[SourceItem]], dict[str, Any]]:
    """Items in shards, and what run.json records of them: a resumed run must have the same."""
    source = iter(items)
    shards = list(iter(lambda: list(itertools.islice(source, size)), []))
    digest = hashlib.sha256()
    for item in itertools.chain.from_iterable(shards):
        digest.update(item.key.encode("utf-8", "surrogateescape") + b"\0")
    count = sum(len(shard) for shard in shards)
    return shards, {"count": count, "sha256": digest.hexdigest(), "shard_size": size}


@dataclass(frozen=True)
class Output:
    """The output folder of a run: run.json, predictions/, done/, errors.jsonl, a folder a kind of picture."""

    folder: Folder

    def check(self, settings: dict[str, Any], *, resume: bool) -> set[str]:
        """Names of the shards that an earlier run wrote, which only `resume` may go on with. Changes nothing.

        Raises:
            UsageError: a run is there and `resume` is off, or it had other settings.
            OutputError: what is there is no run, or cannot be read.
        """
        text = self.folder.read(RUN)
        if text is None:
            return set()
        url = self.folder.url
        if not resume:
            raise UsageError(f"{url} already holds a run ({RUN}): go on with it by --resume, or name another folder")
        try:
            before = dict(json.loads(text)["settings"])
        except (ValueError, KeyError, TypeError) as exc:
            raise OutputError(f"{url}/{RUN}: not a run.json of anovl; name another folder") from exc
        now = json.loads(json.dumps(settings))
        keys = sorted({*before, *now})
        other = [f"{key}: was {before.get(key)!r}, is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]
        if other:
            raise UsageError(f"{url}: cannot resume with other settings ({'; '.join(other)}); name another folder")
        return {name.removesuffix(".json") for name in self.folder.names(DONE)}

    def summary(self, shard: str) -> dict[str, Any]:
        """What a shard's mark says."""
        return dict(json.loads(self.folder.read(f"{DONE}/{shard}.json") or b"{}"))

    def finish(self, record: dict[str, Any], summaries: Iterable[dict[str, Any]]) -> dict[str, int]:
        """Write errors.jsonl and run.json; how many were scored, anomalous, failed."""
        counts = {"scored": 0, "anomalous": 0, "failed": 0}
        lines: list[str] = []
        for one in summaries:
            lines += (json.dumps(error) + "\n" for error in one["errors"])
            counts["scored"] += one["scored"]
            counts["anomalous"] += one["anomalous"]
        counts["failed"] = len(lines)
        if lines:
            self.folder.write(ERRORS, "".join(lines).encode())
        self.folder.write_json(RUN, record | {"status": "done", "counts": counts})
        return counts


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray cluster to run on: the one at the address, or one of this machine's cores for as long as this lasts.

    Raises:
        MissingExtraError: Ray is not installed.
        UnavailableError: no cluster answers there.
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
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=None if address else False,
            )
        except Exception as exc:
            reason = str(exc).strip().partition("\n")[0]
            raise UnavailableError(f"no Ray cluster at {address or 'this machine'} ({reason}); see `ray status`") from exc
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Fail at once where nothing listens: Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def execute(
    shards: Iterable[tuple[int, list[SourceItem]]],
    *,
    decode: Decode,
    bind: Callable[[], Work[Any, Any, Prediction]],
    write: Write,
    pool: Pool,
) -> Iterator[dict[str, Any]]:
    """Run the shards; yields what each gave, as they come. A shard of a lost worker or node is done again.

    Raises:
        AnovlError: of a worker, or that the cluster gave up.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    cores = ray.cluster_resources().get("CPU", 0)
    if cores <= pool.smallest:
        log.warning("%d actors leave none of the cluster's %d CPUs to decode: waiting for it to grow", pool.smallest, cores)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows: list[Row] = [row(number, items) for number, items in shards]
    data = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(decode, num_cpus=1, memory=DECODE_MEMORY)
        .map(
            Score,
            fn_constructor_args=(bind, pool.batch_size),
            compute=ActorPoolStrategy(min_size=pool.smallest, max_size=pool.largest),
            num_cpus=1,
            num_gpus=pool.gpus,
        )
        .map(write, num_cpus=1)
    )
    try:
        for done in data.iter_rows():
            yield json.loads(done["summary"])
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


def left(shards: list[list[SourceItem]], done: set[str]) -> list[tuple[int, list[SourceItem]]]:
    """Shards that are not done, with their numbers."""
    return [(number, items) for number, items in enumerate(shards) if part(number) not in done]
