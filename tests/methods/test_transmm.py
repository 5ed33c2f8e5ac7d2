"""TransMM against plain autograd: a forward pass in open words that keeps every attention and its gradient."""

import pytest
import torch
from safetensors.torch import load_file

from anovl import AnoVL
from anovl.backbones import Backbone
from anovl.config import recipe
from anovl.errors import UsageError
from anovl.methods import make_method


def plain_relevance(visual, pixels, prototypes, logit_scale, layers):
    """R of the last `layers` blocks with full attention matrices, and the class token."""
    attentions = []
    z = visual._embeds(pixels)
    z.requires_grad_()
    for block in visual.transformer.resblocks:
        attn = block.attn
        projected = block.ln_1(z) @ attn.in_proj_weight.T + attn.in_proj_bias
        q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
        attention = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
        attention.retain_grad()
        attentions.append(attention)
        z = z + block.ls_1(attn.out_proj((attention @ v).transpose(1, 2).flatten(2)))
        z = z + block.ls_2(block.mlp(block.ln_2(z)))
    token = visual.ln_post(z[:, 0]) @ visual.proj
    cosine = torch.nn.functional.normalize(token, dim=-1) @ prototypes.T
    (logit_scale * (cosine[:, 1] - cosine[:, 0])).sum().backward()
    relevance = torch.eye(z.shape[1]).expand(len(z), -1, -1)
    for attention in attentions[-layers:]:
        relevance = relevance + (attention.grad * attention).clamp(min=0).mean(dim=1) @ relevance
    return token.detach(), relevance[:, 0, 1:].detach()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("layers", [None, 2, 12])
def test_relevance_is_that_of_plain_autograd(golden_backbone, golden_dir, layers, mode):
    golden = load_file(golden_dir / "released.safetensors")
    pixels, prototypes = golden["pixel_values"], golden["text_prototypes/bottle"]
    expected_token, expected = plain_relevance(
        golden_backbone.clip.visual, pixels, prototypes, golden_backbone.logit_scale, layers or 1
    )
    method = make_method("transmm", golden_backbone, recipe(layers=layers))
    with mode():
        token, relevance = method.relevance(pixels, prototypes)
    torch.testing.assert_close(relevance, expected, atol=1e-5 * float(expected.max()), rtol=0)  # relevance is small: 1e-4
    torch.testing.assert_close(token, expected_token, atol=1e-5, rtol=0)
    assert all(parameter.grad is None for parameter in golden_backbone.clip.parameters())


def test_scores_keep_the_ranks_and_are_not_stretched(golden_backbone, golden_dir):
    golden = load_file(golden_dir / "released.safetensors")
    detector = AnoVL(golden_backbone, method="transmm")
    job = detector.job("bottle")
    grids = detector.method.score(golden["pixel_values"], job.text).patch_scores
    relevance = detector.method.relevance(golden["pixel_values"], job.text.prototypes)[1]
    torch.testing.assert_close(grids.flatten(1), 1 - 1 / (1 + relevance.shape[1] * relevance), atol=1e-6, rtol=0)
    assert torch.equal(grids.flatten().argsort(stable=True), relevance.flatten().argsort(stable=True))
    assert grids.min() >= 0
    assert grids.max() < 1
    assert len({float(grid.max()) for grid in grids}) == len(grids)


def test_weights_made_in_inference_mode(tiny_clip):
    with torch.inference_mode():
        backbone = Backbone.from_clip(tiny_clip(), lambda texts, context_length: None, weights_id="tiny")
        with pytest.raises(UsageError, match="load the model outside"):
            make_method("transmm", backbone, recipe())


def test_more_layers_than_blocks(golden_backbone):
    with pytest.raises(UsageError, match="12 blocks, got 13"):
        make_method("transmm", golden_backbone, recipe(layers=13))
