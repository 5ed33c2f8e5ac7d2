"""The profile: two thresholds from good pictures, the rate of false alarms that they keep, and what they hold for.

Split conformal prediction (Papadopoulos et al. 2002; Vovk, Gammerman, Shafer 2005): when n good pictures and a new good one are
exchangeable, the new score is over the k-th smallest of the n with a probability of at most (n + 1 - k) / (n + 1). Given the n
pictures, that rate itself is Beta(n + 1 - k, k) distributed where scores have no ties (Vovk 2012, arXiv:1209.2673; Angelopoulos,
Bates 2021, arXiv:2107.07511), which tells how far a single calibration may be off. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from anovl.config import Recipe
from anovl.errors import UsageError, suggest
from anovl.files import write_json

FORMAT = 1
DEFAULT_FPR = 0.01
LEAST = 1e-7  # about the last step of float32 before 1
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.001, 1000.0
SURE = 0.9  # the rate of a single calibration is told as what so many of them stay under
UNCALIBRATED = (
    "none: without a profile the decision is CLIP's own, abnormal nearer than normal, or the threshold's that was given"
)
UNCALIBRATED_BANK = "none: distances to good pictures are in the scores, and only `anovl calibrate --bank` says which are high"
UNCALIBRATED_FILE = (
    "none: distances to good pictures are in the scores of this file, and only `anovl calibrate --model FILE` says which are high"
)
UNCALIBRATED_BATCHED = "none: a score depends on the other images of the run, so that no threshold of another run holds"
AGAIN = "make it with `anovl calibrate`"

Choice = Literal["conformal", "f1", "cost"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What scores depend on besides the pictures: a profile holds for the same alone.

    Attributes:
        class_name: what the pictures show.
        model: what it is called; another name of the same weights is no difference.
        weights: sha256 of the weights.
        method: as in `anovl.AnoVL`.
        recipe: its settings, with the size of maps and the decoding of the run; without the adaptation where there is none.
        words: settings of the prompts.
        seeds: of the adaptation, empty for none.
        image_size: (H, W) of the model's input.
        precision: the model computes in.
    """

    class_name: str
    model: str
    weights: str
    method: str
    recipe: Mapping[str, Any]
    words: Mapping[str, Any]
    seeds: tuple[int, ...]
    image_size: tuple[int, int]
    precision: str

    def __post_init__(self) -> None:
        for name in ("class_name", "model", "weights", "method", "precision"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UsageError(f"origin {name}: expected a text, got {_short(getattr(self, name))}")
        for name in ("recipe", "words"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise UsageError(f"origin {name}: expected settings by their names, got {_short(value)}")
            object.__setattr__(self, name, json.loads(json.dumps(dict(value))))  # as it will be read again
        for name in ("seeds", "image_size"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not all(type(number) is int for number in value):
                raise UsageError(f"origin {name}: expected whole numbers, got {_short(value)}")
            object.__setattr__(self, name, tuple(value))
        if len(self.image_size) != 2:
            raise UsageError(f"origin image_size: expected height and width, got {self.image_size!r}")

    def differences(self, other: Origin) -> list[str]:
        """What is not the same in another one, in words: "SETTING: THIS, not THE OTHER'S"."""
        found = [
            f"{name.replace('_', ' ')}: {getattr(self, name)!r}, not {getattr(other, name)!r}"
            for name in ("class_name", "method", "precision", "image_size")
            if getattr(self, name) != getattr(other, name)
        ]
        if self.weights != other.weights:
            found.append(f"model: {_model(self)}, not {_model(other)}")
        if self.seeds != other.seeds:
            found.append(f"adaptation: {_adapted(self)}, not {_adapted(other)}")
        for name in ("recipe", "words"):
            mine, others = getattr(self, name), getattr(other, name)
            for key in sorted(mine.keys() | others.keys()):
                adapts = bool(self.seeds) and bool(other.seeds)
                if mine.get(key) != others.get(key) and (key != "adaptation" or adapts):
                    found.append(f"{name} {key}: {_short(mine.get(key))}, not {_short(others.get(key))}")
        return found


def fitted_name(method: str, bank: str) -> str:
    """A method beside a bank of this key, for `Origin`."""
    return f"{method} with bank {bank}"


def settings_of(recipe: Recipe, *, adapts: bool) -> dict[str, Any]:
    """The settings of a recipe that scores depend on, for `Origin`."""
    settings = recipe.to_dict()
    if not adapts:
        del settings["adaptation"]
    return settings


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the image threshold does on the labelled pictures that came with the good ones.

    Attributes:
        good, bad: how many pictures there are.
        false_alarms: good ones that it flags.
        missed: bad ones that it does not flag.
    """

    good: int
    bad: int
    false_alarms: int
    missed: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 0:
                raise UsageError(f"measured {field.name}: expected a count, got {_short(value)}")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Two thresholds, what they promise, and for what.

    Attributes:
        image_threshold: a picture is flagged where its score is at least so large, in [0, 1].
        pixel_threshold: a pixel is marked where the map is at least so large, in [0, 1].
        choice: what chose the image threshold; the pixel threshold is always conformal.
        fpr: the rate of false alarms that was asked for, between 0 and 1.
        pictures: good ones it comes from.
        origin: what else.
        measured: on labelled pictures, where there were bad ones.
        temperature: what the logits of image scores are divided by to give probabilities, where there were bad ones.

    Raises:
        UsageError: a value is not as described.
    """

    image_threshold: float
    pixel_threshold: float
    choice: Choice = "conformal"
    fpr: float
    pictures: int
    origin: Origin
    measured: Measured | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("image_threshold", "pixel_threshold"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise UsageError(f"profile {name}: expected a number in [0, 1], got {_short(value)}")
        if self.choice not in get_args(Choice):
            raise UsageError(suggest("profile choice", _short(self.choice).strip("'"), get_args(Choice)))
        check_fpr(self.fpr)
        if type(self.pictures) is not int or not 1 <= self.pictures < 2**53:
            raise UsageError(f"profile pictures: expected a number of at least 1, got {_short(self.pictures)}")
        given = self.temperature
        low, high = LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE
        if given is not None and not (_is_number(given) and low <= given <= high):
            raise UsageError(f"profile temperature: expected a number from {low:g} to {high:g}, or none, got {_short(given)}")
        if not isinstance(self.origin, Origin) or not isinstance(self.measured, Measured | None):
            raise UsageError(f"profile: expected an Origin and a Measured or None, got {self.origin!r} and {self.measured!r}")

    @property
    def guaranteed(self) -> float:
        """The rate of false alarms that holds; more than `fpr` where the pictures are too few for that."""
        return (self.pictures + 1 - rank(self.pictures, self.fpr)) / (self.pictures + 1)

    @property
    def nine_of_ten(self) -> float:
        """The rate of false alarms that nine of ten calibrations with as many pictures stay under."""
        from scipy.special import betaincinv

        k = rank(self.pictures, self.fpr)
        return float(betaincinv(self.pictures + 1 - k, k, SURE))

    def probability(self, score: float) -> float | None:
        """The chance that a picture of an image score is bad, were bad ones as frequent as in calibration; None if not fitted."""
        if self.temperature is None:
            return None
        return (1 + math.tanh(logit(score) / self.temperature / 2)) / 2  # the logistic function, without overflow

    def guarantee(self) -> str:
        """What the thresholds promise, in words."""
        conformal, n = self.choice == "conformal", self.pictures
        what, also = (
            ("is flagged", ", and shows a marked pixel with at most the same") if conformal else ("shows a marked pixel", "")
        )
        said = [f"A new good picture {what} with a probability of at most {_percent(self.guaranteed)}{also} ({n} good pictures)."]
        if self.guaranteed > self.fpr:
            need = f"needs {pictures_needed(self.fpr)} good pictures: with {n} the thresholds are just above all their scores"
            said.append(f"The {_percent(self.fpr)} asked for {need}.")
        said.append(
            "This holds for pictures taken as these were (same line, camera, light), on average over sets of such pictures; "
            f"with nine of ten sets of {n} the rate stays under {_percent(self.nine_of_ten)}."
        )
        if self.measured is not None:
            found = self.measured
            why = {"conformal": "", "f1": ", the largest F1", "cost": ", the lowest cost"}[self.choice]
            said.append(
                f"On the labelled pictures the image threshold flags {found.false_alarms} of {found.good} good ones and misses "
                f"{found.missed} of {found.bad} bad ones{why}{'' if conformal else '; for others it has no guarantee'}."
            )
        return " ".join(said)

    def check(self, origin: Origin) -> None:
        """Refuse what the profile was not made for.

        Raises:
            UsageError: scores of this origin are others; the message names every difference.
        """
        if other := self.origin.differences(origin):
            raise UsageError(
                f"profile: made for {'; '.join(other)}; calibrate for this run, or give a threshold in place of the profile"
            )

    def summary(self) -> dict[str, Any]:
        """What run.json says of the decision; the rest of the profile is what the run's own settings are."""
        kept = ("image_threshold", "pixel_threshold", "choice", "fpr", "pictures", "temperature")
        return {name: getattr(self, name) for name in kept} | {"guaranteed": self.guaranteed}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {"format": FORMAT, "guaranteed": self.guaranteed, **asdict(self)}

    def save(self, path: str | Path) -> None:
        """Write the profile, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(Path(path), self.to_dict())

    @classmethod
    def from_dict(cls, values: object) -> Profile:
        """From plain values.

        Raises:
            UsageError: they are not those of a profile: another version, a key too many or too few, a wrong type or value.
        """
        rest = _keys("profile", values, {field.name for field in fields(cls)} | {"format", "guaranteed"})
        if (version := rest.pop("format")) != FORMAT or isinstance(version, bool):
            raise UsageError(f"profile: format {_short(version)}, this anovl reads {FORMAT}; {AGAIN}")
        guaranteed = rest.pop("guaranteed")
        rest["origin"] = Origin(**_keys("origin", rest["origin"], {field.name for field in fields(Origin)}))
        if rest["measured"] is not None:
            rest["measured"] = Measured(**_keys("measured", rest["measured"], {field.name for field in fields(Measured)}))
        profile = cls(**rest)
        if guaranteed != profile.guaranteed:
            raise UsageError(f"profile guaranteed: expected {profile.guaranteed}, got {_short(guaranteed)}; {AGAIN}")
        return profile

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile.

        Raises:
            UsageError: there is none, or the file is not a profile; the message says why.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_number))
        except OSError as exc:
            raise UsageError(f"{path}: the profile cannot be read ({exc.strerror or exc}); {AGAIN}") from exc
        except UsageError as exc:
            raise UsageError(f"{path}: {exc}") from exc
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"{path}: not a profile ({exc}); {AGAIN}") from exc


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _keys(what: str, values: object, expected: set[str]) -> dict[str, Any]:
    """A copy of a JSON object that has these keys and no other."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{what}: expected a JSON object, got {_short(values)}; {AGAIN}")
    for problem, names in (("unknown", values.keys() - expected), ("missing", expected - values.keys())):
        if names:
            raise UsageError(f"{what}: {problem} {', '.join(sorted(map(str, names)))}; {AGAIN}")
    return dict(values)


def logit(score: float) -> float:
    """log(score / (1 - score)), kept finite: CLIP's abnormal minus normal logit."""
    kept = min(max(score, LEAST), 1 - LEAST)
    return math.log(kept / (1 - kept))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_fpr(fpr: float) -> None:
    """Refuse a rate that is none.

    Raises:
        UsageError: it is not between 0 and 1, both excluded.
    """
    if not (_is_number(fpr) and 0 < fpr < 1):
        raise UsageError(f"fpr: expected a rate of false alarms between 0 and 1, such as 0.01 for 1 %, got {_short(fpr)}")


def rank(pictures: int, fpr: float) -> int:
    """The k of the k-th smallest score: ceil((n + 1) (1 - fpr)), in decimals as they are written; n where that is more."""
    return min(pictures, pictures + 1 - math.floor((pictures + 1) * Fraction(repr(float(fpr)))))


def pictures_needed(fpr: float) -> int:
    """The fewest good pictures that guarantee a rate."""
    return math.ceil(1 / Fraction(repr(float(fpr)))) - 1


def _model(origin: Origin) -> str:
    return f"{origin.model} (weights {origin.weights[:8]})"


def _adapted(origin: Origin) -> str:
    return f"with seed {', '.join(map(str, origin.seeds))}" if origin.seeds else "none"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
