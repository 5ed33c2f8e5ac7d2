"""anovl fit: a few good pictures in, a bank of what they look like out."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from anovl.cli import options
from anovl.cli.app import is_quiet
from anovl.cli.binding import Chosen
from anovl.cli.run import SOME_FAILED, count_images, items_of, named_source, progress
from anovl.config import DEFAULT_MODEL, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, FewShot
from anovl.engine.artefact import is_exported
from anovl.errors import UsageError
from anovl.files import check_writable

DEFAULTS = FewShot()
log = logging.getLogger(__name__)


def fit(
    good: Annotated[
        list[str], typer.Argument(metavar="GOOD", help="Good pictures: a folder, a glob, image files, or - for paths on stdin.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Bank to write, a .safetensors file.", allow_from_autoenv=False)],
    class_name: options.ClassName = None,
    shots: Annotated[
        int | None, typer.Option(help="Take so many of them, at random; default all, at most 64.", min=1, max=64)
    ] = None,
    shot_seed: Annotated[int, typer.Option(help="Of that choice.", min=0)] = 0,
    share: Annotated[float, typer.Option(help="Of their patches to keep, those that differ most (coreset).")] = DEFAULTS.share,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="Block whose patches are kept too; repeat for more. Default one, two thirds up.", allow_from_autoenv=False
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Of the distance to what is kept, beside the words; default by how alike the pictures are."),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: options.Method = "anovl",
    decode: options.Decoding = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    threads: options.Threads = None,
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    max_pixels: options.MaxPixels = MAX_IMAGE_PIXELS,
    max_bytes: options.MaxBytes = MAX_IMAGE_BYTES,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bank that is there.")] = False,
    config: options.Config = None,
) -> int:
    """Keep what 1 to 64 good pictures look like, for `anovl predict --bank`; one line of JSON says what was kept.

    Options of the model must be the same in both; words and adaptation are free. A picture that cannot be read is left out, with
    exit code 3; the bank is written all the same.
    """
    del config
    settings = FewShot(layers=tuple(sorted(layer)) if layer else None, weight="auto" if weight is None else weight, share=share)
    chosen = Chosen(
        model=model,
        class_name=class_name,
        arch=arch,
        recipe=recipe,
        method=method,
        decode=decode,
        image_size=image_size,
        threads=threads,
        device=device,
        dtype=dtype,
        cache_dir=cache_dir,
        offline=offline,
        max_pixels=max_pixels,
        max_bytes=max_bytes,
    )
    chosen.check()
    if is_exported(model):
        raise UsageError("anovl fit: needs the model itself, not a file of `anovl export`")
    source = named_source(good)
    count_images(source, None)  # says what it leaves out
    if output.is_dir() or (output.exists() and not overwrite):
        raise UsageError(f"{output}: is there already; name another file, or replace it by --overwrite")
    items = list(items_of(source, None))
    check_writable(output)

    from anovl.engine import pipeline
    from anovl.fitting import FittingJob, drawn
    from anovl.methods.few_shot import MOST_PICTURES

    if shots is None and len(items) > MOST_PICTURES:
        raise UsageError(
            f"GOOD: expected at most {MOST_PICTURES} pictures, got {len(items)}; name fewer, or let --shots draw some"
        )
    items = items if shots is None else drawn(items, shots, shot_seed, name="GOOD")
    job: Any = chosen.bind().job
    fitting = FittingJob(job, settings)
    kept = []
    with (
        progress(len(items)) as advance,
        closing(pipeline.run(fitting, items, batch_size=batch_size, workers=workers)) as outcomes,
    ):
        for outcome in outcomes:
            advance()
            if outcome.prediction is None:
                log.warning("skipped %s", outcome.error)
            else:
                kept.append(outcome.prediction)
    bank = fitting.bank(kept)
    bank.save(output)
    failed = len(items) - len(kept)
    typer.echo(json.dumps({"path": str(output), **bank.summary, "failed": failed}))
    if failed and not is_quiet():
        typer.echo(f"anovl: {failed} failed and were left out", err=True)
    return SOME_FAILED if failed else 0
