"""The paper's figures for the data at hand: 4 (maps), 5 (steps of adaptation), 6 (tokens before and after)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from anovl.core.adapter import Adapter, draw_start
from anovl.core.scoring import anomaly_score
from anovl.data.datasets import Category, Sample, read_mask, resize_mask
from anovl.data.images import load_image
from anovl.errors import NothingToDoError, require_extra
from anovl.evaluation import Evaluation, Variant, evaluate
from anovl.evaluation.outputs import predicted
from anovl.render import overlay as drawing
from anovl.render.plots import Line, Plot
from anovl.reproduction.paper import PIXEL
from anovl.reproduction.tables import Source

STEPS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20)
PREDICTED = (225, 40, 30)  # Fig. 4: red where the map says defect, a green line around the truth
_TILE, _COLUMNS, _GAP = 240, 6, 6
_TITLES = {"pixel_auroc": "AUROC", "pixel_f1max": "F1max", "pixel_pro": "PRO"}
_COLOURS = {"pixel_auroc": "#1f6fb4", "pixel_f1max": "#c2571a", "pixel_pro": "#2b8a3e"}


def maps_figure(source: Source, **options: Any) -> Image.Image:
    """Fig. 4: of each category the defective image of middling pixel AUROC, red mask and green contour, after adaptation.

    Args:
        source: data set and model.
        **options: of `anovl.evaluation.evaluate`.

    Raises:
        NothingToDoError: no defective image with a mask.
    """
    variant = Variant(name="anovl+tta", detector=source.detector, adapt=True)
    done = evaluate([variant], source.dataset, **options)
    tiles = [_map_tile(done, variant, category) for category in done.dataset.categories]
    shown = [tile for tile in tiles if tile is not None]
    if not shown:
        raise NothingToDoError("fig4: no defective image with a mask")
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    step = _TILE + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), "white")
    for index, tile in enumerate(shown):
        left, top = index % columns * step + _GAP, index // columns * step + _GAP
        sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
    return sheet


def _map_tile(done: Evaluation, variant: Variant, category: Category) -> Image.Image | None:
    cell = done.cells[variant.name, category.name]
    ranked = [(image.pixel_auroc, index) for index, image in enumerate(cell.measured.images) if image.pixel_auroc is not None]
    if not ranked or "pixel" not in cell.measured.thresholds:
        return None
    index = sorted(ranked)[len(ranked) // 2][1]
    sample, scored = category.test[index], cell.scored[index]
    prediction = predicted(variant, category, sample, scored, threshold=cell.measured.thresholds["pixel"])
    picture = load_image(sample.image)
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).copy()
    mask, truth = (_at(values, size) for values in (prediction.mask(), read_mask(sample, scored.size)))
    pixels[mask] = pixels[mask] // 2 + np.array(PREDICTED, dtype=np.uint8) // 2
    pixels[drawing.contour(truth, 2)] = drawing.TRUTH
    return Image.fromarray(pixels)


def _at(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def steps_figure(
    source: Source, *, steps: Sequence[int] = STEPS, seeds: Sequence[int] = (0,), **options: Any
) -> tuple[Plot, list[dict[str, Any]]]:
    """Fig. 5: pixel AUROC, F1max and PRO after so many steps of adaptation; 0 is training-free.

    Args:
        source: data set and model.
        steps: how many, each a point.
        seeds: of the adaptation; several give a band of one standard deviation.
        **options: of `anovl.evaluation.evaluate`.

    Returns:
        the plot, in percent, and its points as plain values.
    """
    detector = source.detector
    adaptation = detector.method.recipe.adaptation
    variants = [
        Variant(name=f"steps-{count}", detector=detector, adapt=replace(adaptation, steps=count) if count else False)
        for count in steps
    ]
    done = evaluate(variants, source.dataset, seeds=seeds, **options)
    means = [done.mean(variant.name) for variant in variants]
    spreads = [done.std(variant.name) for variant in variants]
    lines = []
    for name in PIXEL:
        known = [
            (count, 100 * value, 100 * std.get(name, 0.0))
            for count, mean, std in zip(steps, means, spreads, strict=True)
            if (value := mean[name]) is not None
        ]
        if known:
            points, band = np.array(known)[:, :2], np.array(known)[:, 2]
            lines.append(Line(_TITLES[name], points, band=band if band.any() else None, colour=_COLOURS[name]))
    title = f"{source.dataset.title}, {detector.backbone.name}"
    return Plot(title, "steps of adaptation", "percent", tuple(lines), x_range=None, y_range=None), [
        {"steps": count, **mean, "std": std} for count, mean, std in zip(steps, means, spreads, strict=True)
    ]


@torch.inference_mode()
def tokens_figure(source: Source, *, seed: int = 0) -> tuple[tuple[Plot, Plot], dict[str, Any]]:
    """Fig. 6: t-SNE of an image's patch tokens before and after adaptation.

    The image is the defective one whose defect covers the share of it nearest to a tenth. Red dots lie on the defect, blue ones
    beside it; the stronger, the higher the anomaly score.

    Args:
        source: data set and model.
        seed: of the adaptation and of t-SNE.

    Returns:
        the plots, and which image it is.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        NothingToDoError: no defective image with a mask.
    """
    manifold = require_extra("sklearn.manifold", "reproduce", "Figure 6")
    category, sample, share = _telling_sample(source)
    variant = Variant(name="anovl", detector=source.detector)
    job = variant.job(category, (seed,))
    detector, method = source.detector, source.detector.method
    picture = load_image(sample.image)
    mask = resize_mask(read_mask(sample, (picture.height, picture.width)), method.encoder.grid)
    tokens = method.encoder(detector.preprocess(picture)[None].to(detector.backbone.device))[1]
    settings = method.recipe.adaptation
    adapter = Adapter(job.text, settings, draw_start(settings, job.text, tokens.shape[1], seed))
    plots = []
    for title, some in (("TFA", tokens), ("TTA", adapter.tokens(tokens))):
        unit = torch.nn.functional.normalize(some[0].float(), dim=-1).cpu().numpy()
        score = anomaly_score(some[0], job.text.prototypes, method.logit_scale).cpu().numpy()
        place = manifold.TSNE(init="pca", perplexity=min(30, (len(unit) - 1) / 3), random_state=seed).fit_transform(unit)
        shade = 0.15 + 0.85 * (score - score.min()) / max(float(np.ptp(score)), 1e-12)
        inside = mask.ravel()
        lines = tuple(
            Line(name, place[chosen].astype(float), dots=True, shade=shade[chosen], colour=colour)
            for name, chosen, colour in (("beside the defect", ~inside, "#1f6fb4"), ("on the defect", inside, "#d1261c"))
            if chosen.any()
        )
        plots.append(Plot(f"{title}: {sample.key}", "", "", lines, x_range=None, y_range=None, axes=False))
    return (plots[0], plots[1]), {"image": sample.key, "category": category.name, "defect_share": share, "seed": seed}


def _telling_sample(source: Source) -> tuple[Category, Sample, float]:
    """The defective image whose defect covers nearest to a tenth of it."""
    found = []
    for category in source.dataset.categories:
        for sample in category.test:
            if sample.masks:
                with Image.open(sample.image) as picture:
                    size = (picture.height, picture.width)
                found.append((float(read_mask(sample, size).mean()), category, sample))
    if not found:
        raise NothingToDoError("fig6: no defective image with a mask")
    share, category, sample = min(found, key=lambda one: abs(one[0] - 0.1))
    return category, sample, share
