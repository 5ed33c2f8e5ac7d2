"""Pixel figures: PRO by hand, memory, the temporary file, settings, and what gives no number."""

from __future__ import annotations

import pickle
import signal
import tracemalloc

import numpy as np
import pytest

from anovl.errors import OutputError, UsageError
from anovl.metrics import PixelMetrics, pro
from anovl.metrics.regions import region_shares


def test_by_hand():
    # Two regions, of 1 and 2 pixels, and 4 good pixels. Thresholds: 0.9 covers the first region: (0, 1/2);
    # 0.8 a good pixel: (1/4, 1/2); 0.7 half of the second and a good pixel: (2/4, 3/4); 0.1 the rest: (1, 1).
    scores = np.array([[0.9, 0.8, 0.7, 0.1, 0.7, 0.1, 0.1]])
    mask = np.array([[1, 0, 1, 1, 0, 0, 0]], bool)
    assert pro([scores], [mask], limit=0.25) == pytest.approx(0.5)
    assert pro([scores], [mask], limit=0.5) == pytest.approx((0.5 + 0.625) / 2)
    assert pro([scores], [mask], limit=0.375) == pytest.approx((0.25 * 0.5 + 0.125 * 0.5625) / 0.375)
    assert pro([scores], [mask], limit=1.0) == pytest.approx(0.25 * 0.5 + 0.25 * 0.625 + 0.5 * 0.875)


def test_a_perfect_a_reversed_and_a_flat_map():
    mask = np.zeros((20, 20), bool)
    mask[3:6, 3:9] = mask[12, 12] = True
    assert pro([mask.astype(float)], [mask]) == pytest.approx(1)
    assert pro([1 - mask.astype(float)], [mask]) == 0
    assert pro([np.zeros(mask.shape)], [mask]) == pytest.approx(0.15)  # one threshold: straight from (0, 0) to (1, 1)


def test_small_regions_count_as_much_as_large_ones():
    mask = np.zeros((30, 30), bool)
    mask[:10, :10] = mask[20, 20] = True
    only_large, only_small = np.zeros((2, 30, 30))
    only_large[:10, :10] = only_small[20, 20] = 1
    assert pro([only_large], [mask]) == pytest.approx(pro([only_small], [mask]))


def test_pixels_that_touch_at_corners_are_one_region():
    mask = np.zeros((6, 6), bool)
    mask[1, 1] = mask[2, 2] = mask[4, 5] = True
    scores = np.zeros((6, 6))
    scores[1, 1] = 1
    # a quarter of the mean overlap at rate 0, then straight to (1, 1)
    assert pro([scores], [mask], limit=1.0) == pytest.approx((0.25 + 1) / 2)


def test_iterators_of_mixed_types():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    scores = np.arange(16).reshape(4, 4)
    maps = [scores.astype(np.float32) / 16, scores / 16, scores.astype(np.float16) / 16]
    assert pro(iter(maps), (mask.astype(np.uint8) for _ in maps)) == pro(maps[1:2], [mask])


@pytest.mark.parametrize(
    ("maps", "masks", "limit", "reason"),
    [
        ([np.zeros((2, 2))], [np.zeros((2, 2), bool)], 0.3, "of 1 images, no mask marks a defect"),
        ([np.zeros((2, 2))], [np.ones((2, 2), bool)], 0.3, "leave no good pixel"),
        ([], [], 0.3, "of 0 images"),
        ([np.zeros((2, 2))], [np.ones((2, 3), bool)], 0.3, r"map 0: .* got \(2, 2\) and \(2, 3\)"),
        ([np.zeros((1, 2, 2))], [np.ones((1, 2, 2), bool)], 0.3, r"map 0: expected \(H, W\)"),
        ([np.zeros((2, 2))] * 2, [np.ones((2, 2), bool)], 0.3, "expected one a map, got fewer"),
        ([np.zeros((2, 2))], [np.ones((2, 2), bool)] * 2, 0.3, "expected one a map, got more"),
        ([np.full((2, 2), np.nan)], [np.ones((2, 2), bool)], 0.3, "map 0: expected finite numbers"),
        ([np.zeros((2, 2))], [np.full((2, 2), 255)], 0.3, "mask 0: expected bool"),
        ([np.zeros((2, 2))], [np.eye(2, dtype=bool)], 0.0, "limit"),
        ([np.zeros((2, 2))], [np.eye(2, dtype=bool)], 30, "limit"),
    ],
)
def test_what_gives_no_number(maps, masks, limit, reason):
    with pytest.raises(UsageError, match=reason):
        pro(maps, masks, limit=limit)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"memory": 0}, "memory: expected 1 byte or more, got 0"),
        ({"pro": "legacy"}, "expected exact or legacy-200, got legacy"),
        ({"pro_limit": 30}, "pro_limit: .* got 30"),
        ({"folder": "nowhere/at/all"}, "folder: .* got nowhere/at/all"),
    ],
)
def test_wrong_settings(settings, reason):
    with pytest.raises(UsageError, match=reason):
        PixelMetrics(**settings)


def test_other_pros_do_not_mix():
    with pytest.raises(UsageError, match=r"the same PRO, exact up to 0\.3, got exact up to 0\.5"):
        PixelMetrics().merge(PixelMetrics(pro_limit=0.5))
    with pytest.raises(UsageError, match="legacy-200"):
        PixelMetrics.combined([PixelMetrics(), PixelMetrics(pro="legacy-200")])


@pytest.mark.parametrize("largest", [0, np.finfo(np.float32).max])
def test_scores_that_give_no_legacy_pro(largest):
    figures = streamed([(np.float32(largest) * np.array([[-1, 1]], np.float32), [[False, True]])], pro="legacy-200").compute()
    assert np.isnan(figures.pro)
    assert figures.auroc == (1 if largest else 0.5)


def images(count, size, dtype=np.float32, *, levels=None):
    """Maps with defects in the first half of the rows of every other image."""
    rng = np.random.default_rng(0)
    for index in range(count):
        mask = np.zeros((size, size), bool)
        mask[: size // 2] = index % 2
        scores = rng.random((size, size)).astype(dtype) + mask.astype(dtype) / 4
        yield (scores if levels is None else np.round(scores * levels) / dtype(levels)), mask


def streamed(pairs, **settings):
    metrics = PixelMetrics(**settings)
    for each in pairs:
        metrics.update(*each)
    return metrics


def test_one_map_a_batch_and_a_list_are_the_same():
    pairs = list(images(4, 6))
    expected = streamed(pairs).compute()
    maps, masks = (np.stack(column) for column in zip(*pairs, strict=True))
    for given_maps, given_masks in ((maps, masks), (list(maps), list(masks)), (iter(maps), (m.astype(np.uint8) for m in masks))):
        metrics = PixelMetrics()
        metrics.update(given_maps, given_masks)
        assert metrics.compute() == expected


def test_arrays_may_be_reused():
    pairs = list(images(4, 6))
    metrics, buffer, mask_buffer = PixelMetrics(), np.empty((6, 6), np.float32), np.empty((6, 6), bool)
    for scores, mask in pairs:
        buffer[:], mask_buffer[:] = scores, mask
        metrics.update(buffer, mask_buffer)
        buffer[:], mask_buffer[:] = 7, False
    assert metrics.compute() == streamed(pairs).compute()


def test_empty_and_single_pixel_maps():
    pairs = [(np.zeros((0, 4)), np.zeros((0, 4))), (np.ones((1, 1)), np.ones((1, 1))), (np.zeros((1, 1)), np.zeros((1, 1)))]
    figures = streamed(pairs, memory=1).compute()
    assert (figures.auroc, figures.f1_max, figures.ap, figures.pro, figures.threshold) == (1, 1, 1, 1, 1)


def test_shares_of_regions():
    mask = np.zeros((5, 6), bool)
    mask[1, 1] = mask[2, 2] = mask[4, 4] = mask[4, 5] = mask[2, 5] = True
    shares, count = region_shares(mask)
    assert (shares.tolist(), count) == ([0.5, 0.5, 1, 0.5, 0.5], 3)
    assert region_shares(np.zeros((3, 3), bool))[1] == 0


@pytest.mark.parametrize("levels", [None, 1, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_of_the_figures_is_bounded(dtype, levels, tmp_path):
    budget = 4 * 2**20
    metrics = streamed(images(8, 1024, dtype, levels=levels), memory=budget, folder=tmp_path)  # 8.4 million scores
    tracemalloc.start()
    figures = metrics.compute()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget
    expected = streamed(images(8, 1024, dtype, levels=levels)).compute()
    assert (figures.auroc, figures.f1_max, figures.threshold) == (expected.auroc, expected.f1_max, expected.threshold)
    assert (figures.ap, figures.pro) == pytest.approx((expected.ap, expected.pro), abs=1e-12)
    assert {name: len(curve) <= 303 for name, curve in figures.curves.items()} == {"roc": True, "pr": True, "pro": True}
    for name, curve in figures.curves.items():
        np.testing.assert_allclose(curve, expected.curves[name], atol=1e-9)


def test_memory_of_merged_scores_is_bounded(tmp_path):
    tracemalloc.start()
    metrics = PixelMetrics(memory=2**18, folder=tmp_path)
    for pair in images(16, 256):  # 4.5 MB of scores; samples for the bootstrap take 0.5 MB
        metrics.merge(streamed([pair]))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 2**20
    assert metrics.compute().f1_max == streamed(images(16, 256)).compute().f1_max


def test_the_temporary_file_has_no_name(tmp_path):
    metrics = streamed(images(4, 64), memory=40_000, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    copy = pickle.loads(pickle.dumps(metrics))  # noqa: S301
    assert copy.compute() == metrics.compute()
    copy.update(*zip(*images(2, 64), strict=True))
    assert copy.compute() != metrics.compute()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_loses_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    metrics = PixelMetrics(memory=40_000, folder=tmp_path)
    pairs = list(images(4, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(OutputError, match="more bytes, free some or name another folder"):
            metrics.update(*zip(*pairs, strict=True))
        assert metrics.compute().auroc > 0.5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    taken = len(pickle.loads(pickle.dumps(metrics))._samples)  # noqa: S301
    assert 0 < taken < 4
    for pair in pairs[taken:]:
        metrics.update(*pair)
    expected = streamed(pairs).compute()
    assert metrics.compute().f1_max == expected.f1_max
    assert metrics.compute().pro == pytest.approx(expected.pro, abs=1e-12)


def test_a_folder_that_vanished(tmp_path):
    folder = tmp_path / "spill"
    folder.mkdir()
    metrics = PixelMetrics(memory=1, folder=folder)
    folder.rmdir()
    with pytest.raises(OutputError, match="spill"):
        metrics.update(np.zeros((2, 2)), np.eye(2))


def test_curves_pass_through_the_corners_of_few_scores():
    scores = np.array([[0.9, 0.8, 0.7, 0.1, 0.7, 0.1, 0.1]])
    mask = np.array([[1, 0, 1, 1, 0, 0, 0]], bool)
    curves = streamed([(scores, mask)], pro_limit=0.5).compute().curves
    assert curves["roc"] == ((0, 0), (0, 1 / 3), (0.25, 1 / 3), (0.5, 2 / 3), (1, 1))
    assert curves["pr"] == ((1 / 3, 1), (2 / 3, 0.5), (1, 3 / 7))
    assert curves["pro"] == ((0, 0), (0, 0.5), (0.25, 0.5), (0.5, 0.75))


def test_a_curve_of_many_scores_has_the_area_of_its_figure():
    figures = streamed(images(4, 256)).compute()
    for name, area in (("roc", figures.auroc), ("pro", figures.pro * 0.3)):
        x, y = np.array(figures.curves[name]).T
        assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(area, abs=2e-3)
