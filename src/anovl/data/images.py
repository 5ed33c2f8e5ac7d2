"""Anything a user calls an image -> an 8-bit RGB picture, safely.

Conventions: numpy arrays are [H, W] or [H, W, C], tensors [H, W] or [C, H, W], C in 1, 3, 4 (RGB order, alpha
dropped); 16-bit values span 0..65535 and floats 0..1, whatever the picture's own range is, so that equal values
look equal in every picture. EXIF rotation is applied; of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import logging
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from anovl.config import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from anovl.errors import (
    AnovlError,
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    UsageError,
)

log = logging.getLogger(__name__)

# No other decoder of Pillow is ever started (EPS runs a program, others are little tested).
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm"})

Image.init()  # registers all decoders here, once, rather than in the first threads that need one

REDUCTION = 2  # what a JPEG decoded in part leaves to the resize; with 1 a score of a patch moved by 0.7, with 2 by 0.09

MAX_SCANS = 500  # of a JPEG: each passes over all pixels and takes a few bytes; encoders write a dozen

_CHUNK = 1 << 20
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_PILLOW_LIMIT = MAX_IMAGE_PIXELS  # over this Pillow refuses on its own account


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it is decoded.

    Attributes:
        max_pixels: width times height.
        max_bytes: size of the file or buffer.

    Raises:
        UsageError: a limit below 1.
    """

    max_pixels: int = MAX_IMAGE_PIXELS
    max_bytes: int = MAX_IMAGE_BYTES

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.max_bytes < 1:
            raise UsageError(f"image limits: expected at least 1 pixel and 1 byte, got {self}")

    def check_pixels(self, name: str, width: int, height: int) -> None:
        """Raise ImageTooLargeError for a picture over the limit, ImageDecodeError for one without pixels."""
        if width < 1 or height < 1:
            raise ImageDecodeError(name, f"the image has no pixels ({width}x{height})")
        if width * height > self.max_pixels:
            raise ImageTooLargeError(
                name, f"{width}x{height} is {width * height:,} pixels, over the limit of {self.max_pixels:,} (--max-pixels)"
            )

    def check_bytes(self, name: str, count: int) -> None:
        """Raise ImageTooLargeError for a file over the limit."""
        if count > self.max_bytes:
            raise ImageTooLargeError(name, f"{count:,} bytes, over the limit of {self.max_bytes:,} (--max-bytes)")


def load_image(source: Any, *, limits: ImageLimits | None = None) -> Image.Image:
    """Decode an image.

    Args:
        source: a path, bytes, a binary file object, a PIL image, a numpy array (bool, uint8, uint16 or float in
            [0, 1]) or a torch tensor of the same types; see the module's conventions.
        limits: what to refuse; default 179 megapixels and 512 MiB.

    Returns:
        An RGB picture with at least one pixel.

    Raises:
        ImageNotFoundError: no such file, not a regular file, or not readable.
        ImageTooLargeError: over a limit; the picture was not decoded.
        ImageDecodeError: truncated, empty, not an image, or an array that does not follow the conventions.
        UsageError: `source` is of a type that is no image.
    """
    return load_sized_image(source, limits=limits)[0]


def load_sized_image(
    source: Any, *, limits: ImageLimits | None = None, reduced_for: tuple[int, int] | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image, a JPEG perhaps in part, and tell its full size.

    Args:
        source, limits: as in `load_image`.
        reduced_for: (H, W) of what it will be resized to; a JPEG is then decoded at the smallest of its scales 1, 1/2, 1/4
            and 1/8 that leaves the resize at least a factor of 2. That takes half the time and gives slightly other pixels.
            None decodes in full.

    Returns:
        the picture, RGB, and (H, W) of the whole image.

    Raises:
        ImageError, UsageError: as `load_image`.
    """
    limits = limits or ImageLimits()
    name = describe(source)
    try:
        if _is_path(source):
            path = Path(source) if isinstance(source, str) else source
            return _from_bytes(_read(path, name, limits), name, limits, reduced_for)
        if isinstance(source, bytes | bytearray | memoryview):
            return _from_bytes(bytes(source), name, limits, reduced_for)
        if isinstance(source, Image.Image):
            limits.check_pixels(name, *source.size)
            return _whole(_to_rgb(source, name))
        if isinstance(source, np.ndarray):
            return _whole(_from_array(source, name, limits))
        if is_tensor(source):
            return _whole(_from_array(_tensor_to_array(source, name), name, limits))
        if hasattr(source, "read"):
            return _from_bytes(_read_stream(source, name, limits), name, limits, reduced_for)
    except AnovlError:
        raise
    except MemoryError as exc:
        raise ImageTooLargeError(name, "not enough memory to decode it") from exc
    except Exception as exc:  # decoders raise anything on broken data; this is the one place that sees it
        raise ImageDecodeError(name, f"cannot be decoded ({type(exc).__name__}: {exc})") from exc
    raise UsageError(
        f"expected an image (path, bytes, file object, PIL image, numpy array or tensor), got {type(source).__name__}"
    )


def _whole(picture: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    return picture, (picture.height, picture.width)


def is_tensor(value: Any) -> bool:
    """True for a torch tensor, without importing torch."""
    return any(f"{t.__module__}.{t.__name__}" == "torch.Tensor" for t in type(value).__mro__)


def is_single_image(value: Any) -> bool:
    """True for what `load_image` takes as one image (strings and paths may also be folders)."""
    return (
        _is_path(value)
        or isinstance(value, bytes | bytearray | memoryview | Image.Image | np.ndarray)
        or is_tensor(value)
        or hasattr(value, "read")
    )


def _is_path(value: Any) -> bool:
    """True for a name or a path, of any file system."""
    return isinstance(value, str) or hasattr(value, "read_bytes")


def describe(source: Any) -> str:
    """What messages call a source."""
    if _is_path(source):
        return str(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "PIL image")
    if isinstance(source, np.ndarray) or is_tensor(source):
        return f"{type(source).__name__} {source.dtype} {tuple(source.shape)}"
    if hasattr(source, "read"):
        return str(getattr(source, "name", "file object"))
    return type(source).__name__


def _read(path: Path, name: str, limits: ImageLimits) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise ImageNotFoundError(name, "is a folder, expected an image file")
        if not stat.S_ISREG(info.st_mode):
            raise ImageNotFoundError(name, "is not a regular file")
        limits.check_bytes(name, info.st_size)
        return path.read_bytes()
    except FileNotFoundError as exc:
        if isinstance(exc, ImageError):
            raise
        raise ImageNotFoundError(name, "no such file") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL byte
        if isinstance(exc, ImageError):
            raise
        raise ImageNotFoundError(name, f"cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _read_stream(stream: Any, name: str, limits: ImageLimits) -> bytes:
    if isinstance(stream, io.TextIOBase):
        raise ImageDecodeError(name, "expected a file opened in binary mode, got text")
    data = bytearray()
    while chunk := stream.read(_CHUNK):  # a pipe gives what it has, not what was asked for
        data += chunk
        limits.check_bytes(name, len(data))
    return bytes(data)


def _from_bytes(
    data: bytes, name: str, limits: ImageLimits, reduced_for: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    limits.check_bytes(name, len(data))
    if not data:
        raise ImageDecodeError(name, "the file is empty")
    if limits.max_pixels > _PILLOW_LIMIT and (Image.MAX_IMAGE_PIXELS or limits.max_pixels) < limits.max_pixels:
        Image.MAX_IMAGE_PIXELS = limits.max_pixels  # Pillow offers no other way to raise its limit
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as exc:
        raise ImageDecodeError(name, "not an image of a known format (PNG, JPEG, BMP, TIFF, WebP, GIF, PPM)") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # a warning under `python -W error`
        raise ImageTooLargeError(name, f"over the limit of {limits.max_pixels:,} pixels ({exc})") from exc
    with picture:
        limits.check_pixels(name, *picture.size)
        _check_parts(picture, data, name, limits)
        if getattr(picture, "is_animated", False):
            log.warning("%s: several frames, taking the first", name)
        if reduced_for is None or not isinstance(picture, JpegImageFile):
            return _whole(_to_rgb(picture, name))
        width, height = picture.size
        picture.draft(picture.mode, (REDUCTION * max(reduced_for),) * 2)  # a square, for EXIF may turn it
        reduced = _to_rgb(picture, name)
        turned = reduced.size == picture.size[::-1] and _orientation(picture) in _QUARTER_TURNS
        return reduced, (width, height) if turned else (height, width)


def _check_parts(picture: Image.Image, data: bytes, name: str, limits: ImageLimits) -> None:
    """Refuse an image whose parts cost far more than its pixels: tiles larger than it, scans without end."""
    if isinstance(picture, TiffImageFile):
        width, height = (picture.tag_v2.get(tag) or 1 for tag in (TILEWIDTH, TILELENGTH))
        limits.check_pixels(f"{name}, its tiles", width, height)
    elif isinstance(picture, JpegImageFile) and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageDecodeError(name, f"{scans:,} scans, over the limit of {MAX_SCANS}; save it as a baseline JPEG")


def _orientation(picture: Image.Image) -> int | None:
    """EXIF's, None where it cannot be read."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as broken as a file may be
        return None


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    picture.load()
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception as exc:
        log.warning("%s: EXIF data cannot be read, the picture is taken as it is (%s)", name, exc)
        upright = picture
    if upright.mode == "RGB":
        return upright.copy() if upright is picture else upright
    if upright.mode.startswith("I;16"):
        # numpy reads big-endian data by its dtype, so the copy to native order keeps the values
        return _gray(_scale(np.asarray(upright).astype(np.uint16), name))
    if upright.mode == "I":
        values = np.asarray(upright)
        if values.min() < 0 or values.max() > 65535:
            raise ImageDecodeError(name, f"32-bit values outside 0..65535 ({values.min()}..{values.max()}); rescale it first")
        return _gray(_scale(values.astype(np.uint16), name))
    if upright.mode == "F":
        return _gray(_scale(np.asarray(upright), name))
    if upright.mode in ("La", "RGBa"):  # premultiplied alpha has no direct way to RGB
        upright = upright.convert("LA" if upright.mode == "La" else "RGBA")
    elif upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _from_array(array: npt.NDArray[Any], name: str, limits: ImageLimits) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageDecodeError(name, f"expected [H, W] or [H, W, 1, 3 or 4], got {array.shape}")
    limits.check_pixels(name, array.shape[1], array.shape[0])
    pixels = _scale(array, name)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return _gray(pixels.reshape(pixels.shape[:2]))
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))


def _gray(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _scale(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Any supported dtype -> uint8, over the full range of the type; never stretched by the picture's own range."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # in either byte order
        if 0 < array.max() < 4096:
            log.warning(
                "%s: 16-bit values up to %d of 65535, the picture looks dark; scale 10- or 12-bit data first", name, array.max()
            )
        wide = array.astype(np.uint32)
        wide += 128
        wide //= 257
        return wide.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ImageDecodeError(name, f"float pixels must lie in [0, 1], got {low:.4g}..{high:.4g}; divide by the white level")
        exact = array.astype(np.float64)
        exact *= 255
        return np.rint(exact, out=exact).astype(np.uint8)
    raise ImageDecodeError(name, f"expected bool, uint8, uint16 or float pixels, got {array.dtype}")


def _tensor_to_array(tensor: Any, name: str) -> npt.NDArray[Any]:
    tensor = tensor.detach().cpu()
    if tensor.ndim not in (2, 3):
        raise ImageDecodeError(name, f"a tensor is [H, W] or [C, H, W], got {tuple(tensor.shape)}; take one image of a batch")
    if tensor.is_floating_point():
        tensor = tensor.double()  # numpy has no bfloat16
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 3, 4):
            raise ImageDecodeError(name, f"a tensor is [H, W] or [C, H, W] with C 1, 3 or 4, got {tuple(tensor.shape)}")
        tensor = tensor.permute(1, 2, 0)
    array: npt.NDArray[Any] = tensor.numpy()
    return array
