"""Points through transforms: algebra, refusals, spaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from regista.core import GeometryError, Grid, Mesh, PlanError, PointSet
from regista.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Rigid,
    Similarity,
    Transform,
    Translation,
    VelocityField,
    compose,
    invert_field,
    jacobian_determinant,
    map_mesh,
    map_pointset,
    to_displacement_field,
    with_spaces,
)


def random_affine(rng, ndim=3, spread=0.2, shift=5.0) -> Affine:
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] += rng.uniform(-spread, spread, (ndim, ndim))
    matrix[:ndim, ndim] = rng.uniform(-shift, shift, ndim)
    return Affine(matrix)


def smooth_vectors(rng, grid: Grid, size_mm=1.5, sigma=2.5) -> np.ndarray:
    noise = [ndimage.gaussian_filter(rng.normal(size=grid.shape), sigma) for _ in range(grid.ndim)]
    return (np.stack(noise) * (size_mm / np.abs(noise).max())).astype(np.float32)


def inner_points(rng, grid: Grid, margin=0.25, count=200) -> np.ndarray:
    top = np.array(grid.shape) - 1
    return grid.index2world(rng.uniform(margin * top, (1 - margin) * top, (count, grid.ndim)))


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([2, 3]))
@settings(max_examples=30, deadline=None)
def test_affine_algebra(seed, ndim):
    rng = np.random.default_rng(seed)
    a, b, c = (random_affine(rng, ndim) for _ in range(3))
    points = rng.normal(0, 50, (20, ndim))
    np.testing.assert_allclose(a.inverse().map_points(a.map_points(points)), points, atol=1e-9)
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    np.testing.assert_allclose(left.map_points(points), right.map_points(points), atol=1e-9)
    np.testing.assert_allclose(
        left.map_points(points), c.map_points(b.map_points(a.map_points(points))), atol=1e-9
    )
    there = compose(a, b)
    np.testing.assert_allclose(
        there.inverse().map_points(points), compose(b.inverse(), a.inverse()).map_points(points), atol=1e-9
    )


@given(seeds, st.booleans())
@settings(max_examples=15, deadline=None)
def test_fields_do_not_depend_on_the_order_or_origin_of_their_axes(seed, use_velocity):
    rng = np.random.default_rng(seed)
    shape, matrix = (8, 10, 6), np.diag([1.0, 0.7, 2.3, 1.0])
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix() @ matrix[:3, :3]
    grid = Grid(shape, matrix)
    vectors = smooth_vectors(rng, grid)
    shift = rng.uniform(-100, 100, 3)
    flipped = np.eye(4)
    flipped[0, 0], flipped[0, 3] = -1, shape[0] - 1
    moved = matrix.copy()
    moved[:3, 3] += shift
    kind = VelocityField if use_velocity else DisplacementField
    field = kind(vectors, grid)
    same = kind(vectors[:, ::-1].transpose(0, 2, 1, 3), Grid((10, 8, 6), matrix @ flipped @ _swap()))
    away = kind(vectors, Grid(shape, moved))
    points = inner_points(rng, grid, 0.0)
    expected = field.map_points(points)
    np.testing.assert_allclose(same.map_points(points), expected, atol=1e-4)
    np.testing.assert_allclose(away.map_points(points + shift) - shift, expected, atol=1e-4)


def _swap():
    swap = np.eye(4)
    swap[:2, :2] = [[0, 1], [1, 0]]
    return swap


@given(seeds, st.sampled_from([2, 3]))
@settings(max_examples=15, deadline=None)
def test_field_inverse_undoes_the_field(seed, ndim):
    rng = np.random.default_rng(seed)
    shape, spacing = ((11, 14, 9), (1.0, 0.7, 2.3)) if ndim == 3 else ((16, 19), (0.8, 1.7))
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = np.diag(spacing)
    turn = (
        Rotation.random(random_state=seed).as_matrix() if ndim == 3 else np.array([[0.6, -0.8], [0.8, 0.6]])
    )
    matrix[:ndim, :ndim] = turn @ matrix[:ndim, :ndim]
    grid = Grid(shape, matrix)
    field = DisplacementField(smooth_vectors(rng, grid, 0.9), grid, "f", "m")
    inverse, residual = invert_field(field)
    assert residual < 0.01
    assert (inverse.fixed_space, inverse.moving_space) == ("m", "f")
    centres = grid.coordinates_mm().reshape(ndim, -1).T
    image = inverse.map_points(centres)
    inside = grid.contains(image)
    back = field.map_points(image[inside])
    voxels = grid.world2index(back) - grid.world2index(centres[inside])
    assert np.linalg.norm(voxels, axis=1).max() <= residual + 1e-4
    # between voxel centres too, up to the curvature of the field
    points = inner_points(rng, grid)
    assert np.abs(field.map_points(inverse.map_points(points)) - points).max() < 0.12


def test_velocity_inverse_is_the_flow_backwards(rng, grid, grid_2d):
    for lattice in (grid, grid_2d):
        flow = VelocityField(smooth_vectors(rng, lattice, 1.0, 3.0), lattice, 7, "f", "m")
        points = inner_points(rng, lattice)
        moved = flow.map_points(points)
        assert np.abs(moved - points).max() > 0.1
        back = flow.inverse()
        assert (back.fixed_space, back.moving_space) == ("m", "f")
        assert np.abs(back.map_points(moved) - points).max() < 0.03


def test_field_lattice_ends_as_in_itk(grid):
    field = DisplacementField(np.ones((3, *grid.shape)), grid)
    index = np.array([[-0.49, 3, 3], [-0.51, 3, 3], [10.49, 13.4, 8.4], [10.51, 3, 3]])
    moved = field.map_points(grid.index2world(index)) - grid.index2world(index)
    np.testing.assert_allclose(moved, [[1] * 3, [0] * 3, [1] * 3, [0] * 3], atol=1e-9)


def test_composite_order_inverse_and_flatten(rng, grid):
    a = with_spaces(random_affine(rng, spread=0.05, shift=0.5), "f", "mid")
    field = DisplacementField(smooth_vectors(rng, grid, 0.5, 3), grid, "mid", "m")
    chain = Composite((Composite((a,)), field))
    points = inner_points(rng, grid, 0.3)
    np.testing.assert_array_equal(chain.map_points(points), field.map_points(a.map_points(points)))
    assert (chain.fixed_space, chain.moving_space, chain.ndim) == ("f", "m", 3)
    assert chain.flatten().transforms == (a, field)
    back = chain.inverse()
    assert (back.fixed_space, back.moving_space) == ("m", "f")
    assert np.abs(back.map_points(chain.map_points(points)) - points).max() < 0.05


def test_compose_multiplies_linear_maps_and_keeps_their_kind(rng, grid):
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    rigid, shift = Rigid(turn, "a", "b"), Translation.by([1, 2, 3], "b", "c")
    field = DisplacementField(smooth_vectors(rng, grid), grid)
    product = compose(rigid, shift)
    assert type(product) is Rigid
    assert (product.fixed_space, product.moving_space) == ("a", "c")
    np.testing.assert_allclose(product.matrix, shift.matrix @ turn)
    assert type(compose(rigid, Affine(np.diag([1, 2, 3, 1.0])))) is Affine
    chain = compose(rigid, shift, field, shift.inverse(), rigid.inverse())
    assert [type(t) for t in chain.transforms] == [Rigid, DisplacementField, Rigid]


def test_compose_on_a_grid_equals_the_chain_at_voxel_centres(rng, grid, make_grid):
    other = make_grid((9, 8, 10), (1.3, 1.4, 2.0), (5, 40, -9), (28, -15, 47))
    chain = (random_affine(rng), DisplacementField(smooth_vectors(rng, grid), grid), random_affine(rng))
    field = compose(*chain, grid=other)
    centres = other.coordinates_mm().reshape(3, -1).T
    np.testing.assert_allclose(field.map_points(centres), Composite(chain).map_points(centres), atol=1e-4)
    same = to_displacement_field(chain[1], grid)
    assert same is chain[1]


@pytest.mark.parametrize(
    ("first", "second", "hint"),
    [
        (("b", "c"), ("a", "b"), "exchange them"),
        (("a", "b"), ("c", "b"), "invert transform 2"),
        (("b", "a"), ("b", "c"), "invert transform 1"),
        (("a", "b"), ("c", "d"), "reorder the chain"),
    ],
)
def test_a_chain_whose_spaces_do_not_meet_is_refused(first, second, hint):
    with pytest.raises(GeometryError, match=hint) as caught:
        compose(Affine.identity(3, *first), Affine.identity(3, *second))
    assert "with_spaces" in str(caught.value)


def test_unknown_spaces_meet_anything_and_names_can_be_changed(rng, grid):
    chain = compose(
        Affine.identity(3, "a", None), VelocityField(smooth_vectors(rng, grid), grid, 7, "q", "b")
    )
    renamed = with_spaces(chain, "x", "y")
    assert (renamed.fixed_space, renamed.moving_space) == ("x", "y")
    assert renamed.transforms[1].fixed_space == "q"
    assert chain.fixed_space == "a"


@pytest.mark.parametrize(
    ("kind", "matrix"),
    [
        (Affine, np.diag([1.0, 0, 1, 1])),
        (Affine, np.full((4, 4), np.nan)),
        (Affine, np.eye(5)),
        (Affine, np.eye(4) + np.eye(4)[[3, 0, 1, 2]]),
        (Similarity, np.diag([1.0, 1, 1.1, 1])),
        (Similarity, np.diag([1.0, 1, -1, 1])),
        (Rigid, np.diag([1.1, 1.1, 1.1, 1])),
        (Translation, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])),
    ],
)
def test_wrong_matrices_are_refused(kind, matrix):
    with pytest.raises(GeometryError):
        kind(matrix)


def test_kinds_keep_themselves_through_inversion():
    turn = np.eye(4)
    turn[:3, :3] = 1.7 * Rotation.from_euler("xyz", [100, 20, -30], degrees=True).as_matrix()
    similarity = Similarity(turn)
    assert type(similarity.inverse()) is Similarity
    assert similarity.scale == pytest.approx(1.7)
    assert isinstance(Translation.by([1, 2]).inverse(), Transform)


def test_wrong_fields_and_points_are_refused(grid, grid_2d):
    with pytest.raises(GeometryError, match="vectors of shape"):
        DisplacementField(np.zeros((*grid.shape, 3)), grid)
    with pytest.raises(GeometryError, match="NaN"):
        VelocityField(np.full((3, *grid.shape), np.nan), grid)
    with pytest.raises(PlanError, match="steps"):
        VelocityField(np.zeros((3, *grid.shape)), grid, steps=-1)
    with pytest.raises(GeometryError, match=r"\(N, 3\)"):
        Affine.identity().map_points(np.zeros((4, 2)))
    with pytest.raises(GeometryError, match="2-D or all 3-D"):
        Composite((Affine.identity(2), Affine.identity(3)))
    with pytest.raises(GeometryError, match="at least one"):
        compose()
    with pytest.raises(GeometryError, match="3-D transform"):
        jacobian_determinant(Affine.identity(), grid_2d)


def test_transforms_cannot_be_changed_and_do_not_share_a_callers_matrix():
    matrix = np.eye(4)
    affine = Affine(matrix)
    matrix[0, 3] = 9
    assert affine.matrix[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        affine.matrix[0, 0] = 2


def test_jacobian_of_known_maps(rng, grid, grid_2d):
    for lattice in (grid, grid_2d):
        affine = random_affine(rng, lattice.ndim)
        expected = np.linalg.det(affine.matrix)
        np.testing.assert_allclose(jacobian_determinant(affine, lattice), expected, rtol=1e-6)
        field = to_displacement_field(affine, lattice)
        np.testing.assert_allclose(jacobian_determinant(field, lattice), expected, rtol=1e-4)
        # T(x) = x + a (n·x)² n has determinant 1 + 2 a (n·x), linear: exact for central differences
        centres = lattice.coordinates_mm() - lattice.center_mm.reshape(-1, *[1] * lattice.ndim)
        axis = np.array([0.6, 0.8, 0.0][: lattice.ndim])
        along = np.tensordot(axis, centres, 1)
        bent = DisplacementField(0.01 * along**2 * axis.reshape(-1, *[1] * lattice.ndim), lattice)
        inner = (slice(1, -1),) * lattice.ndim
        got = jacobian_determinant(bent, lattice)[inner]
        np.testing.assert_allclose(got, (1 + 0.02 * along)[inner], atol=1e-4)


def test_points_and_meshes_keep_what_belongs_to_them(rng):
    shift = Translation.by([1, 2, 3], "f", "m")
    points = map_pointset(PointSet(rng.normal(size=(2, 3)), ("a", "b"), "f"), shift)
    assert points.names == ("a", "b")
    assert points.space == "m"
    mesh = Mesh(rng.normal(size=(3, 3)), np.array([[0, 1, 2]]), "f")
    moved = map_mesh(mesh, shift)
    np.testing.assert_allclose(moved.vertices_mm - mesh.vertices_mm, [[1, 2, 3]] * 3)
    np.testing.assert_array_equal(moved.faces, mesh.faces)
