"""Shared fixtures: the golden model and tensors, small CLIPs, drawn pictures, and --device/--dtype of a test run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from anovl.backbones import Backbone, load_backbone
from anovl.detector import AnoVL

settings.register_profile("ci", derandomize=True)  # a landing does not depend on chance; other runs explore
if os.environ.get("CI"):
    settings.load_profile("ci")

GOLDEN = Path(os.environ.get("ANOVL_GOLDEN_DIR", Path(__file__).parent / "golden"))


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device the model tests run on")
    parser.addoption("--dtype", default="fp32", help="fp32, bf16 or fp16: precision of the model tests")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's caches, and none waits for a network."""
    monkeypatch.setenv("ANOVL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in [n for n in os.environ if n.startswith("ANOVL_") and n not in ("ANOVL_CACHE", "ANOVL_GOLDEN_DIR")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden_name() -> str:
    return f"local-dir:{GOLDEN / 'model'}"


@pytest.fixture(scope="session")
def golden_backbone(golden_name) -> Backbone:
    return load_backbone(golden_name, device="cpu")


@pytest.fixture(scope="session")
def backbone(golden_name, pytestconfig) -> Backbone:
    """The golden model on the device and in the precision that the test run asks for."""
    return load_backbone(golden_name, device=pytestconfig.getoption("--device"), dtype=pytestconfig.getoption("--dtype"))


@pytest.fixture
def detector(golden_backbone) -> AnoVL:
    return AnoVL(golden_backbone)


@pytest.fixture(scope="session")
def tiny_clip():
    """Builder of small open_clip models with random weights: tiny_clip(kind="vit", **vision settings)."""
    import open_clip

    def build(kind: str = "vit", *, quick_gelu: bool = False, seed: int = 0, **vision):
        if kind == "vit":
            vision_cfg = {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16, **vision}
        else:
            vision_cfg = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None, **vision}
        text_cfg = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=24, vision_cfg=vision_cfg, text_cfg=text_cfg, quick_gelu=quick_gelu)
        for parameter in model.parameters():  # some weights start at zero and would hide mistakes
            if parameter.ndim and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                torch.nn.init.uniform_(module.weight, 0.5, 1.0)
        return model.eval().requires_grad_(False)

    return build


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of five drawn pictures, two folders deep, of different sizes and formats."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for index, name in enumerate(["a.png", "b.jpg", "deep/c.bmp", "deep/er/d.webp", "e.tif"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40 + 10 * index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder
