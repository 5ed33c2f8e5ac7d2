"""Drawing: heat colours on a scale fixed by the score, contours, colour bar.

A picture without a defect looks cold: the scale is the recipe's (`Prediction.score_range`), never the picture's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anovl.config import DISPLAY_SIDE, REGIONS_DRAWN
from anovl.results import BoolArray, FloatArray, Pixels, Prediction, Region, bounding_box

OPACITY = 0.7  # of the hottest colour over the picture
MIN_SIDE, MAX_SIDE = 256, DISPLAY_SIDE  # longest side of an overlay: small pictures are enlarged, large ones reduced
CONTOUR = (255, 255, 255)
TRUTH = (0, 230, 90)
_FRAME, _SHADOW = (255, 214, 10), (0, 0, 0)
_PAPER, _INK = (24, 24, 27), (235, 235, 235)
_BAR_WIDTH = 92
# Position on the scale -> colour, rising in lightness so that it reads in grey, too.
_ANCHORS = (
    (0.00, (20, 26, 84)),
    (0.25, (33, 98, 168)),
    (0.50, (60, 170, 160)),
    (0.75, (250, 190, 60)),
    (1.00, (230, 45, 30)),
)
_COLOURS = np.stack(
    [np.interp(np.linspace(0, 1, 256), [a for a, _ in _ANCHORS], [c[i] for _, c in _ANCHORS]) for i in range(3)], axis=-1
).astype(np.uint8)
_COVER = np.linspace(0, 1, 256) ** 1.5 * 255  # cold areas keep the picture's own colours


def normalise(anomaly_map: FloatArray, score_range: tuple[float, float]) -> FloatArray:
    """A map on the drawing scale: [H, W] in [0, 1], values outside the range cut off."""
    low, high = score_range
    level: FloatArray = np.clip((anomaly_map - low) / (high - low), 0.0, 1.0, dtype=np.float32)
    return level


def colourise(level: FloatArray) -> Pixels:
    """Levels [H, W] in [0, 1] -> RGB [H, W, 3]."""
    return np.asarray(_coloured(_eight_bit(level)))


def heatmap(prediction: Prediction) -> Image.Image:
    """The map alone in colour, the map's own size, pixel for pixel."""
    return _coloured(_eight_bit(normalise(prediction.anomaly_map, prediction.score_range)))


def _eight_bit(level: FloatArray) -> Pixels:
    """Levels in [0, 1] -> 0 to 255."""
    pixels: Pixels = np.rint(level * np.float32(255)).astype(np.uint8)
    return pixels


def _coloured(level: Pixels) -> Image.Image:
    """Levels 0 to 255 -> their colours; a palette is faster than an array of colours."""
    picture = Image.fromarray(level)
    picture.putpalette(_COLOURS.tobytes())
    return picture.convert("RGB")


def mask_image(prediction: Prediction) -> Image.Image:
    """The mask, 0 and 255, the map's own size."""
    return Image.fromarray(prediction.mask().astype(np.uint8) * np.uint8(255))


def map_image(anomaly_map: FloatArray) -> Image.Image:
    """A map [H, W] in [0, 1] as 16-bit grey, value x 65535."""
    return Image.fromarray(np.rint(anomaly_map * 65535).astype(np.uint16))


def overlay(picture: Image.Image, prediction: Prediction, truth: Image.Image | None = None) -> Image.Image:
    """Picture under its heat map, with the mask's contour (white), the ground truth's (green) and a colour bar.

    Where the prediction has names, regions are framed and named.

    Args:
        picture: RGB, any size; it is the picture of the prediction.
        prediction: its map is stretched to the picture.
        truth: ground-truth mask, any value above 0 is defect.

    Returns:
        RGB, the picture's size brought to 256..1600 px on the longest side, and the bar on its right.
    """
    width, height = display_size(prediction.image_size)
    blended = blend(picture.resize((width, height), Image.Resampling.BILINEAR), prediction, truth=truth)
    if prediction.names:
        blended = framed(blended, prediction, prediction.regions())
    canvas = Image.new("RGB", (width + _BAR_WIDTH, max(height, MIN_SIDE)), _PAPER)
    canvas.paste(blended)
    _draw_bar(canvas, width, prediction, with_truth=truth is not None)
    return canvas


def blend(
    picture: Image.Image,
    prediction: Prediction,
    *,
    opacity: float = OPACITY,
    contours: bool = True,
    truth: Image.Image | None = None,
) -> Image.Image:
    """Picture under its heat map, as large as the picture.

    Args:
        picture: RGB, any size; the map is stretched to it.
        prediction: of the picture.
        opacity: of the hottest colour, in [0, 1].
        contours: draw the border of the mask.
        truth: ground-truth mask to draw the border of.
    """
    drawn = np.asarray(Image.fromarray(prediction.anomaly_map).resize(picture.size, Image.Resampling.BILINEAR))
    level = _eight_bit(normalise(drawn, prediction.score_range))
    cover = np.rint(opacity * _COVER).astype(np.uint8)
    pixels = np.array(Image.composite(_coloured(level), picture, Image.fromarray(cover[level])))
    thickness = max(1, max(picture.size) // 400)
    if truth is not None:
        known = np.asarray(truth.convert("L").resize(picture.size, Image.Resampling.NEAREST)) > 0
        pixels[contour(known, thickness)] = TRUTH
    if contours:
        pixels[contour(drawn >= prediction.pixel_threshold, thickness)] = CONTOUR
    return Image.fromarray(pixels)


def framed(picture: Image.Image, prediction: Prediction, regions: Sequence[Region]) -> Image.Image:
    """A copy of the picture with the boxes of the first regions, their numbers and, where they have them, names.

    Args:
        picture: RGB, any size; the map is stretched to it.
        prediction: of the picture.
        regions: of the prediction; the first 20 are drawn.
    """
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    down, across = prediction.anomaly_map.shape
    x_scale, y_scale = picture.width / across, picture.height / down
    line = max(2, max(picture.size) // 200)
    height = max(8, *(side // 18 for side in picture.size))
    font = ImageFont.load_default(height)
    for number, region in reversed(list(enumerate(regions[:REGIONS_DRAWN], 1))):
        left, top, right, bottom = region.box
        box = (left * x_scale, top * y_scale, max(right * x_scale - 1, left * x_scale), max(bottom * y_scale - 1, top * y_scale))
        draw.rectangle(box, outline=_FRAME, width=line)
        label = f"{number} {region.name or ''}".rstrip()
        x = max(0.0, min(box[0], picture.width - draw.textlength(label, font=font)))  # a name must not run out of the picture
        spot = (x, box[1] - line) if box[1] > 2 * height else (x, box[3] + line + height)  # above, or under
        draw.text(spot, label, fill=_FRAME, font=font, anchor="lb", stroke_width=2, stroke_fill=_SHADOW)
    return drawn


def display_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) to draw an (H, W) image at."""
    height, width = image_size
    longest = max(height, width)
    scale = min(max(longest, MIN_SIDE), MAX_SIDE) / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def contour(mask: BoolArray, thickness: int) -> BoolArray:
    """The inner border of a mask, along the picture's edge too: a mask of the whole picture is framed."""
    from scipy import ndimage

    border = np.zeros_like(mask)
    if (box := bounding_box(mask)) is not None:
        border[box] = mask[box] & ~ndimage.binary_erosion(mask[box], np.ones((3, 3)), iterations=thickness)
    return border


def _draw_bar(canvas: Image.Image, left: int, prediction: Prediction, *, with_truth: bool) -> None:
    """Colour bar with its ends and the mask's threshold; above it the score and the decision."""
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    low, high = prediction.score_range
    digits = 2 if high - low > 0.1 else 4
    while digits < 6 and f"{prediction.pred_score:.{digits}f}" == f"{prediction.threshold:.{digits}f}":
        digits += 1  # so that score and threshold show which is larger
    x, top, bottom = left + 12, 66, canvas.height - (52 if with_truth else 36)
    draw.text((x, 8), "score", fill=_INK, font=small)
    draw.text((x, 20), f"{prediction.pred_score:.{digits}f}", fill=_INK, font=font)
    draw.text((x, 40), "anomalous" if prediction.pred_label else "normal", fill=_INK, font=small)
    ramp = colourise(np.linspace(1, 0, bottom - top, dtype=np.float32)[:, None])
    canvas.paste(Image.fromarray(np.repeat(ramp, 16, axis=1)), (x, top))
    for value in dict.fromkeys((high, prediction.pixel_threshold, low)):
        if not low <= value <= high:
            continue
        y = bottom - 1 - round((value - low) / (high - low) * (bottom - 1 - top))
        draw.line((x, y, x + 20, y), fill=_INK)
        draw.text((x + 24, y - 6), f"{value:.{digits}f}", fill=_INK, font=small)
    draw.text((x, bottom + 8), "white: mask", fill=CONTOUR, font=small)
    if with_truth:
        draw.text((x, bottom + 24), "green: truth", fill=TRUTH, font=small)
