"""Bootstrap intervals: beside a plain bootstrap, the samples that stand for images, what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from anovl.metrics import ImageMetrics, PixelMetrics
from anovl.metrics.resampling import PIXELS, draw


def images(count, size, *, seed=0):
    """Every other one with a large region that is found somewhat and a small one that is found well."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        scores = rng.normal(rng.normal(0, 0.5), 1, (size, size)).astype(np.float32)
        mask = np.zeros((size, size), bool)
        if index % 2:
            mask[: size // 3, : size // 2] = mask[-2:, -3:] = True
            scores[: size // 3, : size // 2] += rng.uniform(0, 3)
            scores[-2:, -3:] += 4
        yield scores, mask


def of_pixels(pairs):
    metrics = PixelMetrics()
    metrics.update(*zip(*pairs, strict=True))
    return metrics


def test_images_beside_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3 == 0
    scores = rng.normal(size=60) + labels
    metrics = ImageMetrics()
    metrics.update(scores, labels)
    found = metrics.bootstrap(samples=1000, level=0.9)
    kinds = np.flatnonzero(labels), np.flatnonzero(~labels)
    drawn = []
    for _ in range(1000):
        chosen = np.concatenate([rng.choice(kind, kind.size) for kind in kinds])
        drawn.append([measure(labels[chosen], scores[chosen]) for measure in (roc_auc_score, average_precision_score)])
    for name, (low, high) in zip(("auroc", "ap"), np.quantile(drawn, [0.05, 0.95], axis=0).T, strict=True):
        assert found[name] == pytest.approx((low, high), abs=0.02)
        assert high - low > 0.1
    assert set(found) == {"auroc", "f1_max", "ap"}
    narrow = metrics.bootstrap(samples=1000, level=0.5)
    assert all(found[name][0] < narrow[name][0] < narrow[name][1] < found[name][1] for name in found)


def test_pixels_beside_a_plain_bootstrap():
    pairs = list(images(16, 60))
    found = of_pixels(pairs).bootstrap(samples=1000, level=0.8)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(300):
        figures = of_pixels([pairs[2 * i + kind] for kind in (0, 1) for i in rng.integers(0, 8, 8)]).compute()
        drawn.append([figures.auroc, figures.f1_max, figures.ap, figures.pro])
    low, high = np.quantile(drawn, [0.1, 0.9], axis=0)
    assert list(found) == ["auroc", "f1_max", "ap", "pro"]
    widths = high - low
    assert [each[0] for each in found.values()] == pytest.approx(low, abs=0.25 * widths.max())
    assert [each[1] for each in found.values()] == pytest.approx(high, abs=0.25 * widths.max())


@pytest.mark.parametrize(("size", "digits", "tolerance"), [(40, 7, 1e-12), (40, 0, 1e-12), (500, 7, 0.03)])
def test_one_image_of_each_kind_leaves_only_the_figure(size, digits, tolerance):
    """So the interval shows how well samples and levels stand for the pixels: exactly, where none is left out."""
    metrics = of_pixels((np.round(scores, digits), mask) for scores, mask in images(2, size))
    figures = metrics.compute()
    for name, (low, high) in metrics.bootstrap(samples=3).items():
        assert low == high == pytest.approx(getattr(figures, name), abs=tolerance)


def test_a_sample_sees_small_and_large_regions():
    rng = np.random.default_rng(0)
    bad = rng.random(100_010)
    shares = np.r_[np.full(100_000, 1e-5), np.full(10, 0.1)]
    sample = draw(rng.random(50_000), bad, shares)
    assert (sample.good.size, sample.good_weight, sample.bad.size) == (PIXELS, 25, PIXELS)
    assert sample.bad_weight.sum() == pytest.approx(100_010, rel=0.03)
    assert sample.overlap.sum() == pytest.approx(2, rel=0.03)
    small = np.isin(sample.bad, bad[100_000:])
    assert sample.overlap[small].sum() == pytest.approx(1, rel=0.03)
    assert sample.bad_weight[small].sum() == pytest.approx(10, rel=0.03)


def test_neither_order_nor_seed_of_another_run_matters():
    pairs = list(images(6, 80))
    found = of_pixels(pairs).bootstrap(samples=50)
    assert of_pixels(pairs[::-1]).bootstrap(samples=50) == found
    assert of_pixels(pairs).bootstrap(samples=50, seed=1) != found


def test_good_pixels_in_one_image_alone():
    """Sets that miss it have no figure and are drawn again."""
    metrics = PixelMetrics()
    metrics.update([np.eye(3), *np.ones((5, 3, 3))], [np.eye(3), *np.ones((5, 3, 3))])
    assert all(np.isfinite(each).all() for each in metrics.bootstrap(samples=100).values())


def test_legacy_pro_has_no_interval():
    metrics = PixelMetrics(pro="legacy-200")
    metrics.update(np.eye(3), np.eye(3))
    assert set(metrics.bootstrap(samples=2)) == {"auroc", "f1_max", "ap"}
