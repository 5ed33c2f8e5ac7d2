"""anovl predict: a folder of pictures in, scores, maps and overlays out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from anovl.cli import cluster, options, words
from anovl.cli.binding import Chosen
from anovl.cli.info import versions
from anovl.cli.run import Run, count_images, named_source, resolved
from anovl.config import DEFAULT_MODEL, DEFAULT_THRESHOLD, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, Decode, Mutual, OutputSize
from anovl.errors import UsageError, suggest
from anovl.profiles import Profile


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="A folder, a glob, image files, or - for paths on stdin.")
    ],
    *,
    class_name: options.ClassName = None,
    model: options.Model = DEFAULT_MODEL,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: options.Method = "anovl",
    domain: words.Domain = None,
    defect: words.Defects = None,
    state: words.States = None,
    template: words.Templates = None,
    domain_word: words.DomainWords = None,
    prompt_file: words.PromptFile = None,
    adapt: options.Adapt = False,
    adapt_steps: options.AdaptSteps = None,
    seed: options.Seeds = None,
    names: words.Names = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help=f"Score from which an image or pixel counts as anomalous; default {DEFAULT_THRESHOLD}, or an exported file's.",
            min=0,
            max=1,
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Thresholds of `anovl calibrate`, in place of --threshold; docs/calibration.md.")
    ] = None,
    bank: options.BankFile = None,
    batched: Annotated[
        bool,
        typer.Option(
            "--batched",
            help="Let the images score each other too (MuSc); rows come after all were encoded; docs/few_and_many.md.",
        ),
    ] = False,
    share: Annotated[
        float | None,
        typer.Option(help="With --batched: of the images that each is compared with, drawn at random; default 1, all."),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Output folder; - writes JSON lines to stdout.")] = "-",
    save: Annotated[
        str | None, typer.Option(help="Pictures to save: overlay,heatmap,mask,map, or none; default overlay.")
    ] = None,
    map_format: Annotated[str, typer.Option(help="Of saved maps: npy (float32) or png16.")] = "npy",
    table: Annotated[
        str, typer.Option("--format", help="jsonl; csv or parquet adds that table.", envvar="ANOVL_FORMAT")
    ] = "jsonl",
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
    resume: options.Resume = False,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 4 when an image is anomalous.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check settings and model file, print the plan, score nothing.")
    ] = False,
    engine: cluster.Engine = "local",
    address: cluster.Address = None,
    actors: cluster.Actors = "1",
    actor_gpus: cluster.ActorGpus = 0,
    shard_size: cluster.ShardSize = cluster.SHARD_SIZE,
    config: options.Config = None,
) -> int:
    """Score images: JSON lines on stdout, or a folder with overlays, maps and predictions.jsonl.

    Exit codes: 0 done; 1 failure; 2 wrong usage or nothing to do;
    3 some images failed; 4 anomalies found, with --fail-on-anomaly (3 goes first);
    5 the model or an extra is not on this machine; 130 interrupted.
    """
    del config
    on = cluster.Cluster(engine=engine, address=address, actors=actors, actor_gpus=actor_gpus, shard_size=shard_size)
    on.check(device)
    if engine == "ray" and table != "jsonl":
        raise UsageError(f"--format {table}: --engine ray writes Parquet; leave it out")
    folder = None if output == "-" else Path(output)
    kinds = [kind for kind in (part.strip() for part in (save or "overlay").split(",")) if kind and kind != "none"]
    _check_choices(kinds, table, map_format, output_size, decode)
    if folder is None and (resume or save or table != "jsonl"):
        raise UsageError("--resume, --save and --format: each needs an output folder, -o FOLDER")
    if share is not None and not batched:
        raise UsageError("--share: needs --batched; without it no image is compared with another")
    if batched and (resume or engine != "local"):
        raise UsageError("--batched: compares all images in one run of this machine; leave out --resume and --engine")
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
        names=words.read_names(names),
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
        threshold=threshold,
        profile=None if profile is None else Profile.load(profile),
        bank=None if bank is None else options.read_bank(bank),
        batched=Mutual(share=1.0 if share is None else share) if batched else None,
    )
    chosen.check()
    common: dict[str, Any] = {
        "save": sorted(kinds) if folder else [],
        "map_format": map_format,
        "output_size": output_size,
        "decode": decode,
    }
    if engine == "ray":
        return cluster.predict(
            sources,
            output,
            cluster=on,
            chosen=chosen,
            common=common,
            batch_size=batch_size,
            resume=resume,
            fail_on_anomaly=fail_on_anomaly,
            dry_run=dry_run,
            versions=versions(),
        )
    source = named_source(sources)
    count = count_images(source, folder)
    common = {"source": resolved(source), **common}

    from anovl.render.writers import FolderWriter, StreamWriter, check_folder

    if folder is not None:
        check_folder(folder, resume=resume)
    if dry_run:
        typer.echo(json.dumps({"images": count, **common, **chosen.plan()}, indent=2))
        return 0
    bound = chosen.bind()
    run = Run(
        job=bound.job,
        engine=bound.engine,
        source=source,
        folder=folder,
        draws="overlay" in kinds and folder is not None,
        count=count,
        batch_size=batch_size,
        workers=workers,
    )
    record = {
        "versions": versions(),
        "device": bound.device,
        "settings": common | bound.settings,
        "guarantee": bound.guarantee,
    }
    writing: dict[str, Any] = {"save": kinds, "table": table, "map_format": map_format, "resume": resume}
    writer = StreamWriter(sys.stdout) if folder is None else FolderWriter(folder, record, **writing)
    return run.execute(writer, fail_on_anomaly=fail_on_anomaly)


def _check_choices(kinds: list[str], table: str, map_format: str, output_size: str | None, decode: str | None) -> None:
    """Fail on a wrong word before the source is searched."""
    from anovl.render.tables import TableFormat
    from anovl.render.writers import PICTURES, MapFormat

    for what, given, valid in (
        *(("picture to save", kind, PICTURES) for kind in kinds),
        ("format", table, get_args(TableFormat)),
        ("map format", map_format, get_args(MapFormat)),
        ("output size", output_size or "image", get_args(OutputSize)),
        ("decode", decode or "full", get_args(Decode)),
    ):
        if given not in valid:
            raise UsageError(suggest(what, given, valid))
