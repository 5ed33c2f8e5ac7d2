"""Image figures and the figures of one map: values by hand, and what gives no number."""

from __future__ import annotations

import numpy as np
import pytest

from anovl.errors import UsageError
from anovl.metrics import ImageMetrics, MapFigures, map_figures


def figures_of(scores, labels):
    metrics = ImageMetrics()
    metrics.update(scores, labels)
    return metrics.compute()


def test_by_hand():
    metrics = ImageMetrics()
    metrics.update(0.1, 0)
    metrics.update([0.4, 0.35], [False, True])
    metrics.update(np.array([0.8]), np.array([1]))
    figures = metrics.compute()
    assert (figures.auroc, figures.f1_max, figures.threshold) == (0.75, 0.8, 0.35)
    assert figures.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert figures.curves["pr"] == ((0.5, 1.0), (1.0, 2 / 3))
    assert set(figures.curves) == {"roc", "pr"}


def test_of_equal_f1_the_highest_threshold_counts():
    assert figures_of([4, 3, 2, 1], [1, 0, 0, 1]).threshold == 4  # F1 is 2/3 at 4 and at 1


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([0.1, 0.2], [0, 0], "of 2 given, none is anomalous"),
        ([0.1], [1], "of 1 given, all are anomalous"),
        ([0.1, float("nan")], [0, 1], "1 NaN or infinite of 2"),
        ([0.1, 0.2], [0], "expected the shape of the scores"),
        ([0.1, 0.2], [0, 2], "0 and 1 only"),
    ],
)
def test_what_gives_no_number(scores, labels, reason):
    with pytest.raises(UsageError, match=reason):
        figures_of(scores, labels)


def test_figures_of_one_map():
    mask = np.array([[1, 1, 0, 0, 0]])
    found = map_figures([[0.9, 0.3, 0.5, 0.1, 0.1]], mask, threshold=0.5)
    assert found == MapFigures(auroc=5 / 6, f1_max=0.8, ap=pytest.approx(0.5 + 0.5 * 2 / 3), covered=0.5, alarms=1 / 3)
    assert map_figures(np.full((2, 2), 0.5), np.zeros((2, 2)), threshold=0.5) == MapFigures(None, None, None, None, 1.0)
    assert map_figures(np.eye(2), np.ones((2, 2)), threshold=0.5) == MapFigures(None, None, None, 0.5, None)
    with pytest.raises(UsageError, match="shape"):
        map_figures(np.eye(2), np.eye(3), threshold=0.5)
