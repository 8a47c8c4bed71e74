"""The command line: parse, call one public function, show progress, set the exit code."""

from regista.cli._app import app, main

__all__ = ["app", "main"]
