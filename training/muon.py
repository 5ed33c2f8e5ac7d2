"""Muon in the precision of the weights: torch's own works in bfloat16, which takes CPUs without it seconds a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic, those of torch.optim.Muon


def orthogonalised(matrix: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix, [M, N]: singular values of 0.5 to 1.5, by five Newton-Schulz steps."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = (matrix.T if tall else matrix) / matrix.norm().clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if tall else wide


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with Nesterov momentum 0.95 and steps as large as AdamW's (`match_rms_adamw`).

    After "Muon: An optimizer for hidden layers in neural networks" (Jordan et al. 2024) and "Muon is Scalable for LLM
    Training" (Liu et al. 2025).
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                mean = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalised(weight.grad.lerp(mean, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=group["lr"] * 0.2 * max(weight.shape) ** 0.5)
