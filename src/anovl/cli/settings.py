"""--config run.toml: a TOML file whose values stand below the environment's, which stand below the flags'."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer

from anovl.errors import UsageError, suggest


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        UsageError: it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{path}: not valid TOML ({exc})") from exc


def load_config(context: typer.Context, value: Path | None) -> Path | None:
    """Callback of --config: its values become the defaults of the verb's options.

    Raises:
        typer.BadParameter: the file is missing, not TOML, or names an option that the verb does not have.
    """
    if value is None or context.resilient_parsing:
        return value
    try:
        values = read_toml(value)
    except UsageError as exc:
        raise typer.BadParameter(str(exc)) from exc
    known = {
        flag.removeprefix("--"): parameter
        for parameter in context.command.params
        for flag in parameter.opts
        if flag.startswith("--") and flag != "--config"
    }
    defaults = {}
    for key, setting in values.items():
        flag = key.replace("_", "-")
        if flag not in known:
            raise typer.BadParameter(f"{value}: {suggest('option', key, known)}")
        parameter = known[flag]
        if isinstance(setting, list) != bool(getattr(parameter, "multiple", False)) or isinstance(setting, dict):
            kind = "a list" if getattr(parameter, "multiple", False) else "one value"
            raise typer.BadParameter(f"{value}: {key}: expected {kind}, got {setting!r}")
        defaults[str(parameter.name)] = setting
    context.default_map = {**(context.default_map or {}), **defaults}
    return value
