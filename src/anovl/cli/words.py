"""The options that choose prompt words, shared by `predict` and `prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from anovl.cli.settings import read_toml
from anovl.core.prompts import Wording
from anovl.errors import UsageError, suggest

Domain = Annotated[
    str | None,
    typer.Option(help="auto, object, texture or plain: which domain words the prompts use."),
]
Defects = Annotated[
    list[str] | None, typer.Option("--defect", help="A known defect, such as scratch; repeat for more.", allow_from_autoenv=False)
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        help="Own state words 'normal|abnormal', such as 'intact|cracked' or '{class} whole|torn {class}'.",
        allow_from_autoenv=False,
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--template", help="Own template, such as 'a {domain} of a {object}'; repeat for more.", allow_from_autoenv=False
    ),
]
DomainWords = Annotated[
    list[str] | None,
    typer.Option("--domain-word", help="Own domain word, such as 'x-ray image'; repeat for more.", allow_from_autoenv=False),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompts", help="TOML file with templates, states, domain, domain_words, defects.", envvar="ANOVL_PROMPTS"),
]

Names = Annotated[
    str | None,
    typer.Option(
        help="Name each region: words with commas between, as scratch,hole; or default; or a file of words; docs/naming.md."
    ),
]

_KEYS = ("templates", "states", "domain", "domain_words", "defects")


def wording(
    base: Wording,
    *,
    domain: str | None,
    defects: Sequence[str] | None,
    states: Sequence[str] | None,
    templates: Sequence[str] | None,
    domain_words: Sequence[str] | None,
    prompt_file: Path | None,
) -> Wording:
    """The method's words, changed by the file, then by the flags.

    Raises:
        UsageError: an unknown key, or words that are not valid.
    """
    changes: dict[str, Any] = {}
    if prompt_file is not None:
        for key, value in read_toml(prompt_file).items():
            if key not in _KEYS:
                raise UsageError(f"{prompt_file}: {suggest('key', key, _KEYS)}")
            expected = str if key == "domain" else list
            if not isinstance(value, expected):
                raise UsageError(f"{prompt_file}: {key}: expected {'text' if expected is str else 'a list'}, got {value!r}")
            changes[key] = [_pair(state) for state in value] if key == "states" else value
    flags = {
        "domain": domain,
        "defects": defects,
        "states": [_pair(state) for state in states or ()],
        "templates": templates,
        "domain_words": domain_words,
    }
    changes |= {key: value for key, value in flags.items() if value}
    changes = {key: value if key == "domain" else tuple(value) for key, value in changes.items()}
    return replace(base, **changes)


def read_names(text: str | None) -> tuple[str, ...]:
    """The names of defects that `--names` means; none for None.

    Raises:
        UsageError: a file that cannot be read, or as `anovl.naming.vocabulary`.
    """
    from anovl.naming import DEFAULT, vocabulary

    if text is None or text == DEFAULT or "," in text:
        return vocabulary(text or "")
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        expected = "words with commas between, 'default', or a file with one word a line"
        raise UsageError(f"--names: expected {expected}, got {text!r}, and no such file can be read") from exc
    if not (found := vocabulary(lines)):
        raise UsageError(f"--names: {text} holds no word; expected one a line")
    return found


def _pair(state: Any) -> tuple[str, str]:
    """("intact {class}", "cracked {class}") from 'intact|cracked' or a list of two."""
    parts = state.split("|") if isinstance(state, str) else list(state) if isinstance(state, list) else []
    if len(parts) != 2 or not all(isinstance(part, str) and part.strip() for part in parts):
        raise UsageError(f"state: expected 'normal|abnormal', such as 'intact|cracked', got {state!r}")
    good, bad = (part.strip() if "{class}" in part else f"{part.strip()} {{class}}" for part in parts)
    return good, bad
