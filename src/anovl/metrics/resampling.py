"""Bootstrap confidence intervals: the figures of many sets of images, drawn from the one at hand with replacement.

Whole images are drawn, good and defective ones apart, because the pixels of an image go together. A few thousand of
its pixels stand for each image, and the scores are counted at a thousand levels at most, so that a resample is one
product of matrices. That approximates the interval; the figure itself never comes from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from anovl.errors import UsageError
from anovl.metrics.steps import Array, Steps, Sums, Whole

PIXELS = 2000  # at most, of each kind, that stand for an image
LEVELS = 1000
BLOCK = 500  # images whose counts are in memory at a time


@dataclass(frozen=True)
class Sample:
    """Items of one image that stand for all of it.

    Attributes:
        good: [G] scores, rising.
        good_weight: good items that each of them stands for.
        bad: [B] scores, rising.
        bad_weight: [B] anomalous items that each of them stands for.
        overlap: [B] the share of regions that each of them stands for.
    """

    good: Array
    good_weight: float
    bad: Array
    bad_weight: Array
    overlap: Array

    @property
    def key(self) -> bytes:
        """Equal for equal samples; sorts them without regard to the order in which images came."""
        return blake2b(b"".join(each.tobytes() for each in (self.good, self.bad, self.overlap)), digest_size=16).digest()


def draw(good: Array, bad: Array, shares: Array) -> Sample:
    """A sample of an image's pixels, the same whenever and wherever this image comes.

    Good pixels are drawn evenly. Of defect pixels one half of the draws goes evenly to pixels, the other evenly to
    regions, so that neither the largest nor the smallest region goes unseen; weights make up for it.

    Args:
        good: [G] scores of good pixels, in their places in the image.
        bad: [B] scores of defect pixels.
        shares: [B] one over the area of the region of each.
    """
    seed = blake2b(b"".join(part[:: part.size // PIXELS + 1].tobytes() for part in (good, bad)), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    good_weight, bad_weight = 1.0, np.ones(bad.size)
    if good.size > PIXELS:
        good_weight = good.size / PIXELS
        good = good[((np.arange(PIXELS) + rng.random(PIXELS)) * good_weight).astype(np.int64)]
    if bad.size > PIXELS:
        chance = np.cumsum(1 / bad.size + shares / shares.sum())
        chosen = np.searchsorted(chance, (np.arange(PIXELS) + rng.random(PIXELS)) / PIXELS * chance[-1])
        bad_weight = 2 / PIXELS / (1 / bad.size + shares[chosen] / shares.sum())
        bad, shares = bad[chosen], shares[chosen]
    order = np.argsort(bad)
    return Sample(np.sort(good), good_weight, bad[order], bad_weight[order], (shares * bad_weight)[order])


def intervals(
    samples: Sequence[Sample], *, resamples: int, level: float, seed: int, limit: float | None
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the figures.

    Args:
        samples: one an image; among them good and anomalous items.
        resamples: sets of images to draw, at least 1.
        level: chance that an interval is to cover, between 0 and 1.
        seed: of the draws.
        limit: of the false-positive rate, for "pro"; None leaves it out.

    Returns:
        (low, high) by "auroc", "f1_max", "ap" and "pro".

    Raises:
        UsageError: a setting is out of range.
    """
    if resamples < 1 or not 0 < level < 1:
        raise UsageError(f"bootstrap: expected 1 sample or more and a level between 0 and 1, got {resamples} and {level}")
    samples = sorted(samples, key=lambda sample: sample.key)
    distinct = np.unique(np.concatenate([sample.bad for sample in samples]))[::-1]
    groups = np.array_split(distinct, min(LEVELS, distinct.size))
    highest, lowest = (np.array([group[place] for group in groups]) for place in (0, -1))
    good = np.array([sample.good.size * sample.good_weight for sample in samples])
    anomalous = np.array([sample.bad.size > 0 for sample in samples])
    kinds = [np.flatnonzero(anomalous), np.flatnonzero(~anomalous)]
    times = np.stack(list(_times(kinds, good, resamples, np.random.default_rng(seed))))
    counts = np.zeros((resamples, 4, lowest.size))
    for start in range(0, len(samples), BLOCK):
        part = np.stack([_counts(sample, highest, lowest) for sample in samples[start : start + BLOCK]])
        counts += np.tensordot(times[:, start : start + BLOCK], part, 1)
    names = ("auroc", "f1_max", "ap") if limit is None else ("auroc", "f1_max", "ap", "pro")
    drawn = []
    for all_good, columns in zip(times @ good, counts, strict=True):
        steps = Steps(lowest, *columns)
        sums = Sums(Whole(float(all_good), float(steps.hits[-1]), float(steps.overlap[-1]), limit or 1.0))
        sums.add(steps)
        drawn.append([getattr(sums, name) for name in names])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    return dict(zip(names, zip(low, high, strict=True), strict=True))


def _counts(sample: Sample, highest: Array, lowest: Array) -> Array:
    """Of one image, [4, L]: good items above each level and at it or above, anomalous ones, and their overlap.

    Args:
        sample: the image.
        highest, lowest: [L] scores of anomalous items that begin and end each level, falling.
    """
    good, bad = sample.good, sample.bad
    hits = bad.size - np.searchsorted(bad, lowest, "left")
    above = good.size - np.searchsorted(good, highest, "right")
    at = good.size - np.searchsorted(good, lowest, "left")
    falling = (np.append(0.0, weight[::-1].cumsum()) for weight in (sample.bad_weight, sample.overlap))
    return np.stack([above * sample.good_weight, at * sample.good_weight, *(sums[hits] for sums in falling)])


def _times(kinds: Sequence[Array], good: Array, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """How often each image is drawn, [N], resample after resample; never a set without a good item.

    Args:
        kinds: indices of the images of each kind, drawn within their kind.
        good: [N] good items of each image.
        resamples: how many sets.
        rng: draws.
    """
    while resamples:
        times = np.zeros(good.size)
        for kind in kinds:
            times += np.bincount(rng.choice(kind, kind.size) if kind.size else kind, minlength=good.size)
        if times @ good > 0:
            resamples -= 1
            yield times
