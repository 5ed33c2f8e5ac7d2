"""anovl benchmark: what the stages of a run cost on this machine."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Annotated

import typer

from anovl.cli import options

benchmark = typer.Typer(help="Measure what a stage costs on this machine.", no_args_is_help=True)

DRAWN_CLASS = "metal nut"


def adapt(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="Images: a folder, a glob or a file; drawn ones if not given.")
    ] = None,
    *,
    class_name: Annotated[str, typer.Option(help="What the images show.")] = DRAWN_CLASS,
    model: Annotated[str, typer.Option(help="The embedded model, or any that `anovl predict` takes.")] = "mini",
    recipe: Annotated[str | None, typer.Option(help="Of everything but the adaptation; default the model's own.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each adaptation.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Images in the one batch that is measured.", min=1)] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds; printed are medians.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Of weights and noise.", min=0)] = 0,
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Test-time adaptation: loss before each step, change of the scores, time and memory an image, beside the plain pass."""
    import torch

    from anovl.benchmarking import adaptation_costs
    from anovl.data.images import load_image
    from anovl.data.sources import iter_source
    from anovl.data.synthetic import draw
    from anovl.detector import AnoVL
    from anovl.errors import NothingToDoError

    if source is None:
        images = [draw(DRAWN_CLASS, index, defect="scratch" if index % 2 else None).image for index in range(batch_size)]
    else:
        images = [item.image for item in itertools.islice(iter_source(source), batch_size)]
        if not images:
            raise NothingToDoError(f"source: no image in {source}")
    detector = AnoVL.from_pretrained(model, recipe=recipe, device=device, dtype=dtype)
    pixels = torch.stack([detector.preprocess(load_image(image)) for image in images])
    plain, rows = adaptation_costs(detector, pixels, class_name, steps=steps, rounds=rounds, seed=seed)
    facts = {
        "model": model,
        "device": str(detector.backbone.device),
        "threads": torch.get_num_threads(),
        "batch": len(images),
        "rounds": rounds,
        "training_free_ms": plain,
        "adaptations": [asdict(row) for row in rows],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{model} on {facts['device']}, {facts['threads']} threads, a batch of {len(images)}, medians of {rounds} rounds")
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
