"""Data sets: every layout read as it is, every mistake on disk told at once, masks to pixels."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile
from tests.data import drawn
from tests.data.drawn import BOX, DRAWN, SIZE, mask, picture

from anovl.addresses import path_of
from anovl.data.datasets import DATASETS, DatasetError, load, read_mask, resize_mask
from anovl.data.images import load_image
from anovl.errors import ImageDecodeError, ImageNotFoundError, UsageError

REAL = Path(__file__).parents[3] / "shared" / "data"
PIXELS = 60  # of BOX


def problems(name, root, **options):
    with pytest.raises(DatasetError) as caught:
        load(name, root, **options)
    return caught.value.problems


def only(name, root, **options):
    """The only problem."""
    found = problems(name, root, **options)
    assert len(found) == 1, found
    return found[0]


def outline(dataset):
    """category -> (class name, kind, has masks, train pictures, {defect: test pictures})."""
    found = {}
    for category in dataset.categories:
        defects = {}
        for sample in category.test:
            defects[sample.defect] = defects.get(sample.defect, 0) + 1
        found[category.name] = (category.class_name, category.kind, category.has_masks, len(category.train), defects)
    return found


LOCO = {"good": 2, "logical_anomalies": 2, "structural_anomalies": 2}
OUTLINES = {
    "mvtec": {
        "bottle": ("bottle", "object", True, 2, {"good": 2, "broken_large": 2, "contamination": 2}),
        "carpet": ("carpet", "texture", True, 2, {"good": 2, "hole": 2}),
        "metal_nut": ("metal nut", "object", True, 2, {"good": 2, "scratch": 2}),
    },
    "visa": {
        "candle": ("candle", "object", True, 2, {"good": 2, "defect": 2}),
        "pcb1": ("pcb1", "object", True, 2, {"good": 2, "defect": 2}),
    },
    "btad": {name: ("industrial product", "object", True, 2, {"good": 2, "defect": 2}) for name in ("01", "02", "03")},
    "mpdd": {
        "bracket_black": ("black bracket", "object", True, 2, {"good": 2, "hole": 2, "scratches": 2}),
        "tubes": ("tubes", "object", True, 2, {"good": 2, "anomalous": 2}),
    },
    "mvtec2": {
        "fabric": ("fabric", "texture", True, 2, {"good": 2, "defect": 2}),
        "vial": ("vial", "object", True, 2, {"good": 2, "defect": 2}),
    },
    "loco": {
        "breakfast_box": ("breakfast box", "object", True, 2, LOCO),
        "pushpins": ("pushpins", "object", True, 2, LOCO),
    },
    "dagm": {
        name: ("textured surface", "texture", True, 2, {"good": 2, "defect": 2}) for name in ("Class1", "Class2", "Class10")
    },
    "ksdd": {"ksdd": ("electrical commutator", "texture", True, 0, {"good": 4, "defect": 2})},
    "ksdd2": {"ksdd2": ("production item", "texture", True, 2, {"good": 2, "defect": 2})},
    "folder": {"folder": ("folder", "object", True, 0, {"good": 2, "dent": 2, "defect": 2})},
    "manifest": {
        "lid": ("bottle lid", "object", True, 1, {"good": 1, "crack": 1}),
        "wood": ("wood", "texture", False, 0, {"good": 1, "defect": 1}),
    },
    "synthetic": {
        "asphalt": ("asphalt", "texture", True, 1, {"good": 2}),
        "metal_nut": ("metal nut", "object", True, 1, {"good": 2}),
    },
}


@pytest.mark.parametrize("name", DATASETS)
def test_each_layout(name, tmp_path):
    source = DRAWN[name](tmp_path / name)
    dataset = load(name, source)
    found = outline(dataset)
    if name == "synthetic":  # kinds of defect are drawn by lot
        for *_, defects in found.values():
            assert sum(defects.values()) == 4
            for defect in set(defects) - {"good"}:
                del defects[defect]
    assert found == OUTLINES[name]
    assert list(found) == list(OUTLINES[name])  # the order too
    assert dataset == load(name, str(source))
    for category in dataset.categories:
        for samples in (category.test, category.train):
            assert [sample.key for sample in samples] == sorted({sample.key for sample in samples})
        for sample in (*category.test, *category.train):
            assert dataset.root / sample.key == sample.image
            load_image(sample.image)
            if category.has_masks:
                size = SIZE if name != "synthetic" else (96, 96)
                pixels = read_mask(sample, size)
                assert pixels.any() == sample.anomalous == (len(sample.masks) > 0)
                if sample.anomalous and name != "synthetic":
                    assert pixels[BOX].all()
                    assert pixels.sum() == PIXELS + 6 * (len(sample.masks) - 1)
        assert not any(sample.anomalous for sample in category.train)


@pytest.fixture
def store(tmp_path):
    """A file system in memory whose folder of the test's name is gone after it."""
    pytest.importorskip("upath")
    found = pytest.importorskip("fsspec").filesystem("memory")
    found.mkdirs(f"/{tmp_path.name}", exist_ok=True)
    yield found
    found.rm(f"/{tmp_path.name}", recursive=True)


@pytest.mark.parametrize("name", DATASETS)
def test_each_layout_at_an_address(name, tmp_path, store):
    source = DRAWN[name](tmp_path / "data" / "set [a]")
    store.put(f"{tmp_path}/data/", f"/{tmp_path.name}/", recursive=True)
    address = f"memory://{tmp_path.name}/{source.relative_to(tmp_path / 'data').as_posix()}"
    here, there = load(name, source), load(name, address)
    assert outline(there) == outline(here)
    for ours, theirs in zip(here.categories, there.categories, strict=True):
        assert [sample.key for sample in theirs.train] == [sample.key for sample in ours.train]
        for mine, other in zip(ours.test, theirs.test, strict=True):
            assert (other.key, other.defect, len(other.masks)) == (mine.key, mine.defect, len(mine.masks))
            image = load_image(mine.image)
            assert load_image(other.image) == image
            if ours.has_masks:
                assert np.array_equal(read_mask(other, image.size[::-1]), read_mask(mine, image.size[::-1]))
    assert pickle.loads(pickle.dumps(there)) == there  # noqa: S301 -- made here


def test_addresses_that_are_none(tmp_path):
    pytest.importorskip("upath")
    assert "no such file or folder" in only("mvtec", f"memory://{tmp_path.name}")
    with pytest.raises(UsageError, match="unknown scheme 'quark'"):
        load("mvtec", "quark://plant/data")
    listed = tmp_path / "list.csv"
    listed.write_text(f"image_path,label\nmemory://{tmp_path.name}/no.png,0\n")
    assert f"no such file: memory://{tmp_path.name}/no.png" in problems("manifest", listed)[0]


def test_mistakes_at_an_address(tmp_path, store):
    drawn.ksdd(tmp_path / "ksdd")
    (tmp_path / "ksdd/kos01/Part1_label.bmp").write_bytes(b"BM")
    picture(tmp_path / "lids/lid/train/good/0.png")
    store.put(f"{tmp_path}/", f"/{tmp_path.name}/", recursive=True)
    assert only("ksdd", f"memory://{tmp_path.name}/ksdd").startswith("kos01/Part1_label.bmp: not a readable image")
    assert only("folder", f"memory://{tmp_path.name}/lids") == only("folder", tmp_path / "lids") == "lid: no test picture"
    store.pipe(f"/{tmp_path.name}/a.png", b"none")
    broken = path_of(f"memory://{tmp_path.name}/a.png")
    with pytest.raises(ImageDecodeError, match=f"^memory://{tmp_path.name}/a.png: not an image"):
        load_image(broken)


def test_manifest_at_an_address(tmp_path, store):
    picture(tmp_path / "a.png")
    store.put(f"{tmp_path}/", f"/{tmp_path.name}/", recursive=True)
    rows = ["image_path", "x/../a.png", "b.png", "/data/a.png", "../a.png"]
    store.pipe(f"/{tmp_path.name}/list.csv", "\n".join(rows).encode())
    assert problems("manifest", f"memory://{tmp_path.name}/list.csv") == (
        "list.csv, line 3: no such file: b.png",
        "list.csv, line 4: /data/a.png is a path of one machine, and the manifest is at an address; give the picture's address",
        "list.csv, line 5: ../a.png is outside the manifest's folder; give its address",
    )


@pytest.mark.parametrize("error", [RuntimeError, PermissionError])
def test_manifest_whose_masks_are_here_and_there(tmp_path, store, monkeypatch, error):
    picture(tmp_path / "a.png")
    mask(tmp_path / "m.png")
    mask(tmp_path / "n.png", box=(slice(0, 1), slice(0, 1)))
    there = f"memory://{tmp_path.name}/n.png"
    store.put(str(tmp_path / "n.png"), f"/{tmp_path.name}/n.png")
    listed = tmp_path / "list.csv"
    listed.write_text(f"image_path,label,mask_path\na.png,1,{there};m.png\n")
    (sample,) = load("manifest", listed).categories[0].test
    assert read_mask(sample, SIZE).sum() == PIXELS + 1

    def fails(*_args, **_options):
        raise error("no credentials")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "open", fails)
        with pytest.raises(ImageNotFoundError, match=rf"^{there}: cannot be read \(no credentials\)"):
            read_mask(sample, SIZE)
        patch.setattr(type(store), "info", fails)
        with pytest.raises(UsageError, match=rf"^{there}: cannot be reached \(no credentials\)"):
            load("manifest", listed)


def test_each_layout_has_its_words():
    assert set(DRAWN) == set(DATASETS)
    for info in DATASETS.values():
        assert info.title
        assert info.licence
        assert info.shape
        assert bool(info.address.startswith("https://")) == bool(info.paper)
    assert [len(DATASETS[name].classes) for name in ("mvtec", "visa", "btad", "mpdd", "mvtec2", "loco", "dagm")] == [
        *(15, 12, 3, 6, 8, 5, 10)
    ]
    textures = {each.name for each in DATASETS["mvtec"].classes if each.kind == "texture"}
    assert textures == {"carpet", "grid", "leather", "tile", "wood"}


def test_visa_both_layouts_are_one(tmp_path):
    original, pytorch = load("visa", drawn.visa(tmp_path / "a")), load("visa", drawn.visa_pytorch(tmp_path / "b"))
    assert outline(original) == outline(pytorch)
    assert outline(load("visa", tmp_path / "b" / "1cls")) == outline(pytorch)
    assert original.categories[0].test[0].key == "candle/Data/Images/Anomaly/000.JPG"
    assert pytorch.categories[0].test[0].key == "1cls/candle/test/bad/000.JPG"


def test_loco_has_several_masks(tmp_path):
    sample = next(each for each in load("loco", drawn.loco(tmp_path)).categories[0].test if each.defect == "logical_anomalies")
    assert [path.name for path in sample.masks] == ["000.png", "001.png"]
    assert read_mask(sample, SIZE)[20:22, 0:3].all()


def test_notes(tmp_path):
    (note,) = load("mvtec", drawn.mvtec(tmp_path / "a")).notes
    assert note.startswith("3 of 15 classes; not there: cable, capsule, grid, ")
    saturation, validation = load("loco", drawn.loco(tmp_path / "b"), categories=["pushpins"]).notes
    assert "saturation" in saturation
    assert "validation/good" in validation


def test_categories_and_words(tmp_path):
    root = drawn.mvtec(tmp_path)
    dataset = load("mvtec", root, categories=["Metal nut", "bottle"], class_name="thing")
    assert [(each.name, each.class_name) for each in dataset.categories] == [("bottle", "thing"), ("metal_nut", "thing")]
    assert only("mvtec", root, categories=["botle", "bottle"]).startswith("unknown category 'botle'; did you mean 'bottle'")
    assert only("mvtec", root, categories=["wood", "bottle"]) == "wood: no such folder"
    for wrong in ("bottle", []):
        with pytest.raises(UsageError, match="at least one name in a list"):
            load("mvtec", root, categories=wrong)
    with pytest.raises(UsageError, match="class name"):
        load("mvtec", root, class_name=" \n")
    with pytest.raises(UsageError, match="did you mean 'mvtec'"):
        load("mvtek", root)


def test_everything_wrong_is_told_at_once(tmp_path):
    root = drawn.mvtec(tmp_path)
    bottle = root / "bottle"
    (bottle / "ground_truth/broken_large/000_mask.png").unlink()
    mask(bottle / "ground_truth/broken_large/007_mask.png")
    mask(bottle / "ground_truth/contamination/000_mask.png", size=(10, 12))
    (bottle / "test/contamination/001.png").write_bytes(b"no picture")
    shutil.rmtree(root / "carpet/ground_truth")
    shutil.rmtree(root / "metal_nut/test")
    assert sorted(problems("mvtec", root)) == [
        "bottle/ground_truth/broken_large/007_mask.png: a mask without picture",
        "bottle/ground_truth/contamination/000_mask.png: the mask is 12x10, its picture 32x24",
        "bottle/test/broken_large/000.png: defective, and no mask",
        "bottle/test/contamination/001.png: not a readable image (UnidentifiedImageError)",
        "carpet/test/hole: none of its 2 defective pictures has a mask",
        "metal_nut/ground_truth/scratch/000_mask.png: a mask without picture",
        "metal_nut/ground_truth/scratch/001_mask.png: a mask without picture",
        "metal_nut: no test picture",
    ]


def test_the_message_is_short_and_says_what_was_expected(tmp_path):
    root = drawn.mvtec(tmp_path)
    for index in range(100, 150):
        mask(root / f"bottle/ground_truth/contamination/{index}_mask.png")
    with pytest.raises(DatasetError) as caught:
        load("mvtec", root)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"mvtec in {root}: 50 problems"
    assert lines[-2:] == ["- and 30 more", f"Expected: {DATASETS['mvtec'].shape}"]
    assert len(lines) == 23
    assert len(caught.value.problems) == 50
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (str(again), again.problems, again.exit_code) == (str(caught.value), caught.value.problems, 2)


def test_wrong_root(tmp_path):
    root = drawn.mvtec(tmp_path / "data" / "MVTec")
    assert only("mvtec", tmp_path / "nowhere") == "no such file or folder"
    assert only("mvtec", root / "license.txt") == "is a file, expected a folder"
    assert only("mvtec", root / "bottle") == f"is part of the data set: name {root} as the root and 'bottle' as the category"
    assert only("mvtec", root / "bottle" / "test").endswith(f"name {root} as the root and 'bottle' as the category")
    assert only("mvtec", tmp_path / "data") == f"the data set is deeper: name {root} as the root"
    assert only("mvtec", tmp_path).endswith(f"name {root} as the root")
    (tmp_path / "empty").mkdir()
    assert only("mvtec", tmp_path / "empty").startswith("none of its classes is there (bottle, cable,")
    assert only("ksdd", tmp_path / "empty") == "nothing of the data set is there; for pictures of your own name 'folder'"
    assert only("synthetic", root) == "no dataset.json, which `anovl synth` writes last"
    assert only("folder", tmp_path / "empty") == "empty: no test picture"
    assert only("folder", root / "license.txt").endswith("for a list of pictures name 'manifest'")
    assert only("manifest", root) == "is a folder, expected a CSV or JSON lines file"
    ksdd = drawn.ksdd(tmp_path / "ksdd" / "KolektorSDD-boxes")
    assert only("ksdd", ksdd.parent) == f"the data set is deeper: name {ksdd} as the root"
    assert only("ksdd", ksdd / "kos01") == f"is part of the data set: name {ksdd} as the root"


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].signs])
def test_wrong_data_set(name, tmp_path):
    """Each known root under another name says which it is."""
    source = DRAWN[name](tmp_path)
    for other in ("mvtec", "visa"):
        if other != name:
            assert only(other, source) == f"this is {DATASETS[name].title}: name {name!r} instead of {other!r}"


@pytest.mark.parametrize("name", ["visa", "dagm", "ksdd", "ksdd2", "mvtec2"])
def test_known_data_set_as_folder(name, tmp_path):
    source = DRAWN[name](tmp_path)
    try:
        told = load("folder", source).notes
    except DatasetError as exc:
        told = exc.problems
    assert told[-1] == f"this is {DATASETS[name].title}: name {name!r} for its labels"


def test_a_class_folder_that_is_empty(tmp_path):
    (tmp_path / "bottle").mkdir()
    assert only("mvtec", tmp_path) == "bottle: no test picture"


def test_visa_split(tmp_path):
    root = drawn.visa(tmp_path)
    (root / "candle/Data/Images/Normal/0000.JPG").unlink()
    (root / "candle/Data/Masks/Anomaly/001.png").unlink()
    mask(root / "pcb1/Data/Masks/Anomaly/009.png")
    split = root / "split_csv" / "1cls.csv"
    split.write_text(split.read_text().replace("pcb1,train,normal", "pcb1,train,unsure", 1))
    image = "pcb1/Data/Images/Normal/0002.JPG"
    assert sorted(problems("visa", root)) == [
        "candle/Data/Images/Anomaly/001.JPG: defective, and no mask",
        "candle/Data/Images/Normal/0000.JPG: listed in split_csv/1cls.csv and not there",
        "candle/Data/Masks/Anomaly/001.png: listed in split_csv/1cls.csv and not there",
        "pcb1/Data/Masks/Anomaly/009.png: a mask that split_csv/1cls.csv does not list",
        f"split_csv/1cls.csv: {image} is 'train', 'unsure'; expected train or test, normal or anomaly",
    ]
    split.write_text("image,label\na.png,1\n")
    assert "split_csv/1cls.csv: expected the columns object, split, label, image, mask, each row" in problems("visa", root)[0]
    split.write_bytes(b"object\xff")
    assert problems("visa", root)[0].startswith("split_csv/1cls.csv: cannot be read ('utf-8' codec")
    split.unlink()
    assert problems("visa", root)[0].startswith("split_csv/1cls.csv: no such file; it comes with the download")


def test_masks_that_tell_the_label(tmp_path):
    root = drawn.ksdd(tmp_path)
    (root / "kos01/Part0_label.bmp").unlink()
    (root / "kos01/Part1_label.bmp").write_bytes(b"BM")
    found = problems("ksdd", root)
    assert found[0] == "kos01/Part0.jpg: no mask Part0_label, which tells whether it is good"
    assert found[1].startswith("kos01/Part1_label.bmp: not a readable image")
    assert len(found) == 2


def test_dagm_masks_that_tell_the_label(tmp_path):
    root = drawn.dagm(tmp_path)
    mask(root / "Class1/Test/Label/0099_label.PNG")
    shutil.rmtree(root / "Class2/Train/Label")
    assert problems("dagm", root) == (
        "Class1/Test/Label/0099_label.PNG: a mask without picture",
        "Class2/Train/Label: no such folder; it tells which pictures are defective",
    )


def test_folder_one_category_or_many(tmp_path):
    drawn.tree(tmp_path / "set" / "tile", "crack", masks="masks")
    drawn.tree(tmp_path / "set" / "top_cap", "dent")
    many, one = load("folder", tmp_path / "set"), load("folder", tmp_path / "set" / "tile")
    assert [(each.name, each.class_name, each.kind) for each in many.categories] == [
        ("tile", "tile", "texture"),
        ("top_cap", "top cap", "object"),
    ]
    assert [sample.key for sample in one.categories[0].test] == [
        f"test/{kind}/00{index}.png" for kind in ("crack", "good") for index in (0, 1)
    ]
    assert many.categories[0].test[0].key == "tile/test/crack/000.png"
    assert len(one.categories[0].train) == 2
    assert only("folder", tmp_path / "set", categories=["cap"]).startswith("unknown category 'cap'")
    assert load("folder", tmp_path / "set", categories=["top cap"]).categories == many.categories[1:]
    drawn.tree(tmp_path / "set" / "TILE", "crack")  # two names that differ in case only
    assert [each.name for each in load("folder", tmp_path / "set").categories] == ["TILE", "tile", "top_cap"]


def test_folder_without_masks(tmp_path):
    root = drawn.folder(tmp_path / "lid")
    shutil.rmtree(root / "masks")
    picture(root / "loose.png")
    dataset = load("folder", root, class_name="pot lid")
    assert outline(dataset) == {"lid": ("pot lid", "object", False, 0, {"good": 2, "dent": 2, "defect": 2})}
    assert dataset.notes == ("lid: 1 pictures outside the folders of good and defective ones are left out",)
    defective = next(sample for sample in dataset.categories[0].test if sample.anomalous)
    with pytest.raises(UsageError, match="expected a picture with a mask"):
        read_mask(defective, SIZE)


def test_folder_with_masks_not_sorted_by_kind(tmp_path):
    for kind, name in (("good", "a"), ("dent", "b"), ("hole", "c")):
        picture(tmp_path / kind / f"{name}.png")
    mask(tmp_path / "ground_truth/b_mask.png")
    mask(tmp_path / "ground_truth/c/0.png")
    dataset = load("folder", tmp_path)
    assert [len(sample.masks) for sample in dataset.categories[0].test] == [1, 0, 1]
    picture(tmp_path / "hole" / "b.png")
    mask(tmp_path / "ground_truth/z.png")
    assert sorted(problems("folder", tmp_path)) == [
        "ground_truth/b_mask.png: a mask of 2 pictures",
        "ground_truth/z.png: a mask without picture",
    ]


def test_folder_without_labels(tmp_path):
    for name in ("b.png", "deep/a.JPG", ".hidden.png", ".cache/a.png", "masks/b.png"):
        picture(tmp_path / "parts" / name)
    (tmp_path / "parts" / "note.txt").write_text("")
    dataset = load("folder", tmp_path / "parts")
    assert [(each.key, each.anomalous, each.defect) for each in dataset.categories[0].test] == [
        ("b.png", None, "unknown"),
        ("deep/a.JPG", None, "unknown"),
    ]
    assert (dataset.categories[0].name, dataset.categories[0].has_masks) == ("parts", False)
    assert dataset.notes[0].startswith("no labels")
    with pytest.raises(UsageError, match="expected a picture with a mask"):
        read_mask(dataset.categories[0].test[0], SIZE)


def test_folder_named_by_dots(tmp_path, monkeypatch):
    drawn.tree(tmp_path / "lid", "dent")
    monkeypatch.chdir(tmp_path / "lid" / "test")
    assert load("folder", "..").categories[0].name == "lid"
    monkeypatch.chdir(tmp_path / "lid")
    dataset = load("folder", ".")
    assert (dataset.categories[0].name, dataset.categories[0].test[0].key) == ("lid", "test/dent/000.png")


def test_train_without_test(tmp_path):
    picture(tmp_path / "lid" / "train" / "good" / "0.png")
    assert only("folder", tmp_path / "lid") == "lid: no test picture"


def test_links_that_go_round(tmp_path):
    root = drawn.mvtec(tmp_path / "real")
    for place in (
        "bottle/test/good/round",
        "bottle/round",
        "bottle/test/round",
        "round",
        "bottle/ground_truth/broken_large/round",
    ):
        (root / place).symlink_to(root, target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    linked = tmp_path / "linked"
    linked.symlink_to(root, target_is_directory=True)
    found = problems("mvtec", linked)  # bottle/test/round is a folder of pictures like any other, and has no masks
    assert all(text.startswith("bottle/test/round") for text in found)
    (root / "bottle/test/round").unlink()
    assert outline(load("mvtec", linked)) == OUTLINES["mvtec"]


def test_hidden_files_and_case(tmp_path):
    root = drawn.mvtec(tmp_path)
    good = root / "bottle/test/good"
    (good / "000.png").rename(good / "000.PNG")
    for name in ("._000.png", "Thumbs.db"):
        (good / name).write_bytes(b"")
    (root / "bottle/test/.DS_Store").write_bytes(b"")
    (root / "bottle/test/.hidden").mkdir()
    assert outline(load("mvtec", root)) == OUTLINES["mvtec"]


@pytest.mark.parametrize("place", ["", "bottle/test", "bottle/test/good"])
def test_unreadable_folder(tmp_path, monkeypatch, place):
    root = drawn.mvtec(tmp_path)
    closed, scandir = root / place, os.scandir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in refuse(path)])
    if place:
        assert only("mvtec", root) == f"{closed}: cannot be read (Permission denied)"
    else:
        assert only("folder", root) == f"{closed}: cannot be read (Permission denied)"


def test_manifest_csv(tmp_path):
    picture(tmp_path / "a b.png")
    picture(tmp_path / "elsewhere" / "c.png")
    mask(tmp_path / "m1.png")
    mask(tmp_path / "m2.png")
    path = tmp_path / "sub" / "list.csv"
    path.parent.mkdir()
    for name in ("x.png", "y.png", "z.png"):
        picture(path.parent / name)
    path.write_bytes(
        "\ufeffimage_path,label,defect,mask_path,split\r\n"
        f"x.png,,,,\r\n./y.png,OK,,{tmp_path / 'm1.png'},\r\nz.png,0,,,train\r\n"
        f'"{tmp_path / "a b.png"}",,crack,{tmp_path / "m1.png"} ; {tmp_path / "m2.png"},Test\r\n'.encode()
    )
    dataset = load("manifest", path)
    (category,) = dataset.categories
    assert (category.name, category.has_masks, [sample.key for sample in category.train]) == ("list", True, ["z.png"])
    outside = (tmp_path / "a b.png").relative_to("/").as_posix()
    assert [(sample.key, sample.anomalous, sample.defect, len(sample.masks)) for sample in category.test] == [
        (outside, True, "crack", 2),
        ("x.png", None, "unknown", 0),
        ("y.png", False, "good", 0),
    ]


def test_manifest_mistakes(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    mask(tmp_path / "m.png", size=(5, 5))
    rows = [
        {"image_path": "a.png", "label": 0, "class_name": "lid"},
        {"image_path": "./a.png", "label": 0, "class_name": "cap"},
        {"image_path": "gone.png", "label": 0},
        {"image_path": "../out.png", "label": 0},
        {"image_path": "b.png", "label": "maybe"},
        {"image_path": "b.png", "label": 0, "defect": "scratch"},
        {"image_path": "b.png", "label": 1, "split": "dev"},
        {"image_path": "b.png", "label": 1, "category": "../up"},
        {"image_path": "b.png", "label": 1, "mask_path": 3},
        {"image_path": "b.png", "label": 1, "mask_path": "m.png"},
        {"image_path": "c.png", "label": 1, "mask_path": ["no.png"]},
        {"label": 1},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n[1]\n{broken\n")
    at = "list.jsonl, line"
    assert sorted(problems("manifest", path)) == sorted(
        [
            f"{at} 2: list is called 'cap' here and 'lid' before",
            f"{at} 3: no such file: gone.png",
            f"{at} 4: ../out.png is outside the manifest's folder; give its absolute path",
            f"{at} 5: the label is 'maybe', expected 0 or good, 1 or anomalous, or nothing",
            f"{at} 6: the label is '0' and the defect 'scratch'",
            f"{at} 7: the split is 'dev', expected test or train",
            f"{at} 8: the category is '../up', expected a name without folders",
            f"{at} 9: the mask_path is 3, expected a path or several",
            f"{at} 11: no such file: no.png",
            f"{at} 12: expected a path, got None",
            f'{at} 14: expected an object such as {{"image_path": "a.png"}}, got [1]',
            f"{at} 15: not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
            "list: a.png stands 2 times",
            "m.png: the mask is 5x5, its picture 32x24",
            "c.png: defective, and no mask",
        ]
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "expected a column image_path, found nothing"),
        (b"file,label\na.png,1\n", "expected a column image_path, found file, label"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"image_path,label\na.png,1,2,3\n", "line 2: more fields than columns"),
        (b"image_path\n" + b"x" * 200_000 + b"\n", "not CSV (field larger than field limit"),
        (b"image_path\na\x00.png\n", "no such file"),
        (b"image_path\n", "no picture is there"),
    ],
)
def test_manifest_that_is_none(tmp_path, content, told):
    picture(tmp_path / "a.png")
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    assert any(told in problem for problem in problems("manifest", path))


def test_manifest_trains_on_good_pictures_only(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    path = tmp_path / "list.csv"
    path.write_text("image_path,label,split\na.png,0,test\nb.png,1,train\nc.png,0,train\n")
    dataset = load("manifest", path)
    assert [sample.key for sample in dataset.categories[0].train] == ["c.png"]
    assert dataset.notes == ("1 defective pictures of the split train left out",)


def test_synthetic_record(tmp_path):
    root = drawn.synthetic(tmp_path / "s")
    assert outline(load("folder", root)).keys() == {"asphalt", "metal_nut"}  # it is in the layout of MVTec AD too
    shutil.rmtree(root / "asphalt")
    assert only("synthetic", root) == "asphalt: no test picture"
    (root / "dataset.json").write_text("{}")
    assert only("synthetic", root) == "dataset.json: not a record of `anovl synth` (KeyError('classes'))"


def test_another_dataset_json_beside_known_classes(tmp_path):
    root = drawn.mvtec(tmp_path)
    (root / "dataset.json").write_text('{"name": "MVTec AD"}')
    assert outline(load("mvtec", root)) == OUTLINES["mvtec"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_honoured_by_the_header_check(tmp_path, suffix):
    picture(tmp_path / "good" / "0.png")
    (tmp_path / "bad").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: 32x24 is shown as 24x32
    Image.new("RGB", (32, 24)).save(tmp_path / "bad" / f"0{suffix}", exif=exif)
    mask(tmp_path / "masks" / "bad" / "0.png", size=(32, 24))
    sample = load("folder", tmp_path).categories[0].test[0]
    width, height = load_image(sample.image).size
    assert read_mask(sample, (height, width)).sum() == PIXELS
    mask(tmp_path / "masks" / "bad" / "0.png", size=(24, 32))
    assert only("folder", tmp_path) == "masks/bad/0.png: the mask is 32x24, its picture 24x32"


@pytest.mark.parametrize(
    ("mode", "value", "suffix"),
    [
        *(("L", 1, ".png"), ("L", 255, ".bmp"), ("1", 1, ".png"), ("I;16", 1, ".png"), ("RGB", (0, 0, 9), ".png")),
        *(("RGBA", (0, 255, 0, 255), ".png"), ("LA", (3, 255), ".png"), ("P", 1, ".png"), ("L", 255, ".jpg")),
    ],
)
def test_mask_values(tmp_path, mode, value, suffix):
    """Opaque black is good, anything else is a defect; JPEG noise is not."""
    background = {"RGBA": (0, 0, 0, 255), "LA": (0, 255)}.get(mode, 0)
    drawing = Image.new(mode, (32, 24), background)
    if mode == "P":
        drawing.putpalette([0, 0, 0, 128, 0, 0])
    drawing.paste(value, (8, 8, 16, 16))  # a JPEG block, so that its edges stay
    picture(tmp_path / "good" / "0.png")
    picture(tmp_path / "bad" / "1.png")
    (tmp_path / "masks").mkdir()
    drawing.save(tmp_path / "masks" / f"1{suffix}")
    pixels = read_mask(load("folder", tmp_path).categories[0].test[0], (24, 32))
    expected = np.zeros((24, 32), dtype=bool)
    expected[8:16, 8:16] = True
    np.testing.assert_array_equal(pixels, expected)


def test_read_mask_refuses(tmp_path):
    sample = next(each for each in load("mvtec", drawn.mvtec(tmp_path)).categories[0].test if each.anomalous)
    with pytest.raises(DatasetError, match="the mask is 32x24, its picture 24x32"):
        read_mask(sample, (32, 24))
    sample.masks[0].write_bytes(sample.masks[0].read_bytes()[:60])
    with pytest.raises(ImageDecodeError):
        read_mask(sample, SIZE)
    sample.masks[0].unlink()
    with pytest.raises(ImageNotFoundError):
        read_mask(sample, SIZE)


def test_resize_mask_is_bilinear_over_half():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :5] = True
    assert resize_mask(mask, (8, 8)) is mask
    np.testing.assert_array_equal(resize_mask(mask, (4, 4)), np.tile([True, True, True, False], (4, 1)))
    disc = np.hypot(*np.mgrid[-512:512, -512:512]) <= 2
    assert disc.any()
    assert not resize_mask(disc, (240, 240)).any()  # erased, as design says of radius 2
    assert resize_mask(np.ones((1, 1), dtype=bool), (3, 2)).tolist() == [[True, True]] * 3


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
)
def test_resized_masks_keep_what_is_everywhere_the_same(mask, size):
    resized = resize_mask(mask, size)
    assert resized.shape == size
    assert resized.dtype == np.bool_
    if mask.all() or not mask.any():
        assert resized.all() == mask.all()
        assert resized.any() == mask.any()


@pytest.mark.skipif(not REAL.is_dir(), reason="real pictures are not here")
def test_real_folders():
    hazelnut, tile = (load("folder", REAL / name).categories[0] for name in ("hazelnut", "magnetic_tile"))
    assert outline(load("folder", REAL, categories=["hazelnut"])) == {
        "hazelnut": ("hazelnut", "object", True, 28, {"colour": 17, "good": 6})
    }
    assert (tile.class_name, len(tile.test), sum(bool(sample.anomalous) for sample in tile.test)) == ("magnetic tile", 115, 75)
    sample = next(each for each in hazelnut.test if each.anomalous)
    assert 0 < read_mask(sample, (512, 512)).mean() < 0.5


def test_headers_alone_are_read(tmp_path):
    """A picture whose pixels are cut off passes: nothing is decoded."""
    root = drawn.mvtec(tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    assert outline(load("mvtec", root)) == OUTLINES["mvtec"]


def test_import_brings_no_slow_library():
    """Help texts and lists come before torch, and without scipy."""
    code = "import sys, anovl.data.datasets; print([name for name in ('torch', 'scipy', 'open_clip') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_set_of_the_size_of_mvtec_ad_loads_by_its_headers(tmp_path, monkeypatch):
    """5,354 pictures and 1,258 masks, links to one file each: those of defects are opened once, and none is decoded."""
    one, one_mask = picture(tmp_path / "one.png", size=(1024, 1024)), mask(tmp_path / "mask.png", size=(1024, 1024))
    classes = [tmp_path / "set" / known.name for known in DATASETS["mvtec"].classes]
    for folder in classes:
        for place in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
            (folder / place).mkdir(parents=True)
    for index in range(5354):
        folder = classes[index % 15]
        os.link(one, folder / ("test/hole" if index < 1258 else "test/good" if index < 1725 else "train/good") / f"{index}.png")
        if index < 1258:
            os.link(one_mask, folder / "ground_truth/hole" / f"{index}_mask.png")
    opened = []
    monkeypatch.setattr(Image, "open", lambda *a, real=Image.open, **more: opened.append(a) or real(*a, **more))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    dataset = load("mvtec", tmp_path / "set")
    assert len(opened) == 2 * 1258
    assert sum(len(each.test) for each in dataset.categories) == 1725
    assert sum(len(each.train) for each in dataset.categories) == 3629
