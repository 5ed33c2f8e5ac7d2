"""Every data set in miniature: a few drawn pictures of 32x24 in the layout, suffixes and mask values of the real one."""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from anovl.data.synthetic.layout import write_dataset

SIZE = (24, 32)  # H, W
BOX = (slice(4, 10), slice(6, 16))  # the defect of every mask: 6x10 pixels


def picture(path: Path, *, size: tuple[int, int] = SIZE) -> Path:
    """A picture of noise that depends on its name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    Image.fromarray(rng.integers(60, 200, (*size, 3), dtype=np.uint8)).save(path)
    return path


def mask(path: Path, *, value: int = 255, box: tuple[slice, slice] | None = BOX, size: tuple[int, int] = SIZE) -> Path:
    """A mask with `value` in a box, or an empty one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, dtype=np.uint8)
    if box is not None:
        pixels[box] = value
    Image.fromarray(pixels).save(path)
    return path


def tree(
    folder: Path, *kinds: str, test: str = "test", masks: str = "ground_truth", train: str = "train/good", suffix: str = ".png"
) -> None:
    """A class as in MVTec AD: two good and two pictures of each kind to test, two to train on."""
    good = Path(train).name
    for index in range(2):
        picture(folder / train / f"{index:03d}{suffix}")
        picture(folder / test / good / f"{index:03d}{suffix}")
        for kind in kinds:
            picture(folder / test / kind / f"{index:03d}{suffix}")
            mask(folder / masks / kind / f"{index:03d}_mask.png")


def mvtec(root: Path) -> Path:
    tree(root / "bottle", "broken_large", "contamination")
    tree(root / "carpet", "hole")
    tree(root / "metal_nut", "scratch")
    (root / "license.txt").write_text("CC BY-NC-SA 4.0")
    return root


def visa(root: Path) -> Path:
    rows = []
    for name in ("candle", "pcb1"):
        for index in range(4):
            image = picture(root / name / "Data/Images/Normal" / f"{index:04d}.JPG")
            rows.append((name, "test" if index < 2 else "train", "normal", image.relative_to(root).as_posix(), ""))
        for index in range(2):
            image = picture(root / name / "Data/Images/Anomaly" / f"{index:03d}.JPG")
            drawn = mask(root / name / "Data/Masks/Anomaly" / f"{index:03d}.png", value=index + 1)
            rows.append((name, "test", "anomaly", image.relative_to(root).as_posix(), drawn.relative_to(root).as_posix()))
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("object", "split", "label", "image", "mask"), *rows])
    return root


def visa_pytorch(root: Path) -> Path:
    for name in ("candle", "pcb1"):
        tree(root / "1cls" / name, "bad", suffix=".JPG")
        for path in (root / "1cls" / name / "ground_truth" / "bad").iterdir():
            path.rename(path.with_name(path.name.replace("_mask", "")))
    return root


def btad(root: Path) -> Path:
    for name, suffix, mask_suffix in (("01", ".bmp", ".png"), ("02", ".png", ".png"), ("03", ".bmp", ".bmp")):
        for index in range(2):
            picture(root / name / "train/ok" / f"{index:04d}{suffix}")
            picture(root / name / "test/ok" / f"{index:04d}{suffix}")
            picture(root / name / "test/ko" / f"{index:04d}{suffix}")
            mask(root / name / "ground_truth/ko" / f"{index:04d}{mask_suffix}")
    return root


def mpdd(root: Path) -> Path:
    tree(root / "bracket_black", "hole", "scratches")
    tree(root / "tubes", "anomalous")
    return root


def mvtec2(root: Path) -> Path:
    for name in ("fabric", "vial"):
        tree(root / name, "bad", test="test_public", masks="test_public/ground_truth")
        picture(root / name / "validation/good/000_regular.png")
        picture(root / name / "test_private/000_regular.png")
    return root


def loco(root: Path) -> Path:
    for name in ("breakfast_box", "pushpins"):
        tree(root / name, test="test")
        for kind in ("logical_anomalies", "structural_anomalies"):
            for index in range(2):
                picture(root / name / "test" / kind / f"{index:03d}.png")
                mask(root / name / "ground_truth" / kind / f"{index:03d}" / "000.png", value=255)
        mask(root / name / "ground_truth/logical_anomalies/000/001.png", value=254, box=(slice(20, 22), slice(0, 3)))
        picture(root / name / "validation/good/000.png")
        (root / name / "defects_config.json").write_text("[]")
    return root


def dagm(root: Path) -> Path:
    for name in ("Class1", "Class2", "Class10"):
        for split in ("Train", "Test"):
            for index in range(1, 5):
                picture(root / name / split / f"{index:04d}.PNG")
            mask(root / name / split / "Label/0003_label.PNG")
            mask(root / name / split / "Label/0004_label.PNG")
            (root / name / split / "Label/Labels.txt").write_text("1\n")
    return root


def ksdd(root: Path) -> Path:
    for folder in ("kos01", "kos02"):
        for part in range(3):
            picture(root / folder / f"Part{part}.jpg")
            mask(root / folder / f"Part{part}_label.bmp", box=BOX if part == 2 else None)
    return root


def ksdd2(root: Path) -> Path:
    for split, first in (("train", 10000), ("test", 20000)):
        for number in range(first, first + 4):
            picture(root / split / f"{number}.png")
            mask(root / split / f"{number}_GT.png", box=BOX if number % 2 else None)
    for name in ("10001", "10001_GT"):  # the archive holds such a pair
        shutil.copy(root / "train" / f"{name}.png", root / "train" / f"{name} (copy).png")
    return root


def folder(root: Path) -> Path:
    """Labels by folder, pictures two folders deep, masks beside them."""
    for index in range(2):
        picture(root / "OK" / "monday" / f"{index}.jpg")
        picture(root / "dent" / f"{index}.jpg")
        picture(root / "NG" / "tuesday" / f"{index}.jpg")
        mask(root / "masks" / "dent" / f"{index}.png")
        mask(root / "masks" / "NG" / "tuesday" / f"{index}_mask.png")
    return root


def manifest(root: Path) -> Path:
    """JSON lines: two categories, one with masks."""
    rows = [
        {"image_path": "a/0.png", "category": "lid", "class_name": "bottle lid", "label": 0},
        {"image_path": "a/1.png", "category": "lid", "label": 1, "defect": "crack", "mask_path": ["m/1.png", "m/2.png"]},
        {"image_path": "a/2.png", "category": "lid", "label": "good", "split": "train", "mask_path": None},
        {"image_path": "b/0.png", "category": "wood", "label": False},
        {"image_path": "b/1.png", "category": "wood", "label": "anomalous"},
    ]
    for row in rows:
        picture(root / row["image_path"])
    mask(root / "m/1.png")
    mask(root / "m/2.png", box=(slice(20, 22), slice(0, 3)))
    path = root / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def synthetic(root: Path) -> Path:
    write_dataset(root, ["asphalt", "metal nut"], per_class=4, train_per_class=1, size=96)
    return root


# Data set -> what draws it below a folder and returns what `load` takes.
DRAWN = {
    "mvtec": mvtec,
    "visa": visa,
    "btad": btad,
    "mpdd": mpdd,
    "mvtec2": mvtec2,
    "loco": loco,
    "dagm": dagm,
    "ksdd": ksdd,
    "ksdd2": ksdd2,
    "folder": folder,
    "manifest": manifest,
    "synthetic": synthetic,
}
