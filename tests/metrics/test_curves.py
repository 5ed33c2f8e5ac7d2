"""AUROC and F1max: hand-computed values, plain counts, and what gives no number."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from anovl.errors import UsageError
from anovl.metrics import auroc, f1_max


def count_of_pairs(scores, labels):
    good = [score for score, label in zip(scores, labels, strict=True) if not label]
    bad = [score for score, label in zip(scores, labels, strict=True) if label]
    return np.mean([1.0 if b > g else 0.5 if b == g else 0.0 for g, b in product(good, bad)])


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


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(lambda rows: len({r[1] for r in rows}) == 2))
def test_equals_a_count_of_pairs_with_ties(rows):
    scores, labels = zip(*rows, strict=True)
    assert auroc(np.array(scores) / 7, labels) == pytest.approx(count_of_pairs(scores, labels), abs=1e-12)
    assert auroc(np.array(scores, np.float32)[::-1], labels[::-1]) == auroc(scores, labels)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(lambda rows: len({r[1] for r in rows}) == 2))
def test_f1_max_equals_a_search_of_every_threshold(rows):
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = [2 * (labels & (scores >= t)).sum() / (labels.sum() + (scores >= t).sum()) for t in scores]
    assert f1_max(scores / 7, labels) == pytest.approx(max(found), abs=1e-12)


def test_released_values(golden_dir):
    golden = load_file(golden_dir / "released.safetensors")
    maps, masks, values = golden["metrics/maps"], golden["metrics/masks"], golden["metrics/values"]
    assert auroc(maps, masks) == pytest.approx(values[0], abs=1e-6)
    assert f1_max(maps, masks) == pytest.approx(values[1], abs=1e-6)
    assert auroc(maps.max(axis=(1, 2)), masks.any(axis=(1, 2))) == pytest.approx(values[4], abs=1e-6)
    assert f1_max(maps.max(axis=(1, 2)), masks.any(axis=(1, 2))) == pytest.approx(values[5], abs=1e-6)


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
@pytest.mark.parametrize("metric", [auroc, f1_max])
def test_what_gives_no_number(metric, scores, labels, reason):
    with pytest.raises(UsageError, match=reason):
        metric(scores, labels)
