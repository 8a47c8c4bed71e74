"""The operations of training in plain torch: what runs on a GPU, and what the CPU's kernels are tested against.

Fields are displacements in voxels of their own grid, ``(B, n, *shape)``, components in the order of the axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CODES_AT_ONCE = 16
"""Labels whose overlap is found in one pass: more would take more memory."""


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Sample ``image(x + field(x))`` linearly; places outside take the nearest edge value."""
    ndim = field.shape[1]
    size = torch.tensor(image.shape[2:], device=field.device, dtype=field.dtype)
    axes = [torch.arange(n, device=field.device, dtype=field.dtype) for n in field.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    scale = (2 / (size - 1).clamp(min=1)).view(1, ndim, *[1] * ndim)
    grid = (places * scale - 1).flip(1).movedim(1, -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def exponential(velocity: Tensor, squarings: int) -> Tensor:
    """Return the displacement of the flow along a stationary velocity for unit time, by scaling and squaring."""
    field = velocity / 2**squarings
    for _ in range(squarings):
        field = field + warp(field, field)
    return field


def _box(volume: Tensor, radius: int) -> Tensor:
    """Sum over cubic windows, cut off at the borders."""
    ndim = volume.dim() - 2
    for axis in range(ndim):
        width = [1] * ndim
        pad = [0] * ndim
        width[axis], pad[axis] = 2 * radius + 1, radius
        kernel = volume.new_ones((1, 1, *width))
        convolve = F.conv3d if ndim == 3 else F.conv2d
        volume = convolve(volume, kernel, padding=pad)
    return volume


def lncc(fixed: Tensor, warped: Tensor, radius: int, floor: float) -> Tensor:
    """Return minus the mean squared local correlation over windows in which the fixed image is not flat."""
    count = _box(torch.ones_like(fixed), radius)
    mean_f, mean_w = _box(fixed, radius) / count, _box(warped, radius) / count
    cross = _box(fixed * warped, radius) - count * mean_f * mean_w
    spread_f = _box(fixed * fixed, radius) - count * mean_f**2
    spread_w = _box(warped * warped, radius) - count * mean_w**2
    counted = spread_f > floor * count
    kept = counted & (spread_w > floor * count)
    ratio = torch.where(kept, cross**2, 0) / torch.where(kept, spread_f * spread_w, 1)
    axes = tuple(range(1, fixed.dim()))
    return -(ratio.sum(axes) / counted.sum(axes).clamp(min=1)).mean()


def mean_squares(fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the mean squared difference."""
    return ((fixed - warped) ** 2).mean()


def diffusion(field: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Return the mean of ``‖∇u‖²`` in mm per mm; forward and backward squares averaged, one-sided at the borders."""
    total = field.new_zeros(())
    scale = torch.tensor(spacing, device=field.device, dtype=field.dtype)
    voxels = field[0, 0].numel() * len(field)
    for axis, step in enumerate(spacing):
        if field.shape[axis + 2] < 2:
            continue
        squares = torch.diff(field, dim=axis + 2) ** 2
        squares = squares.movedim(1, -1) * (scale / step) ** 2
        ends = squares.select(axis + 1, 0).sum() + squares.select(axis + 1, -1).sum()
        # inner voxels share each difference by halves; the two at the ends have it twice
        total = total + squares.sum() + 0.5 * ends
    return total / voxels


def soft_dice(fixed: Tensor, moving: Tensor, field: Tensor, count: int) -> Tensor:
    """Return the mean soft Dice of labels 1 … `count` − 1 over those the fixed image has."""
    ndim, means = field.shape[1], []
    for item in range(len(field)):
        here, there, motion = fixed[item : item + 1], moving[item : item + 1], field[item : item + 1]
        present = torch.bincount(here.flatten().long(), minlength=count)[1:count].nonzero().flatten() + 1
        scores = []
        for some in present.split(_CODES_AT_ONCE):
            codes = some.view(1, -1, *[1] * ndim)
            one, other = (here == codes).to(field.dtype), warp((there == codes).to(field.dtype), motion)
            axes = tuple(range(2, ndim + 2))
            scores.append(2 * (one * other).sum(axes).flatten() / (one + other.square()).sum(axes).flatten())
        means.append(torch.cat(scores).mean() if scores else motion.sum() * 0)
    return torch.stack(means).mean()
