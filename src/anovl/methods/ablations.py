"""Rows of the ablations in AnoVL's Tables 3, 4 and 5 (arXiv:2308.15939): `anovl` with one thing changed.

The last rows of the tables, V-V in all blocks, domain words, and the adapter of Eq. (9), are `anovl` itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from anovl.config import LINEAR_PROBE
from anovl.core.prompts import Wording
from anovl.methods.anovl import AnoVLMethod


class QKVMethod(AnoVLMethod):
    """Table 3, "with QKV attention": CLIP's ordinary patch tokens, with AnoVL's words."""

    decided: ClassVar[dict[str, Any]] = {"attention": "qkv", "layers": None}


class VLastMethod(AnoVLMethod):
    """Table 3, "with V (last layer)": the values of the last block, with the residual, without MLP."""

    decided: ClassVar[dict[str, Any]] = {"attention": "v", "layers": 1}


class VVLastMethod(AnoVLMethod):
    """Table 3, "with V-V attention (last layer)"."""

    decided: ClassVar[dict[str, Any]] = {"attention": "vv", "layers": 1}


class BasePromptsMethod(AnoVLMethod):
    """Table 4, "Base": "normal [class]" against "abnormal [class]" in the 22 templates, no domain words."""

    wording = Wording(states=(("normal {class}", "abnormal {class}"),), domain="plain")


class StatePromptsMethod(AnoVLMethod):
    """Table 4, "+CS Prompt": the 7 pairs of state words in the 22 templates, no domain words."""

    wording = Wording(domain="plain")


class LinearProbeMethod(AnoVLMethod):
    """Table 5, "Linear Probe": with adaptation, P' = P / 2 + (W P + b) / 2 from a random start; without, `anovl`."""

    decided: ClassVar[dict[str, Any]] = {"adaptation": LINEAR_PROBE}
