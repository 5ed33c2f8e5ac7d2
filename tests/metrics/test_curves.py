"""AUROC, F1max and AP of scores: values by hand, and what gives no number."""

from __future__ import annotations

import numpy as np
import pytest

from anovl.errors import UsageError
from anovl.metrics import auroc, average_precision, f1_max


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),
        ([1, 2, 2, 3], [False, True, False, True], 0.875),  # pairs: 2>1, 2=2, 3>1, 3>2
        ([[0.0, 1.0], [2.0, -1e30]], [[0, 1], [0, 1]], 0.25),
    ],
)
def test_by_hand(scores, labels, expected):
    assert auroc(scores, labels) == expected


def test_average_precision_is_step_wise():
    # thresholds: 0.9 -> recall 1/2 at precision 1; 0.5 -> recall 1 at precision 2/4
    assert average_precision([0.9, 0.5, 0.5, 0.5], [1, 1, 0, 0]) == 0.5 * 1 + 0.5 * 0.5
    assert average_precision([0.9, 0.8, 0.1], [0, 0, 1]) == pytest.approx(1 / 3)
    assert average_precision([5, 4, 3], [1, 1, 0]) == 1


def test_types_of_scores_keep_their_differences():
    near = 0.1 + 1e-12
    assert auroc([0.1, near], [0, 1]) == 1  # one and the same in float32
    assert auroc(np.array([0.1, near], np.float32), [0, 1]) == 0.5
    assert auroc(np.array([1, 2], np.float16), [0, 1]) == auroc(np.array([-128, 127], np.int8), [0, 1]) == 1
    assert auroc([0.0, -0.0], [0, 1]) == 0.5


def test_many_ties_do_not_overflow():
    scores, labels = np.zeros(3_000_000, np.float32), np.arange(3_000_000) % 2
    assert auroc(scores, labels) == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([1, 2], [0, 0], "of 2 given, none is anomalous"),
        ([1, 2, 3], [1, 1, 1], "of 3 given, all are anomalous"),
        ([], [], "none is anomalous"),
        ([1, 2], [0, 1, 1], r"expected the shape of the scores, \(2,\), got \(3,\)"),
        ([[1], [2]], [0, 1], "shape"),
        ([1, float("nan"), float("inf")], [0, 1, 1], "2 NaN or infinite of 3"),
        (["a", "b"], [0, 1], "expected real numbers"),
        ([1, 2], [0, 255], "0 and 1 only"),
        ([1, 2], ["good", "bad"], "0 and 1 only"),
    ],
)
@pytest.mark.parametrize("metric", [auroc, f1_max, average_precision])
def test_what_gives_no_number(metric, scores, labels, reason):
    with pytest.raises(UsageError, match=reason):
        metric(scores, labels)
