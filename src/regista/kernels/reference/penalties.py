"""Reference of `regista.kernels.cpu.penalties`: differences as sparse matrices, so that a transpose is the adjoint."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Array = NDArray[np.float64]


@lru_cache(maxsize=8)
def difference_matrices(shape: tuple[int, ...]) -> tuple[list[sparse.csr_matrix], list[sparse.csr_matrix]]:
    """Return, for each axis, the matrices of the forward and of the backward difference of a flattened volume."""
    forward: list[sparse.csr_matrix] = []
    backward: list[sparse.csr_matrix] = []
    for axis, n in enumerate(shape):
        step = sparse.lil_matrix((n, n))
        for row in range(n - 1):
            step[row, row], step[row, row + 1] = -1, 1
        last = sparse.lil_matrix((n, n))
        last[1:] = step[:-1]
        if n > 1:  # one-sided at the ends
            step[n - 1] = step[n - 2]
            last[0] = last[1]
        before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
        for matrices, matrix in ((forward, step), (backward, last)):
            wide = sparse.kron(sparse.kron(sparse.eye(before), matrix), sparse.eye(after))
            matrices.append(wide.tocsr())
    return forward, backward


def _differences(u: ArrayLike, sides: tuple[int, ...]) -> tuple[Array, list[sparse.csr_matrix]]:
    """Return ``∂_d u_c`` as ``(voxels, c, d)`` with forward (1), backward (−1) or central (0) differences by axis."""
    field = np.asarray(u, np.float64)
    forward, backward = difference_matrices(field.shape[1:])  # made once for each shape: it takes long
    matrices = [
        (f + b) / 2 if side == 0 else (f if side > 0 else b)
        for side, f, b in zip(sides, forward, backward, strict=True)
    ]
    rows = [[matrix @ component.ravel() for matrix in matrices] for component in field]
    return np.moveaxis(np.array(rows), -1, 0), matrices


def _collect(out: Array, share: float, stress: Array, matrices: list[sparse.csr_matrix]) -> None:
    """Add the adjoint of the differences, applied to the derivatives by them."""
    for c, d in product(range(3), repeat=2):
        out[c] += share * (matrices[d].T @ stress[:, c, d]).reshape(out.shape[1:])


def _weights(u: ArrayLike, weight: ArrayLike | None) -> Array:
    shape = np.shape(u)[1:]
    return np.ones(shape).ravel() if weight is None else np.asarray(weight, np.float64).ravel()


def _over_corners(u: ArrayLike, out: Array, factor: float, density: object, root: object = None) -> float:
    """Average a density over the eight corners; `root` is applied after the average, as total variation needs it."""
    corners = list(product((-1, 1), repeat=3))
    values, parts = [], []
    for sides in corners:
        gradient, matrices = _differences(u, sides)
        value, stress = density(gradient)  # type: ignore[operator]
        values.append(value)
        parts.append((stress, matrices))
    mean = np.mean(values, axis=0)
    value, slope = (mean, np.ones_like(mean)) if root is None else root(mean)  # type: ignore[operator]
    for stress, matrices in parts:
        _collect(out, factor / 8, stress * slope[:, None, None], matrices)
    return float(value.sum())


def _in_mm(gradient: Array, frame: ArrayLike) -> Array:
    matrix = np.asarray(frame, np.float64)
    return np.asarray(matrix @ gradient @ np.linalg.inv(matrix))


def _to_voxels(stress: Array, frame: ArrayLike) -> Array:
    matrix = np.asarray(frame, np.float64)
    return np.asarray(matrix.T @ stress @ np.linalg.inv(matrix).T)


def diffusion(
    u: ArrayLike, frame: ArrayLike, weight: ArrayLike | None = None, *, factor: float, out: Array
) -> float:
    """Return ``Σ w ‖∇u‖²`` and add `factor` times its derivative to `out`."""
    w = _weights(u, weight)

    def density(gradient: Array) -> tuple[Array, Array]:
        h = _in_mm(gradient, frame)
        return w * (h**2).sum(axis=(1, 2)), _to_voxels(2 * w[:, None, None] * h, frame)

    return _over_corners(u, out, factor, density)


def elastic(
    u: ArrayLike,
    frame: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    mu: float,
    lam: float,
    factor: float,
    out: Array,
) -> float:
    """Linear elastic energy."""
    w = _weights(u, weight)

    def density(gradient: Array) -> tuple[Array, Array]:
        h = _in_mm(gradient, frame)
        strain, div = h + np.swapaxes(h, 1, 2), np.trace(h, axis1=1, axis2=2)
        stress = mu * strain + lam * div[:, None, None] * np.eye(3)
        value = mu / 4 * (strain**2).sum(axis=(1, 2)) + lam / 2 * div**2
        return w * value, _to_voxels(w[:, None, None] * stress, frame)

    return _over_corners(u, out, factor, density)


def total_variation(
    u: ArrayLike,
    frame: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    epsilon: float,
    factor: float,
    out: Array,
) -> float:
    """Root of the squared gradient, averaged over the corners."""
    w = _weights(u, weight)

    def density(gradient: Array) -> tuple[Array, Array]:
        h = _in_mm(gradient, frame)
        return (h**2).sum(axis=(1, 2)), _to_voxels(2 * h, frame)

    def root(mean: Array) -> tuple[Array, Array]:
        length = np.sqrt(mean + epsilon**2)
        return w * (length - epsilon), w / (2 * length)

    return _over_corners(u, out, factor, density, root)


def determinant(
    u: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    logarithm: bool,
    threshold: float,
    factor: float,
    out: Array,
) -> tuple[float, int]:
    """Penalty on the determinant, by `numpy.linalg`."""
    w, folded = _weights(u, weight), 0

    def density(gradient: Array) -> tuple[Array, Array]:
        nonlocal folded
        jacobian = np.eye(3) + gradient
        det = np.linalg.det(jacobian)
        cofactors = np.stack(
            [np.cross(jacobian[..., (d + 1) % 3], jacobian[..., (d + 2) % 3]) for d in range(3)], -1
        )
        if logarithm:
            kept = np.maximum(det, threshold if threshold > 0 else 1e-30)
            beyond = det <= threshold
            value, slope = np.log(kept) ** 2, 2 * np.log(kept) / kept
            if threshold > 0:
                value = np.where(beyond, value + slope * (det - threshold), value)
            else:
                folded += int((beyond & (w > 0)).sum())
                value, slope = np.where(beyond, 0, value), np.where(beyond, 0, slope)
        else:
            value, slope = (det - 1) ** 2, 2 * (det - 1)
        return w * value, (w * slope)[:, None, None] * cofactors

    return _over_corners(u, out, factor, density), folded


def rigidity(
    u: ArrayLike,
    frame: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    orthonormality: float,
    properness: float,
    factor: float,
    out: Array,
) -> float:
    """Orthonormality and properness of the central Jacobian."""
    w = _weights(u, weight)
    gradient, matrices = _differences(u, (0, 0, 0))
    j = np.eye(3) + _in_mm(gradient, frame)
    misfit, det = np.swapaxes(j, 1, 2) @ j - np.eye(3), np.linalg.det(j)
    cofactors = np.stack([np.cross(j[..., (d + 1) % 3], j[..., (d + 2) % 3]) for d in range(3)], -1)
    stress = 4 * orthonormality * j @ misfit + 2 * properness * (det - 1)[:, None, None] * cofactors
    _collect(out, factor, _to_voxels(w[:, None, None] * stress, frame), matrices)
    value = orthonormality * (misfit**2).sum(axis=(1, 2)) + properness * (det - 1) ** 2
    return float((w * value).sum())
