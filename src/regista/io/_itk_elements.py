"""ITK's transforms as files hold them, type name and parameters in LPS, to and from ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Grid, parallel_for
from regista.transforms import (
    Affine,
    BSplineField,
    Composite,
    DisplacementField,
    Transform,
    Translation,
    VelocityField,
)

_TYPE = re.compile(r"^(\w+?)_(float|double)_(\d)_(\d)$")
_SIGNS = np.array([-1.0, -1.0, 1.0])
_AFFINE = (
    "AffineTransform",
    "MatrixOffsetTransformBase",
    "ScalableAffineTransform",
    "CenteredAffineTransform",
)


@dataclass(frozen=True, eq=False)
class Element:
    """One transform of an ITK file.

    Parameters
    ----------
    kind : str
        ITK's type name with precision and dimensions, such as ``AffineTransform_double_3_3``.
    parameters, fixed : ndarray
        ITK's parameters and fixed parameters.
    """

    kind: str
    parameters: NDArray[Any]
    fixed: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Type without precision and dimensions."""
        return self._split()[0]

    @property
    def ndim(self) -> int:
        """Number of coordinates."""
        return self._split()[1]

    def _split(self) -> tuple[str, int]:
        match = _TYPE.match(self.kind)
        if not match or match[3] != match[4] or match[3] not in "23":
            raise FormatError(f"{self.kind!r} is not the name of a 2-D or 3-D ITK transform")
        return match[1], int(match[3])


def ras_from_lps(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a homogeneous matrix between LPS positions into one between RAS positions, or back."""
    flip = np.diag([*_SIGNS[: len(matrix) - 1], 1.0])
    return np.asarray(flip @ matrix @ flip)


def to_elements(transform: Transform) -> list[Element]:
    """Return ITK's elements in the order of application to a fixed point."""
    elements = []
    for part in Composite((transform,)).flatten().transforms:
        if isinstance(part, VelocityField):
            part = part.displacement()
        if isinstance(part, DisplacementField):
            elements.append(_field_element(part))
        elif isinstance(part, Affine):
            elements.append(_affine_element(part))
        elif isinstance(part, BSplineField):
            elements.append(_spline_element(part))
        else:
            raise FormatError(
                f"a {type(part).__name__} has no form in ITK's linear files: write it as a field, .h5 or .nii.gz, on "
                "the fixed image's grid: --like FIXED (in Python fixed=)"
            )
    return elements


def from_elements(
    elements: Sequence[Element],
    spaces: Sequence[Sequence[str | None]] | None = None,
    grid: Grid | None = None,
) -> Transform:
    """Return the chain of elements given in order of application to a fixed point.

    `spaces` holds the names of each element's spaces; `grid` serves to sample kinds that have no counterpart here as
    displacement fields.
    """
    if not elements:
        raise FormatError("the file holds no transform")
    names = spaces if spaces is not None and len(spaces) == len(elements) else [(None, None)] * len(elements)
    chain = tuple(_to_transform(e, tuple(pair), grid) for e, pair in zip(elements, names, strict=True))
    return chain[0] if len(chain) == 1 else Composite(chain)


def spaces_of(transform: Transform) -> list[tuple[str | None, str | None]]:
    """Return the spaces of each part, in order of application."""
    return [(t.fixed_space, t.moving_space) for t in Composite((transform,)).flatten().transforms]


def _to_transform(element: Element, spaces: tuple[Any, ...], grid: Grid | None) -> Transform:
    ndim, name, p = element.ndim, element.name, element.parameters
    if name == "DisplacementFieldTransform":
        return _field(element, spaces)
    if name == "BSplineTransform":
        return _spline(element, spaces)
    if name == "IdentityTransform":
        return Affine(np.eye(ndim + 1), *spaces)
    matrix = np.eye(ndim + 1)
    if name == "TranslationTransform":
        matrix[:ndim, ndim] = _sized(p, ndim, name)
        return Translation(ras_from_lps(matrix), *spaces)
    if name in _AFFINE and len(p) == ndim * (ndim + 1):
        center = _sized(element.fixed, ndim, name) if len(element.fixed) else np.zeros(ndim)
        linear = np.asarray(p[: ndim * ndim], dtype=np.float64).reshape(ndim, ndim)
        matrix[:ndim, :ndim] = linear
        matrix[:ndim, ndim] = p[ndim * ndim :] + center - linear @ center
        return Affine(ras_from_lps(matrix), *spaces)
    return _through_itk(element, spaces, grid)


def _sized(values: NDArray[Any], count: int, name: str) -> NDArray[np.float64]:
    if len(values) != count:
        raise FormatError(f"a {name} needs {count} numbers here, the file holds {len(values)}")
    return np.asarray(values, dtype=np.float64)


def _affine_element(affine: Affine) -> Element:
    matrix = ras_from_lps(affine.matrix)
    n = affine.ndim
    if isinstance(affine, Translation):
        return Element(f"TranslationTransform_double_{n}_{n}", matrix[:n, n].copy(), np.empty(0))
    parameters = np.concatenate([matrix[:n, :n].ravel(), matrix[:n, n]])
    return Element(f"AffineTransform_double_{n}_{n}", parameters, np.zeros(n))


def _field_element(field: DisplacementField) -> Element:
    n = field.ndim
    return Element(
        f"DisplacementFieldTransform_double_{n}_{n}", interleave(field.vectors_mm), _grid_numbers(field.grid)
    )


def _field(element: Element, spaces: tuple[Any, ...]) -> DisplacementField:
    grid = _grid_of(element, "displacement field")
    return DisplacementField(deinterleave(element.parameters, grid.shape), grid, *spaces)


def _spline_element(spline: BSplineField) -> Element:
    n = spline.ndim
    parts = [_SIGNS[axis] * spline.coefficients_mm[axis].ravel(order="F") for axis in range(n)]
    return Element(f"BSplineTransform_double_{n}_{n}", np.concatenate(parts), _grid_numbers(spline.grid))


def _spline(element: Element, spaces: tuple[Any, ...]) -> BSplineField:
    grid = _grid_of(element, "B-spline")
    parts = np.asarray(element.parameters, np.float64).reshape(element.ndim, -1)
    coefficients = [_SIGNS[axis] * part.reshape(grid.shape, order="F") for axis, part in enumerate(parts)]
    return BSplineField(np.stack(coefficients), grid, *spaces)


def _grid_numbers(grid: Grid) -> NDArray[np.float64]:
    """Return a grid as ITK's fixed parameters: size, origin, spacing, direction."""
    spacing, origin, direction = grid.to_lps()
    return np.concatenate([np.array(grid.shape, dtype=np.float64), origin, spacing, direction.ravel()])


def _grid_of(element: Element, what: str) -> Grid:
    """Return the grid of an element's fixed parameters, on which its parameters are vectors."""
    n = element.ndim
    fixed = _sized(element.fixed, n * (3 + n), f"{what}'s grid")
    if not np.isfinite(fixed).all() or fixed[:n].min() < 1 or np.any(fixed[:n] != np.rint(fixed[:n])):
        raise FormatError(f"the {what}'s size is {fixed[:n].tolist()}: the file is damaged")
    shape = tuple(int(v) for v in fixed[:n])
    if int(np.prod(fixed[:n])) * n != len(element.parameters):
        raise FormatError(
            f"a {what} of size {shape} needs {int(np.prod(fixed[:n])) * n} numbers, the file holds "
            f"{len(element.parameters)}"
        )
    return Grid.from_lps(shape, fixed[2 * n : 3 * n], fixed[n : 2 * n], fixed[3 * n :].reshape(n, n))


def interleave(vectors_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a RAS field ``(ndim, *shape)`` as ITK's flat LPS vectors, first axis fastest."""
    ndim, shape = len(vectors_mm), vectors_mm.shape[1:]
    source = vectors_mm if ndim == 3 else vectors_mm[..., None]
    out = np.empty((*source.shape[:0:-1], ndim), np.float32)
    signs = _SIGNS[:ndim].astype(np.float32)

    def body(start: int, stop: int) -> None:
        for j in range(start, stop):
            for axis in range(ndim):
                np.multiply(source[axis, :, j, :].T, signs[axis], out=out[:, j, :, axis])

    parallel_for(body, shape[1])
    return out.reshape(-1)


def deinterleave(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return ITK's flat LPS vectors as a RAS field ``(ndim, *shape)``."""
    ndim = len(shape)
    full = (*shape, 1)[:3]
    source = np.asarray(values).reshape(*full[::-1], ndim)
    out = np.empty((ndim, *full), np.float32)
    signs = _SIGNS[:ndim].astype(np.float32)

    def body(start: int, stop: int) -> None:
        for j in range(start, stop):
            for axis in range(ndim):
                np.multiply(source[:, j, :, axis].T, signs[axis], out=out[axis, :, j, :], casting="same_kind")

    parallel_for(body, shape[1])
    return out.reshape(ndim, *shape)


def _through_itk(element: Element, spaces: tuple[Any, ...], grid: Grid | None) -> Transform:
    """Let ITK itself say what one of its many other kinds does."""
    import SimpleITK as sitk

    maker = getattr(sitk, element.name, None)
    if maker is None:
        raise FormatError(
            f"ITK's {element.name} is not supported: convert it with ITK to an affine or a field"
        )
    try:
        itk = maker(element.ndim) if element.name == "ScaleTransform" else maker()
        itk.SetFixedParameters(np.asarray(element.fixed, float).tolist())
        itk.SetParameters(np.asarray(element.parameters, float).tolist())
    except (RuntimeError, TypeError) as error:
        raise FormatError(f"ITK does not accept the {element.name}'s parameters: {error}") from None
    if itk.IsLinear():
        corners = np.vstack([np.zeros(element.ndim), np.eye(element.ndim)])
        mapped = np.array([itk.TransformPoint(p.tolist()) for p in corners])
        matrix = np.eye(element.ndim + 1)
        matrix[:-1, -1] = mapped[0]
        matrix[:-1, :-1] = (mapped[1:] - mapped[0]).T
        return Affine(ras_from_lps(matrix), *spaces)
    if grid is None:
        raise FormatError(
            f"the file holds a {element.name}; give the fixed image's grid to sample it as a displacement field "
            "--like FIXED (in Python fixed=)"
        )
    if grid.ndim != element.ndim:
        raise GeometryError(f"the {element.name} is {element.ndim}-D but the grid is {grid.ndim}-D")
    spacing, origin, direction = grid.to_lps()
    field = sitk.TransformToDisplacementField(
        itk, sitk.sitkVectorFloat32, grid.shape, origin.tolist(), spacing.tolist(), direction.ravel().tolist()
    )
    vectors = sitk.GetArrayViewFromImage(field).reshape(-1)
    return DisplacementField(deinterleave(vectors, grid.shape), grid, *spaces)
