"""One forward pass, two paths: the class token of the original CLIP and local-aware patch tokens (Eq. 3-7).

The encoders hold the modules of a CLIP vision tower (the layout open_clip and OpenAI share) and read its
weights directly: no hook, no monkeypatch, nothing copied but the position embeddings. They run under
``torch.no_grad``, ``torch.inference_mode``, ``torch.compile`` and ``torch.export``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anovl.config import Attention
from anovl.core import attention as att
from anovl.core.products import linear
from anovl.errors import UsageError


def resize_position_embedding(embedding: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings of another grid: bicubic, antialiased, the class token's kept (as open_clip does).

    Args:
        embedding: [1 + old_h * old_w, D], the class token first.
        old, new: (rows, columns) of the patch grids.

    Returns:
        [1 + new_h * new_w, D]
    """
    if old == new:
        return embedding
    patches = embedding[1:].unflatten(0, old).permute(2, 0, 1)[None].float()  # [1, D, h, w]
    patches = F.interpolate(patches, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([embedding[:1], patches[0].flatten(1).T.to(embedding.dtype)])


MAX_PATCHES = 16_384  # attention grows with the square: 2048 px at patch 16 take minutes an image on a CPU


class Encoder(nn.Module, ABC):
    """What both kinds of vision tower offer.

    Attributes:
        image_size: (H, W) of its input in pixels.
        grid: (h, w) of its patch tokens, M = h * w.
        depth: layers of attention.
        blocks_kept: of them, those whose own patch tokens `encode_layers` can give; none of a ResNet.
        residual: whether the local path adds to the tokens before it; False reads the last block alone (MaskCLIP). The
            attention pool of a ResNet has none.
    """

    image_size: tuple[int, int]
    grid: tuple[int, int]
    depth: int
    blocks_kept: int = 0
    residual: bool = True

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Both paths.

        Args:
            pixel_values: [B, 3, H, W], normalised with the checkpoint's mean and std.

        Returns:
            class_token [B, C] of the original path and local_tokens [B, M, C] in row-major grid order, both
            projected to the joint space and not normalised.

        Raises:
            UsageError: pixel_values has another size than the encoder was made for.
        """
        class_token, local_tokens, _ = self.encode_layers(pixel_values, ())
        return class_token, local_tokens

    def encode_layers(self, pixel_values: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Both paths, and the original path's patch tokens after some of its blocks, in the same pass.

        Args:
            pixel_values: as of `forward`.
            layers: numbers of blocks from 1 to `depth`, ascending; none for a ResNet, whose one attention layer is its pool.

        Returns:
            class_token [B, C] and local_tokens [B, M, C] as `forward`; for each layer [B, M, D] of the block's own width,
            not projected, not normalised.

        Raises:
            UsageError: as `forward`, or there is no such block.
        """
        self.check_layers(layers)
        class_token, local_tokens, deep = self._encode(pixel_values, local=True, layers=layers)
        return class_token, cast("Tensor", local_tokens), deep

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise a UsageError for blocks that are not there, or not ascending."""
        if any(not 1 <= layer <= self.blocks_kept for layer in layers) or list(layers) != sorted(set(layers)):
            valid = f"ascending numbers from 1 to {self.blocks_kept}" if self.blocks_kept else "none, this backbone is a ResNet"
            raise UsageError(f"layers: expected {valid}, got {', '.join(map(str, layers))}")

    def encode_class(self, pixel_values: Tensor) -> Tensor:
        """The class token [B, C] alone: the original path without the cost of the local one."""
        return self._encode(pixel_values, local=False)[0]

    @abstractmethod
    def _encode(
        self, pixel_values: Tensor, *, local: bool, layers: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Class token, local tokens where asked for, and patch tokens after the blocks of these numbers."""

    def _checked(self, pixel_values: Tensor) -> Tensor:
        height, width = self.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, height, width):
            raise UsageError(f"pixel_values: expected [B, 3, {height}, {width}], got {list(pixel_values.shape)}")
        return pixel_values.to(next(self.parameters()).dtype)


def project(block: Any, z: Tensor, *, class_query: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. (4) of a ViT block: [B, N, D] -> q, k, v, each [B, heads, N, d]; q is [B, heads, 1, d] with `class_query`."""
    make = att.class_query_keys_values if class_query else att.queries_keys_values
    return make(block.ln_1(z), block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.num_heads)


def add_attended(block: Any, z: Tensor, attended: Tensor) -> Tensor:
    """Eq. (5): output projection and residual for the leading Q of the tokens `z` [B, N, D], `attended` [B, Q, D]."""
    return z[:, : attended.shape[1]] + attention_step(block, attended)


def attention_step(block: Any, attended: Tensor) -> Tensor:
    """What attention adds to the tokens, Eq. (5) without its residual: [B, Q, D] -> [B, Q, D]."""
    return cast("Tensor", block.ls_1(linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)))


def feed_forward(block: Any, z: Tensor) -> Tensor:
    """Eq. (6): MLP and residual, [B, N, D] -> [B, N, D]."""
    mlp = block.mlp
    hidden = linear(block.ln_2(z), mlp.c_fc.weight, mlp.c_fc.bias, activation=mlp.gelu)
    return cast("Tensor", z + block.ls_2(linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias)))


class ViTEncoder(Encoder):
    """A ViT tower: class token of the original path, local tokens by `attention` over the last `layers` blocks.

    "vv": X_l = X_(l-1) + out_proj(softmax(V V^T / sqrt(d)) V), V the values of the original path's block l,
    X starting as the original path's tokens before the first replaced block; no MLP. "v" leaves the
    attention out. "vv-recursive" is Eq. (7) to the letter: V comes from the local path itself. "qkv" gives
    the original path's own patch tokens.

    Args:
        visual: a CLIP VisionTransformer: conv1, class_embedding, positional_embedding, ln_pre,
            transformer.resblocks (ln_1, attn, ls_1, ln_2, mlp, ls_2), ln_post, proj.
        attention: see above and `anovl.core.attention`.
        layers: how many of the last blocks the local path covers; None is all.
        image_size: (H, W) of the input, multiples of the patch size; None is the training size.

    Raises:
        UsageError: more layers than the tower has, or an image size that its patches do not tile.
    """

    positional_embedding: Tensor

    def __init__(
        self,
        visual: Any,
        *,
        attention: Attention = "vv",
        layers: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.ln_pre = visual.ln_pre
        self.blocks = visual.transformer.resblocks
        self.ln_post = visual.ln_post
        self.proj = visual.proj
        self.mean_pooled = visual.pool_type == "avg"  # CLIPA: the image token is the mean of the patches
        self.norm_after_pool = bool(visual.final_ln_after_pool)
        self.depth = self.blocks_kept = len(self.blocks)
        if layers is not None and layers > self.depth:
            raise UsageError(f"layers: this backbone has {self.depth} blocks, got {layers}")
        self.attention = attention
        self.first_local = self.depth - (layers or self.depth)
        self.image_size = image_size or cast("tuple[int, int]", tuple(visual.image_size))
        self.grid = _grid(self.image_size, tuple(visual.patch_size), exact=image_size is not None)
        position = resize_position_embedding(visual.positional_embedding.detach(), visual.grid_size, self.grid)
        self.register_buffer("positional_embedding", position, persistent=False)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """What the first block reads, [B, 3, H, W] -> [B, 1 + M, D]: class token and patches, placed and normed (ln_pre).

        Raises:
            UsageError: as `forward`.
        """
        patches = self.conv1(self._checked(pixel_values)).flatten(2).transpose(1, 2)  # [B, M, D]
        token = self.class_embedding.expand(patches.shape[0], 1, -1)
        return cast("Tensor", self.ln_pre(torch.cat([token, patches], dim=1) + self.positional_embedding))

    def _encode(
        self, pixel_values: Tensor, *, local: bool, layers: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        z = self.embed(pixel_values)  # original path, [B, 1 + M, D]
        separate = local and self.attention != "qkv"
        recursive = self.attention == "vv-recursive"
        skip = 0 if recursive else 1  # the local path's own class token matters only where it is a key
        whole_last = self.mean_pooled or (local and not separate) or self.depth in layers
        deep: list[Tensor] = []
        x: Tensor | None = None  # local path, [B, skip .. M, D]
        last = self.depth - 1
        for i, block in enumerate(self.blocks):
            if separate and i == self.first_local:
                x = z[:, skip:]
            q, k, v = project(block, z, class_query=i == last and not whole_last)
            z = add_attended(block, z, att.qk_attention(q, k, v))
            if x is not None:
                if recursive:
                    v = att.values(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.num_heads)
                step = attention_step(block, att.local_attention(self.attention, v, skip=skip))
                x = x + step if self.residual else step
                del step
            del q, k, v  # the MLP is where memory peaks
            z = feed_forward(block, z)
            if i + 1 in layers:
                deep.append(z[:, 1:])
        class_token = self.image_token(z)
        if not local:
            return class_token, None, ()
        tokens = z[:, 1:] if x is None else x[:, 1 - skip :]
        return class_token, self.ln_post(tokens) @ self.proj, tuple(deep)

    def image_token(self, z: Tensor) -> Tensor:
        """What the last block gave, [B, 1 or 1 + M, D] -> [B, C]: normed, pooled as the checkpoint was trained, projected."""
        if not self.mean_pooled:
            pooled = self.ln_post(z[:, 0])
        elif self.norm_after_pool:
            pooled = self.ln_post(z[:, 1:].mean(dim=1))
        else:
            pooled = self.ln_post(z)[:, 1:].mean(dim=1)
        return cast("Tensor", pooled @ self.proj)


class ResNetEncoder(Encoder):
    """A ResNet tower: its attention pool gives both tokens.

    The class token is the pool's own. The local tokens are each position's value through the pool's output
    projection ("v", as MaskCLIP reads it, arXiv:2112.01071), value-to-value attended ("vv") or q-k attended
    ("qkv"). The pool is one layer without residual, so "vv-recursive" is "vv".

    Args:
        visual: a CLIP ModifiedResNet: stem, layer1 to layer4, attnpool.
        attention: see above.
        layers: None or 1.
        image_size: (H, W) of the input, multiples of 32; None is the training size.

    Raises:
        UsageError: more layers than one, or an image size that is not a multiple of 32.
    """

    positional_embedding: Tensor

    def __init__(
        self,
        visual: Any,
        *,
        attention: Attention = "vv",
        layers: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if layers is not None and layers > 1:
            raise UsageError(f"layers: a ResNet has one attention layer, its pool, got {layers}")
        self.depth = 1
        self.trunk = visual
        self.pool = visual.attnpool
        self.attention = attention
        trained = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        self.image_size = image_size or (trained, trained)
        self.grid = _grid(self.image_size, (32, 32), exact=image_size is not None)
        old = (trained // 32, trained // 32)
        position = resize_position_embedding(self.pool.positional_embedding.detach(), old, self.grid)
        self.register_buffer("positional_embedding", position, persistent=False)

    def _encode(
        self,
        pixel_values: Tensor,
        *,
        local: bool,
        layers: Sequence[int] = (),  # noqa: ARG002
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        trunk, pool = self.trunk, self.pool
        features = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(trunk.stem(self._checked(pixel_values))))))
        tokens = features.flatten(2).transpose(1, 2)  # [B, M, D]
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.positional_embedding
        whole = local and self.attention == "qkv"
        q = att.split_heads(pool.q_proj(tokens if whole else tokens[:, :1]), pool.num_heads)
        k = att.split_heads(pool.k_proj(tokens), pool.num_heads)
        v = att.split_heads(pool.v_proj(tokens), pool.num_heads)
        attended = pool.c_proj(att.qk_attention(q, k, v))
        if not local:
            return attended[:, 0], None, ()
        if whole:
            return attended[:, 0], attended[:, 1:], ()
        return attended[:, 0], pool.c_proj(att.local_attention(self.attention, v, skip=1)), ()


def _grid(image_size: tuple[int, int], patch: tuple[int, ...], *, exact: bool) -> tuple[int, int]:
    """Patch grid of an image size; `exact` refuses sizes that the patches do not tile."""
    for size, step in zip(image_size, patch, strict=True):
        if size < step or (exact and size % step):
            below = max(size // step, 1) * step
            above = below + step
            raise UsageError(f"image_size: expected a multiple of {step} pixels, got {size}; {below} or {above} would do")
    rows, columns = image_size[0] // patch[0], image_size[1] // patch[1]
    if rows * columns > MAX_PATCHES:
        raise UsageError(f"image_size: {image_size[0]}x{image_size[1]} is {rows * columns:,} patches, at most {MAX_PATCHES:,}")
    return rows, columns
