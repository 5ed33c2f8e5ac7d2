"""The command ``anovl``; one file a verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import atexit
import gc

from anovl.cli.app import app, guarded
from anovl.cli.benchmark import adapt, benchmark, stages
from anovl.cli.calibrate import calibrate
from anovl.cli.demo import demo
from anovl.cli.evaluate import evaluate
from anovl.cli.export import export
from anovl.cli.fit import fit
from anovl.cli.info import info
from anovl.cli.models import models
from anovl.cli.predict import predict
from anovl.cli.prompts import prompts
from anovl.cli.reproduce import reproduce
from anovl.cli.serve import serve
from anovl.cli.synth import synth
from anovl.cli.ui import ui

_ENVIRONMENT = {"auto_envvar_prefix": "ANOVL"}
for _verb in (predict, calibrate, fit, evaluate, reproduce, demo, synth, prompts, export, serve, ui, models, info):
    app.command(context_settings=_ENVIRONMENT)(guarded(_verb))
for _verb in (stages, adapt):
    benchmark.command(context_settings=_ENVIRONMENT)(guarded(_verb))
app.add_typer(benchmark, name="benchmark")


def main() -> None:
    """Entry point of the console script."""
    gc.set_threshold(10_000)  # what torch and open_clip make at import stays: to look through it less often saves a second
    atexit.register(gc.freeze)  # and to leave it alone at the end half a second more
    app()


__all__ = ["app", "main"]
