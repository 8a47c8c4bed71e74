"""`Step`: what every preprocessing step can do, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid, Image, LabelImage, PlanError, hash_array

CONFIG: dict[str, object] = {"extra": "forbid", "arbitrary_types_allowed": True}
Voxels = NDArray[np.float32]
Foreground = NDArray[np.bool_]


class Outcome(NamedTuple):
    """What a step gives back.

    Parameters
    ----------
    image : Image
        The image after the step.
    mask : Image or None
        The foreground mask on its grid, where there is one.
    measured : dict
        What the step found out (thresholds, percentiles, boxes).
    """

    image: Image
    mask: Image | None
    measured: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One step: a frozen value that is its own configuration, called with an image."""

    name: ClassVar[str] = ""
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __call__(self, image: Image, mask: Image | None = None) -> Image:
        """Return the image after the step.

        Parameters
        ----------
        image : Image
            Scalar image, channels or series. Label images take geometric steps only.
        mask : Image, optional
            Foreground (above 0), on the image's grid; it says which voxels statistics are taken over.
        """
        return self.apply(image, mask).image

    @abstractmethod
    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return the image and mask after the step, and what was measured."""

    def resolved(self, read: Callable[[str], Image]) -> Step:
        """Return the step with the files it names read; the step itself where it names none."""
        return self


@dataclass(frozen=True, kw_only=True)
class IntensityStep(Step):
    """A step that changes voxel values alone, frame by frame."""

    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return the image after the step, on the same grid, and what was measured."""
        check_intensities(image, self.name)
        inside = mask_array(image, mask)
        frames, measured = [], []
        for frame in image.frames():
            values, found = self.change(frame, inside)
            frames.append(values)
            measured.append(found)
        data = frames[0] if image.kind == "scalar" else np.stack(frames)
        return Outcome(
            image.with_data(data), mask, measured[0] if len(measured) == 1 else {"frames": measured}
        )

    @abstractmethod
    def change(self, frame: Image, mask: Foreground | None) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the new voxels of one scalar image, and what was measured."""


def check_intensities(image: Image, step: str) -> None:
    """Refuse labels, and voxels that are no numbers."""
    if isinstance(image, LabelImage):
        raise GeometryError(
            f"{step} changes intensities and would destroy labels; apply geometric steps alone to a label image, "
            "or bring it onto the result's grid: regista apply LABELS --like RESULT -o OUT --labels (in Python "
            "Preprocessed.carry_labels)"
        )
    if image.data.dtype.kind not in "biuf":
        raise GeometryError(f"{step} handles real numbers, got voxels of type {image.data.dtype}")
    if image.data.dtype.kind == "f" and not np.isfinite(image.data).all():
        bad = int(image.data.size - np.count_nonzero(np.isfinite(image.data)))
        raise GeometryError(f"{step}: the image has {bad} NaN or Inf voxels; set them to a number first")


def mask_array(image: Image, mask: Image | None) -> Foreground | None:
    """Return a mask as booleans on the image's grid."""
    if mask is None:
        return None
    if mask.kind != "scalar":
        raise GeometryError(f"the mask has one value per voxel, got a {mask.kind} image of {len(mask.data)}")
    if not mask.grid.same_as(image.grid):
        raise GeometryError(
            f"the mask lies on another grid ({mask.grid.describe()}) than the image ({image.grid.describe()}); "
            "resample it first: regista apply MASK --like IMAGE -o OUT --labels"
        )
    inside = mask.as_float32() > 0
    if not inside.any():
        raise GeometryError("the mask is empty: no voxel is above 0")
    return inside


def foreground_values(frame: Image, mask: Foreground | None, step: str) -> Voxels:
    """Return the values statistics are taken over: the mask's, else what differs from the surround.

    The surround is the value of the first voxel, where a thousandth of the image has exactly that value.
    """
    data = frame.as_float32()
    if mask is not None:
        values = data[mask]
    else:
        other = data != data.flat[0]
        count = int(np.count_nonzero(other))
        values = data[other] if 0 < count < 0.999 * data.size else data.ravel()
    if values.min() == values.max():
        where = "inside the mask" if mask is not None else "in the image"
        raise GeometryError(f"{step}: all voxels {where} have the value {values.flat[0]:g}")
    return values


def check_percentiles(name: str, percentiles: tuple[float, float]) -> None:
    """Refuse percentiles that are not 0 ≤ low < high ≤ 100."""
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise PlanError(f"{name} is [low, high] with 0 ≤ low < high ≤ 100, got {[low, high]}")


def load(value: Any, read: Callable[[str], Image]) -> Any:
    """Return a file's content where `value` is its name."""
    return read(value) if isinstance(value, str) else value


def needs_file(step: Step, field: str, value: Any) -> None:
    """Refuse a file name that has not been read yet."""
    if isinstance(value, str):
        raise PlanError(
            f"{step.name}, {field}: the file {value!r} has not been read yet; read it, or give the image itself (in "
            "Python Pipeline.with_files(regista.read))"
        )


def plain(value: Any) -> Any:
    """Return parameters as plain JSON types; images by name, grid and hash."""
    if isinstance(value, Image):
        return {
            "space": value.space,
            "grid": value.grid.describe(),
            "sha256": hash_array(value.data),
        }
    if isinstance(value, Grid):
        return {"shape": list(value.shape), "grid2world": value.grid2world.tolist()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
