"""Layouts of the published data sets, class by class."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from anovl.data.datasets.masks import has_defect
from anovl.data.datasets.records import Category, Sample
from anovl.data.datasets.scan import Scan
from anovl.data.datasets.tree import Splits, Tree, folders, match_masks, pictures, places, read_tree
from anovl.errors import ImageError

_VISA_SPLIT = "split_csv/1cls.csv"
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")


def classes_of(read: Callable[[Scan, Path], Splits]) -> Callable[[Scan], list[Category]]:
    """Layout with a folder for each known class, read by `read`.

    Classes that are absent are a note, or a problem where they were asked for.
    """
    return lambda scan: _read_classes(scan, scan.root, read)


def trees(tree: Tree) -> Callable[[Scan], list[Category]]:
    """Layout of MVTec AD with other names of folders."""
    return classes_of(partial(read_tree, tree=tree))


def visa(scan: Scan) -> list[Category]:
    """VisA as downloaded, split by split_csv/1cls.csv, or as the authors' prepare_data.py rearranges it, in or above "1cls"."""
    base = scan.root / "1cls" if (scan.root / "1cls").is_dir() else scan.root
    if any((base / known.name / "Data" / "Images").is_dir() for known in scan.classes):
        rows = _visa_rows(scan)
        return _read_classes(scan, base, lambda scan, folder: _visa_class(scan, folder, rows))
    return _read_classes(scan, base, partial(read_tree, tree=Tree()))


def dagm(scan: Scan, folder: Path) -> Splits:
    """DAGM 2007: a picture is defective where Label/ beside it has a file for it."""
    splits: list[list[Sample]] = []
    for split in (folder / "Test", folder / "Train"):
        images = pictures(split, deep=False)
        label = split / "Label"
        if images and not label.is_dir():
            scan.problem(label, "no such folder; it tells which pictures are defective")
        masks = match_masks(scan, places(images, split), places(pictures(label), label), suffix="_label")
        splits.append([scan.sample(image, kind="bad" if masks[image] else "good", masks=masks[image]) for image in images])
    test, train = splits
    return test, [sample for sample in train if not sample.anomalous]


def ksdd(scan: Scan) -> list[Category]:
    """KolektorSDD: every picture is tested; there is no split but that of a cross-validation."""
    items = [folder for folder in folders(scan.root) if re.fullmatch(r"kos\d+", folder.name)]
    return _single(scan, _by_mask(scan, scan.root, [file for item in items for file in pictures(item)], "_label"), [])


def ksdd2(scan: Scan) -> list[Category]:
    """KolektorSDD2, without the copies of one picture and its mask that its archive holds."""
    test, train = (
        _by_mask(scan, split, [path for path in pictures(split) if not path.stem.endswith("(copy)")], "_GT")
        for split in (scan.root / "test", scan.root / "train")
    )
    return _single(scan, test, [sample for sample in train if not sample.anomalous])


def _read_classes(scan: Scan, base: Path, read: Callable[[Scan, Path], Splits]) -> list[Category]:
    categories, absent = [], []
    chosen = scan.choose(known.name for known in scan.classes)
    for known in scan.classes:
        if known.name not in chosen:
            continue
        if (base / known.name).is_dir():
            categories.append(scan.category(known, *read(scan, base / known.name)))
        elif scan.wanted is None:
            absent.append(known.name)
        else:
            scan.problem(base / known.name, "no such folder")
    if absent:
        scan.notes.append(f"{len(categories)} of {len(chosen)} classes; not there: {', '.join(absent)}")
    return categories


def _single(scan: Scan, test: Iterable[Sample], train: Iterable[Sample]) -> list[Category]:
    """The one category of a data set without classes."""
    (known,) = scan.classes
    return [scan.category(known, test, train) for _ in scan.choose([known.name])]


def _by_mask(scan: Scan, folder: Path, files: Iterable[Path], suffix: str) -> list[Sample]:
    """Pictures beside their masks, which all have one: a good picture's is empty."""
    files = list(files)
    masks = [path for path in files if path.stem.endswith(suffix)]
    images = [path for path in files if not path.stem.endswith(suffix)]
    samples = []
    for image, own in match_masks(scan, places(images, folder), places(masks, folder), suffix=suffix).items():
        if not own:
            scan.problem(image, f"no mask {image.stem}{suffix}, which tells whether it is good")
        try:
            kind = "bad" if any(has_defect(mask) for mask in own) else "good"
        except ImageError as exc:
            scan.problem(next(mask for mask in own if str(mask) == exc.path), exc.reason)
            continue
        samples.append(scan.sample(image, kind=kind, masks=own if kind == "bad" else ()))
    return samples


def _visa_rows(scan: Scan) -> list[tuple[str, ...]]:
    """Rows of the split: (object, split, label, image, mask) each."""
    path = scan.root / _VISA_SPLIT
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = list(csv.DictReader(stream))
    except FileNotFoundError:
        scan.problem(path, "no such file; it comes with the download and says what is tested")
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        scan.problem(path, f"cannot be read ({exc})")
        return []
    rows = [tuple((row.get(column) or "").strip() for column in _VISA_COLUMNS) for row in table]
    if not all(row[0] and row[3] for row in rows):
        scan.problem(path, f"expected the columns {', '.join(_VISA_COLUMNS)}, each row with an object and an image")
        return []
    return rows


def _visa_class(scan: Scan, folder: Path, rows: Iterable[tuple[str, ...]]) -> Splits:
    there = {scan.key(path) for path in pictures(folder / "Data")}
    test: list[Sample] = []
    train: list[Sample] = []
    listed: set[str] = set()
    for name, split, label, image, mask in rows:
        if name != folder.name:
            continue
        if split not in ("train", "test") or label not in ("normal", "anomaly"):
            scan.problem(scan.root / _VISA_SPLIT, f"{image} is {split!r}, {label!r}; expected train or test, normal or anomaly")
        listed.update((image, mask))
        missing = [path for path in (image, mask) if path and path not in there]
        for path in missing:
            scan.problem(scan.root / path, f"listed in {_VISA_SPLIT} and not there")
        if image not in missing:
            masks = [scan.root / mask] if mask and mask not in missing else []
            kind = "bad" if label == "anomaly" else "good"
            (test if split == "test" else train).append(scan.sample(scan.root / image, kind=kind, masks=masks))
    for mask_path in pictures(folder / "Data" / "Masks"):
        if scan.key(mask_path) not in listed:
            scan.problem(mask_path, f"a mask that {_VISA_SPLIT} does not list")
    return test, [sample for sample in train if not sample.anomalous]
