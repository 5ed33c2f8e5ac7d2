"""Many pictures: images without labels score each other, since what is normal is what most of them share.

MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the Unlabeled Images (Li, Huang, Xue,
Zhou 2024, arXiv:2401.16753): tokens averaged over neighbourhoods (LNAMD), distances to the other images (MSM), image scores
averaged over alike images (RsCIN). All in blocks, so that memory does not grow with the number of images squared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anovl.config import Mutual
from anovl.core.products import matmul
from anovl.methods.few_shot import averaged, unit

MEMORY = 256 * 1024**2  # bytes of distances at once
LEAST = 2  # images
MOST, ALIKE = 0.8, 0.01  # weights; how they were chosen: docs/few_and_many.md

Read = Callable[[Sequence[int]], Tensor]  # numbers of images -> their tokens [n, M, D]


def standardized(tokens: Tensor) -> Tensor:
    """Tokens [B, M, D] of each image with mean 0 and deviation 1 over all its values, fp32 (LNAMD's layer normalisation)."""
    return F.layer_norm(tokens.float(), tokens.shape[1:])


def references(images: int, settings: Mutual) -> list[int]:
    """Numbers of the images that each is compared with, ascending; fewer than all are drawn from the seed, at least two."""
    count = max(LEAST, math.ceil(settings.share * images))
    if count >= images:
        return list(range(images))
    return sorted(np.random.default_rng(settings.seed).permutation(images)[:count].tolist())


def mutual_distances(
    read: Read, images: int, grid: tuple[int, int], settings: Mutual, *, device: torch.device | str = "cpu"
) -> Tensor:
    """MSM of one kind of tokens, its mean over the neighbourhoods: how far a patch is from the images nearest to it.

    A patch's distance to an image is that of unit vectors to the nearest of the image's patches; a patch's score the mean over
    the share `interval` of the references, the nearest ones, never the image itself. The distance is the square root of
    2 - 2 cos, in which fp32 shows what is the same up to 5e-4.

    Args:
        read: gives tokens, standardized, on the CPU.
        images: how many there are, at least 2.
        grid: (h, w) patches.
        settings: radii, interval, share, seed.
        device: that computes.

    Returns:
        [images, M] on the CPU, fp32, in [0, 2]
    """
    found = torch.zeros(images, grid[0] * grid[1])
    against = references(images, settings)
    for radius in settings.radii:

        def vectors(numbers: Sequence[int], radius: int = radius) -> Tensor:
            return unit(averaged(read(numbers).to(device), radius, grid))

        for block in _blocks(list(range(images)), MEMORY // (16 * found.shape[1] * len(against))):
            distances = _distances(vectors, block, against)
            nearest = distances.topk(max(1, int(settings.interval * (len(against) - 1))), dim=2, largest=False).values
            found[block] += nearest.mean(dim=2).cpu() / len(settings.radii)
    return found


def _distances(vectors: Read, block: Sequence[int], against: Sequence[int]) -> Tensor:
    """Of each patch of a block of images to each image that it is compared with: [n, M, R], infinite to itself."""
    queries = vectors(block)
    count, patches, _ = queries.shape
    parts = []
    for part in _blocks(against, MEMORY // (16 * count * patches**2)):
        cosine = matmul(queries.flatten(0, 1), vectors(part).flatten(0, 1).T)  # [n M, r M]
        nearest = cosine.view(count, patches, len(part), patches).amax(dim=3)
        itself = torch.tensor(block)[:, None, None] == torch.tensor(part)  # [n, 1, r]
        nearest.masked_fill_(itself.to(nearest.device), -math.inf)
        parts.append((2 - 2 * nearest).clamp(min=0).sqrt())
    return torch.cat(parts, dim=2)


def settled_weight(distance: Tensor) -> float:
    """The weight of distances beside the text: 0.01 over the square of their median, at most 0.8; alike images weigh more."""
    return min(MOST, ALIKE / max(float(distance.median()), 1e-3) ** 2)


def rescored(scores: Tensor, class_tokens: Tensor, settings: Mutual) -> Tensor:
    """RsCIN: each image's score averaged over the images most like it, itself included.

    For each number k of neighbours the mean over the k images with the largest cosine of class tokens, weighted by it; then the
    mean over the numbers.

    Args:
        scores: [N].
        class_tokens: [N, C], not normalised.
        settings: the numbers; those over N count as N.

    Returns:
        [N]
    """
    tokens = unit(class_tokens)
    most = min(max(settings.averaged_over), len(scores))
    found = []
    for block in _blocks(range(len(scores)), MEMORY // (8 * len(scores))):
        weights, images = (tokens[list(block)] @ tokens.T).clamp(min=0).topk(most, dim=1)
        sums = (weights * scores[images]).cumsum(dim=1) / weights.cumsum(dim=1)
        found.append(torch.stack([sums[:, min(number, most) - 1] for number in settings.averaged_over]).mean(dim=0))
    return torch.cat(found)


def _blocks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Parts of at least one number and at most `size`."""
    size = max(1, size)
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
