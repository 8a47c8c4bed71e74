"""Where a template lies in a larger scan: masked normalized cross-correlation over all positions at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial.transform import Rotation

from regista.atlas._template import coarsened
from regista.core import GeometryError, Grid, Image, get_threads
from regista.transforms import Affine, resample

_SCALES = (0.82, 0.95)
_TILTS_DEG = {"x": (-30.0, -15.0, 15.0, 30.0), "y": (-20.0, 20.0), "z": (-40.0, -20.0, 20.0, 40.0)}
_HEADER_BONUS = 0.03
"""A turn by 90° or more, which says that the header is wrong, must score this much better."""
_MIN_INSIDE = 0.6
"""Share of the template's weight that must lie inside the scan."""


@dataclass(frozen=True)
class Placement:
    """A place for the template.

    Parameters
    ----------
    transform : Affine
        Point map template → scan.
    score : float
        Correlation within the template's weight, -1 … 1.
    turned : bool
        Whether the scan's header would have to be wrong by a quarter turn or more.
    """

    transform: Affine
    score: float
    turned: bool = False


def find_placements(
    template: Image, weight: Image, scan: Image, lattice_mm: float, count: int = 3
) -> list[Placement]:
    """Return the best places for a template in a scan, best first.

    Every position on a lattice is scored at once by the Fourier transform, for each of a set of
    rotations and sizes: tilts of up to 40 degrees about the header's axes, and turns by 90 degrees for
    headers that lie.

    Parameters
    ----------
    template, weight : Image
        What is looked for, and the weight of each of its voxels (0: not compared).
    scan : Image
        Where it is looked for; voxels outside it are not compared.
    lattice_mm : float
        Spacing of the lattice of positions.
    count : int
        How many places to return, of different rotations or sizes.

    Raises
    ------
    GeometryError
        If the scan is constant, or no place holds enough of the template.

    Notes
    -----
    D. Padfield, "Masked object registration in the Fourier domain", IEEE Transactions on Image Processing
    21(5), 2012.
    """
    template, weight = (coarsened(image, lattice_mm) for image in (template, weight))
    field = _Lattice.of(scan, template, lattice_mm)
    center = _center_of_mass(weight)
    found: list[tuple[float, int, Placement]] = []
    for number, (rotation, scale, bonus) in enumerate(_candidates()):
        turn = scan.grid.direction @ rotation @ scan.grid.direction.T
        to_template = np.eye(4)
        to_template[:3, :3] = turn.T / scale
        to_template[:3, 3] = center
        pattern, inside = (
            resample(image, field.pattern_grid, Affine(to_template)).as_float32()
            for image in (template, weight)
        )
        score, position = field.best(pattern, inside)
        matrix = np.eye(4)
        matrix[:3, :3] = scale * turn
        matrix[:3, 3] = position - matrix[:3, :3] @ center
        place = Placement(Affine(matrix, template.space, scan.space), score, turned=not bonus)
        found.append((score + bonus, -number, place))
    found = [entry for entry in found if np.isfinite(entry[0])]
    if not found:
        raise GeometryError(
            f"no place in the scan ({scan.grid.describe()}) holds {100 * _MIN_INSIDE:.0f} % of the template; is "
            "the scan's voxel size right?"
        )
    places = [place for _, _, place in sorted(found, key=lambda entry: entry[:2], reverse=True)]
    upright = [place for place in places if not place.turned]
    # most headers are right: the best place as they say is always among those returned
    if upright and upright[0] not in places[:count]:
        places[count - 1] = upright[0]
    return places[:count]


def _candidates() -> list[tuple[NDArray[np.float64], float, float]]:
    """Return rotations about the scan's axes, sizes and bonuses; the header's own orientation first."""
    small = [np.eye(3)] + [
        Rotation.from_euler(axis, angle, degrees=True).as_matrix()
        for axis, angles in _TILTS_DEG.items()
        for angle in angles
    ]
    cube = [
        np.diag(signs) @ np.eye(3)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    turns = [m for m in cube if np.linalg.det(m) > 0 and np.trace(m) < 3]
    return [(m, s, _HEADER_BONUS) for m in small for s in _SCALES] + [(m, 1.0, 0.0) for m in turns]


def _center_of_mass(weight: Image) -> NDArray[np.float64]:
    mass = weight.as_float32()
    total = float(mass.sum(dtype=np.float64))
    index = [
        float(mass.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64) @ np.arange(n)) / total
        for axis, n in enumerate(mass.shape)
    ]
    return weight.grid.index2world(index)


@dataclass(frozen=True)
class _Lattice:
    """The scan on a coarse lattice along its own axes, ready for correlation."""

    grid: Grid
    pattern_grid: Grid
    padded: tuple[int, ...]
    spectra: tuple[NDArray[np.complex64], ...]  # of valid, valid * scan and valid * scan²

    @classmethod
    def of(cls, scan: Image, template: Image, lattice_mm: float) -> _Lattice:
        coarse = coarsened(scan, lattice_mm)
        valid = resample(
            Image(np.ones(scan.grid.shape, np.float32), scan.grid), coarse.grid, interpolation="nearest"
        ).as_float32()
        data = coarse.as_float32()
        spread = float(data.std())
        if not spread > 0:
            raise GeometryError("the scan is constant: there is nothing to find in it")
        data = (data - data.mean()) / spread
        reach = np.linalg.norm(np.array(template.grid.shape) * template.grid.spacing) * max(_SCALES) / 2
        half = int(np.ceil(reach / lattice_mm))
        size = 2 * half + 1
        matrix = np.eye(4)
        matrix[:3, :3] = scan.grid.direction * lattice_mm
        matrix[:3, 3] = matrix[:3, :3] @ np.full(3, -half)
        padded = tuple(fft.next_fast_len(n + size - 1, real=True) for n in data.shape)
        spectra = tuple(
            fft.rfftn(volume.astype(np.float32), padded, workers=get_threads())
            for volume in (valid, valid * data, valid * data**2)
        )
        return cls(coarse.grid, Grid((size,) * 3, matrix), padded, spectra)

    def best(
        self, pattern: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the largest correlation and the world position of the pattern's centre there."""
        f0, f1, f2 = self.spectra
        g0, g1, g2 = (
            np.conj(fft.rfftn(volume, self.padded, workers=get_threads()))
            for volume in (weight, weight * pattern, weight * pattern**2)
        )

        def correlate(scan: NDArray[np.complex64], part: NDArray[np.complex64]) -> NDArray[np.float32]:
            out: NDArray[np.float32] = fft.irfftn(scan * part, self.padded, workers=get_threads())
            return out

        inside = correlate(f0, g0)
        enough = inside > _MIN_INSIDE * float(weight.sum())
        inside = np.maximum(inside, 1e-3)
        scan_mean, pattern_mean = correlate(f1, g0) / inside, correlate(f0, g1) / inside
        product = correlate(f1, g1) / inside - scan_mean * pattern_mean
        scan_spread = correlate(f2, g0) / inside - scan_mean**2
        pattern_spread = correlate(f0, g2) / inside - pattern_mean**2
        enough &= scan_spread > 1e-2  # air has no contrast to correlate with
        score = product / np.sqrt(np.maximum(scan_spread, 1e-2) * np.maximum(pattern_spread, 1e-6))
        score[~enough] = -np.inf
        at = np.array(np.unravel_index(int(np.argmax(score)), score.shape))
        half = (np.array(self.pattern_grid.shape) - 1) / 2
        start = np.where(at > np.array(self.grid.shape), at - np.array(self.padded), at)
        return float(score.max()), self.grid.index2world(start + half)
