"""Does test-time adaptation help: recipes, steps, parts, temperatures and noise against the training-free map.

    python training/study_adaptation.py run runs/captions/model --title captions -o study/captions.json [--split verdict]
    python training/study_adaptation.py run mini --title mini --real ../shared/data/hazelnut:hazelnut -o study/mini.json
    python training/study_adaptation.py show study/*.json [--plot docs/images/adaptation.png]

Drawn pictures come from the seeds of evaluate.py. What is measured is kept in the file at once: run again to go on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import SEEDS, by_class, held_out_samples, load, real_samples
from PIL import Image
from torch import Tensor

from anovl import AnoVL
from anovl.config import LINEAR_PROBE, RELEASED_ADAPTATION, Adaptation
from anovl.core.adapter import Adapter, adapt, draw_start
from anovl.core.scoring import TextFeatures, anomaly_score, to_image_size
from anovl.data.synthetic import Sample
from anovl.metrics import auroc, f1_max, pro

METRICS = ("pixel AUROC", "pixel F1max", "PRO")
GROUPS = ("steps", "parts", "numbers")
STEPS = (0, 1, 2, 3, 5, 10, 20)
PAPER_ADAPTATION = Adaptation()
LIMITED = Adaptation(adapter="linear", identity_start=True, target="entropy", noise_std=0.2, limit=0.1)


@dataclass(frozen=True)
class ClassData:
    """Pictures of one class, encoded: local tokens [N, M, C] and masks, and the text they are compared with."""

    name: str
    tokens: Tensor
    masks: list[np.ndarray]
    text: TextFeatures
    grid: tuple[int, int]
    logit_scale: float


def settings(group: str) -> Iterator[tuple[str, Adaptation]]:
    """(title, settings) of a group of the study."""
    changed: dict[str, Any]
    recipes = {
        "paper": PAPER_ADAPTATION,
        "released": RELEASED_ADAPTATION,
        "linear probe": LINEAR_PROBE,
        "limited linear": LIMITED,
    }
    if group == "steps":
        for name, one in recipes.items():
            yield from ((f"{name}, {steps} steps", replace(one, steps=steps)) for steps in STEPS)
    elif group == "parts":
        bases = {"softmax": PAPER_ADAPTATION, "tanh": RELEASED_ADAPTATION, "linear from identity": replace(LIMITED, limit=None)}
        for (name, one), noise_at in product(bases.items(), ("output", "input")):
            for target, weight in (
                ("pseudo_label", 1.0),
                ("entropy", 1.0),
                ("none", 1.0),
                ("pseudo_label", 0.0),
                ("entropy", 0.0),
            ):
                if weight or noise_at == "output":  # without Eq. (10) there is no noise
                    losses = [part for part in ("noise" if weight else "", "" if target == "none" else target) if part]
                    changed = {"noise_at": noise_at, "target": target, "noise_weight": weight}
                    yield f"{name}, noise at {noise_at}, loss {' + '.join(losses)}", replace(one, **changed)
    else:
        numbers: dict[str, tuple[float | None, ...]] = {"loss_temperature": (0.1,), "noise_std": (0.01, 0.2)}
        own: dict[str, dict[str, tuple[float | None, ...]]] = {
            "paper": {**numbers, "learning_rate": (1e-2,), "temperature": (0.1, 0.01)},
            "released": {**numbers, "learning_rate": (1e-4, 1e-2), "limit": (0.1,)},
            "limited linear": {
                "loss_temperature": (0.1,),
                "noise_std": (0.055, 0.1, 0.5),
                "learning_rate": (4e-3,),
                "limit": (0.05, 0.2, 0.4, None),
            },
        }
        for name, fields in own.items():
            for field, values in fields.items():
                for value in values:
                    changed = {field: value}
                    yield f"{name}, {field} {value}", replace(recipes[name], **changed)
        yield "tanh from identity", replace(RELEASED_ADAPTATION, identity_start=True)
        yield "linear from identity, noise at input", replace(LINEAR_PROBE, identity_start=True)


def encode(model: str, samples: Sequence[Sample]) -> list[ClassData]:
    """One pass of the encoder; everything else is measured on its tokens."""
    backbone = load(model)
    detector = AnoVL(backbone, recipe="default")
    data = []
    for name, group in by_class(samples).items():
        tokens = [detector.encode(detector.preprocess(Image.fromarray(one.image))[None])[1] for one in group]
        text = detector.job(name).text
        grid = detector.method.encoder.grid
        data.append(ClassData(name, torch.cat(tokens), [one.mask for one in group], text, grid, backbone.logit_scale))
    return data


def measure(data: ClassData, scores: Tensor) -> tuple[float, float, float]:
    """The metrics of a class from its patch scores [N, M], maps at the size of the masks."""
    grids = scores.unflatten(1, data.grid)
    maps = [
        to_image_size(grid[None], mask.shape, align_corners=False)[0].numpy()
        for grid, mask in zip(grids, data.masks, strict=True)
    ]
    pixels, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in data.masks])
    return auroc(pixels, labels), f1_max(pixels, labels), pro(maps, data.masks)


def study_one(path: str, chosen: Adaptation | None, seed: int) -> dict[str, object]:
    """One setting and seed over all classes; None is training-free."""
    torch.set_num_threads(1)
    data: list[ClassData] = torch.load(path, weights_only=False)
    rows, fell = {}, []
    with torch.inference_mode():
        for one in data:
            if chosen is None:
                scores = anomaly_score(one.tokens, one.text.prototypes, one.logit_scale)
            else:
                start = draw_start(chosen, one.text, one.tokens.shape[1], seed)
                result = adapt(Adapter(one.text, chosen, start), one.tokens)
                scores = torch.sigmoid(one.logit_scale * result.similarity)
                if chosen.steps > 1:
                    fell.append(float((result.losses[:, -1] < result.losses[:, 0]).float().mean()))
            rows[one.name] = measure(one, scores)
    return {"classes": rows, "loss_fell": statistics.mean(fell) if fell else 0.0}


def run(options: argparse.Namespace) -> None:
    """Measure what is not in the file yet."""
    samples = held_out_samples(options.split, options.per_class)
    data = encode(options.model, samples)
    for real in options.real:
        folder, _, name = real.rpartition(":")
        found = real_samples(Path(folder), name)
        kinds = {one.defect for one in found if one.defect}
        for kind in sorted(kinds):  # as the figures of evaluate.py: the pictures with that defect
            some = [replace(one, class_name=name) for one in found if one.defect == kind]
            data += [replace(one, name=f"real: {name}, {kind}") for one in encode(options.model, some)]
    jobs: list[tuple[str, Adaptation | None, int]] = [("training-free", None, 0)]
    for group in options.groups:
        seeds = options.seeds if group == "steps" else min(options.seeds, options.other_seeds)
        jobs += [(f"{group}: {title}", one, seed) for title, one in settings(group) for seed in range(seeds)]
    out: Path = options.output
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(out.read_text()) if out.exists() else {"title": options.title, "split": options.split, "rows": {}}
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(data, file.name)
        with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
            todo = {
                pool.submit(study_one, file.name, one, seed): (title, seed)
                for title, one, seed in jobs
                if f"{title} #{seed}" not in kept["rows"]
            }
            for number, future in enumerate(as_completed(todo)):
                title, seed = todo[future]
                kept["rows"][f"{title} #{seed}"] = future.result()
                out.with_suffix(".tmp").write_text(json.dumps(kept))
                out.with_suffix(".tmp").replace(out)
                print(f"{number + 1}/{len(todo)} {title} #{seed}", flush=True)


def means(rows: dict[str, Sequence[float]], *, real: bool) -> list[float]:
    """Mean over the classes, in percent; empty where there are none."""
    values = [row for name, row in rows.items() if name.startswith("real") == real]
    return [100 * statistics.mean(column) for column in zip(*values, strict=True)]


def show(options: argparse.Namespace) -> None:
    """Print tables in Markdown, draw the curves over steps."""
    curves = {}
    for path in options.files:
        kept = json.loads(path.read_text())
        for real in (False, True):
            free = means(kept["rows"]["training-free #0"]["classes"], real=real)
            if not free:
                continue
            title = f"{kept['title']}, {'photographs' if real else kept['split'] + ' seeds'}"
            print(f"\n## {title}\n\n| | {' | '.join(METRICS)} | loss fell |\n|---|---|---|---|---|")
            print(f"| training-free | {' | '.join(f'{value:.1f}' for value in free)} | |")
            points: dict[str, dict[int, list[float]]] = defaultdict(dict)
            for name, chosen in ((f"{group}: {title}", one) for group in GROUPS for title, one in settings(group)):
                found = [row for key, row in kept["rows"].items() if key.rpartition(" #")[0] == name]
                if not found:
                    continue
                measured = [means(row["classes"], real=real) for row in found]
                cells = []
                for values, own in zip(zip(*measured, strict=True), free, strict=True):
                    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                    cells.append(f"{statistics.mean(values):.1f}{spread} ({statistics.mean(values) - own:+.1f})")
                fell = 100 * statistics.mean(row["loss_fell"] for row in found)
                print(f"| {name} | {' | '.join(cells)} | {fell:.0f} % |")
                if name.startswith("steps: "):
                    points[name.removeprefix("steps: ").rpartition(",")[0]][chosen.steps] = [row[0] for row in measured]
            curves[title] = (free[0], points)
    if options.plot:
        _plot(curves, options.plot)


def _plot(curves: dict[str, tuple[float, dict[str, dict[int, list[float]]]]], path: Path) -> None:
    """Pixel AUROC over steps, a panel a model and set of pictures; the dashed line is training-free."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), squeeze=False)
    for axis, (title, (free, points)) in zip(axes[0], curves.items(), strict=True):
        for name, by_step in points.items():
            steps = sorted(by_step)
            centre = [statistics.mean(by_step[step]) for step in steps]
            spread = [statistics.stdev(by_step[step]) if len(by_step[step]) > 1 else 0.0 for step in steps]
            axis.errorbar(steps, centre, spread, marker=".", capsize=2, label=name)
        axis.axhline(free, linestyle="--", color="grey", linewidth=1, label="training-free")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("steps")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("pixel AUROC (%)")
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measuring = verbs.add_parser("run")
    measuring.add_argument("model")
    measuring.add_argument("--title", required=True, help="of the model, in tables")
    measuring.add_argument("--output", "-o", type=Path, required=True)
    measuring.add_argument("--split", choices=tuple(SEEDS), default="validation")
    measuring.add_argument("--per-class", type=int, default=8)
    measuring.add_argument("--groups", nargs="+", default=GROUPS, choices=GROUPS)
    measuring.add_argument("--seeds", type=int, default=5)
    measuring.add_argument("--other-seeds", type=int, default=5, help="for parts and numbers")
    measuring.add_argument("--processes", type=int, default=2)
    measuring.add_argument("--real", action="append", default=[], metavar="FOLDER:CLASS")
    measuring.set_defaults(call=run)
    showing = verbs.add_parser("show")
    showing.add_argument("files", nargs="+", type=Path)
    showing.add_argument("--plot", type=Path)
    showing.set_defaults(call=show)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
