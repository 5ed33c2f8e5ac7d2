"""What every method offers and what it needs of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from anovl.config import Attention, Recipe
from anovl.core.adapter import Adapter
from anovl.core.encoder import Encoder
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures


class VisionModel(Protocol):
    """The part of a backbone that methods see."""

    @property
    def logit_scale(self) -> float:
        """Factor on cosines the model was trained with."""

    def encoder(self, attention: Attention = "vv", layers: int | None = None) -> Encoder:
        """The image tower with a local path."""


class Method(Protocol):
    """One system: words, and scores from pixels and text features.

    Attributes:
        recipe: the settings in force, which a method may narrow.
        wording: the words its prompts are made of unless the user says otherwise.
        encoder: the image tower with this method's local path.
        logit_scale: the factor on cosines that its scores were made with.
    """

    recipe: Recipe
    wording: ClassVar[Wording]
    encoder: Encoder
    logit_scale: float

    def __init__(self, model: VisionModel, recipe: Recipe) -> None: ...

    def score(self, pixel_values: Tensor, text: TextFeatures, adapters: Sequence[Adapter] = ()) -> Scores:
        """Scores of a batch.

        Args:
            pixel_values: [B, 3, H, W] on the encoder's device, normalised.
            text: of the class, on the same device.
            adapters: test-time adaptations of the class, one a seed; none is training-free.
        """
