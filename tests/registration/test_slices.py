"""Stacks registered slice by slice: each slice finds its own map, in the plane of the slices."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import Body, grid_of, points_of
from scipy.spatial.transform import Rotation

from regista import register, register_slices
from regista.core import GeometryError, Grid, Image, PlanError, RegistrationError, Status
from regista.registration import load_plan
from regista.registration._slices import plane_of, slices_of
from regista.transforms import Affine, Composite, resample

SHAPE, SPACING = (40, 34, 4), (1.1, 0.9, 5.0)
PLAN = load_plan("rigid", ["stages.rigid.shrink=[2, 1]", "stages.rigid.steps=[30, 20]"])
QUICK = load_plan("translation", ["stages.0.shrink=[2]", "stages.0.steps=[6]", "start.search=none"])


def rigid(grid: Grid, angle_deg: float, shift_mm) -> Affine:
    """Return a turn of the plane about the centre of a 2-D grid, then a shift."""
    angle, center = np.radians(angle_deg), grid.center_mm
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:2, 2] = center - matrix[:2, :2] @ center + shift_mm
    return Affine(matrix)


def stack_like(grid: Grid, value) -> Image:
    """Return a stack whose slice N holds ``value(N, points)``, points in mm of the plane."""
    empty = Image(np.zeros(grid.shape, np.float32), grid)
    planes = slices_of(empty, 2, plane_of(grid, 2))
    data = [value(n, points_of(p.grid).reshape(-1, 2)).reshape(p.grid.shape) for n, p in enumerate(planes)]
    return Image(np.stack(data, axis=-1).astype(np.float32), grid)


@pytest.fixture(scope="module")
def stacks():
    """Return the true maps and both stacks, the moving one stored in another way, and elsewhere across the slices."""
    grid = grid_of(SHAPE, SPACING)
    first = slices_of(Image(np.zeros(SHAPE), grid), 2, plane_of(grid, 2))[0].grid
    matrix = grid.grid2world.copy()
    matrix[:3, 3] += matrix[:3, :2] @ [SHAPE[0] - 1, 1.5] + 7 * grid.direction[:, 2]
    matrix[:3, 0] *= -0.8  # finer, from the other side
    matrix[:3, 1] *= 1.2
    other = Grid((44, 30, SHAPE[2]), matrix)
    bodies = [Body(first, blobs=60, seed=n) for n in range(SHAPE[2])]
    truths = [
        rigid(first, angle, shift) for angle, shift in ((4, (2, 1)), (-6, (1, -2)), (0, (0, 0)), (9, (-2, 2)))
    ]
    moving = stack_like(other, lambda n, points: bodies[n](points))
    fixed = stack_like(grid, lambda n, points: bodies[n](truths[n].map_points(points)))
    return truths, Image(fixed.data, grid, space="here"), Image(moving.data, other, space="there")


@pytest.fixture(scope="module")
def found(stacks):
    """Return the result for the stacks."""
    _, fixed, moving = stacks
    return register_slices(fixed, moving, PLAN)


def test_each_slice_finds_its_own_map(stacks, found) -> None:
    truths, fixed, _ = stacks
    assert found.record.status.ok
    for plane, transform, truth in zip(
        slices_of(fixed, 2, plane_of(fixed.grid, 2)), found.transforms, truths, strict=True
    ):
        points = points_of(plane.grid)[plane.data > 0.05]
        away = np.linalg.norm(transform.map_points(points) - truth.map_points(points), axis=-1)
        assert away.mean() < 0.15
        assert (transform.fixed_space, transform.moving_space) == ("here", "there")
    np.testing.assert_allclose(found.table["z_deg"], [4, -6, 0, 9], atol=0.5)
    np.testing.assert_allclose(found.table["x_mm"], [2, 1, 0, -2], atol=0.3)
    np.testing.assert_allclose(found.table["y_mm"], [1, -2, 0, 2], atol=0.3)
    assert (found.table["ncc_after"] > 0.98).all()
    assert (found.table["ncc_after"][[0, 1, 3]] > found.table["ncc_before"][[0, 1, 3]] + 0.02).all()
    assert (found.table["max_mm"] >= found.table["rms_mm"]).all()


def test_the_warped_stack_lies_on_the_fixed_one(stacks, found) -> None:
    _, fixed, _ = stacks
    assert found.warped.grid == fixed.grid
    assert found.warped.space == "here"
    inside = fixed.data > 0.3
    assert np.abs(found.warped.data - fixed.data)[inside].mean() < 0.03


def test_a_slice_is_registered_as_if_it_were_alone(stacks, found) -> None:
    _, fixed, moving = stacks
    frame = plane_of(fixed.grid, 2)
    one, other = slices_of(fixed, 2, frame)[1], slices_of(moving, 2, frame)[1]
    alone = register(one, other, PLAN)
    np.testing.assert_array_equal(alone.transform.matrix, found.transforms[1].matrix)
    np.testing.assert_array_equal(alone.warped.data, found.warped.data[..., 1])


def test_the_axis_across_may_be_any(stacks) -> None:
    _, fixed, moving = stacks

    def turned(image: Image) -> Image:
        matrix = image.grid.grid2world[:, [2, 0, 1, 3]]
        data = np.ascontiguousarray(np.moveaxis(image.data, 2, 0))
        return Image(data, Grid(data.shape, matrix), space=image.space)

    plain = register_slices(fixed, moving, QUICK)
    again = register_slices(turned(fixed), turned(moving), QUICK, axis=0)
    for one, other in zip(again.transforms, plain.transforms, strict=True):
        np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-9)
    np.testing.assert_allclose(np.moveaxis(again.warped.data, 0, 2), plain.warped.data, atol=1e-5)
    assert again.record.measures["axis"] == 0


def test_coordinates_of_the_plane_run_along_the_world() -> None:
    axial = Grid((5, 6, 3), np.diag([-1.0, 2.0, 4.0, 1.0]))
    np.testing.assert_array_equal(plane_of(axial, 2), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(plane_of(axial, 1), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(plane_of(axial, 0), [[0, 1, 0], [0, 0, 1]])
    oblique = grid_of()
    for axis in range(3):
        frame = plane_of(oblique, axis)
        np.testing.assert_allclose(frame @ frame.T, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(frame @ oblique.direction[:, axis], 0, atol=1e-12)
    # a gantry tilt moves the slices within their plane
    tilted = np.diag([1.0, 2.0, 4.0, 1.0])
    tilted[1, 2] = 1.5
    stack = Image(np.zeros((5, 6, 3), np.float32), Grid((5, 6, 3), tilted))
    origins = [one.grid.origin.tolist() for one in slices_of(stack, 2, plane_of(stack.grid, 2))]
    assert origins == [[0, 0], [0, 1.5], [0, 3]]


def test_series_and_channels() -> None:
    grid = grid_of((30, 26), (1.0, 1.2))
    body = Body(grid, blobs=40)
    still, moved = body(points_of(grid)), body(points_of(grid) + np.array([2.0, -1.0]))
    frames = [
        Image(np.stack(pair).astype(np.float32), grid, "series") for pair in ((still, moved), (still, still))
    ]
    found = register_slices(*frames, "translation")
    np.testing.assert_allclose(found.table["x_mm"], [0, 2], atol=0.15)
    np.testing.assert_allclose(found.table["y_mm"], [0, -1], atol=0.15)
    assert found.warped.kind == "series"
    matrix = np.diag([1.0, 1.2, 3.0, 1.0])
    colours = [
        Image(
            np.stack([one, 1 - one])[..., None].repeat(2, -1).astype(np.float32),
            Grid((30, 26, 2), matrix),
            "channels",
        )
        for one in (still, still)
    ]
    both = register_slices(*colours, "translation")
    assert both.warped.data.shape == (2, 30, 26, 2)
    np.testing.assert_allclose(both.warped.data, colours[0].data, atol=0.05)


def test_slices_without_content_are_left_and_told(stacks) -> None:
    _, fixed, moving = stacks
    data = fixed.data.copy()
    data[..., 2] = 5
    data[4, 5, 2] = 7  # one lit pixel in a flat slice is nothing to align
    mask = np.ones(moving.grid.shape, np.uint8)
    mask[..., 0] = 0
    told: list[str] = []
    found = register_slices(
        fixed.with_data(data), moving, "translation", moving_mask=Image(mask, moving.grid),
        progress=lambda step: told.append(step.stage),
    )  # fmt: skip
    assert found.record.measures["constant"] == [0, 2]
    assert any("left in place: 0, 2" in warning for warning in found.record.warnings)
    for number in (0, 2):
        np.testing.assert_array_equal(found.transforms[number].matrix, np.eye(3))
        assert found.table["max_mm"][number] == 0
    assert {stage.split()[1] for stage in told} == {"1", "3"}
    with pytest.raises(GeometryError, match="every slice is constant"):
        register_slices(fixed.with_data(np.ones_like(data)), moving, "translation")


def test_slices_that_bend_and_replay(stacks) -> None:
    _, fixed, moving = stacks
    plan = load_plan(
        "2d", ["stages.affine.shrink=[4]", "stages.diffeomorphic.shrink=[4, 2]", "start.search=none"]
    )
    found = register_slices(fixed, moving, plan, fill=-1)
    assert all(isinstance(transform, Composite) for transform in found.transforms)
    frame = plane_of(fixed.grid, 2)
    pairs = zip(slices_of(fixed, 2, frame), slices_of(moving, 2, frame), found.transforms, strict=True)
    again = np.stack([resample(there, here.grid, one, fill=-1).data for here, there, one in pairs], -1)
    np.testing.assert_allclose(again, found.warped.data, atol=1e-5)
    assert (found.table["folded_percent"] == 0).all()
    assert (found.table["smallest_jacobian"] > 0).all()
    assert (found.table["smallest_jacobian"] < 1).all()


def test_what_is_refused(stacks) -> None:
    _, fixed, moving = stacks
    short = Image(moving.data[..., :3], Grid((*moving.grid.shape[:2], 3), moving.grid.grid2world))
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(0.1 * fixed.grid.direction[:, 0]).as_matrix()
    tilted = Image(fixed.data, Grid(fixed.grid.shape, turn @ fixed.grid.grid2world))
    matrix = fixed.grid.grid2world.copy()
    matrix[:3, 2] *= -1
    opposite = Image(fixed.data, Grid(fixed.grid.shape, matrix))
    series = Image(np.zeros((4, 6, 5), np.float32), Grid((6, 5), np.eye(3)), "series")
    bad = fixed.data.copy()
    bad[3, 4, 1] = np.nan
    for one, other, options, error, message in (
        (fixed, short, {}, GeometryError, "fixed stack has 4 slices and the moving one 3 along array axis 2"),
        (fixed, tilted, {}, GeometryError, r"planes 5.7° apart"),
        (fixed, opposite, {}, GeometryError, "opposite directions"),
        (fixed, series, {}, GeometryError, "store both in the same way"),
        (series.frames()[0], fixed, {}, GeometryError, "expected a stack of slices"),
        (series, series, {"axis": 1}, PlanError, "leave the axis out"),
        (fixed, moving, {"axis": 3}, PlanError, "axis across the slices is 0, 1 or 2"),
        (fixed.with_data(bad), moving, {}, GeometryError, "slice 1 of the fixed stack has 1 NaN"),
        (fixed, moving, {"fixed_mask": moving}, GeometryError, "another grid"),
    ):
        with pytest.raises(error, match=message):
            register_slices(one, other, PLAN, **options)


def test_a_slice_that_fails_makes_the_whole_fail(stacks, monkeypatch) -> None:
    from regista.registration import _slices

    _, fixed, moving = stacks
    real = _slices.gist
    monkeypatch.setattr(_slices, "gist", lambda record: {**real(record), "status": Status.FOLDED})
    failed = register_slices(fixed, moving, "translation").record
    assert failed.status is Status.FOLDED
    assert failed.measures["failed"] == [0, 1, 2, 3]


def test_a_slice_that_cannot_be_registered_is_left_and_the_others_go_on(stacks) -> None:
    """The content of one slice lies outside of its partner's mask: told with its number, and nothing else is lost."""
    _, fixed, moving = stacks
    masks = {
        role: Image(np.ones(one.grid.shape, np.uint8), one.grid)
        for role, one in (("fixed_mask", fixed), ("moving_mask", moving))
    }
    apart = {role: mask.data.copy() for role, mask in masks.items()}
    apart["fixed_mask"][20:, :, 1] = 0
    apart["moving_mask"][20:, :, 1] = 0  # stored from the other side: the other half
    apart = {role: masks[role].with_data(data) for role, data in apart.items()}
    plain, found = (register_slices(fixed, moving, QUICK, **given) for given in (masks, apart))
    measures = found.record.measures
    assert (found.record.status, measures["failed"]) == (Status.ERROR, [1])
    assert measures["slices"][1]["status"] == Status.ERROR
    assert "overlap" in measures["slices"][1]["error"]
    np.testing.assert_array_equal(found.transforms[1].matrix, np.eye(3))
    for number in (0, 2, 3):
        assert "error" not in measures["slices"][number]
        np.testing.assert_array_equal(found.transforms[number].matrix, plain.transforms[number].matrix)
    assert len(found.table["slice"]) == len(found.transforms) == 4


def test_where_no_slice_can_be_registered_that_is_an_error(stacks, monkeypatch) -> None:
    from regista.registration import _slices

    _, fixed, moving = stacks
    wrong: list[type[Exception]] = [RegistrationError]

    def fails(*_: object, **__: object) -> None:
        raise wrong[0]("too far apart")

    monkeypatch.setattr(_slices, "register", fails)
    with pytest.raises(
        RegistrationError, match=r"^no slice could be registered; slice 0 of the stacks: too far apart"
    ):
        register_slices(fixed, moving, QUICK)
    wrong[0] = PlanError  # that is no slice's fault
    with pytest.raises(PlanError, match=r"^too far apart"):
        register_slices(fixed, moving, QUICK)
