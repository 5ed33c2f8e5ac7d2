"""An RGB picture -> the model's input tensor."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl.config import Interpolation
from anovl.data.resizing import squash


def to_pixel_values(
    picture: Image.Image,
    *,
    size: tuple[int, int],
    interpolation: Interpolation,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Squash, scale to [0, 1], normalise.

    Args:
        picture: RGB.
        size: (H, W) of the model's input.
        interpolation: filter of the squash.
        mean, std: of the checkpoint, per channel, on the [0, 1] scale.

    Returns:
        [3, H, W] fp32
    """
    pixels = torch.from_numpy(np.array(squash(picture, size, interpolation)))  # [H, W, 3] uint8, a copy
    scaled = pixels.permute(2, 0, 1).float().div_(255.0)
    return scaled.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1)).contiguous()
