"""TransMM: which patches the class token's attention draws the abnormal state from.

Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers (Chefer, Gur, Wolf 2021,
arXiv:2103.15679).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from anovl.config import Recipe
from anovl.core.adapter import Adapter
from anovl.core.attention import qk_attention, split_heads
from anovl.core.encoder import add_attended, feed_forward, project
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures, anomaly_score, cosines
from anovl.errors import UsageError
from anovl.methods.base import VisionModel, class_token_tower


class TransMMMethod:
    """R <- R + A' R over the last blocks, A' = mean over heads of max(0, grad A * A); the class token's row of R.

    A is a block's attention, grad A the gradient at it of the abnormal minus the normal logit of the class token, at the
    model's own scale. The recipe's `layers` says how many of the last blocks count, None the last alone, as in the
    authors' code for CLIP; its `attention` says nothing here. The words are AnoVL's, as in `maskclip`; the image's score is
    that of the class token.

    Relevance r is at least 0 and has no upper end. A patch's score is M r / (1 + M r) for M patches, the same map for
    every image: ranks are those of r, and at 0.5 M patches alike would raise the logit by 1, to first order.

    Raises:
        UsageError: the backbone has no class token of a ViT, fewer blocks than the recipe's layers, or weights that were
            made in inference mode.
    """

    wording: ClassVar[Wording] = Wording()
    names: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    fits: ClassVar[bool] = False

    def __init__(self, model: VisionModel, recipe: Recipe) -> None:
        self.recipe = replace(recipe, image_score="class_token", logit_scale=None)
        self.encoder = class_token_tower(model, "transmm", recipe.layers)
        if any(weight.is_inference() for weight in self.encoder.parameters()):
            raise UsageError("method transmm: takes gradients; load the model outside torch.inference_mode()")
        self.logit_scale = model.logit_scale

    def score(self, pixel_values: Tensor, text: TextFeatures, adapters: Sequence[Adapter] = ()) -> Scores:  # noqa: ARG002
        """Relevance of the patches, mapped to [0, 1), and Eq. (1) of the class token."""
        class_token, relevance = self.relevance(pixel_values, text.prototypes)
        relevance = relevance * relevance.shape[1]
        return Scores(
            anomaly_score(class_token, text.prototypes, self.logit_scale),
            (relevance / (1 + relevance)).unflatten(1, self.encoder.grid),
        )

    def relevance(self, pixel_values: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Class token [B, C] and raw relevance [B, M], fp32; runs under inference mode as well.

        The gradient at A is that at the attended values times V^T, so that only what follows the first of the blocks that
        count is differentiated. Of the last block only the class token's row exists.

        Args:
            pixel_values: [B, 3, H, W]
            prototypes: [2, C], normal first, unit length.
        """
        z = self.encoder.embed(pixel_values)
        first = self.encoder.depth - (self.recipe.layers or 1)
        for block in self.encoder.blocks[:first]:
            z = feed_forward(block, add_attended(block, z, qk_attention(*project(block, z))))
        with torch.inference_mode(mode=False), torch.enable_grad():
            z, prototypes = z.clone(), prototypes.clone()  # a tensor made in inference mode cannot enter a graph; its copy can
            inputs, attended = [], []
            for i, block in enumerate(self.encoder.blocks[first:], first):
                q, k, v = project(block, z, class_query=i == self.encoder.depth - 1)
                attended.append(qk_attention(q, k, v).requires_grad_())
                inputs.append((q.detach(), k.detach(), v.detach()))
                z = feed_forward(block, add_attended(block, z, attended[-1]))
            class_token = self.encoder.image_token(z)
            similarity = cosines(class_token, prototypes)
            target = self.logit_scale * (similarity[:, 1] - similarity[:, 0]).sum()  # images do not mix: a sum serves all
            gradients = torch.autograd.grad(target, attended)
        row = torch.zeros_like(inputs[-1][1][:, 0, :, 0], dtype=torch.float32)[:, None]  # of R, [B, 1, 1 + M]
        row[..., 0] = 1
        for (q, k, v), gradient in zip(reversed(inputs), reversed(gradients), strict=True):
            attention = (q @ k.mT / q.shape[-1] ** 0.5).float().softmax(dim=-1)  # [B, heads, Q, 1 + M]
            change = split_heads(gradient, q.shape[1]).float() @ v.float().mT
            row = row + row[..., : q.shape[2]] @ (attention * change).clamp_min(0).mean(dim=1)
        return class_token.detach(), row[:, 0, 1:]
