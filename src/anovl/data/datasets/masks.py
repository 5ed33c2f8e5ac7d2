"""Ground-truth masks: files -> defect pixels, at the picture's own size or at a model's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from anovl.addresses import is_local
from anovl.data.datasets.records import DatasetError, Sample
from anovl.data.images import FORMATS
from anovl.errors import ImageDecodeError, ImageNotFoundError, UsageError

BoolArray = npt.NDArray[np.bool_]

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_HEADER = 1 << 16  # bytes that one request for a header takes; file systems read far ahead on their own account
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, struct.error, zlib.error)


def read_mask(sample: Sample, size: tuple[int, int]) -> BoolArray:
    """The defect pixels of a picture: the union of its masks.

    A pixel is defective where any channel of a mask but alpha is above 0: VisA and MVTec LOCO number the kinds of
    defect from 1. In JPEG files, which keep no exact 0, it must be in the upper half of the range.

    Args:
        sample: a picture with label.
        size: (H, W) of the picture.

    Returns:
        [H, W]; all False for a good picture.

    Raises:
        UsageError: the picture has no label, or is defective and has no mask.
        DatasetError: a mask is not of that size.
        ImageError: a mask cannot be read.
    """
    if sample.anomalous is None or (sample.anomalous and not sample.masks):
        raise UsageError(f"{sample.key}: expected a picture with a mask, or a good one; see Category.has_masks")
    union = np.zeros(size, dtype=np.bool_)
    for path in sample.masks:
        mask = _defect_pixels(path)
        if mask.shape != size:
            raise DatasetError(str(path), [_sizes((mask.shape[1], mask.shape[0]), (size[1], size[0]))])
        union |= mask
    return union


def resize_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """A mask at a model's resolution: bilinear, antialiased, then > 0.5, as the papers do.

    Args:
        mask: [H, W].
        size: (H, W) to give.

    Returns:
        [H, W] of `size`. Defects much smaller than a new pixel vanish.
    """
    if mask.shape == size:
        return mask
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    values = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    resized: BoolArray = values >= 128
    return resized


def has_defect(path: Path) -> bool:
    """True where a mask has at least one defect pixel.

    Raises:
        ImageError: it cannot be read.
    """
    return bool(_defect_pixels(path).any())


def size_problems(sample: Sample) -> list[tuple[Path, str]]:
    """What is wrong with a sample's files by their headers alone: (file, text) each; nothing is decoded."""
    sizes: dict[Path, tuple[int, int]] = {}
    problems = []
    for path in (sample.image, *sample.masks):
        try:
            sizes[path] = _size(path)
        except (ImageDecodeError, ImageNotFoundError) as exc:
            problems.append((path, exc.reason))
    whole = sizes.get(sample.image)
    others = [path for path in sample.masks if whole and sizes.get(path, whole) != whole]
    return problems + [(path, _sizes(sizes[path], sizes[sample.image])) for path in others]


def _sizes(mask: tuple[int, int], image: tuple[int, int]) -> str:
    return f"the mask is {mask[0]}x{mask[1]}, its picture {image[0]}x{image[1]}"


@contextmanager
def _opened(path: Path, *, buffering: int = -1) -> Iterator[Image.Image]:
    try:
        with path.open("rb", buffering=buffering) as stream, Image.open(stream, formats=FORMATS) as picture:
            yield picture
    except FileNotFoundError as exc:
        raise ImageNotFoundError(str(path), "no such file") from exc
    except PermissionError as exc:
        raise ImageNotFoundError(str(path), f"cannot be read ({exc.strerror or exc})") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *_BROKEN) as exc:
        raise ImageDecodeError(str(path), f"not a readable image ({type(exc).__name__})") from exc
    except Exception as exc:
        if is_local(path):
            raise
        raise ImageNotFoundError(str(path), f"cannot be read ({exc})") from exc  # networks fail in ways of their own


def _size(path: Path) -> tuple[int, int]:
    """(W, H) upright, from the header."""
    orientation = None
    with _opened(path, buffering=_HEADER) as picture:
        width, height = picture.size
        if picture.format != "TIFF":  # which Pillow turns itself
            with suppress(*_BROKEN):  # as `load_image` passes over EXIF data that it cannot read
                # Not picture.getexif(): that of PNG decodes the picture to look behind it.
                orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
    return (height, width) if orientation in _TURNED else (width, height)


def _defect_pixels(path: Path) -> BoolArray:
    with _opened(path) as picture:
        level = 127 if picture.format == "JPEG" else 0
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("P", "PA", "CMYK", "YCbCr"):
            upright = upright.convert("RGB")
        values = np.asarray(upright)
    if values.ndim == 3:
        values = values[:, :, : 1 if upright.mode in ("LA", "La") else 3].max(axis=2)
    defective: BoolArray = values > level
    return defective
