"""Attention whose gradient is fast on a CPU, in place of torch's within a `with`.

Torch's fused attention takes its gradient slowly on a CPU; its plain products guard against rows that are masked whole and
scale queries and keys apart, four further passes over every product. Here a few heads at a time stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

HEADS = 48  # at a time


class Attend(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V: q [B, heads, Q, d], k and v [B, heads, N, d] -> [B, heads, Q, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The heads of all pictures in a row, a few at a time."""
        ctx.scale = q.shape[-1] ** -0.5
        queries, keys, values = q.flatten(0, 1) * ctx.scale, k.flatten(0, 1), v.flatten(0, 1)
        weights = queries.new_empty(len(queries), queries.shape[1], keys.shape[1])
        attended = torch.empty_like(queries)
        for few in _slices(len(queries)):
            torch.softmax(queries[few] @ keys[few].mT, dim=-1, out=weights[few])
            torch.bmm(weights[few], values[few], out=attended[few])
        ctx.save_for_backward(queries, keys, values, weights)
        output: Tensor = attended.unflatten(0, q.shape[:2])
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By the chain rule; the gradient of softmax is torch's own."""
        queries, keys, values, weights = ctx.saved_tensors
        upper = gradient.flatten(0, 1)
        by_queries, by_keys, by_values = (torch.empty_like(one) for one in (queries, keys, values))
        for few in _slices(len(queries)):
            mine = weights[few]
            torch.bmm(mine.mT, upper[few], out=by_values[few])
            by_weights = upper[few] @ values[few].mT
            by_products = torch.ops.aten._softmax_backward_data(by_weights, mine, -1, mine.dtype)  # noqa: SLF001 - no public name
            torch.bmm(by_products, keys[few], out=by_queries[few])
            torch.bmm(by_products.mT, queries[few], out=by_keys[few])
        by_queries *= ctx.scale
        first, second, third = (one.unflatten(0, gradient.shape[:2]) for one in (by_queries, by_keys, by_values))
        return first, second, third


def _slices(count: int) -> list[slice]:
    return [slice(at, at + HEADS) for at in range(0, count, HEADS)]


class FastAttention(TorchFunctionMode):
    """Within it, attention without a mask is `Attend`; all else is torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls for each of its functions."""
        if func is F.scaled_dot_product_attention and not kwargs and len(args) == 3:
            return Attend.apply(*args)
        return func(*args, **(kwargs or {}))
