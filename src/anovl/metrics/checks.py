"""What a metric takes: real, finite scores, and labels of two kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anovl.errors import UsageError


def as_scores(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """The values as an array of finite real numbers, float32 where that holds them exactly, else float64.

    Args:
        name: what the values are called in an error.
        values: any shape; integers beyond 2^53 are rounded.

    Raises:
        UsageError: they are not real and finite.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{name}: expected real numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise UsageError(f"{name}: expected finite numbers, got {array.size - int(finite.sum())} NaN or infinite of {array.size}")
    exact = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    return array.astype(np.float32 if exact else np.float64, copy=False)


def as_labels(name: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """The values as a bool array.

    Raises:
        UsageError: they are neither bool nor 0 and 1 only.
    """
    array = np.asarray(values)
    if array.dtype.kind != "b" and (array.dtype.kind not in "fiu" or not ((array == 0) | (array == 1)).all()):
        raise UsageError(f"{name}: expected bool, or 0 and 1 only, got other values of type {array.dtype}")
    return array.astype(bool, copy=False)


def as_labelled(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Scores and labels of one shape.

    Raises:
        UsageError: they are not that.
    """
    values, truth = as_scores("scores", scores), as_labels("labels", labels)
    if values.shape != truth.shape:
        raise UsageError(f"labels: expected the shape of the scores, {values.shape}, got {truth.shape}")
    return values, truth
