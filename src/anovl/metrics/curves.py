"""Measures of a list of scores against labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anovl.errors import UsageError


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Area under the ROC curve, exact: the share of pairs in which the anomalous one scores higher, ties half.

    Args:
        scores: any shape, any finite numbers; larger means more anomalous.
        labels: the same shape, bool or 0 and 1; 1 is anomalous.

    Returns:
        the area, 0 to 1.

    Raises:
        UsageError: the shapes differ, a score is not finite, a label is neither 0 nor 1, or all labels are the same.
    """
    good, bad = _sorted_by_label("AUROC", scores, labels)
    below, up_to = (np.searchsorted(good, bad, side).sum(dtype=np.int64) for side in ("left", "right"))
    return float((int(below) + int(up_to)) / (2 * good.size * bad.size))


def f1_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Largest F1 of the decision score >= threshold over all thresholds, exact.

    Args:
        scores, labels: as in `auroc`.

    Raises:
        UsageError: as in `auroc`.
    """
    good, bad = _sorted_by_label("F1max", scores, labels)
    hits = np.arange(bad.size, 0, -1)  # at a threshold of each bad score; of equal ones the first counts
    alarms = good.size - np.searchsorted(good, bad, "left")
    return float((2 * hits / (hits + alarms + bad.size)).max())


def _sorted_by_label(what: str, scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The scores of the good and of the anomalous items, each rising.

    Raises:
        UsageError: as in `auroc`.
    """
    values, truth = as_scores("scores", scores), as_labels("labels", labels)
    if values.shape != truth.shape:
        raise UsageError(f"labels: expected the shape of the scores, {values.shape}, got {truth.shape}")
    good, bad = np.sort(values[~truth], axis=None), np.sort(values[truth], axis=None)
    if good.size == 0 or bad.size == 0:
        kind = "none is anomalous" if bad.size == 0 else "all are anomalous"
        raise UsageError(f"{what} needs good and anomalous items; of {truth.size} given, {kind}")
    return good, bad


def as_scores(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """The values as an array of finite real numbers, in the type they came in.

    Raises:
        UsageError: they are not.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{name}: expected real numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise UsageError(f"{name}: expected finite numbers, got {array.size - int(finite.sum())} NaN or infinite of {array.size}")
    return array


def as_labels(name: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """The values as a bool array.

    Raises:
        UsageError: they are neither bool nor 0 and 1 only.
    """
    array = np.asarray(values)
    if array.dtype.kind != "b" and (array.dtype.kind not in "fiu" or not ((array == 0) | (array == 1)).all()):
        raise UsageError(f"{name}: expected bool, or 0 and 1 only, got other values of type {array.dtype}")
    return array.astype(bool, copy=False)
