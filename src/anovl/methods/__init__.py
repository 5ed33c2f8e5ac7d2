"""The systems, one a file, behind one protocol; `METHODS` names them, `make_method` builds one."""

from __future__ import annotations

import importlib
from typing import cast

from anovl.config import Recipe
from anovl.errors import UsageError, suggest
from anovl.methods.base import FittingMethod, Method, VisionModel

METHODS: dict[str, str] = {
    "anovl": "anovl.methods.anovl:AnoVLMethod",
    "clip": "anovl.methods.clip:CLIPMethod",
    "transmm": "anovl.methods.transmm:TransMMMethod",
    "maskclip": "anovl.methods.maskclip:MaskCLIPMethod",
    "clip_surgery": "anovl.methods.clip_surgery:CLIPSurgeryMethod",
    "winclip": "anovl.methods.winclip:WinCLIPMethod",
    "qkv": "anovl.methods.ablations:QKVMethod",
    "v-last": "anovl.methods.ablations:VLastMethod",
    "vv-last": "anovl.methods.ablations:VVLastMethod",
    "base-prompts": "anovl.methods.ablations:BasePromptsMethod",
    "state-prompts": "anovl.methods.ablations:StatePromptsMethod",
    "linear-probe": "anovl.methods.ablations:LinearProbeMethod",
}


def method_class(name: str, *, adapt: bool = False, names: bool = False) -> type[Method]:
    """The class of a method; its `wording` tells the words before there is a model.

    Args:
        name: a key of `METHODS`.
        adapt: whether it is to adapt at test time.
        names: whether it is to name defects.

    Raises:
        UsageError: no such method, or it cannot do what it is to do.
    """
    if name not in METHODS:
        raise UsageError(suggest("method", name, METHODS))
    module, _, attribute = METHODS[name].partition(":")
    found = cast("type[Method]", getattr(importlib.import_module(module), attribute))
    if adapt and not found.adapts:
        raise UsageError(f"adapt: method {name!r} has no test-time adaptation; leave it out")
    if names and not found.names:
        raise UsageError(f"names: method {name!r} has no local tokens to compare with words; take 'anovl', or leave names out")
    return found


def fitting_method(name: str, method: Method) -> FittingMethod:
    """A method as one that keeps a memory of good pictures.

    Raises:
        UsageError: it has none.
    """
    if not method.fits:
        raise UsageError(f"fit: method {name!r} keeps nothing of good pictures; take another method")
    return cast("FittingMethod", method)


def make_method(name: str, model: VisionModel, recipe: Recipe) -> Method:
    """A method on a backbone.

    Raises:
        UsageError: no such method, or the recipe does not fit the backbone.
    """
    return method_class(name)(model, recipe)


__all__ = ["METHODS", "FittingMethod", "Method", "VisionModel", "fitting_method", "make_method", "method_class"]
