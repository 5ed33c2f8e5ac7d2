"""anovl ui: a page to look at defects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anovl.cli import options
from anovl.cli.serve import TOKEN, read_token, run_service
from anovl.config import MAX_IMAGE_PIXELS


def ui(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODEL or a model, as `anovl serve` takes them; repeat for more; default mini, for trying things out",
            allow_from_autoenv=False,
        ),
    ] = None,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: options.Method = "anovl",
    bank: options.BankFiles = None,
    tile: options.Tiles = None,
    tile_overlap: options.TileOverlap = None,
    crop: options.Cropping = None,
    class_name: Annotated[str | None, typer.Option(help="What the pictures show where the visitor does not say it.")] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 7860,
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File with a token that visitors must give as the password; or the environment's {TOKEN}."),
    ] = None,
    max_bytes: Annotated[int, typer.Option(help="Larger files are refused.", min=1)] = 64 * 2**20,
    max_pixels: Annotated[int, typer.Option(help="Larger images are refused.", min=1)] = MAX_IMAGE_PIXELS,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    threads: options.Threads = None,
    device: options.OneDevice = "auto",
    dtype: options.DType = "auto",
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    config: options.Config = None,
) -> None:
    """Open a page in the browser: drop pictures, see scores, heat maps, masks and regions; docs/ui.md.

    The service of `anovl serve` answers beside it. Ctrl-C ends both.
    """
    del config
    from anovl.server.settings import Settings

    settings = Settings(
        class_name=class_name,
        batch_size=batch_size,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        workers=workers,
        token=read_token(token_file),
    )
    run_service(
        model,
        settings,
        address=(host, port),
        page=True,
        json_log=False,
        banks=bank or [],
        tiling=options.tiling(tile, tile_overlap, crop),
        arch=arch,
        recipe=recipe,
        method=method,
        device=device,
        dtype=dtype,
        threads=threads,
        cache_dir=cache_dir,
        offline=offline,
    )
