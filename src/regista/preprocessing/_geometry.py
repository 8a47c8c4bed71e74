"""Steps that change the grid and leave every voxel where it is in the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid, Image, LabelImage, PlanError
from regista.core.memory import available_bytes
from regista.kernels.cpu.filters import gaussian_filter
from regista.preprocessing._step import Outcome, Step, load, mask_array, needs_file
from regista.transforms import resample, resample_labels

_PAIRS = ("LR", "PA", "IS")


def _mask_on(mask: Image, grid: Grid) -> Image:
    """Return a mask on another grid: 0 or 1, or weights between them where it has fractions."""
    values = mask.as_float32()
    if np.array_equal(values, np.rint(values)):
        return resample_labels(LabelImage((values > 0).astype(np.uint8), mask.grid, space=mask.space), grid)
    return resample(Image(values, mask.grid, space=mask.space), grid, fill=0.0)


@dataclass(frozen=True, kw_only=True)
class Reorient(Step):
    """Order and flip the array axes so that they point, as nearly as they do, where the codes say.

    Parameters
    ----------
    orientation : str
        One letter per axis: L or R, P or A, I or S; two letters in 2-D.

    Examples
    --------
    >>> image = Image(np.arange(6.0).reshape(1, 2, 3), Grid((1, 2, 3), np.diag([-1.0, 1, 1, 1])))
    >>> turned = Reorient(orientation="SAR")(image)
    >>> turned.data.shape, turned.grid.orientation
    ((3, 2, 1), 'SAR')
    """

    name: ClassVar[str] = "reorient"
    orientation: str = "RAS"

    def __post_init__(self) -> None:
        code = self.orientation.upper()
        axes = [next((n for n, pair in enumerate(_PAIRS) if letter in pair), -1) for letter in code]
        if len(code) not in (2, 3) or -1 in axes or len(set(axes)) != len(axes):
            raise PlanError(
                f"reorient.orientation has one of L/R, P/A and I/S per axis, like 'RAS', got {self.orientation!r}"
            )
        object.__setattr__(self, "orientation", code)

    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return the image and mask with other axes; values are moved, none is computed."""
        code = self.orientation
        if len(code) != image.ndim:
            raise PlanError(f"reorient.orientation {code!r} has {len(code)} axes, the image has {image.ndim}")
        before = image.grid.orientation
        order, flipped = [], []
        for letter in code:
            pair = next(pair for pair in _PAIRS if letter in pair)
            found = [n for n, have in enumerate(before) if have in pair]
            if not found:
                raise GeometryError(f"the image's axes are {before}: none of them runs along {pair}")
            order.append(found[0])
            flipped.append(before[found[0]] != letter)
        shape = tuple(image.grid.shape[axis] for axis in order)
        turn = np.zeros((image.ndim + 1,) * 2)
        turn[-1, -1] = 1
        for new, (old, flip) in enumerate(zip(order, flipped, strict=True)):
            turn[old, new] = -1 if flip else 1
            turn[old, -1] = shape[new] - 1 if flip else 0
        grid = Grid(shape, image.grid.grid2world @ turn)

        def moved(one: Image) -> Image:
            lead = 0 if one.kind == "scalar" else 1
            data = np.transpose(one.data, [*range(lead), *(axis + lead for axis in order)])
            back = tuple(slice(None, None, -1 if flip else 1) for flip in flipped)
            return replace(one, data=np.ascontiguousarray(data[(slice(None),) * lead + back]), grid=grid)

        return Outcome(moved(image), None if mask is None else moved(mask), {"from": before, "to": code})


@dataclass(frozen=True, kw_only=True)
class Resample(Step):
    """Sample the image on another grid, smoothed first where the new voxels are larger.

    Parameters
    ----------
    spacing_mm : float or tuple of float, optional
        New voxel size over the same extent; or
    like : Grid, Image or file name, optional
        A grid to take over. Give one of the two.
    interpolation : {'linear', 'nearest', 'cubic', 'lanczos'}
        Labels are always sampled nearest.
    antialias : bool
        Smooth along axes that become coarser (σ of 0.42 new voxels).

    Examples
    --------
    >>> image = Image(np.ones((8, 8, 4)), Grid((8, 8, 4), np.eye(4)))
    >>> Resample(spacing_mm=(2, 2, 1))(image).grid.shape
    (4, 4, 4)
    """

    name: ClassVar[str] = "resample"
    spacing_mm: float | tuple[float, ...] | None = None
    like: Grid | Image | str | None = None
    interpolation: Literal["linear", "nearest", "cubic", "lanczos"] = "linear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if (self.spacing_mm is None) == (self.like is None):
            raise PlanError("resample takes spacing_mm or like, one of the two")
        if self.spacing_mm is not None and not np.all(np.asarray(self.spacing_mm) > 0):
            raise PlanError(f"resample.spacing_mm is above 0, got {self.spacing_mm}")
        if self.interpolation not in ("linear", "nearest", "cubic", "lanczos"):
            raise PlanError(
                f"resample.interpolation is linear, nearest, cubic or lanczos, got {self.interpolation!r}"
            )

    def resolved(self, read: Callable[[str], Image]) -> Resample:
        """Return the step with the image `like` names read."""
        return replace(self, like=load(self.like, read))

    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return image and mask on the new grid."""
        grid = self._grid(image)
        measured: dict[str, Any] = {"from": image.grid.describe(), "to": grid.describe()}
        moved = None
        if mask is not None:
            moved = replace(_mask_on(mask, grid), space=mask.space)
        if isinstance(image, LabelImage):
            return Outcome(replace(resample_labels(image, grid), space=image.space), moved, measured)
        sigma = self._sigma(image.grid, grid)
        measured["smoothing_sigma_vox"] = [round(s, 4) for s in sigma]
        source = image.with_data(_smoothed(image, sigma)) if max(sigma) > 0 else image
        out = resample(source, grid, interpolation=self.interpolation, dtype=image.data.dtype)
        return Outcome(replace(out, space=image.space), moved, measured)

    def _grid(self, image: Image) -> Grid:
        needs_file(self, "like", self.like)
        if self.like is not None:
            grid = self.like.grid if isinstance(self.like, Image) else self.like
            assert isinstance(grid, Grid)
            if grid.ndim != image.ndim:
                raise GeometryError(f"resample.like is {grid.ndim}-D, the image {image.ndim}-D")
            return grid
        spacing = np.atleast_1d(np.asarray(self.spacing_mm, dtype=np.float64))
        if len(spacing) not in (1, image.ndim):
            raise PlanError(
                f"resample.spacing_mm has one value or {image.ndim}, one per axis; got {spacing.tolist()}"
            )
        wanted = np.prod(np.array(image.grid.shape) * image.grid.spacing / spacing)
        need, free = 12.0 * wanted * image.data.size / image.grid.size, available_bytes()
        if not wanted < 2**62 or (free is not None and need > free):
            raise PlanError(
                f"resample.spacing_mm = {self.spacing_mm}, where the image has {image.grid.spacing.round(4).tolist()} mm, "
                f"would make {wanted:.3g} voxels: about {need / 1e9:.3g} GB of memory"
                + ("" if free is None else f", and {free / 1e9:.1f} GB are free")
                + "; give a wider spacing, in millimetres"
            )
        return image.grid.with_spacing(spacing if len(spacing) > 1 else float(spacing[0]))

    def _sigma(self, old: Grid, new: Grid) -> list[float]:
        """Return σ per old axis, voxels: the new lattice's step along that axis decides."""
        if not self.antialias or self.interpolation == "nearest":
            return [0.0] * old.ndim
        steps = np.abs((old.world2grid @ new.grid2world)[:-1, :-1]).max(axis=1)
        return [0.42 * float(s) if s > 1.05 else 0.0 for s in steps]


def _smoothed(image: Image, sigma_vox: list[float]) -> NDArray[np.float32]:
    shape = image.grid.as_3d().shape
    stack = image.as_float32().reshape(-1, *shape)
    sigma = [*sigma_vox, *[0.0] * (3 - len(sigma_vox))]
    return np.asarray(gaussian_filter(stack, sigma, border="nearest")).reshape(image.data.shape)


@dataclass(frozen=True, kw_only=True)
class CropPad(Step):
    """Crop to the content, add a margin, and pad to sizes that are multiples of a number.

    Parameters
    ----------
    content : bool
        Crop to the mask, or without one to what differs from the surround; else keep the extent.
    margin_mm : float
        Room on every side, outside the old image too; negative takes off as much of the content. Rounded up to
        whole voxels.
    multiple : int
        Every size becomes a multiple of it.
    fill : float, optional
        Value of new voxels; by default that of the first voxel.

    Examples
    --------
    >>> data = np.zeros((9, 9)); data[3:5, 2:7] = 1
    >>> CropPad(multiple=4)(Image(data, Grid((9, 9), np.eye(3)))).grid.shape
    (4, 8)
    """

    name: ClassVar[str] = "crop-pad"
    content: bool = True
    margin_mm: float = 0.0
    multiple: int = 1
    fill: float | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.margin_mm):
            raise PlanError(f"crop-pad.margin_mm is a number, got {self.margin_mm}")
        if not 1 <= self.multiple <= 1024:
            raise PlanError(f"crop-pad.multiple is between 1 and 1024, got {self.multiple}")

    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return image and mask cropped and padded alike."""
        start, stop = np.zeros(image.ndim, np.int64), np.array(image.grid.shape, np.int64)
        if self.content:
            start, stop = _content_box(image, mask_array(image, mask))
        sign = 1 if self.margin_mm >= 0 else -1
        margin = sign * np.ceil(abs(self.margin_mm) / image.grid.spacing - 1e-6).astype(np.int64)
        size = (stop - start) * image.grid.spacing
        start, stop = start - margin, stop + margin
        if (stop <= start).any():
            raise PlanError(
                f"crop-pad.margin_mm = {self.margin_mm:g} takes that much off every side, and "
                f"{'the content' if self.content else 'the image'} is only {'×'.join(f'{mm:.4g}' for mm in size)} mm "
                f"large; take less than {size.min() / 2:.4g} mm off, or give a margin above 0 to add room"
            )
        missing = -(stop - start) % self.multiple
        start, stop = start - missing // 2, stop + (missing - missing // 2)
        first = image.data.reshape(-1)[0]
        fill = first if self.fill is None else self.fill
        box = [start.tolist(), stop.tolist()]
        cut = _cut(image, start, stop, 0 if isinstance(image, LabelImage) else fill)
        moved = None if mask is None else _cut(mask, start, stop, 0)
        return Outcome(cut, moved, {"start_vox": box[0], "stop_vox": box[1], "fill": float(fill)})


def _content_box(image: Image, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if mask is None:
        frames = image.data.reshape(-1, *image.grid.shape)
        surround = frames[0].flat[0]
        mask = np.zeros(image.grid.shape, bool)
        for frame in frames:
            mask |= frame != surround
    if not mask.any():
        raise GeometryError("crop-pad: the image is constant, it has no content to crop to")
    start, stop = [], []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        start.append(int(used[0]))
        stop.append(int(used[-1]) + 1)
    return np.array(start), np.array(stop)


def _cut(image: Image, start: NDArray[np.int64], stop: NDArray[np.int64], fill: Any) -> Image:
    lead = image.data.shape[: -image.ndim] if image.kind != "scalar" else ()
    kind: np.dtype[Any] = image.data.dtype
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if not (limits.min <= fill <= limits.max and float(fill).is_integer()):
            raise PlanError(f"crop-pad.fill {fill} does not fit voxels of type {image.data.dtype}")
    out: NDArray[Any] = np.full((*lead, *(stop - start)), fill, image.data.dtype)
    here, there = [], []
    for a, b, n in zip(start, stop, image.grid.shape, strict=True):
        low, high = max(int(a), 0), min(int(b), n)
        here.append(slice(low, max(low, high)))
        there.append(slice(low - int(a), max(low, high) - int(a)))
    every = (slice(None),) * len(lead)
    out[every + tuple(there)] = image.data[every + tuple(here)]
    return replace(image, data=out, grid=image.grid.crop(start.tolist(), stop.tolist()))
