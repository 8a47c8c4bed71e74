"""Guides: what is known of the alignment besides intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, Grid, Image, LabelImage, PlanError, PointSet, hash_array
from regista.evaluation import match_landmarks
from regista.registration._bases import planar
from regista.registration._guide_terms import (
    Codes,
    Guidance,
    GuideTerm,
    LabelTerm,
    Places,
    PointTerm,
    SquaredDistance,
    SurfaceDistance,
)
from regista.registration._inputs import canonical, embedded
from regista.registration._levels import Matrix
from regista.registration._surfaces import surface_of


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelGuide:
    """Labels of both images that are to overlap: ``weight · (1 − mean Dice)`` joins the cost.

    The moving labels are soft within a voxel of their borders, so that Dice has a derivative; it reaches that one voxel
    only, and the smoothing of updates, or the control points of a B-spline, carries it on. Coarse levels bring labels
    near that lie several voxels apart; there a voxel has the label of most of it.

    Parameters
    ----------
    fixed, moving : LabelImage
        Labels of the fixed and of the moving image, each in the space of its image, on any grid. 0 is background, and
        left out.
    weight : float
        Factor on the term, which is between 0 and 1.
    labels : tuple of int, optional
        Labels to use (default: all that both images have); each counts alike, whatever its size.

    Notes
    -----
    Dice, Measures of the amount of ecologic association between species, Ecology 1945; its soft form: Milletari et al.,
    V-Net, 3DV 2016.

    Examples
    --------
    >>> square = np.pad(np.ones((2, 2), np.uint8), 1)
    >>> labels = LabelImage(square, Grid(square.shape, np.eye(3)))
    >>> LabelGuide(fixed=labels, moving=labels, weight=0.5).settings()
    {'kind': 'labels', 'weight': 0.5, 'labels': [1]}
    """

    kind: ClassVar[str] = "labels"
    fixed: Image
    moving: Image
    weight: float = 0.5
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_weight(self.kind, self.weight)
        for role in ("fixed", "moving"):
            image = getattr(self, role)
            if not isinstance(image, Image):
                raise GeometryError(
                    f"the {role} labels must be a LabelImage (see regista.read_labels), got {type(image)}"
                )
            if not isinstance(image, LabelImage):  # its own checks
                object.__setattr__(self, role, LabelImage(image.data, image.grid, image.kind, image.space))
        _ = self._chosen

    @property
    def _chosen(self) -> list[int]:
        here, there = (set(np.unique(image.data).tolist()) - {0} for image in (self.fixed, self.moving))
        if self.labels is None:
            if not here & there:
                raise GeometryError(
                    f"the label images have no label in common: fixed {_some(here)}, moving {_some(there)}; the same "
                    "structure must have the same number in both"
                )
            return sorted(here & there)
        if not self.labels:
            raise PlanError("the list of labels to use is empty: name some, or leave it out to use all")
        for role, have in (("fixed", here), ("moving", there)):
            missing = set(self.labels) - have
            if missing:
                raise GeometryError(
                    f"the {role} labels lack {_some(missing)}, which was asked for; they have {_some(have)}"
                )
        return sorted(set(self.labels))

    def check(self, fixed: Image, moving: Image) -> None:
        """Refuse labels that do not go with the images."""
        for role, labels, image in (("fixed", self.fixed, fixed), ("moving", self.moving, moving)):
            _check_image(f"{role} labels", labels, image)

    def exchanged(self) -> LabelGuide:
        """Return the guide of the exchanged images."""
        return replace(self, fixed=self.moving, moving=self.fixed)

    def placed(self, fixed_by: Matrix, moving_by: Matrix) -> LabelGuide:
        """Return the guide with the data of each image taken elsewhere by a linear map ``(4, 4)``, world mm."""
        return replace(self, fixed=_placed(self.fixed, fixed_by), moving=_placed(self.moving, moving_by))

    def prepare(self) -> Guidance:
        """Return the guide as a term of any level's cost."""
        chosen = np.array(self._chosen)
        sides = tuple(_codes(image, chosen) for image in (self.fixed, self.moving))

        def term(fixed: Grid, moving: Grid) -> GuideTerm:
            return LabelTerm.on(sides, (fixed, moving), self.weight)

        return term

    def settings(self) -> dict[str, Any]:
        """Return the settings, for the record."""
        return {"kind": self.kind, "weight": self.weight, "labels": self._chosen}

    def inputs(self) -> dict[str, Any]:
        """Return what the data are, for the record."""
        return {"fixed": _described(self.fixed), "moving": _described(self.moving)}


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkGuide:
    """Landmarks of both images that are to meet: ``weight`` times their mean squared distance (mm²) joins the cost.

    Parameters
    ----------
    fixed, moving : PointSet
        The same places in both images, RAS+ mm, paired by name where both have names, else by order.
    weight : float
        Factor on the term, per mm².
    weights : (N,) array_like, optional
        Confidence of each fixed landmark, at least 0; 0 leaves it out.
    robust_mm : float, optional
        Distance from which on a landmark counts as wrong: c² at most is counted of a squared distance s,
        ``c² s / (c² + s)``. It must be well above what landmarks are apart at the start.

    Notes
    -----
    The bounded cost: Geman and McClure, Statistical methods for tomographic image reconstruction, Bull. ISI 1987.

    Examples
    --------
    >>> points = PointSet(np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 1.0]]))
    >>> LandmarkGuide(fixed=points, moving=points).settings()
    {'kind': 'points', 'weight': 0.01, 'landmarks': 2, 'robust_mm': None}
    """

    kind: ClassVar[str] = "points"
    fixed: PointSet
    moving: PointSet
    weight: float = 0.01
    weights: ArrayLike | None = None
    robust_mm: float | None = None

    def __post_init__(self) -> None:
        _check_weight(self.kind, self.weight)
        for role in ("fixed", "moving"):
            if not isinstance(getattr(self, role), PointSet):
                raise GeometryError(
                    f"the {role} landmarks must be a PointSet (see regista.read_points), got {type(getattr(self, role))}"
                )
        if self.robust_mm is not None:
            _check_length("robust_mm", self.robust_mm)
        _ = self._pairs

    @property
    def _pairs(self) -> tuple[Matrix, Matrix, NDArray[np.float64]]:
        """Corresponding points and their confidences, those of confidence 0 left out."""
        one, other = match_landmarks(self.fixed, self.moving)
        confidence = np.ones(len(self.fixed.points_mm))
        if self.weights is not None:
            confidence = np.asarray(self.weights, np.float64)
            if confidence.shape != (len(self.fixed.points_mm),):
                raise PlanError(
                    f"there is one weight for each of {len(self.fixed.points_mm)} fixed landmarks, got an array of shape "
                    f"{confidence.shape}"
                )
            if not np.isfinite(confidence).all() or confidence.min() < 0:
                raise PlanError("the weights of landmarks are finite and at least 0")
        used = confidence[one] > 0
        if not used.any():
            raise PlanError("all landmarks have weight 0: give some a weight above 0")
        return (
            self.fixed.points_mm[one][used],
            self.moving.points_mm[other][used],
            confidence[one][used],
        )

    def check(self, fixed: Image, moving: Image) -> None:
        """Refuse landmarks that do not go with the images."""
        here, there, _ = self._pairs
        for role, points, image in (("fixed", here, fixed), ("moving", there, moving)):
            if points.shape[1] != image.ndim:
                raise GeometryError(
                    f"the {role} landmarks are {points.shape[1]}-D, the image is {image.ndim}-D: give points with "
                    f"{image.ndim} coordinates"
                )
            outside = ~image.grid.contains(points)
            if outside.any():
                place = ", ".join(f"{x:.4g}" for x in points[outside][0])
                raise GeometryError(
                    f"{outside.sum()} of {len(points)} {role} landmarks lie outside the {role} image, the first at "
                    f"({place}) mm RAS: do they belong to it, is their convention (LPS or RAS) right? Give those "
                    "that are beyond it a weight of 0: --points-weights-column (in Python weights=)"
                )

    def exchanged(self) -> LandmarkGuide:
        """Return the guide of the exchanged images."""
        here, there, weights = self._pairs
        return replace(self, fixed=PointSet(there), moving=PointSet(here), weights=weights)

    def placed(self, fixed_by: Matrix, moving_by: Matrix) -> LandmarkGuide:
        """Return the guide with the data of each image taken elsewhere by a linear map ``(4, 4)``, world mm."""
        here, there, weights = self._pairs
        one, other = (PointSet(_mapped(points, by)) for points, by in ((here, fixed_by), (there, moving_by)))
        return replace(self, fixed=one, moving=other, weights=weights)

    def prepare(self) -> Guidance:
        """Return the guide as a term of any level's cost."""
        here, there, weights = self._pairs
        here, there = _spatial(here), _spatial(there)
        fixed, moving = (
            Places(points, SquaredDistance(points, weights, self.robust_mm)) for points in (here, there)
        )

        def term(fixed_grid: Grid, moving_grid: Grid) -> GuideTerm:
            return PointTerm(fixed, moving, fixed_grid, self.weight)

        return term

    def settings(self) -> dict[str, Any]:
        """Return the settings, for the record."""
        return {
            "kind": self.kind,
            "weight": self.weight,
            "landmarks": len(self._pairs[0]),
            "robust_mm": self.robust_mm,
        }

    def inputs(self) -> dict[str, Any]:
        """Return what the data are, for the record."""
        trees = {
            role: {
                "space": points.space,
                "points": len(points.points_mm),
                "sha256": hash_array(points.points_mm),
            }
            for role, points in (("fixed", self.fixed), ("moving", self.moving))
        }
        if self.weights is not None:
            trees["fixed"]["weights_sha256"] = hash_array(np.asarray(self.weights, np.float64))
        return trees


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceGuide:
    """Masks of both images whose surfaces are to meet: the mean squared distance (mm²) joins the cost.

    It is measured from places on the surface of the fixed mask, as the map moves them, to the surface of the moving one.
    Both lie between voxels, where the smoothed masks say, so that masks on different grids meet at the
    truth. 'syn' measures both ways. One way alone, nothing keeps a surface from shrinking onto a part of the other:
    models that do not smooth ('bspline') need a penalty beside it. Where a mask ends at the edge of the image, the organ
    goes on, and there is no surface.

    Parameters
    ----------
    fixed, moving : Image
        Masks, above 0 inside, each in the space of its image, on any grid.
    weight : float
        Factor on the term, per mm².
    clip_mm : float
        What is further from the moving surface counts as so far, and is not pulled.

    Examples
    --------
    >>> square = np.pad(np.ones((3, 3), np.uint8), 2)
    >>> mask = Image(square, Grid(square.shape, np.eye(3)))
    >>> SurfaceGuide(fixed=mask, moving=mask).settings()
    {'kind': 'surface', 'weight': 0.1, 'clip_mm': 20.0}
    """

    kind: ClassVar[str] = "surface"
    fixed: Image
    moving: Image
    weight: float = 0.1
    clip_mm: float = 20.0

    def __post_init__(self) -> None:
        _check_weight(self.kind, self.weight)
        _check_length("clip_mm", self.clip_mm)
        for role in ("fixed", "moving"):
            image = getattr(self, role)
            if not isinstance(image, Image) or image.kind != "scalar":
                raise GeometryError(
                    f"the {role} surface mask must be an Image of one value per voxel, got {type(image)}"
                )
            inside = np.asarray(image.data) > 0
            if not inside.any():
                raise GeometryError(f"the {role} surface mask is empty: no voxel is above 0")
            if inside.all():
                raise GeometryError(f"the {role} surface mask fills its image: it has no surface")

    def check(self, fixed: Image, moving: Image) -> None:
        """Refuse masks that do not go with the images."""
        for role, mask, image in (("fixed", self.fixed, fixed), ("moving", self.moving, moving)):
            _check_image(f"{role} surface mask", mask, image)

    def exchanged(self) -> SurfaceGuide:
        """Return the guide of the exchanged images."""
        return replace(self, fixed=self.moving, moving=self.fixed)

    def placed(self, fixed_by: Matrix, moving_by: Matrix) -> SurfaceGuide:
        """Return the guide with the data of each image taken elsewhere by a linear map ``(4, 4)``, world mm."""
        return replace(self, fixed=_placed(self.fixed, fixed_by), moving=_placed(self.moving, moving_by))

    def prepare(self) -> Guidance:
        """Return the guide as a term of any level's cost."""
        fixed, moving = (_surface(mask, self.clip_mm) for mask in (self.fixed, self.moving))

        def term(fixed_grid: Grid, moving_grid: Grid) -> GuideTerm:
            return PointTerm(fixed, moving, fixed_grid, self.weight)

        return term

    def settings(self) -> dict[str, Any]:
        """Return the settings, for the record."""
        return {"kind": self.kind, "weight": self.weight, "clip_mm": self.clip_mm}

    def inputs(self) -> dict[str, Any]:
        """Return what the data are, for the record."""
        return {"fixed": _described(self.fixed), "moving": _described(self.moving)}


Guide = LabelGuide | LandmarkGuide | SurfaceGuide


def check_guides(guides: Sequence[Guide], fixed: Image, moving: Image) -> None:
    """Refuse what is no guide, or does not go with the images."""
    for guide in guides:
        if not isinstance(guide, Guide):
            raise PlanError(
                f"guides are LabelGuide, LandmarkGuide or SurfaceGuide, got {type(guide).__name__}"
            )
        guide.check(fixed, moving)


def recorded_inputs(guides: Sequence[Guide]) -> dict[str, Any]:
    """Return the data of all guides for the record: ``fixed_labels``, …; of a second of a kind ``fixed_labels_2``."""
    found: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for guide in guides:
        counts[guide.kind] = number = counts.get(guide.kind, 0) + 1
        for role, tree in guide.inputs().items():
            found[f"{role}_{guide.kind}" + (f"_{number}" if number > 1 else "")] = tree
    return found


def _some(labels: set[int]) -> str:
    shown = sorted(labels)
    return (", ".join(map(str, shown[:6])) + (" …" if len(shown) > 6 else "")) or "none"


def _check_weight(kind: str, weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float | np.number) or not 0 < weight < np.inf:
        raise PlanError(
            f"the weight of a guide by {kind} (--{kind}-weight) is a number above 0, got {weight!r}"
        )


def _check_length(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise PlanError(f"{name} is a length above 0 mm, got {value!r}")


def _check_image(name: str, given: Image, image: Image) -> None:
    if given.ndim != image.ndim:
        raise GeometryError(
            f"the {name} are {given.ndim}-D, their image is {image.ndim}-D; they must be alike"
        )
    places = np.stack(np.meshgrid(*[np.linspace(-0.5, n - 0.5, 9) for n in given.grid.shape]), -1)
    if not image.grid.contains(given.grid.index2world(places)).any():
        raise GeometryError(
            f"the {name} ({given.grid.describe()}) do not overlap their image ({image.grid.describe()}): do they belong "
            "to it?"
        )


def _described(image: Image) -> Mapping[str, Any]:
    return {"space": image.space, "grid": image.grid.describe(), "sha256": hash_array(image.data)}


def _codes(image: Image, labels: NDArray[Any]) -> tuple[Codes, Grid]:
    """Return labels as codes 1 … n, all others 0, on a 3-D grid whose axes are near R, A, S."""
    turned, _ = canonical(image, None)
    at = np.minimum(np.searchsorted(labels, turned.data), len(labels) - 1)
    codes = np.where(labels[at] == turned.data, at + 1, 0).astype(np.int32)
    grid = embedded(turned.grid)
    return np.ascontiguousarray(codes.reshape(grid.shape)), grid


def _placed(image: Image, by: Matrix) -> Image:
    """Return an image taken elsewhere by a linear map: its header says so, its voxels stay."""
    grid = Grid(image.grid.shape, planar(by, image.ndim) @ image.grid.grid2world)
    return image.with_data(image.data, grid=grid)


def _mapped(points_mm: Matrix, by: Matrix) -> Matrix:
    matrix = planar(by, points_mm.shape[1])
    return np.asarray(points_mm @ matrix[:-1, :-1].T + matrix[:-1, -1])


def _spatial(points_mm: Matrix) -> Matrix:
    """Return points in 3-D, those of a plane at z = 0."""
    return np.ascontiguousarray(np.pad(points_mm, ((0, 0), (0, 3 - points_mm.shape[1]))))


def _surface(mask: Image, clip_mm: float) -> Places:
    """Return places on the surface of a mask, and the cost of being away from it."""
    turned, _ = canonical(mask, None)
    distance, places = surface_of(np.asarray(turned.data) > 0, turned.grid.spacing)
    grid = embedded(turned.grid)
    points = _spatial(turned.grid.index2world(places))
    return Places(points, SurfaceDistance(distance.reshape(grid.shape), grid, clip_mm))
