"""Which evidence names a drawn defect: tokens of the image and of crops around it against words, and a linear readout beside.

    python training/study_naming.py mini [--per-class 16] > study.txt

Drawn pictures of training seeds, of the classes that training knew, so that nothing held out is chosen by; each counts once, by
the largest region of its ground truth. Evidence is compared with the directions of `anovl.core.scoring.name_directions`, made of
each kind's word, and of all that training called it. "readout" is a ridge regression from the same evidence to the 16 kinds,
fitted to half of the pictures of each class and tried on the other, then the other way. docs/naming.md has the figures.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from evaluate import load
from pictures import FIRST_TRAINING_SEED
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from words import KINDS, TRAINED

from anovl import AnoVL
from anovl.config import DEFECT_NAMES
from anovl.core.prompts import TEMPLATES, Wording, build_prompts
from anovl.core.scoring import name_directions
from anovl.data.synthetic import CLASSES, Sample, draw
from anovl.methods import make_method
from anovl.naming import name_prompts

SCALES = (1.0, 1.5, 2.0, 3.0)  # sides of a crop, of the region's longer one
LEAST = 48  # pixels of a crop's side
WORDING = Wording(templates=TEMPLATES[::3])
KIND = {"bend": "bent"}  # names whose kind is another word


def number_of(defect: str | None) -> int:
    """Place of a drawn kind's name among the default ones."""
    return DEFECT_NAMES.index(next((name for name, kind in KIND.items() if kind == defect), str(defect)))


def largest_region(mask: np.ndarray) -> np.ndarray:
    """The mask of the region with most pixels."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    return np.asarray(labels == 1 + np.bincount(labels.ravel())[1:].argmax())


def crop(image: np.ndarray, region: np.ndarray, scale: float) -> np.ndarray:
    """A square around a region, of the image or of anything of its size."""
    box = ndimage.find_objects(region.astype(int))[0]
    side = min(max(scale * max(one.stop - one.start for one in box), LEAST), *region.shape)
    starts = [min(max((one.start + one.stop - side) / 2, 0), size - side) for one, size in zip(box, region.shape, strict=True)]
    top, left = (round(start) for start in starts)
    return image[top : top + round(side), left : left + round(side)]


def on_grid(region: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Each patch's share of a region's pixels, [M]."""
    (rows, columns), (height, width) = grid, region.shape
    y, x = np.nonzero(region)
    counts = np.bincount(y * rows // height * columns + x * columns // width, minlength=rows * columns)
    return torch.from_numpy(counts / len(y)).float()


@torch.inference_mode()
def evidence(detector: AnoVL, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Every kind of evidence of the samples, [N, C] each."""
    regions = [largest_region(sample.mask) for sample in samples]
    pixels = torch.stack([detector.preprocess(Image.fromarray(sample.image)) for sample in samples])
    methods = {"V-V, all layers (as built in)": "anovl", "q-k, last layer": "clip", "V, last layer (MaskCLIP)": "maskclip"}
    found: dict[str, Tensor] = {}
    for title, name in methods.items():
        encoder = make_method(name, detector.backbone, detector.recipe).encoder
        whole, tokens = encoder(pixels)
        share = torch.stack([on_grid(region, encoder.grid) for region in regions])
        found[f"region's tokens, {title}"] = torch.einsum("bm,bmc->bc", share, F.normalize(tokens, dim=-1))
    whole = found["class token, image"] = F.normalize(whole, dim=-1)
    for scale in SCALES:
        crops = [crop(sample.image, region, scale) for sample, region in zip(samples, regions, strict=True)]
        near = F.normalize(
            detector.method.encoder.encode_class(torch.stack([detector.preprocess(Image.fromarray(one)) for one in crops])),
            dim=-1,
        )
        found[f"class token, crop {scale}x"] = near
        found[f"class token, crop {scale}x less image"] = near - whole
        found[f"class token, crop {scale}x and image"] = near + whole
    return found


def directions(detector: AnoVL, class_name: str) -> dict[str, Tensor]:
    """Text directions [K, C] by the word of each kind, and by all that training called it."""
    prompts = name_prompts(class_name, WORDING, DEFECT_NAMES, style="paper")
    words = detector.texts.features(prompts)
    means = []
    for name in DEFECT_NAMES:
        first, *others = KINDS[KIND.get(name, name)]
        states = (("normal {class}", first), *((None, other) for other in others))
        own = detector.texts.features(build_prompts(class_name, replace(WORDING, states=states)))
        means.append(own.tokens[len(own.tokens) // (1 + len(states)) :].mean(dim=0))
    trained = F.normalize(torch.stack(means), dim=-1)
    return {
        "word": name_directions(words, len(DEFECT_NAMES)),
        "all words": F.normalize(trained - trained.mean(dim=0), dim=-1),
    }


def readout(features: Tensor, labels: Tensor, first: Tensor, penalty: float = 100.0) -> Tensor:
    """Scores [N, K] of every sample by a ridge regression to the kinds, fitted to the half it is not in."""
    told = torch.zeros(len(labels), len(DEFECT_NAMES))
    targets = F.one_hot(labels, len(DEFECT_NAMES)).float()
    for fit in (first, ~first):
        mean, deviation = features[fit].mean(dim=0), features[fit].std(dim=0) + 1e-6
        x, y = (features - mean) / deviation, targets[fit] - targets[fit].mean(dim=0)
        weights = torch.linalg.solve(x[fit].T @ x[fit] + penalty * torch.eye(x.shape[1]), x[fit].T @ y)
        told[~fit] = x[~fit] @ weights + targets[fit].mean(dim=0)
    return told


def show(title: str, told: Tensor, labels: Tensor) -> None:
    """Top-1 and top-3 in percent, and how often the favourite name comes first."""
    rank = (told >= told.gather(1, labels[:, None])).sum(dim=1) - 1  # what ties, as where a crop is the image, is not told
    often = told.argmax(dim=1).bincount().max() / len(labels)
    print(
        f"{title:58}" + "".join(f"{100 * float(v):8.1f}" for v in ((rank < 1).float().mean(), (rank < 3).float().mean(), often))
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--per-class", type=int, default=16, help="defective pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = AnoVL(load(options.model))
    by_text: dict[str, list[Tensor]] = defaultdict(list)
    plain: dict[str, list[Tensor]] = defaultdict(list)
    labels: list[int] = []
    for number, name in enumerate(TRAINED):
        kinds, seed = CLASSES[name].defects, FIRST_TRAINING_SEED + 9_000_000 + 1000 * number
        samples = [draw(name, seed + i, defect=kinds[(i + number) % len(kinds)]) for i in range(options.per_class)]
        labels += [number_of(sample.defect) for sample in samples]
        text = directions(detector, name)
        for title, tokens in evidence(detector, samples).items():
            plain[title].append(tokens)
            for words, towards in text.items():
                by_text[f"{title}, {words}"].append(tokens @ towards.T)
    truth = torch.tensor(labels)
    often = [count for _, count in Counter(labels).most_common(3)]
    print(f"{options.model}, {len(labels)} pictures{'':28}   top-1   top-3   favourite")
    print(f"{'always the most frequent kinds':58}{100 * often[0] / len(labels):8.1f}{100 * sum(often) / len(labels):8.1f}")
    for title, parts in by_text.items():
        show(title, torch.cat(parts), truth)
    half = (torch.arange(len(labels)) % options.per_class) % 2 == 0
    for title, parts in plain.items():
        show(f"readout: {title}", readout(torch.cat(parts), truth, half), truth)
    likeness = name_prompts("washer", WORDING, DEFECT_NAMES, style="paper")
    tokens = detector.texts.features(likeness).tokens
    means = F.normalize(
        tokens[len(tokens) // (1 + len(DEFECT_NAMES)) :].unflatten(0, (-1, len(DEFECT_NAMES))).mean(dim=0), dim=-1
    )
    others = (means @ means.T)[~torch.eye(len(means), dtype=torch.bool)]
    print(f"cosine between the sentences of two names, washer: {float(others.mean()):.4f} (least {float(others.min()):.4f})")


if __name__ == "__main__":
    main()
