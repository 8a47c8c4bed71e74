"""Transforms named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from regista.core import Image
    from regista.transforms import Transform

FORMATS = "itk, nifti, fsl, lta, afni, x5, greedy, learn2reg, voxelmorph"
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=f"Format of the transforms where extensions do not tell: {FORMATS}.",
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        help="'lps' (ANTs, ITK) or 'ras': coordinates of point files that do not tell, such as CSV."
    ),
]


def read_chain(paths: list[Path], format: str | None, fixed: Any = None, moving: Any = None) -> Transform:
    """Read transforms and join them, the first one applied first to a fixed point."""
    from regista.io import read_transform
    from regista.transforms import Composite

    chain = [read_transform(path, format=format, fixed=fixed, moving=moving) for path in paths]
    return chain[0] if len(chain) == 1 else Composite(tuple(chain))


def read_optional(path: Path | None) -> Image | None:
    """Read an image if there is one."""
    from regista.io import read

    return None if path is None else read(path)


def split_last(paths: list[Path], what: str) -> tuple[list[Path], Path]:
    """Return the transforms and the file they are applied to."""
    if len(paths) < 2:
        raise typer.BadParameter(f"name one transform or more, then the {what}")
    return paths[:-1], paths[-1]
