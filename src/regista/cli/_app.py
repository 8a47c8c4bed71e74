"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from regista.cli._apply import apply, apply_points
from regista.cli._benchmark import benchmark
from regista.cli._convert import compose, convert, invert
from regista.cli._evaluate import evaluate
from regista.cli._fit_points import fit_points
from regista.cli._info import info
from regista.cli._landscape import metric_landscape
from regista.cli._models import models
from regista.cli._motion import motion
from regista.cli._options import PairedFiles
from regista.cli._plans import presets
from regista.cli._preprocess import ablate, preprocess, train_nyul
from regista.cli._register import register
from regista.cli._register_slices import register_slices
from regista.cli._report import report
from regista.cli._setup import demo, warmup
from regista.cli._skull_strip import skull_strip
from regista.cli._train import train
from regista.cli._train_metric import deep_metric
from regista.cli._train_prior import deformation_prior
from regista.cli._view import view

app = typer.Typer(
    name="regista",
    help="Medical image registration: two scans in, a trustworthy alignment out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the registration failed its checks, 2 bad input or usage, 130 stopped.",
)

app.command()(register)
app.command()(motion)
app.command("register-slices")(register_slices)
app.command()(apply)
app.command("apply-points")(apply_points)
app.command("fit-points")(fit_points)
app.command()(invert)
app.command()(compose)
app.command()(convert)
app.command()(info)
app.add_typer(presets, name="presets")
app.add_typer(evaluate, name="evaluate")
app.command("metric-landscape")(metric_landscape)
app.command(cls=PairedFiles)(report)
app.command(cls=PairedFiles)(view)
app.command()(benchmark)
app.command()(preprocess)
app.command("skull-strip")(skull_strip)
app.command("train-nyul")(train_nyul)
app.command()(ablate)
train.command("deep-metric")(deep_metric)
train.command("deformation-prior")(deformation_prior)
app.add_typer(train, name="train")
app.add_typer(models, name="models")
app.command()(warmup)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        from regista import __version__

        typer.echo(f"regista {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Medical image registration: two scans in, a trustworthy alignment out."""
