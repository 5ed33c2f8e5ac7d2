"""The layout of MVTec AD, which most data sets follow: CLASS/test/KIND/000.png, CLASS/ground_truth/KIND/000_mask.png."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anovl.addresses import is_local
from anovl.data.datasets.records import Sample
from anovl.data.datasets.scan import GOOD, Scan
from anovl.data.images import SUFFIXES

Splits = tuple[list[Sample], list[Sample]]  # test, train


@dataclass(frozen=True)
class Tree:
    """Names of the folders below a class: tested pictures by kind, their masks, good pictures to train on."""

    test: str = "test"
    masks: str = "ground_truth"
    train: str = "train/good"


def read_tree(scan: Scan, folder: Path, tree: Tree) -> Splits:
    """The pictures of one class.

    A mask of "test/KIND/a.png" is "ground_truth/KIND/a_mask.png", "ground_truth/KIND/a.png" or any picture in the folder
    "ground_truth/KIND/a" (MVTec LOCO), with any suffix of an image; where there is no folder "ground_truth/KIND", the
    same directly in "ground_truth". A mask that belongs to no picture is a problem.
    """
    truth, train = folder / tree.masks, folder / tree.train
    kinds = [kind for kind in folders(folder / tree.test) if kind not in (truth, train.parent)]
    images = {kind: pictures(kind) for kind in kinds}
    masks: dict[Path, list[Path]] = {}
    unsorted: dict[Path, PurePosixPath] = {}  # pictures whose masks are not in a folder of their kind
    sorted_masks = {kind.name for kind in kinds if (truth / kind.name).is_dir()}
    for kind, own in images.items():
        if kind.name.lower() in GOOD:
            continue
        if kind.name in sorted_masks:
            masks |= match_masks(scan, places(own, kind), places(pictures(truth / kind.name), truth / kind.name))
        else:
            unsorted |= places(own, kind)
    others = {
        mask: place
        for mask, place in places(pictures(truth), truth).items()
        if place.parts[0] not in sorted_masks and place.parts[0].lower() not in GOOD
    }
    masks |= match_masks(scan, unsorted, others)
    test = [scan.sample(image, kind=kind.name, masks=masks.get(image, ())) for kind, own in images.items() for image in own]
    return test, [scan.sample(image, kind="good") for image in pictures(train)]


def below(path: Path, folder: Path) -> PurePosixPath:
    """A file's path below a folder, of whichever file system."""
    return PurePosixPath(path.relative_to(folder).as_posix())


def places(paths: Iterable[Path], folder: Path) -> dict[Path, PurePosixPath]:
    """Each file's path below a folder, without suffix."""
    return {path: below(path, folder).with_suffix("") for path in paths}


def match_masks(
    scan: Scan, images: Mapping[Path, PurePosixPath], masks: Mapping[Path, PurePosixPath], *, suffix: str = "_mask"
) -> dict[Path, list[Path]]:
    """The masks of each picture, by their places; a mask that belongs to no picture is a problem."""
    found: dict[Path, list[Path]] = {image: [] for image in images}
    owners: dict[PurePosixPath, list[Path]] = defaultdict(list)
    for image, place in images.items():
        owners[place].append(image)
    for mask, place in masks.items():
        tried = (place.with_name(place.name.removesuffix(suffix) or place.name), place, place.parent)
        owner = next((place for place in tried if place in owners), None)
        if owner is None:
            scan.problem(mask, "a mask without picture")
        else:
            for image in owners[owner]:
                found[image].append(mask)
    return found


def folders(path: Path) -> list[Path]:
    """Folders in a folder, sorted; none where it is not there. Hidden ones left out."""
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def pictures(path: Path, *, deep: bool = True) -> list[Path]:
    """Files with the suffix of an image in a folder, sorted; `deep` also below it. Hidden ones and linked folders left out."""
    if not is_local(path):  # of another file system, which lists all at once
        remote: Any = path
        base = remote.path.rstrip("/")
        names = [PurePosixPath(name[len(base) :].lstrip("/")) for name in remote.fs.find(base, maxdepth=None if deep else 1)]
        shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        return sorted(path / name.as_posix() for name in shown if name.suffix.lower() in SUFFIXES)
    found: list[Path] = []
    for here, deeper, files in os.walk(path, onerror=_unreadable):
        deeper[:] = [name for name in deeper if deep and not name.startswith(".")]
        found.extend(Path(here, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
    return sorted(found)


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
