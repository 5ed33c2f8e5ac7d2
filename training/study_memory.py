"""How a memory of good pictures, or the other pictures, should join the text: layers, neighbourhoods, weights, share kept.

    python training/study_memory.py mini [--shots 4] [--classes 16] [--lines] > study.txt

Drawn pictures of training seeds, of any design or each class of one production line, so that nothing held out is chosen by. Means
over the classes of image AUROC, pixel AUROC and PRO, in percent; "text" is the training-free map. docs/few_and_many.md says what
was chosen.
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
from anovl.methods.few_shot import apart, averaged, coreset, fused, nearest, unit
from anovl.methods.musc import mutual_distances, rescored, standardized
from anovl.metrics import auroc, pro

GOOD, TEST = 8, 16  # pictures a class
STEP = 4  # pixels between those that are measured
Row = tuple[float, float, float]


def pictures(number: int, name: str, *, one_line: bool) -> list[Sample]:
    """Good ones to keep, then test pictures, every other with a defect."""
    first, kinds = FIRST_TRAINING_SEED + 7_000_000 + 1000 * number, CLASSES[name].defects
    line = first if one_line else None
    good = [draw(name, first + index, line=line) for index in range(GOOD)]
    defects = [kinds[(index // 2 + number) % len(kinds)] if index % 2 else None for index in range(TEST)]
    return good + [draw(name, first + 100 + index, defect=defect, line=line) for index, defect in enumerate(defects)]


def measured(scores: Scores, samples: list[Sample]) -> Row:
    """Figures of a class."""
    maps = to_image_size(scores.patch_scores, samples[0].mask.shape, align_corners=False).numpy()[:, ::STEP, ::STEP]
    masks = np.stack([one.mask for one in samples])[:, ::STEP, ::STEP]
    image = auroc(scores.image_score.numpy(), [one.defect is not None for one in samples])
    return 100 * image, 100 * auroc(maps, masks), 100 * pro(list(maps), list(masks))


def _rows(tokens: Tensor, numbers: Sequence[int]) -> Tensor:
    return tokens[list(numbers)]


@torch.inference_mode()
def study(detector: AnoVL, number: int, name: str, shots: int, *, one_line: bool) -> Iterator[tuple[str, Row]]:
    """(title, figures) of a class."""
    method, samples = detector.method, pictures(number, name, one_line=one_line)
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
    usual: dict[tuple[str, int], float] = {}
    mutual: dict[tuple[str, int], Tensor] = {}
    for (path, tokens), radius in product(paths.items(), (1, 3, 5)):
        found = unit(averaged(tokens, radius, grid))
        kept = found[:shots].flatten(0, 1)
        for share in (1.0, 0.25, 0.1):
            far[path, radius, share] = (1 - nearest(found[GOOD:], kept[coreset(kept, share, 0)])).unflatten(1, grid)
        usual[path, radius] = float(apart(kept, shots).mean()) if shots > 1 else float("inf")  # of one none is known
        plain = standardized(tokens[GOOD:])
        found = mutual_distances(partial(_rows, plain), TEST, grid, Mutual(radii=(radius,)))
        mutual[path, radius] = found.unflatten(1, grid)
    early, middle = (str(round(len(layers) * part / 3)) for part in (1, 2))
    sets = {"L": ["L"], f"L+{middle}": ["L", middle], f"{early}+{middle}": [early, middle], "all": list(paths)}
    sets |= {path: [path] for path in paths if path != "L"}
    for (title, chosen), radius in product(sets.items(), (1, 3, 5)):
        between = float(np.mean([usual[path, radius] for path in chosen]))
        for share in (1.0, 0.25, 0.1) if (title, radius) == (f"L+{middle}", 3) else (1.0,):
            distance = torch.stack([far[path, radius, share] for path in chosen]).mean(dim=0)
            for how, weight in weights(between, (1e-4, 2e-4, 4e-4, 8e-4), (3.0,)).items():
                scores = fused(text, distance, weight * scale)
                yield f"few, {title}, radius {radius}, share {share}, weight {how}", measured(scores, test)
    for (title, chosen), radii in product(sets.items(), ((1,), (1, 3, 5))):
        distance = torch.stack([mutual[path, radius] for path in chosen for radius in radii]).mean(dim=0)
        joined = {"none": Scores(distance.flatten(1).amax(dim=1), distance / 2)}
        for how, weight in weights(float(distance.median()), (5e-3, 1e-2, 2e-2), (0.8, 1.5)).items():
            joined[how] = fused(text, distance, weight * scale)
        for how, scores in joined.items():
            yield f"mutual, {title}, radii {radii}, weight {how}", measured(scores, test)
            again = scores._replace(image_score=rescored(scores.image_score, class_tokens, Mutual(neighbours=(1, 2, 3))))
            yield f"mutual, {title}, radii {radii}, weight {how}, rescored", measured(again, test)


def weights(usual: float, factors: Sequence[float], most: Sequence[float]) -> dict[str, float]:
    """Fixed ones, and such that fall with the square of the usual distance."""
    fixed = {f"{weight}": weight for weight in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)}
    return fixed | {f"{factor}/usual^2 <= {top}": min(top, factor / usual**2) for factor, top in product(factors, most)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--lines", action="store_true", help="each class one production line")
    options = parser.parse_args()
    detector = AnoVL(load(options.model))
    rows: dict[str, list[Row]] = defaultdict(list)
    for number, name in enumerate(list(CLASSES)[::2][: options.classes]):
        for title, row in study(detector, number, name, options.shots, one_line=options.lines):
            rows[title].append(row)
    for title, values in rows.items():
        print(f"{title:64}" + "".join(f"{value:8.1f}" for value in np.mean(values, axis=0)))


if __name__ == "__main__":
    main()
