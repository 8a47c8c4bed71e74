"""Other tools' transforms, through nitransforms: FSL, FreeSurfer LTA, AFNI, X5; and Greedy's matrices."""

from __future__ import annotations

import warnings
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, Grid
from regista.io._field_files import single_field
from regista.io._files import check_exists, read_text, reading, replacing, reserve, write_text
from regista.transforms import Affine, Composite, DisplacementField, Transform

Matrix = NDArray[np.float64]


def linear_matrix(transform: Transform, path: Path, what: str, ndims: tuple[int, ...] = (3,)) -> Matrix:
    """Return the matrix of a chain of linear maps, or say that the format holds nothing else."""
    parts = Composite((transform,)).flatten().transforms
    linear = [p.matrix for p in parts if isinstance(p, Affine)]
    if len(linear) != len(parts):
        raise FormatError(
            f"{path}: {what} holds a linear transform, got a field; write .h5, .x5 or .nii.gz (of ITK and ANTs; "
            "with --to fsl or --to afni of those)"
        )
    if transform.ndim not in ndims:
        raise FormatError(f"{path}: {what} is 3-D, got a {transform.ndim}-D transform; write .h5 or .tfm")
    return np.asarray(reduce(lambda a, b: b @ a, linear))


def read_greedy(path: Path) -> Affine:
    """Read a 4×4 (in 2-D 3×3) text matrix between RAS positions, fixed to moving (Greedy, c3d, ITK-SNAP)."""
    text = read_text(path, "a matrix")
    with reading(path, "a 4×4 matrix"):
        return Affine(text_matrix(text))


def text_matrix(text: str) -> Matrix:
    """Return the square matrix written in a text."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(rows) not in (3, 4) or any(len(row) != len(rows) for row in rows):
        raise FormatError("it is not 4 rows of 4 numbers (3 of 3 in 2-D)")
    return np.array(rows, dtype=np.float64)


def write_greedy(path: Path, transform: Transform) -> None:
    """Write the matrix between RAS positions."""
    matrix = linear_matrix(transform, path, "Greedy's matrix", (2, 3))
    write_text(path, "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in matrix))


def read_foreign(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> Affine:
    """Read FSL, LTA or AFNI."""
    _need_grids(path, name, fixed, moving)
    text = read_text(path, f"an {name.upper()} transform")
    with reading(path, f"an {name.upper()} transform"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = _structure(name).from_string(text)
        matrix = structure.to_ras(moving=_image(moving), reference=_image(fixed))
        return Affine(np.asarray(matrix, dtype=np.float64))


def write_foreign(
    path: Path, transform: Transform, name: str, fixed: Grid | None, moving: Grid | None
) -> None:
    """Write FSL, LTA or AFNI."""
    matrix = linear_matrix(transform, path, f"{name.upper()}'s file")
    _need_grids(path, name, fixed, moving)
    kind, reference, other = _structure(name), _image(fixed), _image(moving)
    if name == "lta":
        # FreeSurfer's source is the moving volume; nitransforms writes its `reference` there
        reference, other = other, reference
    structure = kind.from_ras(matrix, moving=other, reference=reference)
    text = structure.to_string()
    if name == "afni":  # nitransforms keeps 6 digits, too few for 1e-3 mm
        values = np.asarray(structure.structarr["parameters"])[:3].ravel()
        text = (
            "# 3dvolreg matrices (DICOM-to-DICOM, row-by-row):\n"
            + " ".join(f"{v:.12g}" for v in values)
            + "\n"
        )
    write_text(path, text)


def _structure(name: str) -> Any:
    if name == "fsl":
        from nitransforms.io.fsl import FSLLinearTransform

        return FSLLinearTransform
    if name == "lta":
        from nitransforms.io.lta import FSLinearTransform

        return _lta_reader(FSLinearTransform)
    from nitransforms.io.afni import AFNILinearTransform

    return AFNILinearTransform


def _lta_reader(base: Any) -> Any:
    class _Lta(base):  # type: ignore[misc]
        @classmethod
        def from_string(cls, string: str, partial: bool = False) -> Any:
            lines = [line for line in string.splitlines() if not line.lstrip().startswith("#")]
            keep = [line.split("#")[0].rstrip() for line in lines]
            # what FreeSurfer adds after the two volumes is no part of the geometry
            last = next(
                (n for n, line in enumerate(keep) if line.startswith(("subject", "fscale"))), len(keep)
            )
            return super().from_string("\n".join(keep[:last]), partial)

    return _Lta


def _need_grids(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> None:
    if name == "afni":
        return
    if name == "lta":
        return
    if fixed is None or moving is None:
        raise FormatError(
            f"{path}: {name.upper()} counts from the corners of the images: give both: "
            "--like FIXED --moving MOVING (in Python fixed= and moving=)"
        )


def _image(grid: Grid | None) -> Any:
    if grid is None:
        return None
    from nibabel import Nifti1Image

    grid = grid.as_3d()
    image = Nifti1Image(np.broadcast_to(np.uint8(0), grid.shape), grid.grid2world)
    image.header.set_xyzt_units("mm")
    return image


def read_x5(path: Path) -> Transform:
    """Read an X5 file of linear maps and displacement fields."""
    check_exists(path, "an X5")
    with reading(path, "an X5"):
        from nitransforms.io.x5 import from_filename

        nodes = from_filename(path)
        if not nodes:
            raise FormatError("it holds no transform")
        chain = tuple(_from_x5(node) for node in nodes)
        return chain[0] if len(chain) == 1 else Composite(chain)


def _from_x5(node: Any) -> Transform:
    kind, array = str(node.type), np.asarray(node.transform)
    if kind == "linear":
        return Affine(array.reshape(array.shape[-2:]))
    if kind == "nonlinear" and node.domain is not None and array.ndim in (3, 4):
        grid = Grid(tuple(int(n) for n in node.domain.size), np.asarray(node.domain.mapping))
        vectors = np.moveaxis(array, -1, 0)
        if node.representation == "deformations":
            vectors = vectors - grid.coordinates_mm()
        elif node.representation != "displacements":
            raise FormatError(
                f"its representation {node.representation!r} is not supported, expected displacements"
            )
        return DisplacementField(vectors.astype(np.float32), grid)
    raise FormatError(f"an X5 transform of type {kind!r} is not supported, expected linear or nonlinear")


def write_x5(path: Path, transform: Transform, fixed: Grid | None) -> None:
    """Write X5: one linear map, or one displacement field on the fixed grid."""
    from nitransforms.io.x5 import X5Domain, X5Transform, to_filename

    kinds = (*["space"] * transform.ndim, "vector")
    linear = all(isinstance(p, Affine) for p in Composite((transform,)).flatten().transforms)
    if linear:
        grid, matrix = fixed, linear_matrix(transform, path, "X5", (2, 3))
        content = {"type": "linear", "subtype": "affine", "representation": "matrix", "transform": matrix}
    else:
        field = single_field(transform, fixed, path)
        grid = field.grid
        array = np.ascontiguousarray(np.moveaxis(field.vectors_mm, 0, -1))
        content = {
            "type": "nonlinear",
            "subtype": "densefield",
            "representation": "displacements",
            "transform": array,
        }
    domain = None
    if grid is not None:
        domain = X5Domain(grid=True, size=grid.shape, mapping=grid.grid2world, coordinates="cartesian")
    node = X5Transform(**content, dimension_kinds=kinds, domain=domain, metadata={"WrittenBy": "Regista"})
    with replacing(path) as temporary:
        reserve(
            temporary, np.asarray(content["transform"]).nbytes + 65536
        )  # HDF5 crashes where a disk is full
        to_filename(temporary, [node])
