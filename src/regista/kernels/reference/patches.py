"""Reference of `regista.kernels.cpu.patches`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Table = NDArray[np.float64]


def sample_patches(
    image: NDArray[np.float32], matrices: Table, waves: Table, side: tuple[int, int, int]
) -> Table:
    """Return patches of an image at places that are turned, scaled and warped."""
    p = np.indices(side).reshape(3, -1).astype(np.float64)
    p -= np.array([n // 2 for n in side])[:, None]
    out = np.empty((len(matrices), *side))
    for n, matrix in enumerate(matrices):
        places = p.copy()
        for wave in waves[n]:
            places += wave[:3, None] * np.sin(wave[3:6] @ p + wave[6])
        places = matrix[:, :3] @ places + matrix[:, 3:]
        values = ndimage.map_coordinates(image.astype(np.float64), places, order=1, mode="nearest")
        out[n] = values.reshape(side)
    return out
