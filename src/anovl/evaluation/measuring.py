"""Phase two of an evaluation: figures from scores and patch grids, one image's map in memory at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

from anovl.data.datasets import Category, Sample, read_mask, resize_mask
from anovl.errors import UsageError
from anovl.evaluation.scoring import Scored, Variant, anomaly_map
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


def measure(
    variant: Variant,
    category: Category,
    scored: Sequence[Scored],
    *,
    resolution: Resolution = "input",
    bootstrap: int = 0,
    on_image: Callable[[], None] = lambda: None,
) -> Measured:
    """Image and pixel figures of a category.

    Args:
        variant: whose scores they are; its recipe makes maps of grids.
        category: the truth.
        scored: one an image, in the order of the category.
        resolution: "input" compares at the model's input size, masks resized (the papers' way); "original" at each
            image's own size.
        bootstrap: resamples for the intervals; 0 leaves them out.
        on_image: is called after each image.
    """
    first, by_seed = None, []
    for index in range(len(scored[0].image_scores)):
        seed = _Seed(variant, category, scored, index, resolution, on_image=on_image)
        all_kinds = seed.figures(seed.kinds)
        by_seed.append(all_kinds.figures)
        if first is None:  # whatever else there is comes from the first seed
            faulty = [kind for kind in seed.kinds if kind != "good"]
            first = Measured(
                by_seed=(),
                reasons=all_kinds.reasons,
                intervals=seed.intervals(bootstrap) if bootstrap else {},
                thresholds=all_kinds.thresholds,
                by_defect={kind: seed.figures(["good", kind]).figures for kind in faulty} if len(faulty) > 1 else {},
                curves=all_kinds.curves,
                images=tuple(seed.images),
            )
    if first is None:
        raise UsageError(f"{category.name}: no scores")
    return replace(first, by_seed=tuple(by_seed))


class _Found(NamedTuple):
    figures: Figures
    reasons: dict[str, str]
    thresholds: dict[str, float]
    curves: dict[str, Curve]


class _Seed:
    """One seed's scores, sorted by kind of defect."""

    def __init__(
        self,
        variant: Variant,
        category: Category,
        scored: Sequence[Scored],
        index: int,
        resolution: Resolution,
        *,
        on_image: Callable[[], None],
    ) -> None:
        self.has_masks = category.has_masks
        self.image: dict[str, ImageMetrics] = {}
        self.pixel: dict[str, PixelMetrics] = {}
        self.images: list[ImageRow] = []
        memory = MEMORY // len({sample.defect for sample in category.test})
        for sample, one in zip(category.test, scored, strict=True):
            score, inside = float(one.image_scores[index]), None
            if sample.anomalous is not None:
                self.image.setdefault(sample.defect, ImageMetrics()).update([score], [sample.anomalous])
                if category.has_masks:
                    size = one.size if resolution == "original" else variant.detector.backbone.image_size
                    values, mask = anomaly_map(variant, one.patch_scores[index], size), _mask(sample, one, size)
                    self.pixel.setdefault(sample.defect, PixelMetrics(memory=memory)).update(values, mask)
                    inside = _inside(values, mask) if index == 0 else None
            self.images.append(ImageRow(sample.key, sample.defect, sample.anomalous, score, inside))
            on_image()

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


def _mask(sample: Sample, scored: Scored, size: tuple[int, int]) -> BoolArray:
    mask = read_mask(sample, scored.size)
    return mask if size == scored.size else resize_mask(mask, size)


def _inside(values: FloatArray, mask: BoolArray) -> float | None:
    """Pixel AUROC within one image, None where it has no defect or nothing else."""
    return auroc(values, mask) if mask.any() and not mask.all() else None
