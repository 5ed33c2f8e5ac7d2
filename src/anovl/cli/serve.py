"""anovl serve: models over HTTP."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anovl.cli import cluster, options
from anovl.cli.app import is_quiet
from anovl.cli.info import versions
from anovl.errors import UsageError, require_extra
from anovl.profiles import Profile

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from anovl.cluster.run import Pool
    from anovl.server.hosting import Model
    from anovl.server.settings import Settings

log = logging.getLogger(__name__)

TOKEN = "ANOVL_SERVE_TOKEN"  # noqa: S105 -- the name of the variable
_NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODEL or a model: a file of `anovl export`, ARCH:TAG, ...; repeat for more; default the embedded mini.",
            allow_from_autoenv=False,
        ),
    ] = None,
    arch: options.Arch = None,
    recipe: options.RecipeName = None,
    method: options.Method = "anovl",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE, or a file of `anovl calibrate` for the first model; its thresholds for its class; repeat for more.",
            allow_from_autoenv=False,
        ),
    ] = None,
    bank: options.BankFiles = None,
    tile: options.Tiles = None,
    tile_overlap: options.TileOverlap = None,
    crop: options.Cropping = None,
    class_name: Annotated[str | None, typer.Option(help="What the images show where a request does not say it.")] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that callers must bring; or the environment's {TOKEN}.")
    ] = None,
    batch_size: options.BatchSize = 8,
    max_wait_ms: Annotated[float, typer.Option(help="How long an image waits for others to share its pass.", min=0)] = 5,
    queue_size: Annotated[int, typer.Option(help="Images accepted and not yet answered; more get 429.", min=1)] = 64,
    max_bytes: Annotated[int, typer.Option(help="Larger requests are refused.", min=1)] = 64 * 2**20,
    max_pixels: Annotated[int, typer.Option(help="Larger images are refused.", min=1)] = 40_000_000,
    max_files: Annotated[int, typer.Option(help="Images a request.", min=1)] = 16,
    timeout_s: Annotated[float, typer.Option(help="For reading a request and answering it.")] = 60,
    drain_s: Annotated[float, typer.Option(help="After SIGTERM, how long accepted requests may go on.", min=0)] = 7,
    workers: options.Workers = 2,
    threads: options.Threads = None,
    device: options.OneDevice = "auto",
    dtype: options.DType = "auto",
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    ui: Annotated[bool, typer.Option("--ui", help="Also the page of `anovl ui`, at /ui/.")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: Ray Serve on a cluster; docs/serve.md.")] = "local",
    address: cluster.Address = None,
    actors: cluster.Actors = "1",
    actor_gpus: cluster.ActorGpus = 0,
    config: options.Config = None,
) -> None:
    """Serve models over HTTP: POST images to /v1/predict; docs/serve.md.

    The log is JSON lines on stderr. SIGTERM and SIGINT answer what was accepted and exit with 0.
    """
    del config
    on = cluster.Cluster(engine=engine, address=address, actors=actors, actor_gpus=actor_gpus)
    on.check(device)
    if ui and engine == "ray":
        raise UsageError("--ui: what visitors do stays in one process, and --engine ray has many; run `anovl ui` beside it")
    from anovl.server.settings import Settings

    settings = Settings(
        class_name=class_name,
        batch_size=batch_size,
        max_wait_ms=max_wait_ms,
        queue_size=queue_size,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_files=max_files,
        timeout_s=timeout_s,
        drain_s=drain_s,
        workers=workers,
        token=read_token(token_file),
    )
    run_service(
        model,
        settings,
        address=(host, port),
        page=ui,
        json_log=True,
        on=on if engine == "ray" else None,
        profiles=profile or [],
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


def run_service(
    sources: list[str] | None,
    settings: Settings,
    *,
    address: tuple[str, int],
    page: bool,
    json_log: bool,
    on: cluster.Cluster | None = None,
    profiles: Sequence[str] = (),
    banks: Sequence[str] = (),
    **loading: Any,
) -> None:
    """Load models and answer until a signal comes.

    Args:
        sources: NAME=MODEL or a model, each; None for mini.
        settings: of the service.
        address: host and port to listen on.
        page: with the page of `anovl ui`.
        json_log: log JSON lines; else one line says where the page is.
        on: the cluster, where one is to answer.
        profiles, banks: NAME=FILE or a file, each.
        loading: how models are loaded; see `anovl.server.hosting.load_model`.

    Raises:
        AnovlError: an extra is missing, or the address or a model cannot be used.
    """
    for module in (*_NEEDS, *(["gradio"] if page else [])):
        require_extra(module, "ui" if page else "serve", "the page" if page else "the service")

    from anovl.server.frame import PAGE_PATH
    from anovl.server.hosting import load_models
    from anovl.server.running import bind, url_of
    from anovl.server.running import serve as answer
    from anovl.server.service import Service
    from anovl.server.settings import parse_files, parse_models

    if json_log:
        _log_json()
        if not sources:
            log.warning("no --model was named: serving mini, the small embedded model for trying things out")
    named = parse_models(sources or ["mini"])
    calibrated = parse_files("--profile", profiles, named, Profile.load)
    fitted = parse_files("--bank", banks, named, options.read_bank)
    if on is not None:  # workers have folders of their own
        named = {name: cluster.absolute(model) for name, model in named.items()}
        loading["cache_dir"] = loading["cache_dir"] and loading["cache_dir"].absolute()
    load = partial(load_models, named, settings, profiles=calibrated, banks=fitted, **loading)
    with bind(*address) as listener, _scratch() if page else nullcontext(Path()) as folder:
        if on is not None:
            pool = on.pool(batch_size=settings.batch_size, threads=loading["threads"])
            _serve_on(on.address, pool, load, settings, listener)
            return
        models = load()
        service = Service(models, settings, versions())

        def add_page(app: FastAPI) -> None:
            from anovl.webui.mounting import mount
            from anovl.webui.page import Page

            service.on_stop.append(mount(app, Page(models, settings, versions(), folder), max_bytes=settings.max_bytes))

        if not json_log and not is_quiet():
            told = f"anovl: open {url_of(listener)}{PAGE_PATH}/ (Ctrl-C ends it)"
            service.on_start.append(partial(typer.echo, told, err=True))
        ended = answer(service, listener, add_page if page else None)
    if not ended:
        logging.shutdown()
        os._exit(0)


def _serve_on(
    address: str | None, pool: Pool, load: Callable[..., dict[str, Model]], settings: Settings, listener: socket.socket
) -> None:
    """Answer on a cluster."""
    require_extra("ray.serve", "ray", "--engine ray")
    from anovl.cluster import run, serving

    def try_out() -> None:
        """Fail at once, on the CPU, for a GPU is the workers'."""
        load(device="cpu")

    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        run.connected_while(address, pool, try_out),
    ):  # Ray chats
        serving.serve(load, settings, versions(), listener, pool=pool)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what the page's visitors upload and download; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="anovl-ui-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # gradio knows no other way
        yield Path(folder)


def read_token(path: Path | None) -> str | None:
    """From the file, else the environment; None without either.

    Raises:
        UsageError: the file cannot be read, or holds nothing.
    """
    if path is None:
        return os.environ.get(TOKEN)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"--token-file {path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _log_json() -> None:
    """Make the log one of JSON lines, and say every request unless --quiet."""
    from anovl.server.running import log_json

    own = logging.getLogger("anovl")
    log_json(own.handlers, own.level if is_quiet() else logging.INFO)
