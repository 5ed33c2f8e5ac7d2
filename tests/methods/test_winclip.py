"""WinCLIP against its definition in plain loops: windows through open_clip's own transformer, harmonic means by hand."""

import math

import pytest
import torch
from tests.test_profiles import origin

from anovl.backbones import Backbone
from anovl.config import FewShot, Recipe
from anovl.core.encoder import ViTEncoder
from anovl.core.prompts import build_prompts
from anovl.core.scoring import TextFeatures
from anovl.errors import UsageError
from anovl.methods import make_method, winclip
from anovl.methods.few_shot import Bank


def pixels(rows=4, columns=4, batch=2, seed=0):
    return torch.randn(batch, 3, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(seed))


def backbone(clip, image_size=None):
    return Backbone.from_clip(clip, lambda texts, context_length: None, weights_id="tiny", image_size=image_size)


def plain_windows(visual, x, side, grid):
    """Each window's tokens, selected after ln_pre, through open_clip's blocks as an image of their own."""
    rows, columns = grid
    with torch.no_grad():
        embedded = ViTEncoder(visual, image_size=(16 * rows, 16 * columns)).embed(x)
        found = []
        for top in range(rows - side + 1):
            for left in range(columns - side + 1):
                patches = [1 + (top + i) * columns + left + j for i in range(side) for j in range(side)]
                z = visual.transformer(embedded[:, [0, *patches]])
                found.append(visual.ln_post(z[:, 0]) @ visual.proj)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.3}, {"quick_gelu": True}, {"layers": 1}], ids=str)
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_window_tokens_follow_the_definition(tiny_clip, vision, grid):
    visual = tiny_clip(**vision).visual
    encoder = ViTEncoder(visual, attention="qkv", image_size=(16 * grid[0], 16 * grid[1]))
    with torch.inference_mode():
        for side, tokens in zip((2, 3), winclip.window_tokens(encoder, pixels(*grid)), strict=True):
            torch.testing.assert_close(tokens, plain_windows(visual, pixels(*grid), side, grid), atol=2e-6, rtol=0)


@pytest.mark.parametrize("budget", [1, 40_000])
def test_parts_give_the_same_and_stay_within_the_budget(tiny_clip, monkeypatch, budget):
    encoder = ViTEncoder(tiny_clip().visual, attention="qkv")
    whole = winclip.window_tokens(encoder, pixels(batch=3))
    sizes = []
    plain = winclip._windows

    def spy(encoder, z, first):
        sizes.append(z.shape[0] * z.shape[1])
        return plain(encoder, z, first)

    monkeypatch.setattr(winclip, "_windows", spy)
    monkeypatch.setattr(winclip, "CPU_MEMORY", budget)
    parts = winclip.window_tokens(encoder, pixels(batch=3))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert len(sizes) > 2
    assert max(sizes) <= max(10, budget / (12 * 32 * 4))  # tokens of 12 vectors of width 32 in fp32, at least a window
    assert sum(sizes) == 3 * (9 * 5 + 4 * 10)


@pytest.mark.parametrize(("side", "grid"), [(2, (4, 4)), (3, (4, 6)), (3, (3, 3))])
def test_harmonic_mean_by_hand(side, grid):
    rows, columns = grid
    tops, lefts = range(rows - side + 1), range(columns - side + 1)
    scores = torch.rand(2, len(tops) * len(lefts), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actual = winclip.harmonic_mean(scores, side, grid)
    windows = [(top, left) for top in tops for left in lefts]
    for image in range(2):
        for row in range(rows):
            for column in range(columns):
                values = [
                    float(score)
                    for score, (top, left) in zip(scores[image], windows, strict=True)
                    if top <= row < top + side and left <= column < left + side
                ]
                assert float(actual[image, row, column]) == pytest.approx(len(values) / sum(1 / value for value in values))


def test_scores_are_the_mean_of_three_scales_at_the_stated_temperature(tiny_clip):
    method = make_method("winclip", backbone(tiny_clip(), (48, 48)), Recipe())
    text = TextFeatures(torch.eye(24)[:2], torch.eye(24)[:2])
    with torch.inference_mode():
        scores = method.score(pixels(3, 3), text)
        image, *tokens = [
            method.encoder.encode_class(pixels(3, 3))[:, None],
            *winclip.window_tokens(method.encoder, pixels(3, 3)),
        ]

    def share(token):
        normal, abnormal = (math.exp(float(value) / float(token.norm()) / 0.07) for value in token[:2])
        return abnormal / (normal + abnormal)

    for k in range(2):
        whole, large = share(image[k, 0]), share(tokens[1][k, 0])
        assert float(scores.image_score[k]) == pytest.approx(whole, rel=1e-5)
        corner = 3 / (1 / whole + 1 / large + 1 / share(tokens[0][k, 0]))
        assert float(scores.patch_scores[k, 0, 0]) == pytest.approx(corner, rel=1e-5)
        middle = 3 / (1 / whole + 1 / large + sum(1 / share(tokens[0][k, window]) for window in range(4)) / 4)
        assert float(scores.patch_scores[k, 1, 1]) == pytest.approx(middle, rel=1e-5)


def test_winclip_plus_adds_half_the_distance_to_good_windows(tiny_clip):
    """One image of 3x3 patches, by hand: patches, four small windows, one large one, against those of two good images."""
    method = make_method("winclip", backbone(tiny_clip(), (48, 48)), Recipe())
    text, settings = TextFeatures(torch.eye(24)[:2], torch.eye(24)[:2]), method.settled(FewShot())
    with torch.inference_mode():
        good = [method.features(pixels(3, 3, batch=1, seed=seed), settings) for seed in (1, 2)]
        bank = Bank.of([[path[0] for path in one] for one in good], origin(), settings)
        plain, fitted = (one.score(pixels(3, 3, batch=1), text) for one in (method, method.with_bank(bank)))
        found = [path[0].double() for path in method.features(pixels(3, 3, batch=1), settings)]

    def half_distance(path, index):
        kept = torch.cat([one[path][0].double() for one in good])
        return float((1 - torch.cosine_similarity(found[path][index], kept)).min() / 2)

    def at(row, column, windows):
        small = len(windows) / sum(1 / half_distance(1, window) for window in windows)
        return (half_distance(0, 3 * row + column) + small + half_distance(2, 0)) / 3

    for row, column, windows in ((0, 0, [0]), (1, 1, [0, 1, 2, 3]), (2, 1, [2, 3])):
        expected = (float(plain.patch_scores[0, row, column]) + at(row, column, windows)) / 2
        assert float(fitted.patch_scores[0, row, column]) == pytest.approx(expected, abs=1e-5)
    covering = [
        [2 * i + j for i in (0, 1) for j in (0, 1) if 0 <= row - i <= 1 and 0 <= column - j <= 1]
        for row in range(3)
        for column in range(3)
    ]
    top = max(at(*divmod(patch, 3), windows) for patch, windows in enumerate(covering))
    assert float(fitted.image_score[0]) == pytest.approx((float(plain.image_score[0]) + top) / 2, abs=1e-5)
    with pytest.raises(UsageError, match="leave layers out"):
        method.settled(FewShot(layers=(1,)))


def test_extreme_cosines_stay_finite(tiny_clip, monkeypatch):
    method = make_method("winclip", backbone(tiny_clip()), Recipe())
    token = torch.eye(24)[0].expand(2, 24)
    monkeypatch.setattr(method.encoder, "encode_class", lambda pixel_values: token)
    monkeypatch.setattr(winclip, "window_tokens", lambda *_: [token[:1, None].expand(2, 9, 24), token[:1, None].expand(2, 4, 24)])
    scores = method.score(pixels(), TextFeatures(torch.stack([token[0], -token[0]]), token))
    assert scores.patch_scores.isfinite().all()
    assert float(scores.patch_scores.max()) == pytest.approx(1 / (1 + math.exp(2 / 0.07)), rel=1e-3)
    scores = method.score(pixels(), TextFeatures(torch.stack([-token[0], token[0]]), token))
    assert 0.999 < float(scores.patch_scores.max()) <= 1


@pytest.mark.parametrize("grid", [(2, 5), (1, 1)])
def test_grids_below_three_by_three(tiny_clip, grid):
    with pytest.raises(UsageError, match=f"at least 3x3 patches, got {grid[0]}x{grid[1]}"):
        make_method("winclip", backbone(tiny_clip(), (16 * grid[0], 16 * grid[1])), Recipe())


def test_wording():
    prompts = build_prompts("metal_nut", winclip.WORDING)
    assert len(set(prompts.normal)) == 154
    assert len(set(prompts.abnormal)) == 88
    assert prompts.normal[0] == "a cropped photo of the metal nut."
    assert "a jpeg corrupted photo of a flawless metal nut." in prompts.normal
    assert "a photo of a large metal nut with defect." in prompts.abnormal
    assert len(winclip.ANOMALIB_WORDING.templates) == 21
    assert len(set(winclip.ANOMALIB_WORDING.templates)) == 20
