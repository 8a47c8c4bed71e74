"""The kernels as torch operations: against plain torch, and gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from regista.core import PlanError, threads
from regista.kernels.cpu import warp as fast_warp
from regista.kernels.reference import warp as slow_warp
from regista.learning import _ops, _torch_ops
from regista.regularization import Bending, Diffusion, LogJacobian
from regista.similarity import LNCC, MIND, NCC, NMI, SSD

SHAPES = [(11, 14, 9), (13, 10), (16, 7, 12)]
SPACING = (1.0, 0.7, 2.3)


def smooth(rng, *shape, sigma=1.5, scale=1.0):
    noise = rng.normal(size=shape)
    lead = len(shape) - (3 if len(shape) == 5 else 2)
    data = ndimage.gaussian_filter(noise, [0] * lead + [sigma] * (len(shape) - lead))
    return torch.from_numpy((scale * data / data.std()).astype(np.float32))


def slope_of(value, tensor, direction, step):
    """Return the central difference of a function along a direction, and what the gradient says."""
    leaf = tensor.clone().requires_grad_()
    value(leaf).backward()
    said = float((leaf.grad.double() * direction).sum())
    with torch.no_grad():
        ends = [float(value((tensor.double() + s * direction).float()).double()) for s in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step), said


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_warp_equals_grid_sample_with_both_gradients(rng, shape):
    image = smooth(rng, 2, 3, *shape).requires_grad_()
    field = smooth(rng, 2, len(shape), *shape, scale=2.0).requires_grad_()
    weight = smooth(rng, 2, 3, *shape)
    results = []
    for ops in (_ops, _torch_ops):
        out = ops.warp(image, field)
        results.append((out.detach(), *torch.autograd.grad((out * weight).sum(), (image, field))))
    for ours, plain in zip(*results, strict=True):
        scale = float(plain.abs().max())
        # a place that rounding puts on the other side of a voxel has another slope: a few at most
        bad = ((ours - plain).abs() > 2e-4 * scale).float().mean()
        assert float(bad) < 2e-3, float((ours - plain).abs().max())


@pytest.mark.parametrize("shape", [(11, 14, 9), (13, 1, 10), (1, 9, 12), (1, 1, 1)], ids=str)
def test_the_adjoint_of_the_warp_equals_its_reference(rng, shape):
    there = tuple(n + 2 if n > 1 else 1 for n in shape)
    affine = np.hstack([np.eye(3) + rng.uniform(-0.08, 0.08, (3, 3)), rng.uniform(0.2, 1.4, (3, 1))])
    field = rng.normal(0, 2, (3, *shape)).astype(np.float32)
    gradient = rng.normal(size=shape).astype(np.float32)
    expected = slow_warp.warp_adjoint(gradient, affine, field, moving_shape=there)
    found = []
    for count in (1, 2, 5):
        with threads(count):
            found.append(fast_warp.warp_adjoint(gradient, affine, field, moving_shape=there))
    np.testing.assert_allclose(found[0], expected, atol=3e-5)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    # the adjoint's own definition: <W m, g> = <m, Wᵀ g>
    moving = rng.normal(size=there).astype(np.float32)
    warped = slow_warp.warp(moving, affine, field, shape=shape)
    assert float((warped * gradient).sum()) == pytest.approx(float((moving * expected).sum()), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_exponential_equals_scaling_and_squaring_in_plain_torch(rng, shape):
    velocity = smooth(rng, 2, len(shape), *shape, sigma=2.0, scale=1.5).requires_grad_()
    weight = smooth(rng, 2, len(shape), *shape)
    results = []
    for ops in (_ops, _torch_ops):
        out = ops.exponential(velocity, 6)
        results.append((out.detach(), torch.autograd.grad((out * weight).sum(), velocity)[0]))
    (ours, our_slope), (plain, plain_slope) = results
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    assert float((our_slope - plain_slope).norm() / plain_slope.norm()) < 0.02


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lncc_and_ssd_equal_plain_torch_with_gradients_by_both_images(rng, shape):
    fixed = smooth(rng, 2, 1, *shape).requires_grad_()
    warped = (0.5 * fixed.detach() + 0.7 * smooth(rng, 2, 1, *shape)).requires_grad_()
    for metric, plain in (
        (LNCC(radius=2), lambda f, w: _torch_ops.lncc(f, w, 2, 1e-5)),
        (SSD(), _torch_ops.mean_squares),
    ):
        values = (_ops.dissimilarity(metric, fixed, warped), plain(fixed, warped))
        results = [(v.detach(), *torch.autograd.grad(3 * v, (fixed, warped))) for v in values]
        for ours, other in zip(*results, strict=True):
            torch.testing.assert_close(ours, other, atol=2e-3 * float(other.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("metric", [LNCC(radius=2), SSD(), NCC(), NMI(bins=16), MIND()], ids=lambda m: m.name)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_gradients_of_similarities(rng, metric, shape):
    fixed = torch.sigmoid(smooth(rng, 1, 1, *shape))
    warped = torch.sigmoid(0.5 * fixed + smooth(rng, 1, 1, *shape))
    direction = smooth(rng, 1, 1, *shape).double()
    step = 3e-4 if metric.name == "mind" else 3e-3  # MIND takes a minimum: no kink may lie between
    found, said = slope_of(lambda w: _ops.dissimilarity(metric, fixed, w), warped, direction, step)
    # MIND's bounds and NMI's range are constants of the gradient
    assert said == pytest.approx(found, rel=0.12 if metric.name in ("mind", "nmi") else 0.02, abs=1e-4)


@pytest.mark.parametrize("term", [Diffusion(weight=2.0), Bending(), LogJacobian()], ids=lambda p: p.name)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_gradients_of_penalties(rng, term, shape):
    field = smooth(rng, 2, len(shape), *shape, sigma=2.0, scale=0.3)
    direction = smooth(rng, 2, len(shape), *shape).double()
    found, said = slope_of(lambda u: _ops.penalty(term, u, SPACING[: len(shape)]), field, direction, 1e-3)
    assert said == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_diffusion_equals_plain_torch(rng, shape):
    field = smooth(rng, 2, len(shape), *shape).requires_grad_()
    spacing = SPACING[: len(shape)]
    values = (
        _ops.penalty(Diffusion(weight=1.0), field, spacing),
        _torch_ops.diffusion(field, spacing),
    )
    ours, plain = ((v.detach(), torch.autograd.grad(v, field)[0]) for v in values)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [4, 20])  # more than are compared at once
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_soft_dice_equals_plain_torch(rng, shape, count):
    fixed, moving = (torch.from_numpy(rng.integers(0, count, (2, 1, *shape))) for _ in range(2))
    fixed[fixed == 3] = 0  # a label that only the moving image has
    fixed[1] = 0  # an image that shows none
    field = smooth(rng, 2, len(shape), *shape, scale=2.0).requires_grad_()  # beyond the edges too
    results = []
    for ops in (_ops, _torch_ops):
        value = ops.soft_dice(fixed, moving, field, count)
        results.append((value.detach(), torch.autograd.grad(value, field)[0]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_a_metric_without_a_gradient_by_the_fixed_image_says_so(rng):
    image = smooth(rng, 1, 1, 13, 10).requires_grad_()
    with pytest.raises(PlanError, match="no gradient by the fixed image"):
        _ops.dissimilarity(NMI(), image, image.detach())
