"""Products of tokens with a layer's weights, by the fastest exact route there is.

On an x86 CPU torch hands fp32 products to MKL, which uses AVX-512 on Intel's processors alone. oneDNN, which every such
build of torch carries too, uses whatever the processor has: on an AMD EPYC it takes three quarters of the time
(`benchmarks/encoder.py`). Its operator has no gradient and no place in an exported graph, so it is called in inference alone.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 64  # with fewer, reading the weights is what takes the time, and oneDNN reads them twice


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: nn.Module | None = None) -> Tensor:
    """activation(x W^T + b).

    Args:
        x: [..., N, D].
        weight: [E, D].
        bias: [E] or None.
        activation: what follows; GELU is done within the product where oneDNN is called.

    Returns:
        [..., N, E]
    """
    onednn = _onednn() if _fits(x, weight) else None
    if onednn is None:
        y = F.linear(x, weight, bias)
        return y if activation is None else cast("Tensor", activation(y))
    if isinstance(activation, nn.GELU):
        return cast("Tensor", onednn(x, weight, bias, "gelu", [], activation.approximate))
    y = onednn(x, weight, bias, "none", [], "")
    return y if activation is None else cast("Tensor", activation(y))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """A B.

    Args:
        a: [..., M, K]; [B, M, K] where `b` is a batch.
        b: [K, N] or [B, K, N].

    Returns:
        [..., M, N]
    """
    onednn = _onednn() if _fits(a, b) else None
    if onednn is None:
        return a @ b
    if b.ndim == 2:
        return cast("Tensor", onednn(a.contiguous(), b.mT, None, "none", [], ""))
    return torch.stack([matmul(left, right) for left, right in zip(a, b, strict=True)])


def _fits(x: Tensor, weight: Tensor) -> bool:
    """True for tensors of inference that oneDNN is the faster for; never while a graph is traced."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= FEW_ROWS * x.shape[-1]
        and not torch.is_grad_enabled()
        and bool(torch.backends.mkldnn.enabled)
    )


@functools.cache
def _onednn() -> Callable[..., Any] | None:
    """Operator of torch for a linear layer by oneDNN, tried once; None where the processor or the build has none."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    try:
        tried = operator(torch.ones(2, 3), torch.ones(4, 3), None, "none", [], "") if operator else None
    except (RuntimeError, TypeError):  # it is no public operator: another torch may want other arguments
        return None
    return None if tried is None or not torch.equal(tried, torch.full((2, 4), 3.0)) else operator
