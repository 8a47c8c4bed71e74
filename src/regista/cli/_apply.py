"""``regista apply`` and ``regista apply-points``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import (
    IMAGE_SUFFIXES,
    Convention,
    FillWord,
    Format,
    IgnoreSpaces,
    Like,
    Moving,
    check_direction,
    parse_fill,
    read_chain,
    read_optional,
    split_last,
)
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json

if TYPE_CHECKING:
    from regista.core import Grid, Image
    from regista.transforms import Transform


@guarded
def apply(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[TRANSFORM…] IMAGE",
            help="Transforms in the order they act on a fixed point (none: the images share a space), then the "
            "image.",
        ),
    ],
    like: Annotated[
        Path, typer.Option("--like", "-l", help="Image whose grid to resample to (the fixed image).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write.")],
    labels: Annotated[bool, typer.Option("--labels", help="The image holds labels: invent none.")] = False,
    interpolation: Annotated[
        str | None,
        typer.Option(
            help="linear, nearest, cubic, lanczos; for labels nearest or smooth (default: linear, nearest)."
        ),
    ] = None,
    fill: FillWord = "auto",
    dtype: Annotated[str | None, typer.Option(help="Voxel type to write (default: the image's).")] = None,
    format: Format = None,
    ignore_spaces: IgnoreSpaces = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Resample IMAGE onto another grid, once, through all transforms."""
    transforms, path = files[:-1], files[-1]
    from regista.cli._kinds import looks_like_labels
    from regista.cli._outputs import check_outputs
    from regista.core import LabelImage, PlanError
    from regista.core import threads as use_threads
    from regista.io import read, read_labels, write
    from regista.transforms import fill_value, resample, resample_labels

    check_outputs([output], [*files, like], IMAGE_SUFFIXES)
    _check_choice(interpolation, labels)
    outside = parse_fill(fill)
    if labels and outside not in ("auto", 0.0):
        raise PlanError(f"labels are 0, background, outside the image: leave out --fill {fill}, or --labels")
    with use_threads(threads):
        fixed = read(like)
        image: Image = read_labels(path) if labels else read(path)
        if not labels and interpolation != "nearest" and not quiet and looks_like_labels(image):
            complain(
                f"Warning: {path} looks like a label map, and interpolation makes up values between labels: pass "
                "--labels, or --interpolation nearest if it is an image that must keep its values"
            )
        chain = _chain_for(transforms, format, fixed, image, ignore_spaces, (like, path))
        out: Image
        filled = 0.0 if labels else "edge" if outside == "edge" else fill_value(image, outside)
        if isinstance(image, LabelImage):
            out = resample_labels(image, fixed, chain, interpolation=interpolation or "nearest")  # type: ignore[arg-type]
        else:
            out = resample(
                image,
                fixed,
                chain,
                interpolation=interpolation or "linear",  # type: ignore[arg-type]
                fill=outside,
                dtype=_dtype(dtype),
            )
        write(output, out)
    if as_json:
        say_json(
            {"output": str(output), "grid": out.grid.describe(), "dtype": out.data.dtype.name, "fill": filled}
        )
    else:
        say(f"{output}: {out.grid.describe()}", quiet=quiet)


@guarded
def apply_points(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRANSFORM… POINTS", help="Transforms in order of application, then points or a surface."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Points or surface to write.")],
    convention: Convention = None,
    like: Like = None,
    moving: Moving = None,
    format: Format = None,
    ignore_spaces: IgnoreSpaces = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Map points or a surface of the fixed image to the moving image.

    For points of the moving image, give the inverse (moving2fixed.h5).
    """
    transforms, path = split_last(files, "points")
    from regista.cli._kinds import kind_of
    from regista.cli._outputs import check_outputs
    from regista.io import read_mesh, read_points, write
    from regista.transforms import map_mesh, map_pointset

    check_outputs([output], [*files, like, moving])
    fixed, other = read_optional(like), read_optional(moving)
    chain = read_chain(transforms, format, fixed, other, ignore_spaces=ignore_spaces)
    options = {"convention": _convention_for(output, convention)}
    if kind_of(path) == "mesh":
        mesh = read_mesh(path, convention=convention)  # type: ignore[arg-type]
        check_direction(chain, mesh.space, None, files=(path, None))
        write(output, map_mesh(mesh, chain), **options)
        count = len(mesh.vertices_mm)
    else:
        points = read_points(
            path,
            convention=convention,  # type: ignore[arg-type]
            grid=None if fixed is None else fixed.grid,
            ndim=chain.ndim,
        )
        check_direction(chain, points.space, None, files=(path, None))
        write(output, map_pointset(points, chain), **options)
        count = len(points.points_mm)
    if as_json:
        say_json({"output": str(output), "points": count})
    else:
        say(f"{output}: {count} points", quiet=quiet)


def _chain_for(
    paths: list[Path],
    format: str | None,
    fixed: Image,
    image: Image,
    ignore_spaces: bool,
    files: tuple[Path, Path],
) -> Transform:
    """Return the checked chain that brings `image` onto the grid of `fixed`; without files, the identity."""
    if paths:
        chain = read_chain(paths, format, fixed, image, ignore_spaces=ignore_spaces)
    else:
        from regista.transforms import Affine

        chain = Affine.identity(fixed.ndim)
    check_overlap(chain, fixed.grid, image)
    check_direction(chain, fixed.space, image.space, files=files)
    return chain


def _convention_for(output: Path, convention: str | None) -> str | None:
    """Return the convention to write: formats that say theirs, or have but one, are left alone."""
    from regista.io import suffix_of

    telling = (".txt", ".pts", ".fcsv", ".mrk.json", ".json", ".gii", ".surf.gii")
    return None if suffix_of(output) in telling else convention


def _check_choice(interpolation: str | None, labels: bool) -> None:
    from regista.core import PlanError

    allowed = ("nearest", "smooth") if labels else ("linear", "nearest", "cubic", "lanczos")
    if interpolation is not None and interpolation not in allowed:
        where = "labels" if labels else "images"
        raise PlanError(f"--interpolation of {where} is {', '.join(allowed)}, got {interpolation!r}")


def _dtype(name: str | None) -> Any:
    import numpy as np

    from regista.core import PlanError

    if name is None:
        return None
    try:
        return np.dtype(name)
    except TypeError:
        raise PlanError(f"--dtype is a type such as float32, int16 or uint8, got {name!r}") from None


def check_overlap(chain: Transform, grid: Grid, image: Image) -> None:
    """Refuse a chain that takes the whole grid out of the image, and say what to try."""
    from regista.core import GeometryError

    if chain.ndim != grid.ndim or image.ndim != grid.ndim or _meets(chain, grid, image):
        return
    hint = "check that the transforms belong to these images, and their order"
    try:
        if _meets(chain.inverse(), grid, image):
            hint = "the inverse does overlap: use it (`regista invert`; of a registration, moving2fixed.h5)"
    except GeometryError:
        pass
    raise GeometryError(
        f"through the transforms no voxel of the grid ({grid.describe()}) lies inside the image "
        f"({image.grid.describe()}); {hint}"
    )


def _meets(chain: Transform, grid: Grid, image: Image) -> bool:
    import numpy as np

    axes = [np.linspace(-0.5, n - 0.5, 25) for n in grid.shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.ndim)
    if image.grid.contains(chain.map_points(grid.index2world(places))).any():
        return True
    # a small image may hide between the samples: look the other way, where that is cheap
    from regista.transforms import Affine, Composite

    parts = Composite((chain,)).flatten().transforms
    if not all(isinstance(part, Affine) for part in parts):
        return False
    axes = [np.linspace(-0.5, n - 0.5, 25) for n in image.grid.shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.ndim)
    return bool(grid.contains(chain.inverse().map_points(image.grid.index2world(places))).any())
