"""Layouts of a user's own folders, and of what `anovl synth` writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from anovl.addresses import is_local
from anovl.data.datasets.records import Category
from anovl.data.datasets.scan import GOOD, KnownClass, Scan, guess_class
from anovl.data.datasets.tree import Tree, below, folders, pictures, read_tree

RECORD = "dataset.json"  # as in anovl.data.synthetic.layout, whose import takes 0.2 s
_MASKS = ("ground_truth", "masks")  # folders of masks beside those of pictures


def folder(scan: Scan) -> list[Category]:
    """One category, or a folder of them, each as MVTec AD or as "good" beside other folders; else pictures without labels.

    Masks are optional: with a folder of masks every defective picture needs one.
    """
    if tree := _tree_of(scan.root):
        found = {scan.root: tree}
    else:
        found = {path: tree for path in folders(scan.root) if path.name not in _MASKS and (tree := _tree_of(path))}
    if not found:
        return _unlabelled(scan)
    names = {path.name: path for path in found}
    return [_labelled(scan, names[name], found[names[name]]) for name in scan.choose(names)]


def synthetic(scan: Scan) -> list[Category]:
    """What `anovl synth` wrote; its record says the words and the kind of each class."""
    try:
        classes = _record(scan.root)["classes"]
        known = [KnownClass(each["folder"], each["name"], each["kind"]) for each in classes]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        scan.problem(scan.root / RECORD, f"not a record of `anovl synth` ({exc!r})")
        return []
    chosen = scan.choose(each.name for each in known)
    return [scan.category(each, *read_tree(scan, scan.root / each.name, Tree())) for each in known if each.name in chosen]


def is_synthetic(root: Path) -> bool:
    """True for a folder that `anovl synth` wrote to the end."""
    try:
        return "anovl" in _record(root)
    except (OSError, ValueError, TypeError):
        return False


def _record(root: Path) -> Any:
    return json.loads((root / RECORD).read_text(encoding="utf-8"))


def _tree_of(path: Path) -> Tree | None:
    """How a folder holds labelled pictures, if it does."""
    masks = next((name for name in _MASKS if (path / name).is_dir()), _MASKS[0])
    train = next((f"train/{each.name}" for each in folders(path / "train") if each.name.lower() in GOOD), "")
    if train or folders(path / "test"):  # without test pictures, that is what is wrong with it
        return Tree("test", masks, train or "train/good")
    if any(each.name.lower() in GOOD for each in folders(path)):
        return Tree("", masks, "train/good")
    return None


def _labelled(scan: Scan, path: Path, tree: Tree) -> Category:
    known = _known(path)
    test, train = read_tree(scan, path, tree)
    loose = len(pictures(path / tree.test, deep=False))
    if loose:
        scan.notes.append(f"{known.name}: {loose} pictures outside the folders of good and defective ones are left out")
    return scan.category(known, test, train, has_masks=any(sample.masks for sample in test))


def _unlabelled(scan: Scan) -> list[Category]:
    images = [path for path in pictures(scan.root) if not set(below(path, scan.root).parts) & set(_MASKS)]
    if images:
        scan.notes.append("no labels: no folder is named good, normal or ok, so there is nothing to compare scores with")
    known = _known(scan.root)
    test = [scan.sample(image, kind=None) for image in images]
    return [scan.category(known, test, has_masks=False) for _ in scan.choose([known.name])]


def _known(path: Path) -> KnownClass:
    """The class that a folder's name tells, also where it is named "." or "..", or is a drive."""
    whole = Path(os.path.abspath(path)) if is_local(path) else path  # noqa: PTH100 -- resolve() would follow a link
    return guess_class(whole.name or "pictures")
