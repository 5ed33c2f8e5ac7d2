"""anovl benchmark: what the stages of a run cost on this machine."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anovl.cli import options

if TYPE_CHECKING:
    from anovl.detector import AnoVL

benchmark = typer.Typer(help="Measure what a stage costs on this machine.", no_args_is_help=True)

DRAWN_CLASS = "metal nut"  # of `anovl.benchmarking.drawn_jpeg`

Source = Annotated[
    str | None, typer.Argument(metavar="[SOURCE]", help="Images: a folder, a glob or a file; drawn ones if not given.")
]
ClassName = Annotated[str, typer.Option(help="What the images show.")]
Model = Annotated[str, typer.Option(help="The embedded model, or any that `anovl predict` takes.")]
BatchSize = Annotated[int, typer.Option(help="Images in the one batch that is measured.", min=1)]
Rounds = Annotated[int, typer.Option(help="Rounds; printed are medians.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the adaptation's weights and noise.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


def stages(
    source: Source = None,
    *,
    class_name: ClassName = DRAWN_CLASS,
    model: Model = "mini",
    recipe: options.RecipeName = None,
    batch_size: BatchSize = 8,
    rounds: Rounds = 3,
    seed: Seed = 0,
    threads: options.Threads = None,
    device: options.OneDevice = "auto",
    dtype: options.DType = "auto",
    as_json: AsJson = False,
) -> None:
    """Every stage from a file to its overlay, an image, beside open_clip's plain encode_image."""
    from anovl.benchmarking import stage_costs

    images = _images(source, batch_size)
    detector = _detector(model, recipe, device, dtype, threads)
    rows = stage_costs(detector, images, class_name, rounds=rounds, seed=seed)
    facts = _facts(detector, images, rounds) | {"stages": [asdict(row) for row in rows]}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    _say(facts)
    typer.echo(f"{'stage':14}{'ms/image':>10}{'x clip':>9}")
    for row in rows:
        typer.echo(f"{row.name:14}{row.milliseconds:10.2f}{row.times_clip:9.3f}  {row.what}")


def adapt(
    source: Source = None,
    *,
    class_name: ClassName = DRAWN_CLASS,
    model: Model = "mini",
    recipe: Annotated[str | None, typer.Option(help="Of everything but the adaptation; default the model's own.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each adaptation.")] = 5,
    batch_size: BatchSize = 8,
    rounds: Rounds = 3,
    seed: Seed = 0,
    threads: options.Threads = None,
    device: options.OneDevice = "auto",
    dtype: options.DType = "auto",
    as_json: AsJson = False,
) -> None:
    """Test-time adaptation: loss before each step, change of the scores, time and memory an image, beside the plain pass."""
    import torch

    from anovl.benchmarking import adaptation_costs
    from anovl.data.images import load_image

    images = _images(source, batch_size)
    detector = _detector(model, recipe, device, dtype, threads)
    pixels = torch.stack([detector.preprocess(load_image(image)) for image in images])
    plain, rows = adaptation_costs(detector, pixels, class_name, steps=steps, rounds=rounds, seed=seed)
    facts = _facts(detector, images, rounds) | {"training_free_ms": plain, "adaptations": [asdict(row) for row in rows]}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    _say(facts)
    typer.echo(f"training-free pass: {plain:.2f} ms an image\n")
    typer.echo(
        f"{'adaptation':14}{'ms/image':>10}{'x pass':>8}{'state MB':>10}{'work MB':>9}{'score change':>14}  loss before each step"
    )
    for row in rows:
        losses = " ".join(f"{loss:.4f}" for loss in row.losses)
        typer.echo(
            f"{row.name:14}{row.milliseconds:10.2f}{row.times_training_free:8.2f}{row.state_mb:10.1f}{row.working_mb:9.1f}"
            f"{row.score_change:14.4f}  {losses}"
        )


def _images(source: str | None, count: int) -> list[Any]:
    """The first images of a source, or drawn ones as JPEG files in memory.

    Raises:
        NothingToDoError: the source has none.
    """
    from anovl.benchmarking import drawn_jpeg
    from anovl.data.sources import iter_source
    from anovl.errors import NothingToDoError

    if source is None:
        return [drawn_jpeg(index) for index in range(count)]
    images = [item.image for item in itertools.islice(iter_source(source), count)]
    if not images:
        raise NothingToDoError(f"source: no image in {source}")
    return images


def _detector(model: str, recipe: str | None, device: str, dtype: str, threads: int | None) -> AnoVL:
    """The model, on so many threads."""
    from anovl.detector import AnoVL
    from anovl.devices import use_threads

    use_threads(threads)
    return AnoVL.from_pretrained(model, recipe=recipe, device=device, dtype=dtype)


def _facts(detector: AnoVL, images: list[Any], rounds: int) -> dict[str, Any]:
    """What was measured on what."""
    import torch

    return {
        "model": detector.backbone.name,
        "device": str(detector.backbone.device),
        "threads": torch.get_num_threads(),
        "batch": len(images),
        "rounds": rounds,
    }


def _say(facts: dict[str, Any]) -> None:
    """The facts in a line above a table."""
    typer.echo(
        f"{facts['model']} on {facts['device']}, {facts['threads']} threads, a batch of {facts['batch']}, "
        f"medians of {facts['rounds']} rounds"
    )
