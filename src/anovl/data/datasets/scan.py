"""What is known of a data set before a file of it is seen, and the look through its files."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anovl.addresses import is_local
from anovl.data.datasets.records import Category, Kind, Sample
from anovl.errors import suggest

GOOD = frozenset({"good", "normal", "ok"})  # folders and labels, lower case
UNNAMED = frozenset({"bad", "ko", "ng", "anomaly", "abnormal"})  # folders that tell a defect, not which
TEXTURES = frozenset({"carpet", "fabric", "grid", "leather", "tile", "wood"})  # classes that fill the picture


@dataclass(frozen=True)
class KnownClass:
    """A class of a published data set: its folder, the words for it, and what its pictures show."""

    name: str
    class_name: str
    kind: Kind


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before a file of it is seen.

    Attributes:
        title, licence, address, paper: as in `Dataset`.
        shape: where its files are, for messages and help.
        layout: finds its pictures and masks.
        classes: its classes in their order; none where the files say.
        signs: globs below a root that tell it, "{}" standing for a class.
        notes: as in `Dataset`.
    """

    title: str
    licence: str
    address: str
    paper: str
    shape: str
    layout: Callable[[Scan], list[Category]]
    classes: tuple[KnownClass, ...] = ()
    signs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def recognises(self, root: Path) -> bool:
        """True where the folder holds at least one class in this data set's layout."""
        names = [known.name for known in self.classes] or [""]
        patterns = {sign.format(name) for sign in self.signs for name in names}
        if is_local(root):
            return any(next(root.glob(pattern), None) is not None for pattern in patterns)
        remote: Any = root
        base = glob.escape(remote.path.rstrip("/"))  # which UPath.glob takes for a part of the pattern
        return any(remote.fs.glob(f"{base}/{pattern}") for pattern in patterns)


@dataclass
class Scan:
    """One look through a data set on disk, and what it finds wrong.

    Attributes:
        root: folder that keys are relative to.
        source: what the user named, the root or a manifest.
        classes: the known ones.
        wanted: categories asked for; None for all.
        class_name: words to use for every category instead of its own.
        problems: what makes it unusable.
        notes: what the reader must know.
    """

    root: Path
    source: Path
    classes: tuple[KnownClass, ...]
    wanted: tuple[str, ...] | None
    class_name: str | None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def key(self, path: Path) -> str:
        """The path below the root, or without its drive where it is elsewhere; "/" between folders."""
        return path.relative_to(self.root if path.is_relative_to(self.root) else path.anchor).as_posix()

    def problem(self, path: Path, text: str) -> None:
        """Note what is wrong with a file or folder."""
        self.problems.append(f"{self.key(path) if path.is_relative_to(self.root) else path}: {text}")

    def choose(self, names: Iterable[str]) -> list[str]:
        """The names asked for, in the order given here; case and "_" for " " do not matter. Unknown ones are problems."""
        known = list(names)
        if self.wanted is None:
            return known
        plain = set(map(_plain, known))
        self.problems.extend(suggest("category", name, known) for name in self.wanted if _plain(name) not in plain)
        asked = set(map(_plain, self.wanted))
        return [name for name in known if _plain(name) in asked]

    def sample(self, image: Path, *, kind: str | None, masks: Iterable[Path] = ()) -> Sample:
        """A picture by the name of its folder or defect; None where nothing tells."""
        key = self.key(image)
        if kind is None:
            return Sample(image, key, None, "unknown")
        if kind.lower() in GOOD:
            return Sample(image, key, anomalous=False, defect="good")
        defect = "defect" if kind.lower() in UNNAMED else kind
        return Sample(image, key, anomalous=True, defect=defect, masks=tuple(sorted(masks, key=str)))

    def category(
        self, known: KnownClass, test: Iterable[Sample], train: Iterable[Sample] = (), *, has_masks: bool = True
    ) -> Category:
        """A category with its pictures in order."""

        def in_order(samples: Iterable[Sample]) -> tuple[Sample, ...]:
            return tuple(sorted(samples, key=lambda sample: sample.key))

        words = self.class_name or known.class_name
        return Category(known.name, words, known.kind, in_order(test), in_order(train), has_masks)


def guess_class(name: str) -> KnownClass:
    """A class of which only the folder's name is known."""
    words = " ".join(name.replace("_", " ").split()) or name
    return KnownClass(name, words, "texture" if words.lower() in TEXTURES else "object")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
