"""What every method offers and what it needs of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from anovl.config import Attention, FewShot, Recipe
from anovl.core.adapter import Adapter
from anovl.core.encoder import Encoder, ViTEncoder
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures
from anovl.errors import UsageError
from anovl.methods.few_shot import Bank


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
        recipe: the settings in force: the user's, with what the method itself decides.
        wording: the words its prompts are made of unless the user says otherwise.
        names: whether it compares its local tokens with names of defects (`TextFeatures.names`).
        adapts: whether it takes adapters, that is, has test-time adaptation.
        fits: whether it is a `FittingMethod`, which keeps a memory of good pictures.
        encoder: the image tower with this method's local path.
        logit_scale: the factor on cosines that its scores were made with.
    """

    recipe: Recipe
    wording: ClassVar[Wording]
    names: ClassVar[bool]
    adapts: ClassVar[bool]
    fits: ClassVar[bool]
    encoder: Encoder
    logit_scale: float

    def __init__(self, model: VisionModel, recipe: Recipe) -> None: ...

    def score(self, pixel_values: Tensor, text: TextFeatures, adapters: Sequence[Adapter] = ()) -> Scores:
        """Scores of a batch.

        Args:
            pixel_values: [B, 3, H, W] on the encoder's device, normalised.
            text: of the class, on the same device.
            adapters: test-time adaptations of the class, one a seed; none is training-free, and all that a method
                without `adapts` can do.
        """


class FittingMethod(Method, Protocol):
    """A method that can keep what good pictures look like; see `anovl.methods.few_shot`."""

    def with_bank(self, bank: Bank) -> Method:
        """The same method with a memory of good pictures, which is on the encoder's device."""

    def settled(self, settings: FewShot) -> FewShot:
        """The settings with layers by their numbers, and with the weight where the method has but one.

        Raises:
            UsageError: the backbone has no such layer, or the method reads none, or has no such weight.
        """

    def features(self, pixel_values: Tensor, settings: FewShot) -> tuple[Tensor, ...]:
        """What a bank keeps of a batch, [B, M, D] for each path, by settings that are settled."""


def class_token_tower(model: VisionModel, method: str, layers: int | None = None) -> ViTEncoder:
    """The image tower of a backbone with its ordinary attention, for methods that read a transformer's class token.

    Raises:
        UsageError: it is a ResNet, or a ViT that pools its patches instead of a class token, or has fewer layers.
    """
    encoder = model.encoder("qkv", layers)
    if isinstance(encoder, ViTEncoder) and not encoder.mean_pooled:
        return encoder
    kind = "one that pools its patches (CLIPA)" if isinstance(encoder, ViTEncoder) else "a ResNet"
    raise UsageError(
        f"method {method}: expected a ViT that describes an image by its class token, got {kind}; take another model"
    )
