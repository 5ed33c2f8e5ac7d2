"""The command ``anovl``; one file a verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from anovl.cli.app import app, guarded
from anovl.cli.benchmark import adapt, benchmark
from anovl.cli.demo import demo
from anovl.cli.evaluate import evaluate
from anovl.cli.export import export
from anovl.cli.info import info
from anovl.cli.models import models
from anovl.cli.predict import predict
from anovl.cli.prompts import prompts
from anovl.cli.reproduce import reproduce
from anovl.cli.synth import synth

_ENVIRONMENT = {"auto_envvar_prefix": "ANOVL"}
for _verb in (predict, evaluate, reproduce, demo, synth, prompts, export, models, info):
    app.command(context_settings=_ENVIRONMENT)(guarded(_verb))
benchmark.command(context_settings=_ENVIRONMENT)(guarded(adapt))
app.add_typer(benchmark, name="benchmark")


def main() -> None:
    """Entry point of the console script."""
    app()


__all__ = ["app", "main"]
