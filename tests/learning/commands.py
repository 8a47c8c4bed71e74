"""How tests call the command line, and trainings of a moment."""

from __future__ import annotations

from typer.testing import CliRunner

from regista.cli import app

QUICK = (
    "--steps",
    6,
    "--validate-every",
    3,
    "--batch",
    2,
    "--align",
    "none",
    "--spacing",
    1.2,
    "--threads",
    2,
)
TINY = ("--network", "voxelmorph-1", "--validation", 1, "--test", 1, "--diffeomorphic", "--licence", "CC0")
"""Of the model that is trained once for many tests."""


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])
