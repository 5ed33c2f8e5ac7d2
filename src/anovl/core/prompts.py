"""Contrastive state prompts: "A [domain] photo of a [state] [class]" (AnoVL, section "Domain-aware State Prompting").

The words are data, all of them here. No torch.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anovl.config import PromptStyle
from anovl.errors import UsageError, suggest

# 22 base templates of CLIP, in the order of the released code. {domain} is one domain word, {object} the
# state with the class in it; "a {domain}" becomes "an {domain}" before a vowel.
TEMPLATES: tuple[str, ...] = (
    "a cropped {domain} of the {object}",
    "a cropped {domain} of a {object}",
    "a close-up {domain} of a {object}",
    "a close-up {domain} of the {object}",
    "a bright {domain} of a {object}",
    "a bright {domain} of the {object}",
    "a dark {domain} of the {object}",
    "a dark {domain} of a {object}",
    "a jpeg corrupted {domain} of a {object}",
    "a jpeg corrupted {domain} of the {object}",
    "a blurry {domain} of the {object}",
    "a blurry {domain} of a {object}",
    "a {domain} of a {object}",
    "a {domain} of the {object}",
    "a {domain} of a small {object}",
    "a {domain} of the small {object}",
    "a {domain} of a large {object}",
    "a {domain} of the large {object}",
    "a {domain} of the {object} for visual inspection",
    "a {domain} of a {object} for visual inspection",
    "a {domain} of the {object} for anomaly detection",
    "a {domain} of a {object} for anomaly detection",
)

# (normal, abnormal); {class} is the class name.
STATES: tuple[tuple[str, str], ...] = (
    ("normal {class}", "damaged {class}"),
    ("flawless {class}", "abnormal {class}"),
    ("perfect {class}", "imperfect {class}"),
    ("unblemished {class}", "blemished {class}"),
    ("{class} without flaw", "{class} with flaw"),
    ("{class} without defect", "{class} with defect"),
    ("{class} without damage", "{class} with damage"),
)

DOMAINS: dict[str, tuple[str, ...]] = {
    "object": ("industrial photo", "industrial image", "manufacturing image"),
    "texture": ("industrial photo", "textural photo", "surface picture"),
    "plain": ("photo",),  # no domain prompting: the rows of Table 4 before "+DA"
}

TEXTURES = frozenset({"carpet", "grid", "leather", "tile", "wood"})  # of MVTec AD
RELEASED_NAMES = {"macaroni1": "macaroni", "macaroni2": "macaroni"}  # VisA, in the authors' code
# Class names of MVTec AD and VisA; any other name is as good, these serve to notice a slip of the finger.
KNOWN_CLASSES: tuple[str, ...] = (
    *sorted(TEXTURES),
    *("bottle", "cable", "capsule", "hazelnut", "metal nut", "pill", "screw", "toothbrush", "transistor", "zipper"),
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni", "pipe fryum"),
)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The words that prompts are made of.

    Attributes:
        templates: sentences with ``{object}`` once and ``{domain}`` at most once.
        states: (normal, abnormal) pairs with ``{class}`` once each; None stands where a state has no opposite.
        domain: "auto" (texture for the five textures of MVTec AD, else object), "object", "texture" or "plain".
        domain_words: words used instead of the named domain's.
        defects: known defects; "scratch" adds the pair "{class} without a scratch" / "{class} with a scratch".

    Raises:
        UsageError: a list is empty, no state is normal or none abnormal, a placeholder is missing or unknown, the domain
            is not known.
    """

    templates: tuple[str, ...] = TEMPLATES
    states: tuple[tuple[str | None, str | None], ...] = STATES
    domain: str = "auto"
    domain_words: tuple[str, ...] = ()
    defects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _strings("templates", self.templates)
        _strings("domain words", self.domain_words)
        _strings("defects", self.defects)
        if not self.templates:
            raise UsageError("templates: expected at least one, such as 'a photo of a {object}'")
        for template in self.templates:
            _placeholders(template, required=("object",), allowed=("domain", "object"))
        for pair in self.states:
            if isinstance(pair, str) or len(pair) != 2:
                raise UsageError(f"states: expected (normal, abnormal) pairs, got {pair!r}")
            given = [state for state in pair if state is not None]
            _strings("states", given)
            for state in given:
                _placeholders(state, required=("class",), allowed=("class",))
        if not all(any(pair[side] is not None for pair in self.states) for side in (0, 1)):
            raise UsageError("states: expected at least one pair, such as ('normal {class}', 'abnormal {class}')")
        if self.domain != "auto" and self.domain not in DOMAINS:
            hint = "for words of your own give domain_words (--domain-word)"
            raise UsageError(suggest("domain", self.domain, ["auto", *DOMAINS], hint))

    def words_for(self, class_name: str) -> tuple[str, ...]:
        """The domain words used for a class."""
        if self.domain_words:
            return self.domain_words
        if self.domain == "auto":
            return DOMAINS["texture" if class_name.lower() in TEXTURES else "object"]
        return DOMAINS[self.domain]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return asdict(self)


@dataclass(frozen=True)
class PromptSet:
    """Sentences of one class; where every state has its opposite, normal[i] and abnormal[i] differ in the state only."""

    class_name: str
    normal: tuple[str, ...] = field(repr=False)
    abnormal: tuple[str, ...] = field(repr=False)

    @property
    def key(self) -> str:
        """Canonical text of all sentences, for hashing."""
        return json.dumps([self.normal, self.abnormal], ensure_ascii=False)


def build_prompts(class_name: str, wording: Wording | None = None, *, style: PromptStyle = "paper") -> PromptSet:
    """All sentences of a class: domain words x templates x state pairs, 3 x 22 x 7 = 462 pairs by default.

    Args:
        class_name: what the image shows, such as "metal nut".
        wording: the words; default: the paper's.
        style: "paper" turns "_" into a space; "released" keeps the raw name, as the authors' code does.

    Raises:
        UsageError: the class name is empty or holds control characters.
    """
    wording = wording or Wording()
    name = class_name.strip()
    if not name or not name.isprintable():
        raise UsageError(f"class name: expected a word or two, such as 'metal nut', got {class_name!r}")
    words = wording.words_for(name)
    name = RELEASED_NAMES.get(name, name) if style == "released" else " ".join(name.replace("_", " ").split())
    pairs = [*wording.states, *(_defect_pair(defect) for defect in wording.defects)]
    normal, abnormal = (
        tuple(
            fill_template(template, word, state.replace("{class}", name))
            for word in words
            for template in wording.templates
            for state in states
            if state is not None
        )
        for states in zip(*pairs, strict=True)
    )
    return PromptSet(class_name=class_name, normal=normal, abnormal=abnormal)


def similar_known_class(class_name: str) -> str | None:
    """A class of MVTec AD or VisA that the name nearly is, such as "hazelnut" for "hazlenut"; else None."""
    name = class_name.strip().lower().replace("_", " ")
    if name in KNOWN_CLASSES:
        return None
    near = difflib.get_close_matches(name, KNOWN_CLASSES, n=1, cutoff=0.85)
    return near[0] if near else None


def _defect_pair(defect: str) -> tuple[str, str]:
    """("{class} without a scratch", "{class} with a scratch") for "scratch"."""
    phrase = f"{article(defect)} {defect}"
    return "{class} without " + phrase, "{class} with " + phrase


def article(word: str) -> str:
    """Tell whether "a" or "an" goes before a word, by its first letter."""
    return "an" if word.lower().startswith(("a", "e", "i", "o", "u", "x-")) else "a"


def fill_template(template: str, word: str, noun: str) -> str:
    """A sentence: `word` for {domain}, with its article, and `noun` for {object}."""
    sentence = re.sub(r"\ba \{domain\}", f"{article(word)} {{domain}}", template)
    return sentence.replace("{domain}", word).replace("{object}", noun)


def _strings(what: str, values: Sequence[object]) -> None:
    if isinstance(values, str):
        raise UsageError(f"{what}: expected a list of sentences, got the single string {values!r}")
    for value in values:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise UsageError(f"{what}: expected printable text, got {value!r}")


def _placeholders(text: str, *, required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    rest = text
    for name in allowed:
        count = text.count("{" + name + "}")
        if count > 1 or (name in required and count != 1):
            raise UsageError(f"{text!r}: expected {{{name}}} exactly once, found it {count} times")
        rest = rest.replace("{" + name + "}", "")
    if "{" in rest or "}" in rest:
        wanted = " and ".join("{" + name + "}" for name in allowed)
        raise UsageError(f"{text!r}: only {wanted} may stand in braces")
