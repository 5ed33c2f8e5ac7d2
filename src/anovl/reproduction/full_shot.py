"""Full-shot rows of Table 6 by anomalib: one model trained on the good images of all categories at once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anovl.data.datasets import Category, Dataset, read_mask, resize_mask
from anovl.data.images import load_image
from anovl.data.resizing import squash
from anovl.errors import UnavailableError, require_extra
from anovl.evaluation.measuring import FIGURES, Figures, Tally, averaged

COLUMNS = ("image_auroc", "pixel_auroc")  # of Table 6
SIDE = 256  # px, of the images these models read and of their maps
MODELS = {"Padim": 1, "Draem": 700}  # epochs, as their papers train them


@dataclass(frozen=True, kw_only=True)
class FullShot:
    """How anomalib trains.

    Attributes:
        dtd: folder of the Describable Textures Dataset, which DRAEM draws its defects from.
        pre_trained: PaDiM's backbone with weights of ImageNet, which anomalib downloads.
        epochs: instead of the papers'.
    """

    dtd: Path | None = None
    pre_trained: bool = True
    epochs: int | None = None

    def figures(self, name: str, dataset: Dataset) -> Figures:
        """Train a model on all good training images together and test it on each category.

        Args:
            name: of `MODELS`, a class of `anomalib.models`.
            dataset: with training images.

        Returns:
            means over the categories.

        Raises:
            UnavailableError: anomalib is not installed, there are no training images or no textures, or the backbone's
                weights cannot be had.
        """
        models = require_extra("anomalib.models", "anomalib", f"{name}'s row")
        train = [sample.image for category in dataset.categories for sample in category.train]
        if not train:
            raise UnavailableError(f"{name} needs good training images, and the data has none")
        with tempfile.TemporaryDirectory() as scratch:
            model = self._trained(self._model(models, name), name, train, Path(scratch))
        with torch.inference_mode():
            return averaged([_figures(model, category) for category in dataset.categories])

    def _model(self, models: Any, name: str) -> Any:
        plain = {"post_processor": False, "evaluator": False, "visualizer": False}  # raw scores; we measure
        if name == "Draem":
            if self.dtd is None or not self.dtd.is_dir():
                raise UnavailableError("Draem needs the textures of DTD: --dtd FOLDER")
            return models.Draem(dtd_dir=self.dtd, **plain)
        try:
            return models.Padim(pre_trained=self.pre_trained, **plain)
        except Exception as exc:
            raise UnavailableError(f"{name}: its backbone's weights cannot be had ({type(exc).__name__}: {exc})") from exc

    def _trained(self, model: Any, name: str, train: list[Path], scratch: Path) -> Any:
        """Fit on links to the images in one folder."""
        data = require_extra("anomalib.data", "anomalib", f"{name}'s row")
        engine = require_extra("anomalib.engine", "anomalib", f"{name}'s row")
        good = scratch / "good"
        good.mkdir()
        for index, path in enumerate(train):
            (good / f"{index:06d}{path.suffix}").symlink_to(path.absolute())
        module = data.Folder(
            name="all",
            root=scratch,
            normal_dir="good",
            normal_split_ratio=0.0,
            test_split_mode="none",
            val_split_mode="none",
            train_batch_size=8,
            num_workers=0,
            augmentations=None,
        )
        epochs = self.epochs or MODELS[name]
        quiet = {"logger": False, "enable_progress_bar": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
        trainer = engine.Engine(max_epochs=epochs, default_root_dir=scratch / "anomalib", **quiet)
        trainer.fit(model, datamodule=module)
        return model.eval().cpu()


def _figures(model: Any, category: Category) -> Figures:
    """Image and pixel AUROC of a category, maps and masks compared at the maps' size."""
    tally = Tally(category)
    for sample in category.test:
        if sample.anomalous is None:
            continue
        picture = load_image(sample.image)
        made = model(_pixels(picture))
        values, mask = None, None
        if category.has_masks:
            values = made.anomaly_map.squeeze().float().numpy()
            mask = resize_mask(read_mask(sample, (picture.height, picture.width)), values.shape)
        tally.update(sample, float(made.pred_score.squeeze()), values, mask)
    found = tally.figures(tally.kinds).figures
    return {name: found[name] if name in COLUMNS else None for name in FIGURES}


def _pixels(picture: Any) -> Tensor:
    """[1, 3, SIDE, SIDE] in [0, 1]; the models normalise themselves."""
    pixels = np.array(squash(picture, (SIDE, SIDE), "bilinear"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None] / 255
