"""Phase two of an evaluation: figures from scores and patch grids, one image's map in memory at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from anovl.config import Recipe
from anovl.data.datasets import Category, Sample, read_mask, resize_mask
from anovl.engine.maps import anomaly_map
from anovl.errors import UsageError
from anovl.evaluation.scoring import Scored
from anovl.metrics import Curve, ImageMetrics, PixelMetrics, auroc
from anovl.results import BoolArray, FloatArray

Resolution = Literal["input", "original"]
FIGURES = ("image_auroc", "image_f1max", "image_ap", "pixel_auroc", "pixel_f1max", "pixel_ap", "pixel_pro")
Figures = dict[str, float | None]
MEMORY = 512 * 2**20  # bytes of pixel scores of a category; more go to a temporary file


@dataclass(frozen=True)
class ImageRow:
    """One image's part in the figures, for the first seed.

    Attributes:
        key: its name in the data set.
        defect: its kind, or "good".
        anomalous: the truth; None where the data set does not say.
        score: of the image, in [0, 1].
        pixel_auroc: within this image; None without a defect or a mask.
    """

    key: str
    defect: str
    anomalous: bool | None
    score: float
    pixel_auroc: float | None


@dataclass(frozen=True)
class Measured:
    """The figures of a category by a variant.

    Attributes:
        by_seed: figures of each seed, by the names of `FIGURES`: fractions in [0, 1], or None where there is no number.
        reasons: why a figure is None.
        intervals: bootstrap intervals (low, high) of the first seed's figures.
        thresholds: "image" and "pixel", where F1 is largest, for the first seed.
        by_defect: figures of each kind of defect against all good images, for the first seed.
        curves: "roc", "pr", "pro" of the pixels and "image_roc", for the first seed.
        images: in the order of the category, for the first seed.
    """

    by_seed: tuple[Figures, ...]
    reasons: dict[str, str]
    intervals: dict[str, tuple[float, float]]
    thresholds: dict[str, float]
    by_defect: dict[str, Figures]
    curves: dict[str, Curve]
    images: tuple[ImageRow, ...]

    @property
    def figures(self) -> Figures:
        """Means over the seeds."""
        return averaged(self.by_seed)

    def to_dict(self) -> dict[str, Any]:
        """Figures at the top, for report.json; curves and images have files of their own."""
        rest = {"std": spread(self.by_seed)}
        rest |= {name: getattr(self, name) for name in ("reasons", "intervals", "thresholds", "by_defect")}
        return {**self.figures, **{name: value for name, value in rest.items() if value}}


def averaged(rows: Sequence[Figures]) -> Figures:
    """Means, a figure at a time, over the rows that have a number."""
    return {name: statistics.fmean(some) if (some := _numbers(rows, name)) else None for name in FIGURES}


def spread(rows: Sequence[Figures]) -> dict[str, float]:
    """Standard deviations (n - 1) of the figures with two numbers and more."""
    return {name: statistics.stdev(some) for name in FIGURES if len(some := _numbers(rows, name)) > 1}


def _numbers(rows: Sequence[Figures], name: str) -> list[float]:
    return [value for row in rows if (value := row[name]) is not None]


@dataclass(eq=False)
class Part:
    """Some images of a category against the truth; parts add up to the whole.

    Attributes:
        tallies: scores and maps against the truth, one a seed.
        images: in order, for the first seed.
    """

    tallies: list[Tally]
    images: list[ImageRow]

    @classmethod
    def empty(cls, category: Category, *, seeds: int) -> Part:
        """No image yet."""
        return cls([Tally(category, memory=MEMORY // seeds) for _ in range(seeds)], [])

    def merge(self, other: Part) -> None:
        """Take in the images that follow."""
        for mine, theirs in zip(self.tallies, other.tallies, strict=True):
            mine.merge(theirs)
        self.images += other.images


def compare(category: Category, scored: Sequence[Scored], *, recipe: Recipe, size: tuple[int, int] | None) -> Part:
    """Scores and maps of images against the truth.

    Args:
        category: the truth of these images.
        scored: one an image, in the order of the category.
        recipe: of the variant, which makes maps of grids.
        size: (H, W) of maps and masks; None is each image's own.
    """
    part = Part.empty(category, seeds=len(scored[0].image_scores))
    for sample, one in zip(category.test, scored, strict=True):
        mask, inside = None, None
        if category.has_masks and sample.anomalous is not None:
            mask = resize_mask(read_mask(sample, one.size), size or one.size)
        for index, tally in enumerate(part.tallies):
            values = None if mask is None else anomaly_map(one.patch_scores[index], mask.shape, recipe)
            tally.update(sample, float(one.image_scores[index]), values, mask)
            if index == 0 and values is not None and mask is not None and mask.any() and not mask.all():
                inside = auroc(values, mask)
        part.images.append(ImageRow(sample.key, sample.defect, sample.anomalous, float(one.image_scores[0]), inside))
    return part


def measure(parts: Iterable[Part], category: Category, *, seeds: int, bootstrap: int = 0) -> Measured:
    """The figures of a category.

    Args:
        parts: of its images, in order.
        category: all of it.
        seeds: how many there are.
        bootstrap: resamples for the intervals; 0 leaves them out.
    """
    whole = Part.empty(category, seeds=seeds)
    for part in parts:
        whole.merge(part)
    first, *others = whole.tallies  # whatever else there is comes from the first seed
    found = first.figures(first.kinds)
    faulty = [kind for kind in first.kinds if kind != "good"]
    return Measured(
        by_seed=(found.figures, *(tally.figures(tally.kinds).figures for tally in others)),
        reasons=found.reasons,
        intervals=first.intervals(bootstrap) if bootstrap else {},
        thresholds=found.thresholds,
        by_defect={kind: first.figures(["good", kind]).figures for kind in faulty} if len(faulty) > 1 else {},
        curves=found.curves,
        images=tuple(whole.images),
    )


class _Found(NamedTuple):
    figures: Figures
    reasons: dict[str, str]
    thresholds: dict[str, float]
    curves: dict[str, Curve]


class Tally:
    """Scores and maps of a category against the truth, by kind of defect.

    Args:
        category: whose samples come.
        memory: bytes of pixel scores; more go to a temporary file.
    """

    def __init__(self, category: Category, *, memory: int = MEMORY) -> None:
        self.has_masks = category.has_masks
        self.image: dict[str, ImageMetrics] = {}
        self.pixel: dict[str, PixelMetrics] = {}
        self._memory = memory // len({sample.defect for sample in category.test})

    def update(self, sample: Sample, score: float, values: FloatArray | None, mask: BoolArray | None) -> None:
        """Take in an image: its score, and its map and mask [H, W] where there are masks; one without label does not count."""
        if sample.anomalous is None:
            return
        self.image.setdefault(sample.defect, ImageMetrics()).update([score], [sample.anomalous])
        if values is not None and mask is not None:
            self.pixel.setdefault(sample.defect, PixelMetrics(memory=self._memory)).update(values, mask)

    def merge(self, other: Tally) -> None:
        """Take in all that another one has, which stays as it is."""
        for kind, image in other.image.items():
            self.image.setdefault(kind, ImageMetrics()).merge(image)
        for kind, pixel in other.pixel.items():
            self.pixel.setdefault(kind, PixelMetrics(memory=self._memory)).merge(pixel)

    @property
    def kinds(self) -> list[str]:
        """Kinds of defects with "good" among them, in the order of the alphabet."""
        return sorted(self.image)

    def figures(self, kinds: Sequence[str]) -> _Found:
        """Figures of the images of these kinds, why some are missing, thresholds, curves."""
        found = _Found(dict.fromkeys(FIGURES), {}, {}, {})
        try:
            image = _combined(ImageMetrics, self.image, kinds).compute()
            found.figures.update({"image_auroc": image.auroc, "image_f1max": image.f1_max, "image_ap": image.ap})
            found.thresholds["image"] = image.threshold
            found.curves["image_roc"] = image.curves["roc"]
        except UsageError as exc:
            found.reasons.update(dict.fromkeys(FIGURES[:3], str(exc)))
        try:
            if not self.has_masks:
                raise UsageError("the data set has no masks of these images")
            pixel = _combined(PixelMetrics, self.pixel, kinds).compute()
            pixels = {"pixel_auroc": pixel.auroc, "pixel_f1max": pixel.f1_max, "pixel_ap": pixel.ap, "pixel_pro": pixel.pro}
            found.figures.update(pixels)
            found.thresholds["pixel"] = pixel.threshold
            found.curves.update(pixel.curves)
        except UsageError as exc:
            found.reasons.update(dict.fromkeys(FIGURES[3:], str(exc)))
        return found

    def intervals(self, samples: int) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of the figures of all kinds, of those that have a number."""
        found: dict[str, tuple[float, float]] = {}
        with suppress(UsageError):  # `figures` has said why
            drawn = _combined(ImageMetrics, self.image, self.kinds).bootstrap(samples=samples)
            found |= {f"image_{_plain(name)}": interval for name, interval in drawn.items()}
        with suppress(UsageError):
            drawn = _combined(PixelMetrics, self.pixel, self.kinds).bootstrap(samples=samples)
            found |= {f"pixel_{_plain(name)}": interval for name, interval in drawn.items()}
        return found


def _plain(name: str) -> str:
    """f1_max of `anovl.metrics` is f1max in a report."""
    return name.replace("_", "")


Metrics = TypeVar("Metrics", ImageMetrics, PixelMetrics)


def _combined(kind: type[Metrics], parts: Mapping[str, Metrics], names: Sequence[str]) -> Metrics:
    return kind.combined([parts[name] for name in names if name in parts])
