"""Figures of scores and maps that lie in a folder, whoever made them, by the metrics of `anovl evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anovl.data.datasets import Category, Dataset, read_mask, resize_mask
from anovl.errors import UsageError
from anovl.evaluation.measuring import ImageRow, Measured, Part, measure
from anovl.files import ROWS
from anovl.render.writers import read_rows
from anovl.results import FloatArray


def read_results(folder: str | Path) -> Iterator[tuple[dict[str, Any], FloatArray]]:
    """Rows of predictions.jsonl, each with its map, one in memory at a time.

    Args:
        folder: of `anovl.integrations.anomalib_results.ResultWriter`, or of ``anovl predict --save map``.

    Yields:
        the row, and its map float32 [H, W] in [0, 1].

    Raises:
        UsageError: no results are there, or a map is missing.
        OutputError: a row is broken.
    """
    found = False
    for row in read_rows(Path(folder) / ROWS):
        found = True
        yield row, np.load(_map_file(Path(folder), row["image_path"]), allow_pickle=False)
    if not found:
        raise UsageError(f"{folder}: expected a folder with {ROWS} and map/, got none of its rows")


def _map_file(folder: Path, name: str) -> Path:
    path = folder / "map" / name
    for candidate in (path.with_name(f"{path.name}.npy"), path.with_suffix(".npy")):
        if candidate.is_file():
            return candidate
    raise UsageError(f"{folder}: no map of {name}; write maps as .npy files, with `anovl predict --save map` for one")


def measure_results(folder: str | Path, dataset: Dataset, *, bootstrap: int = 0) -> dict[str, Measured]:
    """The figures of each category of a data set, maps and masks compared at the size of the maps.

    Args:
        folder: as `read_results`; its rows are named as the data set's samples are, by their path below its root.
        dataset: see `anovl.datasets.load`; categories without a row are left out.
        bootstrap: resamples for the intervals; 0 leaves them out.

    Raises:
        UsageError: as `read_results`, a row is no picture of the data set, or a category is not whole.
    """
    where = {sample.key: (category, sample) for category in dataset.categories for sample in category.test}
    parts: dict[str, Part] = {}
    for row, values in read_results(folder):
        if row["image_path"] not in where:
            raise UsageError(f"{folder}: {row['image_path']} is no test picture of {dataset.root}; load the data set they are of")
        category, sample = where[row["image_path"]]
        part = parts.setdefault(category.name, Part.empty(category, seeds=1))
        mask = None
        if category.has_masks and sample.anomalous is not None:
            height, width = row["image_size"]
            mask = resize_mask(read_mask(sample, (height, width)), values.shape)
        part.tallies[0].update(sample, row["pred_score"], values, mask)
        part.images.append(ImageRow(sample.key, sample.defect, sample.anomalous, row["pred_score"], None))
    return {name: _figures(folder, parts[name], category, bootstrap) for name, category in _named(dataset, parts)}


def _named(dataset: Dataset, parts: dict[str, Part]) -> Iterator[tuple[str, Category]]:
    return ((category.name, category) for category in dataset.categories if category.name in parts)


def _figures(folder: str | Path, part: Part, category: Category, bootstrap: int) -> Measured:
    if len(part.images) != len(category.test):
        raise UsageError(
            f"{folder}: results of {len(part.images)} of {len(category.test)} pictures of {category.name}; score all"
        )
    return measure([part], category, seeds=1, bootstrap=bootstrap)
