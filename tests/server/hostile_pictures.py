"""Files that somebody could send as an image: {name: (bytes, status of the answer)}; limits 4 MiB and one megapixel."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIDE = 1000  # an image of the limit is SIDE x SIDE
RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))
GREY = NOISE.convert("L")
BLINKING = [GREY.resize((9, 9), n % 2) for n in range(2000)]


def saved(picture: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.copy().save(stream, form, **options)  # a copy, for Pillow leaves settings on what it saved
    return stream.getvalue()


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=8, height=8, *extra: bytes, depth=8, colour=0, interlace=0, rows: bytes | None = None, end=True) -> bytes:
    """A PNG of chunks; `rows` is what the pixel data inflates to."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    data = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height) if rows is None else rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + data + (chunk(b"IEND", b"") if end else b"")


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value), `data` at byte 1000."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following)
    return head.ljust(1000, b"\0") + data


def tiff_of(width: int, height: int, *tags: tuple[int, int, int, int], data: bytes = bytes(64), **options) -> bytes:
    """A grey 8-bit TIFF; `tags` go before its own."""
    own = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 1000, 277: 1, 278: height, 279: len(data)}
    rest = [(tag, 4, 1, value) for tag, value in own.items() if tag not in {given[0] for given in tags}]
    return tiff(*tags, *rest, data=data, **options)


def floats(*values: float) -> bytes:
    """A TIFF of floats."""
    return saved(Image.fromarray(np.resize(np.float32(values), (8, 8))), "TIFF")


def exif(raw: bytes) -> bytes:
    return saved(NOISE, "JPEG", exif=b"Exif\0\0" + raw)


def jpeg_with(segment: bytes) -> bytes:
    return b"\xff\xd8" + segment + JPEG[2:]


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes many times."""
    whole = saved(Image.new("L", (SIDE, SIDE), 90), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


def zipped(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


PNG, JPEG, GIF, TIFF, WEBP, BMP, PPM = (saved(NOISE, form) for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"))
APNG = saved(GREY, "PNG", save_all=True, append_images=[GREY.point(lambda v: 255 - v)] * 3)
SOF = JPEG.index(b"\xff\xc0") + 5  # height, width
SCAN = JPEG.index(b"\xff\xda")
ZEROS = bytes(30_000_000)
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Comment", "<script>alert(1)</script>")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BIG = Image.new("L", (SIDE, SIDE), 90)
LOOP = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x8769, 4, 1, 8, 8)  # an EXIF directory that is its own child

PICTURES: dict[str, tuple[bytes, int]] = {
    # --- PNG
    "png 900 megapixels announced": (png(30_000, 30_000, rows=bytes(9999)), 413),
    "png 2^31-1 wide": (png(2**31 - 1, 1, rows=bytes(9999)), 413),
    "png one row over the limit": (png(SIDE, SIDE + 1), 413),
    "png at the limit in 1 kB": (png(SIDE, SIDE), 200),
    "png without pixels": (png(0, 0), 415),
    "png negative width": (png(2**31 + 5, 8, rows=b""), 413),
    "png pixels inflate to 30 MB": (png(8, 8, rows=ZEROS), 200),
    "png pixels end early": (png(64, 64, rows=bytes(99)), 415),
    "png zTXt bomb": (png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(ZEROS))), 415),
    "png iTXt bomb": (png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(ZEROS))), 415),
    "png iCCP bomb": (png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(ZEROS))), 415),
    "png 200 texts of 1 MB": (png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20)))] * 200), 415),
    "png 20,000 chunks": (png(8, 8, *[chunk(b"abCd", b"")] * 20_000), 200),
    "png chunk of 4 GB": (png()[:33] + b"\xff\xff\xff\xffIDAT", 415),
    "png wrong checksum": (patched(PNG, 29, b"\0\0\0\0"), 415),
    "png without pixel data": (PNG[:33] + chunk(b"IEND", b""), 415),
    "png without an end": (png(end=False), 200),
    "png depth 7": (png(depth=7), 415),
    "png colour type 9": (png(colour=9), 415),
    "png interlace 9": (png(interlace=9), 415),
    "png palette missing": (png(colour=3), 200),
    "png palette index beyond": (png(8, 8, chunk(b"PLTE", b"\1\2\3"), colour=3, rows=(b"\0" + b"\xff" * 8) * 8), 200),
    "png interlaced": (png(interlace=1, rows=bytes(200)), 200),
    "png 16-bit grey": (saved(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), "PNG"), 200),
    "png 16-bit colour": (png(8, 8, depth=16, colour=2, rows=bytes((8 * 6 + 1) * 8)), 200),
    "png 1-bit": (saved(GREY.convert("1"), "PNG"), 200),
    "png grey with alpha": (saved(GREY.convert("LA"), "PNG"), 200),
    "png palette with alpha": (saved(NOISE.convert("P"), "PNG", transparency=3), 200),
    "png one pixel": (png(1, 1), 200),
    "png one pixel high": (png(SIDE, 1), 200),
    "png broken EXIF": (png(8, 8, chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")), 200),
    "png gamma 0": (png(8, 8, chunk(b"gAMA", bytes(4))), 200),
    "png script in a comment": (saved(NOISE, "PNG", pnginfo=TEXT), 200),
    "png animated": (APNG, 200),
    "png animated, a frame that lies": (APNG.replace(b"fcTL\0\0\0\0\0\0\0\x40", b"fcTL\0\0\0\0\x7f\xff\xff\xff", 1), 415),
    "png animated, 2^31 frames": (png(8, 8, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), 200),
    "png + html": (PNG + b"<html><script>alert(1)</script></html>", 200),
    "png + zip": (PNG + zipped("a.txt", b"x"), 200),
    "png + php": (png(8, 8, chunk(b"tEXt", b"a\0<?php system($_GET['x']); ?>")), 200),
    # --- JPEG
    "jpeg 65535 x 65535 announced": (patched(JPEG, SOF, b"\xff\xff\xff\xff"), 413),
    "jpeg larger than its data": (patched(JPEG, SOF, b"\x03\xe8\x03\xe8"), 200),
    "jpeg smaller than its data": (patched(JPEG, SOF, b"\0\x08\0\x08"), 200),
    "jpeg height 0": (patched(JPEG, SOF, b"\0\0"), 415),
    "jpeg 2,000 scans": (scans(2000), 415),
    "jpeg progressive": (saved(NOISE, "JPEG", progressive=True), 200),
    "jpeg start alone": (b"\xff\xd8", 415),
    "jpeg zeros after the start": (b"\xff\xd8\xff\xe0" + bytes(60), 415),
    "jpeg CMYK": (saved(NOISE.convert("CMYK"), "JPEG"), 200),
    "jpeg grey": (saved(GREY, "JPEG"), 200),
    "jpeg 12-bit": (patched(JPEG, SOF - 1, b"\x0c"), 415),
    "jpeg 9 components": (patched(JPEG, SOF + 4, b"\x09"), 415),
    "jpeg arithmetic coding": (patched(JPEG, SOF - 4, b"\xc9"), 200),
    "jpeg lossless": (patched(JPEG, SOF - 4, b"\xc3"), 415),
    "jpeg without tables": (JPEG.replace(b"\xff\xc4", b"\xff\xfe"), 200),
    "jpeg scan of zeros": (JPEG[: SCAN + 14] + bytes(4000), 200),
    "jpeg segment of no length": (jpeg_with(b"\xff\xe1\0\0"), 200),
    "jpeg 3,000 segments": (jpeg_with(b"\xff\xe5\0\x04ab" * 3000), 200),
    "jpeg comment of 64 kB": (jpeg_with(b"\xff\xfe\xff\xff" + b"<" * 65533), 200),
    "jpeg broken colour profile": (saved(NOISE, "JPEG", icc_profile=b"x" * 999), 200),
    "jpeg colour profile": (saved(NOISE, "JPEG", icc_profile=PROFILE), 200),
    "jpeg several pictures announced": (jpeg_with(b"\xff\xe2\0\x20MPF\0II*\0\x08\0\0\0" + b"\xff" * 18), 200),
    "jpeg several pictures": (saved(NOISE, "MPO", save_all=True, append_images=[NOISE]), 200),
    "jpeg + html": (JPEG + b"<html><script>alert(1)</script>", 200),
    "jpeg + pdf": (JPEG + b"%PDF-1.7\n", 200),
    "jpeg + zip": (JPEG + zipped("a.txt", b"x"), 200),
    "exif turned": (exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"), 200),
    "exif orientation 99": (exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"), 200),
    "exif orientation is text": (exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x03\0\0\0abc\0\0\0\0\0"), 200),
    "exif directory of itself": (exif(LOOP), 200),
    "exif offset beyond": (exif(b"II*\0\xff\xff\xff\x7f"), 200),
    "exif value of 4 GB": (exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x08\0\0\0\0\0\0\0"), 200),
    "exif 5,000 entries announced": (exif(b"II*\0\x08\0\0\0\x88\x13" + bytes(40)), 200),
    "exif cut": (exif(b"II*\0"), 200),
    "exif says another size": (exif(b"II*\0\x08\0\0\0\x01\0\x02\xa0\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0"), 200),
    # --- GIF
    "gif 65535 x 65535 announced": (patched(GIF, 6, b"\xff\xff\xff\xff"), 413),
    "gif frame larger than the screen": (GIF.replace(b",\0\0\0\0\x40\0\x30\0", b",\0\0\0\0\xff\xff\xff\xff", 1), 413),
    "gif frame far outside": (GIF.replace(b",\0\0\0\0\x40\0", b",\xff\xff\0\0\x40\0", 1), 413),
    "gif head alone": (b"GIF89a" + bytes(7), 415),
    "gif without frames": (GIF[:13] + b";", 415),
    "gif at the limit": (saved(BIG, "GIF"), 200),
    "gif code size 0": (GIF.replace(b"\x40\0\x30\0\0\x08", b"\x40\0\x30\0\0\0"), 200),
    "gif code size 99": (GIF.replace(b"\x40\0\x30\0\0\x08", b"\x40\0\x30\0\0\x63"), 200),
    "gif 2,000 frames": (saved(BLINKING[0], "GIF", save_all=True, append_images=BLINKING), 200),
    "gif comment without an end": (GIF[:13] + b"!\xfe" + b"\xffx" * 999, 415),
    "gif transparent": (saved(NOISE.convert("P"), "GIF", transparency=0), 200),
    "gif + script": (GIF + b"/*<script>*/=1;", 200),
    # --- TIFF
    "tiff 900 megapixels announced": (tiff_of(30_000, 30_000), 413),
    "tiff strip count of 4 GB": (tiff_of(8, 8, (279, 4, 1, 2**32 - 1)), 200),
    "tiff strip beyond the file": (tiff_of(8, 8, (273, 4, 1, 2**31)), 415),
    "tiff 2^28 strips": (tiff_of(8, 8, (273, 4, 2**28, 1000), (279, 4, 2**28, 1000)), 415),
    "tiff deflate bomb": (tiff_of(8, 8, (259, 3, 1, 8), data=zlib.compress(ZEROS)), 200),
    "tiff deflate rubbish": (tiff_of(8, 8, (259, 3, 1, 8), data=b"x" * 64), 415),
    "tiff tiles of 2^30": (tiff_of(8, 8, (322, 4, 1, 2**30), (323, 4, 1, 2**30), (324, 4, 1, 1000), (325, 4, 1, 64)), 413),
    "tiff tiles of 0": (tiff_of(8, 8, (322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 1000), (325, 4, 1, 64)), 200),
    "tiff deflated tiles of 2^15": (
        tiff_of(8, 8, (259, 3, 1, 8), (322, 4, 1, 2**15), (323, 4, 1, 2**15), (324, 4, 1, 1000), (325, 4, 1, 64)), 413),
    "tiff directory of itself": (tiff_of(8, 8, following=8), 200),
    "tiff 65535 entries announced": (b"II*\0\x08\0\0\0\xff\xff" + bytes(60), 415),
    "tiff offset beyond": (b"II*\0\xff\xff\xff\xff", 415),
    "tiff width missing": (tiff((257, 4, 1, 8), (273, 4, 1, 1000)), 415),
    "tiff width 0": (tiff_of(0, 8), 415),
    "tiff width is a fraction by zero": (tiff_of(8, 8, (256, 5, 1, 900)), 415),
    "tiff 65535 samples": (tiff_of(8, 8, (277, 3, 1, 65535)), 415),
    "tiff 64-bit": (tiff_of(8, 8, (258, 3, 1, 64)), 415),
    "tiff unknown compression": (tiff_of(8, 8, (259, 3, 1, 31337)), 415),
    "tiff jpeg without tables": (tiff_of(8, 8, (259, 3, 1, 7)), 415),
    "tiff fax": (saved(GREY.convert("1"), "TIFF", compression="group4"), 200),
    "tiff lzw": (saved(NOISE, "TIFF", compression="tiff_lzw"), 200),
    "tiff CMYK": (saved(NOISE.convert("CMYK"), "TIFF"), 200),
    "tiff Lab": (saved(NOISE.convert("LAB"), "TIFF"), 200),
    "tiff 16-bit": (saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "TIFF"), 200),
    "tiff negative numbers": (saved(Image.fromarray(np.full((8, 8), -4, np.int32)), "TIFF"), 415),
    "tiff floats": (floats(0, 0.5, 1), 200),
    "tiff floats over 1": (floats(0, 255), 415),
    "tiff NaN": (floats(0.5, np.nan), 415),
    "tiff infinity": (floats(0.5, np.inf), 415),
    "tiff all NaN": (floats(np.nan), 415),
    "tiff two pages": (saved(NOISE, "TIFF", save_all=True, append_images=[GREY]), 200),
    "tiff 64-bit offsets": (saved(NOISE, "TIFF", big_tiff=True), 200),
    "tiff BigTIFF offset beyond": (b"II+\0\x08\0\0\0" + b"\xff" * 8, 415),
    # --- WebP
    "webp 16383 x 16383": (saved(Image.new("L", (16383, 70)), "WEBP", lossless=True), 413),
    "webp canvas lies": (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xff\xff\xff\xff\xff\xff" + WEBP[12:], 415),
    "webp length lies": (patched(WEBP, 4, b"\xff\xff\xff\x7f"), 415),
    "webp head alone": (b"RIFF\xff\xff\xff\xffWEBPVP8 ", 415),
    "webp lossless": (saved(NOISE, "WEBP", lossless=True), 200),
    "webp with alpha": (saved(NOISE.convert("RGBA"), "WEBP"), 200),
    "webp animated": (saved(NOISE, "WEBP", save_all=True, append_images=[GREY.convert("RGB")] * 5), 200),
    "webp wave sound": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), 415),
    # --- BMP
    "bmp 900 megapixels announced": (patched(BMP, 18, struct.pack("<ii", 30_000, 30_000)), 413),
    "bmp larger than its data": (patched(BMP, 18, struct.pack("<ii", 900, 900)), 415),
    "bmp height -2^31": (patched(BMP, 22, struct.pack("<i", -(2**31))), 413),
    "bmp width -64": (patched(BMP, 18, struct.pack("<i", -64)), 413),
    "bmp top down": (patched(BMP, 22, struct.pack("<i", -48)), 200),
    "bmp 0 bits": (patched(BMP, 28, b"\0\0"), 415),
    "bmp unknown compression": (patched(BMP, 30, b"\x63\0\0\0"), 415),
    "bmp run lengths end early": (patched(saved(GREY, "BMP"), 30, b"\x01\0\0\0"), 415),
    "bmp palette of 2^32": (patched(saved(GREY, "BMP"), 46, b"\xff\xff\xff\xff"), 415),
    "bmp pixels beyond the file": (patched(BMP, 10, b"\xff\xff\xff\x7f"), 415),
    "bmp header of 0 bytes": (patched(BMP, 14, b"\0\0\0\0"), 415),
    "bmp 1-bit": (saved(GREY.convert("1"), "BMP"), 200),
    # --- PPM and PFM
    "ppm 900 megapixels announced": (b"P6 30000 30000 255\n", 413),
    "ppm size of 1,000,000 digits": (b"P6 " + b"9" * 1_000_000 + b" 1 255\n", 415),
    "ppm size negative": (b"P6 -8 8 255\n" + bytes(192), 415),
    "ppm largest value 0": (b"P6 8 8 0\n" + bytes(192), 415),
    "ppm largest value 99999": (b"P6 8 8 99999\n" + bytes(192), 415),
    "ppm comment without an end": (b"P6 #" + b"x" * 100_000, 415),
    "ppm cut": (b"P6 8 8 255\n" + bytes(99), 415),
    "ppm text": (b"P3 2 1 255\n1 2 3 4 5 6\n", 200),
    "ppm text that lies": (b"P3 2 1 255\n1 2 3 4 5 999\n", 415),
    "ppm text of 1,000,000 digits": (b"P3 1 1 255\n" + b"9" * 1_000_000, 415),
    "pbm of letters": (b"P1 2 2\nabcd", 415),
    "pgm 16-bit": (b"P5 2 1 65535\n\xff\xff\0\0", 200),
    "pfm of floats": (b"Pf 2 2 -1.0\n" + struct.pack("<4f", 0, 0.2, 0.8, 1), 200),
    "pfm of NaN": (b"Pf 2 2 -1.0\n" + struct.pack("<4f", *[float("nan")] * 4), 415),
    "pfm scale NaN": (b"Pf 2 2 nan\n" + bytes(16), 415),
    "pfm scale 0": (b"Pf 2 2 0\n" + bytes(16), 415),
    # --- cut, form by form
    **{
        f"{name} cut {where}": (data[: int(len(data) * share)], 415)
        for name, data in (("png", PNG), ("jpeg", JPEG), ("gif", GIF), ("tiff", TIFF), ("webp", WEBP), ("bmp", BMP), ("ppm", PPM))
        for where, share in (("early", 0.02), ("in the middle", 0.5), ("near the end", 0.9))
    },
    # --- what is no picture, or one of a kind that is not decoded
    "empty": (b"", 415),
    "one byte": (b"\x89", 415),
    "zeros": (bytes(5000), 415),
    "text": (b"not a picture", 415),
    "utf-16 text": ("not a picture".encode("utf-16"), 415),
    "a path": (b"/etc/passwd", 415),
    "a URL": (b"http://127.0.0.1:@@@@@/picture.png", 415),
    "html": (b"<html><script>alert(1)</script></html>", 415),
    "svg that loads": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:@@@@@/a.png"/></svg>', 415),
    "xml entities": (b'<!DOCTYPE a [<!ENTITY b SYSTEM "http://127.0.0.1:@@@@@/">]><svg>&b;</svg>', 415),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n", 415),
    "dos eps": (b"\xc5\xd0\xd3\xc6" + bytes(40), 415),
    "pdf": (b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n", 415),
    "pdf + jpeg": (b"%PDF-1.7\n" + JPEG, 415),
    "zip": (zipped("a.png", PNG), 415),
    "zip bomb": (zipped("a.png", ZEROS), 415),
    "gzip": (gzip.compress(PNG), 415),
    "zip + png": (zipped("a.txt", b"x") + PNG, 415),
    "pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", 415),
    "npy": (b"\x93NUMPY\x01\x00\x46\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 415),
    "safetensors": (b"\x08\0\0\0\0\0\0\0{}      ", 415),
    "torch file": (zipped("archive/data.pkl", b"\x80\x02cos\nsystem\n"), 415),
    "program": (b"\x7fELF\x02\x01\x01" + bytes(99), 415),
    "windows program": (b"MZ" + bytes(99), 415),
    "psd": (b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(99), 415),
    "ico": (saved(NOISE, "ICO"), 415),
    "icns": (b"icns\0\0\0\x10ic07\0\0\0\x08", 415),
    "tga": (saved(NOISE, "TGA"), 415),
    "jpeg 2000": (saved(NOISE, "JPEG2000"), 415),
    "pcx": (saved(NOISE, "PCX"), 415),
    "dds": (saved(NOISE, "DDS"), 415),
    "sgi": (saved(NOISE, "SGI"), 415),
    "xbm": (b"#define a_width 8\n#define a_height 8\nstatic char a_bits[] = {0};", 415),
    "fits": (b"SIMPLE  =                    T".ljust(2880), 415),
    "dicom": (bytes(128) + b"DICM" + bytes(60), 415),
    "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(60), 415),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60), 415),
    "avif": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(60), 415),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(60), 415),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(60), 415),
    "json": (json.dumps({"images": []}).encode(), 415),
}  # fmt: skip
