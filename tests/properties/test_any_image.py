"""Any array in any mode at any size gives a Prediction or a typed error; so does any damaged file."""

import io
import random
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from anovl import ImageLimits, Prediction
from anovl.data.images import load_image
from anovl.errors import ImageError, UsageError

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "La", "RGBa"]
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(detector, source):
    try:
        prediction = detector.predict(source, "nut")
    except ImageError:
        return None
    assert isinstance(prediction, Prediction)
    assert prediction.anomaly_map.shape == prediction.image_size
    return prediction


@relaxed
@given(
    npst.arrays(
        dtype=st.sampled_from(
            ["bool", "uint8", "uint16", "float16", "float32", "float64", "int32", "int64", "complex64", ">u2", "<f4"]
        ),
        shape=npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9),
    )
)
def test_any_array(detector, array):
    check(detector, array)


@relaxed
@given(st.sampled_from(MODES), st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_any_mode_and_size(detector, mode, width, height, seed):
    value = random.Random(seed).randint(0, 1) if mode in ("1", "F") else random.Random(seed).randint(0, 255)
    prediction = check(detector, Image.new(mode, (width, height), value if Image.getmodebands(mode) == 1 else None))
    assert prediction is None or prediction.image_size == (height, width)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2), (1300, 1700)])
def test_extreme_sizes(detector, size):
    assert check(detector, Image.new("RGB", size, (9, 99, 199))).image_size == size[::-1]


@relaxed
@given(st.binary(max_size=400))
def test_any_bytes(detector, data):
    check(detector, data)


@given(st.one_of(st.none(), st.integers(), st.floats(), st.dictionaries(st.text(), st.text()), st.lists(st.integers())))
def test_what_is_no_image(value):
    with pytest.raises(UsageError, match="expected an image"):
        load_image(value)


def seeds():
    """Small valid files of every format and several modes."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    animation = {"save_all": True, "append_images": [colour.rotate(90)], "duration": 10}
    files = []
    for form, variants in {
        "PNG": [
            (colour, {}),
            (colour.convert("P"), {}),
            (colour.convert("1"), {}),
            (colour.convert("RGBA"), {}),
            (colour, animation),
        ],
        "JPEG": [(colour, {}), (colour.convert("L"), {}), (colour.convert("CMYK"), {}), (colour, {"progressive": True})],
        "BMP": [(colour, {}), (colour.convert("P"), {})],
        "TIFF": [(colour, {}), (colour, {"compression": "tiff_lzw"}), (colour.convert("F"), {}), (colour, animation)],
        "WEBP": [(colour, {}), (colour, {"lossless": True}), (colour, animation)],
        "GIF": [(colour.convert("P"), {}), (colour.convert("P"), animation)],
        "PPM": [(colour, {}), (colour.convert("L"), {})],
    }.items():
        for picture, options in variants:
            buffer = io.BytesIO()
            picture.save(buffer, form, **options)
            files.append(buffer.getvalue())
    files.append(b"P5 65535 65535 255\n" + b"\0" * 100)
    return files


def mutate(data, rng):
    """Flip, overwrite, delete, repeat or cut bytes anywhere, one time in five in the header."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(data) if rng.random() < 0.8 else min(64, len(data)))
        kind = rng.randrange(8)
        if kind < 4:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", rng.randbytes(4)])
        elif kind == 5:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 6:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            del data[at:]
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("part", range(5))
def test_5000_mutated_files_raise_nothing_else(part):
    rng = random.Random(part)
    files, limits = seeds(), ImageLimits(max_pixels=4_000_000)
    opened = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(1000):
            try:
                picture = load_image(mutate(rng.choice(files), rng), limits=limits)
            except ImageError:
                continue
            assert picture.mode == "RGB"
            opened += 1
    assert 100 < opened < 900  # both sides are met
