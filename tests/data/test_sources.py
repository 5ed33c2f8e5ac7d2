"""Sources: order, names, what is left out, unique output names that never leave the folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from anovl.data.sources import find_mask, iter_source
from anovl.errors import UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def names(source, **options) -> list[str | None]:
    return [item.image_path for item in iter_source(source, **options)]


def stems(source, **options) -> list[str]:
    return [item.stem for item in iter_source(source, **options)]


def assert_usable(found: list[str]) -> None:
    """Names are unique and stay below the folder they are joined to."""
    assert len(set(found)) == len(found), found
    for stem in found:
        path = PurePosixPath(stem)
        assert stem
        assert not path.is_absolute()
        assert ".." not in path.parts


def test_folder_order_and_names(tmp_path):
    touch(tmp_path, "b.png", "a.JPG", "z/2.tif", "z/10.webp", "m/k/1.bmp", "m/0.gif", "notes.txt", "no_suffix", "a.npy")
    assert names(tmp_path) == ["a.JPG", "b.png", "m/0.gif", "m/k/1.bmp", "z/10.webp", "z/2.tif"]
    assert stems(str(tmp_path)) == ["a", "b", "m/0", "m/k/1", "z/10", "z/2"]
    assert [item.image for item in iter_source(tmp_path)][3] == tmp_path / "m/k/1.bmp"


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "dib", "tif", "tiff", "webp", "gif", "ppm", "pgm", "pbm", "TIF"])
def test_suffixes(tmp_path, suffix):
    assert names(touch(tmp_path, f"a.{suffix}")) == [f"a.{suffix}"]


def test_hidden_entries_are_left_out(tmp_path):
    assert names(touch(tmp_path, ".a.png", ".cache/b.png", "c.png", "d/.e/f.png")) == ["c.png"]


def test_ground_truth_beside_test_is_left_out(tmp_path):
    touch(tmp_path, "bottle/test/good/0.png", "bottle/ground_truth/cut/0_mask.png", "other/ground_truth/1.png")
    assert names(tmp_path) == ["bottle/test/good/0.png", "other/ground_truth/1.png"]


def test_excluded_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "out/overlay/a.png", "deep/out/b.png")
    assert names(tmp_path, exclude=[tmp_path / "out"]) == ["a.png", "deep/out/b.png"]
    monkeypatch.chdir(tmp_path)
    assert names(tmp_path, exclude=[Path("out")]) == ["a.png", "deep/out/b.png"]
    assert names(".", exclude=[Path("deep/../out")]) == ["a.png", "deep/out/b.png"]


def test_excluded_folder_in_a_glob(tmp_path):
    touch(tmp_path, "a.png", "out/overlay/a.png")
    assert names(f"{tmp_path}/**/*.png", exclude=[tmp_path / "out"]) == ["a.png"]


def test_same_stem_with_different_suffix(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "b.png", "deep/a.png")
    assert stems(tmp_path) == ["a.jpg", "a.png", "b", "deep/a"]


@pytest.mark.parametrize(
    "files",
    [("a.png", "a.jpg", "a.png.png"), ("a:b.png", "a_b.png"), ("x:/a.png", "x_/a.png")],
    ids=["suffix in stem", "colon", "colon in folder"],
)
def test_names_of_a_folder_never_collide(tmp_path, files):
    assert_usable(stems(touch(tmp_path, *files)))
    assert_usable(stems(f"{tmp_path}/**/*.*"))


def test_empty_folder(tmp_path):
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_subfolder_is_logged(tmp_path, caplog):
    touch(tmp_path, "a.png", "shut/b.png")
    (tmp_path / "shut").chmod(0)
    try:
        with caplog.at_level(logging.WARNING):
            assert names(tmp_path) == ["a.png"]
    finally:
        (tmp_path / "shut").chmod(0o755)
    assert str(tmp_path / "shut") in caplog.text


def test_globs(tmp_path, monkeypatch):
    touch(tmp_path, "b.png", "a.png", "c.txt", "deep/d.png", "deep/er/e.png", "f.png/g.png")
    monkeypatch.chdir(tmp_path)
    assert names("*.png") == ["a.png", "b.png"]
    assert names("deep/*.png") == ["d.png"]
    assert names(f"{tmp_path}/deep/*.png") == ["d.png"]
    assert names("**/*.png") == ["a.png", "b.png", "deep/d.png", "deep/er/e.png", "f.png/g.png"]
    assert names(f"{tmp_path}/[ab].*") == ["a.png", "b.png"]
    assert names("nothing*.png") == []
    assert [item.image for item in iter_source("deep/*.png")] == [Path("deep/d.png")]
    monkeypatch.chdir(tmp_path / "deep")
    assert stems("../*.png") == ["a", "b"]


def test_glob_keeps_suffixes_of_same_stems(tmp_path):
    assert stems(f"{touch(tmp_path, 'a.png', 'a.jpg', 'b.png')}/*") == ["a.jpg", "a.png", "b"]


def test_file_with_wildcards_in_its_name(tmp_path):
    touch(tmp_path, "a[1].png", "a1.png")
    assert names(tmp_path / "a[1].png") == ["a[1].png"]


def test_single_file(tmp_path):
    (item,) = iter_source(str(touch(tmp_path, "deep/x.y.png") / "deep/x.y.png"))
    assert (item.image, item.image_path, item.stem, item.key) == (tmp_path / "deep/x.y.png", "x.y.png", "x.y", "x.y.png")


@pytest.mark.parametrize("image", [b"bytes", np.zeros((2, 2)), Image.new("L", (1, 1))])
def test_single_image_without_file(image):
    (item,) = iter_source(image)
    assert item.image is image
    assert (item.image_path, item.stem, item.key) == (None, "image-000000", "image-000000")


def test_list_of_paths(tmp_path):
    listed = ["a.png", Path("a.png"), "b/a.png", "a.jpg"]
    assert names(listed) == ["a.png", "a.png", "b/a.png", "a.jpg"]
    assert stems(listed) == ["a.png", "a.png-2", "b/a", "a.jpg"]
    assert stems(iter(listed)) == ["a.png", "a.png-2", "b/a.png", "a.jpg"]


@pytest.mark.parametrize(
    "listed",
    [
        ["a.png", "a.png", "a-2.png", "a-2.png"],
        ["../a.png", "../../a.png", "_up/a.png", "x/../a.png", "/etc/a.png", "etc/a.png", "//net/a.png"],
        ["..", ".", "/", "", "../..", "a/.."],
        ["image-000001.png", np.zeros((2, 2), np.uint8)],
        [np.zeros((2, 2), np.uint8), "image-000000.png"],
        ["image.png", "..", "/"],
        ["a:b.png", "a_b.png"],
        ["a.png", "./a.png", ".//a.png"],
        [".png", ".hidden.png", "x."],
    ],
)
def test_names_of_a_list_never_collide_or_leave(listed):
    assert_usable(stems(listed))


def test_iterator_of_arrays_is_lazy():
    def endless():
        while True:
            yield np.zeros((2, 2), np.uint8)

    items = iter_source(endless())
    assert [next(items).stem for _ in range(3)] == ["image-000000", "image-000001", "image-000002"]
    assert next(items).image_path is None


def test_find_mask(tmp_path):
    touch(tmp_path, "test/cut/000.png", "test/cut/001.png", "test/cut/002.png", "test/good/000.png", "train/good/000.png")
    touch(tmp_path, "ground_truth/cut/000_mask.png", "ground_truth/cut/000.png", "ground_truth/cut/001.png")
    truth = tmp_path / "ground_truth/cut"
    assert find_mask(tmp_path / "test/cut/000.png") == truth / "000_mask.png"
    assert find_mask(tmp_path / "test/cut/001.png") == truth / "001.png"
    assert find_mask(tmp_path / "test/cut/002.png") is None
    assert find_mask(tmp_path / "test/good/000.png") is None
    assert find_mask(tmp_path / "train/good/000.png") is None


@pytest.mark.parametrize("source", ["no/such/folder", "no/such.png", "a\0b", Path("missing.png")])
def test_missing_path(source):
    with pytest.raises(UsageError, match="no such file or folder"):
        list(iter_source(source))


@pytest.mark.parametrize("source", [None, 7, 2.5, object()])
def test_wrong_type(source):
    with pytest.raises(UsageError, match=type(source).__name__):
        list(iter_source(source))


def test_wrong_element():
    with pytest.raises(UsageError, match="element 1"):
        list(iter_source(["a.png", 7]))


def test_only_a_folder_that_looks_like_an_output_reserves_its_name(tmp_path):
    for name in ("good/a.png", "x.png/a.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for name in ("good.png", "x.tif"):
        (tmp_path / name).touch()
    assert stems(tmp_path) == ["good", "x-2", "good/a", "x.png/a"]
