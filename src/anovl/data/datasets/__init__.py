"""Data sets on disk, in the layouts they come in: found, checked before a run, never downloaded.

Example:
    >>> dataset = load("mvtec", "MVTec_AD", categories=["bottle"])
    >>> [sample.key for sample in dataset.categories[0].test][:1]
    ['bottle/test/broken_large/000.png']
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from anovl.addresses import explained, is_local, path_of
from anovl.data.datasets.catalog import DATASETS
from anovl.data.datasets.checks import check, misplaced, overlooked
from anovl.data.datasets.masks import BoolArray, read_mask, resize_mask
from anovl.data.datasets.records import Category, Dataset, DatasetError, Kind, Sample
from anovl.data.datasets.scan import DatasetInfo, KnownClass, Scan
from anovl.errors import UsageError, suggest

__all__ = [
    "DATASETS",
    "BoolArray",
    "Category",
    "Dataset",
    "DatasetError",
    "DatasetInfo",
    "Kind",
    "KnownClass",
    "Sample",
    "load",
    "read_mask",
    "resize_mask",
]


def load(name: str, root: str | Path, *, categories: Sequence[str] | None = None, class_name: str | None = None) -> Dataset:
    """Find the pictures and masks of a data set and check them, reading headers and decoding nothing.

    KolektorSDD and KolektorSDD2 are the exception: their masks are decoded, for they alone tell good from defective.

    Args:
        name: a key of `DATASETS`.
        root: its folder; for "manifest" the file; or the address of either, such as "s3://bucket/MVTec_AD".
        categories: those to load, "_" or " " in the name; None for all that are there.
        class_name: words for prompts instead of each category's own.

    Raises:
        UsageError: an unknown data set, no category, a class name that cannot be said.
        DatasetError: with everything that is wrong on disk.
    """
    if name not in DATASETS:
        raise UsageError(suggest("data set", name, DATASETS))
    if isinstance(categories, str) or (categories is not None and not categories):
        raise UsageError(f"categories: expected at least one name in a list, or None for all, got {categories!r}")
    if class_name is not None and not (class_name.strip() and class_name.isprintable()):
        raise UsageError(f"class name: expected a word or two, such as 'metal nut', got {class_name!r}")
    info, source = DATASETS[name], path_of(root)
    scan = Scan(
        root=source.parent if name == "manifest" else source,
        source=source,
        classes=info.classes,
        wanted=None if categories is None else tuple(categories),
        class_name=class_name,
    )
    found: list[Category] = []
    with nullcontext() if is_local(source) else explained(str(source), UsageError):
        try:
            if reason := misplaced(name, source, DATASETS):
                scan.problems.append(reason)
            else:
                found = info.layout(scan)
                check(scan, found)
        except OSError as exc:
            scan.problems.append(f"{exc.filename or source}: cannot be read ({exc.strerror or exc})")
        if name == "folder" and (hint := overlooked(found, source, DATASETS)):
            (scan.problems or scan.notes).append(hint)
    if scan.problems:
        raise DatasetError(f"{name} in {source}", scan.problems, info.shape)
    return Dataset(
        name=name,
        title=info.title,
        root=scan.root,
        categories=tuple(found),
        licence=info.licence,
        address=info.address,
        paper=info.paper,
        notes=(*info.notes, *scan.notes),
    )
