"""What an evaluation leaves in its folder: report.json, report.csv, images.csv, report.html."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anovl import __version__
from anovl.config import DISPLAY_SIDE
from anovl.data.datasets import Category, Sample, read_mask
from anovl.data.images import load_image
from anovl.evaluation import Evaluation
from anovl.evaluation.measuring import FIGURES, ImageRow, Measured
from anovl.evaluation.scoring import Scored, Variant
from anovl.files import replacing, write_json
from anovl.render.plots import Line, Plot
from anovl.render.report import Card, Figure, Group, Report, Row, make_card, write_page
from anovl.results import Prediction

JSON, TABLE, IMAGES, PAGE = "report.json", "report.csv", "images.csv", "report.html"
TITLES = ("Image AUROC", "Image F1max", "Image AP", "Pixel AUROC", "Pixel F1max", "Pixel AP", "PRO")  # of FIGURES
MOST_CARDS = 120  # the page stays under 3 MB
_CURVES = {
    "image_roc": ("ROC of the images", "false-positive rate", "true-positive rate"),
    "roc": ("ROC of the pixels", "false-positive rate", "true-positive rate"),
    "pr": ("Precision and recall of the pixels", "recall", "precision"),
    "pro": ("Overlap with the regions", "false-positive rate", "per-region overlap"),
}


def write_outputs(evaluation: Evaluation, folder: Path, *, versions: Mapping[str, str] | None = None) -> Path:
    """Write everything; returns the path of the page.

    Raises:
        OutputError: the folder cannot be written.
        ImageError: a picture of the gallery has gone since it was scored.
    """
    write_json(folder / JSON, evaluation.to_dict() | {"versions": dict(versions or {})})
    _write_csv(
        folder / TABLE,
        ["method", "category", "kind", "images", *FIGURES, *(f"{name}_std" for name in FIGURES)],
        _rows(evaluation),
    )
    _write_csv(folder / IMAGES, ["method", "category", *(field.name for field in fields(ImageRow))], _image_rows(evaluation))
    return write_page(page(evaluation), folder / PAGE)


def _rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for variant in evaluation.variants:
        for category in evaluation.dataset.categories:
            row = evaluation.cells[variant.name, category.name].measured.to_dict()
            facts = {"method": variant.name, "category": category.name, "kind": category.kind, "images": len(category.test)}
            std = {f"{name}_std": value for name, value in row.get("std", {}).items()}
            yield facts | {name: row[name] for name in FIGURES} | std
        total = sum(len(category.test) for category in evaluation.dataset.categories)
        std = {f"{name}_std": value for name, value in evaluation.std(variant.name).items()}
        yield {"method": variant.name, "category": "mean", "images": total} | evaluation.mean(variant.name) | std


def _image_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for (variant, category), cell in evaluation.cells.items():
        yield from ({"method": variant, "category": category, **asdict(image)} for image in cell.measured.images)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def page(evaluation: Evaluation) -> Report:
    """The page: figures of each variant and category, curves and a gallery of the first variant."""
    dataset, first = evaluation.dataset, evaluation.variants[0]
    names = [variant.name for variant in evaluation.variants]
    images = sum(len(category.test) for category in dataset.categories)
    size = "x".join(str(side) for side in first.detector.backbone.image_size)
    compared = (
        f"at {size} px, the model's input size, masks resized" if evaluation.resolution == "input" else "at each image's own size"
    )
    several = len(evaluation.seeds) > 1 and any(variant.adapt for variant in evaluation.variants)
    model = first.detector.backbone.describe()
    number = f"{len(dataset.categories)} {'category' if len(dataset.categories) == 1 else 'categories'}"
    lead = (
        f"{images} test images of {number}, scored by {', '.join(names)} with {model['name']}. "
        f"Maps and masks are compared {compared}."
    )
    note = (
        "F1max and AP count every pixel or image; PRO counts each 8-connected defect once, up to a false-positive rate of 0.3. "
        "A dash is a figure that cannot be measured; its reason shows where the pointer rests."
        + (f" Figures of adapted rows are means over {len(evaluation.seeds)} seeds." if several else "")
        + "".join(f" {one}" for one in dataset.notes)
    )
    return Report(
        title=f"{dataset.title[0].upper()}{dataset.title[1:]}: evaluation",
        lead=(lead,),
        columns=TITLES,
        groups=tuple(_groups(evaluation)),
        note=note,
        plots=tuple(_plots(evaluation, first.name)),
        plots_note=f"Each line is a category, by {first.name}; rest the pointer on a line for its name.",
        cards=tuple(_cards(evaluation, first)),
        facts=(
            ("Model", f"{model['name']}, sha256 {model['weights_sha256'][:12]}…"),
            ("Recipe", first.detector.method.recipe.name),
            ("Data", f"{dataset.root.name}, licence {dataset.licence}"),
            ("Resolution", evaluation.resolution),
            ("Seeds", ", ".join(map(str, evaluation.seeds))),
            ("Software", f"anovl {__version__}"),
        ),
    )


def _groups(evaluation: Evaluation) -> Iterator[Group]:
    kinds = sorted({category.kind for category in evaluation.dataset.categories})
    for variant in evaluation.variants:
        rows = [
            _row(category, evaluation.cells[variant.name, category.name].measured) for category in evaluation.dataset.categories
        ]
        yield Group(variant.name, tuple(rows))
        for kind in kinds if len(kinds) > 1 else ():
            mine = [row for row, category in zip(rows, evaluation.dataset.categories, strict=True) if category.kind == kind]
            yield Group(f"{variant.name}, {kind}s", tuple(mine), listed=False)


def _row(category: Category, measured: Measured) -> Row:
    values = measured.figures
    figures = tuple(Figure(values[name], measured.reasons.get(name, "")) for name in FIGURES)
    return Row(category.name, len(category.test), figures)


def _plots(evaluation: Evaluation, variant: str) -> Iterator[Plot]:
    measured = evaluation.measured(variant)
    for name, (title, x_label, y_label) in _CURVES.items():
        lines = [Line(category, np.asarray(one.curves[name])) for category, one in measured.items() if name in one.curves]
        if lines:
            x_range = (0.0, 0.3) if name == "pro" else (0.0, 1.0)
            yield Plot(title, x_label, y_label, tuple(lines), x_range=x_range)


def _cards(evaluation: Evaluation, variant: Variant) -> Iterator[Card]:
    """Of each category the best, a middle and the worst defective image and the good one that scored highest."""
    categories = evaluation.dataset.categories[: MOST_CARDS // 4]
    for category in categories:
        cell = evaluation.cells[variant.name, category.name]
        for index in _telling(cell.measured.images):
            yield card(variant, category, category.test[index], cell.scored[index], cell.measured)


def _telling(images: Sequence[ImageRow]) -> list[int]:
    """Places of the images worth showing, each once."""
    bad = [index for index, image in enumerate(images) if image.anomalous]
    good = [index for index, image in enumerate(images) if image.anomalous is False]
    by_quality = sorted(bad, key=lambda index: (images[index].pixel_auroc or 0.0, images[index].score))
    chosen = [by_quality[place] for place in (-1, len(by_quality) // 2, 0)] if bad else []
    return list(dict.fromkeys([*chosen, *sorted(good, key=lambda index: -images[index].score)[:1]]))


def card(variant: Variant, category: Category, sample: Sample, scored: Scored, measured: Measured) -> Card:
    """A card of the gallery; outline and decision at the thresholds of F1max."""
    picture = load_image(sample.image)
    picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    truth = Image.fromarray(read_mask(sample, scored.size)) if sample.masks else None
    prediction = predicted(variant, category, sample, scored, threshold=measured.thresholds.get("pixel"))
    threshold = measured.thresholds.get("image")
    return make_card(picture, prediction, truth, kind=sample.defect, path=sample.key, threshold=threshold)


def predicted(
    variant: Variant, category: Category, sample: Sample, scored: Scored, *, threshold: float | None = None
) -> Prediction:
    """The prediction behind a row of scores, of the first seed, with its map at the image's own size."""
    detector = variant.detector
    return Prediction(
        image_path=str(sample.image),
        image_size=scored.size,
        class_name=category.name,
        pred_score=float(scored.image_scores[0]),
        threshold=detector.threshold if threshold is None else min(max(threshold, 0.0), 1.0),
        anomaly_map=detector.anomaly_map(scored.patch_scores[0], scored.size),
        patch_scores=scored.patch_scores[0],
        score_range=detector.score_range,
    )
