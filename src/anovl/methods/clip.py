"""CLIP as the papers' zero-shot baseline, scored by Eq. (1) and (2) of AnoVL with one plain prompt a state.

Learning Transferable Visual Models From Natural Language Supervision (Radford et al. 2021, arXiv:2103.00020).
"""

from __future__ import annotations

from typing import Any, ClassVar

from anovl.core.prompts import Wording
from anovl.methods.anovl import AnoVLMethod

PLAIN_PROMPT = Wording(
    templates=("a {domain} of {object}",), states=(("a normal {class}", "an abnormal {class}"),), domain="plain"
)


class CLIPMethod(AnoVLMethod):
    """S_AD of the class token, S_AL of the last layer's ordinary patch tokens (ln_post, projection)."""

    wording = PLAIN_PROMPT
    decided: ClassVar[dict[str, Any]] = {"attention": "qkv", "layers": None, "image_score": "class_token"}
