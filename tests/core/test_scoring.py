import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from anovl.core import scoring
from anovl.core.views import augmented_views


def test_eq_8_mean_of_raw_embeddings_then_l2():
    normal, abnormal = torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 9.0], [1.0, 0.0]])
    features = scoring.text_features(normal, abnormal)
    torch.testing.assert_close(features.prototypes, F.normalize(torch.tensor([[2.0, 0.0], [0.5, 4.5]]), dim=-1))
    torch.testing.assert_close(features.tokens, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))


def test_eq_1_and_2_are_the_softmax_share_of_the_abnormal_state():
    text = torch.eye(2)
    token = torch.tensor([3.0, 4.0])
    expected = math.exp(0.8) / (math.exp(0.6) + math.exp(0.8))
    assert scoring.anomaly_score(token, text, 1.0).item() == pytest.approx(expected, abs=1e-7)
    assert scoring.anomaly_score(token, text, 100.0).item() == pytest.approx(1 / (1 + math.exp(-20)), abs=1e-7)


@given(st.integers(0, 10_000), st.floats(0.1, 200))
def test_scores_stay_in_range_and_rank_does_not_depend_on_the_scale(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    tokens, text = torch.randn(20, 8, generator=generator), F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    scaled, plain = scoring.anomaly_score(tokens, text, scale), scoring.anomaly_score(tokens, text, 1.0)
    assert 0 <= scaled.min() <= scaled.max() <= 1
    order = plain.argsort()
    assert (scaled[order].diff() >= -1e-6 * max(1, scale)).all()  # near ties round either way
    swapped = scoring.anomaly_score(tokens, text.flip(0), scale)
    torch.testing.assert_close(swapped, 1 - scaled, atol=1e-5, rtol=0)


def test_zero_tokens_give_one_half_not_nan():
    assert scoring.anomaly_score(torch.zeros(3, 4), torch.eye(4)[:2], 100.0).tolist() == [0.5] * 3


def test_picture_scores():
    class_score, patch_scores = torch.tensor([0.2, 0.9]), torch.tensor([[[0.1, 0.6], [0.3, 0.0]], [[0.5, 0.5], [0.4, 0.1]]])
    for kind, expected in (
        ("class_token", [0.2, 0.9]),
        ("class_token_22views", [0.2, 0.9]),
        ("map_max", [0.6, 0.5]),
        ("class_token_and_map_max", [0.4, 0.7]),
    ):
        torch.testing.assert_close(scoring.picture_score(kind, class_score, patch_scores), torch.tensor(expected))


def test_smoothing_is_a_3x3_mean_with_replicated_edges():
    grid = torch.zeros(1, 4, 4)
    grid[0, 0, 0] = 9.0
    smoothed = scoring.smooth(grid)[0]
    assert smoothed[0, 0] == pytest.approx(4.0)  # the corner stands four times in its own window
    assert smoothed[1, 1] == pytest.approx(1.0)
    assert smoothed[0, 1] == pytest.approx(2.0)
    assert smoothed[2, 2] == 0


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (60, 80)])
def test_up_sampling(align_corners, size):
    grid = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    maps = scoring.to_image_size(grid, size, align_corners=align_corners)
    assert maps.shape == (2, *size)
    assert grid.min() <= maps.min() <= maps.max() <= grid.max()
    if align_corners and size == (60, 80):
        assert maps[0, 0, 0] == grid[0, 0, 0]
        assert maps[0, -1, -1] == pytest.approx(grid[0, -1, -1].item())


def test_views():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = list(augmented_views(x))
    assert len(views) == 21
    assert all(view.shape == x.shape for view in views)
    assert torch.equal(views[16], x.flip(-1))
    grey = views[17]
    torch.testing.assert_close(grey[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(views[19], x.flip(-1).flip(-2))
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(views) for b in views[:i])
