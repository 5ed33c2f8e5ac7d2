"""Whether a linear map of local tokens could name defects: what it learns for words it met, and for words it did not.

    python training/study_naming_map.py mini [--per-class 24] > study.txt

A map [C, C] between a region's mean local token and the directions of names is fitted by cross-entropy to drawn pictures of
training seeds, names in turn by all that training called them. It is tried on other pictures, of the classes it was fitted to and
of the held out ones: by the 16 default words, by 16 words that it met never or rarely, and, fitted again without four kinds, on
these kinds alone. Sentences name the class, or three neutral nouns; tokens are of the image, or of a crop around the region.
docs/naming.md has the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from evaluate import load
from pictures import FIRST_TRAINING_SEED
from PIL import Image
from study_naming import KIND, crop, largest_region, number_of, on_grid
from torch import Tensor
from torch.nn import functional as F
from words import KINDS

from anovl import AnoVL
from anovl.config import DEFECT_NAMES
from anovl.core.prompts import TEMPLATES, Wording, article, build_prompts
from anovl.data.synthetic import CLASSES, draw

NEUTRAL = ("object", "part", "surface")
OTHER = (
    "scratches", "fracture", "blowhole", "spot of liquid", "bump", "dirt", "uneven colour", "slit", "wear", "rust", "hair",
    "broken pattern", "broken edge", "deformation", "missing piece", "shifted part",
)  # fmt: skip
LEFT_OUT = ("crack", "stain", "abrasion", "chip")
AROUND = 2.0  # sides of the crop, of the region's longer one
STEPS, RATE, DECAY, RIDGE = 350, 3e-3, 0.3, 1e-3
Map = tuple[Tensor, Tensor]  # [C, C], and the mean that is taken off tokens


@dataclass(frozen=True)
class Phrases:
    """Mean embeddings of the sentences with a phrase, [classes, phrases, C]: of the words, of others, of all that is known."""

    words: Tensor
    other: Tensor
    known: list[Tensor]  # one a kind, its word first


def embedded(detector: AnoVL, nouns: Sequence[str], phrases: Sequence[str]) -> Tensor:
    """[phrases, C], means over nouns, templates and domain words."""
    states = (("normal {class}", phrases[0]), *((None, phrase) for phrase in phrases[1:]))
    wording = Wording(states=states, templates=TEMPLATES[::6])
    tokens = [detector.texts.features(build_prompts(noun, wording)).tokens for noun in nouns]
    means = [own[len(own) // (1 + len(phrases)) :].unflatten(0, (-1, len(phrases))).mean(dim=0) for own in tokens]
    return F.normalize(torch.stack(means).mean(dim=0), dim=-1)


def phrases(detector: AnoVL, nouns: Sequence[Sequence[str]]) -> Phrases:
    """Those of each class, which is called by its nouns."""

    def every(texts: Sequence[str]) -> Tensor:
        made = {own: embedded(detector, own, texts) for own in dict.fromkeys(map(tuple, nouns))}
        return torch.stack([made[tuple(own)] for own in nouns])

    said = [[f"{{class}} with {article(name)} {name}" for name in names] for names in (DEFECT_NAMES, OTHER)]
    words, other = (every(texts) for texts in said)
    taught = [KINDS[KIND.get(name, name)] for name in DEFECT_NAMES]
    known = every([text for texts in taught for text in texts]).split([len(texts) for texts in taught], dim=1)
    return Phrases(words, other, [torch.cat([words[:, [i]], own], dim=1) for i, own in enumerate(known)])


def directions(means: Tensor) -> Tensor:
    """[..., K, C], less their mean, of unit length."""
    return F.normalize(means - means.mean(dim=-2, keepdim=True), dim=-1)


def fit(tokens: Tensor, classes: Tensor, labels: Tensor, known: list[Tensor]) -> Map:
    """A map by which tokens [N, C] lie nearest the directions of their kinds; text is whitened, so that it can be learnt."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.cat([directions(torch.stack([own[:, turn % own.shape[1]] for own in known], dim=1)) for turn in range(5)])
    values, vectors = torch.linalg.eigh(torch.cov(sample.flatten(0, 1).T, correction=0))
    white = (vectors * (values.clamp_min(0) + RIDGE).rsqrt()) @ vectors.T
    mean, deviation = tokens.mean(dim=0), tokens.std()
    weights = torch.zeros(white.shape, requires_grad=True)
    optimiser = torch.optim.AdamW([weights], lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        batch = torch.randperm(len(tokens), generator=generator)[:512]
        chosen = [own[:, int(torch.randint(own.shape[1], (), generator=generator))] for own in known]
        towards = (directions(torch.stack(chosen, dim=1)) @ white)[classes[batch]]
        logits = torch.einsum("bc,bkc->bk", (tokens[batch] - mean) / deviation @ weights, towards)
        optimiser.zero_grad()
        F.cross_entropy(logits, labels[batch]).backward()
        optimiser.step()
    return weights.detach() / deviation @ white, mean


def told(fitted: Map, tokens: Tensor, classes: Tensor, labels: Tensor, means: Tensor) -> str:
    """Top-1 and top-3 in percent."""
    similarity = torch.einsum("bc,bkc->bk", (tokens - fitted[1]) @ fitted[0], directions(means)[classes])
    rank = (similarity > similarity.gather(1, labels[:, None])).sum(dim=1)
    return "".join(f"{100 * float((rank < first).float().mean()):6.1f}" for first in (1, 3))


@torch.inference_mode()
def drawn(detector: AnoVL, per_class: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Local tokens of regions [N, C], by image and by crop; classes and kinds by number, [N]; classes take turns."""
    encoder = detector.method.encoder
    tokens: dict[str, list[Tensor]] = {"image": [], "crop": []}
    classes, labels = [], []
    for turn, (number, (name, info)) in product(range(per_class), enumerate(CLASSES.items())):
        defect = info.defects[(turn + number) % len(info.defects)]
        sample = draw(name, FIRST_TRAINING_SEED + 13_000_000 + 1000 * number + turn, defect=defect)
        region = largest_region(sample.mask)
        shown = {"image": (sample.image, region)}
        shown["crop"] = (crop(sample.image, region, AROUND), crop(region, region, AROUND))
        local = encoder(torch.stack([detector.preprocess(Image.fromarray(image)) for image, _ in shown.values()]))[1]
        for (title, (_, mask)), own in zip(shown.items(), F.normalize(local, dim=-1), strict=True):
            tokens[title].append(on_grid(mask, encoder.grid) @ own)
        classes.append(number)
        labels.append(number_of(defect))
    return {title: torch.stack(own) for title, own in tokens.items()}, torch.tensor(classes), torch.tensor(labels)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--per-class", type=int, default=24, help="defective pictures, a quarter of them to try it on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = AnoVL(load(options.model))
    found, classes, labels = drawn(detector, options.per_class)
    unseen = torch.tensor([info.held_out for info in CLASSES.values()])[classes]
    later = torch.arange(len(labels)) // len(CLASSES) % 4 == 3
    left_out = torch.isin(labels, torch.tensor([DEFECT_NAMES.index(name) for name in LEFT_OUT]))
    fitted_to, tried = ~unseen & ~later, {"seen classes": ~unseen & later, "unseen classes": unseen}
    print(f"{options.model}, fitted to {int(fitted_to.sum())} regions{'':24}default words  other words  (top-1, top-3)")
    called: dict[str, list[Sequence[str]]] = {
        "the class": [(name,) for name in CLASSES],
        "neutral nouns": [NEUTRAL] * len(CLASSES),
    }
    for nouns, own in called.items():
        text = phrases(detector, own)
        kept = [known for name, known in zip(DEFECT_NAMES, text.known, strict=True) if name not in LEFT_OUT]
        renumbered = torch.tensor([name not in LEFT_OUT for name in DEFECT_NAMES]).cumsum(0)[labels] - 1
        for title, tokens in found.items():
            fitted = fit(tokens[fitted_to], classes[fitted_to], labels[fitted_to], text.known)
            for which, some in tried.items():
                given = tokens[some], classes[some], labels[some]
                both = told(fitted, *given, text.words), told(fitted, *given, text.other)
                print(f"{f'{title}, {nouns}, {which}':58}{both[0]} {both[1]}", flush=True)
            part = fitted_to & ~left_out
            fitted = fit(tokens[part], classes[part], renumbered[part], kept)
            some = ~fitted_to & left_out
            print(
                f"{f'{title}, {nouns}, kinds left out':58}{told(fitted, tokens[some], classes[some], labels[some], text.words)}"
            )


if __name__ == "__main__":
    main()
