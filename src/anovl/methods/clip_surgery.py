"""CLIP Surgery: a second path of value-to-value attention beside the last blocks.

CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary Tasks (Li, Wang, Duan, Li 2023,
arXiv:2304.05653).
"""

from __future__ import annotations

from dataclasses import replace

from anovl.config import Recipe
from anovl.methods.anovl import AnoVLMethod
from anovl.methods.base import VisionModel

BLOCKS = 6


class CLIPSurgeryMethod(AnoVLMethod):
    """V-V attention without MLP in the last 6 blocks (all of a backbone with fewer).

    This is the paper's architecture surgery. Its feature surgery takes from the texts what they share, which cancels in
    the difference of two states that Eq. (2) reads. The words and the image score are AnoVL's, as in `maskclip`.
    """

    def __init__(self, model: VisionModel, recipe: Recipe) -> None:
        super().__init__(model, replace(recipe, attention="vv", layers=min(BLOCKS, model.encoder().depth)))
