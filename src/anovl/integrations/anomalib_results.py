"""What any model of anomalib says of pictures, kept in the folder that `anovl predict` writes.

anomalib itself keeps pictures of its results alone; `anovl.integrations.results` measures the folder.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anovl import __version__
from anovl.config import DEFAULT_THRESHOLD
from anovl.errors import UsageError, require_extra
from anovl.render.writers import FolderWriter
from anovl.results import Prediction

require_extra("anomalib", "anomalib", "anovl.integrations.anomalib_results")

from lightning.pytorch import Callback


class ResultWriter(Callback):  # type: ignore[misc]
    """A callback for anomalib's engine: ``Engine(callbacks=[ResultWriter("out", root)]).test(...)``, or ``predict``.

    Scores and maps are those that the model's post-processor leaves, at the size of the model's input.

    Args:
        folder: is made; predictions.jsonl and map/ come there. The map of "test/good/000.png" is map/test/good/000.png.npy.
        root: what the pictures' names are relative to.

    Raises:
        UsageError: the folder holds a run; a picture is not below `root`, or got no map, or values that are not in [0, 1].
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, root: str | Path) -> None:
        self.folder, self.root = Path(folder), Path(root)
        self._writer: FolderWriter | None = None
        self._last: Any = None  # its post-processing comes after this callback

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the folder."""
        record = {
            "settings": {"model": pl_module.name, "data": getattr(trainer.datamodule, "name", None)},
            "versions": {"anovl": __version__, "anomalib": metadata.version("anomalib")},
            "device": str(pl_module.device),
        }
        self._writer = FolderWriter(self.folder, record, save=("map",)).__enter__()

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Write the batch before, and remember this one."""
        del trainer
        self._write(pl_module)
        self._last = outputs

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the last batch and finish the folder."""
        del trainer
        self._write(pl_module)
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave what is done."""
        del trainer, pl_module
        self._close(exception)

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_end = on_test_end

    def _close(self, exception: BaseException | None = None) -> None:
        writer, self._writer, self._last = self._writer, None, None
        if writer is not None:
            writer.__exit__(None if exception is None else type(exception), exception, None)

    def _write(self, pl_module: Any) -> None:
        for item in self._last or ():
            key = self._key(Path(item.image_path))
            if item.anomaly_map is None:
                raise UsageError(f"{key}: {pl_module.name} gives no anomaly map, and without one there is nothing to write")
            with Image.open(item.image_path) as picture:
                size = (picture.height, picture.width)
            values = np.ascontiguousarray(item.anomaly_map.cpu().numpy(), np.float32)
            prediction = Prediction(
                image_path=str(item.image_path),
                image_size=size,
                class_name=getattr(pl_module, "class_name", None) or "",
                pred_score=float(item.pred_score),
                threshold=float(getattr(pl_module.post_processor, "normalized_image_threshold", DEFAULT_THRESHOLD)),
                anomaly_map=values,
                patch_scores=values,
            )
            self._writer.write(key, prediction, stem=key)  # type: ignore[union-attr]
        self._last = None

    def _key(self, path: Path) -> str:
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError as exc:
            raise UsageError(f"root: expected a folder that the pictures are in, got {self.root} for {path}") from exc
