"""SimpleITK on arrays: spacing alone matters to these filters, positions stay with the grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Image, get_threads


@contextmanager
def itk() -> Iterator[Any]:
    """Give SimpleITK, with Regista's number of threads, and turn what it raises into an error of ours."""
    import SimpleITK as sitk  # only steps that filter need it

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(get_threads())
    try:
        yield sitk
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1]
        raise GeometryError(f"SimpleITK could not process the image: {detail}") from error
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def to_itk(image: Image, data: NDArray[Any] | None = None) -> Any:
    """Return voxels (float32 unless given) as a SimpleITK image with the grid's spacing."""
    import SimpleITK as sitk

    voxels = image.as_float32() if data is None else data
    out = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    out.SetSpacing([float(s) for s in image.grid.spacing])
    return out


def from_itk(image: Any) -> NDArray[np.float32]:
    """Return the voxels in array order."""
    import SimpleITK as sitk

    return np.ascontiguousarray(sitk.GetArrayFromImage(image).T)
