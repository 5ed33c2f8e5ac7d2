"""anovl predict --engine ray: the options and the run on a cluster, docs/cluster.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anovl.cli.app import is_quiet
from anovl.cli.binding import Chosen
from anovl.cli.run import ANOMALIES_FOUND, SOME_FAILED, named_source, progress
from anovl.errors import NothingToDoError, UsageError, require_extra, suggest
from anovl.files import RUN
from anovl.profiles import UNCALIBRATED

if TYPE_CHECKING:
    from anovl.data.sources import SourceItem
    from anovl.engine.pipeline import Work
    from anovl.results import Prediction

log = logging.getLogger(__name__)

ENGINES = ("local", "ray")
SHARD_SIZE = 64

Engine = Annotated[str, typer.Option(help="local, or ray: a cluster, any fsspec address; docs/cluster.md.")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster, HOST:PORT or auto; default one of this machine.")]
Actors = Annotated[str, typer.Option(help="Models in the cluster, N or MIN..MAX; each takes a CPU.")]
ActorGpus = Annotated[float, typer.Option(help="GPUs of each, 0.5 for two on one.", min=0)]
ShardSize = Annotated[int, typer.Option(help="Images that are written together.", min=1)]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The options of a cluster; see the annotations above."""

    engine: str
    address: str | None
    actors: str
    actor_gpus: float
    shard_size: int

    def check(self, table: str) -> None:
        """Refuse an unknown engine, what belongs to a cluster without one, and a table that a cluster does not write.

        Raises:
            UsageError: as said.
        """
        if self.engine not in ENGINES:
            raise UsageError(suggest("engine", self.engine, ENGINES))
        self.bounds()
        if self.engine == "local" and (self.address, self.actors, self.actor_gpus, self.shard_size) != (None, "1", 0, SHARD_SIZE):
            raise UsageError("--address, --actors, --actor-gpus and --shard-size: each needs --engine ray")
        if self.engine == "ray" and table != "jsonl":
            raise UsageError(f"--format {table}: --engine ray writes Parquet; leave it out")

    def bounds(self) -> tuple[int, int]:
        """Least and most actors.

        Raises:
            UsageError: not N or MIN..MAX, at least 1.
        """
        ends = self.actors.split("..")
        if len(ends) > 2 or not all(end.isdigit() for end in ends) or not 1 <= int(ends[0]) <= int(ends[-1]):
            raise UsageError(f"--actors: expected N or MIN..MAX, such as 1..4, got {self.actors!r}")
        return int(ends[0]), int(ends[-1])


def predict(
    arguments: list[str],
    output: str,
    *,
    cluster: Cluster,
    chosen: Chosen,
    common: dict[str, Any],
    batch_size: int,
    resume: bool,
    fail_on_anomaly: bool,
    dry_run: bool,
    versions: dict[str, Any],
) -> int:
    """Score a source on a cluster.

    Args:
        output: a folder or an address.
        common: settings of `anovl predict` that run.json records, with "save" and "map_format".
        cluster, chosen, batch_size, resume, fail_on_anomaly, dry_run, versions: the options of that name.

    Returns:
        the exit code.

    Raises:
        AnovlError: as the run does, or the extra is missing.
    """
    if output == "-":
        raise UsageError("--engine ray: needs an output folder or address, -o s3://bucket/run")
    require_extra("ray.data", "ray", "--engine ray")

    from anovl.cluster import run
    from anovl.cluster.stages import Decode, Write
    from anovl.cluster.storage import Folder, is_address

    folder = Folder(output if is_address(output) else str(Path(output).absolute()))
    for address in (output, *arguments):
        if address.startswith("memory://"):
            raise UsageError(f"{address}: lives in one process, and the workers of a cluster are others; name a folder or bucket")
    shards, images = run.shards_of(_items(arguments, folder), cluster.shard_size)
    if not shards:
        raise NothingToDoError(
            f"source: no image in {' '.join(arguments)} (PNG, JPEG, BMP, TIFF, WebP, GIF, PPM, by file suffix)"
        )
    common = {**common, "source": arguments, "images": images}
    chosen = replace(chosen, model=_absolute(chosen.model))
    if dry_run:
        typer.echo(json.dumps({**common, **chosen.plan()}, indent=2))
        return 0
    bound = replace(chosen, device="cpu").bind()  # a GPU is the workers'
    settings = common | bound.settings
    out = run.Output(folder)
    done = out.check(settings, resume=resume)
    smallest, largest = cluster.bounds()
    pool = run.Pool(smallest=smallest, largest=largest, gpus=cluster.actor_gpus, batch_size=batch_size)
    guarantee = UNCALIBRATED if bound.profile is None else bound.profile.guarantee()
    record = {"versions": versions, "device": chosen.device, "settings": settings, "guarantee": guarantee}
    light = _work(bound.job.without_model())
    decode = Decode(light, draws="overlay" in common["save"])
    write = Write(light, folder, common["save"], common["map_format"])
    left = run.left(shards, done)
    summaries = [out.summary(name) for name in sorted(done)]
    begun = bool(done)
    try:
        with run.connected(cluster.address), progress(len(left)) as advance:
            folder.write_json(RUN, record | {"status": "running"})
            begun = True
            for summary in run.execute(left, decode=decode, bind=partial(_bind, chosen), write=write, pool=pool) if left else ():
                advance()
                summaries.append(summary)
                for error in summary["errors"]:
                    log.warning("skipped %s: %s", error["image_path"], error["error"])
    except BaseException:
        if begun:
            typer.echo("anovl: stopped; the same command with --resume goes on with the shards that are left", err=True)
        raise
    counts = out.finish(record, summaries)
    if not is_quiet():
        kept = f", {len(done)} of {len(shards)} shards kept from before" if done else ""
        told = ", ".join(f"{number} {what}" for what, number in counts.items())
        typer.echo(f"anovl: {told}{kept} -> {output}", err=True)
    if counts["failed"]:
        return SOME_FAILED
    return ANOMALIES_FOUND if fail_on_anomaly and counts["anomalous"] else 0


def _items(arguments: list[str], folder: Any) -> Iterator[SourceItem]:
    """Images of all arguments; several are image files, each by its own name."""
    from anovl.cluster.sources import LISTS, items_of
    from anovl.cluster.storage import is_address
    from anovl.render.writers import PICTURES

    if "-" in arguments:
        raise UsageError("source: --engine ray takes no paths on stdin; write them to a .csv with a column image_path")
    exclude = [Path(folder.url, kind) for kind in PICTURES] if folder.local else []
    if len(arguments) == 1:
        return items_of(arguments[0], exclude=exclude)
    for one in arguments:
        if is_address(one) or one.lower().endswith(LISTS):
            raise UsageError(f"source: name one address or list, or image files only; got {one} beside {len(arguments) - 1} more")
    return items_of(named_source(arguments), exclude=exclude)


def _absolute(model: str) -> str:
    """A model that is a file or folder by its absolute name: workers have folders of their own."""
    if model.startswith(prefix := "local-dir:"):
        return f"{prefix}{Path(model.removeprefix(prefix)).absolute()}"
    return str(Path(model).absolute()) if Path(model).is_file() else model


def _bind(chosen: Chosen) -> Work[Any, Any, Prediction]:
    """The model in a worker."""
    return _work(chosen.bind().job)


def _work(job: Any) -> Work[Any, Any, Prediction]:
    from anovl.engine.runtime import ExportedJob

    if isinstance(job, ExportedJob):
        return job
    from anovl.engine.local import Stacked

    return Stacked(job)
