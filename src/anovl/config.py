"""Frozen settings of the method and the three named recipes; every magic number of the method is here."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from anovl.errors import UsageError, suggest

Attention = Literal["qkv", "v", "vv", "vv-recursive"]
Interpolation = Literal["bilinear", "bicubic"]
ImageScore = Literal["class_token", "class_token_22views", "map_max", "class_token_and_map_max"]
OutputSize = Literal["image", "input"]
Decode = Literal["full", "reduced"]
PromptStyle = Literal["paper", "released"]
AdapterKind = Literal["softmax", "tanh", "linear"]
NoisePlace = Literal["input", "output"]
AdaptationTarget = Literal["pseudo_label", "entropy", "none"]
Crop = Literal["none", "foreground"]

DEFAULT_MODEL = "ViT-B-16-plus-240:laion400m_e32"
DEFAULT_RECIPE = "default"
DEFAULT_THRESHOLD = 0.5  # CLIP's own decision: abnormal nearer than normal
LEAST_TILE = 32  # px; a tile is brought to the size of the model's input
DISPLAY_SIDE = 1600  # longest side of an overlay, and of the copy of a picture kept for it
ADAPTATION_MEMORY = 1024**3  # a batch adapts in parts of about so many bytes
CPU_ADAPTATION_MEMORY = 48 * 1024**2  # on a CPU in parts that stay near its caches
MAX_IMAGE_PIXELS = 178_956_970  # where Pillow itself refuses; 100-megapixel cameras pass
MAX_IMAGE_BYTES = 512 * 1024 * 1024
MOST_NAMES = 32  # in a vocabulary of defects
NAMES_TOLD = 3  # of a region
REGIONS_DRAWN = 20  # on a picture, and listed beside it
DEFECT_NAMES = (
    "scratch", "crack", "hole", "stain", "dent", "contamination", "discoloration", "cut", "abrasion", "burn", "thread",
    "distortion", "chip", "bend", "missing part", "misplaced part",
)  # fmt: skip


def _check_choices(settings: Any, choices: dict[str, Any]) -> None:
    """Raise a UsageError for the first field that is none of its literal's values."""
    for field, literal in choices.items():
        if getattr(settings, field) not in get_args(literal):
            raise UsageError(suggest(field, str(getattr(settings, field)), get_args(literal)))


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Test-time adaptation: the paper's (Eq. 9-11) by default, the authors' code's, and variants (docs/adaptation.md).

    T are the prompt tokens, of unit length; P the local tokens, ``|P|`` makes them unit. Letters as in `anovl.core.adapter`.

    Attributes:
        adapter: "softmax" is Eq. (9), ``softmax(|P| W^T / temperature) T + |P|``, W starting at T; "tanh" the released
            code's, ``P / 2 + tanh(W |P| + b) T / 2``; "linear" Table 5's linear probe, P / 2 + (W P + b) / 2.
        identity_start: tanh begins at W = 0, linear at W = the unit matrix, both at b = 0, so that tokens start unchanged,
            instead of at random weights.
        noise_at: noise comes on what the adapter gives ("output", Eq. 10) or on what it reads ("input").
        target: the loss on clean tokens beside Eq. (10): "pseudo_label" is Eq. (11), "entropy" that of the prediction.
        noise_weight: factor on Eq. (10), which tells clean from noisy tokens.
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
        noise_mean, noise_std: of the Gaussian noise.
        limit: what adaptation adds to an image's cosines is scaled down until it varies over the patches by no more than this
            share of what the training-free cosines vary (standard deviations); None leaves it as it is.
        temperature: of the softmax adapter.
        loss_temperature: cosines are divided by it in the losses.
    """

    adapter: AdapterKind = "softmax"
    identity_start: bool = False
    noise_at: NoisePlace = "output"
    target: AdaptationTarget = "pseudo_label"
    noise_weight: float = 1.0
    steps: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    noise_mean: float = 0.0
    noise_std: float = 0.055
    limit: float | None = None
    temperature: float = 1.0
    loss_temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_choices(self, {"adapter": AdapterKind, "noise_at": NoisePlace, "target": AdaptationTarget})
        if not isinstance(self.identity_start, bool) or (self.identity_start and self.adapter == "softmax"):
            raise UsageError(
                f"adaptation identity_start: expected True or False, and False for softmax, got {self.identity_start!r}"
            )
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 0 <= self.steps <= 1000:
            raise UsageError(f"adaptation steps: expected a whole number from 0 to 1000, got {self.steps!r}")
        for field in ("learning_rate", "weight_decay", "noise_std", "noise_weight", "temperature", "loss_temperature"):
            value = getattr(self, field)
            least = "above 0" if "temperature" in field else "at least 0"
            if not (isinstance(value, int | float) and 0 <= value < math.inf and (value > 0 or least == "at least 0")):
                raise UsageError(f"adaptation {field}: expected a finite number {least}, got {value!r}")
        if self.limit is not None and not (isinstance(self.limit, int | float) and 0 <= self.limit < math.inf):
            raise UsageError(f"adaptation limit: expected a finite number at least 0, or None, got {self.limit!r}")
        if not (isinstance(self.noise_mean, int | float) and math.isfinite(self.noise_mean)):
            raise UsageError(f"adaptation noise_mean: expected a finite number, got {self.noise_mean!r}")


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """What is kept of good pictures and how it counts (`anovl.methods.few_shot`).

    `winclip` has windows in place of layers and radius, and always the plain mean, a weight of 0.5.

    Attributes:
        layers: blocks, by their numbers from 1, whose patch tokens are kept beside the local ones; None is the one two thirds
            up the tower, () keeps the local ones alone.
        radius: side of the neighbourhood that a token is averaged over, an odd number of patches.
        weight: of the distance to what is kept, beside the two cosines of Eq. (2); "auto" is the larger the more alike the good
            pictures are (`few_shot.settled_weight`).
        share: of the tokens that the coreset keeps, above 0 and at most 1.
        seed: of the coreset's first token.
    """

    layers: tuple[int, ...] | None = None
    radius: int = 3
    weight: float | Literal["auto"] = "auto"
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers("layers", () if self.layers is None else self.layers)
        _check_numbers("radius", (self.radius,), odd=True)
        if self.weight != "auto":
            _check_number("weight", self.weight, most=10)
        _check_number("share", self.share, most=1)
        _check_numbers("seed", (self.seed,), least=0)


@dataclass(frozen=True, kw_only=True)
class Mutual:
    """Mutual scoring of a set of images (`anovl.methods.musc`).

    Attributes:
        layers: as of `FewShot`.
        radii: sides of the neighbourhoods that are averaged around each patch, odd numbers of patches.
        interval: the share of the other images, the nearest ones, that a patch's distance is the mean over.
        neighbours: numbers of images, itself among them, that an image's score is averaged over; (1,) leaves it as it is. None
            is (1, 2, 3) without the text, as in MuSc, and (1,) beside it, where averaging was no gain.
        weight: as of `FewShot`, "auto" by how alike the images are (`musc.settled_weight`); None leaves the text out, as in MuSc.
        share: of the images that each is compared with, above 0 and at most 1; fewer than all are drawn at random.
        seed: of that draw.
    """

    layers: tuple[int, ...] | None = None
    radii: tuple[int, ...] = (1, 3, 5)
    interval: float = 0.3
    neighbours: tuple[int, ...] | None = None
    weight: float | Literal["auto"] | None = "auto"
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers("layers", () if self.layers is None else self.layers)
        for name, numbers in (("radii", self.radii), ("neighbours", self.averaged_over)):
            if not numbers:
                raise UsageError(f"{name}: expected at least one number")
        _check_numbers("radii", self.radii, odd=True)
        _check_numbers("neighbours", self.averaged_over)
        _check_number("interval", self.interval, most=1)
        if self.weight is not None and self.weight != "auto":
            _check_number("weight", self.weight, most=10)
        _check_number("share", self.share, most=1)
        _check_numbers("seed", (self.seed,), least=0)

    @property
    def averaged_over(self) -> tuple[int, ...]:
        """`neighbours`, with what None is."""
        if self.neighbours is None:
            return (1, 2, 3) if self.weight is None else (1,)
        return self.neighbours


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """In which parts an image is looked at; see docs/high_resolution.md. By default as a whole.

    Attributes:
        sides: of square tiles, px of the image; each size is one more scale beside the whole image. Tiles that would be larger
            than the image's shorter side are as large as that.
        overlap: share of its side that a tile has in common with the next, at least; 0 to 0.75.
        crop: "foreground" looks at the box around what stands out from a plain background only, and at the whole image where
            there is no such thing; the map is 0 outside the box.
    """

    sides: tuple[int, ...] = ()
    overlap: float = 0.25
    crop: Crop = "none"

    def __post_init__(self) -> None:
        _check_choices(self, {"crop": Crop})
        if any(type(side) is not int or side < LEAST_TILE for side in self.sides) or len(set(self.sides)) < len(self.sides):
            raise UsageError(
                f"tiles: expected sides of at least {LEAST_TILE} px, each once, got {', '.join(map(str, self.sides))}"
            )
        if not (isinstance(self.overlap, int | float) and 0 <= self.overlap <= 0.75):
            raise UsageError(f"tile overlap: expected a share of a tile's side from 0 to 0.75, got {self.overlap!r}")

    @classmethod
    def of(cls, tiles: int | Tiling | None) -> Tiling | None:
        """The side of tiles in px, or settings already."""
        return cls(sides=(tiles,)) if isinstance(tiles, int) else tiles

    @property
    def whole(self) -> bool:
        """True where an image is looked at as a whole, once."""
        return not self.sides and self.crop == "none"


def _check_numbers(name: str, values: tuple[int, ...], *, least: int = 1, odd: bool = False) -> None:
    if not isinstance(values, tuple) or any(type(one) is not int or one < least or (odd and one % 2 == 0) for one in values):
        raise UsageError(f"{name}: expected {'odd' if odd else 'whole'} numbers from {least}, got {values!r}")


def _check_number(name: str, value: float, *, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise UsageError(f"{name}: expected a number above 0 and at most {most}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about the method that changes a number. Make variants with ``recipe(name, field=...)``.

    Attributes:
        name: the recipe this one started from.
        interpolation: filter of the squash to the model's input size (antialiased).
        attention: local attention; see `anovl.core.attention`.
        layers: how many of the last layers the local path replaces; None is all of them.
        prompts: "paper" writes "_" in a class name as " "; "released" keeps the raw names of the
            authors' code (and macaroni for macaroni1, macaroni2).
        logit_scale: factor on cosines before the softmax of Eq. (1) and (2); None is the model's own
            (100 for CLIP), 1.0 the paper's formula to the letter. Ranks are the same.
        smoothing: 3x3 mean on the patch grid, edges replicated, before up-sampling.
        align_corners: how bilinear up-sampling places the patch centres.
        output_size: "image" gives maps at the image's own size, "input" at the model's input size.
        decode: "full", or "reduced": a JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 of its format that is at
            least twice the model's input. Faster, with slightly other pixels (docs/performance.md).
        image_score: "class_token" is Eq. (1); "class_token_22views" its mean over 22 augmented views; "map_max" the
            top of the patch scores, Eq. (2); "class_token_and_map_max" the mean of both.
        adaptation: what test-time adaptation does where it is asked for.
        tiling: in which parts an image is looked at.
    """

    name: str = DEFAULT_RECIPE
    interpolation: Interpolation = "bicubic"
    attention: Attention = "vv"
    layers: int | None = None
    prompts: PromptStyle = "paper"
    logit_scale: float | None = None
    smoothing: bool = False
    align_corners: bool = False
    output_size: OutputSize = "image"
    decode: Decode = "full"
    image_score: ImageScore = "class_token"
    adaptation: Adaptation = Adaptation()
    tiling: Tiling = Tiling()

    def __post_init__(self) -> None:
        choices = {
            "interpolation": Interpolation,
            "attention": Attention,
            "prompts": PromptStyle,
            "output_size": OutputSize,
            "decode": Decode,
            "image_score": ImageScore,
        }
        _check_choices(self, choices)
        if not isinstance(self.adaptation, Adaptation):
            raise UsageError(f"adaptation: expected an Adaptation, got {self.adaptation!r}")
        if not isinstance(self.tiling, Tiling):
            raise UsageError(f"tiling: expected a Tiling, got {self.tiling!r}")
        if self.tiling.sides and self.decode == "reduced":
            raise UsageError("tiles: need the image at its full size; leave out decode 'reduced'")
        for field in ("smoothing", "align_corners"):
            if not isinstance(getattr(self, field), bool):
                raise UsageError(f"{field}: expected True or False, got {getattr(self, field)!r}")
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"layers must be at least 1 or None for all, got {self.layers}")
        if self.attention == "qkv" and self.layers is not None:
            raise UsageError("attention 'qkv' gives the model's ordinary patch tokens: layers does not apply, leave it out")
        if self.logit_scale is not None and not 0 < self.logit_scale <= 1000:
            raise UsageError(f"logit_scale must be in (0, 1000] or None for the model's own, got {self.logit_scale}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for run.json; without the tiling where an image is looked at as a whole."""
        values = asdict(self)
        if self.tiling.whole:
            del values["tiling"]
        return values

    def having(self, **changes: Any) -> Recipe:
        """The recipe with those of the changes that are not None.

        Raises:
            UsageError: a value that is not valid.
        """
        return replace(self, **{field: value for field, value in changes.items() if value is not None})


RELEASED_ADAPTATION = Adaptation(adapter="tanh", noise_at="input", target="entropy")
LINEAR_PROBE = replace(RELEASED_ADAPTATION, adapter="linear")  # Table 5

RECIPES: dict[str, Recipe] = {
    "default": Recipe(name="default"),
    "mini": Recipe(name="mini", image_score="class_token_and_map_max"),  # the embedded models' own; measured in docs/models.md
    "paper": Recipe(name="paper"),
    "released": Recipe(
        name="released",
        interpolation="bilinear",
        prompts="released",
        logit_scale=1.0,
        smoothing=True,
        align_corners=True,
        output_size="input",
        image_score="class_token_22views",
        adaptation=RELEASED_ADAPTATION,
    ),
}


def recipe(base: str | Recipe = DEFAULT_RECIPE, **changes: Any) -> Recipe:
    """A named recipe, with changes.

    Args:
        base: "default", "paper", "released", or a Recipe.
        **changes: fields of `Recipe` to set.

    Raises:
        UsageError: no such recipe, no such field, or a value that is not valid.
    """
    if isinstance(base, str):
        if base not in RECIPES:
            raise UsageError(suggest("recipe", base, RECIPES))
        base = RECIPES[base]
    known = {field.name for field in fields(Recipe)}
    for name in changes:
        if name not in known:
            raise UsageError(suggest("recipe field", name, known))
    return replace(base, **changes)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
