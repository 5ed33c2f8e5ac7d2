"""anovl reproduce: the paper's tables and figures for the data at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anovl import __version__
from anovl.cli import options
from anovl.cli.app import is_quiet
from anovl.cli.info import versions
from anovl.cli.run import progress, resumable
from anovl.config import DEFAULT_MODEL
from anovl.errors import UsageError, suggest
from anovl.files import RUN, held_folder

if TYPE_CHECKING:
    from anovl.data.datasets import Dataset

DRAWN, DRAWN_PER_CLASS = "synthetic", 20
DRAWN_MODELS = ["mini-captions", "mini"]


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="table1 to table7, fig4, fig5 or fig6.")],
    *,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET=ROOT", help="Such as mvtec=data/mvtec; repeat for more.", allow_from_autoenv=False),
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="On drawn pictures, with the embedded models.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="As in `anovl predict`; repeat for more. Default the paper's.", allow_from_autoenv=False),
    ] = None,
    recipe: options.RecipeName = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images a category, half of them good.", min=1)] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Only this category; repeat for more.", allow_from_autoenv=False)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of the adaptation, from 0; the paper has five.", min=1)] = 5,
    resolution: Annotated[str, typer.Option(help="input: compare at the model's size, as the paper does; original.")] = "input",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("reproduction"),
    resume: options.Resume = False,
    full_shot: Annotated[
        bool, typer.Option("--full-shot", help="Table 6: train PaDiM and DRAEM by anomalib instead of quoting them.")
    ] = False,
    dtd: Annotated[Path | None, typer.Option(help="Folder of the DTD textures, for DRAEM.")] = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
) -> None:
    """Compute a table or figure of the paper and print ours | paper | difference, in percent.

    Writes NAME.md and NAME.json (a figure: .png or .svg) to a folder. Rows that cannot be computed say why. Numbers of another
    data set or model than the paper's stand beside the paper's for orientation only.
    """
    from anovl.data.datasets import load
    from anovl.detector import AnoVL
    from anovl.evaluation import Local, check_resolution
    from anovl.reproduction import NAMES, TABLES, FullShot, Source, compute_table, folder_name
    from anovl.reproduction.outputs import draw_figure, markdown, write_tables

    check_resolution(resolution)
    if name not in NAMES:
        raise UsageError(suggest("table or figure", name, NAMES))
    if dtd is not None and not full_shot:
        raise UsageError("--dtd: needs --full-shot")
    if bool(data) == synthetic:
        raise UsageError("reproduce: expected --data DATASET=ROOT, such as --data mvtec=data/mvtec, or --synthetic")
    datasets = [load(dataset, root, categories=category) for dataset, root in map(_pair, data or ())]
    trained = FullShot(dtd=dtd) if full_shot else None
    common: dict[str, Any] = {
        "seeds": range(seeds),
        "resolution": resolution,
        "limit": limit,
        "resume": resume,
        "batch_size": batch_size,
        "engine": Local(workers),
    }
    with held_folder(output):
        if synthetic:
            train = (limit or DRAWN_PER_CLASS) if full_shot else 0
            datasets = [_drawn(output, limit or DRAWN_PER_CLASS, category, train=train)]
        results = []
        for one in model or (DRAWN_MODELS if synthetic else [DEFAULT_MODEL]):
            detector = AnoVL.from_pretrained(
                one, recipe=recipe, device=device, dtype=dtype, local_files_only=offline, cache_dir=cache_dir
            )
            for dataset in datasets:
                source, place = Source(dataset, detector), folder_name(f"{dataset.name}-{one}")
                run = common | {"folder": output / "runs" / name / place}
                if name in TABLES:
                    with resumable((run["folder"] / RUN).exists), progress(None) as advance:
                        results.append(compute_table(name, source, full_shot=trained, on_image=advance, **run))
                    continue
                with resumable((run["folder"] / RUN).exists), progress(None) as advance:
                    for path in draw_figure(name, source, output / f"{name}-{place}", on_image=advance, **run):
                        typer.echo(str(path))
        if results:
            text = markdown(results)
            typer.echo(text)
            for path in write_tables(results, output / name, versions=versions()):
                if not is_quiet():
                    typer.echo(f"anovl: {path}", err=True)


def _pair(text: str) -> tuple[str, Path]:
    """("mvtec", root) from "mvtec=ROOT"."""
    dataset, equals, root = text.partition("=")
    if not equals or not dataset or not root:
        raise UsageError(f"--data: expected DATASET=ROOT, such as mvtec=data/mvtec, got {text!r}")
    return dataset, Path(root)


def _drawn(output: Path, per_class: int, categories: list[str] | None, *, train: int) -> Dataset:
    """The drawn set in the output folder, drawn if it is not there."""
    from anovl.data.datasets import load
    from anovl.data.synthetic import CLASSES
    from anovl.data.synthetic.layout import RECORD, check_settings, write_whole

    names = sorted({one.replace("_", " ") for one in categories} if categories else CLASSES)
    root = output / DRAWN / (f"{per_class}-{train}-{'-'.join(names).replace(' ', '_')}" if categories else f"{per_class}-{train}")
    if not (root / RECORD).exists():
        sizes = {"per_class": per_class, "train_per_class": train}
        check_settings(root, names, seed=0, size=240, workers=1, **sizes)
        with progress((per_class + train) * len(names)) as advance:
            write_whole(root, names, version=__version__, on_picture=advance, **sizes)
    return load(DRAWN, root)
