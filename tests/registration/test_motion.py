"""Motion correction: simulated motion is found, volumes are sampled once, measures agree with hand-made ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import Body, grid_of, inside, points_of
from scipy.spatial.transform import Rotation

from regista import correct_motion, read
from regista.core import Cancelled, GeometryError, Grid, Image, PlanError, Status
from regista.io import write_transform
from regista.registration import framewise_displacement, load_plan
from regista.registration._motion_measures import displacements, rigid_parameters
from regista.transforms import Affine, Composite, DisplacementField, resample

SHAPE, SPACING = (34, 40, 24), (2.2, 2.0, 3.1)
COUNT = 6


def rigid(grid: Grid, shift_mm, angles_deg) -> Affine:
    """Return a turn about the world's axes through the grid's centre, then a shift."""
    ndim = grid.ndim
    angles = angles_deg if ndim == 3 else (0, 0, angles_deg[0])
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()[:ndim, :ndim]
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = turn
    matrix[:ndim, ndim] = grid.center_mm - turn @ grid.center_mm + shift_mm
    return Affine(matrix)


def motions(grid: Grid, count: int, still: int) -> list[Affine]:
    """Return random motions of up to 3 mm and 2°, one volume left where it is."""
    rng = np.random.default_rng(5)
    ndim = grid.ndim
    found = [rigid(grid, rng.uniform(-3, 3, ndim), rng.uniform(-2, 2, 3)) for _ in range(count)]
    found[still] = Affine.identity(ndim)
    return found


def series_of(grid: Grid, moves: list[Affine], noise=0.03, frame_seconds=0.8) -> Image:
    """Return ``volume_t(y) = body(move_t⁻¹(y))``, noisy and drifting, so that `moves` are reference → volume."""
    body, rng = Body(grid, blobs=120), np.random.default_rng(8)
    places = points_of(grid).reshape(-1, grid.ndim)
    volumes = []
    for n, move in enumerate(moves):
        values = body(move.inverse().map_points(places)).reshape(grid.shape)
        drift = 400 * (1 + 0.03 * n / len(moves))
        volumes.append(drift * (values + noise * rng.standard_normal(grid.shape)))
    return Image(np.stack(volumes).astype(np.float32), grid, "series", "bold", frame_seconds)


def errors_mm(transforms, moves, grid: Grid, still: int) -> np.ndarray:
    """Return each volume's mean error inside the body, the reference's own place taken from the still volume."""
    points = inside(Image(Body(grid, blobs=1)(points_of(grid)), grid))
    back = transforms[still].inverse()
    return np.array(
        [
            np.linalg.norm(found.map_points(back.map_points(points)) - move.map_points(points), axis=1).mean()
            for found, move in zip(transforms, moves, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def moved():
    """Return the true motions of a series whose middle volume lies still, and the series."""
    grid = grid_of(SHAPE, SPACING)
    moves = motions(grid, COUNT, COUNT // 2)
    return moves, series_of(grid, moves)


@pytest.fixture(scope="module")
def corrected(moved):
    """Return the result for the mean as the reference."""
    return correct_motion(moved[1])


def test_motion_is_found_to_a_tenth_of_a_millimetre(moved, corrected):
    moves, series = moved
    unmoved = errors_mm([Affine.identity()] * COUNT, moves, series.grid, COUNT // 2)
    assert unmoved.max() > 2
    found = errors_mm(corrected.transforms, moves, series.grid, COUNT // 2)
    assert found.mean() < 0.06
    assert found.max() < 0.1
    points = inside(series.frames()[COUNT // 2])
    drift = corrected.transforms[COUNT // 2].map_points(points) - points
    assert np.linalg.norm(drift, axis=1).mean() < 0.06  # the mean stays where the middle volume is
    assert corrected.record.status.ok
    assert corrected.record.measures["failed"] == []
    assert len(corrected.record.measures["volumes"]) == COUNT


def test_the_corrected_series_varies_less(moved, corrected):
    _, series = moved
    body = series.data[COUNT // 2] > 120
    before, after = (image.data.std(axis=0)[body].mean() for image in (series, corrected.corrected))
    assert after < 0.4 * before
    assert corrected.corrected.kind == "series"
    assert corrected.corrected.grid == series.grid
    assert corrected.corrected.data.dtype == np.float32
    assert (corrected.corrected.frame_seconds, corrected.corrected.space) == (0.8, "bold")


def test_parameters_are_those_of_the_truth(moved):
    moves, series = moved
    found = correct_motion(series, reference=COUNT // 2)
    truth = rigid_parameters(moves, series.grid)
    assert np.abs(found.parameters[:, :3] - truth[:, :3]).max() < 0.12
    assert np.abs(found.parameters[:, 3:] - truth[:, 3:]).max() < 0.25  # 0.1 mm at 25 mm from the centre
    assert not found.parameters[COUNT // 2].any()
    np.testing.assert_allclose(found.corrected.data[COUNT // 2], series.data[COUNT // 2], atol=0.05)
    np.testing.assert_array_equal(found.reference.data, series.data[COUNT // 2])


def test_each_volume_is_sampled_once_as_itk_would(moved, corrected, tmp_path):
    _, series = moved
    spacing, origin, direction = series.grid.to_lps()
    for number in (0, 4):
        moving = sitk.GetImageFromArray(np.ascontiguousarray(series.data[number].T.astype(np.float64)))
        moving.SetSpacing(spacing.tolist())
        moving.SetOrigin(origin.tolist())
        moving.SetDirection(direction.ravel().tolist())
        write_transform(tmp_path / "volume.mat", corrected.transforms[number])
        replay = sitk.ReadTransform(str(tmp_path / "volume.mat"))
        expected = sitk.GetArrayFromImage(sitk.Resample(moving, moving, replay, sitk.sitkBSpline, 0.0)).T
        inner = (slice(5, -5),) * 3  # ITK's spline treats borders otherwise
        difference = np.abs(corrected.corrected.data[number] - expected)[inner]
        assert difference.max() < 1e-3 * series.data.max()


@pytest.mark.parametrize("reference", ["first", "median", 4])
def test_other_references(moved, reference):
    moves, series = moved
    found = correct_motion(series, reference=reference)
    still = {"first": 0, "median": COUNT // 2, 4: 4}[reference]
    from_still = [Affine(move.matrix @ moves[still].inverse().matrix) for move in moves]
    points = moves[still].map_points(inside(series.frames()[COUNT // 2]))
    back = found.transforms[still].inverse()
    for transform, move in zip(found.transforms, from_still, strict=True):
        error = transform.map_points(back.map_points(points)) - move.map_points(points)
        assert np.linalg.norm(error, axis=1).mean() < 0.1
    assert found.record.measures["reference"] == reference
    assert found.record.measures["passes"] == (2 if reference == "median" else 1)


def test_the_same_input_gives_the_same_bytes(moved, corrected):
    again = correct_motion(moved[1])
    np.testing.assert_array_equal(again.corrected.data, corrected.corrected.data)
    np.testing.assert_array_equal(again.parameters, corrected.parameters)


def test_a_mask_says_what_is_compared_and_measured(moved):
    moves, series = moved
    spoilt = series.data.copy()
    rng = np.random.default_rng(0)
    spoilt[:, :9] = 900 * rng.random((COUNT, 9, *SHAPE[1:]))  # something else moves there
    spoilt = series.with_data(spoilt)
    mask = np.zeros(SHAPE, np.uint8)
    mask[12:] = 1
    mask = Image(mask, series.grid)
    found = correct_motion(spoilt, mask=mask, reference=COUNT // 2)
    assert errors_mm(found.transforms, moves, series.grid, COUNT // 2).max() < 0.3
    distances = displacements(found.transforms, series.grid, mask)
    np.testing.assert_array_equal(found.mean_mm, distances.mean_mm)
    assert "mask" in found.record.inputs


def test_slices_of_a_plane():
    grid = grid_of((44, 52), (1.6, 1.1))
    moves = motions(grid, 5, 2)
    series = series_of(grid, moves, noise=0.02, frame_seconds=None)
    found = correct_motion(series)
    assert errors_mm(found.transforms, moves, grid, 2).max() < 0.1
    assert found.parameters.shape == (5, 3)
    assert found.corrected.data.shape == (5, 44, 52)
    assert list(found.table)[:5] == ["volume", "x_mm", "y_mm", "z_deg", "framewise_mm"]


def test_one_slice_of_a_volume_moves_in_its_plane():
    flat = grid_of((44, 52), (1.6, 1.1))
    moves = motions(flat, 3, 1)
    plane = series_of(flat, moves, noise=0.02)
    grid = flat.as_3d()
    found = correct_motion(Image(plane.data[..., None], grid, "series"), reference=1)
    assert np.abs(found.parameters[:, [2, 3, 4]]).max() < 1e-6
    expected = rigid_parameters(moves, flat)
    np.testing.assert_allclose(found.parameters[:, [0, 1]], expected[:, :2], atol=0.12)
    np.testing.assert_allclose(found.parameters[:, 5], expected[:, 2], atol=0.15)


def test_deformable_and_affine_plans():
    grid = grid_of((26, 30, 16), (2.2, 2.0, 3.1))
    moves = motions(grid, 3, 1)
    series = series_of(grid, moves, noise=0.01)
    plan = load_plan("fast", ["stages.affine.steps=[30]", "stages.diffeomorphic.steps=[10, 10, 5]"])
    found = correct_motion(series, plan)
    assert all(isinstance(transform, Composite) for transform in found.transforms)
    expected = rigid_parameters(moves, grid)
    assert np.abs(found.parameters - expected)[:, :3].max() < 0.8
    assert found.record.measures["volumes"][0]["folded_percent"] == 0
    after = found.corrected.data.std(axis=0)
    assert after.mean() < 0.6 * series.data.std(axis=0).mean()


def test_a_field_alone_starts_from_the_neighbour_s_field():
    grid = grid_of((26, 30, 16), (2.2, 2.0, 3.1))
    series = series_of(grid, motions(grid, 3, 0), noise=0.0)
    plan = load_plan("deformable", ["stages.0.shrink=[4, 2]", "stages.0.steps=[20, 10]"])
    found = correct_motion(series, plan, reference="first")
    assert found.corrected.data.std(axis=0).mean() < 0.5 * series.data.std(axis=0).mean()


def test_volumes_do_not_count_in_the_mean_where_they_do_not_reach(moved):
    _, series = moved
    lifted = series.with_data(series.data + 1000)  # what would be 0 outside shows
    found = correct_motion(lifted)
    assert found.reference.data.min() > 900
    outside = found.corrected.data == 0
    assert outside.any()


def test_framewise_displacement_by_hand():
    table = [[0, 0, 0, 0, 0, 0], [1, -2, 0.5, 0, 0, 0], [1, -2, 0.5, 1, 0, -2], [0, 0, 0, 1, 0.5, -2]]
    arc = 50 * np.pi / 180
    expected = [0, 3.5, 3 * arc, 3.5 + 0.5 * arc]
    np.testing.assert_allclose(framewise_displacement(table), expected, atol=1e-12)
    np.testing.assert_allclose(framewise_displacement([[0, 0, 0], [3, -4, 2]], 10), [0, 7 + 20 * np.pi / 180])
    with pytest.raises(GeometryError, match="6 columns"):
        framewise_displacement(np.zeros((4, 5)))
    with pytest.raises(PlanError, match="radius_mm"):
        framewise_displacement(np.zeros((4, 6)), 0)


def test_parameters_of_affine_maps_and_fields(grid):
    move = rigid(grid, (1.0, -2.0, 0.5), (3.0, -1.0, 2.0))
    np.testing.assert_allclose(rigid_parameters([move], grid), [[1, -2, 0.5, 3, -1, 2]], atol=1e-9)
    stretch = np.eye(4)
    stretch[:3, :3] = np.diag([1.1, 0.95, 1.02])
    stretch[:3, 3] = grid.center_mm - stretch[:3, :3] @ grid.center_mm
    stretched = Affine(move.matrix @ stretch)  # a stretch first: the nearest rotation is the turn
    np.testing.assert_allclose(rigid_parameters([stretched], grid), [[1, -2, 0.5, 3, -1, 2]], atol=1e-9)
    vectors = np.moveaxis(move.map_points(points_of(grid).reshape(-1, 3)).reshape(*grid.shape, 3), -1, 0)
    field = DisplacementField((vectors - grid.coordinates_mm()).astype(np.float32), grid)
    chain = Composite((field, Affine.identity()))
    np.testing.assert_allclose(rigid_parameters([chain], grid), [[1, -2, 0.5, 3, -1, 2]], atol=1e-3)


def test_distances_by_hand(grid, rng):
    moves = [
        Affine.identity(),
        rigid(grid, (1.0, -2.0, 0.5), (3.0, -1.0, 2.0)),
        rigid(grid, (0, 1, 0), (0, 0, 9)),
    ]
    mask = Image((rng.random(grid.shape) > 0.7).astype(np.uint8), grid)
    for chosen in (None, mask):
        points = points_of(grid).reshape(-1, 3)
        points = points if chosen is None else points[mask.data.ravel() > 0]
        found = displacements(moves, grid, chosen)
        places = [move.map_points(points) for move in moves]
        lengths = [np.linalg.norm(place - points, axis=1) for place in places]
        np.testing.assert_allclose(found.mean_mm, [v.mean() for v in lengths])
        np.testing.assert_allclose(found.max_mm, [v.max() for v in lengths])
        np.testing.assert_allclose(found.rms_mm, [np.sqrt((v**2).mean()) for v in lengths])
        steps = [0] + [np.sqrt(((b - a) ** 2).sum(1).mean()) for a, b in pairwise(places)]
        np.testing.assert_allclose(found.rms_step_mm, steps)


def small(count=3) -> Image:
    grid = grid_of((12, 14, 9), (2.0, 2.2, 3.0))
    return series_of(grid, [Affine.identity()] * count, noise=0.0)


def test_what_cannot_be_corrected_is_refused():
    series = small()
    with pytest.raises(GeometryError, match="3-D scalar image"):
        correct_motion(series.frames()[0])
    with pytest.raises(GeometryError, match="two volumes or more, got 1"):
        correct_motion(small(1))
    with pytest.raises(GeometryError, match=r"regista\.Image"):
        correct_motion(series.data)
    broken = series.data.copy()
    broken[2, 3, 4, 5] = np.nan
    with pytest.raises(GeometryError, match="volume 2 has 1 NaN"):
        correct_motion(series.with_data(broken))
    assert correct_motion(series.with_data(broken), non_finite="mask").record.status.ok
    flat = series.data.copy()
    flat[1] = 7
    with pytest.raises(GeometryError, match="volume 1 of the series is constant"):
        correct_motion(series.with_data(flat))
    with pytest.raises(GeometryError, match="another grid"):
        correct_motion(series, mask=Image(np.ones((12, 14, 9)), grid_of((12, 14, 9), (2.0, 2.2, 3.1))))
    for wrong in ("last", 3, -1, True, 1.0, None):
        with pytest.raises(PlanError, match="0 to 2"):
            correct_motion(series, reference=wrong)
    with pytest.raises(PlanError, match="at least 2"):
        correct_motion(series, passes=1)
    with pytest.raises(PlanError, match="non_finite"):
        correct_motion(series, non_finite="keep")
    with pytest.raises(PlanError, match="smooth_vox"):
        load_plan("motion", ["stages.0.smooth_vox=-1"])


def test_progress_grows_and_may_stop_the_run():
    seen = []
    correct_motion(small(), progress=lambda report: seen.append(report))
    assert [report.fraction for report in seen] == sorted(report.fraction for report in seen)
    assert seen[-1].fraction <= 1
    assert seen[0].stage == "volume 2 rigid"

    def stop(_):
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        correct_motion(small(), progress=stop)


def test_a_volume_that_fails_is_named(monkeypatch):
    from regista.registration import _motion

    real = _motion.register

    def fail(fixed, moving, *args, **kwargs):
        found = real(fixed, moving, *args, **kwargs)
        if np.array_equal(moving.data, series.data[2]):
            object.__setattr__(found.record, "status", Status.NON_FINITE)
        return found

    series = small()
    series.data[2] *= 1.5
    monkeypatch.setattr(_motion, "register", fail)
    record = correct_motion(series).record
    assert record.status is Status.NON_FINITE
    assert record.measures["failed"] == [2]


@pytest.mark.data
def test_a_moved_mouse_brain_comes_back(data_dir):
    scan = read(data_dir / "mouse_brain" / "1_mri.nii.gz")
    grid = scan.grid.with_spacing(2.5 * scan.grid.spacing.min())
    scale = float(grid.spacing.min())  # the motion of a head, for a brain as small as this one
    rng, level = np.random.default_rng(2), float(np.percentile(scan.data, 90))
    moves = [Affine.identity()]
    moves += [rigid(grid, rng.uniform(-1.2, 1.2, 3) * scale, rng.uniform(-2, 2, 3)) for _ in range(5)]
    volumes = []
    for n, move in enumerate(moves):
        volume = resample(
            Image(scan.data, scan.grid), grid, move.inverse(), interpolation="cubic", dtype=np.float32
        )
        noisy = volume.data * (1 + 0.02 * n) + 0.04 * level * rng.standard_normal(grid.shape)
        volumes.append(noisy.astype(np.float32))
    series = Image(np.stack(volumes), grid, "series", "mouse", 1.5)
    found = correct_motion(series)
    points = grid.index2world(np.argwhere(series.data[0] > 0.5 * level))
    back = found.transforms[0].inverse()
    errors = [
        np.linalg.norm(t.map_points(back.map_points(points)) - m.map_points(points), axis=1).mean()
        for t, m in zip(found.transforms, moves, strict=True)
    ]
    assert np.mean(errors) < 0.05 * scale  # as 0.1 mm is to voxels of 2 mm
