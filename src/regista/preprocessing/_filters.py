"""Steps that look at neighbourhoods: bias field, noise, foreground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from regista.core import GeometryError, Image, LabelImage, PlanError
from regista.preprocessing._itk import from_itk, itk, to_itk
from regista.preprocessing._step import (
    Foreground,
    IntensityStep,
    Outcome,
    Step,
    check_intensities,
    mask_array,
)

Change = tuple[NDArray[Any], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class N4(IntensityStep):
    """Divide out a smooth bias field (N4, SimpleITK).

    Parameters
    ----------
    shrink : int
        The field is estimated on every n-th voxel, and applied to all.
    iterations : tuple of int
        Step limit per level, coarse to fine.
    tolerance : float
        A level ends when the field changes by less.

    Notes
    -----
    The field is estimated within the mask, or without one above Otsu's threshold. N. J. Tustison et al.,
    "N4ITK: improved N3 bias correction", IEEE Transactions on Medical Imaging 29(6), 2010.
    """

    name: ClassVar[str] = "n4"
    shrink: int = 4
    iterations: tuple[int, ...] = (50, 50, 30, 20)
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.shrink <= 16:
            raise PlanError(f"n4.shrink is between 1 and 16, got {self.shrink}")
        if not self.iterations or any(not 1 <= n <= 1000 for n in self.iterations):
            raise PlanError(f"n4.iterations has one number, 1 … 1000, per level; got {self.iterations}")
        if not 0 < self.tolerance < 1:
            raise PlanError(f"n4.tolerance is between 0 and 1, got {self.tolerance}")

    def change(self, frame: Image, mask: Foreground | None) -> Change:
        """Return the corrected voxels and the range of the field inside the mask."""
        data = frame.as_float32()
        if mask is None:
            mask = data > otsu_threshold(frame)
        shrink = [max(1, min(self.shrink, n // 8)) for n in frame.grid.shape]
        lowest = float(data.min())
        positive = data - min(lowest, 0.0)  # the field acts on logarithms
        with itk() as sitk:
            whole = to_itk(frame, positive)
            small = sitk.Shrink(whole, shrink)
            small_mask = sitk.Shrink(to_itk(frame, (mask & (positive > 0)).astype(np.uint8)), shrink)
            n4 = sitk.N4BiasFieldCorrectionImageFilter()
            n4.SetMaximumNumberOfIterations([int(n) for n in self.iterations])
            n4.SetConvergenceThreshold(self.tolerance)
            n4.Execute(small, small_mask)
            log_field = from_itk(n4.GetLogBiasFieldAsImage(whole))
            elapsed = int(n4.GetElapsedIterations())
        field = np.exp(log_field)
        inside = field[mask]
        measured = {
            "field_min": float(inside.min()),
            "field_max": float(inside.max()),
            "field_sd": float(inside.std()),
            "shrink": shrink,
            "last_level_iterations": elapsed,
        }
        return (positive / field + min(lowest, 0.0)).astype(np.float32), measured


@dataclass(frozen=True, kw_only=True)
class Denoise(IntensityStep):
    """Remove noise and keep edges (SimpleITK).

    Parameters
    ----------
    method : {'diffusion', 'median'}
        Curvature anisotropic diffusion, or the median of the neighbourhood.
    strength : int
        Iterations of the diffusion, radius in voxels of the median.
    conductance : float
        Of the diffusion: smaller keeps fainter edges.

    Notes
    -----
    P. Perona and J. Malik, "Scale-space and edge detection using anisotropic diffusion", IEEE Transactions
    on Pattern Analysis and Machine Intelligence 12(7), 1990; R. Whitaker and X. Xue, "Variable-conductance,
    level-set curvature for image denoising", ICIP 2001.
    """

    name: ClassVar[str] = "denoise"
    method: Literal["diffusion", "median"] = "diffusion"
    strength: int = 5
    conductance: float = 2.0

    def __post_init__(self) -> None:
        if self.method not in ("diffusion", "median"):
            raise PlanError(f"denoise.method is 'diffusion' or 'median', got {self.method!r}")
        limit = 100 if self.method == "diffusion" else 5
        if not 1 <= self.strength <= limit:
            raise PlanError(f"denoise.strength is between 1 and {limit} ({self.method}), got {self.strength}")
        if not 0 < self.conductance <= 100:
            raise PlanError(f"denoise.conductance is above 0, at most 100, got {self.conductance}")

    def change(self, frame: Image, mask: Foreground | None) -> Change:
        """Return the smoothed voxels and the noise estimated before and after."""
        data = frame.as_float32()
        with itk() as sitk:
            image = to_itk(frame)
            if self.method == "median":
                out = sitk.Median(image, [min(self.strength, (n - 1) // 2) for n in frame.grid.shape])
            else:
                step = float(frame.grid.spacing.min()) / 2 ** (frame.ndim + 1)  # the largest stable one
                out = sitk.CurvatureAnisotropicDiffusion(
                    image,
                    timeStep=step,
                    conductanceParameter=self.conductance,
                    numberOfIterations=self.strength,
                )
            smooth = from_itk(out)
        return smooth, {"noise_before": _noise(data), "noise_after": _noise(smooth)}


@dataclass(frozen=True, kw_only=True)
class ForegroundMask(Step):
    """Find the foreground by Otsu's threshold and morphology; later steps take their statistics there.

    Parameters
    ----------
    closing_mm : float
        Gaps up to about twice this wide are closed.
    largest : bool
        Keep the largest piece alone.
    fill_holes : bool
        Fill what is enclosed.
    blank : bool
        Set the image to 0 outside the mask too.

    Notes
    -----
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man,
    and Cybernetics 9(1), 1979.

    Examples
    --------
    >>> from regista.core import Grid
    >>> data = np.zeros((12, 12, 12)); data[3:9, 3:9, 3:9] = 5; data[5, 5, 5] = 0; data[0, 0, 0] = 5
    >>> found = ForegroundMask(closing_mm=0).apply(Image(data, Grid(data.shape, np.eye(4))))
    >>> int(found.mask.data.sum())
    216
    """

    name: ClassVar[str] = "foreground-mask"
    closing_mm: float = 3.0
    largest: bool = True
    fill_holes: bool = True
    blank: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.closing_mm <= 50:
            raise PlanError(f"foreground-mask.closing_mm is between 0 and 50, got {self.closing_mm}")

    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return the image and its mask; a mask given before bounds the new one."""
        check_intensities(image, self.name)
        mean = image if image.kind == "scalar" else Image(image.as_float32().mean(axis=0), image.grid)
        threshold = otsu_threshold(mean)
        found = mean.as_float32() > threshold
        bound = mask_array(image, mask)
        if bound is not None:
            found &= bound
        if self.closing_mm > 0:
            found = _closed(found, self.closing_mm / image.grid.spacing)
        if self.largest:
            labels, count = ndimage.label(found)
            if count:
                found = labels == int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
        if self.fill_holes:
            found = ndimage.binary_fill_holes(found)
        if bound is not None:  # closing and filling may have left it
            found &= bound
        if not found.any():
            raise GeometryError("foreground-mask: no foreground was found above Otsu's threshold")
        labels = LabelImage(
            found.astype(np.uint8), image.grid, "scalar", image.space, names={1: "foreground"}
        )
        voxel = float(abs(np.linalg.det(image.grid.grid2world[:-1, :-1])))
        count = int(np.count_nonzero(found))
        unit = {"volume_ml": count * voxel / 1000} if image.ndim == 3 else {"area_mm2": count * voxel}
        measured = {"threshold": threshold, "voxels": count, **unit}
        if self.blank:
            image = image.with_data(np.where(found, image.data, 0).astype(image.data.dtype))
        return Outcome(image, labels, measured)


def otsu_threshold(image: Image) -> float:
    """Return Otsu's threshold of a scalar image; its brightest half percent counts as one."""
    data = image.as_float32()
    low, high = float(data.min()), float(np.percentile(data, 99.5))
    high = high if high > low else float(data.max())
    if not high > low:
        raise GeometryError("the image is constant: it has no foreground")
    with itk() as sitk:
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.SetNumberOfHistogramBins(256)
        otsu.Execute(to_itk(image, np.clip(data, low, high)))
        return float(otsu.GetThreshold())


def _closed(mask: NDArray[np.bool_], radius_vox: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the closing by an ellipsoid, by distances: quick at any radius."""
    pad = np.ceil(radius_vox).astype(int) + 1
    wide = np.pad(mask, [(int(p), int(p)) for p in pad])
    sampling = 1 / radius_vox
    wide = ndimage.distance_transform_edt(~wide, sampling=sampling) <= 1
    wide = ndimage.distance_transform_edt(wide, sampling=sampling) > 1
    box = tuple(slice(int(p), int(p) + n) for p, n in zip(pad, mask.shape, strict=True))
    return np.asarray(wide[box] | mask)


def _noise(data: NDArray[np.float32]) -> float:
    """Return a robust noise estimate: the spread of differences along the first axis."""
    steps = np.diff(data, axis=0).ravel()
    steps = steps[steps != 0]
    if steps.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(steps)) / np.sqrt(2))
