"""Options that several commands have in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
