"""anovl demo: drawn pictures, scored and shown on one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from anovl.cli import options
from anovl.cli.app import is_quiet
from anovl.cli.info import versions
from anovl.cli.run import progress

DEMO_MODEL = "mini"


def demo(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("demo-out"),
    classes: Annotated[
        str | None, typer.Option(help="Names with commas between, such as 'washer,metal nut'; default all.")
    ] = None,
    per_class: Annotated[int, typer.Option(help="Pictures a class, half of them defective.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.", min=0)] = 0,
    model: Annotated[str, typer.Option(help="The embedded model, or a checkpoint; `anovl models` lists them.")] = DEMO_MODEL,
    device: options.Device = "auto",
) -> None:
    """Draw pictures that no training saw, score them, write one HTML page with figures and a gallery.

    Prints the path of the page, which opens in any browser, without a network.
    """
    from anovl.demonstration import check, demonstrate, next_commands

    chosen = None if classes is None else [name for name in classes.split(",") if name.strip()]
    names = check(output, chosen, per_class=per_class, seed=seed)
    began = time.perf_counter()

    from anovl.detector import AnoVL

    detector = AnoVL.from_pretrained(model, device=device)
    total = len(names) * per_class
    there = output.exists()
    try:
        with progress(total) as advance:
            page = demonstrate(detector, output, names, per_class=per_class, seed=seed, versions=versions(), on_picture=advance)
    except BaseException:
        if output.is_dir() and not there:
            typer.echo(f"anovl: stopped before the page was written; remove {output} to start anew", err=True)
        raise
    if not is_quiet():
        typer.echo(f"anovl: {total} pictures drawn and scored in {time.perf_counter() - began:.0f} s", err=True)
        for purpose, command in next_commands(model):
            typer.echo(f"{purpose}\n  {command}", err=True)
    typer.echo(str(page))
