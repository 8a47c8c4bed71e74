"""Pictures of what a network does with a pair, for its model card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from regista.io import replacing
from regista.learning._networks import RegistrationNetwork
from regista.learning._ops import warp
from regista.learning._prepare import PreparedScans
from regista.learning._validation import chosen_pairs

COLUMNS = (
    "fixed image",
    "moving image",
    "moving image, warped",
    "difference before",
    "difference after",
    "length of the displacement",
)
"""What the tiles of a row show."""
_GAP, _LEAST = 4, 128
"""Pixels between tiles, and below which tiles are enlarged by a whole factor."""
Plane = NDArray[np.float32]


def _plane(volume: NDArray[np.float32]) -> Plane:
    """Return the middle slice along the third axis of a volume, the first axis to the right, the second up."""
    flat = volume if volume.ndim == 2 else volume[..., volume.shape[2] // 2]
    return np.asarray(flat.T[::-1])


def _row(fixed: Plane, moving: Plane, warped: Plane, lengths: Plane) -> Plane:
    """Return a pair's tiles side by side; differences are 0.5, mid-grey, where there is none."""
    tiles = (fixed, moving, warped, 0.5 + 0.5 * (fixed - moving), 0.5 + 0.5 * (fixed - warped), lengths)
    return np.hstack([np.pad(tile, _GAP // 2, constant_values=1.0) for tile in tiles])


@torch.no_grad()
def write_pictures(
    path: Path, network: RegistrationNetwork, scans: PreparedScans, count: int = 3, device: str = "cpu"
) -> float:
    """Write a PNG with a row of tiles, `COLUMNS`, for each of some pairs.

    Parameters
    ----------
    path : Path
        The picture.
    network : RegistrationNetwork
        The network.
    scans : PreparedScans
        Scans with pairs; of volumes the middle slice along the third axis is shown.
    count : int
        Pairs at most, spread evenly over all.
    device : str
        Where the network lies.

    Returns
    -------
    float
        The longest displacement shown, voxels: white in the last column.
    """
    network.eval()
    found = []
    for a, b in chosen_pairs(scans, count):
        fixed, moving = (torch.from_numpy(scans.images[n])[None, None] for n in (a, b))
        field = network(moving.to(device), fixed.to(device)).field.cpu()
        shown = (fixed[0, 0], moving[0, 0], warp(moving, field)[0, 0], field[0].norm(dim=0))
        found.append([_plane(one.numpy()) for one in shown])
    longest = max(float(planes[-1].max()) for planes in found)
    for planes in found:
        planes[-1] /= np.float32(max(longest, 1e-6))  # one scale for all rows
    rows = [_row(*planes) for planes in found]
    pixels = np.rint(255 * np.clip(np.vstack(rows), 0, 1)).astype(np.uint8)
    factor = max(1, -(-_LEAST // max(found[0][0].shape)))
    with replacing(path) as temporary:
        Picture.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)).save(temporary)
    return longest
