"""What an exported file says about itself: everything around the network that a result depends on. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from anovl.config import Adaptation, Recipe
from anovl.errors import CheckpointError, UsageError, suggest
from anovl.profiles import Profile

KEY = "anovl"  # of the metadata in the file
FORMAT = 1
IMAGES, CLASS_INDEX = "images", "class_index"  # inputs
OUTPUTS = ("pred_score", "patch_scores", "anomaly_map")
Precision = Literal["fp32", "fp16", "int8"]
ExportFormat = Literal["onnx", "openvino", "torch-export"]
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
RUNS = (".onnx", ".xml")  # what `anovl.engine.runtime` runs


def is_exported(model: str) -> bool:
    """True for a model name that is an exported file."""
    return Path(model).suffix.lower() in (*RUNS, SUFFIXES["torch-export"])


@dataclass(frozen=True, kw_only=True)
class Card:
    """The metadata of an exported file.

    Attributes:
        classes: names whose prompts are inside, in the order of the class index.
        method, recipe, words: as in run.json.
        seed: of the adaptation inside; None is training-free.
        image_size: (H, W) of the input in pixels.
        grid: (h, w) of the patch scores.
        threshold: the decision is pred_score >= threshold.
        profile: where the thresholds come from, None where they are not calibrated.
        score_range: of drawings, see `anovl.results.Prediction`.
        precision: of the weights.
        model: as `anovl.backbones.Backbone.describe` gives it.
        versions: of what made the file.
        bank: what is inside of good pictures, as run.json tells it; None where nothing is.
    """

    classes: tuple[str, ...]
    method: str
    recipe: Recipe
    words: dict[str, Any]
    seed: int | None
    image_size: tuple[int, int]
    grid: tuple[int, int]
    threshold: float
    score_range: tuple[float, float]
    precision: Precision
    model: dict[str, Any]
    versions: dict[str, str]
    profile: Profile | None = None
    bank: dict[str, Any] | None = None

    def index(self, class_name: str | None) -> int:
        """Place of a class; None is the only one.

        Raises:
            UsageError: it is not among them, or None was given and there are several.
        """
        if class_name is None:
            if len(self.classes) > 1:
                raise UsageError(f"class name: the file holds {len(self.classes)} classes, name one: {', '.join(self.classes)}")
            return 0
        if class_name not in self.classes:
            raise UsageError(suggest("class of the exported file", class_name, self.classes, "export it with --class-name"))
        return self.classes.index(class_name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"profile": None if self.profile is None else self.profile.to_dict()}

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps({"format": FORMAT, **self.to_dict()})


def read_card(text: str | None, path: Path) -> Card:
    """The card of a file from its metadata.

    Raises:
        CheckpointError: there is none, it is of another version, or it is damaged.
    """
    if not text:
        raise CheckpointError(f"{path}: not exported by anovl (its metadata has no {KEY!r}); make it with `anovl export`")
    try:
        values = json.loads(text)
        version = values.pop("format")
        if version != FORMAT:
            raise CheckpointError(f"{path}: exported as version {version}, this anovl reads {FORMAT}; export it again")
        recipe = values.pop("recipe")
        adaptation = Adaptation(**recipe.pop("adaptation"))
        recipe.pop("tiling", None)  # of whole images: no other is exported
        for name in ("classes", "image_size", "grid", "score_range"):
            values[name] = tuple(values[name])
        if values.get("profile") is not None:
            values["profile"] = Profile.from_dict(values["profile"])
        card = Card(recipe=Recipe(**recipe, adaptation=adaptation), **values)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CheckpointError(f"{path}: its metadata is damaged ({type(exc).__name__}: {exc}); export it again") from exc
    if not card.classes or card.precision not in get_args(Precision):
        raise CheckpointError(f"{path}: its metadata is damaged (no class, or precision {card.precision!r}); export it again")
    return card
