"""The operations of training in plain torch: what runs on a GPU, and what the CPU's kernels are tested against.

Fields are displacements in voxels of their own grid, ``(B, n, *shape)``, components in the order of the axes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_CODES_AT_ONCE = 16
"""Labels whose overlap is found in one pass: more would take more memory."""


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def _still(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the places of all voxels as `grid_sample` counts them, ``(1, *shape, n)``, and what a voxel is there."""
    step = [2 / max(n - 1, 1) for n in shape]
    axes = [torch.arange(n, device=device, dtype=dtype) * one - 1 for n, one in zip(shape, step, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None]
    return places, torch.tensor(step[::-1], device=device, dtype=dtype)


def warp(image: Tensor, field: Tensor, outside: str = "border") -> Tensor:
    """Sample ``image(x + field(x))`` linearly; places outside take the nearest edge value, or with 'zeros' none."""
    places, step = _still(tuple(field.shape[2:]), field.device, field.dtype)
    grid = torch.addcmul(places, field.flip(1).movedim(1, -1), step)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=outside, align_corners=True)


def exponential(velocity: Tensor, squarings: int) -> Tensor:
    """Return the displacement of the flow along a stationary velocity for unit time, by scaling and squaring."""
    field = velocity / 2**squarings
    for _ in range(squarings):
        field = field + warp(field, field)
    return field


def _means(volume: Tensor, radius: int) -> Tensor:
    """Return means over cubic windows, cut off at the borders."""
    ndim = volume.dim() - 2
    pool = F.avg_pool3d if ndim == 3 else F.avg_pool2d
    for axis in range(ndim):
        width = [1] * ndim
        pad = [0] * ndim
        width[axis], pad[axis] = 2 * radius + 1, radius
        volume = pool(volume, width, 1, pad, count_include_pad=False)
    return volume


def lncc(fixed: Tensor, warped: Tensor, radius: int, floor: float) -> Tensor:
    """Return minus the mean squared local correlation over windows in which the fixed image is not flat."""
    products = torch.cat([fixed, warped, fixed * warped, fixed * fixed, warped * warped], 1)
    mean_f, mean_w, both, squares_f, squares_w = _means(products, radius).split(1, 1)
    cross = both - mean_f * mean_w
    spread_f, spread_w = squares_f - mean_f**2, squares_w - mean_w**2
    counted = spread_f > floor
    kept = counted & (spread_w > floor)
    ratio = torch.where(kept, cross**2, 0) / torch.where(kept, spread_f * spread_w, 1)
    axes = tuple(range(1, fixed.dim()))
    return -(ratio.sum(axes) / counted.sum(axes).clamp(min=1)).mean()


def mean_squares(fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the mean squared difference."""
    return ((fixed - warped) ** 2).mean()


def diffusion(field: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Return the mean of ``‖∇u‖²`` in mm per mm; forward and backward squares averaged, one-sided at the borders."""
    total = field.new_zeros(())
    voxels = field[0, 0].numel() * len(field)
    field = torch.cat([one * step for one, step in zip(field.split(1, 1), spacing, strict=True)], 1)
    for axis, step in enumerate(spacing):
        if field.shape[axis + 2] < 2:
            continue
        squares = (torch.diff(field, dim=axis + 2) / step) ** 2
        ends = squares.select(axis + 2, 0).sum() + squares.select(axis + 2, -1).sum()
        # inner voxels share each difference by halves; the two at the ends have it twice
        total = total + squares.sum() + 0.5 * ends
    return total / voxels


def soft_dice(fixed: Tensor, moving: Tensor, field: Tensor, count: int) -> Tensor:
    """Return the mean soft Dice of labels 1 … `count` − 1 over those the fixed image has."""
    ndim, means = field.shape[1], []
    for item in range(len(field)):
        here, there, motion = fixed[item : item + 1], moving[item : item + 1], field[item : item + 1]
        present = torch.bincount(here.flatten().long(), minlength=count)[1:count].nonzero().flatten() + 1
        if not present.numel():
            means.append(motion.sum() * 0)
            continue
        scores = []
        for some in present.split(_CODES_AT_ONCE):
            codes = some.view(1, -1, *[1] * ndim)
            one, other = (
                (here == codes).to(field.dtype),
                warp((there == codes).to(field.dtype), motion, "zeros"),
            )
            axes = tuple(range(2, ndim + 2))
            scores.append(2 * (one * other).sum(axes).flatten() / (one + other.square()).sum(axes).flatten())
        means.append(torch.cat(scores).mean())
    return torch.stack(means).mean()
