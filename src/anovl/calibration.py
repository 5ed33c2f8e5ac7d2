"""Thresholds from pictures whose state is known: split conformal prediction, the largest F1, the lowest cost. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from anovl.errors import UsageError, suggest
from anovl.profiles import (
    DEFAULT_FPR,
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    Choice,
    Measured,
    Origin,
    Profile,
    check_fpr,
    logit,
    rank,
)
from anovl.results import Prediction

Array = npt.NDArray[np.float64]


def conformal_threshold(scores: npt.ArrayLike, fpr: float = DEFAULT_FPR) -> float:
    """The smallest threshold that flags a new good picture with a probability of at most `fpr`.

    Args:
        scores: [n] of good pictures, in [0, 1].
        fpr: between 0 and 1. With fewer than 1 / fpr - 1 pictures no threshold keeps it; the one that is returned is over
            all scores and keeps 1 / (n + 1).

    Returns:
        just above the k-th smallest score, so that a score equal to that one is not flagged; see `rank`.

    Raises:
        UsageError: no score, one out of range, a rate that is none, or the k-th score is 1: nothing is above it.
    """
    check_fpr(fpr)
    values = _scores("good", scores)
    return _above(float(np.sort(values)[rank(values.size, fpr) - 1]))


def calibrate(
    good: Sequence[tuple[float, float]] | npt.ArrayLike,
    origin: Origin,
    *,
    fpr: float = DEFAULT_FPR,
    choose: Choice = "conformal",
    bad: npt.ArrayLike | None = None,
    cost_miss: float = 1.0,
    cost_alarm: float = 1.0,
) -> Profile:
    """The profile of a set of good pictures.

    Args:
        good: [n, 2] image score and largest value of the map of each good picture, in [0, 1].
        origin: what the scores come from.
        fpr: rate of false alarms that is to hold.
        choose: the image threshold: "conformal" from the good pictures; with labelled ones also "f1", the largest F1, or
            "cost", the lowest sum of costs, halfway between the scores on its two sides; of equal ones the highest.
        bad: [m] image scores of bad pictures; with them the profile also gets counts and a temperature.
        cost_miss, cost_alarm: for "cost", of a bad picture that is not flagged, and of a good one that is.

    Raises:
        UsageError: as `conformal_threshold`; no bad picture where they are needed; a cost that is not above 0.
    """
    check_fpr(fpr)
    if choose not in get_args(Choice):
        raise UsageError(suggest("choice of the threshold", str(choose), get_args(Choice)))
    pairs = np.asarray(good, dtype=np.float64)
    if pairs.size == 0:
        raise UsageError("calibration: expected at least one good picture, got none")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise UsageError(f"good: expected [n, 2], image score and largest value of the map, got {pairs.shape}")
    images = _scores("good", pairs[:, 0])
    others = None if bad is None else _scores("bad", bad)
    if choose == "conformal":
        threshold = conformal_threshold(images, fpr)
    elif others is None:
        raise UsageError(f"{choose}: needs bad pictures beside the good ones, got none")
    else:
        threshold = _labelled_threshold(images, others, None if choose == "f1" else (cost_miss, cost_alarm))
    return Profile(
        image_threshold=threshold,
        pixel_threshold=conformal_threshold(pairs[:, 1], fpr),
        choice=choose,
        fpr=float(fpr),
        pictures=len(pairs),
        origin=origin,
        measured=None
        if others is None
        else Measured(
            good=images.size,
            bad=others.size,
            false_alarms=int((images >= threshold).sum()),
            missed=int((others < threshold).sum()),
        ),
        temperature=None if others is None else _temperature(images, others),
    )


def peaks(prediction: Prediction) -> tuple[float, float]:
    """Image score and largest value of the map, as `calibrate` takes them."""
    return prediction.pred_score, float(prediction.anomaly_map.max())


def _labelled_threshold(good: Array, bad: Array, costs: tuple[float, float] | None) -> float:
    """The threshold of the largest F1, or of the lowest (cost of a miss, of an alarm) summed."""
    values = np.unique(np.concatenate([good, bad]))
    hits = bad.size - np.searchsorted(np.sort(bad), values)
    alarms = good.size - np.searchsorted(np.sort(good), values)
    if costs is None:
        gain = 2 * hits / (hits + alarms + bad.size)
    else:
        if not all(isinstance(cost, int | float) and 0 < cost < math.inf for cost in costs):
            raise UsageError(f"costs: expected finite numbers above 0 for a miss and an alarm, got {costs[0]} and {costs[1]}")
        gain = -(costs[0] * (bad.size - hits) + costs[1] * alarms)
        if values[-1] < 1 and -costs[0] * bad.size >= gain.max():
            return _above(float(values[-1]))  # nothing is worth an alarm
    best = int(np.flatnonzero(gain == gain.max())[-1])
    if best == 0:
        return float(values[0])
    middle = float(np.float32((values[best - 1] + values[best]) / 2))
    return middle if values[best - 1] < middle <= values[best] else float(values[best])


def _temperature(good: Array, bad: Array) -> float:
    """What logits are divided by so that the labels are likeliest (Guo et al. 2017, arXiv:1706.04599).

    Labels are drawn in as Platt (1999) does it, so that scores that tell all pictures apart do not make it 0.
    """
    from scipy.optimize import minimize_scalar

    logits = np.array([logit(float(score)) for score in (*good, *bad)])
    labels = np.repeat([1 / (good.size + 2), (bad.size + 1) / (bad.size + 2)], [good.size, bad.size])

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - labels * scaled).mean())

    bounds = (math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))
    return float(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def _scores(name: str, values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{name}: expected scores [n] of at least one picture, got {array.shape}")
    if not ((array >= 0) & (array <= 1)).all():  # also false for NaN
        raise UsageError(f"{name}: expected scores in [0, 1], got {array.min()} to {array.max()}")
    return array


def _above(score: float) -> float:
    """The smallest float32 over a score: scores and maps are float32 and may be compared in it.

    Raises:
        UsageError: that is over 1.
    """
    rounded = np.float32(score)
    above = float(rounded if rounded > score else np.nextafter(rounded, np.float32(2)))
    if above > 1:
        raise UsageError(
            "calibration: good pictures reach the score 1, the top of the scale, and no threshold is above it;"
            " are they good, and is the class name right? Else allow more false alarms or take another model"
        )
    return above
