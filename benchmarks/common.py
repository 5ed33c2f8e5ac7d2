"""What the benchmarks of models share: their options, a clock, and a model with random weights."""

from __future__ import annotations

import argparse
import time
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


def random_model(arch: str, device: str = "cpu") -> tuple[Any, Backbone]:
    """open_clip's model of an architecture, its weights drawn from seed 0, and the same as a backbone."""
    import open_clip

    torch.manual_seed(0)
    clip = open_clip.create_model(arch, pretrained=None, load_weights=False, device=device).eval()
    return clip, Backbone.from_clip(clip, open_clip.get_tokenizer(arch), name=arch, weights_id="random")
