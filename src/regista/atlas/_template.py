"""Templates: an image and the mask of what is sought in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from regista.core import FormatError, GeometryError, Grid, Image, LabelImage
from regista.io import read
from regista.kernels.cpu.filters import gaussian_filter
from regista.transforms import resample

_MNI_FILE = Path("datasets") / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_MNI_THRESHOLD = 51  # of 255: nilearn's own threshold for its brain mask
_MARGIN = 0.1
"""Room around the mask, as a share of its size: smoothing must die away before the border."""


@dataclass(frozen=True, eq=False)
class Template:
    """An image, stripped or whole, and the mask of its brain.

    Parameters
    ----------
    image : Image
        Scalar 3-D image.
    mask : Image
        On the grid of `image`; above 0 is brain.
    name : str
        For records.

    Raises
    ------
    GeometryError
        If the image is not a finite scalar volume, or the mask is empty or lies on another grid.
    """

    image: Image
    mask: Image
    name: str = field(default="")

    def __post_init__(self) -> None:
        check_volume(self.image, "template")
        if self.mask.kind != "scalar":
            raise GeometryError(
                f"the template's mask has one value per voxel, got a {self.mask.kind} image of {len(self.mask.data)}"
            )
        if not self.mask.grid.same_as(self.image.grid):
            raise GeometryError(
                f"the template's mask ({self.mask.grid.describe()}) lies on another grid than the template "
                f"({self.image.grid.describe()}); resample it: regista apply MASK --like TEMPLATE --labels"
            )
        if not np.any(self.mask.as_float32() > 0):
            raise GeometryError("the template's mask is empty: no voxel is above 0")
        if not self.name:
            object.__setattr__(self, "name", self.image.space or "template")

    @property
    def size_mm(self) -> float:
        """Edge of a cube with the mask's volume: the scale all working resolutions follow."""
        voxel = float(abs(np.linalg.det(self.image.grid.grid2world[:3, :3])))
        return float((np.count_nonzero(self.mask.as_float32() > 0) * voxel) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class WorkingTemplate:
    """A template at the resolution it is registered at, with masks of several widths.

    Parameters
    ----------
    image, brain : Image
        Intensities from 0, and the brain's share of each voxel.
    distance_mm : ndarray
        Distance of each voxel to the brain's edge, negative inside.
    """

    image: Image
    brain: Image
    distance_mm: NDArray[np.float32]

    def within(self, margin_mm: float) -> Image:
        """Return the mask of voxels within `margin_mm` of the brain."""
        inside = (self.brain.as_float32() > 0.5) | ((margin_mm > 0) & (self.distance_mm <= margin_mm))
        return self.brain.with_data(inside.astype(np.float32))


def mni152() -> Template:
    """Return the skull-stripped MNI152 T1 template (ICBM 2009a symmetric, 1 mm) inside nilearn, and its mask.

    Raises
    ------
    FormatError
        If nilearn is not installed.

    Notes
    -----
    V. S. Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 54(1),
    2011. nilearn ships no whole-head template; the one it ships is 0 outside the brain.
    """
    found = util.find_spec("nilearn")  # importing it takes seconds, its file does not
    path = Path(found.origin).parent / _MNI_FILE if found and found.origin else None
    if path is None or not path.is_file():
        raise FormatError(
            "the MNI152 template comes with nilearn, which is not installed (or no longer holds "
            f"{_MNI_FILE.name}): pip install 'regista[demo]', or give a template and its mask of your own"
        )
    image = read(path, space="mni152")
    mask = (image.as_float32() > _MNI_THRESHOLD).astype(np.uint8)
    return Template(image, LabelImage(mask, image.grid, space="mni152"), "mni152")


def check_volume(image: Image, role: str) -> None:
    """Refuse what is not one finite 3-D volume with contrast."""
    if not isinstance(image, Image):
        raise GeometryError(f"the {role} must be a regista.Image (see regista.read), got {type(image)}")
    if image.kind != "scalar" or image.ndim != 3:
        raise GeometryError(
            f"the {role} is a {image.ndim}-D {image.kind} image; expected one 3-D volume: take a frame or a "
            "channel of it first (in Python image.frames()[n])"
        )
    thin = [n for n in image.grid.shape if n < 8]
    if thin:
        raise GeometryError(
            f"the {role} has {image.grid.describe()}; expected at least 8 voxels along each axis"
        )
    data = image.data
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        bad = int(data.size - np.count_nonzero(np.isfinite(data)))
        raise GeometryError(f"the {role} has {bad} NaN or Inf voxels: set them to 0 first")
    if data.min() == data.max():
        raise GeometryError(f"the {role} is constant: there is nothing to align")


def working(template: Template, spacing_mm: float) -> WorkingTemplate:
    """Return a template cropped to its brain and a margin, at about `spacing_mm`."""
    mask = template.mask.as_float32() > 0
    spacing = template.image.grid.spacing
    places = np.argwhere(mask)
    margin = np.ceil((_MARGIN * template.size_mm + 2 * spacing_mm) / spacing)
    start, stop = places.min(axis=0) - margin, places.max(axis=0) + 1 + margin
    grid = template.image.grid.crop([int(a) for a in start], [int(b) for b in stop])
    target = grid.with_spacing(np.maximum(spacing, spacing_mm))
    image = sampled(scaled(template.image), target)
    brain = sampled(Image(mask.astype(np.float32), template.image.grid, space=image.space), target)
    outside = distance_transform_edt(brain.as_float32() <= 0.5, sampling=target.spacing)
    inside = distance_transform_edt(brain.as_float32() > 0.5, sampling=target.spacing)
    return WorkingTemplate(image, brain, (outside - inside).astype(np.float32))


def scaled(image: Image) -> Image:
    """Return the image with its range, up to that of bright tissue, as 0 … 1.

    Fat is brighter than brain, and saturates.
    """
    data = image.as_float32()
    low = float(np.percentile(data[::2, ::2, ::2], 1))
    bright = data[data > data.mean()]
    high = float(np.percentile(bright[:: max(1, bright.size // 500_000)], 97))
    high = high if high > low else float(data.max())
    return image.with_data(np.clip((data - low) * (1 / (high - low)), 0, 1))


def sampled(image: Image, grid: Grid) -> Image:
    """Return an image smoothed for, and sampled on, a coarser grid."""
    factor = grid.spacing.mean() / image.grid.spacing
    sigma = [0.42 * float(f) if f > 1.2 else 0.0 for f in factor]
    smooth = image.as_float32()
    if max(sigma) > 0:
        smooth = gaussian_filter(smooth[None], sigma, border="nearest")[0]
    return resample(image.with_data(smooth), grid)


def coarsened(image: Image, spacing_mm: float) -> Image:
    """Return an image smoothed and sampled at `spacing_mm`."""
    return sampled(image, image.grid.with_spacing(spacing_mm))
