"""Images made up from labels."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from regista.core import PlanError
from regista.kernels.cpu.fields import compose, jacobian_determinant
from regista.kernels.cpu.warp import warp
from regista.learning import (
    InputConfig,
    Loss,
    ModelConfig,
    NetworkConfig,
    SynthesisSource,
    TrainingConfig,
    random_shapes,
    train,
)
from regista.learning._networks import Motion
from regista.learning._objective import endpoint_error
from regista.learning._synthesis import _Anatomy, _full, _Look, _random_flow


@pytest.mark.parametrize("shape", [(24, 31, 17), (40, 33)], ids=str)
def test_samples_are_of_the_generator_alone_and_show_their_labels(shape):
    maps = random_shapes(shape, count=2, labels=5, size=9)
    source = SynthesisSource(maps=maps, noise=0.01, blur=0.2, thick=0.0, bias=0.02, dark_background=1.0)
    first, second = (source.sample(np.random.default_rng(3)) for _ in range(2))
    other = source.sample(np.random.default_rng(4))
    np.testing.assert_array_equal(first.fixed, second.fixed)
    np.testing.assert_array_equal(first.moving_codes, second.moving_codes)
    assert not np.array_equal(first.fixed, other.fixed)
    for image, codes in ((first.fixed, first.fixed_codes), (first.moving, first.moving_codes)):
        assert image.shape == codes.shape == shape
        assert image.dtype == np.float32
        assert 0 <= image.min() < 0.05
        assert 0.9 < image.max() <= 1
        assert codes.max() < source.code_count
        # a label is of one shade: within labels intensities vary less than between them
        within = np.mean([image[codes == n].var() for n in range(6) if (codes == n).any()])
        assert within < 0.5 * image.var()


def test_both_images_show_one_anatomy_in_other_shapes():
    maps = random_shapes((48, 48), count=1, labels=4, size=12)
    source = SynthesisSource(maps=maps, deformation_vox=4.0)
    samples = [source.sample(np.random.default_rng(n)) for n in range(12)]
    overlaps = [np.mean(s.fixed_codes == s.moving_codes) for s in samples]
    assert 0.5 < min(overlaps) < 0.9
    still = SynthesisSource(maps=maps, deformation_vox=0.0).sample(np.random.default_rng(0))
    np.testing.assert_array_equal(still.fixed_codes, maps[0])
    # contrasts differ between the two images of a pair
    correlations = [np.corrcoef(s.fixed.ravel(), s.moving.ravel())[0, 1] for s in samples]
    assert min(correlations) < 0.2


def test_two_people_make_a_pair_when_asked():
    maps = random_shapes((32, 32), count=6, labels=3, size=8)
    source = SynthesisSource(maps=maps, across=1.0, deformation_vox=0.0)
    sample = source.sample(np.random.default_rng(1))
    assert not np.array_equal(sample.fixed_codes, sample.moving_codes)


def test_codes_of_one_tissue_are_equally_bright():
    maps = random_shapes((48, 48), count=1, labels=4, size=12)
    plain = {"noise": 0.0, "blur": 0.0, "thick": 0.0, "bias": 0.0}
    source = SynthesisSource(maps=maps, tissues=(0, 41, 2, 41, 3), **plain)
    for number in range(3):
        sample = source.sample(np.random.default_rng(number))
        inside = {
            n: ndimage.binary_erosion(sample.fixed_codes == n, iterations=3) for n in range(1, 5)
        }  # borders are mixed
        shades = {n: set(sample.fixed[where].tolist()) for n, where in inside.items()}
        assert shades[1] == shades[3]
        assert len({tuple(shade) for shade in shades.values()}) == 3
    with pytest.raises(PlanError, match="tissues are given for 2 codes, the label maps have 5"):
        SynthesisSource(maps=maps, tissues=(0, 1))


def test_fluid_is_dark_in_half_of_the_images_and_in_no_target():
    maps = random_shapes((40, 40), count=1, labels=4, size=12)
    still = {"maps": maps, "deformation_vox": 0.0, "bias": 0.0, "noise": 0.0, "blur": 0.0, "thick": 0.0}
    source = SynthesisSource(fluid=(2,), dark_background=1.0, targets=True, **still)
    samples = [source.sample(np.random.default_rng(n)) for n in range(40)]
    shown = [np.median(image[maps[0] == 2]) > 0 for one in samples for image in (one.fixed, one.moving)]
    assert 25 < sum(shown) < 55
    assert all(np.median(one.fixed_target[maps[0] == 2]) > 0 for one in samples)
    assert all(np.median(one.fixed[maps[0] == 3]) > 0 for one in samples)
    with pytest.raises(PlanError, match=r"between 1 and 4, got \[5\]"):
        SynthesisSource(maps=maps, fluid=(5,))


def test_targets_show_the_same_two_shapes_in_one_contrast():
    maps = random_shapes((48, 48), count=1, labels=4, size=12)
    source = SynthesisSource(maps=maps, targets=True, tissues=(0, 41, 2, 41, 0))
    first, again = (source.sample(np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.fixed_target, again.fixed_target)
    inside = [ndimage.binary_erosion(first.fixed_codes == n, iterations=3) for n in range(5)]
    there = [ndimage.binary_erosion(first.moving_codes == n, iterations=3) for n in range(5)]
    shades = [float(np.median(first.fixed_target[mask])) for mask in inside if mask.any()]
    for mask, other in zip(inside, there, strict=True):
        if mask.any() and other.any():
            assert np.median(first.fixed_target[mask]) == pytest.approx(
                np.median(first.moving_target[other]), abs=1e-5
            )
    assert len({round(shade, 4) for shade in shades}) <= 3
    background = inside[0] | inside[4]
    assert first.fixed_target[background].max() < 1e-3
    # a network that is shown two contrasts is not compared by them
    plain = SynthesisSource(maps=maps)
    assert (source.comparable, plain.comparable) == (True, False)
    with pytest.raises(PlanError, match="made up are of two contrasts"):
        train(
            ModelConfig(network=NetworkConfig(ndim=2), inputs=InputConfig(spacing_mm=(1, 1))),
            plain,
            Path("."),
        )


def test_a_share_of_the_pairs_has_one_contrast():
    maps = random_shapes((40, 40), count=1, labels=6, size=10)
    still = {"maps": maps, "deformation_vox": 0.0, "bias": 0.0, "noise": 0.0, "blur": 0.0, "thick": 0.0}

    def order(image):
        shown = [code for code in range(1, 7) if (maps[0] == code).any()]
        return np.argsort([np.median(image[maps[0] == code]) for code in shown]).tolist()

    for share, least, most in ((1.0, 40, 40), (0.0, 0, 4), (0.5, 12, 28)):
        source = SynthesisSource(same_contrast=share, **still)
        samples = [source.sample(np.random.default_rng(n)) for n in range(40)]
        alike = sum(order(one.fixed) == order(one.moving) for one in samples)
        assert least <= alike <= most, (share, alike)
    source = SynthesisSource(reversed_contrast=1.0, **still)
    samples = [source.sample(np.random.default_rng(n)) for n in range(10)]
    assert all(order(one.fixed) == order(one.moving)[::-1] for one in samples)
    with pytest.raises(PlanError, match="together at most 1"):
        SynthesisSource(maps=maps, same_contrast=0.6, reversed_contrast=0.5)


@pytest.mark.parametrize("shape", [(41, 30, 28), (48, 53)], ids=str)
def test_random_flows_are_as_long_as_asked_for_and_do_not_fold(shape):
    lengths = []
    for seed in range(6):
        flow = _random_flow(shape, 10.0, 1.5, np.random.default_rng(seed))(1)
        assert flow.shape == (3, *_full(shape))
        assert jacobian_determinant(flow).min() > 0
        lengths.append([float(one.std()) for one, n in zip(flow, _full(shape), strict=True) if n > 1])
    assert 1.0 < np.mean(lengths) < 1.9
    # the other way in time leads back
    there, back = (_random_flow(shape, 10.0, 1.5, np.random.default_rng(0))(time) for time in (1, -1))
    places = np.indices(_full(shape)) + there
    again = there + np.stack([ndimage.map_coordinates(one, places, order=1, mode="nearest") for one in back])
    inside = (slice(None), *(slice(5, -5) if n > 1 else slice(None) for n in _full(shape)))
    assert np.abs(again[inside]).max() < 0.2


def _moved(image, displacement):
    full = _full(image.shape)
    vectors = np.zeros((3, *full), np.float32)
    vectors[:: 4 - image.ndim] = displacement.reshape(-1, *full)
    return np.asarray(warp(image.reshape(full), np.eye(3, 4), vectors, shape=full)).reshape(image.shape)


@pytest.mark.parametrize(("shape", "spacing"), [((64, 72, 56), (8.0, 32.0)), ((96, 96), (8.0, 8.0))], ids=str)
def test_the_known_displacement_leads_to_the_same_place_of_the_map(shape, spacing):
    """What lies at x in the fixed copy, and at x + ψ(x) in the moving one, is one place of the map."""
    maps = random_shapes(shape, count=1, labels=6, size=12)
    source = SynthesisSource(maps=maps, deformation_vox=6.0, deformation_spacing=spacing)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        fixed, moving = (source._deformed(maps[0], rng) for _ in range(2))
        known = source._known(fixed, moving)
        sure = np.isfinite(known).all(axis=0)
        assert 0.5 < sure.mean() < 1
        flat = np.zeros((3, *_full(shape)), np.float32)
        flat[:: 4 - len(shape)] = np.nan_to_num(known).reshape(-1, *_full(shape))
        left = np.linalg.norm(compose(moving.field, flat) - fixed.field, axis=0).reshape(shape)[sure]
        assert np.linalg.norm(fixed.field, axis=0).mean() > 0.3
        assert (
            left.mean() < 0.1
        )  # by parts of a voxel, as flows are interpolated; .5 and more in the wrong order
        assert left.max() < 1.0


@pytest.mark.parametrize("shape", [(56, 48, 40), (64, 72)], ids=str)
def test_the_known_displacement_brings_the_moving_image_onto_the_fixed_one(shape):
    source = SynthesisSource(
        maps=random_shapes(shape, count=1, labels=12, size=12), deformation_vox=4, targets=True
    )
    inside = tuple(slice(5, -5) for _ in shape)
    left = np.zeros(5)
    assert source.knows_displacement
    for seed in range(6):
        pair = source.sample(np.random.default_rng(seed))
        assert pair.known_vox is not None
        assert pair.known_vox.shape == (len(shape), *shape)
        for number, share in enumerate((-1.0, 0.0, 0.9, 1.0, 1.1)):
            moved = _moved(pair.moving_target, share * np.nan_to_num(pair.known_vox))
            left[number] += np.abs(moved - pair.fixed_target)[inside].mean()
    assert left[3] < min(0.4 * left[1], 0.25 * left[0], left[2], left[4])


def test_borders_lie_where_the_flow_puts_them_by_parts_of_a_voxel():
    drawn = np.zeros((16, 24, 20), np.int32)
    drawn[:, 8:16] = 1
    for shift in (0.0, 0.2, 0.5, 0.9):
        field = np.zeros((3, *drawn.shape), np.float32)
        field[1] = shift
        shown = _Anatomy(drawn, drawn, lambda time, field=field: field * time, field).shown(
            np.array([0, 1], np.float32)
        )
        profile = shown[8, :, 10]
        middle = (np.arange(24) * profile).sum() / profile.sum()
        assert profile.sum() == pytest.approx(8, abs=1e-5)
        assert middle == pytest.approx(11.5 - shift, abs=1e-5)


@pytest.mark.parametrize("dark", [0.0, 1.0])
def test_images_that_a_network_sees_have_borders_between_voxels(dark):
    """Of a slab moved by parts of a voxel the middle moves by as much, on a dark background too, and noise stays within it there."""
    drawn = np.zeros((14, 24, 14), np.int32)
    drawn[:, 8:16] = 1
    plain = {"thick": 0.0, "bias": 0.0, "blur": 1.0, "dark_background": dark}
    source = SynthesisSource(maps=(drawn,), noise=0.0, **plain)
    look = _Look(np.array([0.0, 1.0], np.float32), np.array([True, False]), bool(dark))
    for shift in (0.0, 0.05, 0.3, 0.5, 0.95):
        field = np.zeros((3, *drawn.shape), np.float32)
        field[1] = shift
        anatomy = _Anatomy(drawn, drawn, lambda time, field=field: field * time, field)
        profile = source._image(anatomy, look, np.random.default_rng(1))[7, :, 7]
        middle = (np.arange(24) * profile).sum() / profile.sum()
        assert middle == pytest.approx(11.5 - shift, abs=0.01)
    noisy = SynthesisSource(maps=(drawn,), noise=0.5, **(plain | {"blur": 0.0}))
    image = noisy._image(anatomy, look, np.random.default_rng(2))
    assert (image[:, :6].std() < 1e-6) == bool(dark)
    # blur comes after: a scan that was cut out is soft outside too
    soft = SynthesisSource(maps=(drawn,), noise=0.5, **(plain | {"blur": 6.0}))
    assert soft._image(anatomy, look, np.random.default_rng(3))[:, 6].std() > 1e-4


def test_most_made_up_images_are_deformed_a_little():
    shape = (24, 24)
    source = SynthesisSource(maps=random_shapes(shape, count=1, labels=3, size=8), deformation_vox=4.0)
    rng = np.random.default_rng(0)
    lengths = [
        float(np.sqrt((source._deformed(source.maps[0], rng).field ** 2).sum(0).mean())) for _ in range(120)
    ]
    assert 0.3 < np.mean(np.array(lengths) < 1.0) < 0.7
    assert max(lengths) > 2.5


def test_displacements_are_given_where_they_are_asked_for_and_can_be():
    maps = random_shapes((24, 24), count=1, labels=3, size=8)
    one = SynthesisSource(maps=maps, across=1.0)  # of a single map, both images are of one
    assert one.knows_displacement
    assert one.sample(np.random.default_rng(0)).known_vox is not None
    silent = SynthesisSource(maps=maps, displacements=False)
    assert not silent.knows_displacement
    assert silent.sample(np.random.default_rng(0)).known_vox is None
    for across in (-0.1, 1.1, float("nan")):
        with pytest.raises(PlanError, match="between 0 and 1"):
            SynthesisSource(maps=maps, across=across)


def test_a_loss_weighs_the_end_point_error_within_the_fixed_labels():
    truth = torch.zeros(1, 2, 8, 8)
    truth[:, 0], truth[:, 1] = 2.0, -1.0
    here, there = torch.zeros(2, 1, 1, 8, 8, dtype=torch.int32)
    here[..., :3], there[..., 5:] = 1, 1
    field = truth.clone()
    field[..., :3] += torch.tensor([3.0, 4.0])[:, None, None]  # 5 voxels away within the fixed labels alone
    images = torch.rand(2, 1, 1, 8, 8)
    for weight in (1.0, 2.0):
        loss = Loss(similarity_weight=0.0, penalties=(), endpoint_weight=weight)
        told = [
            float(
                loss(Motion(field=one, mean=one), *images, (1, 1), (here, there, 2), [truth[0]])["endpoint"]
            )
            for one in (truth, field)
        ]
        assert told == pytest.approx([0.0, 5.0 * weight], rel=0.02, abs=1e-6)
    unsure = truth[0].clone()
    unsure[:, :, 1:3] = torch.nan
    field[..., 1:3] = 99.0
    assert float(endpoint_error(field, [unsure], here > 0)) == pytest.approx(5.0, rel=0.02)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(PlanError, match="endpoint_weight is a finite number of at least 0"):
            Loss(endpoint_weight=wrong)


def test_pairs_of_two_maps_have_no_known_displacement():
    maps = random_shapes((24, 24), count=4, labels=3, size=8)
    source = SynthesisSource(maps=maps, across=0.8)
    samples = [source.sample(np.random.default_rng(n)) for n in range(40)]
    known = sum(one.known_vox is not None for one in samples)
    assert 6 < known < 28  # of one map in (1 − .8) + .8 / 4 of the pairs
    assert source.knows_displacement
    assert not SynthesisSource(maps=maps, across=1.0).knows_displacement


def test_the_end_point_error_is_the_mean_distance_in_what_labels_cover():
    truth = torch.zeros(2, 6, 5)
    truth[0] = 3.0
    field = torch.stack([truth + torch.tensor([0.0, 4.0])[:, None, None], truth, truth])
    where = torch.zeros(3, 1, 6, 5, dtype=torch.bool)
    where[:, :, :2] = True
    field[0, :, 2:] = 99.0  # where no label is
    # of three pairs one is 4 voxels away, one has no known displacement, one is right
    found = float(endpoint_error(field, [truth, None, truth], where))
    assert found == pytest.approx(4 / 3, rel=0.03)
    assert float(endpoint_error(field, [None, None, None], where)) == 0
    far = float(endpoint_error(field, [truth, None, None], None))
    assert far > 30
    field.requires_grad_(True)
    endpoint_error(field, [truth, None, truth], where).backward()
    assert torch.isfinite(field.grad).all()
    assert (field.grad[0, 1, :2] > 0).all()
    assert not field.grad[0, :, 2:].any()


def test_a_network_learns_from_known_displacements_alone_and_scans_are_refused_for_it(tmp_path):
    loss = Loss(similarity_weight=0.0, penalties=(), endpoint_weight=1.0)
    setup = TrainingConfig(steps=80, learning_rate=2e-3, validate_every=20, augmentation=None)
    network = NetworkConfig(ndim=2, diffeomorphic=True)
    config = ModelConfig(network=network, inputs=InputConfig(spacing_mm=(1, 1)), loss=loss, training=setup)
    config = config.with_shape((32, 32))
    assert ModelConfig.from_dict(config.to_dict()) == config
    maps = random_shapes((32, 32), count=2, labels=5, size=8)

    class OnePair(SynthesisSource):
        def sample(self, rng):
            return super().sample(np.random.default_rng(2))

    train(config, OnePair(maps=maps, deformation_vox=4.0), tmp_path)
    first, last = (_log(tmp_path)[n]["endpoint"] for n in (0, -1))
    assert last < 0.5 * first
    with pytest.raises(PlanError, match="no displacement is known of these pairs"):
        train(config, SynthesisSource(maps=maps, across=1.0), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def _log(folder):
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_maps_of_two_sizes_are_refused():
    maps = (*random_shapes((20, 20), count=1), *random_shapes((20, 22), count=1))
    with pytest.raises(PlanError, match="one size"):
        SynthesisSource(maps=maps)
    with pytest.raises(PlanError, match="at least, got none"):
        SynthesisSource(maps=())


def test_a_pair_is_made_faster_than_a_step_is_done():
    import torch

    from regista.learning import ARCHITECTURES, Loss, RegistrationNetwork

    shape = (48, 64, 56)
    source = SynthesisSource(maps=random_shapes(shape, count=1, labels=8))
    source.sample(np.random.default_rng(0))
    network, loss = RegistrationNetwork(3, ARCHITECTURES["voxelmorph-2"]), Loss()
    made, done = [], []
    for number in range(3):
        began = time.perf_counter()
        sample = source.sample(np.random.default_rng(number))
        made.append(time.perf_counter() - began)
        fixed, moving = (torch.from_numpy(one)[None, None] for one in (sample.fixed, sample.moving))
        began = time.perf_counter()
        loss(network(moving, fixed), fixed, moving, (1.0, 1.0, 1.0))["loss"].backward()
        done.append(time.perf_counter() - began)
    assert min(made) < min(done)
