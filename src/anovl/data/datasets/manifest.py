"""A list of pictures with their labels and masks, as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anovl.addresses import AT_ONCE, explained, is_address, is_local, path_of
from anovl.data.datasets.records import Category, Sample
from anovl.data.datasets.scan import GOOD, UNNAMED, Scan, guess_class
from anovl.errors import UsageError

_GOOD_LABELS = GOOD | {"0", "0.0", "false"}
_BAD_LABELS = UNNAMED | {"1", "1.0", "true", "anomalous", "defect", "defective"}
_SPLITS = ("test", "train")


def manifest(scan: Scan) -> list[Category]:
    """Pictures by category, each row with image_path and, where known, category, class_name, label, defect, mask_path, split."""
    samples: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: {split: [] for split in _SPLITS})
    words: dict[str, str] = {}
    defective = 0
    rows = list(_rows(scan))
    is_file = _looked_up(scan, [row for _, row in rows if isinstance(row, dict)])
    for where, row in rows:
        if isinstance(row, str):
            scan.problems.append(f"{where}: {row}")
            continue
        sample, split = _sample(scan, where, row, is_file), _text(row, "split").lower() or "test"
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


def _rows(scan: Scan) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Each row, or what is wrong with it, with where it stands."""
    name = scan.source.name
    try:
        text = scan.source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        yield name, f"cannot be read ({exc})"
        return
    if text.lstrip().startswith("{"):
        yield from _json_rows(name, text.split("\n"))
        return
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "image_path" not in (table.fieldnames or ()):
            found = ", ".join(table.fieldnames or ()) or "nothing"
            yield name, f"expected a column image_path, found {found}"
            return
        for row in table:
            if None in row:
                yield f"{name}, line {table.line_num}", "more fields than columns"
            yield f"{name}, line {table.line_num}", row
    except csv.Error as exc:
        yield f"{name}, line {table.line_num}", f"not CSV ({exc})"


def _json_rows(name: str, lines: list[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as exc:
            yield where, f"not JSON ({exc})"
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            yield where, f'expected an object such as {{"image_path": "a.png"}}, got {line.strip()[:40]}'


def _sample(scan: Scan, where: str, row: dict[str, Any], is_file: Callable[[Path], bool]) -> Sample | None:
    image = _file(scan, where, row.get("image_path"), is_file)
    names = _mask_names(row)
    if names is None:
        scan.problems.append(f"{where}: the mask_path is {row['mask_path']!r}, expected a path or several")
        return None
    masks = [mask for name in names if (mask := _file(scan, where, name, is_file))]
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


def _mask_names(row: dict[str, Any]) -> Sequence[object] | None:
    """The masks that a row names; None where the field is of no use."""
    given = row.get("mask_path") or ()
    if isinstance(given, str):
        return [name.strip() for name in given.split(";") if name.strip()]
    return given if isinstance(given, list | tuple) else None


def _file(scan: Scan, where: str, given: object, is_file: Callable[[Path], bool]) -> Path | None:
    """An existing file; what is wrong with it is a problem."""
    path = _path(scan, given)
    if isinstance(path, str):
        scan.problems.append(f"{where}: {path}")
        return None
    if not is_file(path):
        scan.problems.append(f"{where}: no such file: {given}")
        return None
    return path


def _path(scan: Scan, given: object) -> Path | str:
    """A path given relative to the manifest's folder and staying in it, absolute, or by address; or what is wrong with it."""
    if not isinstance(given, str) or not given.strip():
        return f"expected a path, got {given!r}"
    name = given.strip()
    if is_address(name):
        return path_of(name)
    here = is_local(scan.root)
    if not here and name.startswith("/"):
        return f"{given} is a path of one machine, and the manifest is at an address; give the picture's address"
    name = os.path.normpath(name) if here else posixpath.normpath(name)
    if Path(name).parts[:1] == (os.pardir,):
        return f"{given} is outside the manifest's folder; give its {'absolute path' if here else 'address'}"
    return scan.root / name


def _looked_up(scan: Scan, rows: Sequence[dict[str, Any]]) -> Callable[[Path], bool]:
    """What tells whether a path is a file; those at addresses are looked up here, AT_ONCE of them together."""
    names = [name for row in rows for name in (row.get("image_path"), *(_mask_names(row) or ()))]
    paths = [path for path in map(partial(_path, scan), names) if not isinstance(path, str) and not is_local(path)]
    remote = {str(path): path for path in paths}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(remote, pool.map(_is_remote_file, remote.values()), strict=True))
    return lambda path: path.is_file() if is_local(path) else found[str(path)]


def _is_remote_file(path: Path) -> bool:
    with explained(str(path), UsageError):
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except FileNotFoundError:
            return False


def _text(row: dict[str, Any], column: str) -> str:
    """A field as text; empty where it is missing or null."""
    value = row.get(column)
    return "" if value is None else str(value).strip()
