"""Figures of a trained model on pictures and classes that training never saw, and on folders of real images.

    python training/evaluate.py runs/mini/model --split validation     # to choose by
    python training/evaluate.py runs/mini/model --split verdict --tables --real ../shared/data/hazelnut:hazelnut

Seeds: each split draws different pictures. No model is chosen by the verdict; the adaptation of the recipe `default` was, and
confirmation is for what is measured after such a choice.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl import AnoVL
from anovl.backbones import Backbone, load_backbone
from anovl.config import Recipe, recipe
from anovl.core.prompts import Wording
from anovl.core.scoring import picture_score, to_image_size
from anovl.data.images import load_image
from anovl.data.sources import find_mask
from anovl.data.synthetic import CLASSES, Sample, draw
from anovl.metrics import auroc, pro

SEEDS = {"validation": 2**54, "verdict": 2**55, "confirmation": 2**55 + 2**54}


@dataclass
class Scored:
    """One picture's results: image scores by name, its map, its true mask, and the defect it has."""

    image_scores: dict[str, float]
    anomaly_map: np.ndarray
    mask: np.ndarray
    defect: str | None
    class_name: str


def load(model: str) -> Backbone:
    """A model folder, or an embedded model by its name."""
    return load_backbone(f"local-dir:{model}" if Path(model).is_dir() else model)


def held_out_samples(split: str, per_class: int) -> list[Sample]:
    """Pictures of every class, half of them defective, kinds in turn."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(pool.map(_draw, held_out_jobs(split, per_class), chunksize=16))


def held_out_jobs(split: str, per_class: int) -> list[tuple[str, int, str | None]]:
    """Class, seed and defect of each picture."""
    return [
        (name, SEEDS[split] + index, info.defects[(index // 2 + number) % len(info.defects)] if index % 2 else None)
        for number, (name, info) in enumerate(CLASSES.items())
        for index in range(per_class)
    ]


def _draw(job: tuple[str, int, str | None]) -> Sample:
    name, seed, defect = job
    return draw(name, seed, defect=defect)


def real_samples(root: Path, class_name: str) -> list[Sample]:
    """All test pictures of a folder in the layout of MVTec AD."""
    samples = []
    for path in sorted((root / "test").glob("*/*")):
        picture = load_image(path)
        truth = find_mask(path)
        mask = (
            np.zeros((picture.height, picture.width), bool) if truth is None else np.asarray(load_image(truth).convert("L")) > 0
        )
        defect = None if path.parent.name == "good" else path.parent.name
        samples.append(Sample(np.asarray(picture), mask, class_name, defect))
    return samples


def image_scores(class_score: Tensor, patch_scores: Tensor) -> dict[str, Tensor]:
    """Ways to one score a picture, each [B], from S_AD [B] and S_AL [B, h, w]."""
    flat = patch_scores.flatten(1)
    top = picture_score("map_max", class_score, patch_scores)
    return {
        "class_token": class_score,
        "map_max": top,
        "map_top1%": flat.topk(max(1, flat.shape[1] // 100), dim=1).values.mean(dim=1),
        "class_token_and_map_max": picture_score("class_token_and_map_max", class_score, patch_scores),
        "logits of both": (class_score.logit(eps=1e-6) + top.logit(eps=1e-6)) / 2,
    }


def score(detector: AnoVL, samples: Iterable[Sample], wording: Wording | None = None) -> list[Scored]:
    """Maps and every kind of image score."""
    scored: list[Scored] = []
    jobs: dict[str, Any] = {}
    for sample in samples:
        if sample.class_name not in jobs:
            jobs[sample.class_name] = detector.job(sample.class_name, wording=wording)
        job = jobs[sample.class_name]
        scores = job.score(torch.from_numpy(np.stack([job.pixels(Image.fromarray(sample.image))])))
        values = {name: float(value) for name, value in image_scores(scores.image_score, scores.patch_scores).items()}
        anomaly_map = to_image_size(scores.patch_scores, sample.mask.shape, align_corners=False)[0].numpy()
        scored.append(Scored(values, anomaly_map.astype(np.float16), sample.mask, sample.defect, sample.class_name))
    return scored


def figures(scored: Sequence[Scored], image_score: str) -> tuple[float, float, float]:
    """(image AUROC, pixel AUROC, PRO) of one class, in percent."""
    maps, masks = [one.anomaly_map for one in scored], [one.mask for one in scored]
    image = auroc([one.image_scores[image_score] for one in scored], [one.defect is not None for one in scored])
    pixel = auroc(np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks]))
    return 100 * image, 100 * pixel, 100 * pro(maps, masks)


Shown = TypeVar("Shown", Scored, Sample)


def by_class(scored: Sequence[Shown]) -> dict[str, list[Shown]]:
    """In the order of the classes."""
    groups: dict[str, list[Shown]] = defaultdict(list)
    for one in scored:
        groups[one.class_name].append(one)
    return groups


def table(scored: Sequence[Scored], image_score: str, *, every_class: bool) -> None:
    """Print the figures of each class and their means over seen and held-out classes."""
    rows = {name: figures(group, image_score) for name, group in by_class(scored).items()}
    print(f"image score: {image_score}\n{'':28} image AUROC  pixel AUROC  PRO(0.3)")
    if every_class:
        for name, row in rows.items():
            print(_line(name + (" *" if CLASSES[name].held_out else ""), row))
    means = (
        ("seen classes", False, ("object", "texture")),
        ("unseen classes", True, ("object", "texture")),
        ("of the seen, surfaces", False, ("texture",)),
        ("of the seen, objects", False, ("object",)),
    )
    for title, held_out, kinds in means:
        mine = [row for name, row in rows.items() if CLASSES[name].held_out == held_out and CLASSES[name].kind in kinds]
        print(_line(title, np.mean(mine, axis=0)), flush=True)


def kinds_table(scored: Sequence[Scored], image_score: str) -> None:
    """Print figures of each kind of defect on seen objects and on seen surfaces, means over the classes.

    Image AUROC against the class's good pictures, pixel AUROC with one of these.
    """
    for kind in ("object", "texture"):
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for name, group in by_class(scored).items():
            if CLASSES[name].held_out or CLASSES[name].kind != kind:
                continue
            good = [one for one in group if one.defect is None]
            for defect in CLASSES[name].defects:
                wrong = [one for one in group if one.defect == defect]
                if wrong:
                    found[defect].append((figures([*good, *wrong], image_score)[0], figures([*good[:1], *wrong], image_score)[1]))
        print(f"{kind + 's by defect':28} image AUROC  pixel AUROC")
        for defect, rows in sorted(found.items()):
            print(_line(defect, np.mean(rows, axis=0)), flush=True)


def _line(title: str, values: Iterable[float]) -> str:
    return f"{title:28} " + " ".join(f"{value:11.1f}" for value in values)


def choices(scored: Sequence[Scored]) -> None:
    """Print the image AUROC of every kind of image score, mean over seen and over unseen classes."""
    print(f"{'image AUROC by':28}        seen      unseen")
    groups = by_class(scored)
    for name in scored[0].image_scores:
        means = []
        for held_out in (False, True):
            mine = [group for key, group in groups.items() if CLASSES[key].held_out == held_out]
            areas = [
                auroc([one.image_scores[name] for one in group], [one.defect is not None for one in group]) for group in mine
            ]
            means.append(100 * float(np.mean(areas)))
        print(_line(name, means), flush=True)


def real_table(detector: AnoVL, root: Path, class_name: str) -> None:
    """Print image and pixel AUROC of a folder of real images, by defect, each against all good ones."""
    scored = score(detector, real_samples(root, class_name))
    kinds = sorted({one.defect for one in scored if one.defect})
    rows = []
    print(f"{'':28} pixel AUROC; image AUROC by {', '.join(scored[0].image_scores)}")
    for kind in kinds:
        some = [one for one in scored if one.defect in (None, kind)]
        wrong = [one for one in some if one.defect]
        pixel = auroc(np.concatenate([o.anomaly_map.ravel() for o in wrong]), np.concatenate([o.mask.ravel() for o in wrong]))
        image = [auroc([o.image_scores[n] for o in some], [o.defect is not None for o in some]) for n in some[0].image_scores]
        rows.append([100 * pixel, *(100 * value for value in image)])
        print(_line(f"{root.name}/{kind}", rows[-1]))
    print(_line(f"{root.name}, mean", np.mean(rows, axis=0)), flush=True)


BASE = Wording(states=(("normal {class}", "abnormal {class}"),), domain="plain")
TABLE_3: dict[str, Recipe] = {
    "patch tokens, q-k": recipe(attention="qkv"),
    "V, last layer": recipe(attention="v", layers=1),
    "V-V, last layer": recipe(attention="vv", layers=1),
    "V-V, all layers": recipe(attention="vv"),
}
TABLE_4: dict[str, Wording] = {"base": BASE, "+ states": Wording(domain="plain"), "+ domains": Wording()}


def ablations(backbone: Backbone, samples: Sequence[Sample], image_score: str) -> None:
    """Print the rows of the paper's Tables 3 and 4, means over the seen classes."""
    rows: list[tuple[str, AnoVL, Wording | None]] = [(name, AnoVL(backbone, recipe=one), None) for name, one in TABLE_3.items()]
    rows += [(name, AnoVL(backbone, recipe="default"), words) for name, words in TABLE_4.items()]
    for name, detector, words in rows:
        groups = by_class(score(detector, samples, words))
        print(_line(name, np.mean([figures(group, image_score) for group in groups.values()], axis=0)), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or the name of an embedded model")
    parser.add_argument("--split", choices=tuple(SEEDS), default="validation")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--image-score", default="class_token")
    parser.add_argument("--every-class", action="store_true")
    parser.add_argument("--every-kind", action="store_true")
    parser.add_argument("--tables", action="store_true", help="also the rows of Tables 3 and 4")
    parser.add_argument("--real", action="append", default=[], metavar="FOLDER:CLASS")
    options = parser.parse_args()
    backbone = load(options.model)
    detector = AnoVL(backbone, recipe="default")
    if options.per_class:
        samples = held_out_samples(options.split, options.per_class)
        scored = score(detector, samples)
        print(f"{options.split}: {options.per_class} pictures a class, {len(samples)} in all")
        choices(scored)
        table(scored, options.image_score, every_class=options.every_class)
        if options.every_kind:
            kinds_table(scored, options.image_score)
        if options.tables:
            ablations(backbone, [sample for sample in samples if not CLASSES[sample.class_name].held_out], options.image_score)
    for real in options.real:
        folder, _, class_name = real.rpartition(":")
        real_table(detector, Path(folder), class_name)


if __name__ == "__main__":
    main()
