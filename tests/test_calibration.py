"""Thresholds of calibration: the guarantee, exactly and in simulation; labelled choices; temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from tests.test_profiles import origin

from anovl.calibration import calibrate, conformal_threshold, peaks
from anovl.data.synthetic import draw
from anovl.data.synthetic.layout import plan
from anovl.detector import AnoVL
from anovl.errors import UsageError
from anovl.metrics import f1_max
from anovl.profiles import pictures_needed, rank

SPLITS = 200
RATES = st.floats(0.001, 0.999)
SCORES = st.one_of(
    st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=2, max_size=40),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), min_size=2, max_size=40),  # ties
)


@given(SCORES, RATES)
def test_guarantee_is_exact_for_whoever_is_left_out(scores, fpr):
    """Of n + 1 pictures that could each have been the new one, at most n + 1 - k are flagged by the others' threshold."""
    others = [conformal_threshold([*scores[:i], *scores[i + 1 :]], fpr) for i in range(len(scores))]
    flagged = sum(score >= threshold for score, threshold in zip(scores, others, strict=True))
    n = len(scores) - 1
    assert flagged <= n + 1 - rank(n, fpr)
    if n >= pictures_needed(fpr):
        assert flagged <= (n + 1) * fpr + 1e-9
    in_float32 = sum(bool(np.float32(score) >= threshold) for score, threshold in zip(scores, others, strict=True))
    assert in_float32 == flagged  # a map is compared in float32


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=30), RATES)
def test_threshold_is_just_above_the_kth_score(scores, fpr):
    threshold = conformal_threshold(scores, fpr)
    kth = sorted(scores)[rank(len(scores), fpr) - 1]
    assert kth < threshold <= kth + 1e-6
    assert threshold == np.float32(threshold)


@pytest.mark.parametrize(
    ("pictures", "fpr", "k"),
    [(99, 0.01, 99), (98, 0.01, 98), (100, 0.01, 100), (199, 0.01, 198), (9, 0.1, 9), (19, 0.05, 19), (1, 0.5, 1), (9, 0.3, 7)],
)
def test_rank_in_decimals(pictures, fpr, k):
    assert rank(pictures, fpr) == k


@given(st.integers(1, 5000), st.integers(1, 999))
def test_rank_and_pictures_needed(pictures, thousandths):
    fpr = thousandths / 1000
    assert rank(pictures, fpr) == min(pictures, -((pictures + 1) * (thousandths - 1000) // 1000))
    need = pictures_needed(fpr)
    assert (need + 1) * thousandths >= 1000
    assert need * thousandths < 1000


def rates_over_splits(pool, pictures, fpr):
    """False-alarm rate on the rest of a pool, for each of 200 random sets to calibrate on: [200, 2], image and pixel."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(SPLITS):
        order = rng.permutation(len(pool))
        profile = calibrate(pool[order[:pictures]], origin(), fpr=fpr)
        rest = pool[order[pictures:]]
        rates.append([(rest[:, 0] >= profile.image_threshold).mean(), (rest[:, 1] >= profile.pixel_threshold).mean()])
    return np.array(rates), profile


def keeps_guarantee(pool, pictures, fpr):
    rates, profile = rates_over_splits(pool, pictures, fpr)
    error = 4 * rates.std(axis=0, ddof=1) / math.sqrt(SPLITS)  # of 200 splits; some hundred figures are compared
    print(f"n {pictures}, fpr {fpr}: mean {rates.mean(axis=0)}, guaranteed {profile.guaranteed:.4f}, error {error}")
    assert (rates.mean(axis=0) <= profile.guaranteed + error).all()
    return rates, profile, error


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("pictures", [1, 5, 20, 99, 250])
@pytest.mark.parametrize("decimals", [7, 1])
def test_guarantee_over_splits(pictures, fpr, decimals):
    pool = np.random.default_rng(1).beta(2, 5, (1500, 2)).round(decimals).clip(0, 0.9)
    rates, profile, error = keeps_guarantee(pool, pictures, fpr)
    if decimals == 7:  # without ties it is no less, either, and varies as it says
        assert (rates.mean(axis=0) >= profile.guaranteed - error - 1 / 1500).all()
        assert 0.8 < (rates <= profile.nine_of_ten + 1 / (1500 - pictures)).mean() <= 1
    if pictures >= pictures_needed(fpr):
        assert profile.guaranteed <= fpr


def test_guarantee_of_mini_on_drawn_pictures():
    detector = AnoVL.from_pretrained("mini", device="cpu")
    good = [draw("washer", one.seed(7), defect=None).image for one in plan("washer", per_class=320, seed=7) if one.defect is None]
    pool = np.array([peaks(one) for one in detector.stream(good, "washer")])
    assert len(pool) == 160
    for pictures, fpr in ((9, 0.1), (40, 0.05), (60, 0.01)):
        keeps_guarantee(pool, pictures, fpr)


@pytest.mark.parametrize(
    ("scores", "fpr", "message"),
    [
        ([], 0.1, "at least one picture"),
        ([[0.1]], 0.1, "at least one picture"),
        ([0.1, math.nan], 0.1, r"in \[0, 1\]"),
        ([0.1, 1.1], 0.1, r"in \[0, 1\]"),
        ([0.2, 1.0], 0.1, "top of the scale"),
        ([0.2], 0.0, "between 0 and 1"),
        ([0.2], 1.0, "between 0 and 1"),
        ([0.2], math.nan, "between 0 and 1"),
        ([0.2], True, "between 0 and 1"),
    ],
)
def test_wrong_scores_and_rates(scores, fpr, message):
    with pytest.raises(UsageError, match=message):
        conformal_threshold(scores, fpr)


def test_one_picture_at_the_top_of_the_scale_does_not_stop_many():
    assert conformal_threshold([0.5] * 98 + [1.0], 0.02) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choose": "f1"}, "needs bad pictures"),
        ({"choose": "best", "bad": [0.5]}, "unknown choice"),
        ({"choose": "cost", "bad": [0.5], "cost_miss": 0}, "above 0"),
        ({"choose": "cost", "bad": [0.5], "cost_alarm": math.inf}, "above 0"),
        ({"bad": []}, "bad: expected"),
    ],
)
def test_wrong_choices(options, message):
    with pytest.raises(UsageError, match=message):
        calibrate([(0.1, 0.2)], origin(), **options)


@pytest.mark.parametrize("good", [[], [[0.1, 0.2, 0.3]], [0.1, 0.2]])
def test_wrong_shapes(good):
    with pytest.raises(UsageError, match="good"):
        calibrate(good, origin())


LABELLED = st.lists(st.sampled_from([i / 8 for i in range(8)]), min_size=1, max_size=12)


@given(LABELLED, LABELLED)
def test_f1_is_the_largest(good, bad):
    profile = calibrate([(score, 0.1) for score in good], origin(), choose="f1", bad=bad)
    found = profile.measured
    f1 = 2 * (found.bad - found.missed) / (found.bad - found.missed + found.false_alarms + found.bad)
    assert f1 == pytest.approx(f1_max([*good, *bad], [0] * len(good) + [1] * len(bad)))


@given(LABELLED, LABELLED, st.floats(0.1, 10), st.floats(0.1, 10))
def test_cost_is_the_lowest(good, bad, miss, alarm):
    profile = calibrate([(score, 0.1) for score in good], origin(), choose="cost", bad=bad, cost_miss=miss, cost_alarm=alarm)

    def cost(threshold):
        return miss * sum(score < threshold for score in bad) + alarm * sum(score >= threshold for score in good)

    lowest = min(cost(threshold) for threshold in [*good, *bad, 1.0])
    assert cost(profile.image_threshold) == pytest.approx(lowest)
    assert miss * profile.measured.missed + alarm * profile.measured.false_alarms == pytest.approx(lowest)


def test_labelled_threshold_lies_halfway():
    for choose in ("f1", "cost"):
        profile = calibrate([(0.1, 0.3), (0.2, 0.4)], origin(), choose=choose, bad=[0.6, 0.9])
        assert profile.image_threshold == pytest.approx(0.4)
        assert profile.pixel_threshold == pytest.approx(0.4, abs=1e-6)
        assert (profile.measured.false_alarms, profile.measured.missed) == (0, 0)


@pytest.mark.parametrize("true", [0.2, 1.0, 3.0])
def test_temperature_is_found_again(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20000)
    labels = rng.random(20000) < expit(logits / true)
    scores = expit(logits)
    profile = calibrate(np.stack([scores[~labels]] * 2, axis=1), origin(), bad=scores[labels])
    assert profile.temperature == pytest.approx(true, rel=0.05)
    own = minimize_scalar(lambda t: (np.logaddexp(0, logits / t) - labels * logits / t).mean(), bounds=(0.01, 10)).x
    assert profile.temperature == pytest.approx(own, rel=0.01)
    assert profile.probability(0.8) == pytest.approx(expit(np.log(4) / profile.temperature))


def test_temperature_of_scores_that_tell_all_or_nothing():
    sharp = calibrate([(0.1, 0.1)] * 5, origin(), bad=[0.9] * 5)
    assert 0.3 < sharp.temperature < 2
    blunt = calibrate([(0.9, 0.1)] * 5, origin(), bad=[0.1] * 5)
    assert blunt.temperature > 100
    assert sharp.probability(1.0) <= 1
    assert sharp.probability(0.0) >= 0
