"""Measurements for `anovl benchmark`: what the stages of a run cost on this machine, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anovl.config import LINEAR_PROBE, RELEASED_ADAPTATION, Adaptation
from anovl.core.adapter import Adapter, adapt, draw_start
from anovl.core.scoring import anomaly_score
from anovl.detector import AnoVL


@dataclass(frozen=True)
class AdaptationCost:
    """What one adaptation did and cost; means over the images, medians over the rounds.

    Attributes:
        name: "paper", "released" or "linear probe".
        losses: before each step.
        score_change: mean absolute change of the patch scores, in [0, 1].
        milliseconds: an image, beyond the training-free pass.
        times_training_free: that over the time of the training-free pass, each round's own.
        state_mb: weights and moments of an image, in MB.
        working_mb: all that an image takes while it adapts.
    """

    name: str
    losses: tuple[float, ...]
    score_change: float
    milliseconds: float
    times_training_free: float
    state_mb: float
    working_mb: float


@torch.inference_mode()
def adaptation_costs(
    detector: AnoVL, pixel_values: Tensor, class_name: str, *, steps: int, rounds: int = 3, seed: int = 0
) -> tuple[float, list[AdaptationCost]]:
    """Run the training-free pass and every adaptation in turn.

    Args:
        detector: the model.
        pixel_values: one batch, [B, 3, H, W].
        class_name: what it shows.
        steps: of each adaptation.
        rounds: measured ones; one more warms up.
        seed: of weights and noise.

    Returns:
        milliseconds an image of the training-free pass, and a row an adaptation.

    Raises:
        UsageError: steps or seed out of range.
    """
    text, encoder = detector.job(class_name).text, detector.method.encoder
    pixel_values = pixel_values.to(detector.backbone.device)
    tokens = encoder(pixel_values)[1]
    named = {"paper": Adaptation(), "released": RELEASED_ADAPTATION, "linear probe": LINEAR_PROBE}
    adapters = {}
    for name, settings in named.items():
        chosen = replace(settings, steps=steps)
        adapters[name] = Adapter(text, chosen, draw_start(chosen, text, tokens.shape[1], seed))
    times: dict[str, list[float]] = {name: [] for name in ("training-free", *adapters)}
    for number in range(rounds + 1):
        for name, spent in times.items():
            call = (lambda: encoder(pixel_values)) if name == "training-free" else lambda name=name: adapt(adapters[name], tokens)
            spent.append(_milliseconds(call, tokens.device) / len(tokens))
            if number == 0:
                spent.clear()
    whole = times["training-free"]
    before = anomaly_score(tokens, text.prototypes, detector.method.logit_scale)
    rows = []
    for name, adapter in adapters.items():
        result = adapt(adapter, tokens)
        after = torch.sigmoid(detector.method.logit_scale * result.similarity)
        state = sum(3 * value.nbytes for value in adapter.start[:2] if value is not None)
        rows.append(
            AdaptationCost(
                name=name,
                losses=tuple(result.losses.mean(dim=0).tolist()),
                score_change=float((after - before).abs().mean()),
                milliseconds=statistics.median(times[name]),
                times_training_free=statistics.median(a / b for a, b in zip(times[name], whole, strict=True)),
                state_mb=state / 1e6,
                working_mb=adapter.image_bytes() / 1e6,
            )
        )
    return statistics.median(whole), rows


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) * 1000
