"""What every similarity is: a configuration that, given a fixed image, yields values and gradients."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from regista.kernels.cpu.intensity import image_force

Volume = NDArray[np.float32]


def gathered(volume: NDArray[Any], voxels: NDArray[np.int64]) -> NDArray[Any]:
    """Return some voxels of a volume, by their flat indices, as one ``(N, 1, 1)``."""
    return volume.reshape(-1)[voxels].reshape(-1, 1, 1)


class Prepared(ABC):
    """A similarity bound to one fixed image.

    Parameters
    ----------
    fixed : (I, J, K) float32 ndarray
        Fixed image at this level.
    """

    symmetric: ClassVar[bool] = True
    """Whether the fixed image's gradient may stand in for the warped one's: they look alike."""
    reach_vox: int = 0
    """Radius of what a voxel's value depends on, voxels."""
    hides: bool = False
    """Whether voxels of weight 0 are left out of windows, patches and differences too: of what other voxels look at."""

    def __init__(self, fixed: Volume) -> None:
        self.fixed = fixed
        self._gradient: Volume | None = None

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same fixed image as it was warped anew; scales found from intensities stay what they are.

        For maps of both images: what the metric takes from the first look, such as the range of a histogram, must not
        change from step to step, or the value jumps.

        Parameters
        ----------
        fixed, weight : (I, J, K) float32 ndarray
            As for `Similarity.prepare`.
        """
        self.fixed = fixed

    def at(self, voxels: NDArray[np.int64]) -> Self:
        """Return the metric bound to some voxels of the fixed image alone, as an image ``(N, 1, 1)``.

        For metrics that compare voxel by voxel (`regista.similarity.is_pointwise`); neighbours are not kept.

        Parameters
        ----------
        voxels : (N,) int64 ndarray
            Flat indices; one may be named more than once.
        """
        few = copy.copy(self)
        few.fixed, few._gradient = gathered(self.fixed, voxels), None
        return few

    def sees(self, weight: Volume) -> bool:
        """Tell whether there is anything to compare, the voxels having a weight.

        Parameters
        ----------
        weight : (I, J, K) float32 ndarray
            As for `value_and_gradient`.
        """
        return bool(np.any(weight > 0))

    @abstractmethod
    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        """Return the dissimilarity D (lower is better) and write ``dD/dwarped`` to `out`.

        Parameters
        ----------
        warped : (I, J, K) float32 ndarray
            Moving image on the fixed grid.
        weight : (I, J, K) float32 ndarray or None
            Weight of each voxel, 0 outside masks and outside the moving image.
        out : (I, J, K) float32 ndarray
            Destination of the gradient.
        """

    def force(
        self,
        warped: Volume,
        weight: Volume | None,
        axis_scale: NDArray[np.float32],
        symmetric: bool,
        scratch: Volume,
        out: Volume,
        rows: NDArray[np.int32] | None = None,
    ) -> float:
        """Return D and write the descent force on a compositive update, ``(3, I, J, K)``, to `out`.

        With `symmetric`, the mean of both images' gradients is used, by metrics for images of one contrast.

        `scratch` is a ``(3, I, J, K)`` buffer that may be overwritten within `rows`, the only voxels that
        need to be computed (see `regista.kernels.cpu.rows`).
        """
        if self._gradient is None:
            self._gradient = np.empty(warped.shape, np.float32)
        gradient = self._gradient
        value = self.value_and_gradient(warped, weight, gradient)
        both = symmetric and self.symmetric
        image_force(gradient, warped, self.fixed, axis_scale, both, out=out, rows=rows)
        return value


@runtime_checkable
class Similarity(Protocol):
    """A similarity metric: its own configuration, without data."""

    name: ClassVar[str]

    @property
    def volumes(self) -> int:
        """Volumes of the image's size held at once, beyond what every metric needs."""
        ...

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image (and the weight of its voxels)."""
        ...
