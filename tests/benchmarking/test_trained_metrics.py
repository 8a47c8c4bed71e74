"""What the benchmark of trained metrics does besides training: cases, spoilt images, tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regista.core import Grid, Image, LabelImage
from regista.transforms import Affine


@pytest.fixture
def experiments(script):
    pytest.importorskip("torch", reason="trained metrics need torch: pip install 'regista[learn]'")
    return script("deep_metric_experiments")


@pytest.fixture
def arms(script, experiments):
    return script("harness.deep_metric_arms")


@pytest.fixture
def measures(script, experiments):
    return script("harness.deep_metric_measures")


@pytest.fixture
def harness(script):
    return script("harness.deep_metric")


@pytest.fixture
def tables(script):
    return script("harness.deep_metric_tables")


def _shift(mm):
    return Affine([[1, 0, mm], [0, 1, 0], [0, 0, 1]])


def _rows(experiment, column, values):
    return [
        {
            "experiment": experiment,
            "case": case,
            "metric": metric,
            column: value,
            f"{column}_before": 9,
            "seconds": 1,
        }
        for metric, found in values.items()
        for case, value in found.items()
    ]


def test_metrics_are_compared_on_the_cases_that_all_have(tables):
    cases = [f"s{n}_map{m}" for n in range(4) for m in range(3)]
    base = {case: 3.0 + 0.1 * n for n, case in enumerate(cases)}
    better = {case: value - 1 - 0.01 * n for n, (case, value) in enumerate(base.items())}
    del better["s0_map0"]
    (section,) = [one for one in tables.sections("mm") if one.experiment == "known"]
    text = tables.comparison(_rows("known", "error", {"MI": base, "deep": better}), section)
    assert "n = 11 registrations with each metric, of 4 subjects. Before: 9.00 ± 0.00." in text
    line = next(line for line in text.splitlines() if line.startswith("| deep"))
    assert "-1.060, p 0.00098, by subject" in line  # all of 11 pairs on one side: 2 / 2^11
    assert "around lesions" not in text  # no case has that measure
    assert tables.comparison([], section) == ""


def test_rows_survive_the_end_of_a_session(tables, tmp_path):
    path = tmp_path / "new" / "rows.csv"
    for case in "ab":
        tables.append(path, {"case": case}, ("case", "error"))
    assert tables.read_rows(path) == [{"case": "a", "error": ""}, {"case": "b", "error": ""}]
    assert tables.read_rows(tmp_path / "none.csv") == []


def test_tables_go_between_the_marks_of_a_page(tables, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- one: begin -->\nold\n<!-- one: end -->\nbelow\n", encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"picture")
    tables.publish(page, "one", "new", tmp_path / "a.png")
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.index("above") < text.index("new") < text.index("plots/page/one.png") < text.index("below")
    assert (tmp_path / "plots" / "page" / "one.png").read_bytes() == b"picture"
    with pytest.raises(SystemExit, match="no place for two"):
        tables.publish(page, "two", "new")


def test_landscapes_tell_the_smaller_side_of_the_capture_range(tables):
    row = {
        "case": "a",
        "metric": "MI",
        "unit": "mm",
        "optimum": "-0.5",
        "capture_below": "12",
        "capture_above": "7",
    }
    turn = {**row, "unit": "deg", "optimum": "0", "capture_below": "4"}
    text = tables.landscapes([{**one, "local_minima": "2"} for one in (row, turn)], 30.0, "px")
    assert "| MI | shift, px | 0.50 ± 0.00 | 7.0 ± 0.0 | 7.0 | 2.0 ± 0.0 |" in text
    assert "ends 30 to either side" in text
    assert "| MI | turn, ° | 0.00 ± 0.00 | 4.0 ± 0.0 | 4.0 |" in text


def test_known_maps_are_undone_by_their_truth(harness):
    rng = np.random.default_rng(0)
    shape = (50, 64)
    grid = Grid(shape, np.array([[-0.8, 0, 10.0], [0, 1.1, -4.0], [0, 0, 1]]))
    bump = np.exp(-((np.indices(shape) - np.reshape([24, 31], (2, 1, 1))) ** 2).sum(0) / 200)
    image = Image((bump + 0.05 * rng.random(shape)).astype(np.float32), grid)
    case = harness.moved_case("s1_map0", image, image, 3, 2.0, 9.0)
    there = case.truth.map_points(grid.index2world([[24, 31]]))
    assert np.linalg.norm(there - grid.index2world([[24, 31]])) > 0.5
    at = np.rint(case.moving.grid.world2index(there)[0]).astype(int)
    assert case.moving.data[tuple(at)] == pytest.approx(image.data[24, 31], abs=0.08)


def test_shading_and_noise_change_both_images_and_lesions_the_moving_one(harness, monkeypatch):
    rng = np.random.default_rng(1)
    grid = Grid((60, 48), np.diag([0.75, 0.75, 1.0]))
    image = Image(rng.uniform(0.3, 0.6, (60, 48)).astype(np.float32), grid)
    mask = Image(np.ones((60, 48), np.uint8), grid)
    case = harness.Case(name="s", fixed=image, moving=image, fixed_mask=mask, moving_mask=mask)
    monkeypatch.setattr(harness, "_lesion_shapes", lambda data, spacing: [np.ones((4, 3), bool)])
    for kind in harness.SPOILT:
        found, again = (harness.spoilt(case, kind, None, 5) for _ in range(2))
        np.testing.assert_array_equal(found.moving.data, again.moving.data)
        assert (found.moving.data != image.data).any()
        assert (found.fixed.data != image.data).any() == (kind != "lesions")
    ratio = harness.spoilt(case, "bias", None, 5).fixed.data / image.data
    assert 0.6 < ratio.min() < ratio.max() < 1.66
    changed = harness.spoilt(case, "lesions", None, 5).moving.data != image.data
    assert 12 <= changed.sum() <= 144


def test_overlap_is_that_of_carried_labels(measures, harness):
    grid = Grid((40, 30), np.eye(3))
    codes = np.zeros((40, 30), np.uint8)
    codes[10:20, 8:18] = 1
    classes = LabelImage(codes, grid)
    image = Image(codes.astype(np.float32), grid)
    case = harness.Case(
        name="a_b",
        fixed=image,
        moving=image,
        fixed_mask=Image(np.ones_like(codes), grid),
        fixed_classes=classes,
        moving_classes=classes,
    )
    case.__dict__["silver"] = _shift(5)  # what a registration of one contrast would find
    row = measures.overlaps(case, _shift(0))
    assert (row["dice"], row["jaccard"]) == (1, 1)
    assert (row["silver_dice"], row["silver_jaccard"]) == pytest.approx((1 / 2, 1 / 3))
    assert row["silver_mm"] == pytest.approx(5)
    assert measures.overlaps(case, _shift(5))["silver_dice"] == 1


def test_the_metric_is_that_of_the_case(arms, harness):
    image = Image(np.zeros((4, 4), np.float32), Grid((4, 4), np.eye(3)))
    case = harness.Case(name="lesions_HE", fixed=image, moving=image)
    one, other = (arms.DeepMetric(model=name) for name in "ab")
    arm = arms.Arm(name="deep", similarity={"lesions": one, "rat-kidney": other})
    assert arm.of(case) == one
    assert arm.of(replace(case, name="rat-kidney_HE", swapped=True)) == replace(other, fixed="second")


def test_settings_are_chosen_on_people_to_train_on(script):
    sets = script("harness.deep_metric_sets")
    train, compared = sets.people(choosing=False)
    assert not set(train) & set(compared)
    first, others = sets.people(choosing=True)
    assert [*first, *others] == list(train)
    assert first
    assert others
    assert len(sets.training_pairs("slices", None, choosing=True)) == len(first)  # no slices of patients


def test_a_metric_is_warmed_up_in_as_many_dimensions_as_its_case(measures, harness, monkeypatch):
    seen = []
    monkeypatch.setattr(measures, "register", lambda *images, **named: seen.append((images, named)))
    image = Image(np.zeros((4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    case = harness.Case(name="a_b", fixed=image, moving=image, swapped=True)
    measures.warm_up(case, measures.Arm(name="MI with mask", similarity=measures.MI(), masked=True))
    (((fixed, moving, plan), named),) = seen
    assert fixed.ndim == moving.ndim == 3
    assert {type(stage).__name__ for stage in plan.stages} == {"LinearStage", "DeformableStage"}
    assert named["fixed_mask"].data.all()


def test_each_metric_has_a_smoothing_in_every_experiment(experiments, arms):
    named = {name: arms.Arm(name=name, similarity=arms.MI()) for name in ("MI", "NMI", "MIND")}
    deep = arms.Arm(name="deep, k = 3", similarity=arms.MI())
    for experiment in experiments.EXPERIMENTS:
        assert named["NMI"].smoothing(experiment) == named["MI"].smoothing(experiment)
        assert len(deep.smoothing(experiment)) == 2
    assert deep.smoothing("bias") == arms.SMOOTHING["known"]["deep"]
    assert named["MIND"].smoothing("people") == arms.SMOOTHING["people"]["MIND"]


def test_tables_follow_the_order_of_the_metrics_and_not_of_the_runs(experiments, arms, tables, tmp_path):
    for case, metric in (("a", "NMI"), ("a", "other"), ("a", "MI"), ("b", "NMI")):
        tables.append(tmp_path / "t.csv", {"case": case, "metric": metric}, ("case", "metric"))
    metrics = [arms.Arm(name=name, similarity=arms.MI()) for name in ("MI", "NMI")]
    found = [(row["metric"], row["case"]) for row in experiments.in_order(tmp_path / "t.csv", metrics)]
    assert found == [("MI", "a"), ("NMI", "a"), ("NMI", "b"), ("other", "a")]


def test_a_metric_of_stains_was_trained_on_the_other_pair(arms, script, monkeypatch):
    looks = script("harness.deep_metric_looks")
    monkeypatch.setattr(looks, "aligned_stains", lambda data, name: (f"{name} 1", f"{name} 2"))
    metrics = {name: arms.DeepMetric(model=name) for name in arms.STAINS}
    compared = [arms.Arm(name="deep", similarity=metrics), arms.Arm(name="MI", similarity=None)]
    found = list(looks.learned_from(None, None, compared))
    assert [name for name, *_ in found] == ["trained on rat-kidney", "trained on lesions"]
    _, metric, own, others = found[0]
    assert metric.model == "lesions"
    assert own() == [("rat-kidney", "rat-kidney 1", "rat-kidney 2")]
    assert others() == [("lesions", "lesions 1", "lesions 2")]


def test_known_maps_can_have_a_smaller_affine_part(harness):
    grid = Grid((60, 50), np.eye(3))
    points = grid.index2world(np.array([[5.0, 5.0], [50.0, 40.0], [30.0, 10.0]]))
    far, near = (harness.known_map(grid, 3, 0.01, 9.0, share)[0].map_points(points) for share in (1.0, 0.25))
    moved, less = (np.linalg.norm(found - points, axis=1).mean() for found in (far, near))
    assert 0.15 < less / moved < 0.35


def test_labels_are_carried_between_slices_of_made_up_contrast(script, monkeypatch, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    anatomy = script("harness.deep_metric_anatomy")
    monkeypatch.setattr(anatomy, "t2_curve", lambda data: (np.array([0.0, 1.0]), np.array([2.0, 1.0])))
    (tmp_path / "brain_slices_2d").mkdir()
    codes = np.zeros((30, 30), np.int16)
    codes[5:20, 5:20], codes[0, 0] = 7, 9  # the second is too small to count
    for who in ("01", "02", "03"):
        for what, values in (("t1", 50 * (codes == 7)), ("labels", codes)):
            image = nibabel.Nifti1Image(values.astype(np.int16), np.eye(4))
            nibabel.save(image, tmp_path / "brain_slices_2d" / f"{who}_{what}.nii.gz")
    found = list(anatomy.anatomy_cases(tmp_path))
    assert [one.name for one in found[:2]] == ["01_02", "01_03"]
    assert len(found) == 6
    assert set(np.unique(found[0].fixed_classes.data)) == {0, 7}
    assert set(np.unique(found[0].moving.data)) == {0, 1}  # bright T1 is dark T2, and outside stays 0
    assert np.array_equal(found[0].same[1].data > 0, found[0].moving.data > 0)


def _options(experiments, monkeypatch, *words):
    monkeypatch.setattr(experiments.sys, "argv", ["deep_metric_experiments.py", *words])
    return experiments.arguments()


def test_rows_are_not_mixed_with_those_of_other_settings(experiments, tables, tmp_path, monkeypatch):
    path, rows = tmp_path / "run_settings.json", tmp_path / "run.csv"
    first = _options(experiments, monkeypatch, "--steps", "50", "--smoothing", "1", "2")
    experiments.keep_settings(path, first, [rows])
    tables.append(rows, {"case": "a"}, ("case",))
    more = _options(
        experiments, monkeypatch, "--steps", "50", "--smoothing", "1", "2", "--k", "6", "--masked"
    )
    experiments.keep_settings(path, more, [rows])  # other metrics are added to the same table
    other = _options(experiments, monkeypatch, "--steps", "60", "--smoothing", "1", "2")
    with pytest.raises(SystemExit, match=r"steps 50 \(now 60\): give another --name"):
        experiments.keep_settings(path, other, [rows])
    path.unlink()
    with pytest.raises(SystemExit, match="steps not known"):  # rows of before settings were kept
        experiments.keep_settings(path, first, [rows])
    rows.unlink()
    experiments.keep_settings(path, other, [rows])


def test_an_experiment_that_a_set_does_not_have_is_refused_before_anything_is_trained(
    experiments, monkeypatch, tmp_path
):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    monkeypatch.setattr(experiments, "data_folder", lambda given: tmp_path)
    monkeypatch.setattr(experiments, "set_threads", lambda count: None)
    monkeypatch.setattr(experiments, "arms", lambda *_: pytest.fail("metrics were trained"))
    words = ("--set", "histology", "--experiment", "people")
    monkeypatch.setattr(experiments.sys, "argv", ["deep_metric_experiments.py", *words])
    with pytest.raises(SystemExit, match="--set histology has trainings, stains"):
        experiments.main()
    assert list(tmp_path.iterdir()) == []


def test_a_trained_metric_comes_with_masks_and_with_mi_where_asked_for(experiments, arms, monkeypatch):
    metric = arms.DeepMetric(model="a")
    arm = arms.Arm(name="deep, k = 3", similarity=metric, source="slices")
    assert arms.relatives(_options(experiments, monkeypatch), arm) == []
    found = arms.relatives(_options(experiments, monkeypatch, "--masked", "--with-mi", "0.5"), arm)
    assert [one.name for one in found] == [
        "deep, k = 3, + 0.5 MI",
        "deep, k = 3, with mask",
        "deep, k = 3, + 0.5 MI, with mask",
    ]
    assert [one.masked for one in found] == [False, True, True]
    assert found[0].similarity.terms == ((1.0, metric), (0.5, arms.MI()))
    stains = _options(experiments, monkeypatch, "--masked", "--set", "histology")
    assert arms.relatives(stains, arm) == []


def test_slices_of_patients_are_cut_along_either_plane(harness, script, monkeypatch):
    cube = np.arange(20 * 24 * 28, dtype=np.float32).reshape(20, 24, 28)
    image = Image(cube, Grid(cube.shape, np.eye(4)))
    monkeypatch.setattr(harness, "volumes", lambda data, name: (image, image))
    name, first, second = harness.patient_slices(None, "axial")[0]
    place = int(harness.AXIAL[0] * 28)
    assert name == f"{harness.PATIENTS[0]} at {place}"
    np.testing.assert_array_equal(first.data, cube[:, :, place])
    np.testing.assert_array_equal(first.data, second.data)
    _, coronal, _ = harness.patient_slices(None)[1]
    assert coronal.grid.spacing == pytest.approx([0.75, 0.75])
    assert coronal.grid.shape[1] > 28
    sets = script("harness.deep_metric_sets")
    assert len(sets.training_pairs("axial", None)) == len(harness.patient_slices(None, "axial")) >= 11


def test_all_patches_at_once_are_held_to_fifty_times_one_by_one(script):
    pytest.importorskip("torch", reason="trained metrics need torch: pip install 'regista[learn]'")
    speed = script("deep_metric")
    assert [one.split(":")[0] for one in speed.verdicts(50.0, 1e-6)] == ["pass", "pass"]
    assert [one.split(":")[0] for one in speed.verdicts(49.0, 1e-3)] == ["FAIL", "FAIL"]
