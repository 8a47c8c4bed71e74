"""Guides: exact gradients, and what they pull where on grids of every kind."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from phantoms import grid_of, linear_truth, pair, points_of, smooth_truth
from scipy import ndimage

from regista import read, read_labels
from regista.core import GeometryError, Grid, Image, LabelImage, PlanError, PointSet, Status
from regista.preprocessing import Reorient
from regista.registration import (
    ConvexStage,
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    LabelGuide,
    LandmarkGuide,
    LinearStage,
    Plan,
    Start,
    SurfaceGuide,
    VelocityStage,
    load_plan,
    register,
)
from regista.registration._cost import LevelCost
from regista.registration._inputs import embedded
from regista.registration._levels import Level, Scan
from regista.registration._linear import LinearCost, basis_for
from regista.regularization import Diffusion
from regista.similarity import SSD, DemonsSSD
from regista.transforms import resample_labels

STAGES = {
    "diffeomorphic": DeformableStage(similarity=SSD(), shrink=(4, 2, 1), steps=(30, 30, 20)),
    "syn": DeformableStage(model="syn", similarity=SSD(), shrink=(4, 2, 1), steps=(30, 30, 20)),
    "svf": VelocityStage(similarity=SSD(), shrink=(4, 2, 1), steps=(40, 40, 30)),
    "svf composition": VelocityStage(
        similarity=SSD(), gradient="composition", symmetric=True, shrink=(4, 2, 1), steps=(40, 40, 30)
    ),
    "bspline": FreeFormStage(similarity=SSD(), shrink=(4, 2, 1), steps=(30, 30, 30)),
}
DEFORM = {name: Plan(stages=(stage,), start=Start(search="none")) for name, stage in STAGES.items()}
PULL_MM = np.array([2.0, -1.6, 2.4])


def blobs(grid: Grid, shift_mm=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return labels 3 and 7, two lopsided bodies side by side, each point x holding what is at x + shift."""
    points = points_of(grid) + np.asarray(shift_mm)[: grid.ndim]
    unit = 2 * grid.world2index(points) / (np.array(grid.shape) - 1) - 1
    labels = np.zeros(grid.shape, np.uint8)
    for label, side in ((3, -0.3), (7, 0.32)):
        away = unit - np.array([side, 0.1, -0.05])[: grid.ndim]
        away[..., 1] -= 0.3 * away[..., 0]
        labels[np.linalg.norm(away / np.array([0.24, 0.42, 0.4])[: grid.ndim], axis=-1) < 1] = label
    return labels


def plain(grid: Grid, space: str) -> Image:
    """Return an image with nothing to see but one faint spot, in a corner and the same in both images."""
    data = np.zeros(grid.shape, np.float32)
    data[tuple(slice(1, 3) for _ in grid.shape)] = 0.02
    data[(0,) * grid.ndim] = 1.0
    return Image(data, grid, space=space)


def dice(one: np.ndarray, other: np.ndarray, label: int) -> float:
    return float(
        2 * np.sum((one == label) & (other == label)) / (np.sum(one == label) + np.sum(other == label))
    )


def labelled(grid: Grid, moving_grid: Grid | None = None) -> tuple[LabelImage, LabelImage]:
    """Return labels that the shift by `PULL_MM` brings to overlap."""
    there = grid if moving_grid is None else moving_grid
    back = blobs(grid, -PULL_MM[: grid.ndim]) if moving_grid is None else None
    if back is None:
        exact = LabelImage(blobs(grid, -PULL_MM[: grid.ndim]), grid)
        back = resample_labels(exact, there, None).data
    return LabelImage(blobs(grid), grid), LabelImage(back, there)


def guides_of(grid: Grid) -> list:
    fixed, moving = labelled(grid)
    rng = np.random.default_rng(5)
    index = rng.uniform(1.0, np.array(grid.shape) - 2.0, (6, grid.ndim))
    here = PointSet(grid.index2world(index))
    there = PointSet(here.points_mm + rng.normal(0, 1.5, here.points_mm.shape))
    weights = rng.uniform(0.2, 2, 6)
    return [
        LabelGuide(fixed=fixed, moving=moving, weight=3.0),
        LandmarkGuide(fixed=here, moving=there, weight=0.3, weights=weights),
        LandmarkGuide(fixed=here, moving=there, weight=0.3, robust_mm=2.0),
        SurfaceGuide(fixed=fixed, moving=moving, weight=0.3, clip_mm=4.0),
    ]


def level_of(grid: Grid) -> Level:
    grid = embedded(grid)
    flat = np.full(grid.shape, 0.5, np.float32)
    return Level(0, 1, 1, (1, 1, 1), Scan(flat, grid), Scan(flat, grid))


def tilted(grid: Grid) -> np.ndarray:
    grid = embedded(grid)
    matrix = np.eye(4)
    matrix[:3, :3] += 0.04 * np.array([[0.3, 1, 0], [-1, 0.2, 0], [0, 0, 0]])
    matrix[:3, 3] = grid.center_mm - matrix[:3, :3] @ grid.center_mm + (0.37, -0.21, 0.0)
    return matrix


@pytest.fixture(params=["3-D", "2-D"])
def lattice(request) -> Grid:
    if request.param == "3-D":
        return grid_of((14, 17, 11))
    return grid_of((19, 23), (0.8, 1.1))


@pytest.mark.parametrize("number", range(4))
def test_the_gradient_of_a_guide_is_the_derivative_of_its_value(rng, lattice, number):
    level, linear = level_of(lattice), tilted(lattice)
    term = guides_of(lattice)[number].prepare()(level.fixed.grid, level.moving.grid)
    cost = LevelCost(level, SSD(), linear, guides=[term])
    shape = level.fixed.grid.shape
    field = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 1, 1, 1)).astype(np.float32)
    field *= (cost.axis_scale[:, None, None, None] > 0) * np.float32(1.3)
    out, scratch = np.zeros_like(field), np.zeros_like(field)
    value = cost.value_and_gradient(field, out)
    assert value > 0.01
    gradient = out.astype(np.float64)
    for seed in range(
        3
    ):  # short steps, as slopes change between cells; what float32 left of them is measured
        noise = np.random.default_rng(seed).normal(size=field.shape) * (
            cost.axis_scale[:, None, None, None] > 0
        )
        noise = np.abs(noise) * np.sign(gradient) if seed == 0 else noise
        ends = [field + (sign * 1e-5 * noise).astype(np.float32) for sign in (1, -1)]
        change = ends[0].astype(np.float64) - ends[1]
        rise = cost.value_and_gradient(ends[0], scratch) - cost.value_and_gradient(ends[1], scratch)
        size = np.linalg.norm(gradient) * 2e-5 if seed else (gradient * change).sum()
        assert abs((gradient * change).sum() - rise) < 0.02 * size
    # the force on a compositive update is the derivative along u ← s v + u ∘ (id + s v)
    force = np.zeros_like(field)
    cost.begin([field], 2)
    assert cost.force(field, scratch, force) == pytest.approx(value, rel=1e-6)
    update = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 2, 2, 2))
    update *= (cost.axis_scale > 0)[:, None, None, None] * 0.3 / np.abs(update).max()
    pulled = -(force / np.where(cost.axis_scale > 0, cost.axis_scale, 1)[:, None, None, None] * update).sum()
    du = np.stack(
        [np.gradient(field, axis=a + 1) if shape[a] > 1 else np.zeros_like(field) for a in range(3)], 1
    )
    change = update + np.einsum("abijk,bijk->aijk", du, update)
    assert pulled == pytest.approx((gradient * change).sum(), rel=1e-3, abs=1e-4 * np.linalg.norm(gradient))


@pytest.mark.parametrize("number", range(4))
def test_linear_stages_get_the_derivative_along_their_generators(lattice, number):
    level, linear = level_of(lattice), tilted(lattice)
    basis = basis_for("affine", level.fixed)
    term = guides_of(lattice)[number].prepare()(level.fixed.grid, level.moving.grid)
    cost = LinearCost(level, SSD(), basis, [term])
    _, gradient = cost(linear)
    for n, generator in enumerate(basis):
        step = 2e-4
        ends = [cost(linear @ (np.eye(4) + s * generator))[0] for s in (step, -step)]
        assert gradient[n] == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), rel=0.02, abs=0.02 * np.abs(gradient).max()
        )


@pytest.mark.parametrize("name", DEFORM)
def test_labels_align_what_has_no_contrast(name):
    grid = grid_of((40, 36, 18), (1.0, 0.9, 2.1))
    fixed, moving = labelled(grid)
    guide = LabelGuide(fixed=fixed, moving=moving, weight=10.0)
    result = register(plain(grid, "here"), plain(grid, "there"), DEFORM[name], guides=[guide])
    moved = resample_labels(moving, grid, result.transform.flatten())
    for label in (3, 7):
        assert dice(fixed.data, moving.data, label) < 0.8
        assert dice(fixed.data, moved.data, label) > 0.93, name
    assert result.record.measures["folded_percent"] == 0


@pytest.mark.parametrize("name", DEFORM)
def test_landmarks_pull_a_flat_region_to_its_place(name):
    grid = grid_of((40, 36, 18), (1.0, 0.9, 2.1))
    index = np.stack(np.meshgrid([13.3, 20.1, 27.4], [12.2, 23.7], [6.4, 11.8], indexing="ij"), -1).reshape(
        -1, 3
    )
    here = PointSet(grid.index2world(index))
    guide = LandmarkGuide(fixed=here, moving=PointSet(here.points_mm + PULL_MM), weight=1.0)
    result = register(plain(grid, "here"), plain(grid, "there"), DEFORM[name], guides=[guide])
    away = np.linalg.norm(result.transform.map_points(here.points_mm) - guide.moving.points_mm, axis=1)
    assert np.linalg.norm(PULL_MM) > 3
    assert away.max() < 0.5, name
    assert result.record.measures["folded_percent"] == 0


@pytest.mark.parametrize("name", DEFORM)
def test_surfaces_meet(name):
    grid = grid_of((40, 36, 18), (1.0, 0.9, 2.1))
    fixed, moving = (Image((one.data == 7).astype(np.uint8), grid) for one in labelled(grid))
    guide = SurfaceGuide(fixed=fixed, moving=moving, weight=1.0)
    stage = replace(STAGES[name], penalties=(Diffusion(weight=10.0),))  # distances are measured one way
    plan = Plan(stages=(stage,), start=Start(search="none"))
    result = register(plain(grid, "here"), plain(grid, "there"), plan, guides=[guide])
    moved = resample_labels(LabelImage(moving.data, grid), grid, result.transform.flatten())
    assert dice(fixed.data, moving.data, 1) < 0.6
    assert dice(fixed.data, moved.data, 1) > 0.9, name
    assert result.record.measures["folded_percent"] == 0


def test_a_plane_and_moving_labels_on_a_grid_of_their_own():
    grid = grid_of((44, 38), (0.8, 1.1))
    other = grid_of((50, 45), (0.9, 0.8), angles=(-31.0,), origin=grid.index2world([46, -4]))
    fixed, moving = labelled(grid, other)
    guide = LabelGuide(fixed=fixed, moving=moving, weight=10.0)
    result = register(plain(grid, "here"), plain(grid, "there"), DEFORM["diffeomorphic"], guides=[guide])
    moved = resample_labels(moving, grid, result.transform.flatten())
    assert min(dice(fixed.data, moved.data, label) for label in (3, 7)) > 0.93
    here = PointSet(grid.index2world([[15.2, 14.1], [28.7, 22.3], [20.0, 26.0]]))
    there = PointSet(here.points_mm + PULL_MM[:2])
    guide = LandmarkGuide(fixed=here, moving=there, weight=1.0)
    result = register(plain(grid, "here"), plain(grid, "there"), DEFORM["diffeomorphic"], guides=[guide])
    assert np.linalg.norm(result.transform.map_points(here.points_mm) - there.points_mm, axis=1).max() < 0.4


def test_how_images_and_labels_are_stored_changes_nothing():
    grid = grid_of((40, 36, 18), (1.0, 0.9, 2.1))
    fixed, moving = labelled(grid)
    images = plain(grid, "here"), plain(grid, "there")
    turn = Reorient(orientation="SAL")
    points = grid.index2world([[20.0, 18, 9], [14, 12, 7]])
    found = []
    for order in (lambda one: one, lambda one: turn(one)):
        here, there = (order(image) for image in images)
        guides = [
            LabelGuide(fixed=order(fixed), moving=order(moving), weight=10.0),
            SurfaceGuide(fixed=order(fixed), moving=order(moving), weight=0.5),
        ]
        result = register(here, there, DEFORM["diffeomorphic"], guides=guides)
        found.append(result.transform.map_points(points))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert np.abs(found[0] - points).max() > 1


def test_linear_stages_follow_landmarks_beyond_the_content():
    grid = grid_of((40, 36, 18), (1.0, 0.9, 2.1))
    truth = linear_truth(grid, (6, -4, 8), (2.5, -2.0, 1.5))
    here = PointSet(grid.index2world(np.random.default_rng(2).uniform(6, np.array(grid.shape) - 6, (8, 3))))
    guide = LandmarkGuide(fixed=here, moving=PointSet(truth(here.points_mm)), weight=10.0)
    stage = LinearStage(model="rigid", similarity=SSD(), shrink=(2, 1), steps=(60, 30))
    plan = Plan(stages=(stage,), start=Start(search="none"))
    result = register(plain(grid, "here"), plain(grid, "there"), plan, guides=[guide])
    assert np.abs(result.transform.map_points(here.points_mm) - guide.moving.points_mm).max() < 0.05


def test_a_robust_guide_leaves_a_wrong_landmark_where_it_is():
    grid = grid_of((40, 36, 18), (1.0, 0.9, 2.1))
    here = grid.index2world(np.random.default_rng(2).uniform(6, np.array(grid.shape) - 6, (9, 3)))
    there = here + PULL_MM
    there[4] = here[4] + (0.0, 9.0, 0.0)
    stage = LinearStage(model="translation", similarity=SSD(), shrink=(2,), steps=(60,))
    plan = Plan(stages=(stage,), start=Start(search="none"))
    missed = []
    for robust in (None, 2.0):
        guide = LandmarkGuide(fixed=PointSet(here), moving=PointSet(there), weight=10.0, robust_mm=robust)
        result = register(plain(grid, "here"), plain(grid, "there"), plan, guides=[guide])
        missed.append(np.linalg.norm(result.transform.map_points(here[:1]) - there[:1]))
    assert missed[0] > 0.8
    assert missed[1] < 0.3
    weights = np.arange(9) != 4
    guide = LandmarkGuide(fixed=PointSet(here), moving=PointSet(there), weight=10.0, weights=weights)
    result = register(plain(grid, "here"), plain(grid, "there"), plan, guides=[guide])
    assert np.linalg.norm(result.transform.map_points(here[:1]) - there[:1]) < 0.05


def test_the_record_names_hashes_and_settings(lattice):
    guides = guides_of(lattice)
    plan = Plan(
        stages=(LinearStage(model="translation", similarity=SSD(), shrink=(1,), steps=(1,)),),
        start=Start(search="none"),
    )
    record = register(
        plain(lattice, "here"), plain(lattice, "there"), plan, guides=[guides[0], *guides[1:]][:2]
    ).record
    tree = json.loads(record.to_json())
    assert {"fixed_labels", "moving_labels", "fixed_points", "moving_points"} < set(tree["inputs"])
    assert len(tree["inputs"]["fixed_labels"]["sha256"]) == 16
    assert tree["inputs"]["fixed_points"]["points"] == 6
    assert [one["kind"] for one in tree["measures"]["guides"]] == ["labels", "points"]
    assert tree["measures"]["guides"][0]["labels"] == [3, 7]
    assert "guides" not in register(plain(lattice, "here"), plain(lattice, "there"), plan).record.measures


def test_what_does_not_fit_is_refused_in_words():
    grid = grid_of((20, 18, 9), (1.0, 0.9, 2.1))
    fixed, moving = labelled(grid)
    here, there = plain(grid, "here"), plain(grid, "there")
    far = Grid(
        grid.shape, np.diag([1.0, 1.0, 1.0, 1.0]) @ grid.grid2world + np.pad([[900.0]], ((0, 3), (3, 0)))
    )
    flat = LabelImage(fixed.data[:, :, 4], grid_of((20, 18), (1.0, 0.9)))
    points = PointSet(grid.index2world([[4.0, 5, 3], [9, 8, 4]]))

    def run(*guides, plan=DEFORM["diffeomorphic"]):
        register(here, there, plan, guides=guides)

    with pytest.raises(GeometryError, match="no label in common: fixed 3, 7, moving 1"):
        LabelGuide(fixed=fixed, moving=LabelImage((moving.data > 0).astype(np.uint8), grid))
    with pytest.raises(GeometryError, match="fixed labels lack 5"):
        LabelGuide(fixed=fixed, moving=moving, labels=(3, 5))
    with pytest.raises(GeometryError, match="whole numbers"):
        LabelGuide(fixed=fixed, moving=Image(moving.data * 0.3, grid))
    with pytest.raises(GeometryError, match="2-D"):
        run(LabelGuide(fixed=flat, moving=moving))
    with pytest.raises(GeometryError, match=r"moving labels .* do not overlap their image"):
        run(LabelGuide(fixed=fixed, moving=LabelImage(moving.data, far)))
    with pytest.raises(GeometryError, match="2 fixed landmarks but 1 moving"):
        LandmarkGuide(fixed=points, moving=PointSet(points.points_mm[:1]))
    with pytest.raises(PlanError, match="one weight for each of 2"):
        LandmarkGuide(fixed=points, moving=points, weights=[1.0])
    with pytest.raises(PlanError, match="at least 0"):
        LandmarkGuide(fixed=points, moving=points, weights=[1.0, -1.0])
    with pytest.raises(
        GeometryError, match=r"1 of 2 moving landmarks lie outside the moving image.*LPS or RAS"
    ):
        run(LandmarkGuide(fixed=points, moving=PointSet(points.points_mm * [[1, 1, 1], [-1, -1, 1]])))
    with pytest.raises(GeometryError, match="2-D, the image is 3-D"):
        run(LandmarkGuide(fixed=PointSet(points.points_mm[:, :2]), moving=PointSet(points.points_mm[:, :2])))
    with pytest.raises(GeometryError, match="empty"):
        SurfaceGuide(fixed=Image(np.zeros(grid.shape), grid), moving=moving)
    with pytest.raises(GeometryError, match="fills its image"):
        SurfaceGuide(fixed=fixed, moving=Image(np.ones(grid.shape), grid))
    for bad in (0, -1.0, np.nan, "1", True):
        with pytest.raises(PlanError, match=r"weight of a guide by labels .* is a number above 0"):
            LabelGuide(fixed=fixed, moving=moving, weight=bad)
        with pytest.raises(PlanError, match="clip_mm"):
            SurfaceGuide(fixed=fixed, moving=moving, clip_mm=bad)
    with pytest.raises(PlanError, match="LabelGuide, LandmarkGuide or SurfaceGuide, got PointSet"):
        run(points)
    labels = LabelGuide(fixed=fixed, moving=moving)
    natural = VelocityStage(similarity=DemonsSSD(), gradient="composition", natural_step=True)
    for stage in (DemonsStage(), natural, DeformableStage(similarity=DemonsSSD())):
        with pytest.raises(PlanError, match="no guide can be added"):
            run(labels, plan=Plan(stages=(stage,), start=Start(search="none")))
    with pytest.raises(PlanError, match="no stage that can follow guides"):
        run(labels, plan=Plan(stages=(ConvexStage(),), start=Start(search="none")))


def test_penalties_join_the_greedy_force():
    grid = grid_of((24, 26, 14))
    fixed, moving = pair(smooth_truth(grid, 3.0), grid)
    bent = []
    for penalties in ((), (Diffusion(weight=2.0),)):
        stage = DeformableStage(shrink=(4, 2), steps=(20, 10), penalties=penalties)
        result = register(fixed, moving, Plan(stages=(stage,), start=Start(search="none")))
        vectors = result.transform.flatten().transforms[0].vectors_mm
        bent.append(float(np.mean(np.stack(np.gradient(vectors, axis=(1, 2, 3))) ** 2)))
    assert bent[1] < 0.7 * bent[0]


@pytest.mark.data
def test_three_labels_of_a_mouse_brain_overlap_better_once_they_guide(data_dir):
    folder = data_dir / "mouse_brain"
    fixed, moving = (read(folder / f"{n}_mri.nii.gz") for n in (1, 2))
    target, labels = (read_labels(folder / f"{n}_labels.nii.gz") for n in (1, 2))
    plan = load_plan("brain-t1", ["stages.diffeomorphic.steps=[40, 30, 15, 0]"])
    chosen = (1, 15, 19)
    scores = []
    for guides in ((), (LabelGuide(fixed=target, moving=labels, labels=chosen),)):
        result = register(fixed, moving, plan, guides=guides)
        moved = resample_labels(labels, target.grid, result.transform.flatten())
        scores.append([dice(target.data, moved.data, label) for label in chosen])
        assert result.record.status in (Status.CONVERGED, Status.STEP_LIMIT)
    assert result.record.measures["folded_percent"] < 0.01
    assert (np.array(scores[1]) > scores[0]).all()
    assert np.mean(scores[1]) > np.mean(scores[0]) + 0.02
