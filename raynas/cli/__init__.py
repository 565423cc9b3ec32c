"""The command line: verbs on one program."""

from raynas.cli.app import app, main

__all__ = ["app", "main"]
