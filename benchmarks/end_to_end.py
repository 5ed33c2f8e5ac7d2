"""One image file to its score and map: ours beside open_clip, the authors' way and anomalib's WinCLIP, one run.

    python benchmarks/end_to_end.py [--arch ViT-B-16-plus-240] [--threads 2] [--rounds 5] [--device cpu] [--rival-python PATH]

A JPEG of 1024 px, prompts encoded beforehand for everybody, random weights, one image at a time. `the authors' way` is
written from its description (docs/method.md, recipe `released`): 22 views of the image, each through both paths with
attention as plain products, and the adaptation as a loop of autograd and torch.optim.AdamW; its score and map are compared
with ours. PATH is the Python of an environment with anomalib, see benchmarks/winclip.py; it gets pixels, not the file.

The rivals take turns within each round; printed are medians of the times and of the ratios within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from adaptation import released_loop
from common import parser, random_model, ratio, times_in_turn
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from winclip import Rival

from anovl.benchmarking import DRAWN_CLASS, drawn_jpeg
from anovl.core.adapter import draw_start
from anovl.core.attention import merge_heads, split_heads
from anovl.core.scoring import smooth, to_image_size
from anovl.core.views import augmented_views
from anovl.data.images import load_image
from anovl.data.sources import SourceItem
from anovl.detection import DetectionJob
from anovl.detector import AnoVL
from anovl.engine.local import Stacked
from anovl.results import Prediction


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as its formula says, all weights in memory."""
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
    return merge_heads(weights @ v)


@torch.no_grad()
def plain_paths(encoder: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Class token and V-V tokens, every token of every block computed."""
    z = x = encoder.embed(pixel_values)
    for block in encoder.blocks:
        attn: Any = block.attn
        projected = F.linear(block.ln_1(z), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (split_heads(part, attn.num_heads) for part in projected.chunk(3, dim=-1))
        x = x + attn.out_proj(plain_attention(v, v, v))
        z = z + attn.out_proj(plain_attention(q, k, v))
        z = z + block.mlp(block.ln_2(z))
    return encoder.ln_post(z)[:, 0] @ encoder.proj, encoder.ln_post(x)[:, 1:] @ encoder.proj


def authors_way(job: DetectionJob, file: bytes) -> tuple[float, np.ndarray[Any, Any]]:
    """Score and map of one image under the recipe `released`, with adaptation."""
    detector, text = job.detector, job.text
    encoder = detector.method.encoder
    pixel_values = detector.preprocess(load_image(file))[None].to(detector.backbone.device)
    shares = []
    for view in [pixel_values, *augmented_views(pixel_values)]:
        class_token, local_tokens = plain_paths(encoder, view)
        shares.append((F.normalize(class_token, dim=-1) @ text.prototypes.T).softmax(dim=-1)[0, 1])
        if len(shares) == 1:
            tokens = local_tokens
    settings = detector.recipe.adaptation
    start = draw_start(settings, text, tokens.shape[1], 0)
    grid = released_loop(tokens, text, settings, start).sigmoid().unflatten(1, encoder.grid)
    maps = to_image_size(smooth(grid), encoder.image_size, align_corners=True)
    return float(torch.stack(shares).mean()), maps[0].cpu().numpy()


def predicted(job: DetectionJob, file: bytes) -> Prediction:
    """What `AnoVL.predict` does once the class is bound."""
    picture, size = job.load(file)
    (scores,) = Stacked(job).score([job.pixels(picture)])
    return job.finish(SourceItem(file, None, "image"), size, scores, {})


def main() -> None:
    """Parse, compare, measure, print a table."""
    options = parser(__doc__)
    options.set_defaults(rounds=5)
    options.add_argument("--device", default="cpu")
    options.add_argument("--rival-python", help="Python of an environment with anomalib and open_clip_torch 2.24.0")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    file = drawn_jpeg(1)
    clip, backbone = random_model(args.arch, args.device)
    with TemporaryDirectory() as folder:
        detectors = {
            "training-free": AnoVL(backbone, cache_dir=folder),
            "released": AnoVL(backbone, recipe="released", cache_dir=folder),
            "winclip": AnoVL(backbone, method="winclip", cache_dir=folder),
        }
        jobs = {name: detector.job(DRAWN_CLASS) for name, detector in detectors.items()}
        jobs["adapted"] = detectors["training-free"].job(DRAWN_CLASS, adapt=True)
        jobs["released, adapted"] = detectors["released"].job(DRAWN_CLASS, adapt=True)
        theirs, ours = authors_way(jobs["released"], file), predicted(jobs["released, adapted"], file)
        difference = np.abs(theirs[1] - ours.anomaly_map).max()
        print(f"released recipe, ours and theirs: score {abs(theirs[0] - ours.pred_score):.1e}, map {difference:.1e} apart")
        pixels = detectors["training-free"].preprocess(load_image(file))[None]
        on_device = pixels.to(args.device)
        calls: dict[str, Callable[[], object]] = {
            "open_clip encode_image": torch.inference_mode()(lambda: clip.encode_image(on_device))
        }
        for name in ("training-free", "adapted", "released, adapted", "winclip"):
            calls[f"anovl, {name}"] = lambda job=jobs[name]: predicted(job, file)  # type: ignore[misc]
        calls["the authors' way"] = lambda: authors_way(jobs["released"], file)
        rival = None
        if args.rival_python:
            save_file(
                {name: value.contiguous().cpu() for name, value in clip.state_dict().items()},
                Path(folder) / "weights.safetensors",
            )
            save_file({"pixels": pixels}, Path(folder) / "pixels.safetensors")
            rival = Rival(args.rival_python, Path(folder), args.threads, args.arch)
            calls["anomalib's WinCLIP"] = rival.run
        times = times_in_turn(calls, args.device, args.rounds)
        if rival:
            rival.close()
    print(f"{args.arch}, {args.device}, {args.threads} threads, fp32, random weights, medians of {args.rounds} rounds")
    for name, spent in times.items():
        ratios = [ratio(spent, times[other]) for other in ("open_clip encode_image", "the authors' way")]
        ms = statistics.median(spent) * 1000
        print(f"{name:26} {ms:9.1f} ms   x{ratios[0]:6.2f} of open_clip's   the authors' way takes x{1 / ratios[1]:6.2f}")


if __name__ == "__main__":
    main()
