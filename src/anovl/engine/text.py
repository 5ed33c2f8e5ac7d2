"""Text features of a class, computed once: kept in memory and on disk by (weights, architecture, precision, prompts)."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anovl.backbones import Backbone
from anovl.checkpoints import cache_root
from anovl.core.prompts import PromptSet
from anovl.core.scoring import TextFeatures, text_features
from anovl.errors import OutputError
from anovl.files import replacing

log = logging.getLogger(__name__)

IN_MEMORY = 32  # classes; one takes 2.4 MB with the paper's prompts and backbone
_FORMAT = "2"


class TextCache:
    """Text features of one backbone.

    Args:
        backbone: whose text tower encodes.
        cache_dir: a folder, or None for ANOVL_CACHE, else ~/.cache/anovl. A folder that cannot be written
            is said once and costs only time.

    Attributes:
        writable: whether new features are kept on disk.
    """

    def __init__(self, backbone: Backbone, cache_dir: Path | None = None) -> None:
        self.backbone = backbone
        self.folder = (cache_root(cache_dir) or Path.home() / ".cache" / "anovl") / "prototypes"
        self._memory: OrderedDict[str, TextFeatures] = OrderedDict()
        self.writable = True

    def features(self, prompts: PromptSet) -> TextFeatures:
        """Features of a class on the backbone's device.

        Raises:
            UsageError: a prompt is longer than the context.
        """
        if prompts.key in self._memory:
            self._memory.move_to_end(prompts.key)
            return self._memory[prompts.key]
        path = self.folder / f"{self._digest(prompts)}.safetensors"
        counts = (len(prompts.normal), len(prompts.abnormal))
        features = self._read(path, sum(counts))
        if features is None:
            embeddings = self.backbone.encode_text([*prompts.normal, *prompts.abnormal])
            features = text_features(*embeddings.split(counts))
            self._write(path, features)
        self._memory[prompts.key] = features
        if len(self._memory) > IN_MEMORY:
            self._memory.popitem(last=False)
        return features

    def _digest(self, prompts: PromptSet) -> str:
        """Whatever the features depend on: weights, architecture (its repr), precision, token ids, which are normal."""
        backbone = self.backbone
        parts = (_FORMAT, backbone.weights_id, repr(backbone.clip), str(backbone.dtype), str(len(prompts.normal)))
        digest = hashlib.sha256("\n".join(parts).encode())
        digest.update(backbone.tokenize([*prompts.normal, *prompts.abnormal]).numpy().tobytes())
        return digest.hexdigest()

    def _read(self, path: Path, count: int) -> TextFeatures | None:
        try:
            stored: dict[str, Tensor] = load_file(path, device=str(self.backbone.device))
            # Copies: where in a file a tensor begins, and so how it is aligned, has a say in the last bits of products.
            prototypes, tokens = stored["prototypes"].clone(), stored["tokens"].clone()
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as exc:
            log.warning("ignoring a broken cache file: %s (%s)", path, exc)
            return None
        if prototypes.ndim != 2 or prototypes.shape[0] != 2 or tokens.shape != (count, prototypes.shape[1]):
            log.warning("ignoring a cache file of another shape: %s", path)
            return None
        return TextFeatures(prototypes, tokens)

    def _write(self, path: Path, features: TextFeatures) -> None:
        if not self.writable:
            return
        try:
            with replacing(path) as temporary:
                stored = {"prototypes": features.prototypes, "tokens": features.tokens}
                save_file({name: value.cpu().contiguous() for name, value in stored.items()}, temporary)
        except (OutputError, SafetensorError) as exc:  # safetensors wraps a full disk in its own error
            self.writable = False
            log.warning("text features are not kept on disk: %s", exc)
