"""Good pictures to a bank: the encoder's tokens through the engine's loop, without a score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from anovl.config import FewShot
from anovl.data.sources import SourceItem
from anovl.detection import DetectionJob
from anovl.devices import to_device
from anovl.engine.local import out_of_memory_told
from anovl.methods import FittingMethod, fitting_method
from anovl.methods.few_shot import Bank, chosen_layers

Features = tuple[Tensor, ...]  # of a picture, for each path [M, D]


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
        layers = chosen_layers(self.settings.layers, self.method.encoder)
        object.__setattr__(self, "settings", replace(self.settings, layers=layers))

    @property
    def method(self) -> FittingMethod:
        """Whose tokens are kept."""
        return fitting_method(self.job.detector.method_name, self.job.detector.method)

    def load(self, image: Any) -> tuple[Image.Image, tuple[int, int]]:
        """As the protocol says."""
        return self.job.load(image)

    def preprocess(self, picture: Image.Image) -> Tensor:
        """As the protocol says."""
        return self.job.preprocess(picture)

    @torch.inference_mode()
    def score(self, batch: Sequence[Tensor]) -> list[Features]:
        """Tokens of each picture, on the CPU."""
        with out_of_memory_told():
            pixels = to_device(torch.stack(list(batch)), self.job.detector.backbone.device)
            paths = [path.float().cpu() for path in self.method.features(pixels, self.settings)]
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
