"""Draw a few metal washers, some scratched, with masks in the MVTec AD layout, and save a small CLIP with random weights.

    python examples/draw_demo.py FOLDER

The pictures show that everything runs; the random CLIP knows nothing, so its scores mean nothing.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file

SIZE = 320
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 240, "layers": 6, "width": 96, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def washer(rng: np.random.Generator) -> Image.Image:
    """A brushed metal ring on a bench, lit from a random side."""
    angle, (cx, cy) = rng.uniform(0, 2 * math.pi), rng.uniform(0.47, 0.53, 2) * SIZE
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    radius, turn = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    bench = 70 + 25 * (x * math.cos(angle) + y * math.sin(angle)) / SIZE + rng.normal(0, 2.5, (SIZE, SIZE))
    brushed = np.interp(radius, np.arange(SIZE), np.convolve(rng.normal(0, 12, SIZE + 4), np.ones(5) / 5, mode="valid"))
    metal = 165 + 45 * np.cos(2 * (turn - angle)) + brushed + rng.normal(0, 3, (SIZE, SIZE))
    inner, outer = rng.uniform(0.15, 0.19) * SIZE, rng.uniform(0.36, 0.4) * SIZE
    grey = np.where((radius > inner) & (radius < outer), metal, bench)
    pixels = np.stack([grey, grey * 0.99, grey * 0.96], axis=-1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7))


def scratch(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scratch the ring in place; returns the mask."""
    mask = Image.new("L", picture.size)
    start, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.22, 0.36, 9) * SIZE
    turns = start + np.linspace(0, rng.uniform(0.5, 1.0), 9)
    middle = SIZE / 2
    line = [(middle + r * math.cos(t), middle + r * math.sin(t)) for r, t in zip(np.sort(reach), turns, strict=True)]
    ImageDraw.Draw(mask).line(line, fill=255, width=int(rng.integers(3, 6)))
    picture.paste(Image.new("RGB", picture.size, (60, 52, 48)), mask=mask)
    return mask


def main(folder: Path) -> None:
    """Write FOLDER/parts and FOLDER/random-clip."""
    rng = np.random.default_rng(0)
    for kind, count in (("good", 3), ("scratch", 3)):
        for index in range(count):
            picture = washer(rng)
            path = folder / "parts" / "test" / kind / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "scratch":
                truth = folder / "parts" / "ground_truth" / kind / f"{index:03d}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                scratch(picture, rng).save(truth)
            picture.save(path)
    torch.manual_seed(0)
    model = folder / "random-clip"
    model.mkdir(parents=True, exist_ok=True)
    clip = open_clip.CLIP(**MODEL)
    save_file({name: value.half() for name, value in clip.state_dict().items()}, model / "open_clip_model.safetensors")
    (model / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/draw_demo.py FOLDER")
    main(Path(sys.argv[1]))
