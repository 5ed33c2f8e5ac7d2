"""anovl models: what --model can name, and what of it is on this machine."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from typing import Annotated

import typer

from anovl.cli import options
from anovl.errors import UsageError


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this; * and ? are wildcards.")] = "",
    *,
    cache_dir: options.CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """List the models, embedded ones first; "here" marks those on this machine."""
    from anovl.backbones import list_models, open_clip_tags
    from anovl.checkpoints import EMBEDDED, embedded_folder, find_local, parse_model_name
    from anovl.config import DEFAULT_MODEL

    built = {name: embedded_folder(name).is_dir() for name in EMBEDDED}
    note = "embedded, trained on drawn pictures"
    rows = [(name, here, note if here else "missing from this build") for name, here in built.items()]
    for arch, tag in list_models():
        name = f"{arch}:{tag}"
        found = find_local(parse_model_name(name), open_clip_tags(arch), cache_dir)
        rows.append((name, found is not None, "default" if name == DEFAULT_MODEL else ""))
    matching = [row for row in rows if fnmatch(row[0].lower(), f"*{pattern.lower()}*")]
    if not matching:
        raise UsageError(f"no model matches {pattern!r}; `anovl models` lists all")
    for name, here, note in matching:
        if as_json:
            typer.echo(json.dumps({"name": name, "on_this_machine": here, "note": note}))
        else:
            typer.echo(f"{'here' if here else '-':5} {name}{f'  ({note})' if note else ''}")
    if not as_json:
        typer.echo("also: hf-hub:ORG/NAME, local-dir:FOLDER, and a .pt or .safetensors file with --arch", err=True)
