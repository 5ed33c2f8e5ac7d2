"""Sentences that a CLIP learns from: names, states, kinds of defects, templates, and a byte-pair vocabulary of them.

More words than the prompts of the paper. The classes kept aside for the verdict appear nowhere.
"""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from anovl.core.prompts import DOMAINS, STATES, TEMPLATES, fill_template
from anovl.data.synthetic.scene import CLASSES, HELD_OUT

NAMES: dict[str, tuple[str, ...]] = {
    "washer": ("washer", "metal ring", "flat washer", "ring"),
    "metal nut": ("metal nut", "nut", "hex nut", "hexagon nut"),
    "gear": ("gear", "cog", "cog wheel", "gear wheel"),
    "screw": ("screw", "bolt", "threaded screw"),
    "pill": ("pill", "tablet"),
    "capsule": ("capsule", "two-coloured capsule"),
    "bottle": ("bottle", "glass bottle", "bottle mouth"),
    "bottle cap": ("bottle cap", "cap", "lid"),
    "bean": ("bean", "kernel", "seed", "nut"),
    "circuit board": ("circuit board", "pcb", "printed circuit board", "board"),
    "connector": ("connector", "pin header", "plug"),
    "cable": ("cable", "wire", "cable end"),
    "biscuit": ("biscuit", "cookie", "cracker"),
    "bracket": ("bracket", "metal plate", "plate"),
    "coin": ("coin", "medal", "token"),
    "spring": ("spring", "coil spring", "coil"),
    "brushed metal": ("brushed metal", "metal surface", "steel", "ground metal"),
    "wood": ("wood", "wooden board", "plank"),
    "leather": ("leather", "leather surface"),
    "tile": ("tile", "stone tile", "granite"),
    "carpet": ("carpet", "rug"),
    "fabric": ("fabric", "cloth", "textile"),
    "grid": ("grid", "wire mesh", "mesh"),
    "concrete": ("concrete", "cement", "wall"),
    "printed paper": ("printed paper", "print", "paper"),
    "painted steel": ("painted steel", "painted sheet", "lacquered metal"),
    "asphalt": ("asphalt", "cork", "cast iron"),
}
GENERIC = {
    "object": ("object", "part", "item", "product", "component", "workpiece", "thing"),
    "texture": ("surface", "texture", "material", "part", "object", "sample"),
}
# Names that no picture has: state words must work beside any noun.
NOUNS = (
    "apple",
    "axle",
    "bag",
    "ball",
    "bar",
    "battery",
    "belt",
    "blade",
    "box",
    "brick",
    "brush",
    "bulb",
    "candle",
    "card",
    "case",
    "chain",
    "chip",
    "clip",
    "cup",
    "disc",
    "door",
    "engine",
    "fan",
    "fibre",
    "film",
    "filter",
    "food",
    "fork",
    "frame",
    "fruit",
    "fuse",
    "glass",
    "glove",
    "handle",
    "hook",
    "hose",
    "housing",
    "jar",
    "key",
    "knob",
    "label",
    "lamp",
    "lens",
    "lever",
    "lock",
    "machine",
    "magnet",
    "mirror",
    "motor",
    "needle",
    "package",
    "pad",
    "paint",
    "panel",
    "pen",
    "pipe",
    "piston",
    "plastic",
    "pump",
    "rail",
    "resistor",
    "rod",
    "roller",
    "rope",
    "sensor",
    "shaft",
    "sheet",
    "shell",
    "shoe",
    "socket",
    "spoon",
    "steel",
    "stone",
    "strap",
    "switch",
    "tape",
    "tooth",
    "toothbrush",
    "tool",
    "toy",
    "transistor",
    "tray",
    "tube",
    "tyre",
    "valve",
    "vegetable",
    "wafer",
    "weld",
    "wheel",
    "window",
    "zipper",
)
NORMAL = (
    *(good for good, _ in STATES),
    "good {class}", "intact {class}", "clean {class}", "undamaged {class}", "regular {class}", "faultless {class}",
    "{class} in good condition", "{class} without any defect", "{class} as it should be", "{class} free of defects",
)  # fmt: skip
ABNORMAL = (
    *(bad for _, bad in STATES),
    "defective {class}", "broken {class}", "faulty {class}", "bad {class}", "anomalous {class}", "irregular {class}",
    "{class} in bad condition", "{class} with a defect", "{class} with a flaw", "{class} with an anomaly", "spoiled {class}",
)  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {
    "scratch": ("{class} with a scratch", "scratched {class}", "{class} with scratches"),
    "crack": ("{class} with a crack", "cracked {class}", "{class} with a fracture"),
    "hole": ("{class} with a hole", "{class} with pits", "{class} with a blowhole", "pierced {class}"),
    "stain": ("{class} with a stain", "stained {class}", "{class} with a spot of liquid"),
    "dent": ("{class} with a dent", "dented {class}", "{class} with a bump"),
    "contamination": ("{class} with contamination", "contaminated {class}", "{class} with dirt on it", "dirty {class}"),
    "discoloration": (
        "{class} with discoloration",
        "discoloured {class}",
        "{class} of wrong colour",
        "{class} with uneven colour",
    ),
    "cut": ("{class} with a cut", "cut {class}", "{class} with a slit"),
    "abrasion": ("{class} with abrasion", "worn {class}", "rough {class}", "frayed {class}"),
    "burn": ("{class} with a burn", "burnt {class}", "rusty {class}", "{class} with rust"),
    "thread": ("{class} with a thread on it", "{class} with a hair", "{class} with a fibre on it"),
    "distortion": ("{class} with a distortion", "distorted {class}", "{class} with a broken pattern"),
    "chip": ("{class} with a chip", "chipped {class}", "{class} with a piece broken off", "{class} with a broken edge"),
    "bent": ("bent {class}", "deformed {class}", "misshapen {class}"),
    "missing part": ("{class} with a missing part", "incomplete {class}", "{class} with something missing"),
    "misplaced part": ("{class} with a misplaced part", "misaligned {class}", "{class} with a shifted part"),
}
MORE_TEMPLATES = (
    "{object}", "a {object}", "the {object}", "this is a {object}", "a picture of a {object}", "an image of the {object}",
    "a view of a {object}", "one {object} on a table", "a {domain} showing a {object}", "inspection of a {object}",
    "a low resolution {domain} of a {object}", "a good {domain} of a {object}", "a grey {domain} of the {object}",
)  # fmt: skip
ALL_TEMPLATES = (*TEMPLATES, *MORE_TEMPLATES)
ALL_DOMAINS = (*tuple(dict.fromkeys(word for words in DOMAINS.values() for word in words)), "picture", "image", "photograph")


def sentence(rng: np.random.Generator, state: str, name: str) -> str:
    """A state with a name in it, in a random template."""
    template = ALL_TEMPLATES[int(rng.integers(len(ALL_TEMPLATES)))]
    word = ALL_DOMAINS[int(rng.integers(len(ALL_DOMAINS)))]
    return fill_template(template, word, state.replace("{class}", name))


def choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of them."""
    return options[int(rng.integers(len(options)))]


def foreign_name(rng: np.random.Generator) -> str:
    """A name that no picture has: a noun, a generic word, or letters that mean nothing."""
    kind = rng.random()
    if kind < 0.45:
        return choose(rng, NOUNS)
    if kind < 0.8:
        return choose(rng, (*GENERIC["object"], *GENERIC["texture"]))
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), int(rng.integers(4, 10))))


def write_vocabulary(path: Path, merges: int = 1600) -> int:
    """Learn byte pairs from all words above and write them as open_clip's tokenizer reads them.

    Returns:
        The size of the vocabulary: 256 bytes, 256 bytes that end a word, the merges, start and end.
    """
    held_out = {word for name in HELD_OUT for word in name.split()}
    sentences = [*ALL_TEMPLATES, *ALL_DOMAINS, *NORMAL, *ABNORMAL, *NOUNS]
    sentences += [text for group in (NAMES, GENERIC, KINDS) for texts in group.values() for text in texts]
    counts = Counter(word for text in sentences for word in text.replace("{", " ").replace("}", " ").replace("-", " ").split())
    words = {(*tuple(word[:-1]), word[-1] + "</w>"): count for word, count in counts.items() if word not in held_out}
    learned: list[tuple[str, str]] = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for pieces, count in words.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = {_merged(pieces, best): count for pieces, count in words.items()}
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in learned)])
    with gzip.GzipFile(path, "wb", mtime=0) as stream:
        stream.write(text.encode())
    return 512 + len(learned) + 2


def _merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(pieces):
        if pieces[i : i + 2] == pair:
            out.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return tuple(out)


TRAINED = tuple(name for name, info in CLASSES.items() if not info.held_out)
if set(NAMES) != set(TRAINED):
    raise ValueError(f"names and classes differ: {set(NAMES) ^ set(TRAINED)}")
