"""anovl predict --engine ray: the options and the run on a cluster, docs/cluster.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anovl.cli import options
from anovl.cli.app import is_quiet
from anovl.cli.binding import Chosen
from anovl.cli.run import ANOMALIES_FOUND, SOME_FAILED, named_source, progress, resumable
from anovl.config import cores
from anovl.errors import NothingToDoError, UsageError, require_extra, suggest
from anovl.files import RUN

if TYPE_CHECKING:
    from anovl.cli.evaluate import Compared
    from anovl.cluster.run import Pool
    from anovl.data.sources import SourceItem
    from anovl.engine.pipeline import Work
    from anovl.evaluation import Engine as EvaluationEngine
    from anovl.evaluation import Variant
    from anovl.results import Prediction

log = logging.getLogger(__name__)

ENGINES = ("local", "ray")
SHARD_SIZE = 64

Engine = Annotated[str, typer.Option(help="local, or ray: a cluster, any fsspec address; docs/cluster.md.")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster, HOST:PORT or auto; default one of this machine.")]
Actors = Annotated[str, typer.Option(help="Models in the cluster, N or MIN..MAX; each takes --threads CPUs, default one.")]
ActorGpus = Annotated[float, typer.Option(help="GPUs of each, 0.5 for two on one.", min=0)]
ShardSize = Annotated[int, typer.Option(help="Images that are written together.", min=1)]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The options of a cluster; see the annotations above."""

    engine: str
    address: str | None
    actors: str
    actor_gpus: float
    shard_size: int = SHARD_SIZE

    def check(self, device: str) -> None:
        """Refuse an unknown engine, what belongs to a cluster without one, and a --device of several on a cluster.

        Raises:
            UsageError: as said.
        """
        if self.engine not in ENGINES:
            raise UsageError(suggest("engine", self.engine, ENGINES))
        largest = self.bounds()[1]
        given = {
            "--address": self.address is not None,
            "--actors": self.actors != "1",
            "--actor-gpus": self.actor_gpus != 0,
            "--shard-size": self.shard_size != SHARD_SIZE,
        }
        if self.engine == "local" and (names := [name for name, chosen in given.items() if chosen]):
            raise UsageError(f"{', '.join(names)}: needs --engine ray")
        if self.engine == "ray":
            require_extra("ray.data", "ray", "--engine ray")
            if options.is_several(device):
                raise UsageError(f"--device {device}: with --engine ray each model has one device; --actors says how many models")
            if self.address is None and largest > cores():
                machine = f"at most {cores()} on this machine's cores"
                raise UsageError(f"--actors: {machine}, got {self.actors}; or name a cluster, --address")

    def bounds(self) -> tuple[int, int]:
        """Least and most actors.

        Raises:
            UsageError: not N or MIN..MAX, at least 1.
        """
        ends = self.actors.split("..")
        if len(ends) > 2 or not all(end.isdigit() for end in ends) or not 1 <= int(ends[0]) <= int(ends[-1]):
            raise UsageError(f"--actors: expected N or MIN..MAX, such as 1..4, got {self.actors!r}")
        return int(ends[0]), int(ends[-1])

    def pool(self, *, batch_size: int = 1, threads: int | None = None) -> Pool:
        """The actors; without `threads` those of this machine share its cores, and each on a cluster takes one."""
        from anovl.cluster.run import Pool

        smallest, largest = self.bounds()
        cpus = threads or (1 if self.address or self.actor_gpus else max(1, cores() // largest))
        return Pool(smallest=smallest, largest=largest, cpus=cpus, gpus=self.actor_gpus, batch_size=batch_size)

    @contextmanager
    def evaluating(self, compared: Compared, *, workers: int) -> Iterator[tuple[Sequence[Variant], EvaluationEngine]]:
        """The variants, and where they are evaluated.

        Raises:
            AnovlError: as `Compared.load`, or there is no cluster.
        """
        from anovl.evaluation import Local

        if self.engine == "local":
            yield compared.load(), Local(workers)
            return
        from anovl.cluster.evaluating import Ray
        from anovl.cluster.run import connected_while

        compared = replace(compared, model=absolute(compared.model))
        pool = self.pool()
        with connected_while(self.address, pool, replace(compared, device="cpu").load) as variants:  # a GPU is the workers'
            yield variants, Ray(load=compared.load, pool=pool, shard_size=self.shard_size)


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
    from anovl.addresses import is_address
    from anovl.cluster import run
    from anovl.cluster.output import Output, left, shards_of
    from anovl.cluster.stages import Decode, Write
    from anovl.cluster.storage import Folder

    folder = Folder(output if is_address(output) else str(Path(output).absolute()))
    check_seen(output, *arguments)
    rows, images = shards_of(_items(arguments, folder), cluster.shard_size)
    if not rows:
        raise NothingToDoError(
            f"source: no image in {' '.join(arguments)} (PNG, JPEG, BMP, TIFF, WebP, GIF, PPM, by file suffix)"
        )
    common = {**common, "source": arguments, "images": images}
    chosen = replace(chosen, model=absolute(chosen.model))
    if dry_run:
        typer.echo(json.dumps({**common, **chosen.plan()}, indent=2))
        return 0
    pool = cluster.pool(batch_size=batch_size, threads=chosen.threads)
    with run.connected_while(cluster.address, pool, replace(chosen, device="cpu").bind) as bound:  # a GPU is the workers'
        out = Output(folder)
        settings = common | bound.settings
        done = out.check(settings, resume=resume)
        record = {"versions": versions, "device": chosen.device, "settings": settings, "guarantee": bound.guarantee}
        processor = bound.job.without_model()
        decode = Decode([processor], draws="overlay" in common["save"], max_bytes=chosen.max_bytes)
        write = Write(processor, folder, common["save"], common["map_format"])
        todo, summaries = left(rows, done), list(done.values())
        with folder.held(), resumable(lambda: folder.read(RUN) is not None), progress(len(todo)) as advance:
            folder.write_json(RUN, record | {"status": "running"})
            results = run.execute(todo, decode=decode, bind=partial(_bind, chosen, batch_size), write=write, pool=pool)
            for one in results:
                advance()
                summaries.append(json.loads(one["summary"]))
                for error in summaries[-1]["errors"]:
                    log.warning("skipped %s: %s", error["image_path"], error["error"])
            counts = out.finish(record, summaries)
    if not is_quiet():
        kept = f", {len(done)} of {len(rows)} shards kept from before" if done else ""
        told = ", ".join(f"{number} {what}" for what, number in counts.items())
        typer.echo(f"anovl: {told}{kept} -> {output}", err=True)
    if counts["failed"]:
        return SOME_FAILED
    return ANOMALIES_FOUND if fail_on_anomaly and counts["anomalous"] else 0


def _items(arguments: list[str], folder: Any) -> Iterator[SourceItem]:
    """Images of all arguments; several are image files, each by its own name."""
    from anovl.addresses import is_address
    from anovl.cluster.sources import LISTS, items_of
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


def check_seen(*addresses: str) -> None:
    """Refuse addresses that only this process sees.

    Raises:
        UsageError: memory://.
    """
    for address in addresses:
        if address.startswith("memory://"):
            raise UsageError(f"{address}: lives in one process, and the workers of a cluster are others; name a folder or bucket")


def absolute(model: str) -> str:
    """A model that is a file or folder by its absolute name: workers have folders of their own."""
    if model.startswith(prefix := "local-dir:"):
        return f"{prefix}{Path(model.removeprefix(prefix)).absolute()}"
    return str(Path(model).absolute()) if Path(model).is_file() else model


def _bind(chosen: Chosen, batch_size: int, task: int) -> Work[Any, Any, Prediction]:
    """The model in a worker; there is one task."""
    del task
    from anovl.engine.runtime import ExportedJob

    job = chosen.bind().job
    if isinstance(job, ExportedJob):
        return job
    from anovl.engine.local import work_of

    return work_of(job, batch_size)
