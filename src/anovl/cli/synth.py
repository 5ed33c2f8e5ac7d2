"""anovl synth: a drawn data set with exact masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anovl import __version__
from anovl.cli.app import is_quiet
from anovl.cli.run import progress
from anovl.config import cores

PICTURES_A_PROCESS = 16  # fewer are drawn before another process has started


def synth(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; new or empty.")],
    *,
    classes: Annotated[
        str | None, typer.Option(help="Names with commas between, such as 'washer,metal nut'; default all.")
    ] = None,
    per_class: Annotated[int, typer.Option(help="Test pictures a class, half of them defective.", min=1)] = 20,
    train_per_class: Annotated[int, typer.Option(help="Good pictures a class in train/good.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Pixels of a side, 96 to 1024.")] = 240,
    one_line: Annotated[
        bool, typer.Option("--one-line", help="All pictures of a class from one production line: one design, under one light.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Drawing processes; default one a core.", min=1)] = None,
) -> None:
    """Draw pictures of parts and surfaces with exact defect masks, in the layout of MVTec AD.

    Prints the folder. The same seed gives the same files, whatever the other classes and numbers.
    """
    from anovl.data.synthetic.layout import check_settings, write_dataset

    chosen = None if classes is None else [name for name in classes.split(",") if name.strip()]
    names = check_settings(
        output, chosen, per_class=per_class, seed=seed, size=size, train_per_class=train_per_class, workers=workers or 1
    )
    total = len(names) * (per_class + train_per_class)
    drawn = 0
    try:
        with progress(total) as advance:

            def count() -> None:
                nonlocal drawn
                drawn += 1
                advance()

            write_dataset(
                output,
                names,
                per_class=per_class,
                seed=seed,
                size=size,
                train_per_class=train_per_class,
                one_line=one_line,
                workers=workers or max(1, min(cores(), total // PICTURES_A_PROCESS)),
                version=__version__,
                on_picture=count,
            )
    except BaseException:
        if output.is_dir():
            typer.echo(f"anovl: stopped with {drawn} of {total} pictures drawn; remove {output} to start anew", err=True)
        raise
    if not is_quiet():
        typer.echo(f"anovl: {total} pictures of {len(names)} classes -> {output}", err=True)
    typer.echo(str(output))
