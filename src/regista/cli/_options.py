"""Options that several commands have in the same words."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

ResultFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
NonFinite = Annotated[
    str, typer.Option("--non-finite", help="NaN and Inf voxels: 'error', or 'mask' them out.")
]
Seed = Annotated[int, typer.Option("--seed", help="Same seed and threads: same bytes.")]
StarTest = Annotated[str, typer.Option("--test", help="Test the stars go by: wilcoxon, t.")]
Alpha = Annotated[float, typer.Option("--alpha", help="Stars mark corrected p below it.")]
LabelsOfFixed = Annotated[Path | None, typer.Option("--fixed-labels", help="Labels of the fixed image.")]
PointsOfFixed = Annotated[Path | None, typer.Option("--fixed-points", help="Landmarks of the fixed image.")]
PointsOfMoving = Annotated[Path | None, typer.Option("--moving-points", help="The same of the moving image.")]


class PairedFiles(TyperCommand):
    """A command with options that take a file of each image: one alone would take the next word for the other."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse such an option with one file, then parse as usual."""
        for option in self.params:
            for name in set(option.opts).intersection(args) if option.nargs == 2 else ():
                place = args.index(name) + 1
                files = list(takewhile(_may_be_file, args[place : place + 2]))
                if len(files) < 2:
                    raise typer.BadParameter(
                        f"{name.lstrip('-')} of both images are needed, got {f'{files[0]} alone' if files else 'none'}: "
                        f"give {name} {option.metavar}, two files",
                        ctx,
                        param_hint=f"'{name}'",
                    )
        return super().parse_args(ctx, args)


def _may_be_file(word: str) -> bool:
    """Tell a file from the next option, and from the folder of a run."""
    return not word.startswith("-") and not Path(word, "record.json").exists()
