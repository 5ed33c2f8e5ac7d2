"""Few good pictures: a memory of their patch tokens, and the distance of a patch to the nearest of them.

The memory of tokens that are averaged over their neighbours, and its greedy coreset, are those of PatchCore (Towards Total Recall
in Industrial Anomaly Detection, Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler 2022, arXiv:2106.08265); to add the distance to
the text's score is WinCLIP+'s idea (arXiv:2303.14814). How they are added is ours: docs/few_and_many.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from anovl.config import FewShot
from anovl.core.encoder import Encoder
from anovl.core.products import matmul
from anovl.core.scoring import Scores
from anovl.errors import UsageError
from anovl.files import replacing
from anovl.profiles import Origin

FORMAT = "1"
MOST_PICTURES = 64
MEMORY = 64 * 1024**2  # bytes of cosines at once
AGAIN = "make it with `anovl fit`"
COMPARED = 8  # pictures that tell how alike all are
ONE_PICTURE, MOST, ALIKE = 0.1, 3.0, 2e-4  # weights; how they were chosen: docs/few_and_many.md
_OF_TOKENS = ("interpolation", "decode", "attention", "layers")  # fields of a recipe that tokens depend on


@dataclass(frozen=True, eq=False)
class Bank:
    """What is kept of good pictures.

    Attributes:
        tokens: for each path [K, D], fp32, of unit length: the local path, then the layers; of WinCLIP patches, then windows.
        settings: that it was made with, the layers by their numbers, the weight settled.
        pictures: how many good ones.
        origin: of the tokens: class, model, method, and what of the recipe matters to them; a bank holds for the same alone.
    """

    tokens: tuple[Tensor, ...]
    settings: FewShot
    pictures: int
    origin: Origin

    def __post_init__(self) -> None:
        if not self.tokens or any(path.ndim != 2 or path.dtype != torch.float32 or not len(path) for path in self.tokens):
            raise UsageError("tokens: expected [K, D] in float32 for each path")
        if self.settings.weight == "auto":
            raise UsageError("weight: expected a number, got 'auto'; `Bank.of` settles it")

    @classmethod
    def of(cls, features: Sequence[Sequence[Tensor]], origin: Origin, settings: FewShot) -> Bank:
        """A bank of good pictures.

        Args:
            features: of each picture, for each path [M, D], as a method's `features` gives them.
            origin: of scores of this class.
            settings: that the features were made with.

        Raises:
            UsageError: no picture, or more than 64.
        """
        if not 1 <= len(features) <= MOST_PICTURES:
            raise UsageError(f"fit: expected 1 to {MOST_PICTURES} good pictures, got {len(features)}")
        paths = [unit(torch.cat(list(path))) for path in zip(*features, strict=True)]
        if settings.weight == "auto":
            settings = replace(settings, weight=settled_weight(paths, len(features)))
        kept = tuple(path[coreset(path, settings.share, settings.seed)] for path in paths)
        return cls(kept, settings, len(features), of_tokens(origin))

    @cached_property
    def key(self) -> str:
        """Tells banks apart: eight digits of the sha256 of the tokens and of the settings that scores depend on too."""
        settings = self.settings
        digest = hashlib.sha256(json.dumps([settings.layers, settings.radius, float(settings.weight)]).encode())
        for path in self.tokens:
            digest.update(path.cpu().numpy().tobytes())
        return digest.hexdigest()[:8]

    @property
    def summary(self) -> dict[str, Any]:
        """What run.json says of it."""
        sizes = [len(path) for path in self.tokens]
        return {"key": self.key, "pictures": self.pictures, "tokens": sizes, **asdict(self.settings)}

    def distances(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Of each path's tokens [B, M, D], not normalised, to the nearest kept one: [B, M], 1 - cosine, in [0, 2]."""
        return [1 - nearest(unit(found), kept) for found, kept in zip(features, self.tokens, strict=True)]

    def to(self, device: torch.device) -> Bank:
        """The same on a device."""
        return replace(self, tokens=tuple(path.to(device) for path in self.tokens))

    def check(self, origin: Origin) -> None:
        """Refuse what the bank was not made for.

        Raises:
            UsageError: tokens of this origin are others; the message names every difference.
        """
        if other := self.origin.differences(of_tokens(origin)):
            raise UsageError(f"bank: made for {'; '.join(other)}; fit good pictures for this run, or leave the bank out")

    def save(self, path: str | Path) -> None:
        """Write the bank as safetensors, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        facts = {"settings": asdict(self.settings), "pictures": self.pictures, "origin": asdict(self.origin)}
        metadata = {"format": FORMAT, "bank": json.dumps(facts)}
        tokens = {f"path.{number}": kept.cpu().contiguous() for number, kept in enumerate(self.tokens)}
        with replacing(Path(path)) as temporary:
            save_file(tokens, temporary, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Bank:
        """Read a bank; no code runs from it.

        Raises:
            UsageError: there is none, or the file is not a bank of this version.
        """
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                facts = json.loads(metadata["bank"]) if metadata.get("format") == FORMAT else {}
                tokens = tuple(stored.get_tensor(f"path.{number}") for number in range(len(stored.keys())))
            layers = facts["settings"]["layers"]
            settings = FewShot(**facts["settings"] | {"layers": None if layers is None else tuple(layers)})
            bank = cls(tokens, settings, facts["pictures"], Origin(**facts["origin"]))
        except OSError as exc:
            raise UsageError(f"{path}: the bank cannot be read ({exc.strerror or exc}); {AGAIN}") from exc
        except (SafetensorError, UsageError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise UsageError(f"{path}: not a bank of this anovl ({exc}); {AGAIN}") from exc
        return bank


def of_tokens(origin: Origin) -> Origin:
    """What of an origin of scores tokens depend on: neither words nor adaptation."""
    return replace(
        origin, words={}, seeds=(), recipe={name: value for name, value in origin.recipe.items() if name in _OF_TOKENS}
    )


def chosen_layers(layers: tuple[int, ...] | None, encoder: Encoder) -> tuple[int, ...]:
    """The blocks whose tokens are read: those given, else the one two thirds up the tower; a ResNet has none.

    Raises:
        UsageError: the tower has no such block.
    """
    if layers is None:
        return (round(encoder.blocks_kept * 2 / 3),) if encoder.blocks_kept > 1 else ()
    encoder.check_layers(layers)
    return layers


def averaged(tokens: Tensor, radius: int, grid: tuple[int, int]) -> Tensor:
    """Each token of a grid, [B, M, D], averaged with its neighbours in a square of `radius` patches, those that there are."""
    if radius == 1:
        return tokens
    square = tokens.transpose(1, 2).unflatten(2, grid).float()
    return F.avg_pool2d(square, radius, 1, radius // 2, count_include_pad=False).flatten(2).transpose(1, 2)


def unit(tokens: Tensor) -> Tensor:
    """Tokens [..., D] at length 1, fp32."""
    return F.normalize(tokens.float(), dim=-1)


def nearest(queries: Tensor, kept: Tensor) -> Tensor:
    """The largest cosine of unit vectors [..., D] with any of those kept [K, D] -> [...]; memory is bounded."""
    flat = queries.flatten(0, -2)
    rows = max(1, math.isqrt(MEMORY // 4))
    some = [flat] if torch.compiler.is_compiling() else flat.split(rows)  # a graph has any number of them
    parts = [kept[start : start + rows].T for start in range(0, len(kept), rows)]
    best = [reduce(torch.maximum, (matmul(one, part).amax(dim=1) for part in parts)) for one in some]
    return torch.cat(best).view(queries.shape[:-1]).clamp(-1, 1)


def settled_weight(paths: Sequence[Tensor], pictures: int) -> float:
    """The weight of distances: the more alike good pictures are, the more does it say that a patch is far from them.

    Args:
        paths: tokens [N, D] of unit length, as many of each picture.
        pictures: that they are of; one alone does not show how alike they are.

    Returns:
        0.0002 over the square of the mean distance of their patches to the nearest of the other pictures, at most 3; 0.1 for one.
        Of more than 8 pictures 8, evenly chosen, are compared with all others.
    """
    if pictures == 1:
        return ONE_PICTURE
    usual = float(torch.cat([apart(path, pictures) for path in paths]).mean())
    return min(MOST, ALIKE / max(usual, 1e-6) ** 2)


def apart(tokens: Tensor, pictures: int) -> Tensor:
    """Mean distances of patches to the nearest of the other pictures, [at most 8]: of all pictures, or of 8, evenly chosen.

    Args:
        tokens: [N, D] of unit length, as many of each picture.
        pictures: that they are of, two at least.
    """
    count = min(COMPARED, pictures)
    each = tokens.split(len(tokens) // pictures)
    chosen = [index * pictures // count for index in range(count)]
    others = (torch.cat([*each[:index], *each[index + 1 :]]) for index in chosen)
    return torch.stack([1 - nearest(each[index], rest).mean() for index, rest in zip(chosen, others, strict=True)])


def coreset(tokens: Tensor, share: float, seed: int) -> Tensor:
    """Greedy k-center: tokens such that the farthest of the others is as near as possible to one of them.

    Args:
        tokens: [N, D], unit length.
        share: of N to keep, above 0 and at most 1; at least one is kept.
        seed: draws the first one; each other is the one farthest from all before it.

    Returns:
        indices [K] into `tokens`, in the order in which they were chosen
    """
    count = max(1, round(share * len(tokens)))
    if count == len(tokens):
        return torch.arange(count, device=tokens.device)
    chosen = [int(torch.randint(len(tokens), (), generator=torch.Generator().manual_seed(seed)))]
    cosine = tokens @ tokens[chosen[0]]  # with the nearest chosen one
    while len(chosen) < count:
        chosen.append(int(cosine.argmin()))
        cosine = torch.maximum(cosine, tokens @ tokens[chosen[-1]])
        cosine[chosen[-1]] = math.inf  # rounding must not choose it again
    return torch.tensor(chosen, device=tokens.device)


def fused(scores: Scores, distance: Tensor, weight: float) -> Scores:
    """Text and distance as one score: the odds of each score of the text grow by exp(weight times distance).

    With Eq. (2) this is the sigmoid of s (cos abnormal - cos normal + w distance) for a weight of s w. The image's score takes
    the largest distance of its patches.

    Args:
        scores: by the text.
        distance: [B, h, w], at least 0.
        weight: w times the method's logit scale s.
    """

    def joined(score: Tensor, far: Tensor) -> Tensor:
        return score / (score + (1 - score) * torch.exp(-(weight * far).clamp(max=80)))

    top = distance.flatten(1).amax(dim=1)
    seeds: tuple[Tensor | None, Tensor | None] = (None, None)
    if scores.image_seeds is not None and scores.patch_seeds is not None:
        seeds = joined(scores.image_seeds, top[:, None]), joined(scores.patch_seeds, distance[:, None])
    image, patches = scores.image_score, scores.patch_scores
    return Scores(joined(image, top), joined(patches, distance), seeds[0], seeds[1], scores.name_scores)
