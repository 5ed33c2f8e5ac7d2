"""Figures of image scores, and of one map alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anovl.metrics.checks import as_labelled
from anovl.metrics.curves import tally
from anovl.metrics.outline import Curve, Outline
from anovl.metrics.resampling import Sample, intervals
from anovl.metrics.steps import Whole


@dataclass(frozen=True)
class ImageFigures:
    """How well image scores tell defective images from good ones, in [0, 1].

    Attributes:
        auroc, f1_max, ap: as `anovl.metrics.auroc`, `f1_max`, `average_precision`.
        threshold: the highest one whose decision score >= threshold has that F1.
        curves: "roc" and "pr" for a plot, as `Outline.curves`.
    """

    auroc: float
    f1_max: float
    ap: float
    threshold: float
    curves: dict[str, Curve]


class ImageMetrics:
    """Exact figures of any number of image scores."""

    def __init__(self) -> None:
        self._scores: list[npt.NDArray[np.float64]] = []
        self._labels: list[npt.NDArray[np.bool_]] = []

    def update(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Take in images.

        Args:
            scores: [N] or one number, finite; larger means more anomalous.
            labels: the same shape, bool or 0 and 1; 1 is anomalous.

        Raises:
            UsageError: they are not as above; nothing was taken in.
        """
        values, truth = as_labelled(scores, labels)
        self._scores.append(values.astype(np.float64).ravel())
        self._labels.append(truth.flatten())

    def merge(self, other: ImageMetrics) -> None:
        """Take in all that another one has; the other one stays as it is."""
        self._scores += other._scores
        self._labels += other._labels

    @classmethod
    def combined(cls, parts: Iterable[ImageMetrics]) -> ImageMetrics:
        """The metrics of all parts together; the parts stay as they are."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

    def compute(self) -> ImageFigures:
        """Figures of all images so far; more may come after.

        Raises:
            UsageError: no image, none that is defective, or none that is good.
        """
        scores, labels = self._all()
        sums, steps = tally("an image figure", scores, labels)
        outline = Outline(Whole(int((~labels).sum()), int(labels.sum())))
        outline.add(steps)
        return ImageFigures(sums.auroc, sums.f1_max, sums.ap, sums.threshold, outline.curves())

    def bootstrap(self, *, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Confidence intervals: images are drawn with replacement, good and defective ones apart.

        With more than 1,000 different scores of defective images, close ones are counted together.

        Args:
            samples: sets of images to draw, at least 1.
            level: chance that an interval is to cover, between 0 and 1.
            seed: of the draws; the order in which images came does not matter.

        Returns:
            (low, high) by "auroc", "f1_max" and "ap".

        Raises:
            UsageError: as `compute`, or a setting is out of range.
        """
        scores, labels = self._all()
        tally("an image figure", scores, labels)  # says why, where there is none
        one, none = np.ones(1), np.empty(0)
        images = [
            Sample(none, 1.0, score, one, one) if label else Sample(score, 1.0, none, none, none)
            for score, label in zip(scores[:, None], labels, strict=True)
        ]
        return intervals(images, resamples=samples, level=level, seed=seed, limit=None)

    def _all(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        return np.concatenate([np.empty(0), *self._scores]), np.concatenate([np.empty(0, bool), *self._labels])


@dataclass(frozen=True)
class MapFigures:
    """How well one anomaly map finds the defect of its image, in [0, 1]; None where the image has none, or nothing else.

    Attributes:
        auroc, f1_max, ap: over the pixels of this image.
        covered: share of the defect at or above the threshold.
        alarms: share of the good pixels at or above the threshold.
    """

    auroc: float | None
    f1_max: float | None
    ap: float | None
    covered: float | None
    alarms: float | None


def map_figures(anomaly_map: npt.ArrayLike, mask: npt.ArrayLike, *, threshold: float) -> MapFigures:
    """Figures of one image, to sort a gallery by.

    Args:
        anomaly_map: [H, W], finite; larger means more anomalous.
        mask: [H, W], bool or 0 and 1; True on the defect.
        threshold: of a defect pixel, such as that of `PixelFigures`.

    Raises:
        UsageError: they are not as above.
    """
    values, truth = as_labelled(anomaly_map, mask)
    sums = tally("a map", values, truth)[0] if truth.any() and not truth.all() else None
    over = values >= np.float64(threshold)  # in full, also against float32
    covered, alarms = (float(over[kind].mean()) if kind.any() else None for kind in (truth, ~truth))
    if sums is None:
        return MapFigures(None, None, None, covered, alarms)
    return MapFigures(sums.auroc, sums.f1_max, sums.ap, covered, alarms)
