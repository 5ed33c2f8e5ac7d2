"""anovl export: a model with the prompts of some classes as one file that runs without torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, get_args

import typer

from anovl.cli import options, words
from anovl.cli.app import is_quiet
from anovl.cli.info import versions
from anovl.cli.run import parse_size
from anovl.config import DEFAULT_MODEL, DEFAULT_THRESHOLD
from anovl.engine.artefact import SUFFIXES, ExportFormat, Precision
from anovl.errors import UsageError, suggest
from anovl.profiles import Profile

log = logging.getLogger(__name__)


def export(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="File to write: .onnx, .xml (OpenVINO) or .pt2 (torch.export).")],
    *,
    class_name: Annotated[
        list[str], typer.Option(help="What the images show, such as 'metal nut'; repeat for more.", allow_from_autoenv=False)
    ],
    form: Annotated[
        str | None, typer.Option("--format", help="onnx, openvino or torch-export; default by the suffix.", envvar=None)
    ] = None,
    model: Annotated[
        str, typer.Option(help="ARCH:TAG, hf-hub:ORG/NAME, local-dir:FOLDER or a weight file; `anovl models`.")
    ] = DEFAULT_MODEL,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: Annotated[str, typer.Option(help="anovl, clip or maskclip.")] = "anovl",
    domain: words.Domain = None,
    defect: words.Defects = None,
    state: words.States = None,
    template: words.Templates = None,
    domain_word: words.DomainWords = None,
    prompt_file: words.PromptFile = None,
    adapt: Annotated[
        bool, typer.Option("--adapt/--no-adapt", help="Put the adaptation to each image (Eq. 9-11 of the paper) into the file.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the adaptation.", min=0)] = 0,
    dtype: Annotated[
        str, typer.Option(help="fp32; fp16: weights of half the size; int8: a quarter, and 8-bit products.")
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Pictures that int8 is fitted to, 32 at most; if not given, drawn ones.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help=f"Score from which an image or pixel counts as anomalous; default {DEFAULT_THRESHOLD}.", min=0, max=1),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Thresholds of `anovl calibrate` for the one class, in place of --threshold.")
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Good pictures of the one class as `anovl fit` keeps them, to go into the file.")
    ] = None,
    image_size: options.ImageSize = None,
    check: Annotated[bool, typer.Option("--check", help="Compare with torch; fp32 fails over 1e-4.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    config: options.Config = None,
) -> None:
    """Write one file that `anovl predict --model DEST` runs without torch; one line of JSON says what it is.

    It takes 8-bit RGB pictures at the model's input size, any number at once; docs/export.md.
    """
    del config
    chosen = _format(dest, form)
    if dtype not in get_args(Precision):
        raise UsageError(suggest("dtype of an export", dtype, get_args(Precision)))
    if calibration is not None and dtype != "int8":
        raise UsageError("--calibration: needs --dtype int8; nothing else is fitted to pictures")
    if seed and not adapt:
        raise UsageError("--seed: needs --adapt; without it nothing is drawn at random")
    if threshold is not None and profile is not None:
        raise UsageError("--threshold and --profile: both decide; leave one out")
    size = parse_size(image_size)
    calibrated = None if profile is None else Profile.load(profile)
    fitted = None if bank is None else options.read_bank(bank)

    from anovl.exporting import check_target, export
    from anovl.methods import method_class

    check_target(dest, chosen, dtype, overwrite=overwrite)  # type: ignore[arg-type]
    wording = words.wording(
        method_class(method, adapt=adapt).wording,
        domain=domain,
        defects=defect,
        states=state,
        templates=template,
        domain_words=domain_word,
        prompt_file=prompt_file,
    )

    from anovl.detector import AnoVL

    detector = AnoVL.from_pretrained(
        model,
        arch=arch,
        recipe=recipe,
        method=method,
        device="cpu",
        dtype="fp32",
        image_size=size,
        local_files_only=offline,
        cache_dir=cache_dir,
        threshold=DEFAULT_THRESHOLD if threshold is None else threshold,
    )
    if fitted is not None:
        detector = detector.with_bank(fitted)
    if calibrated is not None:
        detector = detector.with_profile(calibrated)
    if detector.backbone.note:
        log.warning("%s: %s", model, detector.backbone.note)
    done = export(
        detector,
        dest,
        class_name,
        form=chosen,
        wording=wording,
        adapt=adapt,
        seed=seed,
        precision=dtype,  # type: ignore[arg-type]
        calibration=calibration,
        check=check,
        overwrite=overwrite,
        versions=versions(),
    )
    typer.echo(json.dumps(done.to_dict()))
    if done.loss is not None and not is_quiet():
        for what, pair in (("image AUROC", done.loss.image_auroc), ("pixel AUROC", done.loss.pixel_auroc)):
            if pair is not None:
                torch, file = pair
                typer.echo(
                    f"anovl: {what} on drawn pictures: {torch:.4f} in torch, {file:.4f} in the file, {file - torch:+.4f}",
                    err=True,
                )
        most = max(done.loss.image_difference, done.loss.patch_difference)
        typer.echo(f"anovl: largest difference of a score over {done.loss.pictures} drawn pictures: {most:.2g}", err=True)


def _format(dest: Path, form: str | None) -> ExportFormat:
    """The format by its name, else by the file's suffix."""
    if form is None:
        by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
        if dest.suffix.lower() not in by_suffix:
            raise UsageError(f"{dest}: expected a name that ends in {', '.join(by_suffix)}")
        return by_suffix[dest.suffix.lower()]
    if form not in SUFFIXES:
        raise UsageError(suggest("format", form, SUFFIXES))
    return form
