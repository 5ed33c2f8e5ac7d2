"""Phase one of an evaluation: a score and a patch grid an image, kept in a file that a kill does not harm.

A map is a function of its patch grid and the recipe, so the grid is all there is to keep: about a kilobyte an image.
What took an encoder to find is never found twice; what is measured from it can be measured again in seconds.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anovl.config import Adaptation, FewShot, Mutual, Recipe
from anovl.core.prompts import Wording
from anovl.data.datasets import Category, Sample
from anovl.data.sources import SourceItem
from anovl.detection import DetectionJob
from anovl.detector import AnoVL
from anovl.engine.pipeline import Outcome
from anovl.errors import AnovlError, ImageError, OutputError, UsageError
from anovl.files import cut_torn_line, replacing
from anovl.fitting import drawn
from anovl.methods import method_class
from anovl.results import FloatArray, ImageScores

FEW_SHOT = FewShot()  # of what is kept of the shots


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a comparison: a detector, its words, and whether it adapts.

    Attributes:
        name: in tables and file names.
        detector: backbone, method and recipe.
        adapt: as in `AnoVL.predict`.
        wording: words of your own; default the method's.
        shots: good pictures of a category's training set that it is fitted to, 1 to 64; None for none.
        shot_seed: of the draw of these.
        batched: let the images of a category score each other too; None is each alone.
    """

    name: str
    detector: AnoVL
    adapt: bool | Adaptation = False
    wording: Wording | None = None
    shots: int | None = None
    shot_seed: int = 0
    batched: Mutual | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or "\\" in self.name or self.name.startswith("."):
            raise UsageError(f"variant: expected a name that can be a folder's, got {self.name!r}")
        method_class(self.detector.method_name, adapt=bool(self.adapt))

    @property
    def recipe(self) -> Recipe:
        """In force."""
        return self.detector.method.recipe

    def job(self, category: Category, seeds: Sequence[int]) -> DetectionJob:
        """The detector bound to a category: its class name, and its domain where the words leave it open."""
        words = self.wording or self.detector.method.wording
        if words.domain == "auto" and not words.domain_words:
            words = replace(words, domain=category.kind)
        name = category.name if self.recipe.prompts == "released" else category.class_name
        detector = self.detector
        if self.shots is not None:
            good = drawn(category.train, self.shots, self.shot_seed, name=f"{category.name}, train")
            detector = detector.fit([sample.image for sample in good], name, settings=FEW_SHOT)
        return detector.job(name, wording=words, adapt=self.adapt, seed=tuple(seeds))

    def settings(self) -> dict[str, Any]:
        """Whatever its scores depend on, as plain values for run.json."""
        detector = self.detector
        recipe = self.recipe
        if isinstance(self.adapt, Adaptation):
            recipe = replace(recipe, adaptation=self.adapt)
        return {
            "method": detector.method_name,
            "model": detector.backbone.describe(),
            "recipe": recipe.to_dict(),
            "words": (self.wording or detector.method.wording).to_dict(),
            "adapt": bool(self.adapt),
            "shots": self.shots,
            "shot_seed": None if self.shots is None else self.shot_seed,
            "few_shot": None if self.shots is None else asdict(FEW_SHOT),
            "batched": None if self.batched is None else asdict(self.batched),
        }


@dataclass(frozen=True, eq=False)
class Scored:
    """What a variant says of an image.

    Attributes:
        key: the image's name in its data set.
        size: (H, W) of the image, px.
        image_scores: [S] in [0, 1], one a seed.
        patch_scores: [S, h, w] in [0, 1].
    """

    key: str
    size: tuple[int, int]
    image_scores: FloatArray
    patch_scores: FloatArray

    def to_row(self) -> dict[str, Any]:
        """Plain values; the arrays exactly, as base64 of little-endian float32."""
        return {
            "image": self.key,
            "size": list(self.size),
            "shape": list(self.patch_scores.shape),
            "image_scores": _pack(self.image_scores),
            "patch_scores": _pack(self.patch_scores),
        }

    @classmethod
    def of(cls, item: SourceItem, size: tuple[int, int], scores: ImageScores, timings: dict[str, float]) -> Scored:
        """What an engine's run gives for an image (`anovl.engine.local.run`): scores and grids, before they become a map."""
        del timings
        images = np.atleast_1d(scores.image_score if scores.image_seeds is None else scores.image_seeds)
        patches = scores.patch_scores[None] if scores.patch_seeds is None else scores.patch_seeds
        return cls(item.key, size, images, patches)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Scored:
        """What `to_row` wrote."""
        patches = _unpack(row["patch_scores"]).reshape(row["shape"])
        return cls(row["image"], (row["size"][0], row["size"][1]), _unpack(row["image_scores"]), patches)


@dataclass(frozen=True, eq=False)
class Task:
    """A category by a variant: what a file holds of it already, and what is left to score.

    Attributes:
        variant: what to score with.
        category: its test images.
        seeds: of the adaptation, one set of scores each.
        path: the JSON lines file.
        done: what it held.
    """

    variant: Variant
    category: Category
    seeds: tuple[int, ...]
    path: Path
    done: list[Scored]

    @classmethod
    def begin(cls, variant: Variant, category: Category, seeds: Sequence[int], path: Path, *, batch_size: int) -> Task:
        """Make the file, or go on with it after a kill: whole batches count, an image's last bits depend on who shares its own.

        Of images that score each other all count or none.

        Raises:
            OutputError: the file cannot be written, or is none of this package, or of other images.
        """
        done = _read(path)
        if [one.key for one in done] != [sample.key for sample in category.test[: len(done)]]:
            raise OutputError(f"{path}: scores of other images than the data set's; name another folder")
        if len(done) < len(category.test):
            done = [] if variant.batched else done[: len(done) // batch_size * batch_size]
            with replacing(path) as temporary:
                temporary.write_text("".join(map(_line, done)), encoding="utf-8")
        return cls(variant, category, tuple(seeds), path, done)

    @property
    def items(self) -> list[SourceItem]:
        """The images that are left."""
        return [SourceItem(sample.image, sample.key, sample.key) for sample in self.category.test[len(self.done) :]]

    def job(self) -> DetectionJob:
        """What scores them."""
        return self.variant.job(self.category, self.seeds)

    def finish(self, outcomes: Iterator[Outcome[Scored]], *, on_image: Callable[[], None] = lambda: None) -> list[Scored]:
        """Take the outcomes of the images that are left into the file.

        Args:
            outcomes: of `items`, in their order; what comes after them is left alone.
            on_image: is called after each image, those from before included.

        Returns:
            all images' scores, in the order of the category.

        Raises:
            AnovlError: an image cannot be used; figures without it would be another data set's.
            OutputError: the file cannot be written.
        """
        for _ in self.done:
            on_image()
        scored = list(self.done)
        left = len(self.category.test) - len(scored)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                for outcome in itertools.islice(outcomes, left):
                    if outcome.prediction is None:
                        told = outcome.error.reason if isinstance(outcome.error, ImageError) else outcome.error
                        reason = f"{outcome.item.key}: {told}; without it figures would be another data set's: mend it"
                        raise AnovlError(reason) from outcome.error
                    scored.append(outcome.prediction)
                    stream.write(_line(outcome.prediction))
                    stream.flush()
                    on_image()
        except OSError as exc:
            if isinstance(exc, AnovlError):
                raise
            raise OutputError(f"{self.path}: cannot be written ({exc.strerror or exc}); what is there so far is whole") from exc
        return scored


def pick(samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """At most `limit` samples, half of them good where there are enough, evenly spaced over each kind; the order is kept."""
    if limit is None or len(samples) <= limit:
        return tuple(samples)
    good = [index for index, sample in enumerate(samples) if not sample.anomalous]
    bad = [index for index, sample in enumerate(samples) if sample.anomalous]
    first = min(len(good), max(limit // 2, limit - len(bad)))
    chosen = [*_spaced(good, first), *_spaced(bad, limit - first)]
    return tuple(samples[index] for index in sorted(chosen))


def _spaced(items: Sequence[int], count: int) -> Iterator[int]:
    return (items[index * len(items) // count] for index in range(count))


def _line(scored: Scored) -> str:
    return json.dumps(scored.to_row()) + "\n"


def _read(path: Path) -> list[Scored]:
    """Rows of an earlier run; a torn last line is cut off."""
    try:
        cut_torn_line(path)
        if not path.exists():
            return []
        with path.open(encoding="utf-8") as stream:
            return [Scored.from_row(json.loads(line)) for line in stream]
    except OSError as exc:
        raise OutputError(f"{path}: cannot be read or written ({exc.strerror or exc})") from exc
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise OutputError(f"{path}: not a file of scores of anovl; name another folder, or remove it") from exc


def _pack(values: FloatArray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _unpack(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
