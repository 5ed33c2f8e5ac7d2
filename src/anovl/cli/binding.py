"""From the options that choose a model and its words to a job that scores: torch, or an exported file without it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anovl.cli import words
from anovl.cli.exported import bind as bind_exported
from anovl.cli.exported import prompts_sha256
from anovl.cli.run import Engine, parse_size
from anovl.config import DEFAULT_RECIPE, DEFAULT_THRESHOLD, Mutual, Recipe, Tiling
from anovl.config import recipe as make_recipe
from anovl.engine.artefact import is_exported
from anovl.errors import UsageError
from anovl.profiles import UNCALIBRATED, UNCALIBRATED_BANK, UNCALIBRATED_BATCHED, UNCALIBRATED_FILE, Profile

if TYPE_CHECKING:
    from anovl.core.prompts import Wording
    from anovl.data.images import ImageLimits
    from anovl.data.sources import SourceItem
    from anovl.detection import DetectionJob
    from anovl.engine.pipeline import Outcome
    from anovl.engine.runtime import ExportedJob
    from anovl.methods.few_shot import Bank
    from anovl.results import Prediction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bound:
    """A model bound to a class.

    Attributes:
        job: what scores.
        engine: what runs it.
        settings: what run.json records of it.
        device: where it computes; several with commas between.
        profile: where its thresholds come from, None where they are not calibrated.
    """

    job: DetectionJob | ExportedJob
    engine: Engine
    settings: dict[str, Any]
    device: str
    profile: Profile | None

    @property
    def guarantee(self) -> str:
        """What the thresholds promise, for run.json."""
        if self.profile is not None:
            return self.profile.guarantee()
        if self.settings.get("batched"):
            return UNCALIBRATED_BATCHED
        if self.settings.get("bank"):
            return UNCALIBRATED_FILE if "exported" in self.settings else UNCALIBRATED_BANK
        return UNCALIBRATED


def _run_on_all(job: DetectionJob, items: Iterator[SourceItem], **options: Any) -> Generator[Outcome[Prediction]]:
    """`anovl.engine.local.run` on every device of the job's detector."""
    from anovl.engine import local

    return local.run(job.per_device(), items, **options)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The options of that name, as `anovl predict` describes them."""

    model: str
    class_name: str | None
    arch: str | None
    recipe: str | None
    method: str
    domain: str | None = None
    defect: list[str] | None = None
    state: list[str] | None = None
    template: list[str] | None = None
    domain_word: list[str] | None = None
    prompt_file: Path | None = None
    adapt: bool = False
    adapt_steps: int | None = None
    seed: list[int] | None = None
    output_size: str | None = None
    decode: str | None
    image_size: str | None
    threads: int | None
    device: str
    dtype: str
    cache_dir: Path | None
    offline: bool
    max_pixels: int
    max_bytes: int
    threshold: float | None = None
    profile: Profile | None = None
    bank: Bank | None = None
    batched: Mutual | None = None
    names: tuple[str, ...] = ()
    tiling: Tiling | None = None

    def check(self) -> None:
        """Refuse options that go with no model.

        Raises:
            UsageError: seeds or steps without the adaptation, a threshold beside a profile, a bank or a profile beside
                images that score each other, any of these, tiles or names beside an exported file, no size, or no limit.
        """
        if not self.adapt and (self.adapt_steps is not None or self.seed):
            raise UsageError("--adapt-steps and --seed: each needs --adapt; without it nothing is drawn at random")
        if self.threshold is not None and self.profile is not None:
            raise UsageError("--threshold and --profile: both decide; leave one out")
        if self.batched is not None and (self.bank or self.profile):
            raise UsageError("--batched: goes with neither --bank nor --profile; leave them out")
        lacking = {"--batched": self.batched, "--bank": self.bank, "--tile and --crop": self.tiling}
        if is_exported(self.model) and (given := [name for name, value in lacking.items() if value]):
            raise UsageError(f"{', '.join(given)}: needs the model itself, not a file of `anovl export`")
        if self.names and is_exported(self.model):
            raise UsageError("--names: a file of `anovl export` cannot name defects; take the model it was made from")
        parse_size(self.image_size)
        _ = self.limits

    @property
    def limits(self) -> ImageLimits:
        """What images to refuse."""
        from anovl.data.images import ImageLimits

        return ImageLimits(max_pixels=self.max_pixels, max_bytes=self.max_bytes)

    def plan(self) -> dict[str, Any]:
        """What `bind` would record, without loading the model, but for an exported file.

        Raises:
            AnovlError: as `bind`.
        """
        if is_exported(self.model):
            return self._bind_file().settings
        recipe, _, _, settings = self._checked()
        return {**self._weights(recipe), **settings}

    def bind(self) -> Bound:
        """The model, loaded.

        Raises:
            AnovlError: as `AnoVL.from_pretrained`, `AnoVL.job` and `anovl.engine.runtime.ExportedModel`.
        """
        return self._bind_file() if is_exported(self.model) else self._bind_torch()

    def _bind_file(self) -> Bound:
        from anovl.engine import pipeline

        decided = {
            "--arch": self.arch,
            "--recipe": self.recipe,
            "--method": self.method != "anovl",
            "--domain": self.domain,
            "--defect": self.defect,
            "--state": self.state,
            "--template": self.template,
            "--domain-word": self.domain_word,
            "--prompts": self.prompt_file,
            "--adapt-steps": self.adapt_steps,
            "--seed": self.seed,
            "--image-size": self.image_size,
        }
        job, settings = bind_exported(
            Path(self.model),
            self.class_name,
            decided=decided,
            adapt=self.adapt,
            threshold=self.threshold,
            profile=self.profile,
            output_size=self.output_size,  # type: ignore[arg-type]
            decode=self.decode,  # type: ignore[arg-type]
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            limits=self.limits,
        )
        return Bound(job, pipeline.run, settings, job.model.session.device, job.model.profile)

    def _checked(self) -> tuple[Recipe | None, Wording, tuple[int, ...], dict[str, Any]]:
        """What can be wrong without the model is told before it is loaded, or downloaded: recipe, words, seeds, settings."""
        if self.class_name is None:
            raise UsageError("--class-name: expected what the images show, such as 'metal nut'")

        from anovl.core.adapter import check_seeds
        from anovl.core.prompts import build_prompts, similar_known_class
        from anovl.devices import pick_devices, pick_dtype, use_threads
        from anovl.naming import name_prompts

        pick_devices(self.device)
        pick_dtype(self.dtype)
        use_threads(self.threads)
        recipe = None if self.recipe is None else make_recipe(self.recipe)
        self._adapted(recipe or make_recipe())
        seeds = check_seeds(self.seed or 0)
        wording = self._wording()
        style = (recipe or make_recipe()).prompts
        build_prompts(self.class_name, wording, style=style)
        if self.names:
            name_prompts(self.class_name, wording, self.names, style=style)
        if near := similar_known_class(self.class_name):
            log.warning("class name %r: did you mean %r? (any name is allowed)", self.class_name, near)
        threshold = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        settings = {
            "class_name": self.class_name,
            "method": self.method,
            "words": wording.to_dict(),
            "threshold": threshold if self.profile is None else self.profile.image_threshold,
            "profile": None if self.profile is None else self.profile.summary(),
            "bank": None if self.bank is None else self.bank.summary,
            "batched": None if self.batched is None else asdict(self.batched),
            "names": list(self.names),
            "seed": list(seeds) if self.adapt else None,  # nothing is drawn at random without adaptation
        }
        return recipe, wording, seeds, settings

    def _bind_torch(self) -> Bound:
        recipe, wording, seeds, settings = self._checked()

        from anovl import mutual
        from anovl.detector import AnoVL

        detector = AnoVL.from_pretrained(
            self.model,
            arch=self.arch,
            recipe=recipe,
            method=self.method,
            device=self.device,
            dtype=self.dtype,
            image_size=parse_size(self.image_size),
            local_files_only=self.offline,
            cache_dir=self.cache_dir,
            threshold=DEFAULT_THRESHOLD if self.threshold is None else self.threshold,
            limits=self.limits,
        )
        if detector.backbone.note:
            log.warning("%s: %s", self.model, detector.backbone.note)
        if self.bank is not None:
            detector = detector.with_bank(self.bank)
        if self.profile is not None:
            detector = detector.with_profile(self.profile)
        adapted = self._adapted(detector.method.recipe)
        job = detector.job(
            settings["class_name"],
            wording=wording,
            output_size=self.output_size,  # type: ignore[arg-type]
            decode=self.decode,  # type: ignore[arg-type]
            adapt=adapted.adaptation if self.adapt else False,
            tiles=self.tiling,
            seed=seeds,
            names=self.names,
        )
        settings |= {
            "model": detector.backbone.describe(),
            "recipe": adapted.to_dict(),
            "prompts_sha256": prompts_sha256(detector.prompts(settings["class_name"], wording)),
        }
        if self.batched is not None:
            mutual.MutualJob(job, self.batched)  # refuses what it cannot do
            return Bound(job, partial(mutual.run, settings=self.batched), settings, detector.device, None)
        return Bound(job, _run_on_all, settings, detector.device, self.profile)

    def _wording(self) -> Wording:
        from anovl.methods import method_class

        return words.wording(
            method_class(self.method, adapt=self.adapt, names=bool(self.names)).wording,
            domain=self.domain,
            defects=self.defect,
            states=self.state,
            templates=self.template,
            domain_words=self.domain_word,
            prompt_file=self.prompt_file,
        )

    def _weights(self, recipe: Recipe | None) -> dict[str, Any]:
        """What a plan says of the model, without loading it."""
        from anovl.backbones import check_available
        from anovl.checkpoints import own_settings

        checkpoint = check_available(self.model, arch=self.arch, cache_dir=self.cache_dir)
        named = recipe or make_recipe(own_settings(checkpoint).get("recipe", DEFAULT_RECIPE))
        model_file = {"weights": str(checkpoint.weights), "weights_sha256": checkpoint.sha256}
        return {**model_file, "recipe": self._adapted(named).to_dict()}

    def _adapted(self, recipe: Recipe) -> Recipe:
        """The recipe with the steps of adaptation and the tiling that the options say.

        Raises:
            UsageError: a number of steps out of range, or tiles of what is decoded reduced.
        """
        steps = self.adapt_steps
        adaptation = None if steps is None else replace(recipe.adaptation, steps=steps)
        return recipe.having(adaptation=adaptation, tiling=self.tiling, decode=self.decode)
