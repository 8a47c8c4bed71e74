"""One run as the viewer shows it: its volumes, its map at a place, its grid and its landmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid, Image, LabelImage, PointSet
from regista.evaluation import match_landmarks
from regista.reporting._colours import is_colour
from regista.reporting._deformation import linear_part
from regista.reporting._folder import RunFolder
from regista.reporting._scene import Content
from regista.reporting._slices import has_letters, length_unit
from regista.reporting._viewer_volumes import (
    bytes_in_window,
    checkerboard,
    coded,
    nifti_bytes,
    palette,
    shown,
    shrink_factors,
    shrunk,
    window_of,
)
from regista.transforms import Affine, resample, resample_labels, to_displacement_field

VOLUMES = ("fixed", "moving", "warped", "before", "displacement", "labels-fixed", "labels-moved")
_LINES, _PLACES, _COARSE = 18, 72, 64


class ViewerRun:
    """What the page may ask of a run.

    Parameters
    ----------
    run : RunFolder
        The pair and its registration.
    labels : pair of LabelImage, optional
        Of the fixed and of the moving image.
    landmarks : pair of PointSet, optional
        Likewise; they correspond by name where they have names, else by order.

    Raises
    ------
    GeometryError
        If labels or landmarks have other dimensions than the images, or the landmarks are not pairs.
    """

    def __init__(
        self,
        run: RunFolder,
        labels: tuple[LabelImage, LabelImage] | None = None,
        landmarks: tuple[PointSet, PointSet] | None = None,
    ) -> None:
        self.fixed, self.moving = shown(run.fixed), shown(run.moving)
        self.warped = shown(_in_colour(run.result.warped) if is_colour(self.moving) else run.result.warped)
        self.transform, self.inverse = run.result.transform, run.result.inverse
        self.labels, self.landmarks = labels, landmarks
        self.record = run.result.record
        self.channels = len(run.fixed.data) if run.fixed.kind != "scalar" else 1
        for given, what in ((labels, "labels"), (landmarks, "landmarks")):
            if given is not None and {g.ndim for g in given} != {self.fixed.ndim}:
                raise GeometryError(
                    f"the images of {run.path} are {self.fixed.ndim}-D, the {what} are "
                    f"{' and '.join(f'{g.ndim}-D' for g in given)}: give {what} of the same images"
                )
        if landmarks is not None:
            self.landmarks = _matched(*landmarks)

    @cached_property
    def windows(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Intensities shown as black and white, of the fixed and of the moving image."""
        return window_of(self.fixed), window_of(self.moving)

    def details(self) -> dict[str, Any]:
        """Return what the page must know before it shows anything."""
        verdict = self.record.measures.get("verdict") or {}
        unit = length_unit(self.fixed, self.moving)
        return {
            "ndim": self.fixed.ndim,
            "fixed": self.fixed.space or "fixed",
            "moving": self.moving.space or "moving",
            "colour": is_colour(self.fixed) and is_colour(self.warped),
            "letters": {"fixed": has_letters(self.fixed), "moving": has_letters(self.moving)},
            "unit": unit,
            "world": f"{'RAS+' if has_letters(self.fixed) else 'world'} {unit}",
            "fixed_grid": self.fixed.grid.describe(),
            "moving_grid": self.moving.grid.describe(),
            "centre_mm": _three(self.fixed.grid.center_mm),
            "spacing_mm": float(self.fixed.grid.spacing.max()),
            "line_mm": float(_line_spacing(self.fixed.grid).max()),
            "block_mm": _nice_block(_object_mm(self.fixed)),
            "labels": self.labels is not None,
            "landmarks": 0 if self.landmarks is None else len(self.landmarks[0].points_mm),
            "palette": palette() if self.labels is not None else [],
            "largest_mm": self.largest_mm,
            "status": str(self.record.status),
            "outcome": verdict.get("outcome", ""),
            "reasons": [str(reason) for reason in verdict.get("reasons", ())],
            "notes": self._notes(),
        }

    def _notes(self) -> list[str]:
        notes = [str(warning) for warning in self.record.warnings]
        for role, image in (("fixed", self.fixed), ("moving", self.moving)):
            factors = shrink_factors(image.grid)
            if max(factors) > 1:
                small = "×".join(str(n // f) for n, f in zip(image.grid.shape, factors, strict=True))
                notes.append(
                    f"The {role} image is shown down-sampled to {small} voxels; the read-outs are exact."
                )
        if self.channels > 1 and not is_colour(self.fixed):
            notes.append(f"The first of {self.channels} channels or frames is shown.")
        return notes

    def volume(self, name: str) -> bytes:
        """Return a volume as NIfTI.

        Parameters
        ----------
        name : str
            One of `VOLUMES`, or ``checker-N`` with the side of its blocks in mm.

        Raises
        ------
        KeyError
            If there is no such volume.
        """
        fixed_window, moving_window = self.windows
        if name == "fixed":
            return nifti_bytes(shrunk(self.fixed), fixed_window)
        if name == "moving":
            return nifti_bytes(shrunk(self.moving), moving_window)
        if name == "warped":
            return nifti_bytes(shrunk(self.warped), moving_window)
        if name == "before":
            image = Image(self.moving.data, self.moving.grid, self.moving.kind)
            return nifti_bytes(shrunk(resample(image, self.fixed.grid)), moving_window)
        if name == "displacement":
            return nifti_bytes(shrunk(self._displacement), (0.0, self.largest_mm or 1.0))
        if name.startswith("checker-"):
            return self._checker(float(name.removeprefix("checker-")))
        if self.labels is not None and name in ("labels-fixed", "labels-moved"):
            return nifti_bytes(shrunk(coded(self._on_fixed(name), self._label_values)), (0.0, 255.0))
        raise KeyError(name)

    def _checker(self, block_mm: float) -> bytes:
        fixed, warped = shrunk(self.fixed), shrunk(self.warped)
        if is_colour(fixed) != is_colour(warped):  # the coloured one as it looks in gray
            fixed, warped = _gray(fixed, self.windows[0]), _gray(warped, self.windows[1])
            return nifti_bytes(checkerboard(fixed, warped, ((0, 255), (0, 255)), block_mm), (0.0, 255.0))
        return nifti_bytes(checkerboard(fixed, warped, self.windows, block_mm), (0.0, 255.0))

    @cached_property
    def _displacement(self) -> Image:
        grid = self.fixed.grid.shrink(shrink_factors(self.fixed.grid))
        field = to_displacement_field(self.transform, grid)
        return Image(np.linalg.norm(field.vectors_mm, axis=0).astype(np.float32), grid)

    @cached_property
    def largest_mm(self) -> float:
        """Largest displacement on the fixed grid, the outermost half per cent left out, mm."""
        return float(np.percentile(self._displacement.as_float32(), 99.5))

    @cached_property
    def _label_values(self) -> NDArray[Any]:
        """Values of both images' labels, and the background's, which resampling brings in."""
        assert self.labels is not None
        return np.unique(np.concatenate([[0], *(np.unique(each.data) for each in self.labels)]))

    def _on_fixed(self, name: str) -> LabelImage:
        assert self.labels is not None
        fixed, moving = (LabelImage(each.data, each.grid) for each in self.labels)
        if name == "labels-fixed":  # the page paints what lies on the grid of the image alone
            same = fixed.grid.same_as(self.fixed.grid)
            return fixed if same else resample_labels(fixed, self.fixed.grid)
        return resample_labels(moving, self.fixed.grid, self.transform)

    def at(self, point_mm: Sequence[float], space: str = "fixed") -> dict[str, Any]:
        """Evaluate the map itself, not a copy of it on a lattice, at one place.

        Parameters
        ----------
        point_mm : sequence of float
            World position, RAS+ mm; of a 2-D pair the third number does not count.
        space : {'fixed', 'moving'}
            Where the position lies; one of the moving image is brought to the fixed by the inverse.

        Returns
        -------
        dict
            Both positions, the displacement and its length in mm, the Jacobian determinant, the error of the
            inverse, intensities and labels; None for what is not there.
        """
        given = np.asarray(point_mm, np.float64)[None, : self.fixed.ndim]
        here = self.inverse.map_points(given) if space == "moving" else given
        there = given if space == "moving" else self.transform.map_points(here)
        shift = self.transform.map_points(here)[0] - here[0]
        back = self.inverse.map_points(self.transform.map_points(here))[0] - here[0]
        found = {
            "fixed_mm": _three(here[0]),
            "moving_mm": _three(there[0]),
            "fixed_vox": self.fixed.grid.world2index(here[0]).tolist(),
            "inside": bool(self.fixed.grid.contains(here[0])),
            "displacement_mm": shift.tolist(),
            "length_mm": float(np.linalg.norm(shift)),
            "jacobian": self._jacobian(here[0]),
            "inverse_error_mm": float(np.linalg.norm(back)),
            "fixed_value": _value(self.fixed, here[0]),
            "moving_value": _value(self.moving, there[0]),
        }
        if self.labels is not None:
            found["fixed_label"] = _label(self.labels[0], here[0])
            found["moving_label"] = _label(self.labels[1], there[0])
        return {name: _finite(value) for name, value in found.items()}

    def _jacobian(self, here: NDArray[np.float64]) -> float:
        """Return the determinant by differences of half a voxel to both sides."""
        steps = 0.5 * self.fixed.grid.grid2world[:-1, :-1].T
        ahead, behind = self.transform.map_points(here + steps), self.transform.map_points(here - steps)
        return float(np.linalg.det(ahead - behind) / np.linalg.det(2 * steps))

    def grid_lines(self) -> bytes:
        """Return the deformation grid as lines, in MRtrix's ``.tck`` format, world mm.

        A straight lattice over the fixed image, carried by the linear part of the map into the moving space and by
        the inverse of the whole map back: bent where the map is not linear, as it would look were it drawn on the
        moving image.
        """
        grid = self.fixed.grid
        linear = linear_part(self.transform, grid)
        whole = Affine(linear.matrix) if self._bends(linear) else None
        lines = [line for axis in range(grid.ndim) for line in _lattice(grid, axis)]
        points = np.concatenate([grid.index2world(line) for line in lines])
        ahead = whole.map_points(points) if whole is not None else points
        bent = self.inverse.map_points(ahead)
        return _tck(np.split(_padded(bent), np.cumsum([len(line) for line in lines])[:-1]))

    def _bends(self, linear: Affine) -> bool:
        index = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 9) for n in self.fixed.grid.shape]), -1)
        here = self.fixed.grid.index2world(index.reshape(-1, self.fixed.ndim))
        away = np.linalg.norm(self.transform.map_points(here) - linear.map_points(here), axis=1)
        return float(away.max()) > 1e-3 * float(self.fixed.grid.spacing.max())

    def landmark_pairs(self) -> list[dict[str, Any]]:
        """Return each pair: the fixed landmark, where the moving one comes to lie, and their distance in mm.

        The distance is the target registration error as `regista evaluate` has it: between the fixed landmark carried
        to the moving image and the moving one.
        """
        if self.landmarks is None:
            return []
        fixed, moving = (points.points_mm for points in self.landmarks)
        brought = self.inverse.map_points(moving)
        error = np.linalg.norm(self.transform.map_points(fixed) - moving, axis=1)
        names = self.landmarks[0].names or tuple(str(n + 1) for n in range(len(fixed)))
        return [
            {"name": str(name), "fixed_mm": _three(one), "moved_mm": _three(other), "error_mm": float(e)}
            for name, one, other, e in zip(names, fixed, brought, error, strict=True)
        ]


def _matched(fixed: PointSet, moving: PointSet) -> tuple[PointSet, PointSet]:
    """Return the landmarks that correspond, as the page and ``regista evaluate`` pair them."""
    here, there = match_landmarks(fixed, moving)
    names = None if fixed.names is None else tuple(fixed.names[n] for n in here)
    return (
        PointSet(fixed.points_mm[here], names, space=fixed.space),
        PointSet(moving.points_mm[there], names, space=moving.space),
    )


def _gray(image: Image, window: tuple[float, float]) -> Image:
    if is_colour(image):
        return Image(image.data.mean(axis=0).astype(np.uint8), image.grid, "scalar", image.space)
    return image.with_data(bytes_in_window(image, window))


def _in_colour(warped: Image) -> Image:
    """Return a picture that was warped as real numbers in the bytes of the picture it was."""
    if warped.kind != "channels" or is_colour(warped):
        return warped
    return warped.with_data(np.rint(np.clip(np.nan_to_num(warped.data), 0, 255)).astype(np.uint8))


def _three(point: NDArray[np.float64]) -> list[float]:
    return [*map(float, point), *([0.0] * (3 - len(point)))]


def _padded(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(points, ((0, 0), (0, 3 - points.shape[1])))


def _at(image: Image, point: NDArray[np.float64]) -> Grid | None:
    """Return a lattice of one voxel at a place, or None outside the image."""
    if not image.grid.contains(point):
        return None
    matrix = image.grid.grid2world.copy()
    matrix[:-1, -1] = point
    return Grid((1,) * image.ndim, matrix)


def _value(image: Image, point: NDArray[np.float64]) -> Any:
    place = _at(image, point)
    if place is None:
        return None
    kind = image.data.dtype if image.data.dtype.kind == "f" else np.dtype(np.float32)
    values = resample(Image(image.data, image.grid, image.kind), place, dtype=kind).data.reshape(-1)
    return float(values[0]) if image.kind == "scalar" else values.astype(float).tolist()


def _label(labels: LabelImage, point: NDArray[np.float64]) -> dict[str, Any] | None:
    place = _at(labels, point)
    if place is None:
        return None
    found = int(resample_labels(LabelImage(labels.data, labels.grid), place).data.reshape(-1)[0])
    return {"value": str(found), "name": str(labels.names.get(found, ""))}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_finite(each) for each in value] if isinstance(value, list) else value


def _line_spacing(grid: Grid) -> NDArray[np.float64]:
    """Return the distance between lines along each axis, mm: the same in all directions as far as voxels allow."""
    extent = grid.spacing * (np.array(grid.shape) - 1)
    step = max(float(extent.max()) / _LINES, 1e-9)
    return np.asarray([e / max(1, round(e / step)) if e > 0 else step for e in extent])


def _lattice(grid: Grid, axis: int) -> list[NDArray[np.float64]]:
    """Return the lines of a straight lattice that run along an axis, voxel coordinates."""
    if grid.shape[axis] == 1:
        return []
    steps = _line_spacing(grid) / grid.spacing
    across = [
        np.arange(0, n - 1 + 0.5 * steps[a], steps[a]) if n > 1 else np.zeros(1)
        for a, n in enumerate(grid.shape)
        if a != axis
    ]
    along = np.linspace(0, grid.shape[axis] - 1, min(_PLACES, 2 * grid.shape[axis]))
    lines = []
    for rest in np.stack(np.meshgrid(*across, indexing="ij"), -1).reshape(-1, grid.ndim - 1):
        line = np.repeat(np.insert(rest, axis, 0.0)[None], len(along), axis=0)
        line[:, axis] = along
        lines.append(line)
    return lines


def _object_mm(image: Image) -> float:
    """Return the longest side of what an image shows, mm: of a small object on a large lattice less than the lattice's."""
    lead = (slice(None),) * (image.kind != "scalar")
    steps = [max(1, n // _COARSE) for n in image.grid.shape]
    small = image.data[(*lead, *(slice(s // 2, None, s) for s in steps))].astype(np.float32)
    small = np.nan_to_num(small.mean(axis=0) if lead else small, posinf=0.0, neginf=0.0)
    places = np.argwhere(Content(small).of(small))
    if not len(places):
        return float((image.grid.spacing * image.grid.shape).max())
    low, high = np.percentile(places, [1, 99], axis=0)
    return float(((high - low + 1) * steps * image.grid.spacing).max())


def _nice_block(extent_mm: float) -> float:
    """Return the side of a checkerboard's blocks: about a tenth of an extent, a round number of mm."""
    tenth = extent_mm / 10
    scale = 10.0 ** math.floor(math.log10(tenth))
    return float(max((step * scale for step in (1, 2, 5, 10) if step * scale <= tenth), default=scale))


def _tck(lines: list[NDArray[np.float64]]) -> bytes:
    """Return lines as MRtrix tracks: triplets, NaN after each line, infinity at the end.

    One NaN more stands at the beginning: NiiVue takes the first for the start of a line.
    """
    gap = np.full((1, 3), np.nan)
    parts = [part for line in lines for part in (line, gap)]
    data: bytes = np.concatenate([gap, *parts, np.full((1, 3), np.inf)]).astype("<f4").tobytes()
    text = f"mrtrix tracks\ndatatype: Float32LE\ncount: {len(lines)}\nfile: . "
    start = len(text) + len("000000\nEND\n")
    return f"{text}{start:06d}\nEND\n".encode() + data
