"""AnoVL, the training-free part (TFA).

AnoVL: Adapting Vision-Language Models for Unified Zero-shot Anomaly Localization (Deng, Zhang, Bao, Li 2023,
arXiv:2308.15939).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from anovl.config import Recipe
from anovl.core import views
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures, anomaly_score, picture_score
from anovl.errors import UsageError
from anovl.methods.base import VisionModel


class AnoVLMethod:
    """V-V local tokens and domain-aware contrastive state prompts; see `anovl.methods.base.Method`.

    Raises:
        UsageError: the recipe asks for more layers than the backbone has, or for the 22 views of a picture
            that is not square.
    """

    wording: ClassVar[Wording] = Wording()

    def __init__(self, model: VisionModel, recipe: Recipe) -> None:
        self.recipe = recipe
        self.encoder = model.encoder(recipe.attention, recipe.layers)
        self.logit_scale = recipe.logit_scale or model.logit_scale
        self.all_views = recipe.image_score == "class_token_22views"
        height, width = self.encoder.image_size
        if self.all_views and height != width:
            raise UsageError(f"image_score 'class_token_22views' turns the input: expected a square size, got {height}x{width}")

    def score(self, pixel_values: Tensor, text: TextFeatures) -> Scores:
        """Eq. (2) on the local tokens; of the picture Eq. (1) on the class token, or what the recipe names."""
        class_token, local_tokens = self.encoder(pixel_values)
        image_score = anomaly_score(class_token, text.prototypes, self.logit_scale)
        if self.all_views:
            others = [
                anomaly_score(self.encoder.encode_class(view), text.prototypes, self.logit_scale)
                for view in views.augmented_views(pixel_values)
            ]
            image_score = torch.stack([image_score, *others]).mean(dim=0)
        patch_scores = anomaly_score(local_tokens, text.prototypes, self.logit_scale).unflatten(1, self.encoder.grid)
        return Scores(picture_score(self.recipe.image_score, image_score, patch_scores), patch_scores)
