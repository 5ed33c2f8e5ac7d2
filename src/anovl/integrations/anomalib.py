"""AnoVL as a model of anomalib: its engine, data modules, metrics, visualizer and export work with it.

Akcay et al. 2022, "Anomalib: A Deep Learning Library for Anomaly Detection", arXiv:2202.08341; written for anomalib 2.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anovl.config import DEFAULT_MODEL, Adaptation, Interpolation, Recipe
from anovl.data.images import load_image
from anovl.data.resizing import squash
from anovl.detector import AnoVL as Detector
from anovl.engine.export import OPSET, Graph
from anovl.errors import UsageError, require_extra

require_extra("anomalib", "anomalib", "anovl.integrations.anomalib")

import numpy as np
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torchvision.transforms.v2 import InterpolationMode, Transform
from torchvision.transforms.v2.functional import resize
from torchvision.tv_tensors import Image, Mask, wrap


class Squash(Transform):  # type: ignore[misc]
    """Pictures [.., 3, H, W] in [0, 1] to the model's input size, with the pixels that `anovl.AnoVL` gives them.

    Masks take the nearest pixel, as anomalib has it for every model. While a graph is traced for ONNX, which has no operator
    for those pixels, the squash is anomalib's own without antialiasing: an exported file gives the same scores for pictures
    that have the input size, and slightly others for the rest.
    """

    def __init__(self, size: tuple[int, int], interpolation: Interpolation) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """As torchvision's `Transform` says."""
        del params
        if isinstance(inpt, Mask):
            return resize(inpt, list(self.size), InterpolationMode.NEAREST)
        if tuple(inpt.shape[-2:]) == self.size:
            return inpt
        if torch.compiler.is_compiling():
            return F.interpolate(inpt, self.size, mode=self.interpolation, align_corners=False).clamp(0, 1)
        return wrap(self._squashed(inpt), like=inpt) if isinstance(inpt, Image) else self._squashed(inpt)

    def _squashed(self, pictures: Tensor) -> Tensor:
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        small = (np.asarray(squash(load_image(one), self.size, self.interpolation)) for one in flat)
        stacked = torch.from_numpy(np.stack(list(small))).to(pictures.device).permute(0, 3, 1, 2) / 255
        return stacked.reshape(*pictures.shape[:-2], *self.size)


class SquashPreProcessor(PreProcessor):  # type: ignore[misc]
    """Anomalib's pre-processor with `Squash`; the model's settings decide it, so a checkpoint need not keep it."""

    def checkpoint_config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Nothing."""


class AnoVLModel(nn.Module):
    """The network alone: pictures to scores and maps.

    Args:
        graph: the method with the words of one class.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score pictures.

        Args:
            images: [B, 3, H, W] in [0, 1], RGB, at the input size.

        Returns:
            pred_score [B] and anomaly_map [B, 1, H, W], in [0, 1].
        """
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        image_score, _, anomaly_map = self.graph(pixels)
        return InferenceBatch(pred_score=image_score, anomaly_map=anomaly_map[:, None])


class AnoVL(AnomalibModule):  # type: ignore[misc]
    """AnoVL in anomalib: zero-shot, so `Engine.fit` trains nothing.

    Scores and maps are those of `anovl.AnoVL.predict` with ``output_size="input"``, neither stretched nor moved: unless another
    post-processor is given, labels and masks are those over 0.5, CLIP's own decision. ``PostProcessor()`` of anomalib
    normalises by the validation pictures instead, and takes the threshold of the best F1 there.

    Args:
        backbone: its name, as in `anovl.load_backbone`.
        class_name: what the pictures show, such as "metal nut"; None is the category of the data module.
        domain, defects: as in `anovl.AnoVL.predict`.
        adapt: True or settings adapt to each picture at test time (Eq. 9-11).
        seed: of the adaptation.
        recipe, method: as in `anovl.AnoVL`; the methods that `anovl export` takes.
        image_size, local_files_only, cache_dir, arch: as in `anovl.load_backbone`.
        pre_processor, post_processor, evaluator, visualizer: as in `AnomalibModule`.

    Raises:
        UsageError, UnavailableError, CheckpointError: as `anovl.AnoVL.from_pretrained` and `anovl.engine.export.Graph`.
    """

    def __init__(
        self,
        backbone: str = DEFAULT_MODEL,
        *,
        class_name: str | None = None,
        domain: str | None = None,
        defects: Sequence[str] = (),
        adapt: bool | Adaptation = False,
        seed: int = 0,
        recipe: str | Recipe | None = None,
        method: str = "anovl",
        image_size: int | tuple[int, int] | None = None,
        local_files_only: bool = False,
        cache_dir: str | None = None,
        arch: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        detector = Detector.from_pretrained(
            backbone,
            recipe=recipe,
            method=method,
            device="cpu",  # Lightning moves it
            dtype="fp32",
            image_size=image_size,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            arch=arch,
        )
        squashing = SquashPreProcessor(Squash(detector.backbone.image_size, detector.method.recipe.interpolation))
        super().__init__(
            pre_processor=squashing if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self._detector = detector
        self._options: dict[str, Any] = {"domain": domain, "defects": defects, "adapt": adapt, "seed": seed}
        self._named = class_name is not None
        self.class_name: str | None = None
        if class_name is not None:
            self._bind(class_name)

    def setup(self, stage: str) -> None:
        """Take the words of the data module's category, where no class was named."""
        del stage
        if not self._named:
            category = getattr(getattr(self.trainer, "datamodule", None), "category", None)
            if not category:
                raise UsageError("class_name: expected what the pictures show, such as 'metal nut'; the data has no category")
            self._bind(category)

    def _bind(self, class_name: str) -> None:
        """Make the network for a class, unless it is there."""
        if class_name == self.class_name:
            return
        detector = self._detector
        job = detector.job(class_name, **self._options)
        graph = Graph(
            detector.method,
            [job.text],
            mean=detector.backbone.mean,
            std=detector.backbone.std,
            adaptation=job.adapters[0].settings if job.adapters else None,
            seed=self._options["seed"],
        )
        self.model, self.class_name = AnoVLModel(graph).eval(), class_name

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As anomalib's, with the class that is bound, so that the checkpoint loads without data."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"]["class_name"] = self.class_name

    def to_onnx(self, *args: Any, **options: Any) -> Path:
        """As anomalib's, with what keeps the numbers: torch's own rewriting loses the epsilon of the adaptation's AdamW."""
        path: Path = super().to_onnx(*args, **{"opset_version": OPSET, "optimize": False, **options})
        return path

    def validation_step(self, batch: Batch, *_: Any) -> Batch:
        """Score a batch for the thresholds and ranges that a post-processor may want."""
        return self.test_step(batch, 0)

    def val_dataloader(self) -> list[Any]:
        """None: without a data module, as in ``Engine().predict(model, data_path=...)``, there is nothing to validate on."""
        return []

    def configure_optimizers(self) -> None:
        """None: nothing is trained."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """None of its own."""
        return {}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot."""
        return LearningType.ZERO_SHOT

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """Labels and masks over 0.5, scores and maps as they are."""
        return PostProcessor(enable_normalization=False)

    @classmethod
    def checkpoint_safe_globals(cls) -> Sequence[Any]:
        """The settings that are no plain values."""
        return (Recipe, Adaptation)
