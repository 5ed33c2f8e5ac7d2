"""Measurements for `anovl benchmark`: what the stages of a run cost on this machine, in one run."""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl.config import LINEAR_PROBE, RELEASED_ADAPTATION, Adaptation
from anovl.core.adapter import Adapter, adapt, draw_start
from anovl.core.scoring import anomaly_score
from anovl.data.sources import SourceItem
from anovl.data.synthetic import draw
from anovl.detector import AnoVL
from anovl.engine.local import Stacked
from anovl.render.overlay import overlay
from anovl.render.writers import save_image

DRAWN_CLASS, DRAWN_SIDE = "metal nut", 1024


def drawn_jpeg(index: int) -> bytes:
    """A drawn picture of a metal nut, 1024 px, every second one scratched, as a JPEG file."""
    picture = draw(DRAWN_CLASS, index, defect="scratch" if index % 2 else None, size=DRAWN_SIDE)
    file = io.BytesIO()
    Image.fromarray(picture.image).save(file, "JPEG", quality=92)
    return file.getvalue()


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


@dataclass(frozen=True)
class StageCost:
    """What one stage of a run costs.

    Attributes:
        name: of the stage.
        what: it does.
        milliseconds: an image (for "text" a class), median over the rounds.
        times_clip: that over the time of open_clip's `encode_image` in the same round.
    """

    name: str
    what: str
    milliseconds: float
    times_clip: float


@torch.inference_mode()
def stage_costs(detector: AnoVL, images: Sequence[Any], class_name: str, *, rounds: int = 3, seed: int = 0) -> list[StageCost]:
    """Every stage from a file to its overlay, one after another within each round; what threads overlap in a run is not.

    Args:
        detector: the model, with the method "anovl".
        images: one batch, as `anovl.load_image` takes them.
        class_name: what they show.
        rounds: measured ones; one more warms up.
        seed: of the adaptation.

    Returns:
        a row a stage; the first is open_clip's `encode_image` on the same pixels, for comparison.

    Raises:
        ImageError: an image cannot be used.
        UsageError: the class name or the seed.
    """
    with TemporaryDirectory() as folder:
        calls = _stages(detector, images, class_name, seed, Path(folder) / "overlay.png")
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + 1):
            for name, (_, call) in calls.items():
                spent = _milliseconds(call, detector.backbone.device) / (1 if name == "text" else len(images))
                if number:
                    times[name].append(spent)
    times["local path"] = [both - one for both, one in zip(times["local path"], times["class token"], strict=True)]
    return [
        StageCost(
            name,
            calls[name][0],
            statistics.median(spent),
            statistics.median(a / b for a, b in zip(spent, times["clip"], strict=True)),
        )
        for name, spent in times.items()
    ]


def _stages(
    detector: AnoVL, images: Sequence[Any], class_name: str, seed: int, path: Path
) -> dict[str, tuple[str, Callable[[], object]]]:
    """What each stage does, in words and as a call on what the stage before it gave."""
    backbone, encoder = detector.backbone, detector.method.encoder
    clip: Any = backbone.clip
    job = detector.job(class_name, adapt=True, seed=seed)
    plain, sentences = replace(job, adapters=()), detector.prompts(class_name)
    loaded = [job.load(image) for image in images]
    inputs = [job.pixels(picture) for picture, _ in loaded]
    pixels = detector.to_pixel_values(torch.from_numpy(np.stack(inputs)))
    tokens, scale = encoder(pixels), detector.method.logit_scale
    scores = Stacked(plain).score(inputs)
    grids = [(one.patch_scores, size) for one, (_, size) in zip(scores, loaded, strict=True)]
    item = SourceItem(None, None, "image")
    found = [plain.finish(item, size, one, {}) for one, (_, size) in zip(scores, loaded, strict=True)]
    drawn = [(picture, one) for (picture, _), one in zip(loaded, found, strict=True)]
    overlays = [overlay(*pair) for pair in drawn]
    return {
        "clip": ("open_clip's encode_image alone, for comparison", lambda: clip.encode_image(pixels)),
        "text": (
            "prompts of a class: once, then from the cache",
            lambda: backbone.encode_text([*sentences.normal, *sentences.abnormal]),
        ),
        "decode": ("file to RGB, one thread", lambda: [job.load(image) for image in images]),
        "resize": ("RGB to the model's input, one thread", lambda: [job.pixels(picture) for picture, _ in loaded]),
        "copy": (
            "a batch of inputs to the device, normalised",
            lambda: detector.to_pixel_values(torch.from_numpy(np.stack(inputs))),
        ),
        "class token": ("the model's own path", lambda: encoder.encode_class(pixels)),
        "local path": ("what the local tokens add", lambda: encoder(pixels)),
        "score": (
            "tokens against the prompts",
            lambda: [anomaly_score(some, job.text.prototypes, scale).cpu() for some in tokens],
        ),
        "adaptation": ("where asked for", lambda: adapt(job.adapters[0], tokens[1])),
        "upsample": ("patch grid to map, one thread", lambda: [detector.anomaly_map(*pair) for pair in grids]),
        "row": ("regions and JSON, one thread", lambda: [json.dumps(one.to_dict()) for one in found]),
        "overlay": ("drawn, where asked for, one thread", lambda: [overlay(*pair) for pair in drawn]),
        "png": ("the overlay to a file, one thread", lambda: [save_image(one, path) for one in overlays]),
    }


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) * 1000
