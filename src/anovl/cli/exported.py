"""What `anovl predict` does with a file of `anovl export`; no torch is imported on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anovl.checkpoints import sha256_of
from anovl.cli import options
from anovl.config import Decode, OutputSize
from anovl.core.prompts import PromptSet, Wording, build_prompts
from anovl.errors import UsageError
from anovl.profiles import Profile

if TYPE_CHECKING:
    from anovl.data.images import ImageLimits
    from anovl.engine.runtime import ExportedJob


def bind(
    path: Path,
    class_name: str | None,
    *,
    decided: Mapping[str, Any],
    adapt: bool,
    threshold: float | None,
    profile: Profile | None,
    output_size: OutputSize | None,
    decode: Decode | None,
    device: str,
    dtype: str,
    threads: int | None,
    limits: ImageLimits,
) -> tuple[ExportedJob, dict[str, Any]]:
    """Load an exported file for a class.

    Args:
        path: of the file.
        class_name: None where the file holds one alone.
        decided: options that an exported file has decided, by their names; none may be set.
        adapt: whether the command asked for it; a file with the adaptation inside adapts anyway.
        profile: thresholds from elsewhere than the file.
        threshold, output_size, decode, device, dtype, threads, limits: as in `anovl.engine.runtime.ExportedModel`.

    Returns:
        the job, and what run.json records about it.

    Raises:
        UsageError: an option that does not apply, or as `ExportedModel`.
        MissingExtraError, CheckpointError: as `ExportedModel`.
    """
    if given := [name for name, value in decided.items() if value]:
        raise UsageError(f"{', '.join(given)}: decided when {path.name} was exported; leave it out, or export anew with it")
    if options.is_several(device):
        raise UsageError(f"--device {device}: {path.name} computes on one device; a model that is not exported takes several")

    from anovl.engine.runtime import ExportedModel

    model = ExportedModel(path, device=device, dtype=dtype, threads=threads, threshold=threshold, limits=limits)
    if profile is not None:
        model = model.with_profile(profile)
    if adapt and model.card.seed is None:
        raise UsageError(f"--adapt: {path.name} was exported without the adaptation; export it with --adapt")
    job = model.job(class_name, output_size=output_size, decode=decode)
    files = [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]
    settings = {
        "class_name": model.card.classes[job.index],
        "threshold": model.threshold,
        "profile": None if model.profile is None else model.profile.summary(),
        "bank": model.card.bank,
        "dtype": dtype,
        "model": {"file": str(path.absolute()), "sha256": {file.suffix: sha256_of(file) for file in files}},
        "exported": model.card.to_dict(),
        "prompts_sha256": prompts_sha256(
            build_prompts(model.card.classes[job.index], Wording(**model.card.words), style=model.card.recipe.prompts)
        ),
    }
    return job, settings


def prompts_sha256(prompts: PromptSet) -> str:
    """Tells sets of sentences apart, for run.json."""
    return hashlib.sha256(prompts.key.encode()).hexdigest()
