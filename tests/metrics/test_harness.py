"""What holds for every metric: equal to its definition, streamed, merged, in any order; no number from one class."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from anovl.errors import UsageError
from anovl.metrics import ImageMetrics, PixelMetrics, auroc, average_precision, f1_max, pro

EDGES = [0.0, -0.0, 5e-324, -5e-324, 1e-40, 1.0, float(np.nextafter(1, 2)), float(np.nextafter(np.float32(1), 2)), -3e38, 3e38]


def regions_of(mask):
    """Sets of pixels that touch, corners too, by flood fill."""
    left = {(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)}
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            region.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        yield region


def points_of(maps, masks, thresholds, *, strict=False):
    """False-positive rate and mean overlap of the regions at each threshold."""
    regions = [(each, region) for each, mask in zip(maps, masks, strict=True) for region in regions_of(mask)]
    good = np.concatenate([each[~mask] for each, mask in zip(maps, masks, strict=True)])
    above = np.greater if strict else np.greater_equal
    return [
        (above(good, t).mean(), np.mean([sum(above(each[p], t) for p in region) / len(region) for each, region in regions]))
        for t in thresholds
    ]


def plain_pro(maps, masks, limit):
    thresholds = sorted({float(value) for each in maps for value in each.ravel()}, reverse=True)
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise([(0.0, 0.0), *points_of(maps, masks, thresholds)]):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (limit - x0) / (x1 - x0) * (y1 - y0)  # noqa: PLW2901
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def plain_legacy_pro(maps, masks, limit):
    every = np.concatenate([each.ravel() for each in maps])
    low, high = every.min(), every.max()
    points = points_of(maps, masks, np.arange(low, high, (high - low) / 200)[:200], strict=True)
    x, y = np.array([point for point in points if point[0] < limit]).reshape(-1, 2).T
    if not x.size or x.min() == x.max():
        return float("nan")
    x = (x - x.min()) / (x.max() - x.min())
    return float(np.sum(-np.diff(x) * (y[1:] + y[:-1]) / 2))


def plain_f1(scores, labels):
    """The largest F1 and the highest threshold that has it."""
    found = [
        (2 * (labels & (scores >= t)).sum() / (labels.sum() + (scores >= t).sum()), float(t)) for t in np.unique(scores[labels])
    ]
    return max(found)


@st.composite
def image_sets(draw):
    """One to four images of any size: constant, tied or distinct, with zeros of both signs, the tiniest and the largest."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    kind = draw(st.sampled_from(["constant", "tied", "edges", "distinct"]))
    images = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
        if kind == "distinct":
            scores = np.random.default_rng(draw(st.integers(0, 2**32))).normal(size=shape).astype(dtype)
        else:
            values = {"constant": [0.25], "tied": [-1.5, 0.1, 0.2, 0.3], "edges": EDGES}[kind]
            scores = draw(hnp.arrays(dtype, shape, elements=st.sampled_from([float(dtype(value)) for value in values])))
        mask = draw(st.one_of(hnp.arrays(np.bool_, shape), st.sampled_from([np.zeros(shape, bool), np.ones(shape, bool)])))
        images.append((scores, mask))
    return images


def of_images(parts, **settings):
    """Image metrics of parts: lists of images whose score is the largest of the map."""
    metrics = ImageMetrics()
    for images in parts:
        metrics.update([scores.max() for scores, _ in images], [mask.any() for _, mask in images])
    return metrics


def of_pixels(parts, **settings):
    metrics = PixelMetrics(**settings)
    for images in parts:
        metrics.update([scores for scores, _ in images], [mask for _, mask in images])
    return metrics


def labelled(make, images):
    """The scores and labels behind metrics, as flat arrays."""
    if make is of_images:
        return np.array([scores.max() for scores, _ in images], np.float64), np.array([mask.any() for _, mask in images])
    scores, labels = (np.concatenate([each.ravel() for each in column]) for column in zip(*images, strict=True))
    return scores, labels


def numbers(figures):
    return [getattr(figures, name) for name in ("auroc", "f1_max", "ap", "pro", "threshold") if hasattr(figures, name)]


def outcome(metrics):
    """The figures, or the reason why there are none."""
    try:
        return numbers(metrics.compute())
    except UsageError as exc:
        return str(exc)


every_metric = pytest.mark.parametrize("make", [of_images, of_pixels])
memories = st.sampled_from([1, 3000, 20_000, 2**29])  # every score in a file of its own, some, none
limits = st.sampled_from([0.05, 0.3, 1 / 3, 0.5, 1.0])


@every_metric
@settings(deadline=None)
@given(images=image_sets(), memory=memories, limit=limits)
def test_equals_the_definition(make, images, memory, limit):
    metrics = make([images], memory=memory, pro_limit=limit)
    scores, labels = labelled(make, images)
    if labels.all() or not labels.any():
        for measure in (metrics.compute, metrics.bootstrap):
            with pytest.raises(UsageError, match="good"):
                measure()
        return
    figures = metrics.compute()
    ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn subtracts scores, which overflows
    assert figures.auroc == pytest.approx(roc_auc_score(labels, ranks), abs=1e-12) == auroc(scores, labels)
    assert figures.ap == pytest.approx(average_precision_score(labels, ranks), abs=1e-12) == average_precision(scores, labels)
    assert (figures.f1_max, figures.threshold) == (f1_max(scores, labels), plain_f1(scores, labels)[1])
    assert figures.f1_max == pytest.approx(plain_f1(scores, labels)[0], abs=1e-12)
    if make is of_pixels:
        expected = plain_pro(*zip(*images, strict=True), limit)
        assert figures.pro == pytest.approx(expected, abs=1e-12)
        assert pro(*zip(*images, strict=True), limit=limit) == pytest.approx(expected, abs=1e-12)
        assert figures.curves["pro"][-1][0] == limit


@settings(deadline=None)
@given(images=image_sets(), memory=memories, limit=limits)
def test_legacy_pro_equals_its_definition(images, memory, limit):
    images = [*images, (np.array([[0, 1, 0.5, 0.7]], images[0][0].dtype), np.array([[False, True, False, False]]))]
    images = [(np.clip(scores, -9, 9), mask) for scores, mask in images]
    figures = of_pixels([images], memory=memory, pro="legacy-200", pro_limit=limit).compute()
    assert figures.pro == pytest.approx(plain_legacy_pro(*zip(*images, strict=True), limit), abs=1e-12, nan_ok=True)
    assert numbers(figures)[:3] == pytest.approx(numbers(of_pixels([images]).compute())[:3], abs=1e-12)


@every_metric
@settings(deadline=None, max_examples=50)
@given(images=image_sets(), memory=memories, cuts=st.lists(st.integers(0, 6), max_size=3), data=st.data())
def test_any_split_and_order_equals_one_shot(make, images, memory, cuts, data):
    shape = images[0][0].shape
    images = [*images, (np.eye(2, 3), np.eye(2, 3) > 0), (np.zeros(shape), np.zeros(shape, bool))]
    shuffled = data.draw(st.permutations(images))
    edges = [0, *sorted(min(cut, len(images)) for cut in cuts), len(images)]
    parts = [shuffled[start:end] for start, end in pairwise(edges)]
    expected = make([images])
    figures, intervals = expected.compute(), expected.bootstrap(samples=20)
    streamed = make([[image] for image in shuffled], memory=memory)
    metrics = [make([part], memory=memory) for part in parts]
    merged = make([], memory=memory)
    for one in metrics:
        merged.merge(pickle.loads(pickle.dumps(one)))  # noqa: S301
    combined = type(merged).combined(metrics)
    for found in (streamed, merged, combined, pickle.loads(pickle.dumps(combined))):  # noqa: S301
        assert numbers(found.compute()) == pytest.approx(numbers(figures), abs=1e-12)
        assert found.bootstrap(samples=20) == {name: pytest.approx(each, abs=1e-12) for name, each in intervals.items()}
    for one, part in zip(metrics, parts, strict=True):
        assert outcome(one) == pytest.approx(outcome(make([part])), abs=1e-12)  # the parts are unchanged
    merged.merge(merged)
    assert numbers(merged.compute()) == pytest.approx(numbers(figures), abs=1e-12)  # everything twice


@every_metric
def test_figures_on_the_way_change_nothing(make):
    rng = np.random.default_rng(0)
    images = [(rng.random((4, 5)), rng.random((4, 5)) < 0.3 * (k % 2)) for k in range(6)]
    metrics = make([images[:3]], memory=500)
    first = metrics.compute()
    assert metrics.compute() == first
    metrics.merge(make([images[3:]]))
    assert numbers(metrics.compute()) == pytest.approx(numbers(make([images]).compute()), abs=1e-12)


@every_metric
def test_nothing_at_all(make):
    for metrics in (make([]), make([[]]), type(make([])).combined([])):
        with pytest.raises(UsageError, match="of 0"):
            metrics.compute()


@every_metric
def test_bootstrap_settings(make):
    metrics = make([[(np.eye(2, 3), np.eye(2, 3) > 0), (np.zeros((2, 2)), np.zeros((2, 2), bool))]])
    for wrong in ({"samples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": 95}):
        with pytest.raises(UsageError, match="bootstrap"):
            metrics.bootstrap(**wrong)
