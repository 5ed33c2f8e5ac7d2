"""WinCLIP here against anomalib's, beside a plain CLIP pass: time of one batch, one run, same weights, same machine.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/winclip.py --threads 1 --rival-python PATH [--batch 2] [--rounds 5]

PATH is the Python of an environment with anomalib 2.7.0 and open_clip_torch 2.24.0: from 2.26 on open_clip's blocks take
the batch first, and anomalib's windows attend across images. The rival keeps its model loaded in a process of its own and
answers on a pipe, so that all take turns within each round. Printed are medians over the rounds of wall time and of CPU
time (of all threads; other work on the machine stretches it less), of their ratios within a round, and how far the rival's
maps are from ours. Without --rival-python only ours is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import parser, random_model
from safetensors.torch import load_file, save_file

from anovl.backbones import Backbone
from anovl.config import recipe
from anovl.core.prompts import build_prompts
from anovl.core.scoring import text_features, to_image_size
from anovl.methods import make_method
from anovl.methods.winclip import ANOMALIB_WORDING

Timing = tuple[float, float]  # wall and CPU seconds

# The rival's side: reads a line, computes, answers a line. It must not import this package, nor this package's torch.
RIVAL = """
import json, sys, time
from pathlib import Path
answers, sys.stdout = sys.stdout, sys.stderr
import open_clip, torch
from safetensors.torch import load_file, save_file
from anomalib.models.image.winclip import torch_model
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch_model.BACKBONE, torch_model.PRETRAINED = sys.argv[3], None  # else it asks the network for the published weights
model = torch_model.WinClipModel()
model.clip.load_state_dict(load_file(folder / "weights.safetensors"))
model.eval().setup("bottle")
pixels = load_file(folder / "pixels.safetensors")["pixels"]
print("ready", file=answers, flush=True)
for line in sys.stdin:
    start = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        result = model(pixels)
    spent = time.perf_counter() - start[0], time.process_time() - start[1]
    save_file({"map": result.anomaly_map.contiguous()}, folder / "map.safetensors")
    print(json.dumps(spent), file=answers, flush=True)
"""


def timed(call: Callable[..., object], *arguments: object) -> Timing:
    """Wall and CPU seconds of a call."""
    start = time.perf_counter(), time.process_time()
    call(*arguments)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def ratios(values: list[Timing], base: list[Timing]) -> Timing:
    """Medians over the rounds of wall and CPU time as multiples of another call's in the same round."""
    wall, cpu = zip(*[(one[0] / other[0], one[1] / other[1]) for one, other in zip(values, base, strict=True)], strict=True)
    return statistics.median(wall), statistics.median(cpu)


class Rival:
    """anomalib's WinCLIP in a process of its own, with the weights and pixels found in a folder."""

    def __init__(self, python: str, folder: Path, threads: int, arch: str) -> None:
        self.folder = folder
        command = [python, "-W", "ignore", "-c", RIVAL, str(folder), str(threads), arch]
        self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self._answer()

    def run(self) -> Timing:
        """One pass over the batch."""
        print("go", file=self.process.stdin, flush=True)
        wall, cpu = json.loads(self._answer())
        return wall, cpu

    def anomaly_map(self) -> torch.Tensor:
        """Maps of the last pass, [B, H, W]."""
        return load_file(self.folder / "map.safetensors")["map"]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        line: str = self.process.stdout.readline()
        if not line:
            sys.exit("the rival's process ended; its own message is above")
        return line


@torch.inference_mode()
def measure(args: argparse.Namespace, clip: Any, backbone: Backbone, folder: Path) -> None:
    """Take turns, print the table."""
    methods = {name: make_method(name, backbone, recipe()) for name in ("winclip", *args.also)}
    prompts = build_prompts("bottle", ANOMALIB_WORDING)
    text = text_features(backbone.encode_text(prompts.normal), backbone.encode_text(prompts.abnormal))
    pixels = torch.randn(args.batch, 3, *backbone.image_size)
    calls: dict[str, Callable[[], Timing]] = {"open_clip encode_image": partial(timed, clip.encode_image, pixels)}
    calls |= {name: partial(timed, method.score, pixels, text) for name, method in methods.items()}
    rival = None
    if args.rival_python:
        save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, folder / "weights.safetensors")
        save_file({"pixels": pixels}, folder / "pixels.safetensors")
        rival = Rival(args.rival_python, folder, args.threads, args.arch)
        calls["anomalib's winclip"] = rival.run
    times: dict[str, list[Timing]] = {name: [] for name in calls}
    for round_number in range(args.rounds + 1):
        for name, call in calls.items():
            timing = call()
            if round_number:  # the first is the warm-up
                times[name].append(timing)
    print(f"{args.arch}, batch {args.batch}, {args.threads} threads, fp32, random weights, median of {args.rounds} rounds")
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        wall_ratio, cpu_ratio = ratios(values, times["open_clip encode_image"])
        print(f"{name:24} wall {wall:7.2f} s x{wall_ratio:6.2f}   CPU {cpu:7.2f} s x{cpu_ratio:6.2f}")
    if rival is None:
        print("no --rival-python: anomalib's WinCLIP was not measured")
        return
    wall_ratio, cpu_ratio = ratios(times["anomalib's winclip"], times["winclip"])
    print(f"anomalib / here          wall x{wall_ratio:.3f}   CPU x{cpu_ratio:.3f}")
    ours = to_image_size(methods["winclip"].score(pixels, text).patch_scores, backbone.image_size, align_corners=False)
    print(f"largest difference of the two anomaly maps: {float((ours - rival.anomaly_map()).abs().max()):.1e}")
    rival.close()


def main() -> None:
    """Parse, measure, print a table."""
    options = parser(__doc__)
    options.set_defaults(batch=2, rounds=5)
    options.add_argument("--rival-python", help="Python of an environment with anomalib and open_clip_torch 2.24.0")
    options.add_argument("--also", nargs="*", default=[], metavar="METHOD", help="other methods to measure beside it")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(args, *random_model(args.arch), Path(folder))


if __name__ == "__main__":
    main()
