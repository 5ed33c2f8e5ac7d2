"""The two-path encoder: the original path equals open_clip, the local path its definition, on every kind of tower."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from anovl.backbones import Backbone
from anovl.core import products
from anovl.core.encoder import ResNetEncoder, ViTEncoder, resize_position_embedding
from anovl.errors import UsageError

VIT_KINDS = {
    "gelu": {},
    "quick_gelu": {"quick_gelu": True},
    "layer_scale": {"ls_init_value": 0.3},
    "patch 8": {"patch_size": 8},
    "patch 32": {"patch_size": 32},
    "no ln_pre, mean pooled after norm": {"no_ln_pre": True, "pool_type": "avg"},
    "CLIPA": {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
}


@pytest.fixture(autouse=True, params=[False, True], ids=["autograd", "inference"])
def products_of_both_kinds(request, monkeypatch):
    """torch's own products where a gradient may be asked for, oneDNN's in inference, however few the rows."""
    monkeypatch.setattr(products, "FEW_ROWS", 1)
    with torch.inference_mode(request.param):
        yield


def pixels(size=64, batch=3, seed=0):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", VIT_KINDS)
@pytest.mark.parametrize("attention", ["qkv", "vv"])
def test_tokens_of_blocks_are_open_clips_and_change_nothing(tiny_clip, kind, attention):
    clip = tiny_clip(**VIT_KINDS[kind])
    encoder = ViTEncoder(clip.visual, attention=attention)
    z, states = encoder.embed(pixels()), []
    for block in clip.visual.transformer.resblocks:
        z = block(z)
        states.append(z[:, 1:])
    for layers in ((1, 3), (2,), ()):
        class_token, local_tokens, deep = encoder.encode_layers(pixels(), layers)
        for layer, tokens in zip(layers, deep, strict=True):
            torch.testing.assert_close(tokens, states[layer - 1], atol=1e-5, rtol=0)
        for mine, plain in zip((class_token, local_tokens), encoder(pixels()), strict=True):
            torch.testing.assert_close(mine, plain, atol=1e-6, rtol=0)


def test_blocks_that_are_not_there(tiny_clip):
    for encoder, wrong in (
        (ViTEncoder(tiny_clip().visual), ((4,), (0,), (2, 1), (1, 1))),
        (ResNetEncoder(tiny_clip("resnet").visual), ((1,),)),
    ):
        for layers in wrong:
            with pytest.raises(UsageError, match="layers: expected"):
                encoder.encode_layers(pixels(), layers)


@pytest.mark.parametrize("kind", VIT_KINDS)
@pytest.mark.parametrize(("attention", "layers"), [("qkv", None), ("vv", None), ("v", 1), ("vv-recursive", 2)])
def test_class_token_is_open_clips(tiny_clip, kind, attention, layers):
    clip = tiny_clip(**VIT_KINDS[kind])
    encoder = ViTEncoder(clip.visual, attention=attention, layers=layers)
    expected = clip.encode_image(pixels())
    torch.testing.assert_close(encoder(pixels())[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_class(pixels()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", VIT_KINDS)
def test_qkv_tokens_are_open_clips_patch_tokens(tiny_clip, kind):
    clip = tiny_clip(**VIT_KINDS[kind])
    visual = clip.visual
    with torch.no_grad():
        tokens = visual.ln_post(visual.transformer(visual._embeds(pixels())))[:, 1:] @ visual.proj
    torch.testing.assert_close(ViTEncoder(visual, attention="qkv")(pixels())[1], tokens, atol=1e-5, rtol=0)


def plain_local_path(visual, x, attention, layers):
    """The definition, written with plain matrix products on open_clip's own blocks."""
    blocks = visual.transformer.resblocks
    z = visual._embeds(x)
    local = None
    for i, block in enumerate(blocks):
        if i == len(blocks) - layers:
            local = z
        attn = block.attn
        normed = block.ln_1(local if attention == "vv-recursive" and local is not None else z)
        v = (normed @ attn.in_proj_weight.chunk(3)[2].T + attn.in_proj_bias.chunk(3)[2]).unflatten(-1, (attn.num_heads, -1))
        v = v.transpose(1, 2)
        weights = torch.eye(v.shape[2]) if attention == "v" else (v @ v.mT / v.shape[-1] ** 0.5).softmax(dim=-1)
        if local is not None:
            local = local + block.ls_1(attn.out_proj((weights @ v).transpose(1, 2).flatten(2)))
        z = block(z)
    return visual.ln_post(local)[:, 1:] @ visual.proj


@pytest.mark.parametrize("attention", ["v", "vv", "vv-recursive"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.5}], ids=["plain", "layer_scale"])
def test_local_tokens_follow_the_definition(tiny_clip, attention, layers, vision):
    visual = tiny_clip(**vision).visual
    with torch.no_grad():
        expected = plain_local_path(visual, pixels(), attention, layers)
    actual = ViTEncoder(visual, attention=attention, layers=layers)(pixels())[1]
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)


def test_layers_none_is_all_layers_and_the_kinds_differ(tiny_clip):
    visual = tiny_clip().visual
    tokens = {key: ViTEncoder(visual, attention=key)(pixels())[1] for key in ("qkv", "v", "vv", "vv-recursive")}
    torch.testing.assert_close(tokens["vv"], ViTEncoder(visual, attention="vv", layers=3)(pixels())[1])
    for a, b in itertools.combinations(tokens.values(), 2):
        assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["v", "vv", "qkv"])
def test_resnet_tokens(tiny_clip, attention):
    clip = tiny_clip("resnet", image_size=96)
    encoder = ResNetEncoder(clip.visual, attention=attention)
    x = pixels(96)
    class_token, tokens = encoder(x)
    torch.testing.assert_close(class_token, clip.encode_image(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_class(x), clip.encode_image(x), atol=1e-5, rtol=0)
    assert tokens.shape == (3, 9, 24)
    visual, pool = clip.visual, clip.visual.attnpool
    with torch.no_grad():
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x))))).flatten(2).mT
        features = torch.cat([features.mean(1, keepdim=True), features], dim=1) + pool.positional_embedding
        q, k, v = (
            p(features).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for p in (pool.q_proj, pool.k_proj, pool.v_proj)
        )
        if attention == "vv":
            q = k = v
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = v if attention == "v" else weights @ v
        expected = pool.c_proj(mixed.transpose(1, 2).flatten(2))[:, 1:]
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "step"), [("vit", 16), ("resnet", 32)])
def test_other_input_sizes(tiny_clip, kind, step):
    visual = tiny_clip(kind).visual
    make = ViTEncoder if kind == "vit" else ResNetEncoder
    encoder = make(visual, image_size=(step * 3, step * 5))
    class_token, tokens = encoder(torch.randn(2, 3, step * 3, step * 5))
    assert encoder.grid == (3, 5)
    assert class_token.shape == (2, 24)
    assert tokens.shape == (2, 15, 24)
    with pytest.raises(UsageError, match=f"multiple of {step} pixels, got {step * 2 + 1}; {step * 2} or {step * 3}"):
        make(visual, image_size=(step * 2 + 1, step * 2))


def test_position_embedding_of_a_new_grid():
    old = torch.cat([torch.full((1, 2), 7.0), torch.arange(4.0).repeat_interleave(3)[:, None].repeat(1, 2)])  # 4x3 grid
    new = resize_position_embedding(old, (4, 3), (8, 6))
    assert new.shape == (49, 2)
    assert torch.equal(new[0], old[0])
    grid = new[1:].unflatten(0, (8, 6))
    assert torch.allclose(grid, grid[:, :1].expand_as(grid), atol=1e-5)  # constant along columns, as the old grid was
    assert grid[-1, 0, 0] > grid[0, 0, 0] + 2.5
    assert resize_position_embedding(old, (4, 3), (4, 3)) is old


def test_wrong_arguments(tiny_clip):
    visual = tiny_clip().visual
    with pytest.raises(UsageError, match="3 blocks, got 4"):
        ViTEncoder(visual, layers=4)
    with pytest.raises(UsageError, match="one attention layer"):
        ResNetEncoder(tiny_clip("resnet").visual, layers=2)
    with pytest.raises(UsageError, match="39,062,500 patches, at most 16,384"):
        ViTEncoder(visual, image_size=(100_000, 100_000))
    encoder = ViTEncoder(visual)
    for wrong in (torch.zeros(1, 3, 32, 64), torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64)):
        with pytest.raises(UsageError, match=r"expected \[B, 3, 64, 64\]"):
            encoder(wrong)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_without_autograd(tiny_clip, kind, mode):
    make = ViTEncoder if kind == "vit" else ResNetEncoder
    with mode():
        tokens = make(tiny_clip(kind).visual)(pixels())[1]
    assert not tokens.requires_grad


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("attention", ["qkv", "v", "vv", "vv-recursive"])
def test_exports_with_a_dynamic_batch(tiny_clip, kind, attention):
    make = ViTEncoder if kind == "vit" else ResNetEncoder
    encoder = make(tiny_clip(kind).visual, attention=attention).eval()
    program = torch.export.export(encoder, (pixels(batch=2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for batch in (1, 5):
        for actual, expected in zip(program.module()(pixels(batch=batch)), encoder(pixels(batch=batch)), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["vv", "vv-recursive", "qkv"])
def test_compiles_without_a_graph_break(tiny_clip, attention):
    encoder = ViTEncoder(tiny_clip().visual, attention=attention)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for actual, expected in zip(compiled(pixels()), encoder(pixels()), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_low_precision_cosines(tiny_clip, kind, dtype):
    make = ViTEncoder if kind == "vit" else ResNetEncoder
    full = make(tiny_clip(kind).visual)(pixels())
    low = make(tiny_clip(kind).to(dtype).visual)(pixels())
    text = F.normalize(torch.randn(8, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    for a, b in zip(full, low, strict=True):
        assert b.dtype == dtype
        difference = F.normalize(a, dim=-1) @ text.T - F.normalize(b.float(), dim=-1) @ text.T
        assert difference.abs().max() < 2e-2


def test_encoders_share_the_weights(tiny_clip):
    clip = tiny_clip()
    backbone = Backbone.from_clip(clip, lambda texts, context_length: None)
    first, second = backbone.encoder("vv"), backbone.encoder("qkv")
    assert first.conv1.weight.data_ptr() == second.conv1.weight.data_ptr() == clip.visual.conv1.weight.data_ptr()
