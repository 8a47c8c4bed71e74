"""Cases that once went wrong without a word: contrasts, wide windows, no overlap, odd planes, odd headers."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import replace

import numpy as np
import pytest
from phantoms import error_mm, error_vox, grid_of, linear_truth, pair, smooth_truth
from scipy.spatial.transform import Rotation

from regista.core import GeometryError, Grid, Image, RegistrationError, get_threads, threads
from regista.registration import DeformableStage, LinearStage, Plan, Start, register
from regista.similarity import LNCC, MI, NCC, NMI
from regista.transforms import DisplacementField, Translation, jacobian_determinant, resample

NONE = Start(search="none")


def field_plan(**settings) -> Plan:
    stage = DeformableStage(**{"shrink": (4, 2, 1), "steps": (40, 30, 15), **settings})
    return Plan(stages=(stage,), start=NONE)


@pytest.mark.parametrize("metric", [MI(), NMI()], ids=lambda m: m.name)
def test_inverted_contrast_is_followed_by_information(metric):
    truth = smooth_truth(grid_of(), 4.0)
    fixed, moving = pair(truth, contrast=lambda v: np.where(v > 0, 1.5 - v, 0))
    before = error_mm(Translation.by([0.0, 0.0, 0.0]), truth, fixed).mean()
    found = register(fixed, moving, field_plan(similarity=metric, update_sigma_vox=(2.5,)))
    assert error_mm(found.transform, truth, fixed).mean() < 0.5 * before
    assert found.record.measures["folded_percent"] == 0


def test_a_wide_window_reads_nothing_it_should_not(smooth_pair):
    _, fixed, moving = smooth_pair
    plan = field_plan(similarity=LNCC(radius=9), shrink=(2,), steps=(6,), update_sigma_vox=(1.414,))
    runs = [register(fixed, moving, plan) for _ in range(3)]
    fields = [run.transform.flatten().transforms[0].vectors_mm for run in runs]
    np.testing.assert_array_equal(fields[0], fields[1])
    np.testing.assert_array_equal(fields[0], fields[2])
    values = runs[0].record.history[0].values
    assert all(-1 <= value <= 0 for value in values)
    assert values[-1] < values[0]


@pytest.mark.parametrize("plan", [field_plan(), Plan(stages=(LinearStage(model="rigid"),), start=NONE)])
def test_images_apart_are_refused(smooth_pair, plan):
    _, fixed, moving = smooth_pair
    away = Translation.by([900.0, 0.0, 0.0])
    with pytest.raises(RegistrationError, match=r"only 0 % .* overlap at the start"):
        register(fixed, moving, plan, initial=away)


def test_an_initial_transform_the_wrong_way_round_is_refused(smooth_pair):
    _, fixed, moving = smooth_pair
    rigid = Plan(stages=(LinearStage(model="rigid", similarity=NCC(), shrink=(4,), steps=(5,)),), start=NONE)
    found = register(fixed, moving, rigid)
    with pytest.raises(GeometryError, match="wrong way round"):
        register(fixed, moving, rigid, initial=found.inverse)


def test_the_last_step_counts_too(smooth_pair):
    _, fixed, _ = smooth_pair
    found = register(fixed, Image(fixed.data, fixed.grid), field_plan(shrink=(1,), steps=(1,)))
    np.testing.assert_array_equal(found.transform.flatten().transforms[0].vectors_mm, 0)  # it was an error


@pytest.mark.parametrize("normal", [0, 1, 2])
@pytest.mark.parametrize("search", ["none", "centers", "rotations"])
def test_a_single_slice_moves_in_its_own_plane(normal, search):
    flat = grid_of((60, 70), (1.0, 1.3))
    truth = linear_truth(flat, (9,), (3.0, -2.0))
    images = pair(truth, grid=flat)
    frame = np.roll(np.eye(3), normal + 1, axis=0)  # columns: first in-plane, second in-plane, normal
    shape, order = list(flat.shape), [0, 1]
    shape.insert(normal, 1)
    matrix = np.eye(4)
    columns = frame[:, :2] @ flat.grid2world[:2, :2]
    for axis, column in zip([a for a in range(3) if a != normal], columns.T, strict=True):
        matrix[:3, axis] = column
    matrix[:3, normal] = 2.0 * frame[:, 2]
    matrix[:3, 3] = frame[:, :2] @ flat.grid2world[:2, 2] + 7.0 * frame[:, 2]
    fixed, moving = (
        Image(i.data.transpose(order).reshape(shape), Grid(tuple(shape), matrix)) for i in images
    )
    plan = Plan(
        stages=(LinearStage(model="rigid", similarity=NCC(), shrink=(2, 1), steps=(60, 30)),),
        start=Start(search=search),
    )
    found = register(fixed, moving, plan).transform
    points = flat.index2world(np.random.default_rng(0).uniform(15, 45, (50, 2)))
    expected = truth(points) @ frame[:, :2].T + 7.0 * frame[:, 2]
    got = found.map_points(points @ frame[:, :2].T + 7.0 * frame[:, 2])
    assert np.linalg.norm(got - expected, axis=1).max() < 0.2


def test_rigid_stays_rigid_under_a_sheared_header():
    grid = grid_of()
    sheared = grid.grid2world.copy()
    sheared[:3, :3] = np.array([[1, 0.1, 0], [0, 1, 0.06], [0, 0, 1]]) @ sheared[:3, :3]
    grid = Grid(grid.shape, sheared)
    turn = Rotation.from_euler("xyz", (5, 80, -4), degrees=True).as_matrix()
    center = grid.center_mm
    truth = lambda p: (p - center) @ turn.T + center + [60.0, 40.0, 0.0]  # noqa: E731
    moved = grid.grid2world.copy()
    moved[:2, 3] += [60.0, 40.0]
    moving_grid = Grid(grid.shape, moved)
    fixed, moving = pair(truth, grid=grid, moving_grid=moving_grid)
    plan = Plan(stages=(LinearStage(model="rigid", similarity=NCC(), shrink=(4, 2), steps=(60, 30)),))
    linear = register(fixed, moving, plan).transform.matrix[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-6)


def test_a_small_moving_mask_is_enough():
    truth = linear_truth(grid_of(), (2, -3, 4), (1.0, -0.8, 1.5))
    fixed, moving = pair(truth)
    mask = np.zeros(moving.data.shape, np.uint8)
    mask[12:29, 18:36, 8:20] = 1
    assert 0.03 < mask.mean() < 0.1
    plan = Plan(
        stages=(LinearStage(model="rigid", similarity=NCC(), shrink=(2, 1), steps=(40, 15)),), start=NONE
    )
    found = register(fixed, moving, plan, moving_mask=Image(mask, moving.grid))
    assert error_vox(found.transform, truth, fixed, moving).mean() < 0.5


def test_holes_of_nan_do_not_pull(smooth_pair):
    truth, fixed, moving = smooth_pair
    holes = fixed.data.copy()
    holes[15:25, 20:30, 10:20] = np.nan
    whole = register(fixed, moving, field_plan())
    found = register(Image(holes, fixed.grid, space=fixed.space), moving, field_plan(), non_finite="mask")
    clean, torn = (error_mm(r.transform, truth, fixed).mean() for r in (whole, found))
    assert torn < clean + 0.1


def test_a_coarse_last_level_keeps_the_detail_of_the_start(smooth_pair):
    _, fixed, moving = smooth_pair
    rng = np.random.default_rng(4)
    rough = (0.2 * rng.standard_normal((3, *fixed.grid.shape))).astype(np.float32)
    start = DisplacementField(rough, fixed.grid, fixed_space=fixed.space, moving_space=moving.space)
    found = register(fixed, moving, field_plan(shrink=(2,), steps=(0,)), initial=start)
    np.testing.assert_allclose(found.transform.flatten().transforms[0].vectors_mm, rough, atol=1e-5)
    assert jacobian_determinant(start, fixed.grid).shape == fixed.grid.shape


def _in_child(image, queue):
    queue.put(float(resample(image, image.grid, Translation.by([1.0, 0.0, 0.0])).data.sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_can_work(smooth_pair):
    _, fixed, _ = smooth_pair
    with threads(2):
        here = float(resample(fixed, fixed.grid, Translation.by([1.0, 0.0, 0.0])).data.sum())
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(fixed, queue))
        child.start()
        try:
            assert queue.get(timeout=30) == pytest.approx(here)
        finally:
            child.kill()
            child.join()


def test_thread_settings_do_not_leak_between_threads():
    before, inside = get_threads(), {}
    entered, leave = threading.Event(), threading.Event()

    def other():
        with threads(3):
            inside["other"] = get_threads()
            entered.set()
            leave.wait(10)

    worker = threading.Thread(target=other)
    worker.start()
    entered.wait(10)
    with threads(1):
        leave.set()
        worker.join()
        assert get_threads() == 1
    assert (inside["other"], get_threads()) == (3, before)


def test_thick_slices_and_planes_are_weighed_as_they_are(smooth_pair):
    _, fixed, moving = smooth_pair
    coarse = register(fixed, moving, field_plan(shrink=(2,), steps=(0,))).record.measures
    fine = register(fixed, moving, replace(field_plan(shrink=(1,), steps=(0,)))).record.measures
    assert coarse["predicted_memory_bytes"] < fine["predicted_memory_bytes"]
