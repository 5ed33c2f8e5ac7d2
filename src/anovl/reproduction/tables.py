"""One of the paper's tables, row by row: what can be computed is, what cannot says why."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from anovl.data.datasets import Dataset
from anovl.detector import AnoVL
from anovl.errors import UnavailableError, UsageError
from anovl.evaluation import Engine, Evaluation, Local, Resolution, Variant, evaluate
from anovl.reproduction import timing
from anovl.reproduction.full_shot import FullShot
from anovl.reproduction.paper import TABLES, TIME, PaperRow, PaperTable, Published

PAPER_DATASET = "mvtec"  # whose published numbers stand beside a data set that the paper does not have


@dataclass(frozen=True)
class Source:
    """A data set and a model to compute with."""

    dataset: Dataset
    detector: AnoVL


@dataclass(frozen=True)
class Ours:
    """A row as computed here.

    Attributes:
        label: as the paper writes it.
        values: (mean, standard deviation or None), in percent (times in ms), in the order of the columns; None for no number.
        published: the paper's, likewise; None where it has none.
        reason: why there is no number.
    """

    label: str
    values: tuple[tuple[float, float | None] | None, ...]
    published: tuple[Published | None, ...]
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """A table as computed here for one data set and model.

    Attributes:
        name: "table1" and so on.
        table: the paper's.
        dataset: title of the data set; `of_paper` tells whether the paper has numbers for it.
        model: its name.
        facts: seeds, images, resolution, machine.
    """

    name: str
    table: PaperTable
    dataset: str
    of_paper: bool
    model: str
    rows: tuple[Ours, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": self.name,
            "title": self.table.title,
            "columns": list(self.table.columns),
            "dataset": self.dataset,
            "dataset_of_the_paper": self.of_paper,
            "model": self.model,
            "rows": [asdict(row) for row in self.rows],
            "note": self.table.note,
            **self.facts,
        }


def compute_table(
    name: str,
    source: Source,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    resolution: Resolution = "input",
    limit: int | None = None,
    folder: Path | None = None,
    resume: bool = False,
    batch_size: int = 8,
    engine: Engine | None = None,
    full_shot: FullShot | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Result:
    """Compute a table for a data set and a model.

    Args:
        name: of `TABLES`.
        source: data set and model.
        seeds: of the adaptation; the paper has five.
        resolution, limit, folder, resume, batch_size, engine, on_image: as in `anovl.evaluation.evaluate`.
        full_shot: how to train the rows that anomalib has; None quotes them.

    Raises:
        UsageError, AnovlError, OutputError: as `evaluate`.
    """
    table, dataset, detector = TABLES[name], source.dataset, source.detector
    variants: dict[str, Variant] = {}
    reasons: dict[str, str] = {}
    for row in table.rows:
        if not row.method:
            continue
        try:
            variants[row.label] = variant_of(row, detector)
        except UsageError as exc:
            reasons[row.label] = str(exc)
    done = evaluate(
        list(variants.values()),
        dataset,
        resolution=resolution,
        seeds=seeds,
        limit=limit,
        folder=folder,
        resume=resume,
        batch_size=batch_size,
        engine=engine or Local(),
        on_image=on_image,
    )
    times = timing.milliseconds(list(variants.values()), done) if TIME in table.columns else {}
    rows = []
    for row in table.rows:
        published = row.published.get(dataset.name) or row.published[PAPER_DATASET]
        values: tuple[tuple[float, float | None] | None, ...] = (None,) * len(table.columns)
        reason = reasons.get(row.label, row.quoted)
        if row.label in variants:
            values = tuple(_value(done, variants[row.label], column, times) for column in table.columns)
            missing = [column for column, value in zip(table.columns, values, strict=True) if value is None]
            reason = "" if not missing else f"no number for {', '.join(missing)}"
        elif row.anomalib:
            try:
                if full_shot is None:
                    raise UnavailableError("--full-shot trains it here by anomalib")
                figures = full_shot.figures(row.anomalib, done.dataset)
                values = tuple(None if (one := figures[column]) is None else (100 * one, None) for column in table.columns)
                reason = "trained here by anomalib on the good images of all categories"
            except UnavailableError as exc:
                reason = f"{row.quoted}; {exc}"
        rows.append(Ours(row.label, values, published, reason))
    return Result(
        name=name,
        table=table,
        dataset=dataset.title,
        of_paper=dataset.name in table.datasets,
        model=detector.backbone.name,
        rows=tuple(rows),
        facts={
            "images": sum(len(category.test) for category in done.dataset.categories),
            "categories": len(done.dataset.categories),
            "seeds": list(seeds),
            "resolution": resolution,
            "recipe": detector.recipe.name,
            "machine": machine(detector),
        },
    )


def variant_of(row: PaperRow, detector: AnoVL) -> Variant:
    """The variant that computes a row.

    Raises:
        UsageError: the backbone cannot.
    """
    return Variant(name=folder_name(row.label), detector=detector.with_method(row.method), adapt=row.adapt)


def machine(detector: AnoVL) -> str:
    """What ran it: the device, and of a CPU its name and threads."""
    device = detector.backbone.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _value(
    done: Evaluation, variant: Variant, column: str, times: dict[str, tuple[float, float]]
) -> tuple[float, float | None] | None:
    if column == TIME:
        return times[variant.name]
    mean, std = done.mean(variant.name)[column], done.std(variant.name).get(column)
    return None if mean is None else (100 * mean, None if std is None else 100 * std)


def folder_name(label: str) -> str:
    """A label as the name of a folder: "+TTA (ours)" is "tta-ours"."""
    kept = "".join(character if character.isalnum() else "-" for character in label.lower())
    return "-".join(part for part in kept.split("-") if part)
