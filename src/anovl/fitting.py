"""Good pictures to a bank: the encoder's tokens through the engine's loop, without a score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl.config import FewShot
from anovl.data.sources import SourceItem
from anovl.detection import DetectionJob
from anovl.engine.local import out_of_memory_told
from anovl.errors import UsageError
from anovl.methods import FittingMethod, fitting_method
from anovl.methods.few_shot import MOST_PICTURES, Bank
from anovl.results import Pixels

Features = tuple[Tensor, ...]  # of a picture, for each path [M, D]
T = TypeVar("T")


def drawn(pictures: Sequence[T], shots: int, seed: int, *, name: str) -> list[T]:
    """So many of the pictures, drawn from the seed: fewer are the first of more.

    Args:
        pictures: good ones.
        shots: 1 to 64.
        seed: of the draw.
        name: what messages call the pictures.

    Raises:
        UsageError: there are fewer, or the number is out of range.
    """
    if not 1 <= shots <= MOST_PICTURES:
        raise UsageError(f"shots: expected 1 to {MOST_PICTURES}, got {shots}")
    if len(pictures) < shots:
        raise UsageError(f"{name}: expected at least {shots} good pictures to take, got {len(pictures)}; take fewer shots")
    return [pictures[index] for index in np.random.default_rng(seed).permutation(len(pictures))[:shots]]


@dataclass(frozen=True)
class FittingJob:
    """A detector bound to a class, to be fitted (`anovl.engine.pipeline.Work`).

    Attributes:
        job: whose class, model and settings count; its words do not.
        settings: of the bank.

    Raises:
        UsageError: the method has no memory of good pictures, or the backbone no such layer.
    """

    job: DetectionJob
    settings: FewShot

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", self.method.settled(self.settings))

    @property
    def method(self) -> FittingMethod:
        """Whose tokens are kept."""
        return fitting_method(self.job.detector.method_name, self.job.detector.method)

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """As the protocol says."""
        return self.job.load(image)

    def preprocess(self, picture: Image.Image) -> Pixels:
        """As the protocol says."""
        return self.job.pixels(picture)

    @torch.inference_mode()
    def score(self, batch: Sequence[Pixels]) -> list[Features]:
        """Tokens of each picture, on the CPU."""
        with out_of_memory_told():
            pixel_values = self.job.detector.to_pixel_values(torch.from_numpy(np.stack(batch)))
            paths = [path.float().cpu() for path in self.method.features(pixel_values, self.settings)]
        return [tuple(path[index] for path in paths) for index in range(len(batch))]

    def finish(self, item: SourceItem, size: tuple[int, int], scores: Features, timings: dict[str, float]) -> Features:
        """As the protocol says."""
        del item, size, timings
        return scores

    def bank(self, pictures: Iterable[Features]) -> Bank:
        """The bank of the pictures' tokens.

        Raises:
            UsageError: no picture, or more than 64.
        """
        return Bank.of(list(pictures), self.job.origin, self.settings)
