"""The core of every metric: counts at the scores of anomalous items, and the sums over them.

A curve over all thresholds changes direction only at a score of an anomalous item: between two of these nothing but
false alarms is added. The counts there are all that exact figures need, so they come in stretches of scores, from
the highest down, and each stretch is forgotten once its sums are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SMALLEST = float(np.finfo(np.float64).tiny)  # keeps 0 / 0 at 0 where a resample leaves out the highest scores


@dataclass(frozen=True)
class Whole:
    """What the counts are out of.

    Attributes:
        good, bad: all good and all anomalous items, counted or weighed; above 0.
        regions: all regions; 0 where PRO is not wanted.
        limit: largest false-positive rate that counts for PRO, above 0 and at most 1.
    """

    good: float
    bad: float
    regions: float = 0.0
    limit: float = 1.0


@dataclass(frozen=True)
class Steps:
    """The counts at each distinct score of anomalous items in one stretch; whole or weighted, from the top of all.

    Attributes:
        value: [M] the scores, falling.
        above, at: [M] good items with a higher score, and with this score or a higher one.
        hits: [M] anomalous items with this score or a higher one.
        overlap: [M] the same, each counted by its share of a region.
    """

    value: Array
    above: Array
    at: Array
    hits: Array
    overlap: Array


@dataclass(frozen=True)
class Totals:
    """Counts of all scores above some score: good items, anomalous ones, and these by their share of a region."""

    good: int = 0
    hits: int = 0
    overlap: float = 0.0


def count_steps(good: Array, bad: Array, share: Array, before: Totals) -> tuple[Steps, Totals]:
    """The steps of one stretch, and the counts down to its end.

    Args:
        good: [G] scores of good items, rising.
        bad: [B] scores of anomalous items, rising.
        share: [B] what each of these adds to the overlap.
        before: the counts above the stretch.
    """
    first = np.flatnonzero(np.append(True, bad[1:] != bad[:-1])[: bad.size])  # of each run of equal scores
    value = bad[first]
    lower = np.searchsorted(good, value, "left")
    tied = np.flatnonzero(good[np.minimum(lower, good.size - 1)] == value) if good.size else lower[:0]
    up_to = lower.copy()
    up_to[tied] = np.searchsorted(good, value[tied], "right")
    overlap = before.overlap + np.cumsum(share[::-1])
    after = Totals(before.good + good.size, before.hits + bad.size, float(overlap[-1]) if bad.size else before.overlap)
    rising = (value, after.good - up_to, after.good - lower, after.hits - first, overlap[bad.size - 1 - first])
    return Steps(*(column[::-1] for column in rising)), after


class Sums:
    """Figures from steps that are added from the highest scores down.

    Attributes:
        f1_max: the largest F1 of the decision score >= threshold.
        threshold: the highest threshold that has it.
    """

    def __init__(self, whole: Whole) -> None:
        self._whole, self._most = whole, whole.limit * whole.good  # good items that count for PRO
        self._at = self._hits = self._overlap = 0.0  # at the last step
        self._pairs = self._precisions = self._area = 0.0
        self.f1_max = 0.0
        self.threshold = float("inf")

    def add(self, steps: Steps) -> None:
        """Take in the next stretch."""
        if not steps.value.size:
            return
        new = np.diff(steps.hits, prepend=self._hits)
        chosen = steps.hits + steps.at
        self._pairs += float(new @ (steps.above + steps.at))
        self._precisions += float(new @ (steps.hits / np.maximum(chosen, SMALLEST)))
        f1 = 2 * steps.hits / (chosen + self._whole.bad)
        best = int(f1.argmax())
        if f1[best] > self.f1_max:
            self.f1_max, self.threshold = float(f1[best]), float(steps.value[best])
        if self._whole.regions and self._at < self._most:
            x, y = corners(steps, steps.overlap, self._at, self._overlap)
            self._area += _area(x, y, self._most)
        self._at, self._hits, self._overlap = float(steps.at[-1]), float(steps.hits[-1]), float(steps.overlap[-1])

    @property
    def auroc(self) -> float:
        """Share of the pairs of a good and an anomalous item in which the anomalous one scores higher, ties half."""
        pairs = 2.0 * self._whole.good * self._whole.bad
        return (pairs - self._pairs) / pairs

    @property
    def ap(self) -> float:
        """Average precision: the precision at each step, weighed by how much the recall grows there."""
        return self._precisions / self._whole.bad

    @property
    def pro(self) -> float:
        """Area under the mean overlap against the false-positive rate up to the limit, divided by the limit."""
        level = max(self._most - self._at, 0.0) * self._overlap  # behind the last step
        return (self._area + level) / (self._most * self._whole.regions)


def corners(steps: Steps, height: Array, x: float, y: float) -> tuple[Array, Array]:
    """The line of a height over the good items: level up to each step, straight through its ties.

    Args:
        steps: M steps.
        height: [M] at each step.
        x, y: the corner before.

    Returns:
        x and y of the 2 M + 1 corners, each never falling.
    """
    xs, ys = np.empty((2, 2 * height.size + 1))
    xs[0], xs[1::2], xs[2::2] = x, steps.above, steps.at
    ys[0], ys[1], ys[2::2], ys[3::2] = y, y, height, height[:-1]
    return xs, ys


def _area(x: Array, y: Array, most: float) -> float:
    """Area under the corners (x, y) as far as x = most."""
    width = np.diff(x)
    inside = np.diff(np.minimum(x, most))
    part = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    return float(inside @ (y[:-1] + np.diff(y) * part / 2))
