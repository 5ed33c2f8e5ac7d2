"""MaskCLIP: the values of the last attention layer as dense features.

Extract Free Dense Labels from CLIP (Zhou, Loy, Dai 2022, arXiv:2112.01071).
"""

from __future__ import annotations

from typing import Any, ClassVar

from anovl.config import Recipe
from anovl.methods.anovl import AnoVLMethod
from anovl.methods.base import VisionModel


class MaskCLIPMethod(AnoVLMethod):
    """Value and output projection of the last block without residual and MLP, then ln_post and the projection.

    The attention pool of a ResNet has no residual, so that there it is `v-last`. The words are AnoVL's: the paper's
    85 ImageNet templates name a class but no state, and with the same words the comparison is one of image features.
    The paper segments and gives an image no score; the recipe's image score stands.
    """

    decided: ClassVar[dict[str, Any]] = {"attention": "v", "layers": 1}

    def __init__(self, model: VisionModel, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        self.encoder.residual = False
