"""A prior of expected deformations from fields in files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from regista.core import FormatError, GeometryError, Grid, Image, PlanError
from regista.io import read_transform, suffix_of
from regista.regularization import DeformationPrior
from regista.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
    to_displacement_field,
)

FIELD_SUFFIXES = (".h5", ".hdf5", ".nii", ".nii.gz", ".x5", ".tfm")
"""Files of a folder that may hold a field."""
_COLUMN = "field"


def learn_deformation_prior(
    fields: Sequence[Transform | str | Path] | str | Path,
    *,
    rank: int | None = None,
    residual_mm: float | None = None,
    weight: float = 1.0,
    grid: Grid | None = None,
    format: str | None = None,
    fixed: Image | Grid | None = None,
    moving: Image | Grid | None = None,
) -> DeformationPrior:
    """Learn a prior from transforms, or from the files that hold them.

    Of a registration's result, a chain of a bending and a linear map, the bending counts: it is what the penalty acts
    on. The transforms must lead from one space, such as that of a template.

    Parameters
    ----------
    fields : sequence of Transform or path, or path
        Transforms in any format of `regista.io.read_transform`; or a CSV file with the column ``field`` (paths count
        from its folder); or a folder, of which all ``.h5``, ``.nii``, ``.nii.gz``, ``.x5`` and ``.tfm`` are taken.
    rank : int, optional
        Modes to keep; by default as many as hold 90 % of the variance.
    residual_mm, weight
        See `regista.regularization.DeformationPrior.learn`.
    grid : Grid, optional
        Grid to bring all fields onto. Without it they must lie on one, and have one of their own.
    format, fixed, moving
        See `regista.io.read_transform`.

    Returns
    -------
    DeformationPrior
        A penalty for the stages of a plan; its model is kept by `regista.regularization.save_deformation_model`.

    Raises
    ------
    FormatError
        If a file is missing or damaged, or holds NaN.
    GeometryError
        If fields lie on different grids, or a transform is not a bending and linear maps after it.
    PlanError
        If there are fewer than 2 fields, too few for the rank, or they do not vary.

    Examples
    --------
    >>> import numpy as np
    >>> lattice, rng = Grid((5, 6, 7), np.eye(4)), np.random.default_rng(0)
    >>> given = [DisplacementField(rng.normal(size=(3, 5, 6, 7)), lattice) for _ in range(4)]
    >>> learn_deformation_prior(given, rank=2).model.modes.shape
    (2, 3, 5, 6, 7)
    """
    named: list[Transform | str | Path] = (
        [*list_fields(fields)] if isinstance(fields, str | Path) else [*fields]
    )
    if len(named) < 2:
        raise PlanError(
            f"a prior is learned from 2 fields or more, got {len(named)}: what varies cannot be told from one"
        )
    found: list[DisplacementField] = []
    lattice = grid
    for number, one in enumerate(named):
        name = f"field {number}" if isinstance(one, Transform) else str(one)
        if not isinstance(one, Transform):
            one = read_transform(one, format=format, fixed=fixed, moving=moving)
        field = _bending(one, grid, name)
        lattice = field.grid if lattice is None else lattice
        if not field.grid.same_as(lattice):
            raise GeometryError(
                f"{name} lies on another grid ({field.grid.describe()}) than the first ({lattice.describe()}): give the grid "
                "to bring all fields onto, --like TEMPLATE (in Python grid=)"
            )
        found.append(field)
    assert lattice is not None
    vectors = [field.vectors_mm for field in found]
    return DeformationPrior.learn(vectors, lattice, rank=rank, residual_mm=residual_mm, weight=weight)


def list_fields(source: str | Path) -> list[Path]:
    """Return the files of fields that a table names or a folder holds.

    Parameters
    ----------
    source : path
        A ``.csv`` with the column ``field``, or a folder.

    Raises
    ------
    FormatError
        If there is no such table or folder, a file that it names is missing, or it names none.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if suffix_of(path) in FIELD_SUFFIXES)
        if not found:
            raise FormatError(f"{source} holds no fields ({', '.join(FIELD_SUFFIXES)}): name another folder")
        return found
    if not source.is_file():
        raise FormatError(f"{source} does not exist: name a .csv file of fields or a folder of them")
    if suffix_of(source) != ".csv":
        raise FormatError(f"{source} is neither a folder nor a .csv file with the column {_COLUMN}")
    try:
        rows = list(csv.DictReader(io.StringIO(source.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{source} is not a CSV file: {error}") from None
    if not rows or _COLUMN not in rows[0]:
        columns = ", ".join(filter(None, rows[0])) if rows else "no rows"
        raise FormatError(f"{source} has {columns}; expected one row for each field below a header {_COLUMN}")
    found = []
    for line, row in enumerate(rows, 2):
        text = (row[_COLUMN] or "").strip()
        if not text:
            raise FormatError(f"{source}, line {line}: the column {_COLUMN} is empty")
        path = source.parent / text
        if not path.is_file():
            raise FormatError(
                f"{source}, line {line}: {path} does not exist; paths count from the table's folder"
            )
        found.append(path)
    return found


def _bending(transform: Transform, grid: Grid | None, name: str) -> DisplacementField:
    """Return what a transform does before its linear maps, as a field on a grid or on its own."""
    parts = list(Composite((transform,)).flatten().transforms)
    while len(parts) > 1 and isinstance(parts[-1], Affine):
        parts.pop()
    (first, *others) = parts
    if others or isinstance(first, Affine):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise GeometryError(
            f"{name} is {kinds}: a prior is learned from fields, each with linear maps after it or none; make one field of it "
            "first: regista compose FILE --like TEMPLATE -o FIELD.nii.gz"
        )
    if grid is not None:
        if grid.ndim != first.ndim:
            raise GeometryError(f"{name} is {first.ndim}-D, the grid to bring it onto {grid.ndim}-D")
        return to_displacement_field(first, grid)
    if not isinstance(first, DisplacementField | VelocityField):
        raise GeometryError(
            f"{name} is a {type(first).__name__}, which has no voxels: give the grid to bring all fields onto, --like TEMPLATE "
            "(in Python grid=)"
        )
    return to_displacement_field(first, first.grid)
