"""Two-path encoder against open_clip's encode_image: time and peak memory, one run, same weights, same machine.

    python benchmarks/encoder.py [--arch ViT-B-16-plus-240] [--batch 8] [--threads 2] [--rounds 7]

The rivals take turns within each round, so that a slow moment of the machine falls on both; printed are the
medians of the per-round ratios. Memory is each rival's peak in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import parser, random_model, ratio, times_in_turn
from torch import Tensor


def rivals(arch: str) -> tuple[dict[str, Callable[[Tensor], object]], int]:
    """The calls to compare, on one model with random weights, and its input size."""
    clip, backbone = random_model(arch)
    calls: dict[str, Callable[[Tensor], object]] = {"open_clip encode_image": clip.encode_image}
    calls["two paths (vv, all layers)"] = backbone.encoder("vv")
    calls["original path alone"] = backbone.encoder("vv").encode_class
    return calls, backbone.image_size[0]


def peak_memory(arch: str, batch: int, threads: int, rival: str) -> dict[str, float]:
    """Peak resident memory of one rival in MB, with the weights and beyond them, in a fresh process."""
    command = [sys.executable, __file__, "--arch", arch, "--batch", str(batch), "--threads", str(threads), "--memory-of", rival]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    result: dict[str, float] = json.loads(output)
    return result


def measure_memory(arch: str, batch: int, rival: str) -> None:
    """Child process: one warm-up, then the high-water mark of one pass (Linux)."""
    calls, size = rivals(arch)
    pixels = torch.randn(batch, 3, size, size)
    base = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    with torch.inference_mode():
        calls[rival](pixels)
        calls[rival](pixels)
    peak = _status("VmHWM")
    print(json.dumps({"peak_mb": peak / 1024, "above_weights_mb": (peak - base) / 1024}))


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def main() -> None:
    """Parse, measure, print a table."""
    options = parser(__doc__)
    options.add_argument("--no-memory", action="store_true")
    options.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        measure_memory(args.arch, args.batch, args.memory_of)
        return
    calls, size = rivals(args.arch)
    pixels = torch.randn(args.batch, 3, size, size)
    with torch.inference_mode():
        times = times_in_turn({name: partial(call, pixels) for name, call in calls.items()}, "cpu", args.rounds)
    base = times["open_clip encode_image"]
    print(f"{args.arch}, batch {args.batch}, {args.threads} threads, fp32, random weights, median of {args.rounds} rounds")
    memory = {} if args.no_memory else {name: peak_memory(args.arch, args.batch, args.threads, name) for name in calls}
    for name, values in times.items():
        line = f"{name:28} {statistics.median(values) / args.batch * 1000:8.1f} ms/image   time x{ratio(values, base):.3f}"
        if memory:
            own, reference = memory[name], memory["open_clip encode_image"]
            line += f"   peak {own['peak_mb']:7.0f} MB x{own['peak_mb'] / reference['peak_mb']:.3f}"
            line += f"   beyond weights x{own['above_weights_mb'] / reference['above_weights_mb']:.3f}"
        print(line)


if __name__ == "__main__":
    main()
