"""What five steps of test-time adaptation add to the training-free pass: ours against the plain autograd loops.

    python benchmarks/adaptation.py [--arch ViT-B-16-plus-240] [--batch 8] [--threads 2] [--rounds 7] [--device cpu]

Rivals, written from the paper's equations and from the description of the released code: one image at a time, every
product made, autograd for the gradient, torch.optim.AdamW. All take turns within each round; printed are the medians
of the per-round ratios. `arithmetic` is the time of the products alone, at the speed of one large product measured in
the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from common import now, parser, random_model
from torch import Tensor
from torch.nn import functional as F

from anovl.config import RECIPES, Adaptation
from anovl.core.adapter import Adapter, Start, adapt, draw_start
from anovl.core.scoring import TextFeatures, text_features


def paper_loop(tokens: Tensor, text: TextFeatures, settings: Adaptation, start: Start) -> Tensor:
    """Eq. (9)-(11) to the letter, [B, M, C] -> [B, M]."""
    every = []
    for image in tokens:
        patches = F.normalize(image, dim=-1)
        pseudo_label = (patches @ text.prototypes.T).softmax(dim=-1)[:, 1]
        weight = text.tokens.clone().requires_grad_()
        optimiser = torch.optim.AdamW([weight], lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for step in range(settings.steps):
            adapted = (patches @ weight.T).softmax(dim=-1) @ text.tokens + patches
            noisy = adapted + start.noise[step]
            score = (F.normalize(adapted, dim=-1) @ text.prototypes.T).softmax(dim=-1)[:, 1]
            noisy_score = (F.normalize(noisy, dim=-1) @ text.prototypes.T).softmax(dim=-1)[:, 1]
            loss = -((1 - score).log() + noisy_score.log()).mean() / 2 - (pseudo_label * score.log()).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            adapted = (patches @ weight.T).softmax(dim=-1) @ text.tokens + patches
            similarity = F.normalize(adapted, dim=-1) @ text.prototypes.T
            every.append(similarity[:, 1] - similarity[:, 0])
    return torch.stack(every)


def released_loop(tokens: Tensor, text: TextFeatures, settings: Adaptation, start: Start) -> Tensor:
    """The adaptation of the authors' code, fresh moments for every image, [B, M, C] -> [B, M]."""
    every = []
    for image in tokens:
        linear = torch.nn.Linear(image.shape[1], len(text.tokens), device=image.device)
        with torch.no_grad():
            linear.weight.copy_(start.weight)
            linear.bias.copy_(start.bias if start.bias is not None else torch.zeros_like(linear.bias))
        optimiser = torch.optim.AdamW(linear.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

        def adapted(patches: Tensor, linear: torch.nn.Linear = linear) -> Tensor:
            return patches / 2 + torch.tanh(linear(F.normalize(patches, dim=-1))) @ text.tokens / 2

        for step in range(settings.steps):
            clean = (F.normalize(adapted(image), dim=-1) @ text.prototypes.T).softmax(dim=-1)
            noisy = (F.normalize(adapted(image + start.noise[step]), dim=-1) @ text.prototypes.T).softmax(dim=-1)
            entropy = -(clean * clean.log()).sum(dim=-1).mean()
            loss = entropy + (-noisy[:, 1].log() - (1 - clean[:, 1]).log()).mean() / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            similarity = F.normalize(adapted(image), dim=-1) @ text.prototypes.T
            every.append(similarity[:, 1] - similarity[:, 0])
    return torch.stack(every)


def multiply_adds(name: str, patches: int, prompts: int, width: int, steps: int) -> int:
    """Of the plain chain for one image: forward and backward of two products an input, and the last forward."""
    inputs = 1 if name == "paper" else 2
    return patches * prompts * width * (4 * inputs * steps + 2)


def rivals(tokens: Tensor, text: TextFeatures) -> dict[str, Callable[[], object]]:
    """What takes turns: ours and the loops, whose results are compared first."""
    calls: dict[str, Callable[[], object]] = {}
    for name, loop in (("paper", paper_loop), ("released", released_loop)):
        settings = RECIPES[name].adaptation
        start = draw_start(settings, text, tokens.shape[1], 0)
        adapter = Adapter(text, settings, start)
        calls[f"{name}, ours"] = partial(adapt, adapter, tokens)
        calls[f"{name}, autograd loop"] = partial(loop, tokens, text, settings, start)
        difference = (adapt(adapter, tokens).similarity - loop(tokens, text, settings, start)).abs().max()
        print(f"{name}: largest difference of a cosine, ours and loop: {float(difference):.1e}")
    return calls


def main() -> None:
    """Parse, measure, print a table."""
    options = parser(__doc__)
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    encoder = random_model(args.arch, args.device)[1].encoder("vv")
    pixels = torch.randn(args.batch, 3, *encoder.image_size, device=args.device)
    with torch.inference_mode():
        tokens = encoder(pixels)[1]
    tokens = tokens.clone()  # no inference tensor: autograd reads it
    patches, width = tokens.shape[1:]
    text = text_features(*torch.randn(2, 462, width, device=args.device))
    left, right = torch.randn(args.batch * patches, width, device=args.device), torch.randn(width, 924, device=args.device)
    calls: dict[str, Callable[[], object]] = {"training-free pass": partial(encoder, pixels), **rivals(tokens, text)}
    calls["one product"] = partial(torch.matmul, left, right)

    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(args.rounds + 1):
        for name, call in calls.items():
            repeats = 10 if name == "one product" else 1
            began = now(args.device)
            with torch.inference_mode(mode="loop" not in name):
                for _ in range(repeats):
                    call()
            if round_number:  # the first is the warm-up
                times[name].append((now(args.device) - began) / repeats)
    base, product = times["training-free pass"], times.pop("one product")
    print(f"{args.arch}, batch {args.batch}, {args.device}, {args.threads} threads, fp32, random weights, {args.rounds} rounds")
    for name, values in times.items():
        added = statistics.median(value / whole for value, whole in zip(values, base, strict=True))
        print(f"{name:24} {statistics.median(values) / args.batch * 1000:8.2f} ms/image   x{added:.3f} of the training-free pass")
    for name in ("paper", "released"):
        own_times, loop_times = times[f"{name}, ours"], times[f"{name}, autograd loop"]
        faster = statistics.median(slow / fast for slow, fast in zip(loop_times, own_times, strict=True))
        work = multiply_adds(name, patches, 924, width, 5) / (patches * 924 * width)
        floor = statistics.median(work * one / whole for one, whole in zip(product, base, strict=True))
        print(f"{name}: the loop takes x{faster:.2f} of ours; arithmetic of the plain chain alone x{floor:.3f}")


if __name__ == "__main__":
    main()
