"""JPEGs decoded in full and at a reduced scale: figures, how far scores move, and how many times as long it takes.

    python benchmarks/decode.py

Drawn pictures of a seed that no training saw, saved as JPEG; figures are means over the classes, maps compared at the pictures'
own size. Times are of decode and resize of one picture, in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import ratio, times_in_turn
from PIL import Image

from anovl import AnoVL, datasets
from anovl.data.synthetic.layout import write_dataset
from anovl.detection import DetectionJob
from anovl.evaluation import Variant, evaluate


def as_jpegs(root: Path, quality: int) -> list[Path]:
    """Put a JPEG in the place of every picture to be scored."""
    written = []
    for picture in sorted(root.glob("*/test/*/*.png")):
        Image.open(picture).save(picture.with_suffix(".jpg"), quality=quality)
        picture.unlink()
        written.append(picture.with_suffix(".jpg"))
    return written


def read(job: DetectionJob, picture: Path) -> None:
    """Decode a picture and resize it, as a run does."""
    job.pixels(job.load(picture)[0])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--classes", nargs="+", default=["metal nut", "leather", "bearing", "marble"])
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--seed", type=int, default=4001)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--quality", type=int, default=92)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    whole = AnoVL.from_pretrained(options.model, device="cpu")
    reduced = whole.with_recipe(whole.recipe.having(decode="reduced"))
    with TemporaryDirectory() as folder:
        root = Path(folder) / "drawn"
        write_dataset(root, options.classes, per_class=options.per_class, seed=options.seed, size=options.size, workers=2)
        pictures = as_jpegs(root, options.quality)
        rows = [Variant(name="full", detector=whole), Variant(name="reduced", detector=reduced)]
        done = evaluate(rows, datasets.load("folder", root), resolution="original")
        for row in rows:
            measured = done.measured(row.name).values()
            means = {key: np.mean([one.figures[key] for one in measured]) for key in ("image_auroc", "pixel_auroc")}
            print(f"{row.name:8}", *(f"{key.replace('_', ' ')} {100 * value:.2f}" for key, value in means.items()))
        image, patch = 0.0, 0.0
        for one, other in zip(whole.stream(pictures, "part"), reduced.stream(pictures, "part"), strict=True):
            image = max(image, abs(one.pred_score - other.pred_score))
            patch = max(patch, float(np.abs(one.patch_scores - other.patch_scores).max()))
        print(f"largest move of an image score {image:.2f}, of a patch score {patch:.2f}, {len(pictures)} pictures")
        calls: dict[str, Callable[[], object]] = {row.name: partial(read, row.detector.job("part"), pictures[0]) for row in rows}
        spent = times_in_turn(calls, "cpu", options.rounds)
    print(f"reduced takes {ratio(spent['reduced'], spent['full']):.2f} times as long to decode and resize")


if __name__ == "__main__":
    main()
