"""anovl predict: a folder of pictures in, scores, maps and overlays out."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from anovl.cli import options, words
from anovl.cli.exported import bind
from anovl.cli.info import versions
from anovl.cli.run import Engine, Run, Source, count_images, named_source, parse_size, resolved
from anovl.config import (
    DEFAULT_MODEL,
    DEFAULT_RECIPE,
    DEFAULT_THRESHOLD,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    Decode,
    OutputSize,
    Recipe,
)
from anovl.config import recipe as make_recipe
from anovl.engine.artefact import is_exported
from anovl.errors import UsageError, suggest

if TYPE_CHECKING:
    from anovl.detector import DetectionJob
    from anovl.engine.runtime import ExportedJob

log = logging.getLogger(__name__)


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="A folder, a glob, image files, or - for paths on stdin.")
    ],
    *,
    class_name: Annotated[
        str | None,
        typer.Option(help="What the images show, such as 'metal nut'; not needed where an exported file holds one class."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="ARCH:TAG, hf-hub:ORG/NAME, local-dir:FOLDER or a weight file, `anovl models`; or a file of `anovl export`."
        ),
    ] = DEFAULT_MODEL,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: Annotated[
        str, typer.Option(help="anovl, or a compared system: clip, transmm, maskclip, clip_surgery, winclip; docs/methods.md.")
    ] = "anovl",
    domain: words.Domain = None,
    defect: words.Defects = None,
    state: words.States = None,
    template: words.Templates = None,
    domain_word: words.DomainWords = None,
    prompt_file: words.PromptFile = None,
    adapt: Annotated[
        bool, typer.Option("--adapt/--no-adapt", help="Adapt to each image at test time (Eq. 9-11 of the paper).")
    ] = False,
    adapt_steps: Annotated[int | None, typer.Option(help="Steps of the adaptation; default the recipe's, 5.")] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            help="Seed of the adaptation, default 0; repeat for the mean and spread of several.", allow_from_autoenv=False
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help=f"Score from which an image or pixel counts as anomalous; default {DEFAULT_THRESHOLD}, or an exported file's.",
            min=0,
            max=1,
        ),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Output folder; - writes JSON lines to stdout.")] = "-",
    save: Annotated[
        str | None, typer.Option(help="Pictures to save: overlay,heatmap,mask,map, or none; default overlay.")
    ] = None,
    map_format: Annotated[str, typer.Option(help="Of saved maps: npy (float32) or png16.")] = "npy",
    table: Annotated[
        str, typer.Option("--format", help="jsonl; csv or parquet adds that table.", envvar="ANOVL_FORMAT")
    ] = "jsonl",
    output_size: Annotated[str | None, typer.Option(help="Map size: image or input (the model's); default the recipe's.")] = None,
    decode: Annotated[
        str | None,
        typer.Option(help="full, or reduced: JPEGs at a fraction of their size, faster and less exact; docs/performance.md."),
    ] = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    threads: options.Threads = None,
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    max_pixels: Annotated[int, typer.Option(help="Larger images are refused.")] = MAX_IMAGE_PIXELS,
    max_bytes: Annotated[int, typer.Option(help="Larger files are refused.")] = MAX_IMAGE_BYTES,
    resume: options.Resume = False,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 4 when an image is anomalous.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check settings and model file, print the plan, score nothing.")
    ] = False,
    config: options.Config = None,
) -> int:
    """Score images: JSON lines on stdout, or a folder with overlays, maps and predictions.jsonl.

    Exit codes: 0 done; 1 failure; 2 wrong usage or nothing to do;
    3 some images failed; 4 anomalies found, with --fail-on-anomaly (3 goes first);
    5 the model or an extra is not on this machine; 130 interrupted.
    """
    del config
    folder = None if output == "-" else Path(output)
    kinds = [kind for kind in (part.strip() for part in (save or "overlay").split(",")) if kind and kind != "none"]
    _check_choices(kinds, table, map_format, output_size, decode)
    if folder is None and (resume or save or table != "jsonl"):
        raise UsageError("--resume, --save and --format: each needs an output folder, -o FOLDER")
    if not adapt and (adapt_steps is not None or seed):
        raise UsageError("--adapt-steps and --seed: each needs --adapt; without it nothing is drawn at random")
    size = parse_size(image_size)
    source = named_source(sources)
    count = count_images(source, folder)
    common: dict[str, Any] = {
        "source": resolved(source),
        "save": sorted(kinds) if folder else [],
        "map_format": map_format,
        "output_size": output_size,
        "decode": decode,
    }

    from anovl.data.images import ImageLimits
    from anovl.render.writers import check_folder

    limits = ImageLimits(max_pixels=max_pixels, max_bytes=max_bytes)
    if folder is not None:
        check_folder(folder, resume=resume)
    score = partial(
        _score,
        source=source,
        folder=folder,
        count=count,
        kinds=kinds,
        batch_size=batch_size,
        workers=workers,
        fail_on_anomaly=fail_on_anomaly,
        writing={"save": kinds, "table": table, "map_format": map_format, "resume": resume},
    )
    if is_exported(model):
        from anovl.engine import pipeline

        decided = {
            "--arch": arch,
            "--recipe": recipe,
            "--method": method != "anovl",
            "--domain": domain,
            "--defect": defect,
            "--state": state,
            "--template": template,
            "--domain-word": domain_word,
            "--prompts": prompt_file,
            "--adapt-steps": adapt_steps,
            "--seed": seed,
            "--image-size": image_size,
        }
        job, settings = bind(
            Path(model),
            class_name,
            decided=decided,
            adapt=adapt,
            threshold=threshold,
            output_size=output_size,  # type: ignore[arg-type]
            decode=decode,  # type: ignore[arg-type]
            device=device,
            dtype=dtype,
            threads=threads,
            limits=limits,
        )
        settings = common | settings
        return _show({"images": count, **settings}) if dry_run else score(job, pipeline.run, settings, job.model.session.device)
    if class_name is None:
        raise UsageError("--class-name: expected what the images show, such as 'metal nut'")
    threshold = DEFAULT_THRESHOLD if threshold is None else threshold

    # Whatever can be wrong without the model is told before it is loaded, or downloaded.
    from anovl.core.adapter import check_seeds
    from anovl.core.prompts import build_prompts, similar_known_class
    from anovl.devices import pick_device, pick_dtype, use_threads
    from anovl.methods import method_class

    pick_device(device)
    pick_dtype(dtype)
    use_threads(threads)
    chosen_recipe = None if recipe is None else make_recipe(recipe)
    _adapted(chosen_recipe or make_recipe(), adapt_steps)
    seeds = check_seeds(seed or 0)
    chosen_words = words.wording(
        method_class(method, adapt=adapt).wording,
        domain=domain,
        defects=defect,
        states=state,
        templates=template,
        domain_words=domain_word,
        prompt_file=prompt_file,
    )
    build_prompts(class_name, chosen_words, style=(chosen_recipe or make_recipe()).prompts)
    if near := similar_known_class(class_name):
        log.warning("class name %r: did you mean %r? (any name is allowed)", class_name, near)
    settings = {
        **common,
        "class_name": class_name,
        "method": method,
        "words": chosen_words.to_dict(),
        "threshold": threshold,
        "seed": list(seeds) if adapt else None,  # nothing is drawn at random without adaptation
    }
    if dry_run:
        return _show({"images": count, **_weights(model, arch, cache_dir, chosen_recipe, adapt_steps), **settings})

    from anovl.detector import AnoVL
    from anovl.engine import local

    detector = AnoVL.from_pretrained(
        model,
        arch=arch,
        recipe=chosen_recipe,
        method=method,
        device=device,
        dtype=dtype,
        image_size=size,
        local_files_only=offline,
        cache_dir=cache_dir,
        threshold=threshold,
        limits=limits,
    )
    if detector.backbone.note:
        log.warning("%s: %s", model, detector.backbone.note)
    settings |= {"model": detector.backbone.describe(), "recipe": _adapted(detector.method.recipe, adapt_steps).to_dict()}
    bound = detector.job(
        class_name,
        wording=chosen_words,
        output_size=output_size,  # type: ignore[arg-type]
        decode=decode,  # type: ignore[arg-type]
        adapt=_adapted(detector.method.recipe, adapt_steps).adaptation if adapt else False,
        seed=seeds,
    )
    return score(bound, local.run, settings, str(detector.backbone.device))


def _score(
    job: DetectionJob | ExportedJob,
    engine: Engine,
    settings: dict[str, Any],
    device: str,
    *,
    source: Source,
    folder: Path | None,
    kinds: list[str],
    writing: dict[str, Any],
    fail_on_anomaly: bool,
    **pace: Any,
) -> int:
    """Do the run, its results into the folder, or to stdout where there is none; the exit code."""
    from anovl.render.writers import FolderWriter, StreamWriter

    draws = "overlay" in kinds and folder is not None
    work = Run(job=job, engine=engine, source=source, folder=folder, draws=draws, **pace)
    record = {"versions": versions(), "device": device, "settings": settings}
    writer = StreamWriter(sys.stdout) if folder is None else FolderWriter(folder, record, **writing)
    return work.execute(writer, fail_on_anomaly=fail_on_anomaly)


def _weights(model: str, arch: str | None, cache_dir: Path | None, recipe: Recipe | None, steps: int | None) -> dict[str, Any]:
    """What a plan says of the model, without loading it."""
    from anovl.backbones import check_available
    from anovl.checkpoints import own_settings

    checkpoint = check_available(model, arch=arch, cache_dir=cache_dir)
    named = recipe or make_recipe(own_settings(checkpoint).get("recipe", DEFAULT_RECIPE))
    model_file = {"weights": str(checkpoint.weights), "weights_sha256": checkpoint.sha256}
    return {**model_file, "recipe": _adapted(named, steps).to_dict()}


def _show(plan: dict[str, Any]) -> int:
    """Print what a run would do."""
    typer.echo(json.dumps(plan, indent=2))
    return 0


def _adapted(recipe: Recipe, steps: int | None) -> Recipe:
    """The recipe with so many steps of adaptation.

    Raises:
        UsageError: a number of steps out of range.
    """
    return recipe if steps is None else replace(recipe, adaptation=replace(recipe.adaptation, steps=steps))


def _check_choices(kinds: list[str], table: str, map_format: str, output_size: str | None, decode: str | None) -> None:
    """Fail on a wrong word before the source is searched."""
    from anovl.render.writers import PICTURES, MapFormat, TableFormat

    for what, given, valid in (
        *(("picture to save", kind, PICTURES) for kind in kinds),
        ("format", table, get_args(TableFormat)),
        ("map format", map_format, get_args(MapFormat)),
        ("output size", output_size or "image", get_args(OutputSize)),
        ("decode", decode or "full", get_args(Decode)),
    ):
        if given not in valid:
            raise UsageError(suggest(what, given, valid))
