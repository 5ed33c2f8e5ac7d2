"""Measures of a list of scores against labels, exact at every threshold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anovl.errors import UsageError
from anovl.metrics.checks import as_labelled
from anovl.metrics.steps import Steps, Sums, Totals, Whole, count_steps


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Area under the ROC curve: the share of pairs in which the anomalous one scores higher, ties half.

    Args:
        scores: any shape, any finite numbers; larger means more anomalous.
        labels: the same shape, bool or 0 and 1; 1 is anomalous.

    Returns:
        the area, 0 to 1.

    Raises:
        UsageError: the shapes differ, a score is not finite, a label is neither 0 nor 1, or all labels are the same.
    """
    return tally("AUROC", scores, labels)[0].auroc


def f1_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Largest F1 of the decision score >= threshold over all thresholds.

    Args:
        scores, labels: as in `auroc`.

    Raises:
        UsageError: as in `auroc`.
    """
    return tally("F1max", scores, labels)[0].f1_max


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Precision at each threshold, weighed by how much the recall grows there: step-wise, never trapezoidal.

    Args:
        scores, labels: as in `auroc`.

    Raises:
        UsageError: as in `auroc`.
    """
    return tally("AP", scores, labels)[0].ap


def tally(what: str, scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Sums, Steps]:
    """Sums and steps of scores that are all at hand.

    Args:
        what: the metric, for the error.
        scores, labels: as in `auroc`.

    Raises:
        UsageError: as in `auroc`.
    """
    values, truth = as_labelled(scores, labels)
    good, bad = np.sort(values[~truth], axis=None), np.sort(values[truth], axis=None)
    if good.size == 0 or bad.size == 0:
        kind = "none is anomalous" if bad.size == 0 else "all are anomalous"
        raise UsageError(f"{what} needs good and anomalous items; of {truth.size} given, {kind}")
    sums = Sums(Whole(good.size, bad.size))
    steps, _ = count_steps(good, bad, np.zeros(bad.size), Totals())
    sums.add(steps)
    return sums, steps
