"""Transforms named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from regista.core import Image
    from regista.transforms import Transform

IMAGE_SUFFIXES = (
    ".nii",
    ".nii.gz",
    ".mha",
    ".nrrd",
    ".mgz",
    ".mgh",
    ".npz",
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".bmp",
    ".gipl",
    ".vtk",
)
"""Extensions of images that can be written."""
FORMATS = "itk, nifti, fsl, fsl-absolute, lta, afni, x5, greedy, learn2reg, voxelmorph"
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
Like = Annotated[
    Path | None, typer.Option("--like", "--fixed", help="Fixed image, where a format counts in its voxels.")
]
Moving = Annotated[
    Path | None, typer.Option("--moving", help="Moving image, where a format counts in its voxels.")
]
Kind = Annotated[
    str | None,
    typer.Option(
        help="What a file holds: image, labels, points, mesh, transform (default: told by the file)."
    ),
]
IgnoreSpaces = Annotated[
    bool,
    typer.Option("--ignore-spaces", help="Join the transforms even where the names of their spaces differ."),
]


def read_chain(
    paths: list[Path],
    format: str | None,
    fixed: Any = None,
    moving: Any = None,
    *,
    ignore_spaces: bool = False,
) -> Transform:
    """Read transforms and join them, the first one applied first to a fixed point."""
    from regista.core import GeometryError
    from regista.io import read_transform
    from regista.transforms import Composite, with_spaces

    single = len(paths) == 1  # the images' names are those of the ends of the chain only
    images = (fixed, moving) if single else tuple(None if i is None else i.grid for i in (fixed, moving))
    chain = [read_transform(path, format=format, fixed=images[0], moving=images[1]) for path in paths]
    if ignore_spaces:
        chain = [with_spaces(transform, None, None) for transform in chain]
    if single:
        return chain[0]
    try:
        return Composite(tuple(chain))
    except GeometryError as error:
        named = ", ".join(f"{n} is {path}" for n, path in enumerate(paths, start=1))
        raise GeometryError(f"{error} (--ignore-spaces). Here transform {named}") from None


def check_direction(chain: Transform, fixed: Image, image: Image) -> None:
    """Refuse a chain whose named spaces say that it leads from the image to the grid to be filled."""
    from regista.core import GeometryError

    here, there = chain.fixed_space, chain.moving_space
    leads_away = there == fixed.space or here == image.space  # either name alone proves it
    if None not in (here, there) and here != there and image.space != fixed.space and leads_away:
        raise GeometryError(
            f"the transforms lead from {here!r} to {there!r}; to bring the image {image.space!r} "
            f"onto {fixed.space!r} they must lead from {fixed.space!r} to {image.space!r}: give the inverse (of a "
            "registration, the other one of fixed2moving.h5 and moving2fixed.h5; else `regista invert`), or pass "
            "--ignore-spaces if the names mislead"
        )


def read_optional(path: Path | None) -> Image | None:
    """Read an image if there is one."""
    from regista.io import read

    return None if path is None else read(path)


def split_last(paths: list[Path], what: str) -> tuple[list[Path], Path]:
    """Return the transforms and the file they are applied to."""
    if len(paths) < 2:
        raise typer.BadParameter(f"name one transform or more, then the {what}")
    return paths[:-1], paths[-1]
