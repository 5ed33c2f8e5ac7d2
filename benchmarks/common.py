"""What the benchmarks of models share: their options, turns of rivals, and a model with random weights."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from anovl.backbones import Backbone


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options --arch, --batch, --threads and --rounds."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arch", default="ViT-B-16-plus-240")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=7)
    return options


def now(device: str) -> float:
    """Seconds on a clock, once the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def times_in_turn(calls: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = now(device)
            call()
            if number:
                times[name].append(now(device) - began)
    return times


def ratio(spent: list[float], base: list[float]) -> float:
    """Median of the ratios within a round."""
    return statistics.median(one / other for one, other in zip(spent, base, strict=True))


def random_model(arch: str, device: str = "cpu") -> tuple[Any, Backbone]:
    """open_clip's model of an architecture, its weights drawn from seed 0, and the same as a backbone."""
    import open_clip

    torch.manual_seed(0)
    clip = open_clip.create_model(arch, pretrained=None, load_weights=False, device=device).eval()
    return clip, Backbone.from_clip(clip, open_clip.get_tokenizer(arch), name=arch, weights_id="random")
