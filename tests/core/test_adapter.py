"""Test-time adaptation: the closed form against autograd and torch's own AdamW, and an image alone against a batch."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.nn import functional as F

from anovl.config import LINEAR_PROBE, RECIPES, Adaptation
from anovl.core.adapter import Adapter, Start, adapt, draw_start
from anovl.core.scoring import TextFeatures, text_features
from anovl.errors import UsageError

COMBINATIONS = list(
    itertools.product(("softmax", "tanh", "linear"), ("input", "output"), ("pseudo_label", "entropy", "none"), (1.0, 0.3))
)
LIMITED = Adaptation(adapter="linear", identity_start=True, target="entropy", limit=0.1)
NAMED = {name: RECIPES[name].adaptation for name in ("paper", "released")} | {"probe": LINEAR_PROBE, "limited": LIMITED}


def oracle(tokens, text, settings, noise, weight, bias=None):
    """(loss, adapted tokens) of one image [M, C], every product made, as design and paper write it."""

    def adapted(p):
        unit = F.normalize(p, dim=-1)
        if settings.adapter == "softmax":
            return torch.softmax(unit @ weight.T / settings.temperature, dim=-1) @ text.tokens + unit
        if settings.adapter == "tanh":
            return 0.5 * p + 0.5 * torch.tanh(unit @ weight.T + bias) @ text.tokens
        return 0.5 * p + 0.5 * (p @ weight.T + bias)

    def log_score(p):
        return ((F.normalize(p, dim=-1) @ text.prototypes.T) / settings.loss_temperature).log_softmax(dim=-1)

    base = F.normalize(tokens, dim=-1) if settings.adapter == "softmax" else tokens
    clean = adapted(base)
    noisy = adapted(base + noise) if settings.noise_at == "input" else clean + noise
    log_s, log_s_noisy = log_score(clean), log_score(noisy)
    loss = -settings.noise_weight * (log_s[:, 0] + log_s_noisy[:, 1]).mean() / 2
    if settings.target == "pseudo_label":
        loss = loss - (log_score(tokens)[:, 1].exp() * log_s[:, 1]).mean()
    elif settings.target == "entropy":
        loss = loss - (log_s.exp() * log_s).sum(dim=-1).mean()
    return loss, clean


def problem(batch, patches, prompts, width, *, seed=0, dtype=torch.float32, settings=None, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    text = text_features(*torch.randn(2, prompts, width, generator=generator))
    tokens = scale * torch.randn(batch, patches, width, generator=generator).to(dtype)
    text = TextFeatures(text.prototypes.to(dtype), text.tokens.to(dtype))
    start = draw_start(settings or Adaptation(), text, patches, seed)
    return tokens, text, Start(*(None if value is None else value.to(dtype) for value in start))


@examples(deadline=None, max_examples=200)
@given(
    st.sampled_from(COMBINATIONS),
    st.tuples(*(st.integers(1, most) for most in (3, 9, 6, 12))),
    st.integers(0, 10**6),
    st.floats(0.05, 3),
    st.floats(0.05, 3),
    st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_closed_form_is_autograds_gradient(combination, shape, seed, temperature, loss_temperature, scale):
    adapter, noise_at, target, noise_weight = combination
    settings = Adaptation(
        adapter=adapter,
        identity_start=False,
        noise_at=noise_at,
        target=target,
        noise_weight=noise_weight,
        steps=1,
        temperature=temperature,
        loss_temperature=loss_temperature,
    )
    tokens, text, start = problem(*shape, seed=seed, dtype=torch.float64, settings=settings, scale=scale)
    ours = Adapter(text, settings, start)
    loss, by_weight, by_bias = ours._gradient(ours._images(tokens), start.weight, start.bias, 0)
    for i, image in enumerate(tokens):
        weight = start.weight.clone().requires_grad_()
        bias = None if start.bias is None else start.bias.clone().requires_grad_()
        expected, _ = oracle(image, text, settings, start.noise[0], weight, bias)
        expected.backward()
        torch.testing.assert_close(loss[i], expected.detach(), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(by_weight[i], weight.grad, atol=1e-6, rtol=1e-6)
        if bias is not None:
            torch.testing.assert_close(by_bias[i], bias.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("adapter", "noise_at", "target", "noise_weight"), COMBINATIONS)
def test_gradcheck(adapter, noise_at, target, noise_weight):
    """Against finite differences of our own loss, in float64."""
    parts = {"adapter": adapter, "noise_at": noise_at, "target": target, "noise_weight": noise_weight}
    settings = Adaptation(**parts, identity_start=False, steps=1)
    tokens, text, start = problem(2, 4, 3, 5, dtype=torch.float64, settings=settings)
    ours = Adapter(text, settings, start)
    images = ours._images(tokens)

    class Ours(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight, bias):
            loss, by_weight, by_bias = ours._gradient(images, weight, None if start.bias is None else bias, 0)
            ctx.save_for_backward(by_weight, by_bias)
            return loss

        @staticmethod
        def backward(ctx, grad):
            by_weight, by_bias = ctx.saved_tensors
            return grad[:, None, None] * by_weight, grad[:, None] * by_bias

    rows, width = start.weight.shape
    weight = torch.randn(2, rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    bias = torch.zeros(2, rows, dtype=torch.float64, requires_grad=start.bias is not None)
    assert torch.autograd.gradcheck(Ours.apply, (weight, bias))


@pytest.mark.parametrize("name", NAMED)
def test_equals_a_loop_with_autograd_and_torchs_adamw(name):
    settings = replace(NAMED[name], steps=12, weight_decay=0.2, noise_mean=0.1)
    tokens, text, start = problem(3, 10, 7, 16, settings=settings)
    adapter = Adapter(text, settings, start)
    ours = adapter.run(tokens)
    weight, _, _ = adapter._fit(adapter._images(tokens))
    assert ours.losses.shape == (3, 12)
    for i, image in enumerate(tokens):
        parameters = [value.clone().requires_grad_() for value in start[:2] if value is not None]
        optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for step in range(settings.steps):
            loss, _ = oracle(image, text, settings, start.noise[step], *parameters)
            assert float(loss.detach()) == pytest.approx(float(ours.losses[i, step]), abs=1e-5)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        _, adapted = oracle(image, text, settings, start.noise[0], *parameters)
        own, other = (F.normalize(p, dim=-1) @ (text.prototypes[1] - text.prototypes[0]) for p in (image, adapted.detach()))
        change = other - own
        if settings.limit is not None:
            change = change * min(1.0, float(settings.limit * own.std(correction=0) / change.std(correction=0)))
        torch.testing.assert_close(ours.similarity[i], own + change, atol=1e-5, rtol=0)
        torch.testing.assert_close(weight[i], parameters[0].detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMED)
def test_an_image_is_the_same_alone_in_any_batch_and_order(name):
    settings = NAMED[name]
    tokens, text, start = problem(7, 25, 20, 32, settings=settings)
    adapter = Adapter(text, settings, start)
    alone = torch.cat([adapter.run(image[None]).similarity for image in tokens])
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    torch.testing.assert_close(adapter.run(tokens).similarity, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(adapter.run(tokens[order]).similarity, alone[order], atol=1e-6, rtol=0)
    adapter.run(100 * tokens.flip(0))  # leaves no trace
    assert torch.equal(adapter.run(tokens).similarity, adapter.run(tokens).similarity)
    torch.testing.assert_close(adapter.run(tokens).similarity, alone, atol=1e-6, rtol=0)


def test_a_batch_is_cut_into_parts_that_fit_the_budget(monkeypatch):
    settings = Adaptation(steps=2)
    tokens, text, start = problem(7, 9, 6, 8, settings=settings)
    adapter = Adapter(text, settings, start)
    whole = adapter.run(tokens)
    sizes = []
    monkeypatch.setattr(adapter, "run", lambda images, run=adapter.run: (sizes.append(len(images)), run(images))[1])
    monkeypatch.setattr("anovl.core.adapter.CPU_ADAPTATION_MEMORY", 3 * adapter.image_bytes())
    parts = adapt(adapter, tokens)
    assert sizes == [3, 3, 1]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=1e-6, rtol=0)
    monkeypatch.setattr("anovl.core.adapter.CPU_ADAPTATION_MEMORY", 1)
    sizes.clear()
    adapt(adapter, tokens)
    assert sizes == [1] * 7


def test_state_of_one_image_at_the_papers_size():
    """Weights and two moments, at most 8 MB for 924 x 640."""
    tokens, text, start = problem(1, 225, 462, 640, settings=RECIPES["paper"].adaptation)
    del tokens
    adapter = Adapter(text, RECIPES["paper"].adaptation, start)
    assert 3 * start.weight.nbytes <= 8 * 10**6
    assert adapter.image_bytes() < 20 * 10**6


@pytest.mark.parametrize("name", NAMED)
def test_seed(name):
    settings = NAMED[name]
    _, text, _ = problem(1, 9, 6, 8)
    one, same, other = (draw_start(settings, text, 9, seed) for seed in (3, 3, 4))
    for a, b in zip(one, same, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    assert not torch.equal(one.noise, other.noise)
    assert (settings.adapter == "softmax" or settings.identity_start) == torch.equal(one.weight, other.weight)
    assert one.noise.std() == pytest.approx(0.055, rel=0.2)
    for wrong in (-1, 1.5, True, 2**63, "1", None):
        with pytest.raises(UsageError, match="seed: expected a whole number"):
            draw_start(settings, text, 9, wrong)


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.2])
def test_limit_on_the_change(limit):
    """The change varies by the share of the map's own spread that the limit says, never by more, and keeps its shape."""
    settings = replace(LIMITED, limit=None, learning_rate=0.05)
    tokens, text, start = problem(3, 16, 6, 8, settings=settings)
    own = F.normalize(tokens, dim=-1) @ (text.prototypes[1] - text.prototypes[0])
    free = Adapter(text, settings, start).run(tokens).similarity - own
    limited = Adapter(text, replace(settings, limit=limit), start).run(tokens).similarity - own
    assert (free.std(dim=1) > 0.2 * own.std(dim=1)).all()
    torch.testing.assert_close(limited.std(dim=1), limit * own.std(dim=1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(limited, free * (limited.std(dim=1) / free.std(dim=1))[:, None], atol=1e-6, rtol=1e-4)
    unlimited = Adapter(text, replace(settings, limit=1e6), start).run(tokens).similarity - own
    torch.testing.assert_close(unlimited, free)


@pytest.mark.parametrize("adapter", ["tanh", "linear"])
def test_identity_start_changes_nothing_before_the_first_step(adapter):
    settings = Adaptation(adapter=adapter, identity_start=True, steps=0)
    tokens, text, start = problem(2, 9, 6, 8, settings=settings)
    own = F.normalize(tokens, dim=-1) @ (text.prototypes[1] - text.prototypes[0])
    torch.testing.assert_close(Adapter(text, settings, start).run(tokens).similarity, own, atol=1e-6, rtol=0)
    with pytest.raises(UsageError, match="identity_start"):
        Adaptation(adapter="softmax", identity_start=True)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    "case", ["zero tokens", "one patch", "one prompt pair", "no step", "no noise", "huge tokens", "one width"]
)
def test_odd_input_gives_finite_scores(name, case):
    settings = NAMED[name]
    settings = replace(settings, steps=0 if case == "no step" else 5, noise_std=0.0 if case == "no noise" else 0.055)
    shape = [2, 1 if case == "one patch" else 9, 1 if case == "one prompt pair" else 6, 1 if case == "one width" else 8]
    tokens, text, start = problem(*shape, settings=settings, scale={"zero tokens": 0.0, "huge tokens": 1e15}.get(case, 1.0))
    result = Adapter(text, settings, start).run(tokens)
    assert result.similarity.isfinite().all()
    assert result.losses.isfinite().all()
    assert not result.failed.any()
    assert result.similarity.abs().max() <= 2 + 1e-6


@pytest.mark.parametrize("name", NAMED)
def test_an_image_that_blows_up_keeps_its_own_scores(name):
    settings = replace(NAMED[name], learning_rate=1e38)
    tokens, text, start = problem(3, 9, 6, 8, settings=settings)
    own = F.normalize(tokens, dim=-1) @ (text.prototypes[1] - text.prototypes[0])
    result = Adapter(text, settings, start).run(tokens)
    assert result.similarity.isfinite().all()
    assert result.failed.any()
    torch.testing.assert_close(result.similarity[result.failed], own[result.failed])


def test_one_bad_image_leaves_the_others_alone():
    settings = RECIPES["paper"].adaptation
    tokens, text, start = problem(3, 9, 6, 8, settings=settings)
    adapter = Adapter(text, settings, start)
    good = adapter.run(tokens).similarity
    tokens[1, 4, 2] = torch.nan
    result = adapter.run(tokens)
    assert result.failed.tolist() == [False, True, False]
    torch.testing.assert_close(result.similarity[[0, 2]], good[[0, 2]])


def test_tokens_of_another_shape():
    tokens, text, start = problem(2, 9, 6, 8)
    adapter = Adapter(text, Adaptation(), start)
    for wrong in (tokens[0], tokens[:, :4], tokens[..., :4]):
        with pytest.raises(UsageError, match=r"tokens: expected \[B, 9, 8\], got"):
            adapter.run(wrong)


class Adapting(torch.nn.Module):
    def __init__(self, adapter):
        super().__init__()
        self.adapter = adapter

    def forward(self, tokens):
        return self.adapter.run(tokens).similarity


@pytest.mark.parametrize("name", NAMED)
def test_inference_mode_and_an_exported_graph_with_any_batch(name):
    settings = replace(NAMED[name], steps=3)
    tokens, text, start = problem(2, 9, 6, 8, settings=settings)
    adapter = Adapter(text, settings, start)
    expected = adapter.run(tokens).similarity
    with torch.inference_mode():
        torch.testing.assert_close(adapter.run(tokens).similarity, expected)
    exported = torch.export.export(Adapting(adapter), (tokens,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    more = torch.cat([tokens, -tokens, 3 * tokens])
    torch.testing.assert_close(exported.module()(more), adapter.run(more).similarity, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_compiled(name):
    settings = replace(NAMED[name], steps=2)
    tokens, text, start = problem(2, 9, 6, 8, settings=settings)
    adapter = Adapter(text, settings, start)
    torch.testing.assert_close(torch.compile(Adapting(adapter))(tokens), adapter.run(tokens).similarity, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adapter", "relu"),
        ("identity_start", 1),
        ("limit", -0.1),
        ("limit", float("nan")),
        ("limit", "0.1"),
        ("noise_at", "middle"),
        ("target", "both"),
        ("steps", -1),
        ("steps", 1001),
        ("steps", 2.0),
        ("steps", True),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("weight_decay", float("inf")),
        ("noise_std", -0.1),
        ("noise_mean", float("nan")),
        ("temperature", 0.0),
        ("loss_temperature", 0),
        ("noise_weight", "1"),
    ],
)
def test_settings_that_are_not_valid(field, value):
    with pytest.raises(UsageError, match=f"{field}|{field.replace('_', ' ')}"):
        Adaptation(**{field: value})


def test_the_adapted_tokens_are_those_that_are_scored():
    text = TextFeatures(
        *(
            torch.nn.functional.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows)), dim=-1)
            for rows in (2, 6)
        )
    )
    settings, tokens = Adaptation(), torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))
    adapter = Adapter(text, settings, draw_start(settings, text, 9, 0))
    adapted = adapter.tokens(tokens)
    torch.testing.assert_close(adapted.norm(dim=-1), torch.ones(2, 9))
    similarity = adapted @ (text.prototypes[1] - text.prototypes[0])
    torch.testing.assert_close(similarity, adapter.run(tokens).similarity)
