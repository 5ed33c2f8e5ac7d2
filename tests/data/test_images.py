"""Every kind of image source, the exact pixels it gives, and the typed error for everything else."""

from __future__ import annotations

import io
import logging
import os
import signal
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from anovl.data import images
from anovl.data.images import ImageLimits, describe, is_single_image, is_tensor, load_image, load_sized_image
from anovl.errors import (
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    UsageError,
)

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
WIDE = np.array([[0, 128, 129, 257, 40000, 65535]])  # 16-bit values
NARROW = np.array([[0, 0, 1, 1, 156, 255]])  # the same over 257, rounded


def encode(picture: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def pixels(source, **options) -> np.ndarray:
    picture = load_image(source, **options)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def gray(values) -> np.ndarray:
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.fixture
def png(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(RGB).save(path)
    return path


# Kinds of sources


@pytest.mark.parametrize(
    "wrap", [str, Path, Path.read_bytes, lambda p: bytearray(p.read_bytes()), lambda p: memoryview(p.read_bytes())]
)
def test_paths_and_buffers(png, wrap):
    np.testing.assert_array_equal(pixels(wrap(png)), RGB)


def test_file_objects(png):
    with png.open("rb") as stream:
        np.testing.assert_array_equal(pixels(stream), RGB)
    np.testing.assert_array_equal(pixels(io.BytesIO(png.read_bytes())), RGB)


def test_stream_that_gives_less_than_asked(png):
    """The raw streams of pipes and sockets return what they have."""

    class Trickle(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 50) if size >= 0 else 50)

    np.testing.assert_array_equal(pixels(Trickle(png.read_bytes())), RGB)


def _palette(**info) -> Image.Image:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L")
    picture = Image.frombytes("P", (3, 1), picture.tobytes())
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.info.update(info)
    return picture


PALETTE = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.frombytes("1", (3, 1), b"\x40"), gray([[0, 255, 0]])),
        (Image.frombytes("L", (2, 1), bytes([7, 200])), gray([[7, 200]])),
        (Image.frombytes("LA", (2, 1), bytes([7, 0, 200, 255])), gray([[7, 200]])),
        (_palette(), PALETTE),
        (_palette(transparency=1), PALETTE),
        (_palette(transparency=bytes([0, 128, 255])), PALETTE),
        (Image.frombytes("RGB", (1, 1), bytes([1, 2, 3])), [[[1, 2, 3]]]),
        (Image.frombytes("RGBA", (2, 1), bytes([1, 2, 3, 0, 4, 5, 6, 255])), [[[1, 2, 3], [4, 5, 6]]]),
        (Image.frombytes("CMYK", (1, 1), bytes([0, 255, 255, 0])), [[[255, 0, 0]]]),
        (Image.frombytes("I", (6, 1), WIDE.astype(np.int32).tobytes()), gray(NARROW)),
        (Image.frombytes("I;16", (6, 1), WIDE.astype("<u2").tobytes()), gray(NARROW)),
        (Image.frombytes("I;16B", (6, 1), WIDE.astype(">u2").tobytes()), gray(NARROW)),
        (Image.frombytes("F", (3, 1), np.array([0, 0.2, 1], np.float32).tobytes()), gray([[0, 51, 255]])),
        (Image.frombytes("YCbCr", (1, 1), bytes([90, 128, 128])), gray([[90]])),
        (Image.frombytes("HSV", (1, 1), bytes([0, 255, 255])), [[[255, 0, 0]]]),
        (Image.frombytes("RGBA", (1, 1), bytes([10, 20, 30, 255])).convert("RGBa"), [[[10, 20, 30]]]),
        (Image.frombytes("LA", (1, 1), bytes([10, 255])).convert("La"), gray([[10]])),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_pil_modes(picture, expected):
    np.testing.assert_array_equal(pixels(picture), expected)


def test_result_is_independent_of_its_source():
    picture, array = Image.fromarray(RGB), RGB.copy()
    from_picture, from_array = load_image(picture), load_image(array)
    picture.paste((0, 0, 0), (0, 0, 8, 6))
    array[:] = 0
    np.testing.assert_array_equal(np.asarray(from_picture), RGB)
    np.testing.assert_array_equal(np.asarray(from_array), RGB)


DTYPES = [
    (np.bool_, [0, 1, 1], [0, 255, 255]),
    (np.uint8, [0, 200, 255], [0, 200, 255]),
    (np.uint16, [0, 200 * 257, 65535], [0, 200, 255]),
    (np.float16, [0, 200 / 255, 1], [0, 200, 255]),
    (np.float32, [0, 200 / 255, 1], [0, 200, 255]),
    (np.float64, [0, 200 / 255, 1], [0, 200, 255]),
]


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize(("dtype", "values", "expected"), DTYPES)
def test_arrays(dtype, values, expected, channels):
    array = np.array([values, values[::-1]], dtype)  # [2, 3]
    wanted = gray([expected, expected[::-1]])
    if channels:
        array = np.repeat(array[..., None], channels, axis=-1)
    if channels in (3, 4):  # colour order: only red is left
        array[..., 1:3] = 0
        wanted = wanted * np.array([1, 0, 0])
    np.testing.assert_array_equal(pixels(array), wanted)


def test_dark_array_is_not_stretched():
    assert pixels(np.full((2, 2), 257, np.uint16)).max() == 1
    assert pixels(np.full((2, 2), 0.1, np.float32)).max() == 26


@pytest.mark.parametrize("view", [lambda a: a[::2, ::-1], np.asfortranarray, lambda a: a.transpose(1, 0, 2), lambda a: a[1:, 2:]])
def test_arrays_of_any_layout(view):
    np.testing.assert_array_equal(pixels(view(RGB)), view(RGB))


@pytest.mark.parametrize(("dtype", "white"), [(">u2", 65535), ("<u2", 65535), (">f2", 1), (">f4", 1), (">f8", 1)])
def test_arrays_of_any_byte_order(dtype, white):
    np.testing.assert_array_equal(pixels(np.array([[0, white]], dtype)), gray([[0, 255]]))


def test_read_only_array():
    array = RGB.copy()
    array.flags.writeable = False
    np.testing.assert_array_equal(pixels(array), RGB)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.bool])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_tensors(dtype, channels):
    white = 255 if dtype is torch.uint8 else 1
    tensor = torch.tensor([[0, white, 0], [white, 0, white]], dtype=dtype)  # [2, 3]
    expected = gray([[0, 255, 0], [255, 0, 255]])
    if channels:
        tensor = tensor.expand(channels, 2, 3).clone()
    if channels in (3, 4):
        tensor[1:] = 0
        expected = expected * np.array([1, 0, 0])
    np.testing.assert_array_equal(pixels(tensor), expected)


def test_tensor_with_gradient():
    assert pixels(torch.full((2, 2), 0.2, requires_grad=True)).tolist() == np.full((2, 2, 3), 51).tolist()


# Formats


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {})])
def test_lossless_formats(form, options):
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(RGB), form, **options)), RGB)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression):
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(RGB), "TIFF", compression=compression)), RGB)


@pytest.mark.parametrize("transparency", [{}, {"transparency": 1}])
@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_palette_files(form, transparency):
    np.testing.assert_array_equal(pixels(encode(_palette(), form, **transparency)), PALETTE)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_formats(form):
    flat = np.full((16, 24, 3), (200, 60, 20), np.uint8)
    got = pixels(encode(Image.fromarray(flat), form, quality=95))
    assert got.shape == flat.shape
    assert np.abs(got.astype(int) - flat).max() <= 4


def test_cmyk_jpeg():
    got = pixels(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_files(form):
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(WIDE.astype(np.uint16)), form)), gray(NARROW))


def test_16_bit_pgm():
    np.testing.assert_array_equal(pixels(b"P5 6 1 65535\n" + WIDE.astype(">u2").tobytes()), gray(NARROW))


def test_float_tiff():
    values = np.array([[0, 0.2, 1]], np.float32)
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(values), "TIFF")), gray([[0, 51, 255]]))


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(RGB), "PNG", exif=exif)), TURNS[orientation](RGB))


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (6, True), (7, True)])
@pytest.mark.parametrize(
    ("size", "target", "scale"), [((1000, 500), (60, 60), 4), ((1003, 1001), (250, 240), 2), ((60, 50), (40, 40), 1)]
)
def test_a_jpeg_decoded_in_part_tells_its_full_size(orientation, turned, size, target, scale):
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, "JPEG", quality=95, exif=exif)
    reduced, (height, width) = load_sized_image(data, reduced_for=target)
    whole = load_image(data)
    assert (width, height) == whole.size == (size[::-1] if turned else size)
    assert reduced.size == tuple(-(-side // scale) for side in whole.size)
    assert min(reduced.size) >= min(2 * max(target), *whole.size)
    small, expected = (np.asarray(one.resize(target, Image.Resampling.BICUBIC), np.float32) for one in (reduced, whole))
    assert np.abs(small - expected).mean() < 1


@pytest.mark.parametrize(
    "source", [encode(Image.new("RGB", (900, 800)), "PNG"), np.zeros((800, 900, 3), np.uint8)], ids=["png", "array"]
)
def test_only_a_jpeg_is_decoded_in_part(source):
    picture, size = load_sized_image(source, reduced_for=(20, 20))
    assert picture.size == (900, 800)
    assert size == (800, 900)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_modes_decoded_in_part(mode):
    picture, size = load_sized_image(
        encode(Image.new(mode, (640, 640), 128 if mode == "L" else (0, 9, 90, 0)), "JPEG"), reduced_for=(40, 40)
    )
    assert (picture.mode, picture.size, size) == ("RGB", (80, 80), (640, 640))


def test_exif_rotation_of_16_bit_tiff():
    data = encode(Image.fromarray(WIDE.astype(np.uint16)), "TIFF", tiffinfo={0x0112: 6})
    np.testing.assert_array_equal(pixels(data), gray(NARROW.T))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_no_reason_to_refuse_a_picture(form):
    assert pixels(encode(Image.fromarray(RGB), form, exif=b"Exif\x00\x00" + b"garbage" * 9)).shape == RGB.shape


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_first_frame_of_an_animation(form, options, caplog, tmp_path):
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    path = tmp_path / f"moving.{form.lower()}"
    path.write_bytes(encode(first, form, save_all=True, append_images=[second], **options))
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(pixels(path), np.asarray(first))
    record = next(r for r in caplog.records if "frames" in r.getMessage())
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()


# What is refused


def refused(kind: type[ImageError], source, path: str | None = None, match: str | None = None, **options) -> ImageError:
    with pytest.raises(kind, match=match) as caught:
        load_image(source, **options)
    assert type(caught.value) is kind
    assert caught.value.reason
    if path is not None:
        assert caught.value.path == path
        assert str(caught.value).startswith(path)
    return caught.value


def test_missing_file_folder_and_dangling_link(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nowhere.png")
    refused(ImageNotFoundError, tmp_path / "no.png", str(tmp_path / "no.png"), "no such file")
    refused(ImageNotFoundError, link, str(link), "no such file")
    refused(ImageNotFoundError, tmp_path, str(tmp_path), "folder")
    refused(ImageNotFoundError, str(tmp_path / "no.png" / "x.png"), str(tmp_path / "no.png" / "x.png"))


@pytest.mark.parametrize("name", ["a\0b.png", "a" * 5000 + ".png"])
def test_impossible_path(name):
    refused(ImageNotFoundError, name, name)


def test_fifo_does_not_hang(tmp_path):
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    signal.alarm(5)
    try:
        refused(ImageNotFoundError, path, str(path), "regular file")
    finally:
        signal.alarm(0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(png):
    png.chmod(0)
    refused(ImageNotFoundError, png, str(png), "[Pp]ermission")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"just a text\n" * 50, "known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'/>", "known format"),
        (encode(Image.fromarray(RGB), "EPS"), "known format"),
        (b"8BPS\x00\x01" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(100), "known format"),
        (encode(Image.fromarray(RGB), "ICO"), "known format"),
    ],
    ids=["empty", "text", "svg", "eps", "psd", "ico"],
)
def test_files_that_are_no_image(tmp_path, content, match):
    path = tmp_path / "claims.png"
    path.write_bytes(content)
    refused(ImageDecodeError, path, str(path), match)
    refused(ImageDecodeError, content, "bytes", match)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path, form, share):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), form)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    refused(ImageDecodeError, path, str(path))


def test_damaged_png():
    data = bytearray(encode(Image.fromarray(RGB), "PNG"))
    data[60] ^= 0xFF
    refused(ImageDecodeError, data, "bytearray")


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 1.01),
        np.full((2, 2), -0.01, np.float32),
        np.full((2, 2), 200.0),
        np.array([[0.5, np.nan]]),
        np.array([[0.5, np.inf]], np.float16),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), np.int8),
        np.zeros((2, 2), complex),
        np.zeros((2, 2), object),
        np.array([["a", "b"]]),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.array(7, np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 0, 3), np.float32),
        np.zeros((0, 0)),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_arrays_outside_the_conventions(array):
    refused(ImageDecodeError, array, f"ndarray {array.dtype} {array.shape}")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2, dtype=torch.int64),
        torch.full((3, 2, 2), 2.0),
        torch.full((2, 2), float("nan"), dtype=torch.bfloat16),
        torch.zeros(20, 20, 3),
        torch.zeros(1, 3, 4, 4),
        torch.zeros(3, 0, 4),
        torch.zeros(5),
        torch.zeros(2, 2, dtype=torch.complex64),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}",
)
def test_tensors_outside_the_conventions(tensor):
    refused(ImageDecodeError, tensor, f"Tensor {tensor.dtype} {tuple(tensor.shape)}")


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_values_outside_16_bit(value):
    refused(ImageDecodeError, Image.new("I", (2, 2), value), "PIL image", "rescale")


def test_float_picture_out_of_range():
    refused(ImageDecodeError, Image.new("F", (2, 2), 255.0), "PIL image", "white level")


def test_closed_picture(png):
    picture = Image.open(png)
    picture.close()
    refused(ImageDecodeError, picture, str(png))


def test_text_mode_streams(png, tmp_path):
    refused(ImageDecodeError, io.StringIO("hello"), "file object", "binary")
    with png.open(encoding="utf-8") as stream:
        refused(ImageDecodeError, stream, str(png), "binary")


@pytest.mark.parametrize("thing", [None, 7, 1.5, [1, 2], {"a": 1}, object(), ("a.png",)])
def test_other_types_are_usage_errors(thing):
    with pytest.raises(UsageError, match=type(thing).__name__):
        load_image(thing)
    assert not is_single_image(thing)


def test_image_error_survives_a_pickle():
    import pickle

    error = pickle.loads(pickle.dumps(ImageDecodeError("a.png", "is odd")))  # noqa: S301
    assert (type(error), error.path, error.reason, str(error)) == (ImageDecodeError, "a.png", "is odd", "a.png: is odd")


# Limits


@pytest.mark.parametrize("limits", [{"max_pixels": 0}, {"max_bytes": 0}, {"max_pixels": -5}])
def test_limits_below_one(limits):
    with pytest.raises(UsageError, match="limits"):
        ImageLimits(**limits)


@pytest.mark.parametrize("wrap", [str, Path.read_bytes, Image.open, lambda p: p.open("rb"), lambda _: RGB])
def test_lower_pixel_limit_refuses_before_decoding(png, wrap, monkeypatch):
    source = wrap(png)
    load_image(wrap(png), limits=ImageLimits(max_pixels=48))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("was decoded"))
    error = refused(ImageTooLargeError, source, limits=ImageLimits(max_pixels=47))
    assert "8x6" in error.reason
    assert "47" in error.reason


def test_raised_pixel_limit_passes_pillows_own(png, monkeypatch):
    monkeypatch.setattr(images, "_PILLOW_LIMIT", 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    refused(ImageTooLargeError, png, str(png), limits=ImageLimits(max_pixels=20))
    np.testing.assert_array_equal(pixels(png, limits=ImageLimits(max_pixels=48)), RGB)
    refused(ImageTooLargeError, png, str(png), limits=ImageLimits(max_pixels=47))


def test_raised_pixel_limit_leaves_a_pillow_without_limit_alone(png, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    load_image(png, limits=ImageLimits(max_pixels=10**9))
    assert Image.MAX_IMAGE_PIXELS is None


def test_claimed_size_is_refused_by_the_header(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    refused(ImageTooLargeError, png_header(60000, 60000), "bytes")


def test_size_just_over_the_limit_is_refused_also_where_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(ImageTooLargeError, png_header(15000, 15000), "bytes", "over the limit")


@pytest.mark.parametrize("wrap", [str, Path.read_bytes, lambda p: p.open("rb")])
def test_byte_limit(png, wrap):
    size = png.stat().st_size
    load_image(wrap(png), limits=ImageLimits(max_bytes=size))
    refused(ImageTooLargeError, wrap(png), match="bytes, over the limit", limits=ImageLimits(max_bytes=size - 1))


@pytest.mark.parametrize("limit", [10**15, 10**30])
def test_high_byte_limit_takes_no_memory(png, limit):
    with png.open("rb") as stream:
        np.testing.assert_array_equal(pixels(stream, limits=ImageLimits(max_bytes=limit)), RGB)


# Helpers


def test_what_counts_as_tensor():
    assert is_tensor(torch.zeros(1))
    assert is_tensor(torch.nn.Parameter(torch.zeros(1)))
    assert not is_tensor(np.zeros(1))


def test_names_in_messages(png):
    assert describe(png) == str(png)
    assert describe(Image.open(png)) == str(png)
    assert describe(Image.new("L", (1, 1))) == "PIL image"
    assert describe(np.zeros((2, 3), np.uint8)) == "ndarray uint8 (2, 3)"
    assert describe(b"x") == "bytes"
    assert describe(io.BytesIO()) == "file object"
