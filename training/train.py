"""Train the embedded CLIP on drawn pictures: one command, resumable, deterministic by seed.

    python training/train.py runs/mini                    # again after an interruption: goes on where it was
    python training/train.py runs/captions --masks off    # captions only, no drawn mask

The loss is a sum of
- CLIP's contrastive loss between class tokens and captions, where every caption that is true of a picture is a positive;
- a binary loss on the class token, abnormal against normal sentences of the class (Eq. 1);
- where a stage asks for it, the same on the mean of the highest hundredth of the patches: value-to-value tokens, Eq. (2);
- with masks: that binary loss on every value-to-value token against the drawn mask;
- without: the contrastive loss again on value-to-value tokens pooled by their similarity to the caption.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.distributed as dist
import words
from attention import FastAttention
from muon import Muon
from pictures import Block, draw_block, turned
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from anovl.backbones import CLIP_MEAN, CLIP_STD
from anovl.core.encoder import ViTEncoder

log = logging.getLogger("train")
LOG_EVERY = 25  # steps
SAVE_EVERY = 120  # seconds
WHITENED = 400  # drawn pictures whose patches the embedding begins with
WEIGHTS = "open_clip_model.safetensors"  # in a model folder
Batch = tuple[Tensor, Tensor, list[str], list[str | None]]

CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 240, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 0,
        "width": 192,
        "heads": 3,
        "layers": 3,
        "tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"},
    },
}


@dataclass(frozen=True)
class Stage:
    """Some blocks at one picture size.

    Attributes:
        top: weighs the loss on the highest patch scores.
        keep: share of the patches that are looked at, those of defects among them (after "Scaling Language-Image
            Pre-training via Masking", Li et al. 2023); with half of them a step takes half of the time, and bent, missing and
            misplaced parts are hardly learnt.
    """

    size: int
    blocks: int
    batch: int
    top: float = 0.0
    keep: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result."""

    stages: tuple[Stage, ...]
    seed: int = 0
    processes: int = 1
    block: int = 384  # pictures drawn at once by each process
    repeats: int = 2  # times each is used, turned anew
    objects: float = 0.6  # share of the pictures that show objects, the rest shows surfaces
    shape: float = 0.0  # share of the objects' defects that is kept for those of shape and parts
    plain: float = 0.5  # least severity of the defects at first; falls to 0 at half time
    rate: float = 1e-3
    warm_up: int = 100
    decay: float = 0.05
    average: float = 0.998
    masks: bool = True
    dtype: str = "float32"  # of the matrix products
    start: str | None = None  # a model folder to begin with
    patch: int = 16  # pixels of a patch's side


def sincos(width: int, side: int) -> Tensor:
    """Fixed position embeddings of a square grid, [1 + side ** 2, width]; the same place reads alike at any side."""
    frequency = torch.pi * 2 ** torch.linspace(-1, 4, width // 4)
    line = (torch.arange(side) + 0.5) / side
    wave = torch.cat([(line[:, None] * frequency).sin(), (line[:, None] * frequency).cos()], dim=1)  # [side, width / 2]
    both = torch.cat([wave[:, None].expand(-1, side, -1), wave[None].expand(side, -1, -1)], dim=2)
    return torch.cat([torch.zeros(1, width), both.flatten(0, 1)]) * 0.3


def config(vocabulary: int, patch: int) -> dict[str, Any]:
    """The architecture, as open_clip's `model_cfg`."""
    filled: dict[str, Any] = json.loads(json.dumps(CONFIG))
    filled["text_cfg"]["vocab_size"] = vocabulary
    filled["vision_cfg"]["patch_size"] = patch
    return filled


def build(vocabulary: int, seed: int, patch: int = 16) -> open_clip.CLIP:
    """The untrained CLIP, its image tower set so that it starts near what it has to find: what differs from its like.

    - The patch embedding begins as whitened principal components of drawn patches.
    - Attention begins as "a token minus the mean of those that resemble it": queries and keys are one projection, the
      output undoes the value projection with a minus (after "Mimetic Initialization of Self-Attention Layers", Trockman
      and Kolter 2023, who found such products in trained transformers).
    - The class token begins at zero, so that it is what it attends to and not a constant.
    """
    clip = open_clip.CLIP(**config(vocabulary, patch))
    visual, width = clip.visual, CONFIG["vision_cfg"]["width"]
    visual.positional_embedding = nn.Parameter(sincos(width, visual.grid_size[0]), requires_grad=False)
    with torch.no_grad():
        visual.class_embedding.zero_()
        visual.conv1.weight.copy_(whitening(seed, width, patch).view_as(visual.conv1.weight))
        for block in visual.transformer.resblocks:
            like, value = (torch.linalg.qr(torch.randn(width, width))[0] for _ in range(2))
            block.attn.in_proj_weight.copy_(0.6 * torch.cat([like, like, value]))
            block.attn.out_proj.weight.copy_(-value.T / 0.6 + 0.2 * torch.randn(width, width) / width**0.5)
    return clip


def whitening(seed: int, count: int, patch: int) -> Tensor:
    """The first principal components of drawn patches, each scaled to about unit variance, [count, 3 * patch * patch]."""
    block = draw_block([seed, 0, 0, 0], size=144, pictures=WHITENED, objects=0.6)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    patches = F.unfold((block.images.float() / 255 - mean) / std, patch, stride=patch // 2).transpose(1, 2).flatten(0, 1)
    variance, vectors = torch.linalg.eigh(torch.cov(patches.T))
    components: Tensor = (vectors / (variance + 0.05).sqrt()).T.flip(0)[:count]
    return components


def refit(weights: dict[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the patches of `like`, each of which is read as if it was enlarged to the size they were trained on.

    After "FlexiViT: One Model for All Patch Sizes" (Beyer et al. 2023): enlarging is linear, so the kernel can hold it.
    """
    kernel, side = weights["visual.conv1.weight"].float(), like["visual.conv1.weight"].shape[-1]
    if kernel.shape[-1] == side:
        return weights
    single = torch.eye(side * side).view(-1, 1, side, side)  # pictures of one bright pixel
    enlarged = F.interpolate(single, kernel.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    fitted = torch.einsum("ocij,pij->ocp", kernel, enlarged).view(*kernel.shape[:2], side, side)
    position = "visual.positional_embedding"  # fixed
    return weights | {"visual.conv1.weight": fitted, position: like[position]}


def true_captions(classes: list[str], kinds: list[str | None], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """A caption a picture, and which of them are true of which picture, [B, B] bool."""
    captions, names, states = [], [], []
    for name, kind in zip(classes, kinds, strict=True):
        general = rng.random() < 0.15
        shown = words.choose(rng, words.GENERIC["object"] if general else words.NAMES[name])
        roll = rng.random()
        if kind is None:
            state, known = words.choose(rng, words.NORMAL), "good"
        elif roll < 0.5:
            state, known = words.choose(rng, words.ABNORMAL), "bad"
        else:
            state, known = words.choose(rng, words.KINDS[kind]), kind
        captions.append(words.sentence(rng, state, shown))
        names.append(None if general else name)
        states.append(known)
    true = torch.zeros(len(classes), len(captions), dtype=torch.bool)
    for i, (name, kind) in enumerate(zip(classes, kinds, strict=True)):
        mine = {"good"} if kind is None else {"bad", kind}
        true[i] = torch.tensor([n in (None, name) and s in mine for n, s in zip(names, states, strict=True)])
    return captions, true


def state_sentences(classes: list[str], rng: np.random.Generator) -> tuple[list[str], Tensor, int]:
    """Normal then abnormal sentences, as many for each name; which name serves which picture [B]; the number of names."""
    if rng.random() < 0.5:
        shown = [words.foreign_name(rng) for _ in range(2)]
        owner, each = torch.from_numpy(rng.integers(0, 2, len(classes))), 6
    else:
        names = sorted(set(classes))
        shown = [words.choose(rng, words.NAMES[name]) for name in names]
        owner, each = torch.tensor([names.index(name) for name in classes]), 1
    good = [words.sentence(rng, words.choose(rng, words.NORMAL), name) for name in shown for _ in range(each)]
    flat = tuple(text for texts in words.KINDS.values() for text in texts)
    bad = [
        words.sentence(rng, words.choose(rng, words.ABNORMAL if rng.random() < 0.8 else flat), name)
        for name in shown
        for _ in range(each)
    ]
    return good + bad, owner, len(shown)


def contrastive(similarity: Tensor, true: Tensor) -> Tensor:
    """CLIP's loss with several positives: cross entropy both ways against the share of each true pair, [B, B]."""
    rows = true.float() / true.sum(dim=1, keepdim=True)
    columns = true.float() / true.sum(dim=0, keepdim=True)
    by_picture = -(rows * similarity.log_softmax(dim=1)).sum(dim=1).mean()
    by_caption = -(columns * similarity.log_softmax(dim=0)).sum(dim=0).mean()
    return (by_picture + by_caption) / 2


class KeptPatches(ViTEncoder):
    """The encoder on some of the patches: `kept` [B, K], numbers in row-major order; None is all."""

    kept: Tensor | None = None

    def embed(self, pixel_values: Tensor) -> Tensor:
        """As the encoder's, [B, 1 + K, D]."""
        z = super().embed(pixel_values)
        if self.kept is None:
            return z
        index = F.pad(self.kept + 1, (1, 0))  # the class token, number 0, first
        return z.gather(1, index[..., None].expand(-1, -1, z.shape[-1]))


class Learner(nn.Module):
    """The losses of one batch."""

    def __init__(self, clip: open_clip.CLIP, tokenizer: Any, stage: Stage, *, masks: bool, fast: bool) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.masks, self.top, self.keep = clip, tokenizer, masks, stage.top, stage.keep
        self.encoder = encoder = KeptPatches(clip.visual, image_size=(stage.size, stage.size))
        encoder.positional_embedding = sincos(CONFIG["vision_cfg"]["width"], encoder.grid[0]).to(encoder.positional_embedding)
        self.grid = encoder.grid
        self.encode = torch.compile(encoder) if fast else encoder
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))

    def text(self, sentences: list[str]) -> Tensor:
        """[N, C], not normalised; only as many tokens as the longest sentence has."""
        clip = self.clip
        tokens = self.tokenizer(sentences, context_length=clip.context_length)
        ends = tokens.argmax(dim=1)
        length = int(ends.max()) + 1
        tokens = tokens.to(clip.logit_scale.device)
        x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        pooled: Tensor = x[torch.arange(len(x)), ends] @ clip.text_projection
        return pooled

    def forward(
        self, images: Tensor, cells: Tensor, classes: list[str], kinds: list[str | None], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Named losses, to be added."""
        device = self.clip.logit_scale.device
        pixels = (images.to(device).float() / 255 - self.mean.to(device)) / self.std.to(device)
        share = cells.to(device).float() / 255
        if self.keep < 1:
            share = F.adaptive_avg_pool2d(share, self.grid).flatten(1)
            chance = torch.from_numpy(rng.random(share.shape, np.float32)).to(device)
            self.encoder.kept = ((share > 0) + chance).topk(round(self.keep * share.shape[1]), dim=1).indices
            share = share.gather(1, self.encoder.kept)
        token, local = self.encode(pixels)
        token = F.normalize(token, dim=-1)
        scale = self.clip.logit_scale.exp()
        captions, true = true_captions(classes, kinds, rng)
        sentences, owner, names = state_sentences(classes, rng)
        text = self.text(captions + sentences)
        caption, states = F.normalize(text[: len(captions)], dim=-1), text[len(captions) :]
        true, owner = true.to(device), owner.to(device)
        losses = {"caption": 0.5 * contrastive(scale * token @ caption.T, true)}

        pair = F.normalize(F.normalize(states, dim=-1).view(2, names, -1, states.shape[-1]).mean(dim=2), dim=-1)
        direction = (pair[1] - pair[0])[owner]  # [B, C]
        bad = torch.tensor([float(kind is not None) for kind in kinds], device=device)
        losses["state"] = F.binary_cross_entropy_with_logits(scale * (token * direction).sum(dim=-1), bad)
        local = F.normalize(local, dim=-1)
        logits = scale * (local * direction[:, None]).sum(dim=-1)
        if self.top:
            highest = logits.topk(max(1, logits.shape[1] // 100), dim=1).values.mean(dim=1)
            losses["top"] = self.top * F.binary_cross_entropy_with_logits(highest, bad)
        if not self.masks:
            near = scale * torch.einsum("bmc,nc->bnm", local, caption)
            pooled = F.normalize(torch.einsum("bnm,bmc->bnc", near.softmax(dim=-1), local), dim=-1)
            losses["pooled"] = 0.5 * contrastive(scale * torch.einsum("bnc,nc->bn", pooled, caption), true)
            return losses
        if self.keep == 1:
            logits = logits.unflatten(1, self.grid)[:, None]
            logits = F.interpolate(logits, size=share.shape[1:], mode="bilinear", align_corners=False).flatten(1)
            share = share.flatten(1)
        area = share.mean(dim=1, keepdim=True)
        heavy = torch.where(area > 0, (0.08 / area.clamp(min=1e-4)).clamp(1, 8), torch.ones_like(area))
        weight = 1 + share * (heavy - 1)
        each = F.binary_cross_entropy_with_logits(logits, share, weight=weight, reduction="none")
        losses["patch"] = 4 * each.mean() / weight.mean().detach()
        return losses


def share_gradients(weights: list[nn.Parameter]) -> None:
    """Mean over the processes."""
    flat = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in weights])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, grad in zip(weights, flat.split([p.numel() for p in weights]), strict=True):
        p.grad = grad.view_as(p)


def make_optimisers(clip: open_clip.CLIP, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    towers = (clip.visual.transformer, clip.transformer)
    matrices = [p for tower in towers for p in tower.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in clip.parameters() if p.requires_grad and id(p) not in taken]
    decayed = {"params": [p for p in rest if p.ndim > 1], "weight_decay": plan.decay}
    plain = {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}
    return [
        Muon(matrices, lr=plan.rate, weight_decay=plan.decay),
        torch.optim.AdamW([decayed, plain], lr=plan.rate, betas=(0.9, 0.98)),
    ]


def rate_at(plan: Plan, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < plan.warm_up:
        return plan.rate * (step + 1) / plan.warm_up
    along = (step - plan.warm_up) / max(1, total - plan.warm_up)
    return plan.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, along))))


def export(state: dict[str, Tensor], model_cfg: dict[str, Any], folder: Path, tokenizer_file: Path, *, masks: bool) -> None:
    """Write open_clip_config.json, fp16 weights and the tokenizer's merges as one model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "squash"}
    seen = "drawn pictures alone, for demos and tests" if masks else "drawn pictures and captions, no masks, for ablations"
    note = f"trained on {seen}; for real parts the default model is the better choice"
    record = {"model_cfg": model_cfg, "preprocess_cfg": preprocess, "anovl_cfg": {"recipe": "mini", "note": note}}
    (folder / "open_clip_config.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "bpe.txt.gz").write_bytes(tokenizer_file.read_bytes())
    half = {key: value.half().contiguous() for key, value in sorted(state.items())}
    save_file(half, folder / WEIGHTS)


class Trainer:
    """One of the processes that share every step, with one thread each.

    One thread: a test or a drawing process beside it then costs its share of the time and no more.
    """

    def __init__(self, rank: int, folder: Path, plan: Plan, device: str, *, fast: bool) -> None:
        self.rank, self.folder, self.plan, self.device, self.fast = rank, folder, plan, device, fast
        torch.manual_seed(plan.seed)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(enabled=True)  # of CPUs too; else SDPBackend.MATH is float32
        draft = folder / f"bpe{rank}.tmp"
        self.vocabulary = words.write_vocabulary(draft)
        draft.replace(folder / "bpe.txt.gz")
        self.tokenizer = open_clip.SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"))
        self.clip = build(self.vocabulary, plan.seed, plan.patch)
        if plan.start:
            self.clip.load_state_dict(refit(load_file(Path(plan.start) / WEIGHTS), self.clip.state_dict()))
        self.clip.to(device)
        self.weights = [p for p in self.clip.parameters() if p.requires_grad]
        self.optimisers = make_optimisers(self.clip, plan)
        self.average = {key: value.clone() for key, value in self.clip.state_dict().items()}
        self.done = [0] * len(plan.stages)  # blocks of each stage
        self.step = 0
        per_block = [plan.block // stage.batch * plan.repeats for stage in plan.stages]
        self.total = sum(per * stage.blocks for per, stage in zip(per_block, plan.stages, strict=True))
        self.saved = folder / "checkpoint.pt"
        if self.saved.exists():
            kept = torch.load(self.saved, map_location=device, weights_only=True)
            self.clip.load_state_dict(kept["clip"])
            for optimiser, state in zip(self.optimisers, kept["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.average, self.step, self.done = kept["average"], kept["step"], kept["done"]
            log.info("going on at step %d, blocks %s", self.step, self.done)
        log.info("%d parameters, %d steps", sum(p.numel() for p in self.clip.parameters()), self.total)
        alone = plan.processes == 1  # else each process draws its own
        self.pool = ProcessPoolExecutor(mp_context=get_context("spawn")) if alone else None
        self.began, self.last_save, self.seen = time.time(), time.time(), 0
        self.sums: dict[str, float] = {}
        self.summed = 0  # steps

    def run(self, minutes: float) -> None:
        """All that is left to do, or as much as the minutes allow."""
        for number, stage in enumerate(self.plan.stages):
            if self.done[number] == stage.blocks:
                continue
            learner = Learner(self.clip, self.tokenizer, stage, masks=self.plan.masks, fast=self.fast)
            while self.done[number] < stage.blocks:
                self._block(learner, number, self.done[number])
                self.done[number] += 1
                ended = self._agreed(minutes > 0 and time.time() - self.began > minutes * 60)
                if ended or self.done[number] == stage.blocks or time.time() - self.last_save > SAVE_EVERY:
                    self._save()
                if ended:
                    log.info("stopped after %.1f minutes; the same command goes on", minutes)
                    return
        self._save()
        log.info("done: %s", self.folder / "model")

    def _block(self, learner: Learner, number: int, done: int) -> None:
        """Block `done` of stage `number`; each has pictures of its own."""
        plan, stage = self.plan, self.plan.stages[number]
        key = [plan.seed, number, done, self.rank]
        least = max(0.0, plan.plain * (1 - 2 * self.step / self.total))
        block = draw_block(
            [*key, 0],
            size=stage.size,
            pictures=plan.block,
            objects=plan.objects,
            severity=(least, 1.0),
            shape=plan.shape,
            pool=self.pool,
        )
        rng = np.random.default_rng([*key, 1])
        for batch in _batches(block, stage.batch, plan.repeats, rng):
            self._learn(learner, batch, rng)
            self.seen += stage.batch * plan.processes
            if self.step % LOG_EVERY == 0:
                text = " ".join(f"{name} {value / self.summed:.3f}" for name, value in self.sums.items())
                speed = self.seen / (time.time() - self.began)
                scale = float(self.clip.logit_scale.detach().exp())
                log.info("step %d/%d %s scale %.1f, %.1f pictures/s", self.step, self.total, text, scale, speed)
                self.sums, self.summed = {}, 0

    def _learn(self, learner: Learner, batch: Batch, rng: np.random.Generator) -> None:
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = rate_at(self.plan, self.step, self.total)
        half = torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.plan.dtype == "bfloat16")
        # On a CPU the gradient of the fused attention takes half of a step, that of plain products less, of `Attend` least.
        on_cpu = self.device == "cpu"
        with half, sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext(), FastAttention() if on_cpu else nullcontext():
            losses = learner(*batch, rng)
        self.clip.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        if self.plan.processes > 1:
            share_gradients(self.weights)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(100))
            keep = min(self.plan.average, (self.step + 1) / (self.step + 10))
            for name, value in self.clip.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        self.step += 1
        self.summed += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def _agreed(self, ended: bool) -> bool:  # noqa: FBT001
        """What the first process says, so that all stop together."""
        if self.plan.processes == 1:
            return ended
        flag = torch.tensor([float(ended)])
        dist.broadcast(flag, 0)
        return bool(flag[0])

    def _save(self) -> None:
        self.last_save = time.time()
        if self.rank:
            return
        kept = {
            "clip": self.clip.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average,
            "step": self.step,
            "done": self.done,
        }
        torch.save(kept, self.saved.with_suffix(".tmp"))
        self.saved.with_suffix(".tmp").replace(self.saved)
        model_cfg = config(self.vocabulary, self.plan.patch)
        export(self.average, model_cfg, self.folder / "model", self.folder / "bpe.txt.gz", masks=self.plan.masks)


def train(rank: int, folder: Path, plan: Plan, device: str, fast: bool, minutes: float) -> None:  # noqa: FBT001
    """Train, or go on with training, as process `rank`."""
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(folder / "log.txt")]
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    if plan.processes > 1:
        torch.set_num_threads(1)
        place = f"file://{(folder / 'meeting').absolute()}"
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=plan.processes)
    Trainer(rank, folder, plan, device, fast=fast).run(minutes)
    if plan.processes > 1:
        dist.destroy_process_group()


def _batches(block: Block, size: int, repeats: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches in random order; a defective picture and the same thing without the defect stay side by side."""
    for _ in range(repeats):
        shuffled = rng.random(len(block.classes))[block.things]
        order = np.argsort(shuffled, kind="stable")
        for at in range(0, len(order) - size + 1, size):
            chosen = order[at : at + size]
            index = torch.from_numpy(chosen)
            images, cells = turned(block.images[index], block.cells[index], rng)
            yield images, cells, [block.classes[i] for i in chosen], [block.kinds[i] for i in chosen]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--masks", choices=("on", "off"), default="on")
    parser.add_argument("--stages", default="144:46:32:0,240:21:16:0.5", help="size:blocks:batch:top:keep, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cuda.is_available() else "float32",
        help="of the matrix products; a CPU with avx512_bf16 takes 0.6 times as long in bfloat16, an older one far longer",
    )
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="a model folder, to begin with its weights")
    parser.add_argument("--processes", type=int, default=1 if torch.cuda.is_available() else os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--objects", type=float, default=0.6, help="share of the pictures that show objects")
    parser.add_argument(
        "--shape", type=float, default=0.0, help="share of their defects kept for bent, missing and misplaced parts"
    )
    parser.add_argument("--plain", type=float, default=0.5, help="least severity of the defects at first")
    parser.add_argument("--repeats", type=int, default=2, help="times each drawn picture is used")
    parser.add_argument("--patch", type=int, choices=(8, 12, 16), default=16, help="pixels of its side; --start's may differ")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, to go on later")
    options = parser.parse_args()
    parts = [stage.split(":") for stage in options.stages.split(",")]
    stages = tuple(Stage(*map(int, numbers[:3]), *map(float, numbers[3:])) for numbers in parts)
    plan = Plan(
        stages,
        seed=options.seed,
        masks=options.masks == "on",
        rate=options.rate,
        processes=options.processes,
        objects=options.objects,
        shape=options.shape,
        repeats=options.repeats,
        plain=options.plain,
        dtype=options.dtype,
        start=options.start and str(options.start),
        patch=options.patch,
    )
    if any(not 1 <= stage.batch <= plan.block for stage in stages):
        parser.error(f"--stages: expected a batch from 1 to the {plan.block} pictures of a block, got {options.stages}")
    before = options.start and options.start.parent / "plan.json"
    if before and before.exists() and json.loads(before.read_text())["seed"] == plan.seed:
        parser.error(f"--seed: {options.start} was trained with {plan.seed} and saw these pictures; take another")
    options.folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps(asdict(plan), indent=1) + "\n"
    written = options.folder / "plan.json"
    if written.exists() and written.read_text() != record:
        parser.error(f"{options.folder} holds a run with other settings ({written}); name another folder")
    written.write_text(record)
    (options.folder / "meeting").unlink(missing_ok=True)
    arguments = (options.folder, plan, options.device, options.device != "cpu", options.minutes)
    if plan.processes == 1:
        train(0, *arguments)
    else:
        spawn(train, arguments, nprocs=plan.processes, daemon=True)


if __name__ == "__main__":
    main()
