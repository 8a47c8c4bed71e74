"""What solvers that smooth updates and fields by Gaussians share."""

from __future__ import annotations

from regista.core import PlanError
from regista.kernels.cpu.filters import gaussian_taps


def check_sigmas(**sigmas_vox: float) -> None:
    """Refuse standard deviations, voxels, that are not between 0 and 20; each by its name.

    Examples
    --------
    >>> check_sigmas(update_sigma_vox=1.7, field_sigma_vox=0.5)
    """
    for name, value in sigmas_vox.items():
        if not 0 <= value <= 20:
            raise PlanError(f"{name} is between 0 and 20 voxels, got {value}")


def reach_of(*sigmas_vox: float) -> int:
    """Return the largest radius of Gaussian filters, voxels.

    Examples
    --------
    >>> reach_of(0.0, 0.5) < reach_of(2.0)
    True
    """
    return max(len(gaussian_taps(sigma)) - 1 for sigma in sigmas_vox)
