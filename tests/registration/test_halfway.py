"""Plans in which neither image is the reference: exchanging the images inverts the map."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from phantoms import error_mm, grid_of, inside, linear_truth, pair, smooth_truth
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from regista.core import GeometryError, Grid, Image, LabelImage, PlanError, PointSet, RegistrationError
from regista.registration import (
    DeformableStage,
    LabelGuide,
    LandmarkGuide,
    LinearStage,
    Plan,
    Start,
    SurfaceGuide,
    VelocityStage,
    _inputs,
    _register,
    load_plan,
    plan_from_dict,
    plan_to_dict,
    register,
)
from regista.registration._halfway import Halfway, inverse_of, largest_gap_mm, mean_map, root_of
from regista.registration._inputs import embedded
from regista.registration._linear import rigid_part
from regista.similarity import LNCC, NCC
from regista.transforms import Affine, Composite, DisplacementField, Translation, resample

RIGID = LinearStage(model="rigid", similarity=NCC(), shrink=(2,), steps=(20,))
SYN = DeformableStage(
    model="syn", similarity=LNCC(), shrink=(2, 1), steps=(15, 8), step_vox=0.5, update_sigma_vox=(2.0,)
)
PLAN = Plan(stages=(RIGID, SYN), start=Start(search="centers"), halfway=True)


def rigid(rng, degrees=20.0, shift_mm=8.0):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * rng.normal(size=3) / 2).as_matrix()
    matrix[:3, 3] = shift_mm * rng.normal(size=3)
    return matrix


def test_the_mean_of_two_maps_knows_no_order(rng):
    about = rng.normal(size=3)
    for _ in range(5):
        one, other = rigid(rng), rigid(rng)
        mean = mean_map(one, other, about)
        np.testing.assert_allclose(mean, mean_map(other, one, about), atol=1e-10)
        back = mean_map(np.linalg.inv(one), np.linalg.inv(other), about)
        np.testing.assert_allclose(back @ mean, np.eye(4), atol=1e-10)
        np.testing.assert_allclose(mean[:3, :3] @ mean[:3, :3].T, np.eye(3), atol=1e-10)
    same = rigid(rng)
    np.testing.assert_allclose(mean_map(same, same, about), same, atol=1e-10)
    strained = expm(0.1 * rng.normal(size=(4, 4)) * np.array([[1], [1], [1], [0]]))
    half = root_of(strained, about)
    np.testing.assert_allclose(half @ half, strained, atol=1e-10)
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])  # half a turn has no root, and is halved all the same
    half = root_of(turned, about)
    np.testing.assert_allclose(half[:3, :3] @ half[:3, :3], turned[:3, :3], atol=1e-10)
    np.testing.assert_allclose((half @ [*about, 1])[:3], (about + turned[:3, :3] @ about) / 2, atol=1e-10)


@pytest.mark.parametrize("ndim", [3, 2])
def test_the_space_halfway_is_the_same_from_either_side(rng, ndim):
    if ndim == 3:
        fixed, moving = grid_of((20, 24, 11)), grid_of((26, 18, 14), (0.9, 1.1, 1.7), (9.0, -20.0, 30.0))
        matrix = rigid(rng)
    else:
        fixed, moving = (
            embedded(one) for one in (grid_of((20, 24), (1.0, 0.7)), grid_of((26, 18), (0.9, 1.1), (9.0,)))
        )
        matrix = np.eye(4)
        matrix[:2, :2] = Rotation.from_euler("z", 25, degrees=True).as_matrix()[:2, :2]
        matrix[:2, 3] = 4.0, -7.0
    one = Halfway.between(matrix, fixed, moving)
    other = Halfway.between(np.linalg.inv(matrix), moving, fixed)
    assert one.grid.same_as(other.grid, 1e-6)
    np.testing.assert_allclose(one.to_moving @ one.to_middle, matrix, atol=1e-10)
    np.testing.assert_allclose(one.to_moving @ other.to_middle, np.eye(4), atol=1e-9)
    for placed, grid in ((one.to_middle, fixed), (np.linalg.inv(one.to_moving), moving)):
        corners = grid.corners_mm() * 0.999 + 0.001 * grid.center_mm
        assert one.grid.contains(corners @ placed[:3, :3].T + placed[:3, 3]).all()
    np.testing.assert_allclose(one.grid.spacing, np.minimum(fixed.spacing, moving.spacing), atol=1e-9)
    still = Halfway.between(np.eye(4), fixed, fixed)
    assert still.grid.same_as(fixed, 1e-6)
    assert largest_gap_mm(np.eye(4), matrix, fixed) > 1


@cache
def scans(ndim=2):
    """Return a pair on unlike grids, bent by up to 2.5 mm besides a turn and a shift."""
    if ndim == 3:
        grid = grid_of((26, 30, 16), (1.3, 1.0, 2.3))
        other = grid_of((28, 27, 19), (1.2, 1.2, 2.1), (12.0, -14.0, 27.0), (30.0, -17.0, 43.0))
    else:
        grid = grid_of((60, 56), (0.8, 0.9))
        other = grid_of((64, 60), (0.85, 0.75), (23.0,), (31.0, -18.0))
    bend, turn = smooth_truth(grid, 2.5), linear_truth(grid, (4, -3, 5), (2.0, -1.5, 1.0))
    shift = other.center_mm - grid.center_mm

    def truth(points):
        return turn(bend(points)) + shift

    fixed, moving = pair(truth, grid, other)
    return truth, fixed, moving


def improved(transform, truth, fixed: Image, moving: Image) -> float:
    """Return the error of a map as a share of that of the shift between both images' middles."""
    shift = Translation.by(moving.grid.center_mm - fixed.grid.center_mm)
    return error_mm(transform, truth, fixed).mean() / error_mm(shift, truth, fixed).mean()


def gaps_mm(there, back, image: Image) -> np.ndarray:
    points = inside(image)
    return np.linalg.norm(back.map_points(there.map_points(points)) - points, axis=1)


@pytest.mark.parametrize("ndim", [3, 2])
def test_exchanging_the_images_inverts_the_map(ndim):
    truth, fixed, moving = scans(ndim)
    there, back = register(fixed, moving, PLAN), register(moving, fixed, PLAN)
    gaps = gaps_mm(there.transform, back.transform, fixed)
    spacing = fixed.grid.spacing.min()
    assert gaps.mean() < 0.02 * spacing
    assert gaps.max() < 0.15 * spacing
    product = there.record.measures["linear_fixed2moving"] @ back.record.measures["linear_fixed2moving"]
    np.testing.assert_allclose(product, np.eye(ndim + 1), atol=1e-6)
    straight = replace(PLAN, halfway=False)
    ways = [register(one, other, straight).transform for one, other in ((fixed, moving), (moving, fixed))]
    assert gaps_mm(*ways, fixed).mean() > 4 * gaps.mean()
    shares = [improved(one, truth, fixed, moving) for one in (there.transform, ways[0])]
    assert shares[0] < 0.5
    assert shares[0] < 1.25 * shares[1]
    loop = gaps_mm(there.transform, there.inverse, fixed)
    assert loop.mean() < 0.03 * spacing
    record = there.record
    assert record.measures["folded_percent"] == 0
    assert record.measures["halfway"]["linear_gap_mm"] < 2.0
    assert record.status.ok
    assert isinstance(there.transform.flatten().transforms[0], DisplacementField)
    assert there.transform.flatten().transforms[0].grid.same_as(fixed.grid)


def test_masks_and_a_start_are_exchanged_too():
    truth, fixed, moving = scans()
    masks = [Image((image.data > 0.05).astype(np.uint8), image.grid) for image in (fixed, moving)]
    shift = moving.grid.center_mm - fixed.grid.center_mm
    start = Translation.by(shift, "here", "there")
    there = register(fixed, moving, PLAN, initial=start, fixed_mask=masks[0], moving_mask=masks[1])
    back = register(moving, fixed, PLAN, initial=start.inverse(), fixed_mask=masks[1], moving_mask=masks[0])
    assert gaps_mm(there.transform, back.transform, fixed).mean() < 0.02
    assert improved(there.transform, truth, fixed, moving) < 0.6


def test_memory_of_the_middle_is_foreseen(monkeypatch):
    _, fixed, moving = scans(3)
    wide = Image(
        np.pad(moving.data, ((0, 60), (0, 0), (0, 0))),
        Grid((moving.grid.shape[0] + 60, *moving.grid.shape[1:]), moving.grid.grid2world),
    )
    predicted = [
        register(fixed, wide, replace(PLAN, halfway=halfway)).record.measures["predicted_memory_bytes"]
        for halfway in (False, True)
    ]
    assert predicted[1] > predicted[0] + 24 * wide.data.size  # the middle has room for both images
    monkeypatch.setattr(_inputs, "available_bytes", lambda: predicted[0])
    with pytest.raises(RegistrationError, match="GB of memory"):
        register(fixed, wide, PLAN)


def test_linear_maps_alone_are_averaged():
    _, fixed, moving = scans(3)
    plan = replace(PLAN, stages=(RIGID,))
    there, back = register(fixed, moving, plan), register(moving, fixed, plan)
    assert isinstance(there.transform, Affine)
    np.testing.assert_allclose(there.transform.matrix @ back.transform.matrix, np.eye(4), atol=1e-6)
    straight = replace(plan, halfway=False)
    one, other = (register(a, b, straight).transform for a, b in ((fixed, moving), (moving, fixed)))
    gap = largest_gap_mm(one.matrix, other.inverse().matrix, fixed.grid)
    assert there.record.measures["halfway"]["linear_gap_mm"] == pytest.approx(gap, abs=0.1)
    middle = mean_map(one.matrix, other.inverse().matrix, fixed.grid.center_mm)
    assert largest_gap_mm(there.transform.matrix, middle, fixed.grid) < 0.1


@pytest.mark.parametrize("n", [2, 3])
def test_the_rigid_part_of_a_map_keeps_lengths_and_a_point(n, rng):
    """A slice is a volume of one plane."""
    turn, stretches = np.eye(4), np.ones(4)
    turn[:n, :n] = np.linalg.qr(rng.standard_normal((n, n)))[0]
    turn[:n, 0] *= np.sign(np.linalg.det(turn))
    stretches[:2] = 0.97, 1.02
    matrix, middle = turn @ np.diag(stretches), rng.uniform(-80, 80, 3)
    matrix[:3, 3] = rng.uniform(-9, 9, 3)
    rigid, stretch = rigid_part(matrix, middle)
    np.testing.assert_allclose(rigid[:3, :3], turn[:3, :3], atol=1e-12)
    np.testing.assert_allclose(rigid @ [*middle, 1], matrix @ [*middle, 1], atol=1e-10)
    assert stretch == pytest.approx(1 / 0.97 - 1)
    back, same = rigid_part(inverse_of(matrix), (matrix @ [*middle, 1])[:3])
    assert same == pytest.approx(stretch)
    np.testing.assert_allclose(back @ rigid, np.eye(4), atol=1e-12)
    again, none = rigid_part(rigid, middle)
    np.testing.assert_allclose(again, rigid, atol=1e-12)
    assert none == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize(("stretch", "left_out"), [(1.01, True), (0.99, True), (1.06, False), (0.94, False)])
def test_an_affine_map_that_hardly_stretches_is_taken_for_rigid(halfway, stretch, left_out):
    _, fixed, _ = scans(3)
    center = fixed.grid.center_mm + np.array([3.0, -4.0, 2.0])
    true = np.eye(4)
    true[:3, :3] = Rotation.from_euler("xyz", (3, -2, 4), degrees=True).as_matrix() @ np.diag([stretch, 1, 1])
    true[:3, 3] = center - true[:3, :3] @ center
    moving = resample(fixed, fixed.grid, Affine(np.linalg.inv(true)))
    stage = LinearStage(model="affine", similarity=NCC(), shrink=(2, 1), steps=(60, 30), least_stretch=0.03)
    plan = Plan(stages=(stage,), halfway=halfway)
    result = register(fixed, moving, plan)
    told = result.record.measures["stretch"]
    assert told["left_out"] == left_out
    assert told["percent"] == pytest.approx(100 * abs(stretch - 1), abs=0.8)
    changed = np.abs(np.linalg.svd(result.transform.matrix[:3, :3], compute_uv=False) - 1).max()
    assert (changed < 1e-9) == left_out
    # exchanging the images inverts the map
    if halfway:
        back = register(moving, fixed, plan).transform.matrix
        np.testing.assert_allclose(back @ result.transform.matrix, np.eye(4), atol=2e-3)


@pytest.mark.parametrize("least", [0.0, 0.01])
def test_maps_that_shrink_either_way_differ_by_what_is_left_out(monkeypatch, least):
    """Each image is found to be larger than the other; their mean stretches nothing."""
    _, fixed, _ = scans(3)
    shrinking = np.diag([0.7, 0.7, 0.7, 1.0])
    shrinking[:3, 3] = 0.3 * fixed.grid.center_mm
    monkeypatch.setattr(_register, "run_linear", lambda *_: (shrinking, []))
    stage = LinearStage(model="affine", similarity=NCC(), least_stretch=least)
    record = register(fixed, fixed, Plan(stages=(stage,), halfway=True)).record
    warned = any("differ by up to" in one for one in record.warnings)
    assert warned == (not least)
    assert (record.measures["halfway"]["linear_gap_mm"] < 3) == bool(least)


def test_a_least_stretch_is_a_small_share():
    for wrong in (-0.01, 0.6):
        with pytest.raises(PlanError, match=r"least_stretch is a share between 0 and 0\.5"):
            LinearStage(model="affine", least_stretch=wrong)
    with pytest.raises(PlanError, match="models that stretch"):
        LinearStage(model="rigid", least_stretch=0.01)


def test_what_is_taken_for_rigid_stays_where_a_mask_is():
    """Far from the middle of the scan the whole map and its rigid part part company."""
    _, fixed, _ = scans(3)
    shown = np.zeros(fixed.grid.shape, np.uint8)
    shown[: fixed.grid.shape[0] // 3, 3:-3, 3:-3] = 1
    mask = Image(shown, fixed.grid)
    stage = LinearStage(model="affine", similarity=NCC(), shrink=(2, 1), steps=(40, 20))
    points = fixed.grid.index2world(np.argwhere(shown))
    plain, settled = (
        register(fixed, fixed, Plan(stages=(one,)), fixed_mask=mask, initial=Affine(np.diag([1.02, 1, 1, 1])))
        for one in (replace(stage, steps=(1, 1)), replace(stage, steps=(1, 1), least_stretch=0.3))
    )
    assert settled.record.measures["stretch"]["left_out"]
    moved = settled.transform.map_points(points) - plain.transform.map_points(points)
    assert np.abs(moved.mean(axis=0)).max() < 0.05


@pytest.mark.parametrize("kind", ["points", "labels", "surface"])
def test_guides_go_along_to_the_middle(kind):
    truth, fixed, moving = scans()
    points = inside(fixed)[::23]
    bodies = [Image((image.data > 0.05).astype(np.uint8), image.grid) for image in (fixed, moving)]
    guide = {
        "points": LandmarkGuide(fixed=PointSet(points), moving=PointSet(truth(points)), weight=0.2),
        "labels": LabelGuide(
            fixed=LabelImage(bodies[0].data, fixed.grid), moving=LabelImage(bodies[1].data, moving.grid)
        ),
        "surface": SurfaceGuide(fixed=bodies[0], moving=bodies[1], weight=0.05),
    }[kind]
    start = Translation.by(moving.grid.center_mm - fixed.grid.center_mm)
    there = register(fixed, moving, PLAN, initial=start, guides=[guide])
    back = register(moving, fixed, PLAN, initial=start.inverse(), guides=[guide.exchanged()])
    assert gaps_mm(there.transform, back.transform, fixed).mean() < 0.05
    assert improved(there.transform, truth, fixed, moving) < 0.6
    assert there.record.inputs[f"fixed_{kind}"]


def test_guides_are_placed_and_exchanged_exactly(rng):
    grid, by = grid_of((9, 8, 7)), rigid(rng)
    labels = [LabelImage(rng.integers(0, 3, grid.shape), grid) for _ in range(2)]
    points = [PointSet(rng.normal(size=(5, 3))) for _ in range(2)]
    weights = np.array([1.0, 0.0, 2.0, 1.0, 0.5])
    moved = LabelGuide(fixed=labels[0], moving=labels[1]).placed(by, np.eye(4))
    np.testing.assert_allclose(moved.fixed.grid.grid2world, by @ grid.grid2world)
    assert moved.moving.grid.same_as(grid)
    guide = LandmarkGuide(fixed=points[0], moving=points[1], weights=weights, robust_mm=3.0)
    turned = guide.exchanged()
    np.testing.assert_array_equal(turned.fixed.points_mm, np.delete(points[1].points_mm, 1, 0))
    np.testing.assert_array_equal(turned.weights, [1.0, 2.0, 1.0, 0.5])
    assert turned.robust_mm == 3.0
    placed = guide.placed(by, np.eye(4)).fixed.points_mm
    np.testing.assert_allclose(placed, np.delete(Affine(by).map_points(points[0].points_mm), 1, 0))


def test_what_cannot_begin_halfway_is_refused():
    with pytest.raises(
        PlanError, match=r"stages\.0: 'diffeomorphic' treats the fixed image as the reference"
    ):
        Plan(stages=(DeformableStage(),), halfway=True)
    with pytest.raises(PlanError, match="'svf' treats"):
        Plan(stages=(VelocityStage(),), halfway=True)
    assert Plan(stages=(VelocityStage(symmetric=True, gradient="composition"),), halfway=True).halfway
    with pytest.raises(PlanError, match="one stage that bends"):
        Plan(stages=(SYN, SYN), halfway=True)
    with pytest.raises(PlanError, match="fixed_surround = 'fill'"):
        replace(PLAN, fixed_surround="keep")
    assert load_plan("longitudinal").halfway
    assert plan_from_dict(plan_to_dict(PLAN)) == PLAN
    _, fixed, moving = scans()
    field = DisplacementField(np.zeros((2, *fixed.grid.shape)), fixed.grid)
    with pytest.raises(
        GeometryError, match="begins halfway between the images, and the initial transform bends"
    ):
        register(
            fixed, moving, replace(PLAN, stages=(SYN,)), initial=Composite((field, Translation.by([0, 1])))
        )


def test_a_symmetric_flow_begins_halfway_too():
    truth, fixed, moving = scans(2)
    flow = VelocityStage(
        gradient="composition", symmetric=True, shrink=(2, 1), steps=(40, 25), update_sigma_vox=(2.0,)
    )
    plan = replace(PLAN, stages=(RIGID, flow))
    there, back = register(fixed, moving, plan), register(moving, fixed, plan)
    assert gaps_mm(there.transform, back.transform, fixed).mean() < 0.02
    assert improved(there.transform, truth, fixed, moving) < 0.5
