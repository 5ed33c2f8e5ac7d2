"""The bytes of pictures -> what a vision tower reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anovl.errors import UsageError


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scaled to [0, 1], then by the checkpoint's numbers.

    Args:
        images: [B, H, W, 3] uint8, RGB.
        mean, std: per channel, on the [0, 1] scale.

    Returns:
        [B, 3, H, W] fp32, on the same device.

    Raises:
        UsageError: `images` are no such bytes.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise UsageError(f"images: expected [B, H, W, 3] uint8, got {list(images.shape)} {kind}")
    values = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    values /= 255
    for channel, own_mean, own_std in zip(values.unbind(1), mean, std, strict=True):
        channel.sub_(own_mean).div_(own_std)
    return values
