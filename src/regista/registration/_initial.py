"""The first alignment: from centres of mass and a coarse search over rotations and translations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from regista.core import Status
from regista.registration._channels import in_use
from regista.registration._levels import Level, Matrix, Scan, content, levels
from regista.registration._linear import LinearCost, basis_for, minimize, orthonormal
from regista.registration._plan import Start
from regista.similarity import Similarity

_COARSE, _COARSE_2D = 28, 48
"""Voxels along the longest axis at which candidates are compared: a slice of 28 would have too few to tell."""
_FIRST_STEPS, _ALL_STEPS, _KEPT = 8, 25, 4
"""Steps of every candidate that is refined; of those that are best then, and how many these are."""


def find_start(fixed: Scan, moving: Scan, start: Start) -> Matrix:
    """Return a first world matrix fixed → moving, as `start` asks."""
    if start.search == "none":
        return np.eye(4)
    fixed, moving, similarity = in_use(fixed, moving, start.similarity)
    centers = _center_of_mass(fixed), _center_of_mass(moving)
    if start.search == "centers":
        return _about(np.eye(3), *centers)
    level = _coarse_level(content(fixed, 0.15), moving)
    basis = basis_for("rigid", level.fixed)
    cost = LinearCost(level, similarity, basis)
    flat = [axis for axis, n in enumerate(fixed.grid.shape) if n == 1]
    middles = fixed.grid.center_mm, moving.grid.center_mm
    candidates = [np.eye(4)]
    axes = orthonormal(fixed.grid.direction)
    for turn in _rotations(flat[0] if flat else None):
        rotation = axes @ turn @ axes.T  # about the scan's own axes: an oblique header is turned whole
        candidates += [_about(rotation, *centers), _about(rotation, *middles)]
    scored = sorted(((cost(matrix)[0], n) for n, matrix in enumerate(candidates)))
    # the headers' own orientation is always among those refined: most headers are right
    chosen = dict.fromkeys([n for _, n in scored[: start.candidates]] + [0, 1, 2])
    few, rest = replace(level, steps=_FIRST_STEPS), replace(level, steps=_ALL_STEPS - _FIRST_STEPS)
    begun = [_refined(few, similarity, basis, candidates[n], n) for n in chosen]
    # most have shown by now that they lead nowhere
    ranked = sorted(begun, key=lambda found: found[0])
    header = next(place for place, one in enumerate(ranked) if one[2] < 3)
    kept = ranked[:_KEPT] + ranked[max(header, _KEPT) : header + 1]
    ended = [_refined(rest, similarity, basis, matrix, n) for _, matrix, n in kept]
    value, matrix, _ = min([*begun, *ended], key=lambda found: found[0])
    return matrix if np.isfinite(value) else _about(np.eye(3), *centers)


def _refined(
    level: Level, similarity: Similarity, basis: Matrix, start: Matrix, number: int
) -> tuple[float, Matrix, int]:
    """Return the value, the matrix and the candidate's number; the first three turn nothing against the headers."""
    matrix, values, status = minimize(level, similarity, basis, start, 0.02, lambda *_: None)
    # a turn away from the headers must be worth it
    value = values[-1] if number < 3 else values[-1] + 0.02 * abs(values[-1])
    return (np.inf if status is Status.NON_FINITE else value), matrix, number


def find_mutual_start(fixed: Scan, moving: Scan, start: Start) -> Matrix:
    """Return a first world matrix fixed → moving; where the images are exchanged, its inverse.

    It is searched for from either image, and that start taken which is better for both.
    """
    if start.search == "none":
        return np.eye(4)
    there, back = find_start(fixed, moving, start), find_start(moving, fixed, start)
    one, other, similarity = in_use(fixed, moving, start.similarity)
    levels_both = _coarse_level(content(one, 0.15), other), _coarse_level(content(other, 0.15), one)
    ahead, behind = (LinearCost(level, similarity, basis_for("rigid", level.fixed)) for level in levels_both)

    def cost(matrix: Matrix) -> float:
        return ahead(matrix)[0] + behind(np.asarray(np.linalg.inv(matrix), np.float64))[0]

    return min((there, np.asarray(np.linalg.inv(back))), key=cost)


def _coarse_level(fixed: Scan, moving: Scan) -> Level:
    finest = float(fixed.grid.spacing[np.array(fixed.grid.shape) > 1].min())
    extent = float((np.array(fixed.grid.shape) * fixed.grid.spacing).max())
    coarse = _COARSE_2D if 1 in fixed.grid.shape else _COARSE
    shrink = max(1, int(np.ceil(extent / coarse / finest)))
    return replace(next(iter(levels(fixed, moving, (shrink,), (_ALL_STEPS,)))), steps=_ALL_STEPS)


def _center_of_mass(scan: Scan) -> Matrix:
    mass = np.mean(scan.channels, axis=0) if scan.others else scan.data
    mass = mass if scan.weight is None else mass * scan.weight
    total = float(mass.sum(dtype=np.float64))
    if total <= 0:
        return scan.grid.center_mm
    index = [
        float(mass.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64) @ np.arange(n)) / total
        for axis, n in enumerate(mass.shape)
    ]
    return scan.grid.index2world(index)


def _about(rotation: Matrix, fixed_center: Matrix, moving_center: Matrix) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = moving_center - rotation @ fixed_center
    return matrix


def _rotations(normal: int | None) -> list[Matrix]:
    """Return rotations to try, the identity first: turns by 90° about the axes, and tilts by 30°.

    A single slice, with its `normal` axis, turns in its plane.
    """
    if normal is not None:
        return [Rotation.from_euler("xyz"[normal], a, degrees=True).as_matrix() for a in range(0, 360, 30)]
    cube = [
        np.diag(signs) @ np.eye(3)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    turns = [m for m in cube if np.linalg.det(m) > 0]
    tilts = [
        Rotation.from_euler(axis, angle, degrees=True).as_matrix()
        for axis in "xyz"
        for angle in (-30, 30, -60, 60)
    ]
    turns.sort(key=lambda m: -np.trace(m))
    return [*turns[:1], *tilts, *turns[1:]]
