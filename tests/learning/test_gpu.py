"""What runs on a graphics card gives what the CPU gives; where there is none, nothing here runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ops import SHAPES, SPACING, smooth

from regista.core.weights import read_weights
from regista.learning import (
    Augmentation,
    InputConfig,
    Loss,
    ModelConfig,
    NetworkConfig,
    PairSource,
    PreparedScans,
    SynthesisSource,
    TrainingConfig,
    _ops,
    random_shapes,
    train,
)
from regista.regularization import Diffusion
from regista.similarity import LNCC, SSD, DeepMetric

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no graphics card")


@pytest.fixture(autouse=True)
def whole_floats():
    """Leave out the short mantissas that convolutions on the card have by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def both(value, *tensors):
    """Return a value and its gradients by the CPU and by the card."""
    found = []
    for device in ("cpu", "cuda"):
        leaves = [
            one.detach().to(device).requires_grad_(one.is_floating_point() and one.requires_grad)
            for one in tensors
        ]
        out = value(*leaves)
        slopes = torch.autograd.grad(out, [one for one in leaves if one.requires_grad])
        found.append([out.detach().cpu(), *(one.cpu() for one in slopes)])
    return found


def agree(found, value=2e-4, slope=2e-3, share=2e-3):
    here, there = found
    assert float(here[0]) == pytest.approx(float(there[0]), rel=value, abs=1e-6)
    for ours, theirs in zip(here[1:], there[1:], strict=True):
        assert bool(torch.isfinite(ours).all() & torch.isfinite(theirs).all())
        assert float(theirs.abs().max()) > 0
        # a place that rounding puts on the other side of a voxel has another slope: a few at most
        bad = ((ours - theirs).abs() > slope * theirs.abs().max()).float().mean()
        assert float(bad) < share, float((ours - theirs).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", [LNCC(radius=2), SSD()], ids=["lncc", "ssd"])
def test_similarities_of_warped_images_and_their_gradients(rng, shape, metric):
    fixed, moving = smooth(rng, 2, 1, *shape), smooth(rng, 2, 1, *shape)
    field = smooth(rng, 2, len(shape), *shape, scale=1.5).requires_grad_()
    agree(both(lambda f, m, u: _ops.dissimilarity(metric, f, _ops.warp(m, u)), fixed, moving, field))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_penalty_and_exponential(rng, shape):
    velocity = smooth(rng, 2, len(shape), *shape, sigma=2.0, scale=1.5).requires_grad_()
    spacing = SPACING[: len(shape)]
    term = Diffusion(weight=0.7)
    agree(both(lambda v: _ops.penalty(term, v, spacing), velocity))
    agree(both(lambda v: _ops.exponential(v, 6).square().mean(), velocity))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_soft_dice_of_more_labels_than_go_at_once(rng, shape):
    """And of an image that shows none of them."""
    maps = [torch.from_numpy(rng.integers(0, 24, (2, 1, *shape)).astype(np.int32)) for _ in range(2)]
    field = smooth(rng, 2, len(shape), *shape).requires_grad_()
    maps[0][1] = 0
    agree(both(lambda f, m, u: _ops.soft_dice(f, m, u, 24), *maps, field))


def source_of(shape):
    maps = random_shapes(shape, count=4, labels=4, size=8)
    made = SynthesisSource(maps=maps, same_contrast=1.0, targets=True)
    rng = np.random.default_rng(0)
    images = [made.sample(rng).fixed for _ in range(4)]
    pairs = tuple((a, b) for a in range(4) for b in range(4) if a != b)
    scans = PreparedScans(images, list(maps), tuple(range(5)), tuple("abcd"), pairs)
    return PairSource(scans, Augmentation(flip_axes=(0,))), made


@pytest.mark.parametrize("probabilistic", [False, True])
@pytest.mark.parametrize("made_up", [False, True])
def test_a_training_begins_as_on_the_cpu(tmp_path, probabilistic, made_up):
    config = ModelConfig(
        network=NetworkConfig(diffeomorphic=True, probabilistic=probabilistic, half_resolution=True),
        inputs=InputConfig(spacing_mm=(2.0,) * 3, shape=(32, 32, 32)),
        loss=Loss(similarity=LNCC(radius=2), dice_weight=0.5),
        training=TrainingConfig(steps=12, batch=2, validate_every=4, learning_rate=5e-4),
    )
    source = source_of((32, 32, 32))[made_up]
    logs = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        result = train(config, source, tmp_path / device, device=device)
        rows = (tmp_path / device / "log.csv").read_text(encoding="utf-8").splitlines()
        loss = rows[0].split(",").index("loss")
        logs.append([float(row.split(",")[loss]) for row in rows[1:]])
        assert result.steps == 12
        assert (result.devices[0] == torch.cuda.get_device_name(0)) == (device == "cuda")
    np.testing.assert_allclose(logs[0][0], logs[1][0], rtol=1e-3)
    np.testing.assert_allclose(logs[0], logs[1], rtol=2e-2)  # rounding grows from step to step


def test_a_training_goes_on_after_an_interruption(tmp_path):
    config = ModelConfig(
        inputs=InputConfig(spacing_mm=(2.0,) * 3, shape=(32, 32, 32)),
        training=TrainingConfig(steps=8, validate_every=4),
    )
    source = source_of((32, 32, 32))[0]

    def stop(report):
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, source, tmp_path, progress=stop, device="cuda")
    assert train(config, source, tmp_path, device="cuda").steps == 8
    train(config, source, tmp_path / "whole", device="cuda")
    parts, whole = (
        read_weights(folder / "model.safetensors")[0] for folder in (tmp_path, tmp_path / "whole")
    )
    for name in parts:  # sums on a card have no fixed order
        np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=2e-3)


def test_a_trained_metric_on_the_card(rng):
    image = smooth(rng, 1, 1, 40, 44, 38)[0, 0].numpy()
    other = smooth(rng, 1, 1, 40, 44, 38)[0, 0].numpy()
    found = []
    for device in ("cpu", "cuda"):
        metric = DeepMetric(model="brain-t1-t2", device=device)
        gradient = np.empty_like(other)
        value = metric.prepare(image, None).value_and_gradient(other, None, gradient)
        found.append((value, gradient))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-3 * np.abs(found[0][1]).max())
