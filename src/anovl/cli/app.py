"""The command's frame: verbs, logging, and errors turned into one line and an exit code."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from anovl import __version__
from anovl.errors import AnovlError

P = ParamSpec("P")

INTERRUPTED = 130

app = typer.Typer(
    name="anovl",
    help="Find defects in images of things the model was never trained on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _State:
    """What the global options say; set once, before a verb runs."""

    debug = False


class _StderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is at that moment, so that a progress bar can keep its line."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)  # noqa: T201 -- stderr is the log


def _version(value: bool) -> None:  # noqa: FBT001 -- typer calls it so
    if value:
        typer.echo(f"anovl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr, no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Find defects in images of things the model was never trained on."""
    del version
    _State.debug = debug
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("anovl: %(levelname)s: %(message)s"))
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's; our own limit decides
    logger = logging.getLogger("anovl")
    logger.handlers = [handler]
    logger.propagate = False  # libraries configure the root logger behind our back
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)


def is_quiet() -> bool:
    """True under --quiet: no progress, no summary."""
    return logging.getLogger("anovl").getEffectiveLevel() >= logging.ERROR


def guarded(verb: Callable[P, int | None]) -> Callable[P, None]:
    """Turn a verb's errors into a line on stderr and its return value into the exit code."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = verb(*args, **kwargs) or 0
        except AnovlError as exc:
            if _State.debug:
                raise
            typer.echo(f"anovl: error: {exc}", err=True)
            code = exc.exit_code
        except KeyboardInterrupt:
            typer.echo("anovl: interrupted", err=True)
            code = INTERRUPTED
        except BrokenPipeError:  # the reader of stdout went away, as in `anovl prompts x | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except Exception as exc:
            if _State.debug:
                raise
            typer.echo(f"anovl: error: {type(exc).__name__}: {exc} (`anovl --debug ...` shows where)", err=True)
            code = 1
        raise typer.Exit(code)

    return run
