"""A result from a transform that was found elsewhere, such as by a network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from regista.core import (
    GeometryError,
    Image,
    RunRecord,
    Status,
    get_threads,
    hash_array,
    peak_memory_bytes,
    software_versions,
)
from regista.registration._result import MAX_FOLDED_PERCENT, Result
from regista.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Fill,
    Transform,
    check_direction,
    fill_value,
    invert_field,
    jacobian_determinant,
    resample,
)


def finish(
    fixed: Image,
    moving: Image,
    transform: Transform,
    *,
    record: RunRecord | None = None,
    measures: Mapping[str, Any] | None = None,
    seed: int = 0,
    fill: Fill = "auto",
) -> Result:
    """Return what `register` would: inverse, warped image, and a record that the transform is judged by.

    Parameters
    ----------
    fixed, moving : Image
        The pair.
    transform : Transform
        Map fixed → moving: a displacement field on the grid of `fixed` with linear maps after it, or linear maps alone.
    record : RunRecord, optional
        Of the run that gave the linear part, to go on with.
    measures : mapping, optional
        What else belongs in the record.
    seed : int
        For the record.
    fill : float or {'auto', 'min', 'edge'}
        What the warped image holds outside the moving one.

    Returns
    -------
    Result
        ``record.status`` is 'folded' where the field folds too much.

    Raises
    ------
    GeometryError
        If the transform has other parts, does not fit the images, or leads the wrong way round.

    Examples
    --------
    >>> from regista.core import Grid
    >>> image = Image(np.random.default_rng(0).random((6, 7, 5)), Grid((6, 7, 5), np.eye(4)))
    >>> finish(image, image, Affine.identity(3)).record.status.value
    'converged'
    """
    began = time.perf_counter()
    check_direction(transform, fixed.space, moving.space)
    field, linear = _parts(transform, fixed)
    found: dict[str, Any] = {**(record.measures if record else {}), **(measures or {})}
    found["linear_fixed2moving"] = linear.matrix
    found["fill"] = "edge" if fill == "edge" else fill_value(moving, fill)
    status = record.status if record else Status.CONVERGED
    inverse: Transform = linear.inverse()
    whole: Transform = linear
    if field is not None:
        determinant = jacobian_determinant(field, field.grid)
        backward, residual = invert_field(field)
        found["folded_percent"] = 100 * float(np.mean(determinant <= 0))
        found["smallest_jacobian"] = float(determinant.min())
        found["inverse_residual_vox"] = float(residual)
        found["inverse_folded_percent"] = 100 * float(
            np.mean(jacobian_determinant(backward, backward.grid) <= 0)
        )
        whole, inverse = Composite((field, linear)), Composite((inverse, backward))
        if status.ok and found["folded_percent"] > MAX_FOLDED_PERCENT:
            status = Status.FOLDED
    warped = resample(moving, fixed.grid, whole, fill=fill, dtype=np.float32)
    warped = replace(warped, grid=fixed.grid, space=fixed.space, oriented=fixed.oriented)
    base = record or _fresh(fixed, moving, seed)
    timings = dict(base.timings)
    timings["inverse and resampling"] = time.perf_counter() - began
    timings["registration"] = timings.get("registration", 0.0) + time.perf_counter() - began
    base = replace(
        base,
        status=status,
        timings=timings,
        versions=software_versions(),
        measures=found,
        seed=seed,
        peak_memory_bytes=peak_memory_bytes(),
    )
    return Result(whole, inverse, warped, base, (fixed, moving))


def _parts(transform: Transform, fixed: Image) -> tuple[DisplacementField | None, Affine]:
    parts = list(Composite((transform,)).flatten().transforms)
    field = parts.pop(0) if isinstance(parts[0], DisplacementField) else None
    if not all(isinstance(part, Affine) for part in parts) or transform.ndim != fixed.ndim:
        raise GeometryError(
            f"expected a {fixed.ndim}-D displacement field followed by linear maps, got a {transform.ndim}-D chain of "
            + ", ".join(type(part).__name__ for part in ([field] if field else []) + parts)
        )
    matrix = np.eye(fixed.ndim + 1)
    for part in parts:
        assert isinstance(part, Affine)
        matrix = part.matrix @ matrix
    there = transform.moving_space
    linear = Affine(matrix, fixed.space, there)
    if isinstance(field, DisplacementField):
        field = replace(field, fixed_space=fixed.space, moving_space=fixed.space)
        return field, linear
    return None, linear


def _fresh(fixed: Image, moving: Image, seed: int) -> RunRecord:
    inputs = {
        role: {"space": image.space, "grid": image.grid.describe(), "sha256": hash_array(image.data)}
        for role, image in (("fixed", fixed), ("moving", moving))
    }
    return RunRecord(
        status=Status.CONVERGED,
        versions=software_versions(),
        seed=seed,
        threads=get_threads(),
        inputs=inputs,
        plan={"stages": []},
    )
