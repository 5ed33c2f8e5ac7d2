"""The systems, one a file, behind one protocol; `METHODS` names them, `make_method` builds one."""

from __future__ import annotations

import importlib
from typing import cast

from anovl.config import Recipe
from anovl.errors import UsageError, suggest
from anovl.methods.base import Method, VisionModel

METHODS: dict[str, str] = {
    "anovl": "anovl.methods.anovl:AnoVLMethod",
    "clip": "anovl.methods.clip:CLIPMethod",
}


def method_class(name: str) -> type[Method]:
    """The class of a method; its `wording` tells the words before there is a model.

    Raises:
        UsageError: no such method.
    """
    if name not in METHODS:
        raise UsageError(suggest("method", name, METHODS))
    module, _, attribute = METHODS[name].partition(":")
    return cast("type[Method]", getattr(importlib.import_module(module), attribute))


def make_method(name: str, model: VisionModel, recipe: Recipe) -> Method:
    """A method on a backbone.

    Raises:
        UsageError: no such method, or the recipe does not fit the backbone.
    """
    return method_class(name)(model, recipe)


__all__ = ["METHODS", "Method", "VisionModel", "make_method", "method_class"]
