"""Transforms named on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
FillWord = Annotated[
    str,
    typer.Option(
        "--fill",
        metavar="VALUE|auto|min|edge",
        help="Outside the image: a number; auto: 0, or what its corners hold where it has negative voxels, as CT "
        "does; min: its smallest voxel; edge: its border.",
    ),
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


_OTHERWISE = ", or pass --ignore-spaces if the names mislead"


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
        raise GeometryError(f"{error} with --ignore-spaces. Here transform {named}") from None


def check_direction(
    chain: Transform,
    fixed_space: str | None,
    moving_space: str | None,
    otherwise: str = _OTHERWISE,
    *,
    files: tuple[Path | None, Path | None] = (None, None),
) -> None:
    """Refuse a chain whose named spaces say that it leads the wrong way round, in the command line's words.

    With the `files` of both ends, their spaces count by their folder's name too: `register` names so two scans of one
    file name.
    """
    from regista.transforms import check_direction as check

    spaces = (fixed_space, moving_space)
    with_folders = [
        None if space is None or path is None else with_folder(space, path)
        for space, path in zip(spaces, files, strict=True)
    ]
    mend = (
        "give the inverse (of a registration, the other one of fixed2moving.h5 and moving2fixed.h5; else "
        f"`regista invert`){otherwise}"
    )
    check(chain, *spaces, mend=mend)
    check(chain, *with_folders, mend=mend)


def with_folder(space: str, path: Path) -> str:
    """Return the name of a space with the folder of its file before it."""
    return f"{path.resolve().parent.name}/{space}"


def tell_apart(images: dict[str, Image | None], files: Mapping[str, Path | None]) -> None:
    """Give a fixed and a moving image of one file name their folders' names too."""
    roles = ("fixed", "moving")
    known = {role: (image, path) for role in roles if (image := images[role]) and (path := files[role])}
    if len(known) < 2 or len({image.space for image, _ in known.values()}) == 2:
        return
    if len({path.resolve() for _, path in known.values()}) == 2:
        for role, (image, path) in known.items():
            images[role] = replace(image, space=with_folder(str(image.space), path))


def parse_fill(word: str) -> Any:
    """Return the number or the word that --fill gives."""
    from regista.core import PlanError

    if word in ("auto", "min", "edge"):
        return word
    try:
        return float(word)
    except ValueError:
        raise PlanError(f"--fill is a number, auto, min or edge, got {word!r}") from None


def read_optional(path: Path | None) -> Image | None:
    """Read an image if there is one."""
    from regista.io import read

    return None if path is None else read(path)


def split_last(paths: list[Path], what: str) -> tuple[list[Path], Path]:
    """Return the transforms and the file they are applied to."""
    if len(paths) < 2:
        raise typer.BadParameter(f"name one transform or more, then the {what}")
    return paths[:-1], paths[-1]
