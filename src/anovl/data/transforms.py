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
    """Squash, scale to [0, 1], normalise; in numpy, for torch would give each thread that decodes a pool of its own threads.

    Args:
        picture: RGB.
        size: (H, W) of the model's input.
        interpolation: filter of the squash.
        mean, std: of the checkpoint, per channel, on the [0, 1] scale.

    Returns:
        [3, H, W] fp32
    """
    values = np.asarray(squash(picture, size, interpolation)).transpose(2, 0, 1).astype(np.float32, order="C")
    values /= 255
    values -= np.asarray(mean, np.float32)[:, None, None]
    values /= np.asarray(std, np.float32)[:, None, None]
    return torch.from_numpy(values)
