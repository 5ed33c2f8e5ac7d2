"""The detector that users hold: a backbone, a method and its words, from any image to a Prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anovl import mutual
from anovl.backbones import Backbone, load_backbone
from anovl.calibration import calibrate, peaks
from anovl.config import (
    DEFAULT_MODEL,
    DEFAULT_THRESHOLD,
    Adaptation,
    Decode,
    FewShot,
    Mutual,
    OutputSize,
    Recipe,
    Tiling,
)
from anovl.config import recipe as make_recipe
from anovl.core.pixels import normalised
from anovl.core.prompts import PromptSet, Wording, build_prompts
from anovl.core.scoring import score_range
from anovl.data.images import ImageLimits
from anovl.data.resizing import squash
from anovl.data.sources import SourceItem, iter_source
from anovl.detection import DetectionJob, bind
from anovl.devices import pick_devices, to_device
from anovl.engine import local, maps, pipeline
from anovl.engine.pipeline import results
from anovl.engine.text import TextCache
from anovl.errors import UsageError
from anovl.fitting import FittingJob
from anovl.methods import fitting_method, make_method
from anovl.methods.few_shot import Bank
from anovl.profiles import DEFAULT_FPR, Profile
from anovl.results import FloatArray, Prediction

log = logging.getLogger(__name__)


class AnoVL:
    """Finds defects in images of things it was never trained on.

    Args:
        backbone: the CLIP.
        recipe: a name ("default", "paper", "released") or a Recipe; None is the model's own, "default" for most.
        method: "anovl", or a compared system such as "clip".
        threshold: the decision is pred_score >= threshold; 0.5 is CLIP's own (abnormal nearer than normal).
        limits: what images to refuse.
        cache_dir: where text features are kept (default: ANOVL_CACHE, else ~/.cache/anovl).

    Attributes:
        replicas: the same detector on other devices, whose models take turns with this one's in `stream` and `calibrate`.

    Raises:
        UsageError: an unknown recipe or method, or a recipe that does not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        recipe: str | Recipe | None = None,
        method: str = "anovl",
        threshold: float = DEFAULT_THRESHOLD,
        limits: ImageLimits | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold: expected a value in [0, 1], got {threshold}")
        self.backbone = backbone
        self.recipe = make_recipe(backbone.recipe if recipe is None else recipe)
        self.method_name = method
        self.method = make_method(method, backbone, self.recipe)
        self.threshold = threshold
        self.profile: Profile | None = None
        self.bank: Bank | None = None
        self.limits = limits or ImageLimits()
        self.replicas: tuple[AnoVL, ...] = ()
        self.texts = TextCache(backbone, None if cache_dir is None else Path(cache_dir))

    @classmethod
    def from_pretrained(
        cls,
        name: str = DEFAULT_MODEL,
        *,
        recipe: str | Recipe | None = None,
        method: str = "anovl",
        device: str | torch.device | Sequence[str | torch.device] = "auto",
        dtype: str | torch.dtype = "auto",
        image_size: int | tuple[int, int] | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        arch: str | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        limits: ImageLimits | None = None,
    ) -> AnoVL:
        """Load a backbone by name (see `anovl.load_backbone`) and wrap it.

        Several devices (`anovl.devices.pick_devices`) get a model each: the first is the detector's, the others are `replicas`.

        Raises:
            UsageError, UnavailableError, CheckpointError: as `load_backbone` and the constructor.
        """
        first, *others = pick_devices(device)
        backbone = load_backbone(
            name,
            device=first,
            dtype=dtype,
            image_size=image_size,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            arch=arch,
        )
        detector = cls(backbone, recipe=recipe, method=method, threshold=threshold, limits=limits, cache_dir=cache_dir)
        detector.replicas = tuple(detector._on(other) for other in others)
        return detector

    def _on(self, device: torch.device) -> AnoVL:
        """The same detector with a model of its own on a device; text features come from the first one."""
        other = copy(self)
        other.backbone = replace(self.backbone, clip=deepcopy(self.backbone.clip).to(device))
        other.method = make_method(self.method_name, other.backbone, self.recipe)
        return other

    def with_method(self, method: str) -> AnoVL:
        """The same backbone and settings under another method; weights and text features are shared.

        Raises:
            UsageError: no such method, or the recipe does not fit it.
        """
        return self._with(method, self.recipe)

    def with_recipe(self, recipe: str | Recipe) -> AnoVL:
        """The same backbone and settings under another recipe; weights and text features are shared.

        Raises:
            UsageError: no such recipe, or it does not fit the backbone or the method.
        """
        return self._with(self.method_name, make_recipe(recipe))

    def _with(self, method: str, recipe: Recipe) -> AnoVL:
        if self.bank is not None:
            raise UsageError("this detector was fitted to good pictures: choose method and recipe first, then fit")
        other = copy(self)
        other.recipe, other.method_name = recipe, method
        other.method = make_method(method, self.backbone, recipe)
        other.replicas = tuple(replica._with(method, recipe) for replica in self.replicas)  # noqa: SLF001 -- our own
        return other

    def with_bank(self, bank: Bank) -> AnoVL:
        """The same detector with a memory of good pictures; weights and text features are shared.

        To predict anything that the bank was not made for (another class, model, ...) is then a UsageError.
        """
        other = copy(self)
        other.bank = bank
        other.method = fitting_method(self.method_name, self.method).with_bank(bank.to(self.backbone.device))
        other.replicas = tuple(replica.with_bank(bank) for replica in self.replicas)
        return other

    def fit(self, good_images: Any, class_name: str, *, settings: FewShot | None = None, decode: Decode | None = None) -> AnoVL:
        """The detector with a memory of a few good pictures, whose distances join the scores; see docs/few_and_many.md.

        Args:
            good_images: 1 to 64 pictures, as in `stream`.
            class_name: what they show.
            settings: what is kept of them, and how it counts.
            decode: as in `job`.

        Raises:
            ImageError: a picture cannot be used.
            UsageError: no picture or too many, a method without such a memory, or a layer that is not there.
        """
        plain = copy(self)
        plain.profile = plain.bank = None  # tokens do not depend on them
        job = FittingJob(plain.job(class_name, decode=decode), settings or FewShot())
        return self.with_bank(job.bank(results(pipeline.run(job, iter_source(good_images)))))

    def with_profile(self, profile: Profile) -> AnoVL:
        """The same detector with the thresholds of a profile; weights and text features are shared.

        To predict anything that the profile was not made for (another class, method, adaptation, ...) is then a UsageError.
        """
        other = copy(self)
        other.profile, other.threshold = profile, profile.image_threshold
        other.replicas = tuple(replica.with_profile(profile) for replica in self.replicas)
        return other

    def keep_texts_in_memory(self) -> None:
        """Write no more text features to disk: who lets others name classes does not let them fill it."""
        self.texts.writable = False

    @property
    def device(self) -> str:
        """Where it computes: "cuda:0", or "cuda:0,cuda:1" with a replica."""
        return ",".join(str(one.backbone.device) for one in (self, *self.replicas))

    @property
    def score_range(self) -> tuple[float, float]:
        """The fixed drawing scale; see `anovl.results.Prediction`."""
        return score_range(self.method.logit_scale / self.backbone.logit_scale)

    @torch.inference_mode()
    def encode(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of preprocessed images: [B, 3, H, W] -> class_token [B, C] and local_tokens [B, M, C]."""
        if not isinstance(pixel_values, Tensor):
            raise UsageError(f"pixel_values: expected a tensor [B, 3, H, W], got {type(pixel_values).__name__}")
        tokens: tuple[Tensor, Tensor] = self.method.encoder(pixel_values.to(self.backbone.device))
        return tokens

    def preprocess(self, picture: Image.Image) -> Tensor:
        """An RGB picture -> [3, H, W] fp32 at the backbone's input size, on the CPU."""
        pixels = np.array(squash(picture, self.backbone.image_size, self.recipe.interpolation))
        return normalised(torch.from_numpy(pixels)[None], self.backbone.mean, self.backbone.std)[0]

    def to_pixel_values(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] uint8, RGB, at the input size -> [B, 3, H, W] fp32 on the backbone's device, which gets the bytes.

        Raises:
            UsageError: `images` are no such bytes.
        """
        return normalised(to_device(images, self.backbone.device), self.backbone.mean, self.backbone.std)

    def anomaly_map(self, patch_scores: FloatArray, size: tuple[int, int]) -> FloatArray:
        """The map [H, W] of a patch grid [h, w] at a size, smoothed and up-sampled as the recipe says."""
        return maps.anomaly_map(patch_scores, size, self.method.recipe)

    def prompts(self, class_name: str, wording: Wording | None = None) -> PromptSet:
        """The sentences used for a class; default: the method's own words."""
        return build_prompts(class_name, wording or self.method.wording, style=self.recipe.prompts)

    def predict(
        self,
        image: Any,
        class_name: str,
        *,
        domain: str | None = None,
        defects: Sequence[str] = (),
        wording: Wording | None = None,
        output_size: OutputSize | None = None,
        adapt: bool | Adaptation = False,
        seed: int | Sequence[int] = 0,
        names: str | Sequence[str] = (),
        tiles: int | Tiling | None = None,
    ) -> Prediction:
        """Score one image.

        Args:
            image: a path, bytes, file object, PIL image, numpy array or tensor; see `anovl.load_image`.
            class_name: what it shows, such as "metal nut".
            domain: "auto", "object", "texture" or "plain"; None leaves it to the wording.
            defects: known defects, such as ["scratch"].
            wording: words of your own; default the method's.
            output_size: "image" or "input"; default the recipe's.
            adapt: adapt to the image at test time (Eq. 9-11), as the recipe says or with settings of your own.
            seed: of the adaptation's noise and weights; several give the mean of their scores, and its spread in
                `Prediction.patch_scores_std`.
            names: words to name each region by, such as ["scratch", "hole"], or "default" (docs/naming.md).
            tiles: side of overlapping tiles in px of the image, beside the whole image, or settings of their own; None leaves it
                to the recipe.

        Raises:
            ImageError: the image cannot be used.
            UsageError: a word, domain or prompt is not valid.
        """
        item = SourceItem(image, None, "image")
        job = self.job(
            class_name,
            domain=domain,
            defects=defects,
            wording=wording,
            output_size=output_size,
            adapt=adapt,
            seed=seed,
            names=names,
            tiles=tiles,
        )
        prediction: Prediction
        (prediction,) = results(local.run(job, [item], workers=1))
        return prediction

    def stream(
        self,
        source: Any,
        class_name: str,
        *,
        domain: str | None = None,
        defects: Sequence[str] = (),
        wording: Wording | None = None,
        output_size: OutputSize | None = None,
        adapt: bool | Adaptation = False,
        seed: int | Sequence[int] = 0,
        names: str | Sequence[str] = (),
        tiles: int | Tiling | None = None,
        batch_size: int = 8,
        workers: int = 2,
        on_error: Literal["raise", "skip"] = "raise",
        batched: bool | Mutual = False,
    ) -> Iterator[Prediction]:
        """Score a folder, glob, list or iterator of images; predictions come in its order, memory is O(batch).

        Args:
            source: see `anovl.data.sources.iter_source`.
            batch_size: images a pass, or tiles.
            workers: decoding threads.
            on_error: "raise" stops at the first broken image, "skip" logs it and goes on.
            batched: let the images score each other too (MuSc), with settings of your own or the usual ones; the first
                prediction comes after all images were encoded, and no threshold is calibrated; see docs/few_and_many.md.
            class_name, domain, defects, wording, output_size, adapt, seed, names, tiles: as in `predict`.
        """
        job = self.job(
            class_name,
            domain=domain,
            defects=defects,
            wording=wording,
            output_size=output_size,
            adapt=adapt,
            seed=seed,
            names=names,
            tiles=tiles,
        )
        work: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
        if batched:
            settings = batched if isinstance(batched, Mutual) else Mutual()
            yield from results(mutual.run(job, iter_source(source), settings=settings, **work), on_error=on_error)
        else:
            yield from results(local.run(job.per_device(), iter_source(source), **work), on_error=on_error)

    def calibrate(self, source: Any, class_name: str, *, fpr: float = DEFAULT_FPR, **options: Any) -> Profile:
        """The profile of a set of good pictures, for `with_profile`; see `anovl.calibration.calibrate`.

        Args:
            source: good pictures, as in `stream`.
            class_name: what they show.
            fpr: rate of false alarms that is to hold, between 0 and 1.
            **options: as in `job`.

        Raises:
            ImageError: a picture cannot be used.
            UsageError: no picture, or as `predict` and `anovl.calibration.calibrate`.
        """
        plain = copy(self)
        plain.profile = None  # of whatever it is, scores do not depend on it
        job = plain.job(class_name, **options)
        outcomes = local.run(job.per_device(), iter_source(source))
        return calibrate([peaks(one) for one in results(outcomes)], job.origin, fpr=fpr)

    def job(
        self,
        class_name: str,
        *,
        domain: str | None = None,
        defects: Sequence[str] = (),
        wording: Wording | None = None,
        output_size: OutputSize | None = None,
        decode: Decode | None = None,
        adapt: bool | Adaptation = False,
        seed: int | Sequence[int] = 0,
        names: str | Sequence[str] = (),
        tiles: int | Tiling | None = None,
    ) -> DetectionJob:
        """This detector bound to a class and its words, for an engine; `decode` None is the recipe's.

        Raises:
            UsageError: as `predict`, or the detector has a profile of something else.
        """
        return bind(
            self,
            class_name,
            domain=domain,
            defects=defects,
            wording=wording,
            output_size=output_size,
            decode=decode,
            adapt=adapt,
            seed=seed,
            names=names,
            tiles=tiles,
        )
