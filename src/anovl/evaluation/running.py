"""Both phases for every variant and category, in a folder that a killed run can go on in."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, get_args

from anovl import mutual
from anovl.core.adapter import check_seeds
from anovl.data.datasets import Dataset
from anovl.detector import AnoVL
from anovl.engine import local
from anovl.engine.pipeline import Outcome
from anovl.errors import NothingToDoError, UsageError, suggest
from anovl.evaluation.measuring import Figures, Measured, Part, Resolution, averaged, compare, measure, spread
from anovl.evaluation.scoring import Scored, Task, Variant, pick
from anovl.files import RUN, check_settings, held_folder, write_json
from anovl.render.writers import check_folder, holds_run

SCORES = "scores"  # folder of the patch grids


class Engine(Protocol):
    """Where an evaluation computes."""

    def score(self, tasks: Sequence[Task], *, batch_size: int) -> Generator[Outcome[Scored]]:
        """What becomes of the images that are left of each task, in order."""

    def compare(self, task: Task, scored: Sequence[Scored], size: tuple[int, int] | None) -> Iterable[Part]:
        """A task's scores and maps against the truth, in parts, in order."""


@dataclass(frozen=True)
class Local:
    """This process, on all devices of a variant's detector.

    Attributes:
        workers: decoding threads.
    """

    workers: int = 2

    def score(self, tasks: Sequence[Task], *, batch_size: int) -> Generator[Outcome[Scored]]:
        """As the protocol says."""
        for task in tasks:
            if not (items := task.items):
                continue
            job = task.job()
            work: dict[str, Any] = {"finish": Scored.of, "batch_size": batch_size, "workers": self.workers}
            if task.variant.batched is None:
                yield from local.run(job.per_device(), items, **work)
            else:
                yield from mutual.run(job, items, settings=task.variant.batched, **work)

    def compare(self, task: Task, scored: Sequence[Scored], size: tuple[int, int] | None) -> Iterator[Part]:
        """As the protocol says."""
        yield compare(task.category, scored, recipe=task.variant.recipe, size=size)


@dataclass(frozen=True)
class Cell:
    """A category by a variant: what it scored, and the figures."""

    scored: Sequence[Scored]
    measured: Measured


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of a run.

    Attributes:
        dataset: what was evaluated: its samples are those that were scored.
        resolution: "input" or "original".
        seeds: of the adaptation.
        variants: in the order given.
        cells: by names of variant and category.
    """

    dataset: Dataset
    resolution: Resolution
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    cells: Mapping[tuple[str, str], Cell]

    def measured(self, variant: str, kind: str | None = None) -> dict[str, Measured]:
        """Figures of each category (of a kind, "object" or "texture"), by its name."""
        categories = [category for category in self.dataset.categories if kind in (None, category.kind)]
        return {category.name: self.cells[variant, category.name].measured for category in categories}

    def mean(self, variant: str, kind: str | None = None) -> Figures:
        """Mean over the categories (of a kind) that have a number, a figure at a time."""
        return averaged([measured.figures for measured in self.measured(variant, kind).values()])

    def std(self, variant: str) -> dict[str, float]:
        """Standard deviation over the seeds (n - 1) of the mean over the categories; empty for one seed."""
        cells = self.measured(variant).values()
        return spread([averaged(seed) for seed in zip(*(cell.by_seed for cell in cells), strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """report.json: "mean" and "categories" of the first variant, and under "others" those of the rest."""
        first, *rest = (self._figures_of(variant.name) for variant in self.variants)
        samples = [sample for category in self.dataset.categories for sample in category.test]
        return {
            **first,
            "others": rest,
            "dataset": self.dataset.name,
            "resolution": self.resolution,
            "seeds": list(self.seeds),
            "images": len(samples),
        }

    def _figures_of(self, variant: str) -> dict[str, Any]:
        categories = {}
        for category in self.dataset.categories:
            facts = {"class_name": category.class_name, "kind": category.kind, "images": len(category.test)}
            categories[category.name] = self.cells[variant, category.name].measured.to_dict() | facts
        kinds = sorted({category.kind for category in self.dataset.categories})
        return {
            "method": variant,
            "mean": self.mean(variant),
            "std": self.std(variant),
            "mean_by_kind": {kind: self.mean(variant, kind) for kind in kinds},
            "categories": categories,
        }


def evaluate(
    model: AnoVL | Variant | Sequence[Variant],
    dataset: Dataset,
    *,
    resolution: Resolution = "input",
    adapt: bool = False,
    seeds: int | Sequence[int] = 0,
    limit: int | None = None,
    bootstrap: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    batch_size: int = 8,
    engine: Engine = Local(),
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a data set's test images and compare with the truth.

    Args:
        model: a detector, or variants of detectors to compare.
        dataset: from `anovl.datasets.load`.
        resolution: "input" compares at the model's input size, masks resized (the papers' way); "original" at each
            image's own size.
        adapt: with test-time adaptation, for a detector; a variant says so itself.
        seeds: of the adaptation: figures are means over them, with their spread.
        limit: at most so many test images a category, half of them good.
        bootstrap: resamples for confidence intervals; 0 leaves them out.
        folder: gets run.json and the scores of each image, so that a killed run can go on; None keeps nothing.
        resume: go on with what the folder holds.
        batch_size: as in `AnoVL.stream`.
        engine: where it computes; default this process.
        on_image: is called after each image is scored, once a variant.

    Raises:
        UsageError: no label or no image in the data set, settings out of range, a folder that holds another run.
        AnovlError: an image cannot be used; figures without it would be another data set's.
        OutputError: the folder cannot be written, or another run is writing there.
    """
    check_resolution(resolution)
    variants = _variants(model, adapt=adapt)
    wanted = check_seeds(seeds)
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected a number of images from 1, got {limit}")
    dataset = limited(dataset, limit)
    cells: dict[tuple[str, str], Cell] = {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()) if folder is None else folder)
        check_folder(place, resume=resume)
        stack.enter_context(held_folder(place))
        prepare(place, settings(variants, dataset, seeds=wanted, batch_size=batch_size), resume=resume)
        tasks = [
            Task.begin(
                variant,
                category,
                wanted if variant.adapt else wanted[:1],
                place / SCORES / variant.name / f"{category.name}.jsonl",
                batch_size=batch_size,
            )
            for variant in variants
            for category in dataset.categories
        ]
        outcomes = stack.enter_context(closing(engine.score(tasks, batch_size=batch_size)))
        for task in tasks:
            scored = task.finish(outcomes, on_image=on_image)
            size = None if resolution == "original" else task.variant.detector.backbone.image_size
            parts = engine.compare(task, scored, size)
            measured = measure(parts, task.category, seeds=len(task.seeds), bootstrap=bootstrap)
            cells[task.variant.name, task.category.name] = Cell(scored, measured)
    return Evaluation(dataset=dataset, resolution=resolution, seeds=wanted, variants=variants, cells=cells)


def check_resolution(resolution: str) -> None:
    """Raise a UsageError for what is no resolution."""
    if resolution not in get_args(Resolution):
        raise UsageError(suggest("resolution", resolution, get_args(Resolution)))


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The data set with at most `limit` test images a category.

    Raises:
        NothingToDoError: no image is left, or none has a label.
    """
    categories = tuple(replace(category, test=pick(category.test, limit)) for category in dataset.categories)
    samples = [sample for category in categories for sample in category.test]
    if not samples or all(sample.anomalous is None for sample in samples):
        what = "no test image" if not samples else "no image with a label"
        raise NothingToDoError(f"{dataset.root}: {what}, so there is nothing to measure; `anovl predict` scores images without")
    return replace(dataset, categories=categories)


def settings(variants: Sequence[Variant], dataset: Dataset, *, seeds: Sequence[int], batch_size: int) -> dict[str, Any]:
    """Whatever the scores depend on, for run.json; the images by a digest of their names."""
    digest = hashlib.sha256()
    for category in dataset.categories:
        digest.update("\n".join([category.name, *(sample.key for sample in category.test)]).encode("utf-8", "surrogateescape"))
    return {
        "dataset": dataset.name,
        "root": str(dataset.root.absolute()),
        "categories": [category.name for category in dataset.categories],
        "images": sum(len(category.test) for category in dataset.categories),
        "images_sha256": digest.hexdigest(),
        "seeds": list(seeds),
        "batch_size": batch_size,
        "variants": {variant.name: variant.settings() for variant in variants},
    }


def prepare(folder: Path, values: Mapping[str, Any], *, resume: bool) -> None:
    """Begin a run in a folder that is held, or go on with one of the same settings.

    Raises:
        UsageError: it holds a run and `resume` is off, or a run with other settings.
        OutputError: it cannot be written.
    """
    if holds_run(folder, resume=resume):
        check_settings(folder, values)
    write_json(folder / RUN, {"settings": values})


def _variants(model: AnoVL | Variant | Sequence[Variant], *, adapt: bool) -> tuple[Variant, ...]:
    if isinstance(model, AnoVL):
        return (Variant(name=model.method_name + ("+tta" if adapt else ""), detector=model, adapt=adapt),)
    variants = (model,) if isinstance(model, Variant) else tuple(model)
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"variants: expected at least one, each with a name of its own, got {names}")
    if adapt:
        raise UsageError("adapt: each variant says itself whether it adapts")
    return variants
