"""``regista invert``, ``compose`` and ``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import (
    FORMATS,
    Convention,
    Format,
    IgnoreSpaces,
    Kind,
    Like,
    Moving,
    read_chain,
    read_optional,
)
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json

if TYPE_CHECKING:
    from regista.core import Image
    from regista.transforms import Transform

Output = Annotated[Path, typer.Option("--output", "-o", help="Transform to write.")]
ToFormat = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="FORMAT", help=f"Format to write where the extension does not tell: {FORMATS}."
    ),
]


@guarded
def invert(
    transform: Annotated[Path, typer.Argument(metavar="TRANSFORM", help="Transform to invert.")],
    output: Output,
    like: Like = None,
    moving: Moving = None,
    format: Format = None,
    to: ToFormat = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the inverse: exact for linear maps, to 0.01 voxel for fields."""
    from regista.cli._outputs import check_outputs
    from regista.core import threads as use_threads
    from regista.io import write_transform

    check_outputs([output], [transform, like, moving])
    fixed, other = read_optional(like), read_optional(moving)
    with use_threads(threads):
        inverse, residual = _inverse(read_chain([transform], format, fixed, other), fixed)
        write_transform(output, inverse, format=to, fixed=other, moving=fixed)
    if residual > 0.01 and not as_json:
        complain(
            f"Warning: the field cannot be inverted everywhere (off by up to {residual:.3g} voxels): it folds, or "
            "leaves its own grid"
        )
    if as_json:
        say_json({"output": str(output), "residual_vox": residual})
    else:
        exact = "exact" if residual == 0 else f"residual {residual:.2g} voxels at most"
        say(f"{output}: {exact}", quiet=quiet)


def _inverse(transform: Transform, fixed: Image | None) -> tuple[Transform, float]:
    from regista.transforms import BSplineField, Composite, DisplacementField, invert_field

    parts: list[Transform] = []
    worst = 0.0
    chain = Composite((transform,)).flatten().transforms
    for number, part in reversed(list(enumerate(chain))):
        if isinstance(part, BSplineField):  # the fixed image lies where the chain begins
            part = part.displacement(part.domain() if fixed is None or number else fixed.grid)
        if isinstance(part, DisplacementField):
            inverse, residual = invert_field(part)
            worst = max(worst, float(residual))
            parts.append(inverse)
        else:
            parts.append(part.inverse())
    return (parts[0] if len(parts) == 1 else Composite(tuple(parts))), worst


@guarded
def compose(
    transforms: Annotated[
        list[Path], typer.Argument(metavar="TRANSFORM…", help="In the order they act on a fixed point.")
    ],
    output: Output,
    like: Annotated[
        Path | None,
        typer.Option("--like", "--fixed", help="Fixed image: give one displacement field on its grid."),
    ] = None,
    moving: Moving = None,
    format: Format = None,
    to: ToFormat = None,
    ignore_spaces: IgnoreSpaces = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make one transform of several; linear ones are multiplied exactly."""
    from regista.cli._outputs import check_outputs
    from regista.core import threads as use_threads
    from regista.io import write_transform
    from regista.transforms import compose as join

    check_outputs([output], [*transforms, like, moving])
    fixed, other = read_optional(like), read_optional(moving)
    with use_threads(threads):
        chain = read_chain(transforms, format, fixed, other, ignore_spaces=ignore_spaces)
        joined = join(chain, grid=None if fixed is None else fixed.grid)
        write_transform(output, joined, format=to, fixed=fixed, moving=other)
    if as_json:
        say_json({"output": str(output), "kind": type(joined).__name__})
    else:
        say(f"{output}: {type(joined).__name__}", quiet=quiet)


@guarded
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Transform, image, points or surface.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write; its extension names the format.")
    ],
    like: Like = None,
    moving: Moving = None,
    kind: Kind = None,
    frame: Annotated[
        int | None, typer.Option(min=0, help="Take one frame of a series (or channel), counted from 0.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--from", "--format", metavar="FORMAT", help=f"Format of a transform IN: {FORMATS}."),
    ] = None,
    to: ToFormat = None,
    velocity: Annotated[
        bool,
        typer.Option(
            "--velocity",
            help="Write the velocity field of a flow (svf), as vectors in the form of a displacement field.",
        ),
    ] = False,
    convention: Convention = None,
    to_convention: Annotated[
        str | None, typer.Option(help="'lps' or 'ras' of OUT, where its format needs one.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Change the file format of a transform, image, points or surface."""
    from regista.cli._kinds import load
    from regista.cli._outputs import check_outputs
    from regista.io import write

    check_outputs([target], [source, like, moving])
    fixed, other = read_optional(like), read_optional(moving)
    found, thing = load(source, kind, format=format, convention=convention, fixed=fixed, moving=other)
    if frame is not None:
        thing = _frame(thing, frame, source)
    if velocity:
        thing = _velocity(thing, source)
    options: dict[str, Any] = {}
    if found == "transform":
        options = {"format": to, "fixed": fixed, "moving": other}
    elif found in ("points", "mesh"):
        options = {"convention": to_convention}
    parts = _parts(thing)
    write(target, thing, **options)
    if as_json:
        say_json(
            {"output": str(target), "kind": found, "from": str(source), **({"parts": parts} if parts else {})}
        )
    else:
        say(f"{target}: {found} of {source}" + (f" ({', '.join(parts)})" if parts else ""), quiet=quiet)


def _parts(thing: Any) -> list[str]:
    """Return what a transform is made of, by name; nothing of other things."""
    from regista.transforms import Composite, Transform

    if not isinstance(thing, Transform):
        return []
    return [type(part).__name__ for part in Composite((thing,)).flatten().transforms]


def _velocity(thing: Any, path: Path) -> Transform:
    """Return the velocity of a chain with one flow, its vectors in the form of a displacement field."""
    from regista.core import GeometryError
    from regista.transforms import Composite, DisplacementField, Transform, VelocityField

    parts = Composite((thing,)).flatten().transforms if isinstance(thing, Transform) else ()
    flows = [part for part in parts if isinstance(part, VelocityField)]
    if len(flows) != 1:
        raise GeometryError(
            f"{path} holds {len(flows) or 'no'} velocity fields: --velocity takes the one of a stationary velocity field (models "
            "'svf'), which .h5 keeps"
        )
    (flow,) = flows
    return DisplacementField(flow.vectors_mm, flow.grid, flow.fixed_space, flow.fixed_space)


def _frame(thing: Any, number: int, path: Path) -> Image:
    """Return one frame, or channel, of an image that has several."""
    from regista.core import GeometryError, Image

    if not isinstance(thing, Image) or thing.kind == "scalar":
        raise GeometryError(f"{path} has no frames: --frame takes one out of a series, or of channels")
    if number >= len(thing.data):
        raise GeometryError(
            f"{path} has {len(thing.data)} frames, 0 to {len(thing.data) - 1}; got --frame {number}"
        )
    return Image(thing.data[number], thing.grid, "scalar", thing.space, oriented=thing.oriented)
