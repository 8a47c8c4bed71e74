"""Images made up from labels."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from regista.core import PlanError
from regista.kernels.cpu.fields import jacobian_determinant
from regista.learning import (
    InputConfig,
    ModelConfig,
    NetworkConfig,
    SynthesisSource,
    random_shapes,
    train,
)
from regista.learning._synthesis import _full, _random_flow


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
        shades = {n: set(sample.fixed[sample.fixed_codes == n].tolist()) for n in range(1, 5)}
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
        flow = _random_flow(shape, 10.0, 1.5, np.random.default_rng(seed))
        assert flow.shape == (3, *_full(shape))
        assert jacobian_determinant(flow).min() > 0
        lengths.append([float(one.std()) for one, n in zip(flow, _full(shape), strict=True) if n > 1])
    assert 1.0 < np.mean(lengths) < 1.9
    # the flow of the opposite velocity leads back
    there, back = (_random_flow(shape, 10.0, sd, np.random.default_rng(0)) for sd in (1.5, -1.5))
    places = np.indices(_full(shape)) + there
    again = there + np.stack([ndimage.map_coordinates(one, places, order=1, mode="nearest") for one in back])
    inside = (slice(None), *(slice(5, -5) if n > 1 else slice(None) for n in _full(shape)))
    assert np.abs(again[inside]).max() < 0.2


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
