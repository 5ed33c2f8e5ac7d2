"""What a data set is once loaded, and the error that lists what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anovl.errors import UsageError

Kind = Literal["object", "texture"]

_LISTED = 20  # problems a message names


@dataclass(frozen=True)
class Sample:
    """One picture.

    Attributes:
        image: its file.
        key: its path below the data set's root, "/" between folders; its name in results, unique in its category.
        anomalous: whether it shows a defect; None where the data set does not say.
        defect: "good", the kind of defect, "defect" where kinds have no name, "unknown" without label.
        masks: files whose union is the defect; none for a good picture.
    """

    image: Path
    key: str
    anomalous: bool | None
    defect: str
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Category:
    """One class of a data set.

    Attributes:
        name: as the data set's folder, such as "metal_nut".
        class_name: what a prompt says, such as "metal nut".
        kind: whether its pictures show an object or a surface.
        test: pictures to score, sorted by key.
        train: good pictures to train on, sorted by key; may be empty.
        has_masks: every defective test picture has a mask, so pixel figures are possible.
    """

    name: str
    class_name: str
    kind: Kind
    test: tuple[Sample, ...]
    train: tuple[Sample, ...]
    has_masks: bool


@dataclass(frozen=True)
class Dataset:
    """A data set on disk, checked.

    Attributes:
        name: as in `DATASETS`.
        title: its full name.
        root: folder that keys are relative to.
        categories: at least one.
        licence, address, paper: whose it is and on what terms.
        notes: what a reader of its figures must know.
    """

    name: str
    title: str
    root: Path
    categories: tuple[Category, ...]
    licence: str
    address: str
    paper: str
    notes: tuple[str, ...]


class DatasetError(UsageError):
    """A data set on disk is not what it should be.

    Attributes:
        problems: everything that is wrong, one sentence each.
    """

    def __init__(self, where: str, problems: Sequence[str], expected: str = "") -> None:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        lines = [f"{where}: {count}", *(f"- {problem}" for problem in problems[:_LISTED])]
        if len(problems) > _LISTED:
            lines.append(f"- and {len(problems) - _LISTED} more")
        if expected:
            lines.append(f"Expected: {expected}")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)
        self._arguments = (where, self.problems, expected)

    def __reduce__(self) -> tuple[type[DatasetError], tuple[str, tuple[str, ...], str]]:
        return type(self), self._arguments
