"""A capacity plan for `anovl predict --engine ray`: measured costs of the stages, and from them clusters by simulation.

    python benchmarks/capacity.py costs costs.json
    python benchmarks/capacity.py plan costs.json [--picture "1024 JPEG"] [--assume gpu_seconds=0.001 gets=55000]
    python benchmarks/capacity.py check costs.json [--images 1024]

`costs` measures (`capacity_costs.py`), in some minutes. `plan` simulates 1, 10 and 100 nodes
(`capacity_model.py`); what it assumes beside the costs is in `Site` and `Bucket`, and --assume takes other values of theirs.
`check` runs the real command on this machine, and prints what the simulator says of it once it is under way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from capacity_model import Flow, Step, Use, simulate

NODES = (1, 10, 100)
SHARD = 64  # images, the default of --shard-size
DAY = 86_400
CORES = psutil.cpu_count() or 1  # of this machine
Costs = dict[str, Any]  # what `capacity_costs.measure` gives


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """An object store, assumed.

    Attributes:
        reads: requests an image takes to be read.
        get_seconds, put_seconds: that a request takes beside the transfer.
        gets, puts: requests a second that a prefix serves.
        bandwidth: bytes a second in all.
        get_dollars, put_dollars: of a request.
        at_once: requests that a task has under way; those of a shard's rows and mark go one after another.
    """

    reads: int = 1
    get_seconds: float = 0.03
    put_seconds: float = 0.05
    gets: float = 5500
    puts: float = 3500
    bandwidth: float = 12.5e9
    get_dollars: float = 0.4e-6
    put_dollars: float = 5e-6
    at_once: int = 16


@dataclass(frozen=True, kw_only=True)
class Site:
    """Machines, assumed.

    Attributes:
        nodes: that work; another small one runs the command and Ray's head.
        cores, gpus: of a node.
        gpu_seconds: that an image takes on a GPU.
        task_cpus: that decoding and writing reserve a task.
        network: bytes a second of a node.
        dollars, gpu_dollars, head_dollars: an hour of a node, of each of its GPUs besides, and of the small one.
        bucket: where pictures and results are; None for this machine alone: its disk, the command on its cores, which Ray counts
            twice, once for an actor with a thread each, here as many actors.
    """

    nodes: int = 1
    cores: int = 16
    gpus: int = 0
    gpu_seconds: float = 0.0076
    task_cpus: float = 0.5
    network: float = 1.25e9
    dollars: float = 0.7
    gpu_dollars: float = 0.5
    head_dollars: float = 0.1
    bucket: Bucket | None = Bucket()


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be done: which model, on pictures of which size and format, with overlays or rows alone."""

    model: str = "mini"
    picture: str = "1024 JPEG"
    overlays: bool = False


def steps_of(costs: Costs, load: Load, site: Site) -> list[Step]:
    """The way of a shard: the driver hands it to a decoding task, an actor and a writing task."""
    picture, ray, bucket = costs["pictures"][load.picture], costs["ray"], site.bucket
    shown = SHARD * picture["shown bytes"] if load.overlays else 0.0
    sent = SHARD * costs["input bytes"] + shown
    elsewhere = (site.nodes - 1) / site.nodes / site.network  # seconds a byte, of those that another node made
    ray_task = ray["workers"] / 3
    hop = ray["byte"] / 2  # seconds a byte, at each end

    def stages(*names: str) -> float:
        return float(SHARD * sum(picture[name] for name in names))

    drawing, encode = load.overlays * stages("draw", "png"), 0.0 if site.gpus else SHARD * costs["models"][load.model]
    decode = stages("read", "decode", "resize") + load.overlays * stages("shrink") + ray_task + hop * sent
    score = encode + ray_task + hop * (sent + shown)
    write = stages("map", "row") + drawing + costs["shard"]["cpu"] + ray_task + hop * shown
    reading: tuple[Use, ...] = ()
    writing: tuple[Use, ...] = (Use("", max(0.0, costs["shard"]["disk"] - costs["shard"]["cpu"])),)
    if bucket:
        size, puts = SHARD * picture["file bytes"], 2 + SHARD * load.overlays
        reading = (
            Use("gets", max(SHARD * bucket.reads / bucket.gets, size / bucket.bandwidth)),
            Use("network", size / site.network),
            Use("", SHARD * bucket.reads * bucket.get_seconds / bucket.at_once),
        )
        writing = (
            Use("puts", puts / bucket.puts),
            Use("network", load.overlays * SHARD * picture["png bytes"] / site.network),
            Use("", (2 + load.overlays * SHARD / bucket.at_once) * bucket.put_seconds),
        )
    driver = Step("driver", (Use("" if bucket else "core", ray["driver"] / 3),))
    gpu = (Use("gpu", SHARD * site.gpu_seconds),) if site.gpus else ()
    return [
        driver,
        Step("task", (*reading, Use("core", decode))),
        driver,
        Step("actor", (Use("network", sent * elsewhere), Use("core", score), *gpu)),
        driver,
        Step("task", (Use("network", shown * elsewhere), Use("core", write), *writing)),
    ]


def workers_of(steps: list[Step], site: Site) -> tuple[int, int]:
    """Actors and tasks of a node: two actors a GPU, so that one copies while the other computes; of CPUs what balances both."""

    def tasks(actors: int) -> int:
        return int((site.cores - actors) / site.task_cpus)

    if site.bucket is None:
        return site.cores, tasks(0)
    if site.gpus:
        return 2 * site.gpus, tasks(2 * site.gpus)
    held = {slot: sum(use.seconds for step in steps if step.slot == slot for use in step.uses) for slot in ("task", "actor")}
    best = max(range(1, site.cores), key=lambda count: min(count / held["actor"], tasks(count) / held["task"]))
    return best, tasks(best)


def flow_of(costs: Costs, load: Load, site: Site) -> tuple[Flow, int]:
    """A run at a site, and its actors a node."""
    steps = steps_of(costs, load, site)
    actors, tasks = workers_of(steps, site)
    capacities = {"driver": 1, "gets": 1, "puts": 1, "network": site.nodes, "gpu": max(1, site.nodes * site.gpus)}
    capacities |= {"core": site.nodes * site.cores, "task": site.nodes * tasks, "actor": site.nodes * actors}
    window = 2 * site.nodes * (actors + tasks)
    return simulate(steps, capacities, shards=max(400, 8 * window), window=window), actors


def dollars_per_million(flow: Flow, load: Load, site: Site) -> float:
    """Of images: machines and requests."""
    hours = 1e6 / (SHARD * flow.rate) / 3600
    dollars = hours * (site.nodes * (site.dollars + site.gpus * site.gpu_dollars) + site.head_dollars)
    if site.bucket:
        puts = load.overlays + 2 / SHARD
        dollars += 1e6 * (site.bucket.reads * site.bucket.get_dollars + puts * site.bucket.put_dollars)
    return dollars


def assumed(pairs: list[str]) -> Site:
    """A site with other values of its fields and its bucket's than assumed here, "cores=32" say."""
    values = dict(pair.split("=", 1) for pair in pairs)
    site, bucket = (
        {
            field.name: type(getattr(kind, field.name))(float(values.pop(field.name)))
            for field in fields(kind)
            if field.name in values
        }
        for kind in (Site, Bucket)
    )
    if values:
        sys.exit(f"capacity: --assume knows no {', '.join(values)}")
    return Site(bucket=Bucket(**bucket), **site)


def plan(costs: Costs, picture: str, site: Site) -> None:
    """Print a table of loads and nodes."""
    large = next(name for name in costs["models"] if name != "mini")
    print(f"{picture}, {site}")
    print("| model | saved | nodes | images/s | million a day | $ a million | actors a node | busiest, and what follows |")
    print("|---|---|---|---|---|---|---|---|")
    for model, where in (("mini", site), (large, site), (large, replace(site, gpus=1))):
        for overlays in (False, True):
            load = Load(model=model, picture=picture, overlays=overlays)
            for nodes in NODES:
                here = replace(where, nodes=nodes)
                flow, actors = flow_of(costs, load, here)
                images = SHARD * flow.rate
                cells = [
                    f"{model}, {'GPU' if here.gpus else 'CPU'}",
                    "overlays" if overlays else "rows",
                    str(nodes),
                    f"{images:,.0f}",
                    f"{images * DAY / 1e6:,.1f}",
                    f"{dollars_per_million(flow, load, here):.2f}",
                    str(actors),
                    ", ".join(f"{name} {min(1, flow.busy[name]):.0%}" for name in flow.busiest[:4]),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


@dataclass(frozen=True)
class Measured:
    """A run of the real command: images a second, CPU seconds an image, share of the cores that other programs took."""

    rate: float
    cpu: float
    others: float


def measured(picture: str, save: str, images: int) -> Measured:
    """The command on this machine, from the first quarter of the rows to the last twentieth."""
    from capacity_costs import DISTINCT, picture_file
    from streaming import rate, watch

    side, form = picture.split()
    with TemporaryDirectory() as name:
        source, out = Path(name, "source"), Path(name, "out")
        source.mkdir()
        for index in range(DISTINCT):
            Path(name, f"{index}.{form}").write_bytes(picture_file(index, int(side), form))
        for number in range(images):
            os.link(f"{name}/{number % DISTINCT}.{form}", source / f"{number:06d}.{form}")
        line = ["predict", str(source), "--class-name", "metal nut", "--model", "mini", "--save", save, "--engine", "ray"]
        idle, began = psutil.cpu_times().idle, time.perf_counter()
        samples = watch([sys.executable, "-m", "anovl", "-q", *line, "-o", str(out)], out, "ray")
        capacity = CORES * (time.perf_counter() - began)
        others = (capacity - (psutil.cpu_times().idle - idle) - samples[-1].cpu) / capacity
    speed, cpu = rate(samples, 0.25 * images, 0.95 * images)
    return Measured(speed, cpu / 1000, others)


def check(costs: Costs, images: int) -> None:
    """Print what was predicted and what was measured on this machine."""
    for picture, save in (("256 PNG", "none"), ("1024 JPEG", "none"), ("1024 JPEG", "overlay")):
        load, site = Load(picture=picture, overlays=save == "overlay"), Site(cores=CORES, bucket=None)
        flow = flow_of(costs, load, site)[0]
        cpu = sum(use.seconds for step in steps_of(costs, load, site) for use in step.uses if use.of == "core") / SHARD
        rate, real = SHARD * flow.rate, measured(picture, save, images)
        print(
            f"{picture}, --save {save}, other programs took {real.others:.0%} of the cores\n"
            f"  images/s: predicted {rate:.1f}, measured {real.rate:.1f}, ratio {rate / real.rate:.2f}\n"
            f"  ms of CPU an image: predicted {1000 * cpu:.1f}, measured {1000 * real.cpu:.1f}, ratio {cpu / real.cpu:.2f}\n"
            f"  busy as predicted: {', '.join(f'{name} {flow.busy[name]:.0%}' for name in flow.busiest[:3])}",
            flush=True,
        )


def main() -> None:
    """The commands."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("command", choices=("costs", "plan", "check"))
    options.add_argument("file", type=Path)
    options.add_argument("--picture", default="1024 JPEG", help="of plan: side and format of `costs`")
    options.add_argument("--assume", nargs="+", default=[], metavar="NAME=VALUE", help="of plan: as in `Site` and `Bucket`")
    options.add_argument("--images", type=int, default=1024, help="of check")
    given = options.parse_args()
    if given.command == "costs":
        from capacity_costs import measure

        given.file.write_text(json.dumps(measure(), indent=2) + "\n")
        return
    costs = json.loads(given.file.read_text())
    if given.command == "check":
        check(costs, given.images)
        return
    plan(costs, given.picture, assumed(given.assume))


if __name__ == "__main__":
    main()
