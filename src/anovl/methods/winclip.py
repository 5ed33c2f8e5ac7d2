"""WinCLIP: CLIP's class token for every small window of patches; with good pictures WinCLIP+.

WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation (Jeong, Zou, Kim, Zhang, Ravichandran, Dabeer 2023,
arXiv:2303.14814).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from anovl.config import FewShot, Recipe
from anovl.core.adapter import Adapter
from anovl.core.attention import qk_attention, split_heads
from anovl.core.encoder import ViTEncoder, add_attended, feed_forward, project
from anovl.core.products import linear
from anovl.core.prompts import TEMPLATES, Wording
from anovl.core.scoring import Scores, TextFeatures, anomaly_score
from anovl.errors import UsageError
from anovl.methods.base import VisionModel, class_token_tower
from anovl.methods.few_shot import Bank

TEMPERATURE = 0.07
WINDOWS = (2, 3)  # sides, in patches
MEAN = 0.5  # the weight of distances in a plain mean
MEMORY = 1024**3  # windows go through in parts of about so many bytes
CPU_MEMORY = 64 * 1024**2  # on a CPU in parts that stay near its caches

# 7 normal and 4 abnormal states x 22 templates: 154 and 88 sentences.
WORDING = Wording(
    templates=tuple(f"{template}." for template in TEMPLATES),
    states=(
        ("{class}", "damaged {class}"),
        ("flawless {class}", None),
        ("perfect {class}", None),
        ("unblemished {class}", None),
        ("{class} without flaw", "{class} with flaw"),
        ("{class} without defect", "{class} with defect"),
        ("{class} without damage", "{class} with damage"),
    ),
    domain="plain",
)
# anomalib 2.7 lists 21 templates: two are missing, and one stands twice. For comparing numbers with it.
ANOMALIB_WORDING = replace(
    WORDING,
    templates=(
        *(t for t in WORDING.templates if not t.startswith(("a cropped {domain} of a ", "a jpeg corrupted {domain} of a "))),
        "a jpeg corrupted {domain} of the {object}.",
    ),
)


class WinCLIPMethod:
    """Windows of 2x2 and 3x3 patches at every place, each alone with the class token through the whole transformer.

    P(abnormal) of a window is the softmax share at temperature 0.07. A patch takes the harmonic mean over the windows
    that cover it, then over both sizes and the whole image. The image's score is that of its class token.

    With a bank (WinCLIP+) a half of 1 - cosine to the nearest kept token, of patches after the last block, and of both sizes of
    windows as harmonic means over them; the mean of the three maps. Scores are the mean of text and distance, the image's that
    of its text score and the largest distance.

    Raises:
        UsageError: the backbone has no class token of a ViT, or fewer than 3x3 patches.
    """

    wording: ClassVar[Wording] = WORDING
    names: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    fits: ClassVar[bool] = True
    bank: Bank | None = None

    def __init__(self, model: VisionModel, recipe: Recipe) -> None:
        self.logit_scale = 1 / TEMPERATURE
        self.recipe = replace(recipe, attention="qkv", layers=None, image_score="class_token", logit_scale=self.logit_scale)
        self.encoder = class_token_tower(model, "winclip")
        rows, columns = self.encoder.grid
        if min(rows, columns) < max(WINDOWS):
            raise UsageError(f"method winclip: expected at least 3x3 patches, got {rows}x{columns}; take a larger image size")

    def score(self, pixel_values: Tensor, text: TextFeatures, adapters: Sequence[Adapter] = ()) -> Scores:  # noqa: ARG002
        """Harmonic means over windows; see the class."""
        if self.bank is None:
            class_token = self.encoder.encode_class(pixel_values)
        else:
            class_token, patches = self._whole(pixel_values)
        image_score = anomaly_score(class_token, text.prototypes, self.logit_scale)
        inverse = 1 / image_score[:, None, None]
        windows = window_tokens(self.encoder, pixel_values)
        for side, tokens in zip(WINDOWS, windows, strict=True):
            scores = anomaly_score(tokens, text.prototypes, self.logit_scale)
            inverse = inverse + 1 / harmonic_mean(scores, side, self.encoder.grid)
        patch_scores = (len(WINDOWS) + 1) / inverse
        if self.bank is None:
            return Scores(image_score, patch_scores)
        near, *around = (distance / 2 for distance in self.bank.distances((patches, *windows)))
        maps = [harmonic_mean(distance, side, self.encoder.grid) for side, distance in zip(WINDOWS, around, strict=True)]
        distance = torch.stack([near.unflatten(1, self.encoder.grid), *maps]).mean(dim=0)
        return Scores((image_score + distance.flatten(1).amax(dim=1)) / 2, (patch_scores + distance) / 2)

    def with_bank(self, bank: Bank) -> WinCLIPMethod:
        """As the protocol says."""
        other = copy(self)
        other.bank = bank
        return other

    def settled(self, settings: FewShot) -> FewShot:
        """As the protocol says."""
        if settings.layers is not None:
            raise UsageError("layers: winclip keeps its windows and the last block's patches; leave layers out")
        if settings.weight not in ("auto", MEAN):
            raise UsageError(f"weight: winclip takes the mean of words and distance; leave the weight out, got {settings.weight}")
        return replace(settings, weight=MEAN)

    def features(self, pixel_values: Tensor, settings: FewShot) -> tuple[Tensor, ...]:  # noqa: ARG002
        """What a bank keeps: patches after the last block, then the class tokens of both sizes of windows."""
        return self._whole(pixel_values)[1], *window_tokens(self.encoder, pixel_values)

    def _whole(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Class token [B, C] and patches [B, M, D] of the whole image after the last block, normed (ln_post)."""
        class_token, _, (last,) = self.encoder.encode_layers(pixel_values, (self.encoder.depth,))
        return class_token, self.encoder.ln_post(last)


def window_indices(side: int, grid: tuple[int, int]) -> Tensor:
    """Tokens of each window, the class token first, its windows in row-major order.

    Returns:
        [(h - side + 1) * (w - side + 1), 1 + side**2] positions among the 1 + h * w tokens of an image
    """
    rows, columns = grid
    patches = torch.arange(1, 1 + rows * columns).view(rows, columns)
    windows = patches.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)
    return F.pad(windows, (1, 0))


def window_tokens(encoder: ViTEncoder, pixel_values: Tensor) -> list[Tensor]:
    """The class token of every window of every image, all windows of a size in one batch.

    Tokens keep the position embeddings of the whole image. The first block's normalised tokens and projections are made
    once an image and shared by all windows; the last block computes its query and MLP for the class token alone.

    Args:
        encoder: a ViT tower with a class token.
        pixel_values: [B, 3, H, W]

    Returns:
        for each size of `WINDOWS` [B, number of windows, C], projected, not normalised
    """
    embedded = encoder.embed(pixel_values)  # [B, 1 + M, D]
    batch, count, width = embedded.shape
    attn = encoder.blocks[0].attn
    first = linear(encoder.blocks[0].ln_1(embedded), attn.in_proj_weight, attn.in_proj_bias).flatten(0, 1)
    embedded = embedded.flatten(0, 1)
    # A token's state, its MLP's hidden layer before and after the activation, and its queries, keys and values.
    bytes_a_token = (1 + 2 * 4 + 3) * width * embedded.element_size()
    budget = CPU_MEMORY if embedded.device.type == "cpu" else MEMORY
    found = []
    for side in WINDOWS:
        windows = window_indices(side, encoder.grid).to(embedded.device)
        starts = torch.arange(batch, device=windows.device)[:, None, None] * count
        indices = (starts + windows).flatten(0, 1)  # [B * W, 1 + side**2]
        parts = indices.split(max(1, budget // (indices.shape[1] * bytes_a_token)))
        found.append(torch.cat([_windows(encoder, embedded[part], first[part]) for part in parts]).unflatten(0, (batch, -1)))
    return found


def _windows(encoder: ViTEncoder, z: Tensor, first: Tensor) -> Tensor:
    """Windows as short images, [W, n, D], with the first block's projections [W, n, 3 D] -> class tokens [W, C]."""
    heads = encoder.blocks[0].attn.num_heads
    for i, block in enumerate(encoder.blocks):
        if i == 0:
            q, k, v = (split_heads(part, heads) for part in first.chunk(3, dim=-1))
        else:
            q, k, v = project(block, z, class_query=i == encoder.depth - 1)
        z = feed_forward(block, add_attended(block, z, qk_attention(q, k, v)))
    return encoder.image_token(z)


def harmonic_mean(scores: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Harmonic mean, at each patch, of the windows that cover it.

    Args:
        scores: [B, number of windows] above 0, row-major.
        side: of the windows, in patches.
        grid: (h, w) patches.

    Returns:
        [B, h, w]
    """
    rows, columns = grid
    inverse = (1 / scores).view(-1, rows - side + 1, columns - side + 1)

    def covering(values: Tensor) -> Tensor:  # sum over the windows that cover a patch, [B, h, w]
        return F.avg_pool2d(F.pad(values, [side - 1] * 4), side, stride=1, divisor_override=1)

    return covering(torch.ones_like(inverse[:1])) / covering(inverse)
