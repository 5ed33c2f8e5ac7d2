"""A list of pictures with their labels and masks, as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from anovl.addresses import is_address, path_of
from anovl.data.datasets.records import Category, Sample
from anovl.data.datasets.scan import GOOD, UNNAMED, Scan, guess_class

_GOOD_LABELS = GOOD | {"0", "0.0", "false"}
_BAD_LABELS = UNNAMED | {"1", "1.0", "true", "anomalous", "defect", "defective"}
_SPLITS = ("test", "train")


def manifest(scan: Scan) -> list[Category]:
    """Pictures by category, each row with image_path and, where known, category, class_name, label, defect, mask_path, split."""
    samples: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: {split: [] for split in _SPLITS})
    words: dict[str, str] = {}
    defective = 0
    for where, row in _rows(scan):
        sample, split = _sample(scan, where, row), _text(row, "split").lower() or "test"
        category = _text(row, "category") or scan.source.stem
        if split not in _SPLITS:
            scan.problems.append(f"{where}: the split is {split!r}, expected test or train")
            continue
        if Path(category).name != category:
            scan.problems.append(f"{where}: the category is {category!r}, expected a name without folders")
            continue
        class_name = _text(row, "class_name")
        if class_name and words.setdefault(category, class_name) != class_name:
            scan.problems.append(f"{where}: {category} is called {class_name!r} here and {words[category]!r} before")
        if sample is None:
            continue
        if split == "train" and sample.anomalous:
            defective += 1
        else:
            samples[category][split].append(sample)
    if defective:
        scan.notes.append(f"{defective} defective pictures of the split train left out")
    categories = []
    for name in scan.choose(sorted(samples)):
        known = guess_class(name)
        known = replace(known, class_name=words.get(name, known.class_name))
        test, train = samples[name]["test"], samples[name]["train"]
        categories.append(scan.category(known, test, train, has_masks=any(sample.masks for sample in test)))
    return categories


def _rows(scan: Scan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with where it stands, for messages."""
    name = scan.source.name
    try:
        text = scan.source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        scan.problems.append(f"{name}: cannot be read ({exc})")
        return
    if text.lstrip().startswith("{"):
        yield from _json_rows(scan, text.split("\n"))
        return
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "image_path" not in (table.fieldnames or ()):
            found = ", ".join(table.fieldnames or ()) or "nothing"
            scan.problems.append(f"{name}: expected a column image_path, found {found}")
            return
        for row in table:
            if None in row:
                scan.problems.append(f"{name}, line {table.line_num}: more fields than columns")
            yield f"{name}, line {table.line_num}", row
    except csv.Error as exc:
        scan.problems.append(f"{name}, line {table.line_num}: not CSV ({exc})")


def _json_rows(scan: Scan, lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{scan.source.name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as exc:
            scan.problems.append(f"{where}: not JSON ({exc})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            scan.problems.append(f'{where}: expected an object such as {{"image_path": "a.png"}}, got {line.strip()[:40]}')


def _sample(scan: Scan, where: str, row: dict[str, Any]) -> Sample | None:
    image = _file(scan, where, row.get("image_path"))
    given = row.get("mask_path") or ()
    names = [name.strip() for name in given.split(";") if name.strip()] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        scan.problems.append(f"{where}: the mask_path is {given!r}, expected a path or several")
        return None
    masks = [mask for name in names if (mask := _file(scan, where, name))]
    label, defect = _text(row, "label").lower(), _text(row, "defect")
    if label and label not in _GOOD_LABELS | _BAD_LABELS:
        scan.problems.append(f"{where}: the label is {label!r}, expected 0 or good, 1 or anomalous, or nothing")
        return None
    good = label in _GOOD_LABELS if label else defect.lower() in GOOD
    if label and defect and good != (defect.lower() in GOOD):
        scan.problems.append(f"{where}: the label is {label!r} and the defect {defect!r}")
        return None
    if image is None:
        return None
    if not label and not defect:
        return scan.sample(image, kind=None)
    return scan.sample(image, kind="good" if good else defect or "bad", masks=masks)


def _file(scan: Scan, where: str, given: object) -> Path | None:
    """An existing file, given relative to the manifest's folder and staying in it, absolute, or by address."""
    if not isinstance(given, str) or not given.strip():
        scan.problems.append(f"{where}: expected a path, got {given!r}")
        return None
    name = given.strip()
    if not is_address(name):
        name = os.path.normpath(name)
        if Path(name).parts[:1] == (os.pardir,):
            scan.problems.append(f"{where}: {given} is outside the manifest's folder; give its absolute path")
            return None
    path = path_of(name) if is_address(name) else scan.root / name
    if not path.is_file():
        scan.problems.append(f"{where}: no such file: {given}")
        return None
    return path


def _text(row: dict[str, Any], column: str) -> str:
    """A field as text; empty where it is missing or null."""
    value = row.get(column)
    return "" if value is None else str(value).strip()
