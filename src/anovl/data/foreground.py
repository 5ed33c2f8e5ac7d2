"""The part in front of a plain background: the box around what differs from the colour of the picture's border."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 256  # px of the longer side of the copy that is looked at
PLAIN = 0.95  # share of the border that must have its colour
LEAST_DIFFERENCE, LARGEST_DIFFERENCE = 10, 48  # grey levels in a channel: less is noise, a border that differs by more not plain
SMALLEST = 0.05  # share of the picture that a part fills; less is a spot on a surface
LARGEST = 0.8  # share of the picture that a box is worth cropping to
MARGIN = 0.04  # of the longer side of the box, on each side


def foreground_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """Top, left, bottom, right, px, of what stands out from a plain background, with a margin.

    The background has the median colour of the border. A pixel stands out that differs from it, in one channel at least, by more
    than the border itself does; specks are left out.

    Args:
        picture: RGB.

    Returns:
        the box, inside the picture; None where the border is not plain, nothing of a part's size stands out, or nearly all does.
    """
    from scipy import ndimage  # takes 0.2 s to import

    scale = min(1.0, SIDE / max(picture.size))
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    border = np.ones(pixels.shape[:2], bool)
    frame = max(1, round(max(small.size) / 64))
    border[frame:-frame, frame:-frame] = False
    differs = np.abs(pixels - np.median(pixels[border], axis=0)).max(axis=2)
    limit = max(LEAST_DIFFERENCE, 1.5 * float(np.quantile(differs[border], PLAIN)))
    found = ndimage.binary_opening(differs > limit, np.ones((3, 3)))
    if limit > LARGEST_DIFFERENCE or ndimage.binary_fill_holes(found).mean() < SMALLEST:
        return None
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    margin = MARGIN * max(np.ptp(rows), np.ptp(columns)) + 1
    top, bottom = (rows[0] - margin) / scale, (rows[-1] + 1 + margin) / scale
    left, right = (columns[0] - margin) / scale, (columns[-1] + 1 + margin) / scale
    top, left, bottom, right = (
        max(0, int(top)),
        max(0, int(left)),
        min(picture.height, int(bottom)),
        min(picture.width, int(right)),
    )
    share = (bottom - top) * (right - left) / (picture.width * picture.height)
    return (top, left, bottom, right) if share <= LARGEST else None
