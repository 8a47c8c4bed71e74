"""`Image` and `LabelImage`: an array of voxels and the grid it lives on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from regista.core.errors import GeometryError
from regista.core.grid import Grid

Kind = Literal["scalar", "channels", "series"]


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities on a `Grid`.

    Parameters
    ----------
    data : ndarray
        ``(*grid.shape)`` for a scalar image; ``(C, *grid.shape)`` for channels (RGB, multi-contrast);
        ``(T, *grid.shape)`` for a time series.
    grid : Grid
        Geometry of the spatial axes.
    kind : {'scalar', 'channels', 'series'}
        What the leading axis means; never guessed from the shape.
    space : str, optional
        Name of the physical space the image lives in (by default the file's stem). Transforms carry the
        names of the spaces they connect, so that a wrong chain is refused.
    frame_seconds : float, optional
        Time from one frame of a series to the next (TR), s; None where it is not known.
    oriented : bool
        Whether the file states how the image lies in the patient (NIfTI's sform or qform code, DICOM's orientation,
        NRRD's anatomical space, MetaImage's matrix, MGH's RAS flag); of arrays, pictures and headers that do not, the
        axes of the grid are but a convention.

    Examples
    --------
    >>> image = Image(np.zeros((3, 4, 5), np.float32), Grid((3, 4, 5), np.eye(4)))
    >>> image.grid.shape
    (3, 4, 5)
    """

    data: NDArray[np.generic]
    grid: Grid
    kind: Kind = "scalar"
    space: str | None = None
    frame_seconds: float | None = None
    oriented: bool = False

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        lead = 0 if self.kind == "scalar" else 1
        if self.kind not in ("scalar", "channels", "series"):
            raise GeometryError(f"kind is 'scalar', 'channels' or 'series', got {self.kind!r}")
        if data.ndim != lead + self.grid.ndim or data.shape[lead:] != self.grid.shape:
            raise GeometryError(
                f"a {self.kind} image on a grid of {self.grid.shape} has an array of shape "
                f"{'' if lead == 0 else '(n, …) + '}{self.grid.shape}, got {data.shape}"
            )
        if self.frame_seconds is not None and not (self.kind == "series" and 0 < self.frame_seconds < np.inf):
            raise GeometryError(
                f"frame_seconds is a time above 0 between the frames of a series, got {self.frame_seconds} for a "
                f"{self.kind} image"
            )
        object.__setattr__(self, "data", data)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.grid.ndim

    def as_float32(self) -> NDArray[np.float32]:
        """Return the voxels as a C-contiguous float32 array (a view when they already are)."""
        return np.ascontiguousarray(self.data, dtype=np.float32)

    def frames(self) -> list[Image]:
        """Split a series or a channel image into scalar images; a scalar image gives itself."""
        if self.kind == "scalar":
            return [self]
        return [Image(frame, self.grid, "scalar", self.space, oriented=self.oriented) for frame in self.data]

    def with_data(self, data: NDArray[np.generic], **changes: object) -> Self:
        """Return a copy with other voxels (and other fields, by name)."""
        return replace(self, data=data, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class LabelImage(Image):
    """Integer labels on a `Grid`, 0 being background.

    Parameters
    ----------
    names : mapping of int to str, optional
        Label names.
    """

    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "scalar":
            raise GeometryError("a label image has one value per voxel, got several channels or frames")
        if not np.issubdtype(self.data.dtype, np.integer) and self.data.dtype != np.bool_:
            rounded = np.rint(self.data)
            if not np.array_equal(rounded, self.data):
                raise GeometryError(
                    "a label image holds whole numbers, got fractions: is this an intensity or a probability image?"
                )
            object.__setattr__(self, "data", rounded.astype(np.int32))

    @property
    def labels(self) -> list[int]:
        """Sorted labels present, without background."""
        return [int(v) for v in np.unique(self.data) if v != 0]


def stack_channels(images: Sequence[Image]) -> Image:
    """Return one image whose channels are those of several, in order: contrasts of one patient, for instance.

    Parameters
    ----------
    images : sequence of Image
        Scalar or multi-channel images on one grid.

    Returns
    -------
    Image
        Of kind 'channels', on the grid and in the space of the first.

    Raises
    ------
    GeometryError
        If there is no image, one is a series, or one lies on another grid than the first.

    Examples
    --------
    >>> grid = Grid((3, 4), np.eye(3))
    >>> t1, t2 = (Image(np.full((3, 4), n, np.float32), grid) for n in (1, 2))
    >>> stack_channels([t1, t2]).data.shape
    (2, 3, 4)
    """
    if not images:
        raise GeometryError("channels are made from one image at least, got none")
    first = images[0]
    for number, image in enumerate(images):
        name = f"image {number}" if image.space is None else f"image {number} ({image.space})"
        if image.kind == "series":
            raise GeometryError(f"{name} is a series: take one of its frames (in Python image.frames()[n])")
        if image.ndim != first.ndim or not image.grid.same_as(first.grid):
            raise GeometryError(
                f"{name} lies on another grid ({image.grid.describe()}) than the first ({first.grid.describe()}); "
                "resample it first: regista apply CONTRAST --like FIRST -o OUT"
            )
    data = [image.data if image.kind == "channels" else image.data[None] for image in images]
    return Image(
        np.concatenate(data),
        first.grid,
        "channels",
        first.space,
        oriented=all(one.oriented for one in images),
    )
