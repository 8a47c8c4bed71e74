"""The iterative engine's kernels as differentiable torch operations; on other devices, plain torch.

Tensors are ``(B, C, *shape)``, fields ``(B, n, *shape)`` in voxels of their own grid, in 2-D and 3-D. On the CPU every
operation computes its gradient together with its value, in the kernel, and only scales it on the way back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regista.core import Grid, PlanError, RegistrationError
from regista.kernels.cpu import fields as field_kernels
from regista.kernels.cpu.overlap import soft_dice as soft_dice_kernel
from regista.kernels.cpu.warp import warp as warp_kernel
from regista.kernels.cpu.warp import warp_adjoint, warp_gradient
from regista.learning import _torch_ops as plain
from regista.regularization import Diffusion, Penalty
from regista.similarity import LNCC, SSD, Similarity

Volume = NDArray[np.float32]
_STILL = np.eye(4)[:3]


def as_volume(tensor: Tensor) -> Volume:
    """Return one image as kernels take it: ``(I, J, K)``, a slice as ``(I, 1, J)``, so that rows run along memory."""
    array = tensor.detach().float().contiguous().numpy()
    return cast(Volume, array if array.ndim == 3 else array[:, None, :])


def as_vectors(tensor: Tensor) -> Volume:
    """Return one field as kernels take it: ``(3, I, J, K)``; within a slice the middle component is 0."""
    array = tensor.detach().float().contiguous().numpy()
    if len(array) == 3:
        return cast(Volume, array)
    out = np.zeros((3, array.shape[1], 1, array.shape[2]), np.float32)
    out[0, :, 0], out[2, :, 0] = array
    return out


def _image_back(volume: Volume, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume)).reshape(like.shape)


def _field_back(vectors: Volume, ndim: int) -> Tensor:
    if ndim == 3:
        return torch.from_numpy(vectors)
    return torch.from_numpy(np.ascontiguousarray(vectors[::2, :, 0]))


@contextlib.contextmanager
def _written(field: Tensor) -> Iterator[Volume]:
    """Give the place where a kernel writes a field: in 3-D the tensor itself, pages as large being dear to fill twice."""
    if len(field) == 3:
        yield field.numpy()
        return
    vectors = as_vectors(field)
    yield vectors
    field.copy_(_field_back(vectors, 2))


def _codes(tensor: Tensor) -> NDArray[np.int32]:
    array = tensor.detach().to(torch.int32).contiguous().numpy()
    return cast(NDArray[np.int32], array if array.ndim == 3 else array[:, None, :])


def _check_finite(field: Tensor) -> None:
    """Refuse fields that the kernels, which ask nothing, would follow out of the image."""
    if not math.isfinite(float(field.detach().sum())):
        raise RegistrationError(
            "the network's field holds NaN or Inf: lower the learning rate and train again"
        )


class _Warp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, field: Tensor) -> Tensor:
        _check_finite(field)
        ctx.save_for_backward(image, field)
        out = torch.empty((*image.shape[:2], *field.shape[2:]), dtype=torch.float32)
        for item in range(len(image)):
            vectors = as_vectors(field[item])
            for channel in range(image.shape[1]):
                target = as_volume(out[item, channel])
                warp_kernel(
                    as_volume(image[item, channel]), _STILL, vectors, shape=vectors.shape[1:], out=target
                )
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        image, field = ctx.saved_tensors
        by_image = torch.zeros(image.shape) if ctx.needs_input_grad[0] else None
        by_field = torch.empty(field.shape) if ctx.needs_input_grad[1] else None
        for item in range(len(image)):
            vectors = as_vectors(field[item])
            part: Volume | None = None
            for channel in range(image.shape[1]):
                slope = as_volume(gradient[item, channel])
                source = as_volume(image[item, channel])
                if by_field is not None:
                    if channel == 0:
                        with _written(by_field[item]) as first:
                            warp_gradient(source, _STILL, vectors, slope, out=first)
                    else:
                        part = np.empty_like(vectors) if part is None else part
                        warp_gradient(source, _STILL, vectors, slope, out=part)
                        by_field[item] += _field_back(part, field.shape[1])
                if by_image is not None:
                    spread = warp_adjoint(slope, _STILL, vectors, moving_shape=source.shape)
                    by_image[item, channel] = _image_back(spread, image[item, channel])
        return by_image, by_field


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocity: Tensor, squarings: int) -> Tensor:
        _check_finite(velocity)
        ctx.flows = [field_kernels.squarings(as_vectors(one), squarings) for one in velocity]
        ndim = velocity.shape[1]
        return torch.stack([_field_back(flow[-1], ndim) for flow in ctx.flows])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        ndim = gradient.shape[1]
        found = [
            _field_back(np.ascontiguousarray(field_kernels.exponential_adjoint(flow, as_vectors(one))), ndim)
            for flow, one in zip(ctx.flows, gradient, strict=True)
        ]
        return torch.stack(found), None


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, metric: Similarity) -> Tensor:
        by_fixed = torch.zeros(fixed.shape) if ctx.needs_input_grad[0] else None
        by_warped = torch.empty(warped.shape)
        total = 0.0
        for item in range(len(fixed)):
            here, there = fixed[item, 0], warped[item, 0]
            gradient = np.empty_like(as_volume(there))
            value = metric.prepare(as_volume(here), None).value_and_gradient(as_volume(there), None, gradient)
            total += value
            by_warped[item, 0] = _image_back(gradient, there)
            if by_fixed is not None:
                other = metric.prepare(as_volume(there), None).value_and_gradient(
                    as_volume(here), None, gradient
                )
                # the same sum, but shared among the windows in which the other image is not flat
                by_fixed[item, 0] = _image_back(gradient, here) * (value / other if other else 1.0)
        ctx.count = len(fixed)
        ctx.save_for_backward(by_warped, by_fixed)
        return torch.tensor(total / len(fixed), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        by_warped, by_fixed = ctx.saved_tensors
        scale = gradients[0] / ctx.count
        return None if by_fixed is None else by_fixed * scale, by_warped * scale, None


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, term: Penalty, spacing: tuple[float, ...]) -> Tensor:
        ndim, shape = field.shape[1], tuple(field.shape[2:])
        full = shape if ndim == 3 else (shape[0], 1, shape[1])
        steps = spacing if ndim == 3 else (spacing[0], 1.0, spacing[1])
        prepared = term.prepare(Grid(full, np.diag([*steps, 1.0])))
        by_field = torch.zeros(field.shape)
        total = 0.0
        for item in range(len(field)):
            with _written(by_field[item]) as gradient:
                total += prepared.value_and_gradient(as_vectors(field[item]), gradient)
        ctx.count = len(field)
        ctx.save_for_backward(by_field)
        return torch.tensor(total / len(field), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (by_field,) = ctx.saved_tensors
        return by_field * (gradients[0] / ctx.count), None, None


class _SoftDice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fixed: Tensor, moving: Tensor, field: Tensor, count: int) -> Tensor:
        by_field = torch.zeros(field.shape)
        total = 0.0
        for item in range(len(field)):
            here, vectors = _codes(fixed[item, 0]), as_vectors(field[item])
            sizes = np.bincount(here.ravel(), minlength=count)
            present = int(np.count_nonzero(sizes[1:]))
            if not present:
                continue
            gradient = np.zeros_like(vectors)
            codes = np.where(sizes[_codes(moving[item, 0])] > 0, _codes(moving[item, 0]), 0)
            scores = soft_dice_kernel(here, codes, _STILL, vectors, sizes, factor=1 / present, out=gradient)
            total += float(scores[sizes[1:] > 0].mean())
            by_field[item] = _field_back(gradient, field.shape[1])
        ctx.count = len(field)
        ctx.save_for_backward(by_field)
        return torch.tensor(total / len(field), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, None]:
        (by_field,) = ctx.saved_tensors
        return None, None, by_field * (gradients[0] / ctx.count), None


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Sample ``image(x + field(x))`` linearly, differentiable by both.

    Parameters
    ----------
    image : (B, C, *shape) tensor
        Images; places outside take the nearest edge value.
    field : (B, n, *shape) tensor
        Displacement in voxels.

    Returns
    -------
    (B, C, *shape) float32 tensor
        The warped images.

    Examples
    --------
    >>> warp(torch.arange(4.0).reshape(1, 1, 4, 1), torch.full((1, 2, 4, 1), 0.5)).flatten().tolist()
    [0.5, 1.5, 2.5, 3.0]
    """
    if image.device.type != "cpu":
        return plain.warp(image.float(), field.float())
    return cast(Tensor, _Warp.apply(image, field))


def exponential(velocity: Tensor, squarings: int = 7) -> Tensor:
    """Return the displacement reached by flowing along a velocity for unit time (scaling and squaring).

    Parameters
    ----------
    velocity : (B, n, *shape) tensor
        Stationary velocity, voxels per unit time.
    squarings : int
        How often the field is composed with itself.

    Notes
    -----
    V. Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006.
    """
    if velocity.device.type != "cpu":
        return plain.exponential(velocity.float(), squarings)
    return cast(Tensor, _Exponential.apply(velocity, squarings))


def dissimilarity(metric: Similarity, fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the mean dissimilarity of a batch, lower is better: any metric of `regista.similarity`.

    Parameters
    ----------
    metric : Similarity
        Such as ``LNCC(radius=4)``; the very object that the iterative engine takes.
    fixed, warped : (B, 1, *shape) tensor
        Images. The value is differentiable by `warped`, and by `fixed` for the metrics that treat both alike
        (`LNCC`, `SSD`).

    Raises
    ------
    PlanError
        If `fixed` asks for a gradient that the metric has not, or the metric does not run on the device.
    """
    if fixed.requires_grad and not isinstance(metric, (LNCC, SSD)):
        raise PlanError(
            f"{metric.name} has no gradient by the fixed image: use lncc or ssd for losses in both directions"
        )
    if fixed.device.type == "cpu":
        return cast(Tensor, _Similarity.apply(fixed, warped, metric))
    if isinstance(metric, LNCC):
        return plain.lncc(fixed.float(), warped.float(), metric.radius, max(metric.floor, 1e-12))
    if isinstance(metric, SSD):
        return plain.mean_squares(fixed.float(), warped.float())
    raise PlanError(f"{metric.name} runs on the CPU alone: train with lncc or ssd, or with --device cpu")


def penalty(term: Penalty, field: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Return the mean penalty of a batch of fields: any penalty of `regista.regularization` on one field.

    Parameters
    ----------
    term : Penalty
        Such as ``Diffusion(weight=1.0)``; its weight is in the value.
    field : (B, n, *shape) tensor
        Displacement in voxels.
    spacing : tuple of n floats
        Voxel size, mm.
    """
    if field.device.type == "cpu":
        return cast(Tensor, _Penalty.apply(field, term, spacing))
    if isinstance(term, Diffusion):
        return term.weight * plain.diffusion(field.float(), spacing)
    raise PlanError(f"{term.name} runs on the CPU alone: train with diffusion, or with --device cpu")


def soft_dice(fixed: Tensor, moving: Tensor, field: Tensor, count: int) -> Tensor:
    """Return the mean soft Dice of labels, differentiable by the field.

    Parameters
    ----------
    fixed, moving : (B, 1, *shape) integer tensor
        Codes below `count`; 0 is the background and not scored, nor are codes the fixed image lacks.
    field : (B, n, *shape) tensor
        Displacement in voxels.
    count : int
        Number of codes, background included.
    """
    if field.device.type != "cpu":
        return plain.soft_dice(fixed, moving, field.float(), count)
    return cast(Tensor, _SoftDice.apply(fixed, moving, field, count))
