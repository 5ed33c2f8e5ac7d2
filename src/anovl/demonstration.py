"""The demonstration: pictures that no training saw are drawn, scored class by class, and shown on one page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anovl import __version__
from anovl.checkpoints import EMBEDDED
from anovl.config import DEFAULT_MODEL
from anovl.data.images import load_image
from anovl.data.sources import SourceItem
from anovl.data.synthetic import CLASSES
from anovl.data.synthetic.layout import check_settings, write_dataset
from anovl.detector import AnoVL
from anovl.engine import local
from anovl.errors import AnovlError, UsageError
from anovl.metrics import PixelMetrics, auroc
from anovl.render.report import Card, Figure, Group, Report, Row, make_card, write_page
from anovl.render.writers import FolderWriter, check_folder
from anovl.results import BoolArray, FloatArray

PAGE, PICTURES = "index.html", "pictures"  # in the output folder
SIZE = 240  # px, of a drawn picture
COLUMNS = ("Image AUROC", "Pixel AUROC", "PRO")
MOST_CARDS = 124  # in the gallery: the page stays under 3 MB


def check(folder: Path, classes: Sequence[str] | None = None, *, per_class: int = 4, seed: int = 0) -> list[str]:
    """Names of the classes, if `demonstrate` can begin. Changes nothing.

    Raises:
        UsageError, OutputError: as `demonstrate`.
    """
    if check_folder(folder, resume=True):
        raise UsageError(f"{folder} already holds a run: remove it, or name another folder")
    if (folder / PAGE).exists():
        raise UsageError(f"{folder} already holds a page ({PAGE}): name another folder")
    root = folder / PICTURES
    return check_settings(root, classes, per_class=per_class, seed=seed, size=SIZE, train_per_class=0, workers=1)


def demonstrate(
    detector: AnoVL,
    folder: Path,
    classes: Sequence[str] | None = None,
    *,
    per_class: int = 4,
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Path:
    """Draw, score and show.

    Args:
        detector: any; the pictures are what the embedded models were made for.
        folder: gets ``pictures/`` in the layout of MVTec AD, ``overlay/``, ``predictions.jsonl``, ``run.json`` and
            ``index.html``.
        classes: names from `anovl.data.synthetic.CLASSES`; None for all.
        per_class: pictures a class, half of them defective.
        seed: a whole number from 0; no seed draws a picture of the training.
        versions: of the software, for run.json.
        on_picture: is called after each picture.

    Returns:
        the path of the page.

    Raises:
        UsageError: an unknown class, a number out of range, a folder that holds a run or pictures.
        OutputError: the folder cannot be written.
    """
    names = check(folder, classes, per_class=per_class, seed=seed)
    settings = {
        "source": str((folder / PICTURES).absolute()),
        "class_names": names,
        "per_class": per_class,
        "seed": seed,
        "picture_size": SIZE,
        "recipe": detector.method.recipe.to_dict(),
        "words": detector.method.wording.to_dict(),
        "threshold": detector.threshold,
        "model": detector.backbone.describe(),
    }
    record = {"versions": dict(versions or {}), "device": detector.device, "settings": settings}
    rows: dict[str, Row] = {}
    cards: list[Card] = []
    with FolderWriter(folder, record) as writer:
        drawn = write_dataset(folder / PICTURES, names, per_class=per_class, seed=seed, size=SIZE, version=__version__)
        for name in names:
            files = [file for file in drawn["files"] if file["class_name"] == name]
            rows[name], shown = _score_class(detector, name, files, writer, max(4, MOST_CARDS // len(names)), on_picture)
            cards += shown
        return write_page(_report(detector, rows, cards, per_class=per_class, seed=seed), folder / PAGE)


def next_commands(model: str) -> tuple[tuple[str, str], ...]:
    """(what it does, command line) of what to try after the demonstration of a model."""
    predict = 'anovl predict YOUR_FOLDER --class-name "metal nut"'
    here = (("Your own pictures, with the same model:", f"{predict} --model {shlex.quote(model)} -o out"),)
    if model == DEFAULT_MODEL:
        return here
    paper = f"{predict} --model {DEFAULT_MODEL} -o out"  # named, for ANOVL_MODEL may name another
    return (*here, ("With the paper's model, about 800 MB, downloaded on first use:", paper))


def _score_class(
    detector: AnoVL,
    name: str,
    files: Sequence[Mapping[str, Any]],
    writer: FolderWriter,
    most: int,
    on_picture: Callable[[], None],
) -> tuple[Row, list[Card]]:
    """Score a class's pictures, write what is to be written; its figures and at most so many cards, the defective ones first."""
    root = writer.folder / PICTURES
    items = [SourceItem(root / file["image_path"], file["image_path"], file["image_path"].removesuffix(".png")) for file in files]
    pixels = PixelMetrics()
    scores: list[float] = []
    cards: dict[str, Card] = {}
    shown = _pick(files, most)
    outcomes = local.run(detector.job(name).per_device(), items, keep_pictures=True)
    for file, outcome in zip(files, outcomes, strict=True):
        prediction, picture = outcome.prediction, outcome.picture
        if prediction is None or picture is None:
            raise outcome.error or AnovlError(f"{file['image_path']}: no result")
        truth = None if file["mask_path"] is None else load_image(root / file["mask_path"])
        writer.write(file["image_path"], prediction, stem=outcome.item.stem, picture=picture, truth=truth)
        path = f"{PICTURES}/{file['image_path']}"
        if file["image_path"] in shown:
            cards[file["image_path"]] = make_card(picture, prediction, truth, kind=file["defect"] or "good", path=path)
        pixels.update(prediction.anomaly_map, _mask(truth, prediction.anomaly_map))
        scores.append(prediction.pred_score)
        on_picture()
    of_pixels = cache(pixels.compute)
    figures = (
        _figure(partial(auroc, scores, [file["defect"] is not None for file in files])),
        _figure(lambda: of_pixels().auroc),
        _figure(lambda: of_pixels().pro),
    )
    return Row(name, len(files), figures), [cards[path] for path in shown]


def _pick(files: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Of a class's pictures those for the gallery, the defective ones first, half of them where all are too many."""
    defective = [file["image_path"] for file in files if file["defect"]]
    good = [file["image_path"] for file in files if not file["defect"]]
    if len(files) > most:
        defective = defective[: most - most // 2]
        good = good[: most - len(defective)]
    return [*defective, *good]


def _mask(truth: Image.Image | None, anomaly_map: FloatArray) -> BoolArray:
    """The true mask at the map's size, [H, W]."""
    height, width = anomaly_map.shape
    if truth is None:
        return np.zeros((height, width), dtype=bool)
    return np.asarray(np.asarray(truth.convert("L").resize((width, height), Image.Resampling.NEAREST)) > 0)


def _figure(measure: Callable[[], float]) -> Figure:
    """A measured number, or why there is none."""
    try:
        return Figure(measure())
    except UsageError as exc:
        return Figure(None, str(exc))


def _report(detector: AnoVL, rows: Mapping[str, Row], cards: Sequence[Card], *, per_class: int, seed: int) -> Report:
    """What the page says about a run."""
    model = detector.backbone.describe()
    name, embedded = model["name"], model["name"] in EMBEDDED
    total = sum(row.count for row in rows.values())
    groups = (
        Group(
            "Seen in training" if embedded else "Seen by mini",
            tuple(row for key, row in rows.items() if not CLASSES[key].held_out),
        ),
        Group("Held out", tuple(row for key, row in rows.items() if CLASSES[key].held_out)),
    )
    origin = (
        f"{name} was trained on nothing but pictures that this project draws. These come from seeds it never saw, and "
        "the held-out classes are none of its training. Photographs are another matter: try yours."
        if embedded
        else f"The groups in the table are those of the embedded model mini; what {name} was trained on is not known here."
    )
    pictures = (
        f"{total} drawn pictures of parts and surfaces, {per_class // 2 * len(rows)} of them with a defect, scored by the "
        f"model {name} from the name of what they show and nothing else: no good samples, no labels."
    )
    note = (
        f"From {per_class} pictures a class these figures are rough. Pixel figures are over all pixels of a class, {SIZE} px "
        "a side; PRO up to a false-positive rate of 0.3. Scores are not calibrated: the threshold of "
        f"{detector.threshold:.2f} is the model's own, chosen for none of these classes."
    )
    return Report(
        title="anovl demo: drawn parts and their defects",
        lead=(pictures, origin),
        columns=COLUMNS,
        groups=tuple(group for group in groups if group.rows),
        note=note,
        cards=tuple(cards),
        commands=next_commands(name),
        facts=(
            ("Model", f"{name}, sha256 {model['weights_sha256'][:12]}…"),
            ("Recipe", detector.method.recipe.name),
            ("Pictures", f"{per_class} a class, {SIZE} px, seed {seed}"),
            ("Software", f"anovl {__version__}"),
        ),
        digits=2,
    )
