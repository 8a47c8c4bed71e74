"""Folding, volume change, bending, inverse consistency."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from regista.core import GeometryError, Grid, Image
from regista.evaluation import transform_measures
from regista.transforms import Affine, Composite, DisplacementField, Translation, VelocityField


def field_vox(vectors_vox: np.ndarray, grid: Grid) -> DisplacementField:
    """Return a field given in voxels of its grid."""
    turned = np.tensordot(grid.grid2world[:-1, :-1], vectors_vox, 1)
    return DisplacementField(turned, grid)


def test_identity_is_perfect(grid):
    found = transform_measures(Affine.identity(3), grid, inverse=Affine.identity(3))
    assert found.voxels == grid.size == found.inverse_voxels
    assert found.folded_percent == found.ndv_percent == 0
    assert found.sd_log_jacobian < 1e-6
    assert found.inverse_max_mm < 1e-6


def test_the_determinant_of_an_affine_map(grid, rng):
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(scale=0.1, size=(3, 3))
    found = transform_measures(Affine(matrix), grid)
    volume = np.linalg.det(matrix[:3, :3])
    assert [found.jacobian_min, found.jacobian_max] == pytest.approx([volume, volume], rel=1e-4)
    assert found.sd_log_jacobian < 1e-4
    assert found.bending_energy_per_mm2 < 1e-9


def test_sd_log_jacobian_of_a_map_that_stretches_more_and_more(grid):
    # index i → i + 0.03 i²: central differences of a parabola are exact, so det = 1 + 0.06 i within the faces
    i = np.arange(grid.shape[0], dtype=float)
    u = np.zeros((3, *grid.shape))
    u[0] = (0.03 * i**2)[:, None, None]
    inner = np.zeros(grid.shape)
    inner[1:-1] = 1
    found = transform_measures(field_vox(u, grid), grid, mask=inner)
    assert found.sd_log_jacobian == pytest.approx(np.log(1 + 0.06 * i[1:-1]).std(), rel=1e-4)
    assert found.sd_log_jacobian > 0.1
    assert [found.jacobian_min, found.jacobian_max] == pytest.approx([1.06, 1.54], rel=1e-4)
    whole = np.log(1 + 0.06 * np.r_[0.5, i[1:-1], i[-1] - 0.5])  # one-sided at the faces
    assert transform_measures(field_vox(u, grid), grid).sd_log_jacobian == pytest.approx(
        whole.std(), rel=1e-4
    )


def test_folded_voxels_of_a_map_that_turns_back(grid):
    # index i → i up to 6, and back from there: det = 1 before, 0 at the crest, −1 behind it
    i = np.arange(grid.shape[0], dtype=float)
    u = np.zeros((3, *grid.shape))
    u[0] = np.where(i > 6, -2 * (i - 6), 0)[:, None, None]
    found = transform_measures(field_vox(u, grid), grid)
    assert found.folded_percent == pytest.approx(100 * 5 / 11, abs=1e-9)  # 6 … 10
    assert [found.jacobian_min, found.jacobian_max] == pytest.approx([-1, 1], abs=1e-5)
    assert found.ndv_percent == pytest.approx(
        100 * 4 / 11, rel=1e-4
    )  # the four layers of cells behind the crest


def test_a_point_pushed_away_is_seen_by_the_tetrahedra_only(grid):
    # Liu et al.: the central difference at a voxel does not see where that voxel itself goes
    u = np.zeros((3, *grid.shape))
    u[0, 5, 7, 4] = 1.5
    found = transform_measures(field_vox(u, grid), grid)
    alone = np.zeros(grid.shape)
    alone[5, 7, 4] = 1
    assert transform_measures(field_vox(u, grid), grid, mask=alone).folded_percent == 0
    assert transform_measures(field_vox(u, grid), grid, mask=alone).ndv_percent > 0
    assert found.ndv_percent > 0


def test_non_diffeomorphic_volume_of_a_reflected_slab(grid):
    # x → −x within a slab of cells: the image is traversed backwards there, cell by cell
    u = np.zeros((3, *grid.shape))
    index = np.arange(grid.shape[0])
    u[0] = np.where(index >= 6, -2.0 * (index >= 6), 0)[:, None, None]
    found = transform_measures(field_vox(u, grid), grid)
    # one layer of cells, between 5 and 6, has edges of length −1: its volume is that of one layer
    assert found.ndv_percent == pytest.approx(100 / grid.shape[0], rel=1e-4)
    flat = transform_measures(
        DisplacementField(np.tensordot(np.eye(2), u[:2, :, :, 0], 1), Grid((11, 14), np.eye(3))),
        Grid((11, 14), np.eye(3)),
    )
    assert flat.ndv_percent == pytest.approx(100 / 11, rel=1e-4)


def test_bending_energy_of_a_quadratic_field(make_grid):
    grid = make_grid((9, 10, 8))
    x = grid.coordinates_mm() - grid.center_mm[:, None, None, None]
    u = np.stack([0.01 * x[0] ** 2, 0.02 * x[0] * x[1], 0 * x[0]])
    found = transform_measures(DisplacementField(u, grid), grid)
    # ∂²u0/∂x² = .02; ∂²u1/∂x∂y = .02, counted twice
    assert found.bending_energy_per_mm2 == pytest.approx(3 * 0.02**2, rel=1e-3)


def test_inverse_consistency_of_maps_that_miss_by_a_known_vector(grid):
    found = transform_measures(Translation.by([3.0, -2, 1]), grid, inverse=Translation.by([-3.0, 2.5, -1]))
    assert found.inverse_mean_mm == pytest.approx(0.5, abs=1e-5)
    assert found.inverse_p95_mm == pytest.approx(0.5, abs=1e-5)


def test_inverse_consistency_of_a_flow_and_where_it_is_defined(grid, rng):
    v = np.stack([gaussian_filter(rng.normal(size=grid.shape), 2.5) for _ in range(3)])
    flow = VelocityField(4 * v, grid)
    chain = Composite((Translation.by([1.0, 0.5, 0]), flow))
    found = transform_measures(chain, grid, inverse=chain.inverse(), moving_grid=grid)
    assert 0 < found.inverse_voxels <= grid.size
    wrong = transform_measures(chain, grid, inverse=chain, moving_grid=grid)
    assert found.inverse_mean_mm < 0.2 * wrong.inverse_mean_mm
    with pytest.raises(GeometryError, match="leads nowhere"):
        transform_measures(Translation.by([500.0, 0, 0]), grid, inverse=chain, moving_grid=grid)


def test_masks(grid, rng):
    u = np.zeros((3, *grid.shape))
    u[0, 8] = -2.0
    field, mask = field_vox(u, grid), np.zeros(grid.shape)
    mask[:5] = 1
    assert transform_measures(field, grid).folded_percent > 0
    inside = transform_measures(field, grid, mask=Image(mask, grid))
    assert inside.folded_percent == inside.ndv_percent == 0
    assert inside.voxels == mask.sum()


def test_bad_masks_and_dimensions(grid, make_grid, grid_2d):
    field = Translation.by([1.0, 0, 0])
    with pytest.raises(GeometryError, match="mask is empty"):
        transform_measures(field, grid, mask=np.zeros(grid.shape))
    with pytest.raises(GeometryError, match="another grid"):
        transform_measures(field, grid, mask=Image(np.ones(grid.shape), make_grid(origin=(0, 0, 0))))
    with pytest.raises(GeometryError, match="shape"):
        transform_measures(field, grid, mask=np.ones((3, 3, 3)))
    with pytest.raises(GeometryError, match="3-D transform"):
        transform_measures(field, grid_2d)
    with pytest.raises(GeometryError, match="all 2-D or all 3-D"):
        transform_measures(field, grid, inverse=Affine.identity(2))
    named = Translation.by([1.0, 0, 0], "a", "b")
    with pytest.raises(GeometryError, match="'b' is not 'a'"):
        transform_measures(named, grid, inverse=named)
    with pytest.raises(GeometryError, match="leads to 'c'"):
        transform_measures(named, grid, inverse=Translation.by([1.0, 0, 0], "b", "c"))


def test_only_what_was_measured_is_in_the_row(grid):
    row = transform_measures(Affine.identity(3), grid).row()
    assert not any(name.startswith("inverse") for name in row)


def test_two_dimensions(grid_2d):
    found = transform_measures(
        Translation.by([1.0, 2.0]), grid_2d, inverse=Translation.by([-1.0, -1.7]), moving_grid=grid_2d
    )
    assert found.inverse_mean_mm == pytest.approx(0.3, abs=1e-5)
    moved = grid_2d.index2world(np.argwhere(np.ones(grid_2d.shape))) + np.array([1.0, 2.0])
    assert found.inverse_voxels == grid_2d.contains(moved).sum() < grid_2d.size
    assert found.ndv_percent == found.folded_percent == 0
