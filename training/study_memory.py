"""How a memory of good pictures, or the other pictures, should join the text: layers, neighbourhoods, weights, share kept.

    python training/study_memory.py mini [--shots 4] [--classes 16] > study.txt

Drawn pictures of training seeds, so that nothing held out is chosen by. Means over the classes of image AUROC, pixel AUROC and
PRO, in percent; "text" is the training-free map. docs/few_and_many.md says what was chosen.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from evaluate import load
from pictures import FIRST_TRAINING_SEED
from PIL import Image
from torch import Tensor

from anovl import AnoVL
from anovl.config import Mutual
from anovl.core.scoring import Scores, to_image_size
from anovl.data.synthetic import CLASSES, Sample, draw
from anovl.methods.anovl import AnoVLMethod
from anovl.methods.few_shot import averaged, coreset, fused, nearest, unit
from anovl.methods.musc import mutual_distances, rescored, standardized
from anovl.metrics import auroc, pro

GOOD, TEST = 8, 16  # pictures a class
STEP = 4  # pixels between those that are measured
Row = tuple[float, float, float]


def pictures(number: int, name: str) -> list[Sample]:
    """Good ones to keep, then test pictures, every other with a defect."""
    first, kinds = FIRST_TRAINING_SEED + 7_000_000 + 1000 * number, CLASSES[name].defects
    good = [draw(name, first + index) for index in range(GOOD)]
    defects = [kinds[(index // 2 + number) % len(kinds)] if index % 2 else None for index in range(TEST)]
    return good + [draw(name, first + 100 + index, defect=defect) for index, defect in enumerate(defects)]


def measured(scores: Scores, samples: list[Sample]) -> Row:
    """Figures of a class."""
    maps = to_image_size(scores.patch_scores, samples[0].mask.shape, align_corners=False).numpy()[:, ::STEP, ::STEP]
    masks = np.stack([one.mask for one in samples])[:, ::STEP, ::STEP]
    image = auroc(scores.image_score.numpy(), [one.defect is not None for one in samples])
    return 100 * image, 100 * auroc(maps, masks), 100 * pro(list(maps), list(masks))


def _rows(tokens: Tensor, numbers: Sequence[int]) -> Tensor:
    return tokens[list(numbers)]


@torch.inference_mode()
def study(detector: AnoVL, number: int, name: str, shots: int) -> Iterator[tuple[str, Row]]:
    """(title, figures) of a class."""
    method, samples = detector.method, pictures(number, name)
    if not isinstance(method, AnoVLMethod):
        raise TypeError(method)
    layers = range(1, method.encoder.blocks_kept + 1)
    pixels = torch.stack([detector.preprocess(Image.fromarray(one.image)) for one in samples])
    looks = [method.look(part, detector.job(name).text, layers=layers) for part in pixels.split(8)]
    text = Scores(
        torch.cat([one[0].image_score for one in looks])[GOOD:], torch.cat([one[0].patch_scores for one in looks])[GOOD:]
    )
    class_tokens = torch.cat([one[1] for one in looks])[GOOD:]
    tokens_of = [torch.cat(parts) for parts in zip(*(one[2] for one in looks), strict=True)]
    paths: dict[str, Tensor] = dict(zip(["L", *map(str, layers)], tokens_of, strict=True))
    grid, scale, test = method.encoder.grid, method.logit_scale, samples[GOOD:]
    yield "text", measured(text, test)
    far: dict[tuple[str, int, float], Tensor] = {}
    mutual: dict[tuple[str, int], Tensor] = {}
    for (path, tokens), radius in product(paths.items(), (1, 3, 5)):
        found = unit(averaged(tokens, radius, grid))
        kept = found[:shots].flatten(0, 1)
        for share in (1.0, 0.25, 0.1):
            far[path, radius, share] = (1 - nearest(found[GOOD:], kept[coreset(kept, share, 0)])).unflatten(1, grid)
        plain = standardized(tokens[GOOD:])
        found = mutual_distances(partial(_rows, plain), TEST, grid, Mutual(radii=(radius,)))
        mutual[path, radius] = found.unflatten(1, grid)
    middle = str(round(len(layers) * 2 / 3))
    sets = {"L": ["L"], f"L+{middle}": ["L", middle], "all": list(paths), **{one: [one] for one in paths if one != "L"}}
    for (title, chosen), radius, weight in product(sets.items(), (1, 3, 5), (0.05, 0.1, 0.2, 0.4)):
        distance = torch.stack([far[path, radius, 1.0] for path in chosen]).mean(dim=0)
        yield f"few, {title}, radius {radius}, weight {weight}", measured(fused(text, distance, weight * scale), test)
    for share in (0.25, 0.1):
        distance = torch.stack([far[path, 3, share] for path in sets[f"L+{middle}"]]).mean(dim=0)
        yield f"few, L+{middle}, radius 3, weight 0.1, share {share}", measured(fused(text, distance, 0.1 * scale), test)
    for (title, chosen), radii in product(sets.items(), ((1,), (1, 3, 5))):
        distance = torch.stack([mutual[path, radius] for path in chosen for radius in radii]).mean(dim=0)
        alone = Scores(distance.flatten(1).amax(dim=1), distance / 2)
        joined = {str(weight): fused(text, distance, weight * scale) for weight in (0.05, 0.1, 0.2)}
        for how, scores in {"none": alone, **joined}.items():
            yield f"mutual, {title}, radii {radii}, weight {how}", measured(scores, test)
            again = scores._replace(image_score=rescored(scores.image_score, class_tokens, Mutual()))
            yield f"mutual, {title}, radii {radii}, weight {how}, rescored", measured(again, test)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--classes", type=int, default=16)
    options = parser.parse_args()
    detector = AnoVL(load(options.model))
    rows: dict[str, list[Row]] = defaultdict(list)
    for number, name in enumerate(list(CLASSES)[::2][: options.classes]):
        for title, row in study(detector, number, name, options.shots):
            rows[title].append(row)
    for title, values in rows.items():
        print(f"{title:48}" + "".join(f"{value:8.1f}" for value in np.mean(values, axis=0)))


if __name__ == "__main__":
    main()
