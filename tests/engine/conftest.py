"""A small detector and the files it is exported to, each written once a test run."""

from __future__ import annotations

import open_clip
import pytest

from anovl.backbones import Backbone
from anovl.detector import AnoVL
from anovl.exporting import export

VERSIONS = {"anovl": "0.1.0"}


@pytest.fixture(scope="session")
def small(tiny_clip, tmp_path_factory):
    """small(kind="vit", **settings of AnoVL): a detector with random weights, two blocks, 64 px, a grid of 4x4 (ResNet 2x2)."""
    cache = tmp_path_factory.mktemp("text")

    def build(kind="vit", **settings):
        clip = tiny_clip(kind) if kind == "resnet" else tiny_clip(kind, layers=2)
        backbone = Backbone.from_clip(clip, open_clip.get_tokenizer("ViT-B-32"), name="small")
        return AnoVL(backbone, cache_dir=cache, **settings)

    return build


@pytest.fixture(scope="session")
def exported(small, tmp_path_factory):
    """exported("a.onnx", classes=("nut",), **settings of export): what `export` returns, the file as its path."""
    folder = tmp_path_factory.mktemp("exported")
    made = {}

    def write(name, classes=("nut",), *, detector=None, **settings):
        if name not in made:
            forms = {"onnx": "onnx", "xml": "openvino", "pt2": "torch-export"}
            form = forms[name.rpartition(".")[2]]
            made[name] = export(detector or small(), folder / name, classes, form=form, check=True, versions=VERSIONS, **settings)
        return made[name]

    return write
