"""Scores from tokens and prototypes: Eq. (1), (2), (8), and the patch grid brought to image size. All in fp32."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from anovl.config import ImageScore


class Scores(NamedTuple):
    """What a method gives for a batch, fp32.

    Attributes:
        image_score: [B] in [0, 1].
        patch_scores: [B, h, w] in [0, 1].
        image_seeds: [B, S] one score a seed, and
        patch_seeds: [B, S, h, w], where there were several; the two above are their means.
        name_scores: [B, h, w, K] cosines with the names of defects in [-1, 1], where names were asked for (`anovl.naming`).
    """

    image_score: Tensor
    patch_scores: Tensor
    image_seeds: Tensor | None = None
    patch_seeds: Tensor | None = None
    name_scores: Tensor | None = None


class TextFeatures(NamedTuple):
    """What a method needs of a class's prompts, fp32.

    Attributes:
        prototypes: [2, C], normal and abnormal, unit length (Eq. 8).
        tokens: [K, C], all normal prompts, then all abnormal, each of unit length; K = 2 N in Eq. (9), where they are paired.
        names: unit directions of the names of defects, one a row, [number of names, C], where they are asked for.
    """

    prototypes: Tensor
    tokens: Tensor
    names: Tensor | None = None

    def to(self, device: torch.device) -> TextFeatures:
        """The same on a device."""
        return TextFeatures(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


def text_features(normal: Tensor, abnormal: Tensor) -> TextFeatures:
    """From the raw prompt embeddings [number of prompts, C] of both states."""
    tokens = F.normalize(torch.cat([normal, abnormal]).float(), dim=-1)
    return TextFeatures(prototypes(normal, abnormal), tokens)


def name_directions(text: TextFeatures, count: int) -> Tensor:
    """What tells each name of a defect from the others: its mean sentence less the mean over all names, at unit length.

    Args:
        text: features of `anovl.naming.name_prompts`: as many normal sentences as of each name, then those of the names in turns.
        count: of names, K.

    Returns:
        [K, C]
    """
    sentences = text.tokens[len(text.tokens) // (count + 1) :].unflatten(0, (-1, count))
    means = F.normalize(sentences.mean(dim=0), dim=-1)
    return F.normalize(means - means.mean(dim=0), dim=-1)


def prototypes(normal: Tensor, abnormal: Tensor) -> Tensor:
    """Eq. (8): mean of the raw prompt embeddings of each state, then L2.

    Args:
        normal, abnormal: [number of prompts, C], not normalised.

    Returns:
        [2, C], normal first, unit length.
    """
    return F.normalize(torch.stack([normal.float().mean(dim=0), abnormal.float().mean(dim=0)]), dim=-1)


def cosines(tokens: Tensor, text: Tensor) -> Tensor:
    """Cosine similarity of tokens [..., C] with unit vectors [K, C] -> [..., K]."""
    return F.normalize(tokens.float(), dim=-1) @ text.T


def anomaly_score(tokens: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """S_AD of Eq. (1) for class tokens, S_AL of Eq. (2) for local tokens: softmax share of the abnormal state.

    Args:
        tokens: [..., C], not normalised.
        text: prototypes [2, C], normal first.
        logit_scale: factor on the cosines; 1 is the paper's formula to the letter.

    Returns:
        [...] in [0, 1], fp32
    """
    similarity = cosines(tokens, text)
    return torch.sigmoid(logit_scale * (similarity[..., 1] - similarity[..., 0]))


def picture_score(kind: ImageScore, class_score: Tensor, patch_scores: Tensor) -> Tensor:
    """One score a picture from S_AD [B] and S_AL [B, h, w] -> [B]; see `anovl.config.Recipe.image_score`."""
    if kind == "map_max":
        return patch_scores.flatten(1).amax(dim=1)
    if kind == "class_token_and_map_max":
        return (class_score + patch_scores.flatten(1).amax(dim=1)) / 2
    return class_score


def score_range(ratio: float) -> tuple[float, float]:
    """Drawing scale: where a softmax at the model's own scale would read 0.7 % and 99.3 %.

    At that scale itself it is [0, 1]; at temperature 1 all scores lie within a percent of 0.5 and would
    draw as one colour.

    Args:
        ratio: the method's factor on cosines over the model's own.
    """
    if ratio >= 1:
        return (0.0, 1.0)
    low = 1 / (1 + math.exp(5 * ratio))
    return (low, 1 - low)


def smooth(patch_scores: Tensor) -> Tensor:
    """3x3 mean on the grid [B, h, w], edges replicated (released code)."""
    return F.avg_pool2d(F.pad(patch_scores[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]


def to_image_size(patch_scores: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear up-sampling of the grid [B, h, w] to [B, H, W].

    Values stay in [0, 1]: bilinear weights are convex, the clamp takes off what rounding adds.
    """
    maps = F.interpolate(patch_scores[:, None], size=size, mode="bilinear", align_corners=align_corners)
    return maps[:, 0].clamp_(0.0, 1.0)
