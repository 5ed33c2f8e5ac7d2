"""Attention whose gradient is fast on a CPU, in place of torch's within a `with`.

Torch's fused attention takes its gradient slowly on a CPU; its plain products guard against rows that are masked whole and
scale queries and keys apart, further passes over every product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Attend(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V: q [B, heads, Q, d], k and v [B, heads, N, d] -> [B, heads, Q, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The heads of all pictures in a row."""
        ctx.scale = q.shape[-1] ** -0.5
        queries, keys, values = q.flatten(0, 1) * ctx.scale, k.flatten(0, 1), v.flatten(0, 1)
        weights = torch.softmax(queries @ keys.mT, dim=-1)
        ctx.save_for_backward(queries, keys, values, weights)
        attended: Tensor = (weights @ values).unflatten(0, q.shape[:2])
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By the chain rule; the gradient of softmax is torch's own."""
        queries, keys, values, weights = ctx.saved_tensors
        upper = gradient.flatten(0, 1)
        by_weights = upper @ values.mT
        by_products = torch.ops.aten._softmax_backward_data(by_weights, weights, -1, weights.dtype)  # noqa: SLF001 - no public name
        heads = gradient.shape[:2]
        by_queries = (by_products @ keys) * ctx.scale
        by_keys, by_values = by_products.mT @ queries, weights.mT @ upper
        return by_queries.unflatten(0, heads), by_keys.unflatten(0, heads), by_values.unflatten(0, heads)


class FastAttention(TorchFunctionMode):
    """Within it, attention without a mask is `Attend`; all else is torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls for each of its functions."""
        if func is F.scaled_dot_product_attention and not kwargs and len(args) == 3:
            return Attend.apply(*args)
        return func(*args, **(kwargs or {}))
