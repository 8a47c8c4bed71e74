"""The discrete search against its reference: costs of displacements, and the cheapest near a field."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import discrete
from regista.kernels.reference import discrete as slow

SHAPES = [(7, 8, 5), (6, 1, 7), (5, 4, 1), (1, 1, 3)]
REACHES = [(2, 1, 3), (0, 0, 0), (1, 0, 1)]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("reach", [*REACHES, (3, 2, 0)])
def test_displacements_run_with_the_last_axis_fastest(reach):
    found = discrete.displacements(reach)
    np.testing.assert_array_equal(found, slow.displacements(reach))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[len(found) // 2], 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("masked", [False, True])
def test_costs_equal_their_reference(rng, shape, reach, masked):
    fixed, moving = (rng.random((3, *shape)).astype(np.float32) for _ in range(2))
    weight = rng.random(shape).astype(np.float32) if masked else None
    arguments = (fixed, moving, weight, reach, 0.7)
    found = discrete.displacement_costs(*arguments)
    np.testing.assert_allclose(found, slow.displacement_costs(*arguments), atol=1e-6)


def test_costs_of_features_that_are_not_contiguous(rng):
    fixed, moving = (rng.random((5, 6, 7, 2)).astype(np.float32).transpose(3, 2, 0, 1) for _ in range(2))
    arguments = (fixed, moving, None, (1, 2, 1), 0.5)
    np.testing.assert_allclose(
        discrete.displacement_costs(*arguments), slow.displacement_costs(*arguments), atol=1e-6
    )


def test_a_shifted_image_costs_nothing_at_its_shift(rng):
    fixed = rng.random((4, 9, 8, 7)).astype(np.float32)
    shift = (2, -1, 1)
    moving = np.roll(fixed, shift, axis=(1, 2, 3))
    reach = (2, 2, 2)
    costs, offsets = (
        discrete.displacement_costs(fixed, moving, None, reach, 9.0),
        discrete.displacements(reach),
    )
    inner = (slice(2, -2),) * 3
    best = offsets[np.argmin(costs[inner], axis=-1)]
    np.testing.assert_array_equal(best, np.broadcast_to(shift, best.shape))
    assert costs[inner].min(axis=-1).max() == 0
    # two voxels past the end nothing is known
    past = int(np.flatnonzero((offsets == (2, 0, 0)).all(axis=1))[0])
    np.testing.assert_array_equal(costs[-2:, ..., past], 9.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.0, 0.05, 5.0])
def test_the_cheapest_equals_its_reference(rng, shape, strength):
    offsets = discrete.displacements((2, 1, 1))
    costs = rng.random((*shape, len(offsets))).astype(np.float32)
    field = rng.normal(0, 1, (3, *shape)).astype(np.float32)
    found, expected = np.empty_like(field), np.empty_like(field)
    assert discrete.cheapest(costs, offsets, field, strength, out=found) is found
    slow.cheapest(costs, offsets, field, strength, out=expected)
    np.testing.assert_array_equal(found, expected)


def test_a_strong_pull_gives_the_nearest_displacement(rng):
    offsets = discrete.displacements((3, 3, 3))
    field = rng.uniform(-2.9, 2.9, (3, 4, 5, 6)).astype(np.float32)
    costs = rng.random((4, 5, 6, len(offsets))).astype(np.float32)
    found = discrete.cheapest(costs, offsets, field, 1e6, out=np.empty_like(field))
    np.testing.assert_array_equal(found, np.rint(field))


def test_the_number_of_threads_changes_no_bit(rng):
    fixed, moving = (rng.random((3, 9, 6, 7)).astype(np.float32) for _ in range(2))
    offsets, field = discrete.displacements((1, 1, 1)), rng.normal(size=(3, 9, 6, 7)).astype(np.float32)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            costs = discrete.displacement_costs(fixed, moving, None, (1, 1, 1), 0.4)
            results.append((costs, discrete.cheapest(costs, offsets, field, 0.1, out=np.empty_like(field))))
    for costs, best in results[1:]:
        np.testing.assert_array_equal(costs, results[0][0])
        np.testing.assert_array_equal(best, results[0][1])
