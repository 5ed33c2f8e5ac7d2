"""What must be right before a run: the root, the pictures, the masks. Headers are read, no picture is decoded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from anovl.addresses import AT_ONCE
from anovl.data.datasets.masks import size_problems
from anovl.data.datasets.own import is_synthetic
from anovl.data.datasets.records import Category, Sample
from anovl.data.datasets.scan import DatasetInfo, Scan
from anovl.data.datasets.tree import folders

_LOOKED_THROUGH = 200  # folders below a wrong root, in search of the right one


def misplaced(name: str, root: Path, infos: Mapping[str, DatasetInfo]) -> str | None:
    """Why the folder cannot be the root of the data set, and what to name instead; None where it may be.

    Args:
        name: key of `infos`.
        root: what the user named.
        infos: every data set.
    """
    info = infos[name]
    if not root.exists():
        return "no such file or folder"
    if name == "manifest":
        return None if root.is_file() else "is a folder, expected a CSV or JSON lines file"
    if not root.is_dir():
        return "is a file, expected a folder" + ("; for a list of pictures name 'manifest'" if name == "folder" else "")
    if not info.signs:
        return None
    if name == "synthetic":
        return None if info.recognises(root) else "no dataset.json, which `anovl synth` writes last"
    others = [other for other in infos if other != name and infos[other].recognises(root)]
    if info.recognises(root) and not is_synthetic(root):  # which has classes of MVTec AD
        return None
    if others:  # the last, "synthetic", where there are several
        return f"this is {infos[others[-1]].title}: name {others[-1]!r} instead of {name!r}"
    if any((root / known.name).is_dir() for known in info.classes):
        return None
    absolute = root.absolute()
    for child, parent in zip((absolute, *absolute.parents), absolute.parents[:3], strict=False):
        if info.recognises(parent):
            names = [known.name for known in info.classes]
            category = f" and {child.name!r} as the category" if child.name in names else ""
            return f"is part of the data set: name {parent} as the root{category}"
    below = folders(root)
    for candidate in [*below, *(deeper for each in below for deeper in folders(each))][:_LOOKED_THROUGH]:
        if info.recognises(candidate):
            return f"the data set is deeper: name {candidate} as the root"
    classes = f"none of its classes is there ({', '.join(known.name for known in info.classes)})" if len(info.classes) > 1 else ""
    return (classes or "nothing of the data set is there") + "; for pictures of your own name 'folder'"


def check(scan: Scan, categories: list[Category]) -> None:
    """Note as problems: no test picture, a name twice, masks that are missing, shared, unreadable or of another size."""
    if not categories and not scan.problems:
        scan.problems.append("no picture is there")
    for category in categories:
        if not category.test:
            scan.problems.append(f"{category.name}: no test picture")
        counts = Counter(sample.key for sample in (*category.test, *category.train))
        scan.problems.extend(f"{category.name}: {key} stands {n} times" for key, n in counts.items() if n > 1)
        if category.has_masks:
            _check_masks(scan, category.test)


def overlooked(categories: list[Category], root: Path, infos: Mapping[str, DatasetInfo]) -> str | None:
    """Which data set a folder is whose labels were not found, if it is one."""
    if not categories or any(sample.anomalous is not None for category in categories for sample in category.test):
        return None
    name = next((name for name, info in infos.items() if info.recognises(root)), None)
    return name and f"this is {infos[name].title}: name {name!r} for its labels"


def _check_masks(scan: Scan, samples: tuple[Sample, ...]) -> None:
    without: dict[Path, list[Sample]] = defaultdict(list)
    owners = Counter(mask for sample in samples for mask in sample.masks)
    for mask, count in owners.items():
        if count > 1:
            scan.problem(mask, f"a mask of {count} pictures")
    counts = Counter(sample.image.parent for sample in samples if sample.anomalous)
    for sample in samples:
        if sample.anomalous and not sample.masks:
            without[sample.image.parent].append(sample)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, text in chain.from_iterable(pool.map(size_problems, (sample for sample in samples if sample.masks))):
            scan.problem(path, text)
    for folder, missing in without.items():
        if len(missing) == counts[folder] > 1:
            scan.problem(folder, f"none of its {len(missing)} defective pictures has a mask")
        else:
            scan.problems.extend(f"{sample.key}: defective, and no mask" for sample in missing)
