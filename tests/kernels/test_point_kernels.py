"""Point kernels against their reference."""

from __future__ import annotations

import numpy as np
import pytest

from regista.kernels.cpu import points as fast
from regista.kernels.reference import points as slow


@pytest.mark.parametrize("shape", [(11, 14, 9), (7, 6, 1), (1, 2, 3)])
def test_points_move_as_in_the_reference(rng, shape):
    places = rng.normal(0, 9, (500, 3))
    matrix = np.hstack([rng.normal(0, 0.5, (3, 3)), np.array(shape)[:, None] / 2])
    field = rng.normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(fast.map_affine(places, matrix), slow.map_affine(places, matrix), atol=1e-12)
    moved = fast.add_field(places, field, matrix)
    np.testing.assert_allclose(moved, slow.add_field(places, field, matrix), atol=1e-5)
    assert (moved == places).all(axis=1).any()  # some lie outside and stay
