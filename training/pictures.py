"""Blocks of drawn pictures for training; a block depends on (seed, number) alone, so that a run can resume exactly."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from words import TRAINED

from anovl.data.synthetic import CLASSES, Sample, draw

FIRST_TRAINING_SEED = 2**56  # every seed below is for validation, demo and verdict
MASK_CELL = 4  # pixels of a mask cell
SHAPE = ("bent", "missing part", "misplaced part")  # kinds of defects that no single patch shows
KINDS = {kind: [name for name in TRAINED if CLASSES[name].kind == kind] for kind in ("object", "texture")}


@dataclass(frozen=True)
class Block:
    """P pictures: images [P, 3, S, S] uint8, cells [P, S/4, S/4] (share of defect in 0..255), classes and kinds by name.

    `things` [P] numbers what is shown: a defective picture and the same thing without the defect share a number.
    """

    images: Tensor
    cells: Tensor
    classes: list[str]
    kinds: list[str | None]
    things: NDArray[np.int64]


def draw_block(
    key: list[int],
    *,
    size: int,
    pictures: int,
    objects: float,
    severity: tuple[float, float] = (0.0, 1.0),
    shape: float = 0.0,
    pool: Executor | None = None,
) -> Block:
    """Draw a block: two in three defective, most of those beside the same thing without the defect.

    Args:
        key: what it depends on: the run's seed, the number of the block, and so on.
        size: pixels of a side.
        pictures: P.
        objects: about this share of them shows objects, the rest surfaces.
        severity: of the defects, see `draw`.
        shape: this share of an object's defects is drawn from those of its shape and parts, the rest from all kinds.
        pool: processes that draw; None draws here.
    """
    rng = np.random.default_rng(key)
    jobs: list[tuple[str, int, str | None]] = []
    things: list[int] = []
    while len(jobs) < pictures:
        names = KINDS["object" if rng.random() < objects else "texture"]
        name = names[int(rng.integers(len(names)))]
        kinds = CLASSES[name].defects
        if shape and rng.random() < shape:
            kinds = tuple(kind for kind in kinds if kind in SHAPE) or kinds
        seed = FIRST_TRAINING_SEED + int(rng.integers(2**48))
        defective = rng.random() < 0.67
        if defective:
            jobs.append((name, seed, kinds[int(rng.integers(len(kinds)))]))
        if not defective or rng.random() < 0.6:
            jobs.append((name, seed, None))
        things += [len(things)] * (len(jobs) - len(things))
    one = partial(_draw, size=size, severity=severity)
    samples = list(map(one, jobs[:pictures]) if pool is None else pool.map(one, jobs[:pictures], chunksize=8))
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples])).float()[:, None]
    cells = (torch.nn.functional.avg_pool2d(masks, MASK_CELL)[:, 0] * 255).round().byte()
    classes, found = [sample.class_name for sample in samples], [sample.defect for sample in samples]
    return Block(images, cells, classes, found, np.array(things[:pictures]))


def _draw(job: tuple[str, int, str | None], *, size: int, severity: tuple[float, float]) -> Sample:
    name, seed, defect = job
    return draw(name, seed, size=size, defect=defect, severity=severity)


def turned(images: Tensor, cells: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch turned by a multiple of 90 degrees, mirrored, and with its channels in another order, as one."""
    turns = int(rng.integers(4))
    images, cells = images.rot90(turns, (2, 3)), cells.rot90(turns, (1, 2))
    if rng.random() < 0.5:
        images, cells = images.flip(3), cells.flip(2)
    return images[:, torch.from_numpy(rng.permutation(3))], cells
