"""anovl info: versions, devices and folders, for a bug report."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from anovl import __version__

PACKAGES = (
    "torch",
    "open_clip_torch",
    "numpy",
    "scipy",
    "pillow",
    "safetensors",
    "huggingface_hub",
    "jinja2",
    "typer",
    "pyarrow",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "fastapi",
    "uvicorn",
    "ray",
)


def versions() -> dict[str, str]:
    """Version of this package, Python and every dependency that is installed."""
    found = {"anovl": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def info(*, as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False) -> None:
    """Print versions, devices and cache folders."""
    import torch
    from huggingface_hub import constants

    from anovl.checkpoints import cache_root

    root = cache_root(None)
    facts: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "devices": {
            "cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
            "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "mps": torch.backends.mps.is_available(),
        },
        "caches": {
            "release files": str(root or Path.home() / ".cache" / "clip"),
            "hub": str(root or constants.HF_HUB_CACHE),
            "text features": str((root or Path.home() / ".cache" / "anovl") / "prototypes"),
        },
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for title, value in facts.items():
        if not isinstance(value, dict):
            typer.echo(f"{title}: {value}")
            continue
        typer.echo(f"{title}:")
        for name, fact in value.items():
            typer.echo(f"  {name}: {fact}")
