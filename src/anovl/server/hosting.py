"""The models of a service, each with its batches and the jobs of the classes it was asked for lately."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from PIL import Image

from anovl.config import Tiling
from anovl.config import recipe as make_recipe
from anovl.data.images import ImageLimits
from anovl.engine.artefact import is_exported
from anovl.engine.runtime import ExportedModel
from anovl.errors import UsageError, suggest
from anovl.profiles import Profile
from anovl.server.batching import Batcher, Job
from anovl.server.settings import BODIES, Settings

if TYPE_CHECKING:
    from anovl.detector import AnoVL
    from anovl.methods.few_shot import Bank

log = logging.getLogger(__name__)

Value = TypeVar("Value")

JOBS = 16  # classes whose prompts a model keeps ready


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a job depends on; images with the same words share a batch."""

    class_name: str | None = None
    domain: str | None = None
    defects: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    adapt: bool = False
    seed: int = 0


class Model(Protocol):
    """What a host asks of a model."""

    def job(self, words: Words) -> Job:
        """The model bound to a class; UsageError where the words do not suit it."""

    def describe(self) -> dict[str, Any]:
        """For /v1/info."""

    @property
    def note(self) -> str:
        """What its makers want users to know."""

    @property
    def in_parts(self) -> bool:
        """Whether an image waits for its scores at its full size, to be looked at in parts."""


class Exported:
    """A file of `anovl export`, and profiles by their class; no torch."""

    in_parts = False

    def __init__(self, model: ExportedModel, profiles: Mapping[str, Profile] | None = None) -> None:
        self.model = model
        self.profiles = profiles or {}

    @property
    def note(self) -> str:
        """As the protocol says."""
        return str(self.model.card.model.get("note", ""))

    def job(self, words: Words) -> Job:
        """As the protocol says."""
        given = {"domain": words.domain, "defects": words.defects, "seed": words.seed}
        if decided := [name for name, value in given.items() if value]:
            raise UsageError(f"{', '.join(decided)}: decided when the model's file was exported; leave it out")
        if words.adapt and self.model.card.seed is None:
            raise UsageError("adapt: the model's file was exported without the adaptation; export it with --adapt")
        if words.names:
            raise UsageError("names: a model's exported file cannot name defects; ask a model that is not exported")
        class_name = self.model.card.classes[self.model.card.index(words.class_name)]
        profile = self.profiles.get(class_name)
        return (self.model if profile is None else self.model.with_profile(profile)).job(class_name)

    def describe(self) -> dict[str, Any]:
        """As the protocol says."""
        card = self.model.card
        return {
            "kind": "exported",
            "classes": list(card.classes),
            "method": card.method,
            "recipe": card.recipe.name,
            "image_size": list(card.image_size),
            "threshold": self.model.threshold,
            "score_range": list(card.score_range),
            "weights_sha256": card.model.get("weights_sha256"),
            "banks": {} if card.bank is None else {card.classes[0]: card.bank},
            "tiling": None,
        }


class Torch:
    """A CLIP in torch, any class or those of its banks alone, and profiles by their class.

    Args:
        detector: without a bank; in which parts it looks at an image, its recipe says.
        profiles, banks: by their class.
        batch_size: parts of an image a pass.

    Raises:
        UsageError: the method keeps nothing of good pictures.
    """

    def __init__(
        self,
        detector: AnoVL,
        profiles: Mapping[str, Profile] | None = None,
        banks: Mapping[str, Bank] | None = None,
        *,
        batch_size: int = 8,
    ) -> None:
        self.detector, self.batch_size = detector, batch_size
        self.profiles, self.banks = profiles or {}, banks or {}
        self._fitted = {name: detector.with_bank(bank) for name, bank in self.banks.items()}

    def with_recipe(self, name: str) -> Torch:
        """The same model under a named recipe, without its profiles."""
        recipe = make_recipe(name).having(tiling=self.detector.recipe.tiling)
        return Torch(self.detector.with_recipe(recipe), banks=self.banks, batch_size=self.batch_size)

    @property
    def note(self) -> str:
        """As the protocol says."""
        return self.detector.backbone.note

    @property
    def in_parts(self) -> bool:
        """As the protocol says."""
        return not self.detector.recipe.tiling.whole

    def job(self, words: Words) -> Job:
        """As the protocol says."""
        from anovl.engine.local import work_of

        class_name = self._class(words.class_name)
        if words.seed and not words.adapt:
            raise UsageError("seed: needs adapt; without it nothing is drawn at random")
        detector, profile = self._fitted.get(class_name, self.detector), self.profiles.get(class_name)
        if profile is not None:
            detector = detector.with_profile(profile)
        chosen: dict[str, Any] = {"domain": words.domain, "defects": words.defects, "names": words.names}
        return work_of(detector.job(class_name, adapt=words.adapt, seed=words.seed, **chosen), self.batch_size)

    def _class(self, given: str | None) -> str:
        """The class of a request; UsageError where it says none, or one that the model has no bank of while it has others."""
        if given is None and len(self.banks) == 1:
            return next(iter(self.banks))
        if given is None:
            raise UsageError("class_name: expected what the images show, such as 'metal nut'")
        if self.banks and given not in self.banks:
            raise UsageError(suggest("class", given, self.banks, "the model compares with good pictures of no other (--bank)"))
        return given

    def describe(self) -> dict[str, Any]:
        """As the protocol says."""
        detector = self.detector
        return {
            "kind": "torch",
            "classes": list(self.banks) or None,
            "method": detector.method_name,
            "recipe": detector.recipe.name,
            "image_size": list(detector.backbone.image_size),
            "threshold": detector.threshold,
            "score_range": list(detector.score_range),
            "weights_sha256": detector.backbone.weights_id,
            "banks": {name: bank.summary for name, bank in self.banks.items()},
            "tiling": asdict(detector.recipe.tiling) if self.in_parts else None,
        }


class Host:
    """A model by its name in the service.

    Args:
        name: of the model in requests.
        model: what scores.
        settings: of the service.
        threads: what the names of its threads begin with.
        observe: told the size of every batch.

    Attributes:
        turns: of images that wait at their full size; None where none does.
    """

    def __init__(self, name: str, model: Model, settings: Settings, *, threads: str, observe: Callable[[int], object]) -> None:
        self.name = name
        self.model = model
        self.turns = asyncio.Semaphore(BODIES) if model.in_parts else None
        self.batcher = Batcher(
            f"{threads}score", batch_size=settings.batch_size, max_wait_s=settings.max_wait_ms / 1000, observe=observe
        )
        self._jobs: OrderedDict[Words, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._texts = ThreadPoolExecutor(1, thread_name_prefix=f"{threads}text")  # prompts of one class at a time

    async def job(self, words: Words) -> Job:
        """The job of a class; its prompts are encoded in a thread where they are not at hand.

        Raises:
            UsageError: the model does not know the class, or the words are not valid.
        """
        if (found := self._recall(words)) is not None:
            return found
        return await asyncio.get_running_loop().run_in_executor(self._texts, self._make, words)

    def _make(self, words: Words) -> Job:
        job = self._recall(words) or self.model.job(words)
        with self._lock:
            self._jobs[words] = job
            if len(self._jobs) > JOBS:
                self._jobs.popitem(last=False)
        return job

    def _recall(self, words: Words) -> Job | None:
        with self._lock:
            if words in self._jobs:
                self._jobs.move_to_end(words)
            return self._jobs.get(words)

    def close(self) -> None:
        """Begin no more work; threads that are at work end when they are done."""
        self._texts.shutdown(wait=False, cancel_futures=True)
        self.batcher.close(timeout_s=0)


def load_models(
    named: Mapping[str, str],
    settings: Settings,
    *,
    profiles: Mapping[str, Mapping[str, Profile]],
    banks: Mapping[str, Mapping[str, Bank]],
    **loading: Any,
) -> dict[str, Model]:
    """{name: model} as `parse_models` names them; see `load_model`."""
    return {
        name: load_model(source, settings, profiles=profiles[name], banks=banks[name], **loading)
        for name, source in named.items()
    }


def load_model(
    source: str,
    settings: Settings,
    *,
    arch: str | None = None,
    recipe: str | None = None,
    method: str = "anovl",
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    profiles: Mapping[str, Profile] | None = None,
    banks: Mapping[str, Bank] | None = None,
    tiling: Tiling | None = None,
) -> Model:
    """An exported file, which imports no torch, or any model that `anovl.AnoVL.from_pretrained` knows.

    A blank picture of the default class, and of each with a bank, is scored, so that prompts and kernels are ready and what
    cannot work fails here.

    Raises:
        UsageError: a recipe, a bank or the like for an exported file, the model does not know the class, or a bank of others.
        AnovlError: as `ExportedModel` or `AnoVL.from_pretrained`, or the model cannot compute.
    """
    limits = ImageLimits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
    if is_exported(source):
        decided = {"--arch": arch, "--recipe": recipe, "--method": method != "anovl"}
        if given := [name for name, value in decided.items() if value]:
            raise UsageError(
                f"{', '.join(given)}: decided when {Path(source).name} was exported; leave it out, or export anew with it"
            )
        if given := [name for name, value in {"--bank": banks, "--tile and --crop": tiling}.items() if value]:
            raise UsageError(f"{', '.join(given)}: needs the model itself, not {Path(source).name}, a file of `anovl export`")
        exported = ExportedModel(source, device=device, dtype=dtype, threads=threads, limits=limits)
        _warm_up(Exported(exported), settings.class_name or exported.card.classes[0])
        return _checked(Exported(exported, profiles))

    from anovl.detector import AnoVL
    from anovl.devices import use_threads

    use_threads(threads)
    detector = AnoVL.from_pretrained(
        source,
        arch=arch,
        recipe=recipe,
        method=method,
        device=device,
        dtype=dtype,
        local_files_only=offline,
        cache_dir=cache_dir,
        limits=limits,
    )
    if detector.backbone.note:
        log.warning("%s: %s", source, detector.backbone.note)
    detector = detector.with_recipe(detector.recipe.having(tiling=tiling))
    plain = Torch(detector, banks=banks, batch_size=settings.batch_size)
    for class_name in dict.fromkeys([*plain.banks, *([settings.class_name] if settings.class_name is not None else [])]):
        _warm_up(plain, class_name)
    detector.keep_texts_in_memory()
    return _checked(Torch(detector, profiles, banks, batch_size=settings.batch_size))


def _checked(model: Torch | Exported) -> Model:
    """The model; a profile that plain requests will not fit is told of in the log."""
    for class_name, profile in model.profiles.items():
        seeds = profile.origin.seeds
        try:
            model.job(Words(class_name=class_name, adapt=bool(seeds), seed=seeds[0] if seeds else 0))
        except UsageError as exc:
            log.warning("%s", exc)
    return model


def _warm_up(model: Model, class_name: str) -> None:
    job = model.job(Words(class_name=class_name))
    list(job.score([job.preprocess(Image.new("RGB", (64, 64)))]))


def pick(named: Mapping[str, Value], name: str | None) -> Value:
    """A host or model by its name; the first for None.

    Raises:
        UsageError: no such model.
    """
    if name is None:
        return next(iter(named.values()))
    if name not in named:
        raise UsageError(suggest("model", name, named, "GET /v1/info lists them"))
    return named[name]
