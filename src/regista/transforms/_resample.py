"""Resampling of images, labels, points and meshes: the moving image is read once, through the whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from regista.core import GeometryError, Grid, Image, LabelImage, Mesh, PlanError, PointSet
from regista.kernels.cpu.sampling import nearest_index, sample_points, spline_coefficients, vote_labels
from regista.transforms._base import Transform
from regista.transforms._composite import Composite
from regista.transforms._places import places_vox
from regista.transforms._spaces import check_direction

Interpolation = Literal["linear", "nearest", "cubic", "lanczos"]
Chain = Transform | Sequence[Transform] | None
Fill = float | Literal["auto", "min", "edge"]

_CHANNELS_AT_ONCE = 8
_WITHIN = 1e-6  # voxels: this far within its outer faces an image surely has a value


def resample(
    image: Image,
    like: Grid | Image,
    transform: Chain = None,
    *,
    interpolation: Interpolation = "linear",
    fill: Fill = "auto",
    dtype: DTypeLike | None = None,
) -> Image:
    """Bring an image onto another grid through a transform.

    Parameters
    ----------
    image : Image
        The moving image; channels and time frames are read together.
    like : Grid or Image
        The grid to fill, in the fixed space.
    transform : Transform or sequence of Transform, optional
        Map from fixed to moving positions; a sequence is applied in order. None is the identity in world
        space.
    interpolation : {'linear', 'nearest', 'cubic', 'lanczos'}
        'cubic' is an interpolating B-spline, 'lanczos' a windowed sinc of radius 5.
    fill : float or {'auto', 'min', 'edge'}
        Value outside the moving image. 'auto' is 0 or, for an image with negative voxels such as CT in HU, what
        its corners hold (see `fill_value`); 'min' its smallest voxel; 'edge' the nearest voxel of its border.
    dtype : dtype, optional
        Type of the result; by default the image's own. Whole-number types are rounded and clipped.

    Returns
    -------
    Image
        On the grid of `like`, and in its space.

    Raises
    ------
    GeometryError
        If 2-D meets 3-D, the chain's spaces do not meet, or it leads the wrong way round.
    PlanError
        If the interpolation is unknown, or a number given as `fill` does not fit the type.

    Notes
    -----
    Inside the moving image means within its outer voxel faces, as in ITK. Where the nearest voxel is NaN or
    infinite, the result takes that value; elsewhere such voxels count as `fill`.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> image = Image(np.arange(8.0).reshape(2, 2, 2), Grid((2, 2, 2), np.eye(4)))
    >>> resample(image, image.grid, Translation.by([0.5, 0, 0])).data[0, 0].tolist()
    [2.0, 3.0]
    """
    if interpolation not in ("linear", "nearest", "cubic", "lanczos"):
        raise PlanError(f"interpolation is 'linear', 'nearest', 'cubic' or 'lanczos', got {interpolation!r}")
    chain, grid, space = _prepare(image, like, transform)
    kind = np.dtype(image.data.dtype if dtype is None else dtype)
    value = fill_value(image, fill)
    _check_types(
        image.data.dtype, kind, 0.0 if isinstance(fill, str) else value
    )  # one that is found is clipped
    channels = image.data.reshape(-1, *image.grid.as_3d().shape)
    out = np.empty((len(channels), grid.size), kind)
    for first in range(0, len(channels), _CHANNELS_AT_ONCE):
        part = slice(first, first + _CHANNELS_AT_ONCE)
        _fill_channels(
            channels[part], image.grid, grid, chain, interpolation, value, fill == "edge", out[part]
        )
    lead = () if image.kind == "scalar" else (len(channels),)
    return Image(
        out.reshape(*lead, *grid.shape), grid, image.kind, space, image.frame_seconds, image.oriented
    )


def fill_value(image: Image, fill: Fill = "auto") -> float:
    """Return the number that `resample` writes outside an image.

    Parameters
    ----------
    image : Image
        The moving image.
    fill : float or {'auto', 'min', 'edge'}
        A number is returned as it is. 'min' is the smallest finite voxel. 'auto' is 0 where no voxel is negative,
        as in other tools, so for MR, pictures and masks; else the median of the corner voxels: air or padding in
        CT, 0 in a map of statistics. For 'edge', which has no one value, the number is that of 'auto': it stands
        in for NaN voxels alone.

    Returns
    -------
    float
        One number for all channels or frames.

    Raises
    ------
    PlanError
        If `fill` is another word.

    Examples
    --------
    >>> ct = Image(np.full((4, 4, 4), -1024, np.int16), Grid((4, 4, 4), np.eye(4)))
    >>> fill_value(ct), fill_value(ct.with_data(ct.data + 1025))
    (-1024.0, 0.0)
    """
    if not isinstance(fill, str):
        return float(fill)
    if fill not in ("auto", "min", "edge"):
        raise PlanError(f"fill is a number, 'auto', 'min' or 'edge', got {fill!r}")
    if fill == "min":
        finite = image.data[np.isfinite(image.data)]
        return float(finite.min()) if finite.size else 0.0
    if image.data.dtype.kind not in "if" or not np.fmin.reduce(image.data, axis=None, initial=0) < 0:
        return 0.0
    spatial = image.data.reshape(-1, *image.grid.shape)
    corners = np.stack([channel[np.ix_(*[[0, -1]] * image.ndim)] for channel in spatial])
    finite = np.sort(corners[np.isfinite(corners)])
    return float(finite[(len(finite) - 1) // 2]) if finite.size else 0.0


def resample_labels(
    labels: LabelImage,
    like: Grid | Image,
    transform: Chain = None,
    *,
    interpolation: Literal["nearest", "smooth"] = "nearest",
) -> LabelImage:
    """Bring a label image onto another grid through a transform; no label is invented.

    Parameters
    ----------
    labels : LabelImage
        The moving labels.
    like : Grid or Image
        The grid to fill, in the fixed space.
    transform : Transform or sequence of Transform, optional
        Map from fixed to moving positions; a sequence is applied in order.
    interpolation : {'nearest', 'smooth'}
        'smooth' takes the label with the largest linear weight, which leaves rounder edges than 'nearest'.

    Returns
    -------
    LabelImage
        Labels of the same type and names; background (0) outside.

    Examples
    --------
    >>> labels = LabelImage(np.array([[[0, 3]]]), Grid((1, 1, 2), np.eye(4)))
    >>> resample_labels(labels, Grid((1, 1, 4), np.diag([1, 1, 0.4, 1]))).data.ravel().tolist()
    [0, 0, 3, 3]
    """
    if interpolation not in ("nearest", "smooth"):
        raise PlanError(f"interpolation of labels is 'nearest' or 'smooth', got {interpolation!r}")
    chain, grid, space = _prepare(labels, like, transform)
    shape = labels.grid.as_3d().shape
    out = np.empty(grid.size, labels.data.dtype)
    if interpolation == "nearest":
        flat = np.ascontiguousarray(labels.data).reshape(-1)
        for where, coords in places_vox(chain, grid, labels.grid):
            out[where] = _take(flat, nearest_index(shape, coords), 0)
    else:
        values, codes = _codes(labels.data)
        for where, coords in places_vox(chain, grid, labels.grid):
            found = vote_labels(codes.reshape(shape), coords, -1)
            out[where] = np.where(found < 0, 0, values[np.maximum(found, 0)])
    return LabelImage(
        out.reshape(grid.shape), grid, "scalar", space, oriented=labels.oriented, names=labels.names
    )


def map_pointset(points: PointSet, transform: Transform) -> PointSet:
    """Carry points of the fixed space to the moving space.

    Parameters
    ----------
    points : PointSet
        Points in the fixed space.
    transform : Transform
        Map from fixed to moving positions (points travel opposite to images).

    Returns
    -------
    PointSet
        The points in the moving space, with their names.

    Raises
    ------
    GeometryError
        If the points and the transform differ in dimension, or the points are said to be in the moving space.
    """
    if points.ndim != transform.ndim:
        raise GeometryError(
            f"the points are {points.ndim}-D, the transform is {transform.ndim}-D: they do not mix"
        )
    check_direction(transform, points.space, None)
    return replace(
        points,
        points_mm=transform.map_points(points.points_mm),
        space=transform.moving_space or points.space,
    )


def map_mesh(mesh: Mesh, transform: Transform) -> Mesh:
    """Carry a surface of the fixed space to the moving space; see `map_pointset`."""
    check_direction(transform, mesh.space, None)
    vertices = transform.map_points(mesh.vertices_mm)
    return replace(mesh, vertices_mm=vertices, space=transform.moving_space or mesh.space)


def _prepare(image: Image, like: Grid | Image, transform: Chain) -> tuple[Transform | None, Grid, str | None]:
    grid = like if isinstance(like, Grid) else like.grid
    if transform is not None and not isinstance(transform, Transform):
        transform = Composite(tuple(transform)) if len(transform) else None
    sizes = {"image": image.ndim, "grid": grid.ndim}
    if transform is not None:
        sizes["transform"] = transform.ndim
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"the {name} is {n}-D" for name, n in sizes.items())
        raise GeometryError(f"2-D and 3-D do not mix: {text}")
    check_direction(transform, like.space if isinstance(like, Image) else None, image.space)
    space = None if transform is None else transform.fixed_space
    if space is None and isinstance(like, Image):
        space = like.space
    if space is None and transform is None:
        space = image.space
    return transform, grid, space


def _check_types(source: np.dtype[Any], kind: np.dtype[Any], fill: float) -> None:
    for dtype in (source, kind):
        if dtype.kind not in "biuf":
            raise PlanError(f"resampling handles real numbers, got voxels of type {dtype}")
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if not (np.isfinite(fill) and limits.min <= fill <= limits.max):
            raise PlanError(
                f"fill {fill} does not fit voxels of type {kind}: choose a value from {limits.min} to "
                f"{limits.max}, or write --dtype float32 (in Python dtype='float32')"
            )
    if kind.kind == "b" and fill not in (0, 1):
        raise PlanError(
            f"fill {fill} does not fit a yes/no mask: choose 0 or 1, or write --dtype float32 (in Python dtype='float32')"
        )


def _fill_channels(
    channels: NDArray[Any],
    moving: Grid,
    grid: Grid,
    chain: Transform | None,
    interpolation: Interpolation,
    fill: float,
    edge: bool,
    out: NDArray[Any],
) -> None:
    shape = channels.shape[1:]
    face = np.array(shape) - 0.5 - _WITHIN
    flat = np.ascontiguousarray(channels).reshape(len(channels), -1)
    broken = _broken(flat)
    if interpolation != "nearest":
        voxels = channels if broken is None else np.where(broken.reshape(channels.shape), fill, channels)
        ready = (
            spline_coefficients(voxels)
            if interpolation == "cubic"
            else np.ascontiguousarray(voxels, np.float32)
        )
    for where, places in places_vox(chain, grid, moving):
        coords = np.clip(places, _WITHIN - 0.5, face) if edge else places
        if interpolation == "nearest":
            at = nearest_index(shape, coords)
            values = np.stack([_take(channel, at, fill) for channel in flat])
        else:
            values = sample_points(ready, coords, interpolation, fill, prefiltered=True)
            if broken is not None:
                at = nearest_index(shape, coords)
                for value, channel, bad in zip(values, flat, broken, strict=True):
                    hit = (at >= 0) & bad[at]
                    value[hit] = channel[at[hit]]
        out[:, where] = _cast(values, out.dtype)


def _broken(flat: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where voxels are NaN or infinite, or None when all are finite."""
    if flat.dtype.kind != "f":
        return None
    finite = np.isfinite(flat.astype(np.float32, copy=False))
    return None if finite.all() else np.asarray(~finite)


def _take(flat: NDArray[Any], at: NDArray[np.int64], fill: float) -> NDArray[Any]:
    outside = at < 0
    values = flat[at]
    if outside.any():
        if flat.dtype.kind in "iu" and not np.iinfo(flat.dtype).min <= fill <= np.iinfo(flat.dtype).max:
            values = values.astype(np.float64)
        if flat.dtype.kind != "f" and not float(fill).is_integer():
            values = values.astype(np.float64)
        values[outside] = fill
    return values


def _cast(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if kind == values.dtype or kind.kind == "f":
        return values.astype(kind, copy=False)
    if kind.kind == "b":
        return np.asarray(values > 0.5 if values.dtype.kind == "f" else values != 0)
    limits = np.iinfo(kind)
    if values.dtype.kind == "f":
        # float64 holds the limits of 32-bit types, and clipping within it never wraps round
        values = np.nan_to_num(np.rint(values.astype(np.float64)))
        top = np.nextafter(float(limits.max), 0) if kind.itemsize == 8 else float(limits.max)
        return np.clip(values, float(limits.min), top).astype(kind)
    if values.dtype.kind == "b":
        return values.astype(kind)
    return np.clip(
        values,
        max(limits.min, np.iinfo(values.dtype).min),
        min(limits.max, np.iinfo(values.dtype).max),
    ).astype(kind)


def _codes(data: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the labels present and each voxel's place among them."""
    if data.dtype.kind == "b" or (data.dtype.kind == "u" and data.dtype.itemsize <= 2):
        top = int(data.max(initial=0))
        return np.arange(top + 1).astype(data.dtype), data.astype(np.int32)
    values, codes = np.unique(data, return_inverse=True)
    return values, codes.reshape(data.shape).astype(np.int32)
