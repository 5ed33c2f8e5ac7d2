"""anovl: zero-shot defect detection and localization in images (AnoVL, arXiv:2308.15939).

Public names are loaded on first use, so that ``import anovl`` imports neither torch nor open_clip.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anovl.backbones import Backbone, load_backbone
    from anovl.client import Client, ServedPrediction, ServiceError
    from anovl.config import FewShot, Mutual, Recipe, Tiling, recipe
    from anovl.core.prompts import PromptSet, Wording, build_prompts
    from anovl.data import datasets
    from anovl.data.images import ImageLimits, load_image
    from anovl.detector import AnoVL
    from anovl.engine.runtime import ExportedModel
    from anovl.errors import AnovlError
    from anovl.evaluation import Evaluation, Variant, evaluate
    from anovl.integrations.pipeline import pipeline
    from anovl.methods.few_shot import Bank
    from anovl.profiles import Profile
    from anovl.results import Prediction, Region

__version__ = "0.1.0"

_HOME = {
    "AnoVL": "anovl.detector",
    "AnovlError": "anovl.errors",
    "Backbone": "anovl.backbones",
    "Bank": "anovl.methods.few_shot",
    "Client": "anovl.client",
    "Evaluation": "anovl.evaluation",
    "ExportedModel": "anovl.engine.runtime",
    "FewShot": "anovl.config",
    "ImageLimits": "anovl.data.images",
    "Mutual": "anovl.config",
    "Prediction": "anovl.results",
    "Profile": "anovl.profiles",
    "PromptSet": "anovl.core.prompts",
    "Recipe": "anovl.config",
    "Region": "anovl.results",
    "ServedPrediction": "anovl.client",
    "ServiceError": "anovl.client",
    "Tiling": "anovl.config",
    "Variant": "anovl.evaluation",
    "Wording": "anovl.core.prompts",
    "build_prompts": "anovl.core.prompts",
    "datasets": "anovl.data",
    "evaluate": "anovl.evaluation",
    "load_backbone": "anovl.backbones",
    "load_image": "anovl.data.images",
    "pipeline": "anovl.integrations.pipeline",
    "recipe": "anovl.config",
}

__all__ = [
    "AnoVL",
    "AnovlError",
    "Backbone",
    "Bank",
    "Client",
    "Evaluation",
    "ExportedModel",
    "FewShot",
    "ImageLimits",
    "Mutual",
    "Prediction",
    "Profile",
    "PromptSet",
    "Recipe",
    "Region",
    "ServedPrediction",
    "ServiceError",
    "Tiling",
    "Variant",
    "Wording",
    "__version__",
    "build_prompts",
    "datasets",
    "evaluate",
    "load_backbone",
    "load_image",
    "pipeline",
    "recipe",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'anovl' has no attribute {name!r}")
    if name == "datasets":
        return importlib.import_module("anovl.data.datasets")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
