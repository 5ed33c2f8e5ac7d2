"""The 22 augmented views whose mean S_AD is the released code's image score (design: 8 rotations, 8 shifts, ...)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_ANGLES = (math.pi / 4, 3 * math.pi / 16, math.pi / 8, math.pi / 16)
_SHIFTS = (0.2, 0.1)
_LUMA = (0.299, 0.587, 0.114)


def augmented_views(pixel_values: Tensor) -> Iterator[Tensor]:
    """The 21 views beside the identity.

    Rotations by +-pi/4, 3pi/16, pi/8, pi/16, shifts by (+-0.2, +-0.2) and (+-0.1, +-0.1) of the half width, the
    horizontal flip, grey, and turns by 90, 180, 270 degrees.

    Args:
        pixel_values: [B, 3, S, S], square, normalised.

    Yields:
        tensors of the same shape, one view of the whole batch at a time.
    """
    for angle in _ANGLES:
        for sign in (1.0, -1.0):
            cos, sin = math.cos(sign * angle), math.sin(sign * angle)
            yield _affine(pixel_values, ((cos, -sin, 0.0), (sin, cos, 0.0)))
    for shift in _SHIFTS:
        for x in (shift, -shift):
            for y in (shift, -shift):
                yield _affine(pixel_values, ((1.0, 0.0, x), (0.0, 1.0, y)))
    yield pixel_values.flip(-1)
    weights = torch.tensor(_LUMA, dtype=pixel_values.dtype, device=pixel_values.device).view(1, 3, 1, 1)
    yield (pixel_values * weights).sum(dim=1, keepdim=True).expand_as(pixel_values)
    for quarter_turns in (1, 2, 3):
        yield pixel_values.rot90(quarter_turns, dims=(-2, -1))


def _affine(pixel_values: Tensor, matrix: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Tensor:
    theta = torch.tensor(matrix, dtype=pixel_values.dtype, device=pixel_values.device)
    grid = F.affine_grid(theta.expand(pixel_values.shape[0], 2, 3), list(pixel_values.shape), align_corners=True)
    return F.grid_sample(pixel_values, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
