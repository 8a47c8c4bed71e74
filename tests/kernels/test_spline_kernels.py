"""The spline kernel against its reference."""

from __future__ import annotations

import numpy as np
import pytest

from regista.core import threads
from regista.kernels.cpu import splines as fast
from regista.kernels.reference import splines as slow


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 51])
def test_splines_move_points_as_in_the_reference(rng, planar, count):
    centers, weights = rng.normal(0, 40, (count, 3)), rng.normal(0, 1e-3, (count, 3))
    places = np.vstack([rng.normal(0, 60, (2001, 3)), centers])  # a logarithm is taken of 0 at the landmarks
    matrix = np.hstack([rng.normal(0, 0.5, (3, 3)), rng.normal(0, 30, (3, 1))])
    expected = slow.map_spline(places, centers, weights, matrix, planar=planar)
    with threads(2):
        found = fast.map_spline(places, centers, weights, matrix, planar=planar)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-9)
    with threads(1):
        np.testing.assert_array_equal(fast.map_spline(places, centers, weights, matrix, planar=planar), found)


def test_other_layouts_and_types_give_the_same(rng):
    centers, weights = np.asfortranarray(rng.normal(0, 40, (9, 3))), rng.normal(size=(18, 3))[::2]
    places = rng.normal(0, 60, (3, 400)).T[::3].astype(np.float32)
    matrix = np.asfortranarray(rng.normal(size=(4, 4)))[:3]
    for planar in (False, True):
        np.testing.assert_allclose(
            fast.map_spline(places, centers, weights, matrix, planar=planar),
            slow.map_spline(places, centers, weights, matrix, planar=planar),
            rtol=1e-10,
            atol=1e-8,
        )


def test_no_number_stays_no_number():
    places = np.array([[0.0, np.nan, 0.0], [1.0, 2.0, 3.0], [np.inf, 0.0, 0.0]])
    for planar in (False, True):
        found = fast.map_spline(places, [[0, 0, 0]], [[1, 1, 1]], np.eye(4)[:3], planar=planar)
        assert np.isfinite(found).all(axis=1).tolist() == [False, True, False]
