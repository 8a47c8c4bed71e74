"""`fit_landmarks`: a transform from corresponding points alone, with an honest estimate of its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, PlanError, PointSet
from regista.evaluation import match_landmarks
from regista.transforms import Affine, Rigid, Similarity, SplineFit, Transform, Translation

Matrix = NDArray[np.float64]
Points = PointSet | ArrayLike
LandmarkModel = Literal["translation", "rigid", "similarity", "affine", "tps"]
LANDMARK_MODELS: tuple[str, ...] = get_args(LandmarkModel)

_FLAT = 1e-4  # of the largest extent: a thinner one counts as none
_TUKEY = 4.685  # standard deviations: 95 % efficient where errors are Gaussian
_MEDIAN_LENGTH = {2: 1.1774, 3: 1.5382}  # of a Gaussian vector, in standard deviations along one axis
_LEAST_ABSOLUTE_STEPS, _TUKEY_STEPS = 30, 50
_UNCHANGED = 1e-4  # of a weight


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkFit:
    """A transform fitted to landmarks, and how well it meets them.

    Parameters
    ----------
    transform : Transform
        Point map fixed → moving.
    model : str
        What was fitted.
    residuals_mm : (N,) float64 ndarray
        Distance of each moving landmark from its mapped fixed one. The fit has seen the landmarks: residuals are
        smaller than its error elsewhere, and 0 for a spline without smoothing.
    left_out_mm : (N,) float64 ndarray
        The same, each measured by a fit to the other landmarks: an honest estimate of the error at a place like
        theirs. NaN where the others do not determine a fit.
    weights : (N,) float64 ndarray
        Confidence of each landmark in the fit; 0 had no say.
    outliers : (N,) bool ndarray
        Landmarks that a robust fit set aside.
    fixed_numbers : (N,) int64 ndarray
        Number of each landmark among the fixed points given, counted from 0.
    names : tuple of str, optional
        Name of each landmark.
    """

    transform: Transform
    model: str
    residuals_mm: Matrix
    left_out_mm: Matrix
    weights: Matrix
    outliers: NDArray[np.bool_]
    fixed_numbers: NDArray[np.int64]
    names: tuple[str, ...] | None = None

    def summary(self) -> dict[str, Any]:
        """Return counts, and mean, median and largest distances in mm of the landmarks that are no outliers."""
        found: dict[str, Any] = {
            "model": self.model,
            "landmarks": len(self.residuals_mm),
            "outliers": int(self.outliers.sum()),
        }
        for name, values in (("residual", self.residuals_mm), ("left_out", self.left_out_mm)):
            known = values[~self.outliers & np.isfinite(values)]
            for word, measure in (("mean", np.mean), ("median", np.median), ("max", np.max)):
                found[f"{name}_{word}_mm"] = float(measure(known)) if known.size else float("nan")
        return found


def fit_landmarks(
    fixed_points: Points,
    moving_points: Points,
    model: LandmarkModel = "rigid",
    *,
    weights: ArrayLike | None = None,
    smoothing: float = 0.0,
    robust: bool = False,
) -> LandmarkFit:
    """Fit a transform to corresponding landmarks; no image is needed.

    Parameters
    ----------
    fixed_points, moving_points : PointSet or (N, ndim) array_like
        The same landmarks in both images, RAS+ mm, paired by name where both have names, else by order.
    model : {'translation', 'rigid', 'similarity', 'affine', 'tps'}
        'tps' is a thin-plate spline. None but an affine map shears, and none mirrors.
    weights : (N,) array_like, optional
        Confidence of each fixed landmark, at least 0; 0 leaves it out, but its residual is measured.
    smoothing : float
        For 'tps': 0 passes through every landmark, more passes near them; see `ThinPlateSpline.through`.
    robust : bool
        Find outliers, such as exchanged landmarks, and set them aside: weights fall with the distance from the fit
        (Tukey's biweight), in 'tps' with the distance from the fit to the others.

    Returns
    -------
    LandmarkFit
        The transform fixed → moving, with residuals and leave-one-out errors.

    Raises
    ------
    GeometryError
        If the landmarks do not correspond, are not finite, are too few or too flat for the model, mirror each
        other, or, in a spline without smoothing, one place is to go to two.
    PlanError
        If the model is unknown, a weight is negative, or a smoothing does not fit the model.

    Notes
    -----
    Closed forms: Umeyama, Least-squares estimation of transformation parameters between two point patterns, IEEE
    TPAMI 1991. The robust fit begins with least absolute distances, then reweights; the scale is from the median
    distance (Maronna et al., Robust statistics, Wiley 2006).

    Examples
    --------
    >>> fixed = np.array([[0.0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, 30], [5, 5, 5]])
    >>> fit = fit_landmarks(fixed, fixed @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]] + [1, 2, 3], "rigid")
    >>> fit.transform.map_points([[10.0, 0.0, 0.0]]).round(6).tolist()
    [[1.0, 12.0, 3.0]]
    >>> round(fit.summary()["left_out_mean_mm"], 6)
    0.0
    """
    if model not in LANDMARK_MODELS:
        raise PlanError(f"the model of a landmark fit is {', '.join(LANDMARK_MODELS)}, got {model!r}")
    if smoothing != 0 and model != "tps":
        raise PlanError(f"smoothing belongs to the model 'tps', got smoothing {smoothing!r} with {model!r}")
    here, there = _point_set(fixed_points, "fixed"), _point_set(moving_points, "moving")
    one, other = match_landmarks(here, there)
    confidence = _confidence(weights, len(here.points_mm))[one]
    names = None if here.names is None else tuple(here.names[n] for n in one)
    pairs = _Pairs(
        fixed=here.points_mm[one],
        moving=there.points_mm[other],
        weights=confidence,
        model=model,
        smoothing=float(smoothing),
        names=np.array(names if names is not None else one + 1, dtype=np.str_),
    )
    trust = _trust(pairs) if robust else np.ones(len(one))
    used = replace(pairs, weights=confidence * trust)
    outliers = (confidence > 0) & (trust == 0)
    try:
        transform = used.fit(here.space, there.space)
    except GeometryError as error:
        if not outliers.any():
            raise
        raise GeometryError(
            f"{error}. {outliers.sum()} of {len(one)} landmarks agree with no others and were set aside as outliers"
        ) from None
    return LandmarkFit(
        transform=transform,
        model=model,
        residuals_mm=np.linalg.norm(transform.map_points(pairs.fixed) - pairs.moving, axis=1),
        left_out_mm=used.left_out(),
        weights=used.weights,
        outliers=outliers,
        fixed_numbers=one,
        names=names,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Corresponding points ``(N, ndim)``, mm, with weights of at least 0, and what is to be fitted to them."""

    fixed: Matrix
    moving: Matrix
    weights: Matrix
    model: str
    smoothing: float
    names: NDArray[np.str_]

    @property
    def ndim(self) -> int:
        return int(self.fixed.shape[1])

    @property
    def axes(self) -> int:
        """Along how many axes landmarks must be spread to determine the model; one more of them is enough."""
        few = {"translation": 0, "rigid": self.ndim - 1, "similarity": self.ndim - 1}
        return few.get(self.model, self.ndim)

    def fit(self, fixed_space: str | None, moving_space: str | None) -> Transform:
        """Return the transform, which never mirrors."""
        if self.model == "tps":
            fit = self._spline()
            self._refuse_mirrored(replace(self, model="affine").matrix())
            return fit.spline(fixed_space, moving_space)
        matrix = self.matrix()
        self._refuse_mirrored(matrix)
        kinds: dict[str, type[Affine]] = {
            "translation": Translation,
            "rigid": Rigid,
            "similarity": Similarity,
        }
        return kinds.get(self.model, Affine)(matrix, fixed_space, moving_space)

    def matrix(self) -> Matrix:
        """Return the weighted least squares fit of a linear model."""
        fixed, moving, weights = self._used()
        share = weights / weights.sum()
        middle, goal = share @ fixed, share @ moving
        inner, outer = fixed - middle, moving - goal
        linear = np.eye(self.ndim)
        if self.model == "affine":
            root = np.sqrt(share)[:, None]
            linear = np.linalg.lstsq(root * inner, root * outer, rcond=None)[0].T
        elif self.model != "translation":
            linear = _turn(inner, outer, share, scaled=self.model == "similarity")
        matrix = np.eye(self.ndim + 1)
        matrix[:-1, :-1], matrix[:-1, -1] = linear, goal - linear @ middle
        return matrix

    def residuals(self) -> Matrix:
        """Return the distance of each moving landmark from a linear fit, mm."""
        return _distances(self.matrix(), self.fixed, self.moving)

    def left_out(self) -> Matrix:
        """Return the distance of each moving landmark from a fit without it, mm; NaN where there is none."""
        if self.model == "tps":
            used, fit = self.weights > 0, self._spline()
            found = np.empty(len(used))
            found[used] = np.linalg.norm(fit.left_out_mm(), axis=1)
            there = fit.spline().map_points(self.fixed[~used])
            found[~used] = np.linalg.norm(there - self.moving[~used], axis=1)
            return found
        found = self.residuals()
        for number in np.flatnonzero(self.weights > 0):
            weights = self.weights.copy()
            weights[number] = 0
            try:
                matrix = replace(self, weights=weights).matrix()
            except GeometryError:
                found[number] = np.nan
                continue
            found[number] = _distances(matrix, self.fixed[[number]], self.moving[[number]])[0]
        return found

    def _spline(self) -> SplineFit:
        fixed, moving, weights = self._used()
        names = self.names[self.weights > 0].tolist()
        return SplineFit(fixed, moving, smoothing=self.smoothing, weights=weights, names=names)

    def _used(self) -> tuple[Matrix, Matrix, Matrix]:
        """Return landmarks and weights that have a say; refuse those that do not determine the model."""
        used = self.weights > 0
        fixed, moving = self.fixed[used], self.moving[used]
        if len(fixed) <= self.axes:
            raise GeometryError(
                f"the model {self.model!r} in {self.ndim}-D needs {self.axes + 1} landmarks or more, got {len(fixed)}"
            )
        for role, points in (("fixed", fixed), ("moving", moving)):
            extents = _extents(points)
            if extents < self.axes:
                where = ("are all in one place", "lie on one line", "lie in one plane")[extents]
                plane = "; those of a 2-D image have two coordinates: --like IMAGE (in Python points[:, :2])"
                raise GeometryError(
                    f"the {role} landmarks {where}, which does not determine the model {self.model!r} in {self.ndim}-D: "
                    f"take some elsewhere, or a model of fewer parameters{plane if extents == 2 else ''}"
                )
        return fixed, moving, self.weights[used]

    def _refuse_mirrored(self, matrix: Matrix) -> None:
        mirrored = float(np.linalg.det(matrix[:-1, :-1])) <= 0
        if self.model in ("rigid", "similarity"):
            mirrored = self._mirrors_better()
        if mirrored:
            raise GeometryError(
                "the moving landmarks mirror the fixed ones: check that left and right are not exchanged, and that both "
                "files follow the same convention (LPS or RAS) and number the landmarks alike"
            )

    def _mirrors_better(self) -> bool:
        """Tell whether rotations with a reflection fit much better, along axes with some extent."""
        fixed, moving, weights = self._used()
        share = weights / weights.sum()
        inner, outer = fixed - share @ fixed, moving - share @ moving
        u, sizes, v = np.linalg.svd((share[:, None] * outer).T @ inner)
        if np.linalg.det(u) * np.linalg.det(v) > 0 or sizes[-1] < 0.01 * sizes[0]:
            return False
        total = float(share @ (inner**2).sum(1)), float(share @ (outer**2).sum(1))
        turned, mirrored = sizes[:-1].sum() - sizes[-1], sizes.sum()
        if self.model == "similarity":
            return bool(total[1] - mirrored**2 / total[0] < 0.25 * (total[1] - turned**2 / total[0]))
        return bool(sum(total) - 2 * mirrored < 0.25 * (sum(total) - 2 * turned))


def _turn(inner: Matrix, outer: Matrix, share: Matrix, *, scaled: bool) -> Matrix:
    """Return the rotation, with or without a scale, from centred points to centred points (Umeyama 1991)."""
    u, sizes, v = np.linalg.svd((share[:, None] * outer).T @ inner)
    signs = np.ones(len(sizes))
    signs[-1] = np.sign(np.linalg.det(u) * np.linalg.det(v))
    if sizes[0] <= 0 or (len(sizes) == 3 and sizes[1] <= _FLAT**2 * sizes[0]):
        raise GeometryError(
            "the landmarks do not determine a rotation: are the points of both images in the same order?"
        )
    rotation = np.asarray((u * signs) @ v)
    return rotation * float(sizes @ signs / (share @ (inner**2).sum(axis=1))) if scaled else rotation


def _trust(pairs: _Pairs) -> Matrix:
    """Return the share of its confidence that each landmark keeps: 0 for outliers, near 1 for most others."""
    linear = replace(pairs, model="affine") if pairs.model == "tps" else pairs
    floor = 1e-6 * float(np.sqrt(((pairs.moving - pairs.moving.mean(axis=0)) ** 2).sum(axis=1).mean()))
    floor = max(floor, float(np.finfo(np.float64).tiny))
    trust = np.ones(len(pairs.weights))
    for _ in range(_LEAST_ABSOLUTE_STEPS):
        trust = 1 / np.maximum(replace(linear, weights=pairs.weights * trust).residuals(), floor)
        trust /= trust.max()
    trust = _tukey(lambda w: replace(linear, weights=w).residuals(), pairs, trust, linear.axes + 1, floor)
    if pairs.model == "tps":  # what a spline misses shows where it has not seen it
        trust = _tukey(lambda w: replace(pairs, weights=w).left_out(), pairs, trust, 0, floor)
    return trust


def _tukey(
    distances: Callable[[Matrix], Matrix], pairs: _Pairs, trust: Matrix, met: int, floor: float
) -> Matrix:
    """Reweight until nothing changes; `met` landmarks may lie on any fit, and tell nothing of the scale."""
    given = pairs.weights > 0
    for _ in range(_TUKEY_STEPS):
        lengths = distances(pairs.weights * trust)
        lengths = np.where(np.isfinite(lengths), lengths, 0.0)  # a landmark that the fit cannot do without
        telling = np.sort(lengths[given])[min(met, int(given.sum()) - 1) :]
        scale = max(float(np.median(telling)) / _MEDIAN_LENGTH[pairs.ndim], floor)
        before, trust = trust, np.maximum(1 - (lengths / (_TUKEY * scale)) ** 2, 0) ** 2
        if np.abs(trust - before).max() < _UNCHANGED:
            break
    return trust


def _extents(points: Matrix) -> int:
    """Return along how many axes points are spread."""
    sizes = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return int((sizes > max(_FLAT * sizes[0], np.finfo(np.float64).eps * np.abs(points).max())).sum())


def _distances(matrix: Matrix, fixed: Matrix, moving: Matrix) -> Matrix:
    return np.asarray(np.linalg.norm(fixed @ matrix[:-1, :-1].T + matrix[:-1, -1] - moving, axis=1))


def _point_set(points: Points, role: str) -> PointSet:
    if isinstance(points, PointSet):
        return points
    try:
        return PointSet(np.asarray(points, np.float64))
    except ValueError as error:
        raise GeometryError(f"the {role} landmarks: {error}") from None


def _confidence(weights: ArrayLike | None, count: int) -> Matrix:
    if weights is None:
        return np.ones(count)
    found = np.asarray(weights, np.float64)
    if found.shape != (count,):
        raise PlanError(f"weights are one number per fixed landmark, {count}, got shape {found.shape}")
    if not (np.isfinite(found) & (found >= 0)).all():
        bad = int(np.flatnonzero(~(np.isfinite(found) & (found >= 0)))[0])
        raise PlanError(f"weights are numbers of at least 0, got {found[bad]!r} for landmark {bad + 1}")
    return found
