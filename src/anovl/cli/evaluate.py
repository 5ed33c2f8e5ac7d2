"""anovl evaluate: a data set, one or several methods, figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anovl.addresses import is_address
from anovl.cli import cluster, options
from anovl.cli.app import is_quiet
from anovl.cli.info import versions
from anovl.cli.run import parse_size, progress, resumable
from anovl.config import DEFAULT_MODEL, Mutual, Tiling
from anovl.errors import UsageError
from anovl.files import RUN

if TYPE_CHECKING:
    from anovl.evaluation import Evaluation, Variant

ADAPTED = "+tta"  # after a method's name


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The options that choose what is compared.

    Attributes:
        rows: (method, adapts) of each.
        shots: good pictures that each is fitted to.
        shot_seed: of their draw.
        batched: let the images of a category score each other.
    """

    rows: list[tuple[str, bool]]
    shots: int | None
    shot_seed: int
    batched: bool
    model: str
    arch: str | None
    recipe: str | None
    device: str
    dtype: str
    image_size: tuple[int, int] | None
    offline: bool
    cache_dir: Path | None
    tiling: Tiling | None

    @property
    def addition(self) -> str:
        """What a row's name ends with."""
        return "+batched" if self.batched else "" if self.shots is None else f"+{self.shots}shot"

    def load(self) -> list[Variant]:
        """The variants, which share a backbone.

        Raises:
            AnovlError: as `AnoVL.from_pretrained`.
        """
        from anovl.detector import AnoVL
        from anovl.evaluation import Variant

        first = AnoVL.from_pretrained(
            self.model,
            arch=self.arch,
            recipe=self.recipe,
            method=self.rows[0][0],
            device=self.device,
            dtype=self.dtype,
            image_size=self.image_size,
            local_files_only=self.offline,
            cache_dir=self.cache_dir,
        )
        first = first.with_recipe(first.recipe.having(tiling=self.tiling))
        return [
            Variant(
                name=name + (ADAPTED if adapts else "") + self.addition,
                detector=first.with_method(name),
                adapt=adapts,
                shots=self.shots,
                shot_seed=self.shot_seed,
                batched=Mutual() if self.batched else None,
            )
            for name, adapts in self.rows
        ]


def evaluate(
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="mvtec, visa, ..., folder or manifest; --list shows all.")
    ] = None,
    root: Annotated[
        str | None, typer.Argument(metavar="ROOT", help="Its folder, or the manifest file; or the address of either, s3://...")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.json, report.html and the scores.")] = Path(
        "evaluation"
    ),
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeat to compare; NAME+tta adapts at test time. Default anovl.", allow_from_autoenv=False),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Only this category; repeat for more.", allow_from_autoenv=False)
    ] = None,
    class_name: Annotated[str | None, typer.Option(help="What a plain folder shows, if not what it is called.")] = None,
    resolution: Annotated[
        str, typer.Option(help="input: compare at the model's size, as the papers do; original: at each image's own.")
    ] = "input",
    adapt: Annotated[bool, typer.Option("--adapt", help="Adapt at test time, every method that can.")] = False,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Of the adaptation, default 0; repeat for mean and spread.", allow_from_autoenv=False),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="Fit each category to so many of its good training pictures, 1 to 64.", min=1, max=64)
    ] = None,
    shot_seed: Annotated[int, typer.Option(help="Of the draw of these pictures.", min=0)] = 0,
    batched: Annotated[
        bool, typer.Option("--batched", help="Let the images of a category score each other too, as in `anovl predict`.")
    ] = False,
    tile: options.Tiles = None,
    tile_overlap: options.TileOverlap = None,
    crop: options.Cropping = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images a category, half of them good.", min=1)] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples for 95 % intervals; 0 leaves them out.", min=0)] = 0,
    model: Annotated[str, typer.Option(help="As in `anovl predict`.")] = DEFAULT_MODEL,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    resume: options.Resume = False,
    engine: cluster.Engine = "local",
    address: cluster.Address = None,
    actors: cluster.Actors = "1",
    actor_gpus: cluster.ActorGpus = 0,
    shard_size: cluster.ShardSize = cluster.SHARD_SIZE,
    list_datasets: Annotated[bool, typer.Option("--list", help="Show the data sets, their licences and addresses.")] = False,
    config: options.Config = None,
) -> None:
    """Measure methods on a data set: a table on stdout; report.json, report.csv, images.csv and report.html in a folder.

    Figures are image AUROC, F1max, AP and pixel AUROC, F1max, AP, PRO, in percent on the terminal and as fractions in
    the files. Nothing is downloaded: --list says where each data set comes from.
    """
    del config
    on = cluster.Cluster(engine=engine, address=address, actors=actors, actor_gpus=actor_gpus, shard_size=shard_size)
    on.check(device)
    from anovl.data.datasets import DATASETS, load

    if list_datasets:
        for name, info in DATASETS.items():
            typer.echo(f"{name:10} {info.title}, licence: {info.licence} {info.address}".rstrip())
        return
    if dataset is None or root is None:
        raise UsageError(
            "evaluate: expected a data set and its folder, such as `anovl evaluate mvtec data/mvtec`; --list shows all"
        )
    from anovl import evaluation

    size = parse_size(image_size)
    evaluation.check_resolution(resolution)
    rows = _rows(method or ["anovl"], adapt=adapt)
    if engine != "local":
        cluster.check_seen(root)
        root = root if is_address(root) else str(Path(root).absolute())  # workers have folders of their own
    data = load(dataset, root, categories=category, class_name=class_name)
    if engine != "local":  # a manifest lists addresses
        samples = (sample for one in data.categories for sample in (*one.test, *one.train))
        cluster.check_seen(*(str(path) for sample in samples for path in (sample.image, *sample.masks)))

    from anovl.core.adapter import check_seeds
    from anovl.evaluation.outputs import write_outputs
    from anovl.fitting import drawn
    from anovl.methods import method_class
    from anovl.render.writers import check_folder

    for name, adapts in rows:
        found = method_class(name, adapt=adapts)
        if shots is not None and not found.fits:
            raise UsageError(f"--shots: method {name!r} keeps nothing of good pictures; leave it out")
    if batched and (shots is not None or engine != "local"):
        raise UsageError("--batched: compares the images of a category on this machine; leave out --shots and --engine")
    if shots is not None:
        for one in data.categories:  # too few are told before a model is loaded
            drawn(one.train, shots, shot_seed, name=f"{one.name}, train")
    seeds = check_seeds(seed or 0)
    data = evaluation.limited(data, limit)
    check_folder(output, resume=resume)
    if not is_quiet():
        typer.echo(f"anovl: {data.title}, licence: {data.licence} {data.address}".rstrip(), err=True)
    compared = Compared(
        rows=rows,
        shots=shots,
        shot_seed=shot_seed,
        batched=batched,
        model=model,
        arch=arch,
        recipe=recipe,
        device=device,
        dtype=dtype,
        image_size=size,
        offline=offline,
        cache_dir=cache_dir,
        tiling=options.tiling(tile, tile_overlap, crop),
    )
    total = len(rows) * sum(len(one.test) for one in data.categories)
    with (
        on.evaluating(compared, workers=workers) as (variants, where),
        resumable((output / RUN).exists),
        progress(total) as advance,
    ):
        done = evaluation.evaluate(
            variants,
            data,
            resolution=resolution,  # type: ignore[arg-type]
            seeds=seeds,
            bootstrap=bootstrap,
            folder=output,
            resume=resume,
            batch_size=batch_size,
            engine=where,
            on_image=advance,
        )
    page = write_outputs(done, output, versions=versions())
    print_tables(done)
    if not is_quiet():
        typer.echo(f"anovl: {page}", err=True)


def _rows(methods: list[str], *, adapt: bool) -> list[tuple[str, bool]]:
    """(method, adapts) of each row; a method named twice is an error."""
    rows = [(name.removesuffix(ADAPTED), adapt or name.endswith(ADAPTED)) for name in methods]
    if len(set(rows)) < len(rows):
        raise UsageError(f"--method: expected each once, got {', '.join(methods)}")
    return rows


def print_tables(done: Evaluation) -> None:
    """The figures in percent on stdout, a table a method."""
    for variant in done.variants:
        _print_table(done, variant)


def _print_table(done: Evaluation, variant: Variant) -> None:
    from anovl.evaluation.measuring import FIGURES

    std = done.std(variant.name)
    width = max(len(variant.name), *(len(category.name) for category in done.dataset.categories), len("mean, textures"))
    typer.echo(f"{variant.name:{width}} {'images':>6} " + " ".join(f"{name.replace('_', ' '):>12}" for name in FIGURES))
    measured = done.measured(variant.name)
    for category in done.dataset.categories:
        cells = (_percent(measured[category.name].figures[name]) for name in FIGURES)
        typer.echo(f"{category.name:{width}} {len(category.test):6} " + " ".join(cells))
    kinds = sorted({category.kind for category in done.dataset.categories})
    for kind in kinds if len(kinds) > 1 else ():
        number = sum(len(category.test) for category in done.dataset.categories if category.kind == kind)
        values = done.mean(variant.name, kind)
        typer.echo(f"{f'mean, {kind}s':{width}} {number:6} " + " ".join(_percent(values[name]) for name in FIGURES))
    values = done.mean(variant.name)
    total = sum(len(category.test) for category in done.dataset.categories)
    typer.echo(f"{'mean':{width}} {total:6} " + " ".join(_percent(values[name], std.get(name)) for name in FIGURES) + "\n")
    reasons = {reason: None for one in measured.values() for reason in one.reasons.values()}
    for reason in reasons:
        typer.echo(f"anovl: no number where {variant.name} has a dash: {reason}", err=True)


def _percent(value: float | None, std: float | None = None) -> str:
    if value is None:
        return f"{'-':>12}"
    text = f"{100 * value:.1f}"
    return f"{text + (f' ± {100 * std:.1f}' if std is not None else ''):>12}"
