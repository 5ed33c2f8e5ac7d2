"""One HTML page of a run: figures a class, a gallery of pictures, nothing fetched from anywhere.

The page is a single file with its pictures inside, so that it can be mailed; it works without scripts (they only
filter the gallery), on a phone, and in the dark.
"""

from __future__ import annotations

import base64
import io
import statistics
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image
from scipy import ndimage

from anovl.errors import UsageError
from anovl.files import replacing
from anovl.render import overlay as drawing
from anovl.render.plots import Plot
from anovl.results import Prediction

Outcome = Literal["found", "missed", "false alarm", "passed"]

TILE, QUALITY = 200, 72  # side and JPEG quality of a picture in the gallery: a hundred cards stay under 3 MB
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        value: a fraction in [0, 1]; None where there is no number.
        reason: why there is none.
    """

    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """The figures of a class (or of several), in the order of the report's columns.

    Attributes:
        count: pictures the figures are made of.
    """

    name: str
    count: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Group:
    """Classes that share a mean.

    Attributes:
        listed: each class has a row of its own; else the mean is all there is.
    """

    name: str
    rows: tuple[Row, ...]
    listed: bool = True

    @property
    def mean(self) -> Row:
        """Mean over the classes that have a number, a column at a time, and all their pictures."""
        columns = zip(*(row.figures for row in self.rows), strict=True)
        return Row(self.name, sum(row.count for row in self.rows), tuple(_mean(column) for column in columns))


@dataclass(frozen=True)
class Tile:
    """One picture of a card.

    Attributes:
        caption: the word under it.
        alt: what it shows, for those who cannot see it.
        source: a data URI; empty for a tile that says `alt` in words.
    """

    caption: str
    alt: str
    source: str = ""


@dataclass(frozen=True)
class Card:
    """One picture of the gallery with what was found in it.

    Attributes:
        class_name: what it shows.
        kind: the kind of defect, or "good".
        path: where the picture lies, relative to the page.
        defective: the truth.
        prediction: (score, threshold), the same numbers as in predictions.jsonl.
        levels: both on the drawing scale, in [0, 1].
    """

    class_name: str
    kind: str
    path: str
    defective: bool
    prediction: tuple[float, float]
    levels: tuple[float, float]
    tiles: tuple[Tile, ...]

    @property
    def over(self) -> bool:
        """True for a score at the threshold or over it."""
        return self.prediction[0] >= self.prediction[1]

    @property
    def outcome(self) -> Outcome:
        """What the decision was worth."""
        if self.defective:
            return "found" if self.over else "missed"
        return "false alarm" if self.over else "passed"

    @property
    def shown(self) -> tuple[str, str]:
        """Score and threshold with as many digits as tell them apart, two where they are the same."""
        score, threshold = self.prediction
        apart = (n for n in range(2, 6) if f"{score:.{n}f}" != f"{threshold:.{n}f}")
        digits = 2 if score == threshold else next(apart, 6)
        return f"{score:.{digits}f}", f"{threshold:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page says, from top to bottom.

    Attributes:
        title: the heading.
        lead: paragraphs under it.
        columns: names of the figures.
        groups: rows of figures.
        note: what to know when reading the figures.
        plots: under the figures.
        plots_note: what to know when reading them.
        cards: the gallery.
        commands: (what it does, command line) to try next.
        facts: (name, value) of the run: model, seed, versions.
        digits: decimals of the figures.

    Raises:
        UsageError: a row with another number of figures than there are columns.
    """

    title: str
    lead: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    note: str = ""
    plots: tuple[Plot, ...] = ()
    plots_note: str = ""
    cards: tuple[Card, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    digits: int = 3

    def __post_init__(self) -> None:
        for row in (row for group in self.groups for row in group.rows):
            if len(row.figures) != len(self.columns):
                raise UsageError(f"report: expected {len(self.columns)} figures a row, got {len(row.figures)} in {row.name!r}")


def make_card(
    picture: Image.Image,
    prediction: Prediction,
    truth: Image.Image | None,
    *,
    kind: str,
    path: str,
    threshold: float | None = None,
    side: int = TILE,
) -> Card:
    """A card with three tiles: the picture, the true defect outlined, what the model says.

    Args:
        picture: RGB.
        prediction: of the picture.
        truth: its mask, any value above 0 is defect; None for a picture without a defect, or without a mask.
        kind: the kind of defect, or "good".
        path: where the picture lies, relative to the page.
        threshold: of the image's score, where it is not the prediction's, which the outline goes by.
        side: longest side of a tile, px.
    """
    name = prediction.class_name
    threshold = prediction.threshold if threshold is None else threshold
    width, height = drawing.display_size(prediction.image_size)
    seen = drawing.overlay(picture, prediction).crop((0, 0, width, height))  # without the colour bar
    strongest = max((region.peak for region in prediction.regions()), default=0.0)
    says = f"strongest region {strongest:.2f}" if strongest else "no region over the threshold"
    plain = Tile("picture", f"{name}, {kind}", data_uri(picture, side=side))
    if truth is None:
        known = Tile("truth", "no defect" if kind == "good" else "no mask")
    else:
        known = Tile("truth", f"{name}, the {kind} outlined", data_uri(_outlined(picture, truth), side=side))
    low, high = prediction.score_range
    levels = [min(max((value - low) / (high - low), 0.0), 1.0) for value in (prediction.pred_score, threshold)]
    return Card(
        class_name=name,
        kind=kind,
        path=path,
        defective=kind != "good",
        prediction=(prediction.pred_score, threshold),
        levels=(levels[0], levels[1]),
        tiles=(plain, known, Tile("model", f"heat map over the {name}: {says}", data_uri(seen, side=side))),
    )


def data_uri(picture: Image.Image, *, side: int = TILE) -> str:
    """A picture, reduced to `side` px, as a JPEG inside an address."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def render(report: Report) -> str:
    """The page; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("anovl.render") / _TEMPLATE).read_text(encoding="utf-8"))
    first: dict[str, int] = {}
    for index, card in enumerate(report.cards):
        first.setdefault(card.class_name, index)
    outcomes = Counter(card.outcome for card in report.cards)
    return template.render(
        report=report,
        first=first,
        outcomes={outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        ramp=_gradient(),
        truth_colour=f"rgb{drawing.TRUTH}",
    )


def write_page(report: Report, path: Path) -> Path:
    """Write the page, whole or not at all; returns the path.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(render(report), encoding="utf-8")
    return path


def _mean(figures: tuple[Figure, ...]) -> Figure:
    values = [figure.value for figure in figures if figure.value is not None]
    return Figure(statistics.fmean(values)) if values else Figure(None, "no class has a number")


def _outlined(picture: Image.Image, truth: Image.Image) -> Image.Image:
    """The picture with a line around the defect, not over it: thin ones stay visible."""
    size = drawing.display_size((picture.height, picture.width))
    known = np.asarray(truth.convert("L").resize(size, Image.Resampling.NEAREST)) > 0
    line = max(2, max(size) // 150)
    pixels = np.array(picture.resize(size, Image.Resampling.BILINEAR))
    pixels[drawing.contour(ndimage.binary_dilation(known, iterations=2 * line), line)] = drawing.TRUTH
    return Image.fromarray(pixels)


def _gradient() -> str:
    """The colours of the maps, cold to hot, for CSS."""
    colours = drawing.colourise(np.linspace(0, 1, 9, dtype=np.float32)[None])[0]
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colours.tolist())
