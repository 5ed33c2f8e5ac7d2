"""anovl calibrate: a folder of good pictures in, a profile of thresholds out."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from anovl.cli import options, words
from anovl.cli.app import is_quiet
from anovl.cli.binding import Chosen
from anovl.cli.run import SOME_FAILED, Run, count_images, named_source
from anovl.config import DEFAULT_MODEL, DEFAULT_THRESHOLD, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, Decode, OutputSize
from anovl.errors import UsageError, suggest
from anovl.files import check_writable
from anovl.profiles import DEFAULT_FPR, Choice, check_fpr


def calibrate(
    good: Annotated[
        list[str], typer.Argument(metavar="GOOD", help="Good pictures: a folder, a glob, image files, or - for paths on stdin.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write, a .json file.", allow_from_autoenv=False)],
    class_name: options.ClassName = None,
    fpr: Annotated[
        float, typer.Option(help="Rate of false alarms that is to hold, such as 0.01: 1 % of good pictures.")
    ] = DEFAULT_FPR,
    bad: Annotated[
        str | None, typer.Option(help="Bad pictures, a folder, glob or file: what is found of them is counted.")
    ] = None,
    choose: Annotated[
        str, typer.Option(help="Image threshold: conformal (from good pictures, with a guarantee); f1 or cost, with --bad.")
    ] = "conformal",
    cost_miss: Annotated[float | None, typer.Option(help="For --choose cost: of a bad picture not flagged; default 1.")] = None,
    cost_alarm: Annotated[float | None, typer.Option(help="For --choose cost: of a good picture flagged; default 1.")] = None,
    model: options.Model = DEFAULT_MODEL,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: options.Method = "anovl",
    bank: options.BankFile = None,
    domain: words.Domain = None,
    defect: words.Defects = None,
    state: words.States = None,
    template: words.Templates = None,
    domain_word: words.DomainWords = None,
    prompt_file: words.PromptFile = None,
    adapt: options.Adapt = False,
    adapt_steps: options.AdaptSteps = None,
    seed: options.Seeds = None,
    tile: options.Tiles = None,
    tile_overlap: options.TileOverlap = None,
    crop: options.Cropping = None,
    output_size: options.MapSize = None,
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a profile that is there.")] = False,
    config: options.Config = None,
) -> int:
    """Write thresholds for image and pixels that a good picture passes only at a rate you name; one line of JSON says them.

    `anovl predict --profile` decides by them. Options of the model must be the same in both. What is guaranteed comes on
    stderr. A picture that cannot be read is left out, with exit code 3; the profile is written all the same.
    """
    del config
    check_fpr(fpr)
    _check_choices(choose, bad, {"--cost-miss": cost_miss, "--cost-alarm": cost_alarm}, output_size, decode)
    chosen = Chosen(
        model=model,
        class_name=class_name,
        arch=arch,
        recipe=recipe,
        method=method,
        domain=domain,
        defect=defect,
        state=state,
        template=template,
        domain_word=domain_word,
        prompt_file=prompt_file,
        adapt=adapt,
        adapt_steps=adapt_steps,
        seed=seed,
        output_size=output_size,
        decode=decode,
        image_size=image_size,
        threads=threads,
        device=device,
        dtype=dtype,
        cache_dir=cache_dir,
        offline=offline,
        max_pixels=max_pixels,
        max_bytes=max_bytes,
        tiling=options.tiling(tile, tile_overlap, crop),
        threshold=DEFAULT_THRESHOLD,  # none that an exported file brings
        bank=None if bank is None else options.read_bank(bank),
    )
    chosen.check()
    sources = [named_source(good), *([] if bad is None else [bad])]
    counts = [count_images(source, None) for source in sources]
    if output.is_dir() or (output.exists() and not overwrite):
        raise UsageError(f"{output}: is there already; name another file, or replace it by --overwrite")
    check_writable(output)
    bound = chosen.bind()
    pace: dict[str, Any] = {"folder": None, "batch_size": batch_size, "workers": workers, "draws": False}
    scored = [
        _peaks(Run(job=bound.job, engine=bound.engine, source=source, count=count, **pace))
        for source, count in zip(sources, counts, strict=True)
    ]

    from anovl.calibration import calibrate as choose_thresholds

    profile = choose_thresholds(
        scored[0][0],
        bound.job.origin,
        fpr=fpr,
        choose=choose,  # type: ignore[arg-type]
        bad=None if bad is None else [image for image, _ in scored[1][0]],
        cost_miss=1.0 if cost_miss is None else cost_miss,
        cost_alarm=1.0 if cost_alarm is None else cost_alarm,
    )
    profile.save(output)
    measured = profile.to_dict()["measured"]
    failed = sum(number for _, number in scored)
    typer.echo(json.dumps({"path": str(output), **profile.summary(), "measured": measured, "failed": failed}))
    if not is_quiet():
        typer.echo(f"anovl: {profile.guarantee()}", err=True)
        if failed:
            typer.echo(f"anovl: {failed} failed and were left out", err=True)
    return SOME_FAILED if failed else 0


def _peaks(run: Run) -> tuple[list[tuple[float, float]], int]:
    """Image score and largest value of the map of each picture, and how many could not be scored."""
    from anovl.calibration import peaks

    found, failed = [], 0
    with closing(run.outcomes()) as outcomes:
        for outcome in outcomes:
            if outcome.prediction is None:
                failed += 1
            else:
                found.append(peaks(outcome.prediction))
    return found, failed


def _check_choices(
    choose: str, bad: str | None, costs: dict[str, float | None], output_size: str | None, decode: str | None
) -> None:
    """Fail on what does not go together before anything is searched."""
    for what, given, valid in (
        ("choice", choose, get_args(Choice)),
        ("output size", output_size or "image", get_args(OutputSize)),
        ("decode", decode or "full", get_args(Decode)),
    ):
        if given not in valid:
            raise UsageError(suggest(what, given, valid))
    if choose != "conformal" and bad is None:
        raise UsageError(f"--choose {choose}: needs labelled pictures, --bad FOLDER beside the good ones")
    for name, cost in costs.items():
        if cost is not None and choose != "cost":
            raise UsageError(f"{name}: needs --choose cost")
        if cost is not None and not 0 < cost < math.inf:
            raise UsageError(f"{name}: expected a finite number above 0, got {cost}")
