"""The command ``anovl``; one file a verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from anovl.cli.app import app, main

__all__ = ["app", "main"]
