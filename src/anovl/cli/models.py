"""anovl models: what --model can name, and what of it is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
    *,
    cache_dir: Annotated[Path | None, typer.Option(help="Where checkpoints are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """List the models: embedded ones, then every open_clip checkpoint that can be run."""
    from anovl.backbones import list_models, open_clip_tags
    from anovl.checkpoints import EMBEDDED, embedded_folder, find_local, parse_model_name
    from anovl.config import DEFAULT_MODEL

    rows = [(name, embedded_folder(name).is_dir(), "embedded") for name in EMBEDDED]
    for arch, tag in list_models():
        name = f"{arch}:{tag}"
        found = find_local(parse_model_name(name), open_clip_tags(arch), cache_dir)
        rows.append((name, found is not None, "default" if name == DEFAULT_MODEL else ""))
    for name, here, note in rows:
        if pattern.lower() not in name.lower():
            continue
        if as_json:
            typer.echo(json.dumps({"name": name, "on_this_machine": here, "note": note}))
        else:
            typer.echo(f"{'here' if here else '-':5} {name}{f'  ({note})' if note else ''}")
    if not as_json:
        typer.echo("also: hf-hub:ORG/NAME, local-dir:FOLDER, and a .pt or .safetensors file with --arch", err=True)
