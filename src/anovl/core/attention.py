"""Local attention of AnoVL, Eq. (7): value to value; beside it the ordinary q-k attention and plain values.

All on projected heads, so that a block's query/key/value projection is made once for both paths.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor
from torch.nn import functional as F

from anovl.config import Attention
from anovl.core.products import linear


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """[B, N, D] -> [B, heads, N, D / heads], a view."""
    return cast("Tensor", projected.unflatten(-1, (heads, -1)).transpose(1, 2))


def merge_heads(attended: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return attended.transpose(1, 2).flatten(2)


def qk_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, the transformer's own; any number of queries.

    Args:
        q: [B, heads, Q, d]. k, v: [B, heads, N, d].

    Returns:
        [B, Q, heads * d]
    """
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


def local_attention(kind: Attention, v: Tensor, *, skip: int = 0) -> Tensor:
    """Attention of the local path before the output projection.

    Args:
        kind: "vv" or "vv-recursive": softmax(V V^T / sqrt(d)) V (Eq. 7; the two differ in where V comes
            from, which is the encoder's business); "v": V itself (MaskCLIP's observation, Table 3).
        v: values [B, heads, N, d] of all tokens, the class token first.
        skip: leading tokens that need no result (they still serve as keys).

    Returns:
        [B, N - skip, heads * d]
    """
    queries = v[:, :, skip:]
    if kind == "v":
        return merge_heads(queries)
    return qk_attention(queries, v, v)


def values(x: Tensor, in_proj_weight: Tensor, in_proj_bias: Tensor | None, heads: int) -> Tensor:
    """Values only: the last third of the joint projection.

    Args:
        x: [B, N, D], normalised block input.
        in_proj_weight: [3 D, D]. in_proj_bias: [3 D] or None.

    Returns:
        [B, heads, N, D / heads]
    """
    width = x.shape[-1]
    bias = None if in_proj_bias is None else in_proj_bias[2 * width :]
    return split_heads(linear(x, in_proj_weight[2 * width :], bias), heads)


def queries_keys_values(
    x: Tensor, in_proj_weight: Tensor, in_proj_bias: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The joint projection of Eq. (4), [B, N, D] -> three of [B, heads, N, D / heads]."""
    q, k, v = linear(x, in_proj_weight, in_proj_bias).chunk(3, dim=-1)
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)


def class_query_keys_values(
    x: Tensor, in_proj_weight: Tensor, in_proj_bias: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `queries_keys_values`, with the query of the class token alone: q is [B, heads, 1, D / heads]."""
    width = x.shape[-1]
    bias_q, bias_kv = (None, None) if in_proj_bias is None else (in_proj_bias[:width], in_proj_bias[width:])
    q = linear(x[:, :1], in_proj_weight[:width], bias_q)
    k, v = linear(x, in_proj_weight[width:], bias_kv).chunk(2, dim=-1)
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)
