"""Attention and its gradient as `training/train.py` takes it on a CPU, beside torch's: one run, in turn, bfloat16.

    PYTHONPATH=training python benchmarks/attention_gradient.py

One block's heads at 240 px: [48, 3, 226, 64]. Printed are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from attention import FastAttention
from common import ratio, times_in_turn
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def both_ways(way: Callable[[], AbstractContextManager[object]], inputs: list[Tensor], upper: Tensor) -> None:
    """Forward and gradient."""
    with way():
        query, key, value = inputs
        output = F.scaled_dot_product_attention(query, key, value)
    torch.autograd.grad(output, inputs, upper)


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(enabled=True)
    tokens = [torch.randn(48, 226, 3, 64).bfloat16().transpose(1, 2).requires_grad_() for _ in range(3)]
    upper = torch.randn(48, 3, 226, 64).bfloat16()
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "ours": FastAttention,
        "plain products": partial(sdpa_kernel, SDPBackend.MATH),
        "fused": partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION),
    }
    calls: dict[str, Callable[[], object]] = {name: partial(both_ways, way, tokens, upper) for name, way in ways.items()}
    times = times_in_turn(calls, "cpu", rounds)
    for name in ("plain products", "fused"):
        print(f"torch's {name}: {ratio(times[name], times['ours']):.2f} times as long as ours")


if __name__ == "__main__":
    main()
