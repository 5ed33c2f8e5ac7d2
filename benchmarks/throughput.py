"""Images a second from pixels to scores against batch size, as a share of the device's matrix rate; and the paper's Table 7.

    python benchmarks/throughput.py [--device cpu] [--models mini ViT-B-16-plus-240] [--dtypes fp32 bf16] [--batches 1 8]
                                    [--table7 ViT-B-16-plus-240] [--rounds 5]

On a GPU: --device cuda --models mini ViT-B-16-plus-240 ViT-L-14-336 --dtypes fp32 bf16 --batches 1 4 16 64 256.

Training-free, text encoded beforehand; all but mini with random weights. The matrix rate is that of one product of three
matrices of 4096 x 4096 in the same precision, measured in turn with the model; operations are torch's own count. Table 7 times
its rows at the smallest and the largest of the batches, as multiples of open_clip's `encode_image`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import random_model, ratio, times_in_turn
from torch.utils.flop_counter import FlopCounterMode

from anovl.backbones import Backbone
from anovl.detector import AnoVL
from anovl.devices import pick_dtype

SIDE = 4096
CLASS_NAME = "metal nut"


def loaded(name: str, device: str, dtype: torch.dtype, folder: str) -> AnoVL:
    """The embedded model, or an architecture with random weights."""
    if name == "mini":
        return AnoVL.from_pretrained(name, device=device, dtype=dtype, cache_dir=folder)
    clip: Any = random_model(name, device)[0].to(dtype)
    import open_clip

    return AnoVL(Backbone.from_clip(clip, open_clip.get_tokenizer(name), name=name, weights_id="random"), cache_dir=folder)


def operations(detector: AnoVL, pixels: torch.Tensor) -> float:
    """Additions and multiplications of both paths for one image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(mode=False), torch.enable_grad():  # by torch's own operators, which are counted
        detector.method.encoder(pixels[:1].clone())
    return float(counter.get_total_flops())


def throughput(detector: AnoVL, batch: int, device: str, rounds: int) -> str:
    """A line of the table."""
    height, width = detector.backbone.image_size
    dtype = detector.backbone.dtype
    pixels = torch.randn(batch, 3, height, width, device=device)
    left, right = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    text = detector.job(CLASS_NAME).text
    calls: dict[str, Callable[[], object]] = {
        "scores": partial(detector.method.score, pixels, text),
        "product": partial(torch.matmul, left, right),
    }
    times = times_in_turn(calls, device, rounds)
    rate = operations(detector, pixels) * batch * ratio(times["product"], times["scores"]) / (2 * SIDE**3)
    return f"{batch:6} {batch / statistics.median(times['scores']):12.1f} images/s   {100 * rate:5.1f} % of the matrix rate"


def table7(detector: AnoVL, batch: int, device: str, rounds: int) -> None:
    """CLIP, TFA, TTA and WinCLIP on one batch."""
    height, width = detector.backbone.image_size
    pixels = torch.randn(batch, 3, height, width, device=device)
    clip: Any = detector.backbone.clip
    winclip = detector.with_method("winclip")
    adapted = detector.job(CLASS_NAME, adapt=True)
    calls: dict[str, Callable[[], object]] = {
        "CLIP (encode_image)": lambda: clip.encode_image(pixels.to(detector.backbone.dtype)),
        "TFA": partial(detector.method.score, pixels, adapted.text),
        "TTA": partial(detector.method.score, pixels, adapted.text, adapted.adapters),
        "WinCLIP": partial(winclip.method.score, pixels, winclip.job(CLASS_NAME).text),
    }
    times = times_in_turn(calls, device, rounds)
    base = times["CLIP (encode_image)"]
    for name, spent in times.items():
        print(f"{batch:6} {name:20} {statistics.median(spent) / batch * 1000:9.2f} ms/image   x{ratio(spent, base):6.2f}")


def main() -> None:
    """Parse, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu")
    options.add_argument("--models", nargs="*", default=["mini", "ViT-B-16-plus-240"])
    options.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options.add_argument("--table7", default="ViT-B-16-plus-240", help="the model of Table 7")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{args.threads} threads"
    print(f"{args.device} ({where}), medians of {args.rounds} rounds")
    with TemporaryDirectory() as folder, torch.inference_mode():
        for name in args.models:
            for dtype in args.dtypes:
                detector = loaded(name, args.device, pick_dtype(dtype), folder)
                print(f"{name}, {dtype}")
                for batch in args.batches:
                    print(throughput(detector, batch, args.device, args.rounds))
        for dtype in args.dtypes:
            detector = loaded(args.table7, args.device, pick_dtype(dtype), folder)
            print(f"Table 7, {args.table7}, {dtype}")
            for batch in (min(args.batches), max(args.batches)):
                table7(detector, batch, args.device, args.rounds)


if __name__ == "__main__":
    main()
