"""The detector that users hold: a backbone, a method and its words, from any image to a Prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from anovl.backbones import Backbone, load_backbone
from anovl.calibration import calibrate, peaks
from anovl.config import DEFAULT_MODEL, DEFAULT_THRESHOLD, Adaptation, Decode, OutputSize, Recipe, Tiling
from anovl.config import recipe as make_recipe
from anovl.core.adapter import Adapter, check_seeds, draw_start
from anovl.core.prompts import PromptSet, Wording, build_prompts
from anovl.core.scoring import TextFeatures, score_range
from anovl.data.images import ImageLimits
from anovl.data.sources import SourceItem, iter_source
from anovl.data.transforms import to_pixel_values
from anovl.detection import DetectionJob
from anovl.devices import DTYPES, pick_devices
from anovl.engine import local, maps
from anovl.engine.pipeline import results
from anovl.engine.text import TextCache
from anovl.errors import UsageError
from anovl.methods import make_method, method_class
from anovl.profiles import DEFAULT_FPR, Origin, Profile, settings_of
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
        self.limits = limits or ImageLimits()
        self.replicas: tuple[AnoVL, ...] = ()
        self._texts = TextCache(backbone, None if cache_dir is None else Path(cache_dir))

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
        other.backbone = self.backbone.copy_to(device)
        other.method = make_method(self.method_name, other.backbone, self.recipe)
        return other

    def with_method(self, method: str) -> AnoVL:
        """The same backbone and settings under another method; weights and text features are shared.

        Raises:
            UsageError: no such method, or the recipe does not fit it.
        """
        other = copy(self)
        other.method_name, other.method = method, make_method(method, self.backbone, self.recipe)
        other.replicas = tuple(replica.with_method(method) for replica in self.replicas)
        return other

    def with_recipe(self, recipe: str | Recipe) -> AnoVL:
        """The same backbone and settings under another recipe; weights and text features are shared.

        Raises:
            UsageError: no such recipe, or it does not fit the backbone or the method.
        """
        other = copy(self)
        other.recipe = make_recipe(recipe)
        other.method = make_method(self.method_name, self.backbone, other.recipe)
        other.replicas = tuple(replica.with_recipe(recipe) for replica in self.replicas)
        return other

    def with_profile(self, profile: Profile) -> AnoVL:
        """The same detector with the thresholds of a profile; weights and text features are shared.

        To predict anything that the profile was not made for (another class, method, adaptation, ...) is then a UsageError.
        """
        other = copy(self)
        other.profile, other.threshold = profile, profile.image_threshold
        other.replicas = tuple(replica.with_profile(profile) for replica in self.replicas)
        return other

    def without_model(self) -> AnoVL:
        """The same settings without weights, small to send: it preprocesses, and makes maps of what another one scored."""
        other, bare, method = copy(self), nn.Module(), copy(self.method)
        bare.logit_scale = self.backbone.clip.logit_scale  # the drawing scale asks for it
        other.backbone, other.method = replace(self.backbone, clip=bare, tokenizer=None), method  # type: ignore[arg-type]
        other.replicas = ()
        del method.encoder, other._texts  # noqa: SLF001 -- our own
        return other

    def keep_texts_in_memory(self) -> None:
        """Write no more text features to disk: who lets others name classes does not let them fill it."""
        self._texts.writable = False

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
        """An RGB picture -> [3, H, W] fp32 at the backbone's input size."""
        backbone = self.backbone
        return to_pixel_values(
            picture,
            size=backbone.image_size,
            interpolation=self.recipe.interpolation,
            mean=backbone.mean,
            std=backbone.std,
        )

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
            tiles=tiles,
        )
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
        tiles: int | Tiling | None = None,
        batch_size: int = 8,
        workers: int = 2,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Prediction]:
        """Score a folder, glob, list or iterator of images; predictions come in its order, memory is O(batch).

        Args:
            source: see `anovl.data.sources.iter_source`.
            batch_size: images a pass, or tiles.
            workers: decoding threads.
            on_error: "raise" stops at the first broken image, "skip" logs it and goes on.
            class_name, domain, defects, wording, output_size, adapt, seed, tiles: as in `predict`.
        """
        job = self.job(
            class_name,
            domain=domain,
            defects=defects,
            wording=wording,
            output_size=output_size,
            adapt=adapt,
            seed=seed,
            tiles=tiles,
        )
        outcomes = local.run(job.per_device(), iter_source(source), batch_size=batch_size, workers=workers)
        yield from results(outcomes, on_error=on_error)

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
        tiles: int | Tiling | None = None,
    ) -> DetectionJob:
        """This detector bound to a class and its words, for an engine; `decode` None is the recipe's.

        Raises:
            UsageError: as `predict`, or the detector has a profile of something else.
        """
        words = wording or self.method.wording
        if domain is not None:
            words = replace(words, domain=domain)
        if defects:
            words = replace(words, defects=(*words.defects, *defects))
        recipe = self.recipe.having(output_size=output_size, decode=decode, tiling=Tiling.of(tiles))
        prompts = self.prompts(class_name, words)
        method_class(self.method_name, adapt=bool(adapt))  # refuses what it cannot do
        if adapt and len(prompts.normal) != len(prompts.abnormal):
            counts = f"{len(prompts.normal)} and {len(prompts.abnormal)}"
            raise UsageError(
                f"adapt: Eq. (9) needs normal and abnormal prompts in pairs, got {counts}; give each state its opposite"
            )
        if not isinstance(adapt, bool | Adaptation):
            raise UsageError(f"adapt: expected True, False or an Adaptation, got {adapt!r}")
        seeds = check_seeds(seed) if adapt else check_seeds(seed)[:0]
        settings = adapt if isinstance(adapt, Adaptation) else self.method.recipe.adaptation
        recipe = replace(
            self.method.recipe, output_size=recipe.output_size, decode=recipe.decode, adaptation=settings, tiling=recipe.tiling
        )
        origin = Origin(
            class_name=class_name,
            model=self.backbone.name,
            weights=self.backbone.weights_id,
            method=self.method_name,
            recipe=settings_of(recipe, adapts=bool(adapt)),
            words=words.to_dict(),
            seeds=seeds,
            image_size=self.backbone.image_size,
            precision=next(name for name, dtype in DTYPES.items() if dtype == self.backbone.dtype and name != "auto"),
        )
        if self.profile is not None:
            self.profile.check(origin)
        text = self._texts.features(prompts)
        adapters = self._adapters(text, settings, seeds)
        grid = self.method.encoder.grid
        return DetectionJob(self, origin, text, recipe.output_size, recipe.tiling, grid, recipe.decode, adapters)

    @torch.inference_mode()
    def _adapters(self, text: TextFeatures, settings: Adaptation, seeds: Sequence[int]) -> tuple[Adapter, ...]:
        """One adaptation of the class a seed."""
        rows, columns = self.method.encoder.grid
        return tuple(Adapter(text, settings, draw_start(settings, text, rows * columns, one)) for one in seeds)
