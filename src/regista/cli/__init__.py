"""The command line: parse, call one public function, show progress, set the exit code."""

from regista.cli._console import main

__all__ = ["main"]
