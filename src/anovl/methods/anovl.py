"""AnoVL: training-free (TFA), and with test-time adaptation (TTA) where adapters are given.

AnoVL: Adapting Vision-Language Models for Unified Zero-shot Anomaly Localization (Deng, Zhang, Bao, Li 2023,
arXiv:2308.15939).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from anovl.config import FewShot, Recipe
from anovl.core import views
from anovl.core.adapter import Adapter, adapt
from anovl.core.prompts import Wording
from anovl.core.scoring import Scores, TextFeatures, anomaly_score, cosines, picture_score
from anovl.errors import UsageError
from anovl.methods.base import VisionModel
from anovl.methods.few_shot import Bank, averaged, chosen_layers, fused

log = logging.getLogger(__name__)

VIEWS_AT_ONCE = 7  # of the 21 augmented views: one image fills a batch


class AnoVLMethod:
    """V-V local tokens and domain-aware contrastive state prompts; see `anovl.methods.base.Method`.

    Attributes:
        decided: fields of the recipe that a subclass decides, whatever the user's recipe says.

    Raises:
        UsageError: the recipe asks for more layers than the backbone has, or for the 22 views of a picture
            that is not square.
    """

    wording: ClassVar[Wording] = Wording()
    names: ClassVar[bool] = True
    adapts: ClassVar[bool] = True
    fits: ClassVar[bool] = True
    decided: ClassVar[dict[str, Any]] = {}
    bank: Bank | None = None

    def __init__(self, model: VisionModel, recipe: Recipe) -> None:
        self.recipe = recipe = replace(recipe, **self.decided)
        self.encoder = model.encoder(recipe.attention, recipe.layers)
        self.logit_scale = recipe.logit_scale or model.logit_scale
        self.all_views = recipe.image_score == "class_token_22views"
        height, width = self.encoder.image_size
        if self.all_views and height != width:
            raise UsageError(f"image_score 'class_token_22views' turns the input: expected a square size, got {height}x{width}")

    def score(self, pixel_values: Tensor, text: TextFeatures, adapters: Sequence[Adapter] = ()) -> Scores:
        """Eq. (2) on the local tokens, adapted or not; of the picture Eq. (1) on the class token, or what the recipe names.

        With a bank, its distances join them; see `anovl.methods.few_shot`.
        """
        scores, _, tokens = self.look(pixel_values, text, adapters, layers=self.bank_layers)
        return self.beside_bank(scores, tokens)

    @property
    def bank_layers(self) -> tuple[int, ...]:
        """Those that its bank, if it has one, needs tokens of."""
        return () if self.bank is None else self.bank.settings.layers or ()

    def beside_bank(self, scores: Scores, tokens: Sequence[Tensor]) -> Scores:
        """The scores with the distances of tokens [B, M, D], local and of `bank_layers`, to the bank; as they are without one."""
        if self.bank is None:
            return scores
        settings = self.bank.settings
        features = [averaged(path, settings.radius, self.encoder.grid) for path in tokens]
        distance = torch.stack(self.bank.distances(features)).mean(dim=0)
        return fused(scores, distance.unflatten(1, self.encoder.grid), float(settings.weight) * self.logit_scale)

    def with_bank(self, bank: Bank) -> AnoVLMethod:
        """The same method with a memory of good pictures, which is on the encoder's device."""
        other = copy(self)
        other.bank = bank
        return other

    def settled(self, settings: FewShot) -> FewShot:
        """As the protocol says."""
        return replace(settings, layers=chosen_layers(settings.layers, self.encoder))

    def features(self, pixel_values: Tensor, settings: FewShot) -> tuple[Tensor, ...]:
        """What a bank keeps, [B, M, D] each: the local tokens, then the patch tokens of each layer, averaged."""
        _, local_tokens, deep = self.encoder.encode_layers(pixel_values, settings.layers or ())
        return tuple(averaged(path, settings.radius, self.encoder.grid) for path in (local_tokens, *deep))

    def look(
        self, pixel_values: Tensor, text: TextFeatures, adapters: Sequence[Adapter] = (), *, layers: Sequence[int] = ()
    ) -> tuple[Scores, Tensor, tuple[Tensor, ...]]:
        """In one pass the scores by the text alone, the class token [B, C], and tokens [B, M, D]: local, and of each layer."""
        class_token, local_tokens, deep = self.tokens(pixel_values, layers)
        class_score = anomaly_score(class_token, text.prototypes, self.logit_scale)
        if self.all_views:
            others = views.augmented_views(pixel_values)
            every = [class_score[None]]
            while some := list(itertools.islice(others, VIEWS_AT_ONCE)):
                tokens = self.encoder.encode_class(torch.cat(some)).view(len(some), pixel_values.shape[0], -1)
                every.append(anomaly_score(tokens, text.prototypes, self.logit_scale))
            class_score = torch.cat(every).mean(dim=0)
        scored = [self._adapted(adapter, local_tokens) for adapter in adapters]
        scored = scored or [anomaly_score(local_tokens, text.prototypes, self.logit_scale)]
        grids = [scores.unflatten(1, self.encoder.grid) for scores in scored]
        images = torch.stack([picture_score(self.recipe.image_score, class_score, grid) for grid in grids], dim=1)
        patches = torch.stack(grids, dim=1)  # [B, S, h, w]
        seeds = (images, patches) if len(grids) > 1 else (None, None)
        named = None if text.names is None else cosines(local_tokens, text.names).unflatten(1, self.encoder.grid)
        scores = Scores(images.mean(dim=1), patches.mean(dim=1), seeds[0], seeds[1], named)
        return scores, class_token, (local_tokens, *deep)

    def tokens(self, pixel_values: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """As `Encoder.encode_layers`."""
        if layers:
            return self.encoder.encode_layers(pixel_values, layers)
        class_token, local_tokens = self.encoder(pixel_values)  # called as a module, by which an exported graph names its nodes
        return class_token, local_tokens, ()

    def _adapted(self, adapter: Adapter, local_tokens: Tensor) -> Tensor:
        """Eq. (2) on adapted tokens, [B, M]."""
        adapted = adapt(adapter, local_tokens)
        if adapted.failed.any():
            log.warning(
                "adaptation gave values that are not finite: %d of %d images keep their training-free map; "
                "a smaller learning rate may help",
                int(adapted.failed.sum()),
                len(local_tokens),
            )
        return torch.sigmoid(self.logit_scale * adapted.similarity)
