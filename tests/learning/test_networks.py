"""The networks: published sizes, any input, what training sees of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from regista.core import PlanError, RegistrationError, threads
from regista.learning import (
    ARCHITECTURES,
    KL,
    Architecture,
    Augmentation,
    InputConfig,
    Loss,
    ModelConfig,
    Motion,
    NetworkConfig,
    RegistrationNetwork,
    TrainingConfig,
)
from regista.learning._inference import TrainedNetwork
from regista.learning._inference import edge_strength as answer_edges
from regista.learning._networks import convolved, edge_strength
from regista.learning._validation import mean_dice
from regista.regularization import Diffusion
from regista.similarity import LNCC, NMI, SSD


def convolutions(network):
    kinds = (torch.nn.Conv2d, torch.nn.Conv3d)
    return [(m.in_channels, m.out_channels, m.stride[0]) for m in network.modules() if isinstance(m, kinds)]


def test_voxelmorph_1_and_2_have_the_published_layers():
    down = [(2, 16, 2), (16, 32, 2), (32, 32, 2), (32, 32, 2)]
    up = [(32, 32, 1), (64, 32, 1), (64, 32, 1), (48, 32, 1)]
    first = RegistrationNetwork(3, ARCHITECTURES["voxelmorph-1"])
    assert convolutions(first) == [*down, *up, (32, 8, 1), (10, 8, 1), (8, 3, 1)]
    second = RegistrationNetwork(3, ARCHITECTURES["voxelmorph-2"])
    assert convolutions(second) == [*down, *up, (32, 32, 1), (34, 16, 1), (16, 16, 1), (16, 3, 1)]


def test_the_later_unet_pools_and_joins_at_full_resolution():
    network = RegistrationNetwork(3, ARCHITECTURES["unet-2019"])
    down = [(2, 16, 1), (16, 32, 1), (32, 32, 1), (32, 32, 1)]
    up = [(32, 32, 1), (64, 32, 1), (64, 32, 1), (64, 32, 1)]
    assert convolutions(network) == [*down, *up, (48, 32, 1), (32, 16, 1), (16, 16, 1), (16, 3, 1)]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
@pytest.mark.parametrize("shape", [(33, 20, 17), (19, 34), (16, 32)], ids=str)
def test_any_size_and_both_resolutions(name, half, shape):
    network = RegistrationNetwork(len(shape), ARCHITECTURES[name], diffeomorphic=half, half_resolution=half)
    images = torch.rand(2, 2, 1, *shape)
    motion = network(*images, backwards=True)
    assert motion.field.shape == (2, len(shape), *shape)
    assert float(motion.field.detach().abs().max()) < 0.05  # training begins next to the identity
    assert (motion.inverse is not None) == half
    motion.field.square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
@pytest.mark.parametrize("shape", [(33, 20, 17), (19, 34)], ids=str)
def test_every_resolution_refines_the_one_below(name, half, shape):
    torch.manual_seed(0)
    network = RegistrationNetwork(len(shape), ARCHITECTURES[name], half_resolution=half, resolutions=3)
    images = torch.rand(2, 1, 1, *shape)
    with torch.no_grad():  # the coarsest flow is a known shift, the finer ones add nothing
        network.flow.weight.zero_()
        for flow in network.coarser_flows:
            flow.weight.zero_()
        network.coarser_flows[0].bias.copy_(torch.arange(1.0, 1 + len(shape)))
    motion = network(*images)
    shrinks = [shrink for shrink, _ in motion.coarser]
    assert shrinks == ([4, 8] if half else [2, 4])
    for shrink, field in ((1, motion.field), *motion.coarser):
        for axis in range(len(shape)):
            torch.testing.assert_close(
                field[:, axis], torch.full_like(field[:, axis], (axis + 1) * shrinks[-1] / shrink)
            )
    assert motion.field.shape[2:] == shape
    assert network.eval()(*images).coarser == ()


def test_coarser_fields_are_scored_on_means_of_the_images():
    """A field that shifts by one coarse voxel brings the images' means together, and the loss says so."""
    shape, shrink = (24, 32), 2
    rng = np.random.default_rng(3)
    coarse = ndimage.gaussian_filter(rng.random((12, 16)), 1.0).astype(np.float32)
    fixed = torch.from_numpy(np.kron(coarse, np.ones((2, 2), np.float32)))[None, None]
    moving = torch.roll(fixed, 2, 2)
    field = torch.zeros(1, 2, 12, 16)
    shifted = field.clone()
    shifted[:, 0] = 1.0
    still = torch.zeros(1, 2, *shape)
    loss = Loss(similarity=SSD(), penalties=(Diffusion(weight=0.1),), coarser_weight=0.25)
    values = []
    for one in (field, shifted):
        leaf = one.clone().requires_grad_()
        motion = Motion(field=still, mean=still, coarser=((shrink, leaf),))
        terms = loss(motion, fixed, moving, (1.0, 1.0))
        terms["loss"].backward()
        values.append(float(terms["coarser"].detach()))
    means = F.avg_pool2d(fixed, 2), F.avg_pool2d(moving, 2)
    assert values[0] == pytest.approx(0.25 * float((means[0] - means[1]).square().mean()), rel=1e-5)
    # all but the row that leaves the image fits
    assert values[1] < 0.2 * values[0]
    assert float(terms["loss"].detach()) == pytest.approx(
        float(terms["ssd"].detach()) + float(terms["diffusion"].detach()) + values[1], rel=1e-5
    )
    assert bool(torch.isfinite(leaf.grad).all())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("shape", [(16, 16, 32), (16, 32)], ids=str)
def test_folded_upsampling_is_the_same_network(name, shape):
    torch.manual_seed(0)
    network = RegistrationNetwork(len(shape), ARCHITECTURES[name])
    with torch.no_grad():
        network.flow.weight *= 1e5
    images = torch.rand(2, 1, 1, *shape)
    found = []
    for folded in (False, True):
        network.body.folded = folded
        network.zero_grad()
        field = network(*images).field
        field.square().mean().backward()
        found.append((field.detach(), network.body.after[0].weight.grad.clone()))
    assert float(found[0][0].abs().max()) > 0.1
    for plain, folded in zip(*found, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def strong(ndim, sizes, **settings):
    """Return a network whose answer is far from 0."""
    torch.manual_seed(0)
    network = RegistrationNetwork(ndim, sizes, **settings).eval()
    for flow in (network.flow, *network.coarser_flows):
        torch.nn.init.normal_(flow.weight, 0, 0.05)
        torch.nn.init.normal_(flow.bias, 0, 0.5)
    return network


def answers_as(network, shape):
    """Compare answers of the kernels with the network's own, by one thread and by two."""
    moving, fixed = torch.rand(2, 1, 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(moving, fixed).field[0].numpy()
    assert np.abs(expected).max() > 0.2
    images = [one[0, 0].numpy() for one in (fixed, moving)]
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(network.trained().displacement_vox(*images))
    np.testing.assert_allclose(found[0], expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("shape", [(33, 24, 35), (41, 30)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"half_resolution": True},
        {"resolutions": 3},
        {"diffeomorphic": True, "half_resolution": True},
        {"diffeomorphic": True, "probabilistic": True, "edges": True},
    ],
    ids=str,
)
def test_answers_of_the_kernels_are_those_of_the_network(name, shape, settings):
    answers_as(strong(len(shape), ARCHITECTURES[name], **settings), shape)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (Architecture(encoder=(7,), decoder=(5, 3, 9), at_half=1), (16, 6, 7)),
        (Architecture(encoder=(7,), decoder=(5, 3, 9, 4), at_half=2), (17, 6, 7)),
        (Architecture(encoder=(4, 6), decoder=(5, 3, 8, 1)), (32, 5, 9)),
        (Architecture(encoder=(4, 16), decoder=(5, 16, 3), pooling="max"), (33, 5, 9)),
        (Architecture(encoder=(4, 6), decoder=(5, 3, 8, 8, 17), pooling="max"), (1, 1, 1)),
        (Architecture(encoder=(3,), decoder=(32, 9, 33), at_half=1), (1, 40)),
    ],
    ids=str,
)
def test_answers_of_other_networks(sizes, shape):
    answers_as(strong(len(shape), sizes), shape)


def test_an_answer_is_of_the_weights_as_they_are_now():
    network = strong(2, ARCHITECTURES["voxelmorph-1"])
    answers_as(network, (20, 24))
    with torch.no_grad():
        for one in network.parameters():
            one += 0.03 * torch.randn(one.shape, generator=torch.Generator().manual_seed(2))
    answers_as(network, (20, 24))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("shape", [(33, 24, 35), (41, 30)], ids=str)
def test_an_answer_is_not_of_those_before(name, shape):
    answer = strong(len(shape), ARCHITECTURES[name]).trained().displacement_vox
    fixed, moving = np.random.default_rng(0).random((2, *shape), np.float32)
    expected = answer(fixed, moving)
    kept = expected.copy()
    # another size that is padded to the same, and features that are all 0 or large
    others = [
        np.full((n, *shape[1:]), level, np.float32) for n in (shape[0], shape[0] + 1) for level in (0, 1e6)
    ]
    for other in others:
        answer(other, other)
        np.testing.assert_array_equal(answer(fixed, moving), kept)
    with pytest.raises(RegistrationError, match="NaN"):
        answer(fixed, np.full(shape, np.nan, np.float32))
    np.testing.assert_array_equal(answer(fixed, moving), kept)
    np.testing.assert_array_equal(expected, kept)


def test_answers_at_once():
    answer = strong(3, ARCHITECTURES["voxelmorph-1"]).trained().displacement_vox
    pairs = list(np.random.default_rng(0).random((6, 2, 33, 24, 35), np.float32))
    expected = [answer(*pair) for pair in pairs]
    with ThreadPoolExecutor(3) as pool:
        for found, one in zip(pool.map(lambda pair: answer(*pair), pairs), expected, strict=True):
            np.testing.assert_array_equal(found, one)


def test_an_answer_takes_views():
    network = strong(2, ARCHITECTURES["voxelmorph-1"], edges=True)
    fixed, moving = np.random.default_rng(0).random((2, 20, 24), np.float32)
    answer = network.trained().displacement_vox
    expected = answer(fixed[::-1].copy(), moving.T.copy().T)
    np.testing.assert_array_equal(answer(fixed[::-1], moving), expected)


@pytest.mark.parametrize(
    ("channels", "sides"), [(2, (90, 100, 4)), (9, (30, 41, 5)), (4, (6, 7, 8))], ids=str
)
def test_convolution_by_the_fast_route_is_the_same(channels, sides):
    torch.manual_seed(0)
    x, weight = torch.randn(1, channels, *sides), torch.randn(3, channels, 3, 3, 3)
    bias = torch.randn(3)
    found = []
    for how in (convolved, lambda x, w, b, s: F.conv3d(x.double(), w.double(), b.double(), s, 1)):
        leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]
        out = [how(*leaves, stride) for stride in (1, 2)]
        sum(one.square().sum() for one in out).backward()
        found.append([*(one.detach().float() for one in out), *(leaf.grad for leaf in leaves)])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


def test_padding_leaves_the_image_at_its_place():
    torch.manual_seed(0)
    network = RegistrationNetwork(2, ARCHITECTURES["voxelmorph-1"]).eval()
    network.flow.weight.data *= 1e3
    small = torch.rand(2, 1, 1, 27, 30)
    padded = F.pad(small.flatten(0, 2)[:, None], (0, 2, 0, 5)).reshape(2, 1, 1, 32, 32)
    torch.testing.assert_close(
        network(*padded).field[..., :27, :30], network(*small).field, atol=1e-4, rtol=1e-4
    )


def test_flow_and_inverse_undo_each_other_and_do_not_fold():
    torch.manual_seed(0)
    network = RegistrationNetwork(2, ARCHITECTURES["voxelmorph-1"], diffeomorphic=True).eval()
    smooth = F.interpolate(torch.rand(2, 1, 6, 6), size=(48, 48), mode="bicubic", align_corners=True)
    with torch.no_grad():
        network.flow.weight *= 3 / float(network(smooth[:1], smooth[1:]).field.abs().max())
        motion = network(smooth[:1], smooth[1:], backwards=True)
    field, inverse = (one[0].numpy().astype(float) for one in (motion.field, motion.inverse))
    assert np.abs(field).max() > 1
    places = np.indices((48, 48)) + inverse
    there = np.stack([ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in field])
    missed = np.abs(inverse + there)[:, 8:-8, 8:-8]
    assert missed.max() < 0.25 * np.abs(field).max()
    jacobian = np.stack([np.gradient(part, axis=a) for part in field for a in (0, 1)]).reshape(2, 2, 48, 48)
    assert ((1 + jacobian[0, 0]) * (1 + jacobian[1, 1]) - jacobian[0, 1] * jacobian[1, 0]).min() > 0


def test_sampling_is_of_the_generator_alone():
    network = RegistrationNetwork(2, ARCHITECTURES["voxelmorph-1"], diffeomorphic=True, probabilistic=True)
    pair = torch.rand(2, 1, 1, 16, 16)
    drawn = [network(*pair, [torch.Generator().manual_seed(n)]).field for n in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    mean = network(*pair)
    assert torch.equal(mean.field, network(*pair).field)
    # about exp(-10 / 2) voxels of spread at the start
    spread = network(*pair, [torch.Generator().manual_seed(3)]).field - mean.field
    assert 1e-3 < float(spread.detach().std()) < 2e-2


@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 6)], ids=str)
def test_kl_equals_the_divergence_of_the_gaussians(rng, shape):
    """KL(N(μ, Σ) ‖ N(0, (λL + εI)⁻¹)) differs from the term by a constant: so do differences of two of them."""
    count, precision = int(np.prod(shape)), 3.0
    laplacian = np.zeros((count, count))
    index = np.arange(count).reshape(shape)
    for axis in range(len(shape)):
        low = np.take(index, range(shape[axis] - 1), axis).ravel()
        high = np.take(index, range(1, shape[axis]), axis).ravel()
        for a, b in zip(low, high, strict=True):
            laplacian[[a, b], [a, b]] += 1
            laplacian[a, b] -= 1
            laplacian[b, a] -= 1

    def exact(mean, log_variance):
        variance = np.exp(log_variance)
        rough = sum(m.ravel() @ laplacian @ m.ravel() for m in mean)
        trace = (np.diag(laplacian) * variance.reshape(len(mean), -1)).sum()
        return 0.5 * (precision * (rough + trace) - log_variance.sum()) / count

    mean = rng.normal(size=(len(shape), *shape))
    spread = rng.normal(-2, 0.5, size=(len(shape), *shape))
    tensors = [torch.from_numpy(one[None].astype(np.float32)) for one in (mean, spread)]
    assert float(KL(precision=precision)(*tensors)) == pytest.approx(exact(mean, spread), rel=1e-5)


def test_the_loss_is_the_sum_of_its_terms_and_describes_itself():
    torch.manual_seed(0)
    network = RegistrationNetwork(2, ARCHITECTURES["voxelmorph-1"], diffeomorphic=True, probabilistic=True)
    pair = torch.rand(2, 1, 1, 16, 16)
    codes = (pair > 0.5).int()
    loss = Loss(
        similarity=LNCC(radius=2),
        penalties=(Diffusion(weight=0.5),),
        kl=KL(precision=5),
        dice_weight=0.3,
        bidirectional=True,
    )
    motion = network(pair[1], pair[0], [torch.Generator().manual_seed(0)], backwards=True)
    terms = loss(motion, pair[0], pair[1], (1.0, 1.0), (codes[0], codes[1], 2))
    assert set(terms) == {"loss", "lncc", "diffusion", "kl", "dice"}
    parts = sum(float(value) for name, value in terms.items() if name != "loss")
    assert float(terms["loss"]) == pytest.approx(parts, rel=1e-5)
    assert Loss.from_dict(loss.to_dict()) == loss
    config = ModelConfig(
        network=NetworkConfig(ndim=2, diffeomorphic=True, probabilistic=True),
        inputs=InputConfig(spacing_mm=(1.0, 2.0)),
        loss=loss,
    )
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Architecture(encoder=(16, 0), decoder=(8, 8)), "above 0"),
        (lambda: Architecture(encoder=(16, 16), decoder=(8,)), "each of the encoder's 2 levels"),
        (
            lambda: Architecture(encoder=(16,), decoder=(8, 8), at_half=1),
            "at least one at full resolution, got 2",
        ),
        (lambda: NetworkConfig(name="resnet"), "voxelmorph-1"),
        (lambda: NetworkConfig(probabilistic=True), "diffeomorphic"),
        (lambda: NetworkConfig(ndim=4), "2 or 3 axes"),
        (lambda: NetworkConfig(resolutions=6), "resolutions is a number between 1 and 5"),
        (lambda: NetworkConfig(resolutions=5, half_resolution=True), "between 1 and 4"),
        (lambda: Loss(coarser_weight=-0.5), "coarser_weight"),
        (lambda: Loss(similarity=NMI(), bidirectional=True), "lncc or ssd"),
        (lambda: Loss(dice_weight=-1), "dice_weight"),
        (lambda: ModelConfig(inputs=InputConfig(spacing_mm=(1.0, 1.0))), "3 voxel sizes"),
        (lambda: ModelConfig(inputs=InputConfig(spacing_mm=(1.0,) * 3, shape=(32, 32))), "sees 3 axes"),
        (
            lambda: ModelConfig(
                inputs=InputConfig(spacing_mm=(1.0,) * 3),
                training=TrainingConfig(augmentation=Augmentation(flip_axes=(0, 3))),
            ),
            "axes to flip",
        ),
        (
            lambda: ModelConfig(inputs=InputConfig(spacing_mm=(1.0,) * 3), loss=Loss(bidirectional=True)),
            "diffeomorphic",
        ),
        (lambda: ModelConfig(inputs=InputConfig(spacing_mm=(1.0,) * 3), loss=Loss(kl=KL())), "probabilistic"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(PlanError, match=message):
        make()


def test_mean_dice_counts_labels_of_either_map():
    fixed, moving = np.zeros((2, 6, 5), np.int32)
    fixed[:2], moving[1:3] = 1, 1
    moving[4] = 2
    assert mean_dice(fixed, moving, 4) == pytest.approx((0.5 + 0.0) / 2)
    assert SSD().name == "ssd"


@pytest.mark.parametrize("shape", [(33, 24, 35), (41, 30), (5, 3), (1, 2, 9)], ids=str)
def test_edges_are_as_strong_without_torch(shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    expected = edge_strength(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(answer_edges(image), expected, atol=2e-6)
    np.testing.assert_allclose(answer_edges(1 - image), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop("flow.bias"), "flow.bias: got none, expected 2"),
        (lambda weights: weights.update(more=np.zeros((2, 3))), "more: got 2 × 3, expected none"),
        (
            lambda weights: weights.update({"body.up.0.weight": np.zeros((32, 3, 3, 3), np.float32)}),
            "body.up.0.weight: got 32 × 3 × 3 × 3, expected 32 × 32 × 3 × 3",
        ),
    ],
)
def test_weights_of_another_network_are_refused(change, told):
    network = RegistrationNetwork(2, ARCHITECTURES["voxelmorph-1"])
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    change(weights)
    with pytest.raises(ValueError, match=told):
        TrainedNetwork(2, ARCHITECTURES["voxelmorph-1"], weights)


def test_an_answer_that_is_not_finite_is_told():
    network = strong(2, ARCHITECTURES["voxelmorph-1"], diffeomorphic=True)
    with torch.no_grad():
        network.flow.bias += 3e38
        network.flow.bias *= 3
    with pytest.raises(RegistrationError, match="NaN or Inf"):
        network.trained().displacement_vox(*np.zeros((2, 16, 16), np.float32))
