"""What a defect may be called: the words of a vocabulary that a region resembles most; how well that works is in docs/naming.md.

A name's text vector is the mean over the templates of "a [domain word] of a [class] with a [name]". The mean over all names is
taken off each, and the rest brought to unit length (`anovl.core.scoring.name_directions`): what the sentences share says nothing
about the kind of defect. A patch's similarity with a name is the cosine of its local token with that direction, a region's the
mean over its pixels (`anovl.results.Prediction.regions`). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anovl.config import DEFECT_NAMES, MOST_NAMES, PromptStyle
from anovl.core.prompts import PromptSet, Wording, article, build_prompts
from anovl.errors import UsageError

DEFAULT = "default"


def vocabulary(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names of defects that are meant.

    Args:
        names: words, as a list or as text with commas between; "default" alone is `anovl.config.DEFECT_NAMES`; none is none.

    Raises:
        UsageError: one name alone, more than 32, or one twice.
    """
    parts = names.split(",") if isinstance(names, str) else names
    found = tuple(part.strip() for part in parts if part.strip())
    if found == (DEFAULT,):
        return DEFECT_NAMES
    if found and not 2 <= len(found) <= MOST_NAMES:
        told = repr(found[0]) if len(found) == 1 else f"{len(found)} of them"
        raise UsageError(f"names: expected 2 to {MOST_NAMES} words to choose from, or {DEFAULT!r}, got {told}")
    if twice := [name for name in found if found.count(name) > 1]:
        raise UsageError(f"names: expected each word once, got {twice[0]!r} several times")
    return found


def name_prompts(class_name: str, wording: Wording, names: Sequence[str], *, style: PromptStyle) -> PromptSet:
    """The sentences of each name as the abnormal ones of a set, in turns: for each domain word and template all names.

    Raises:
        UsageError: a name that is no printable text or holds braces, or as `build_prompts`.
    """
    first, *others = (f"{{class}} with {article(name)} {name}" for name in names)
    states = (("normal {class}", first), *((None, other) for other in others))
    return build_prompts(class_name, replace(wording, states=states, defects=()), style=style)
