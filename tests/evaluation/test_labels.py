"""Overlap and surface measures against brute force and independent implementations."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial.distance import cdist

from regista.core import GeometryError, Grid, LabelImage, PlanError
from regista.evaluation import label_measures, read_label_names
from regista.io import read_labels
from regista.transforms import Translation, resample_labels


def as_itk(mask: np.ndarray, spacing: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.T.astype(np.uint8))
    image.SetSpacing([float(s) for s in spacing])
    return image


def border_distances(a: np.ndarray, b: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return distances between border voxels the slow way."""
    points = [grid.index2world(np.argwhere(m & ~binary_erosion(m))) for m in (a, b)]
    table = cdist(*points)
    return table.min(axis=1), table.min(axis=0)


def test_overlaps_match_simpleitk(random_labels, grid):
    fixed, warped = random_labels(grid), random_labels(grid)
    for score in label_measures(fixed, warped, surface=None).labels:
        itk = sitk.LabelOverlapMeasuresImageFilter()
        itk.Execute(*(as_itk(m.data == score.label, grid.spacing) for m in (fixed, warped)))
        assert score.dice == pytest.approx(itk.GetDiceCoefficient(1), abs=1e-12)
        assert score.jaccard == pytest.approx(itk.GetJaccardCoefficient(1), abs=1e-12)
        # ITK's has a sign and runs to 2
        similarity = 1 - abs(itk.GetVolumeSimilarity(1)) / 2
        assert score.volume_similarity == pytest.approx(similarity, abs=1e-12)


def test_surfaces_match_brute_force_on_an_oblique_anisotropic_grid(random_labels, grid):
    fixed, warped = random_labels(grid), random_labels(grid)
    for score in label_measures(fixed, warped).labels:
        one, other = border_distances(fixed.data == score.label, warped.data == score.label, grid)
        both = np.concatenate([one, other])
        assert score.assd_mm == pytest.approx(both.mean(), abs=1e-9)
        assert score.hd_mm == pytest.approx(both.max(), abs=1e-9)
        assert score.hd95_mm == pytest.approx(max(np.percentile(d, 95) for d in (one, other)), abs=1e-9)


def test_surfaces_match_a_distance_transform(random_labels, grid):
    fixed, warped = random_labels(grid), random_labels(grid)
    (score,) = label_measures(fixed, warped, labels=[2]).labels
    edges = [m & ~binary_erosion(m) for m in (fixed.data == 2, warped.data == 2)]
    maps = [distance_transform_edt(~e, sampling=grid.spacing) for e in edges]
    assert score.hd_mm == pytest.approx(max(maps[1][edges[0]].max(), maps[0][edges[1]].max()), abs=1e-9)


def test_a_sheared_grid_is_measured_in_the_world(rng, random_labels):
    matrix = np.eye(4)
    matrix[:3, :3] = [[1.0, 0.6, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 2.1]]
    grid = Grid((9, 8, 7), matrix)
    fixed, warped = random_labels(grid, 3), random_labels(grid, 3)
    for score in label_measures(fixed, warped).labels:
        one, other = border_distances(fixed.data == score.label, warped.data == score.label, grid)
        assert score.hd_mm == pytest.approx(max(one.max(), other.max()), abs=1e-9)


def test_surfels_against_surface_distance(random_labels, grid):
    theirs = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
    fixed, warped = random_labels(grid), random_labels(grid)
    for score in label_measures(fixed, warped, surface="surfels").labels:
        masks = [m.data == score.label for m in (fixed, warped)]
        found = theirs.compute_surface_distances(*masks, tuple(grid.spacing))
        assert score.hd95_mm == pytest.approx(theirs.compute_robust_hausdorff(found, 95), abs=1e-9)
        means = theirs.compute_average_surface_distance(found)
        areas = [found[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
        assert score.assd_mm == pytest.approx(np.dot(means, areas) / np.sum(areas), abs=1e-9)


def box(grid: Grid, *spans: tuple[int, int], value: int = 1) -> LabelImage:
    data = np.zeros(grid.shape, np.int16)
    data[tuple(slice(*span) for span in spans)] = value
    return LabelImage(data, grid)


@pytest.mark.parametrize("surface", ["voxels", "surfels"])
def test_a_shifted_box_is_off_by_the_shift(grid, surface):
    fixed = box(grid, (2, 6), (3, 9), (2, 5))
    warped = box(grid, (2, 6), (3, 9), (4, 7))
    (score,) = label_measures(fixed, warped, surface=surface).labels
    assert score.dice == pytest.approx(1 / 3)
    assert score.jaccard == pytest.approx(1 / 5)
    assert score.volume_similarity == 1
    assert score.hd_mm == pytest.approx(2 * 2.3)


@pytest.mark.parametrize("surface", ["voxels", "surfels"])
def test_single_voxels_are_their_distance_apart(grid, surface):
    fixed = box(grid, (1, 2), (2, 3), (3, 4))
    warped = box(grid, (4, 5), (4, 5), (5, 6))
    (score,) = label_measures(fixed, warped, surface=surface).labels
    apart = np.linalg.norm(np.array([3, 2, 2]) * grid.spacing)
    assert score.dice == 0
    if surface == "voxels":
        assert [score.assd_mm, score.hd95_mm, score.hd_mm] == pytest.approx([apart] * 3)
    else:  # the eight corner cells of one are nearer or farther by a voxel
        assert score.hd_mm <= apart + 1e-9


def test_single_voxels_against_a_distance_transform_and_simpleitk(make_grid):
    grid = make_grid((9, 8, 7), (1.0, 0.7, 2.3))
    fixed, warped = (
        box(grid, (1, 2), (2, 3), (3, 4)),
        box(grid, (6, 9), (2, 3), (5, 6)),
    )  # one voxel, and three
    (score,) = label_measures(fixed, warped).labels
    masks = [m.data == 1 for m in (fixed, warped)]
    to_warped, to_fixed = (
        distance_transform_edt(~other, sampling=grid.spacing)[own] for own, other in (masks, masks[::-1])
    )
    assert (len(to_warped), len(to_fixed)) == (1, 3)
    assert score.assd_mm == pytest.approx(np.concatenate([to_warped, to_fixed]).mean())
    assert score.hd95_mm == pytest.approx(max(np.percentile(d, 95) for d in (to_warped, to_fixed)))
    itk = sitk.HausdorffDistanceImageFilter()  # of all voxels: here each of them is surface
    itk.Execute(*(as_itk(m, grid.spacing) for m in masks))
    assert score.hd_mm == pytest.approx(itk.GetHausdorffDistance(), abs=1e-6)


def test_empty_labels_against_simpleitk(make_grid):
    grid = make_grid((9, 8, 7), (1.0, 0.7, 2.3))
    fixed, warped = box(grid, (1, 4), (2, 5), (3, 6)), box(grid, (1, 4), (2, 5), (3, 6), value=2)
    score = label_measures(fixed, warped, labels=[1]).labels[0]
    masks = [as_itk(m.data == 1, grid.spacing) for m in (fixed, warped)]
    itk = sitk.LabelOverlapMeasuresImageFilter()
    itk.Execute(*masks)
    assert (score.dice, score.jaccard) == (itk.GetDiceCoefficient(), itk.GetJaccardCoefficient()) == (0, 0)
    assert (score.fixed_voxels, score.warped_voxels, score.volume_similarity) == (27, 0, 0)
    with pytest.raises(RuntimeError):  # no distance there either: ours is undefined, not 0
        sitk.HausdorffDistanceImageFilter().Execute(*masks)
    assert np.isnan([score.assd_mm, score.hd95_mm, score.hd_mm]).all()


def test_surfel_areas_of_a_box_add_up():
    from regista.evaluation._surfaces import Sites

    grid = Grid((9, 8, 7), np.diag([1.0, 0.7, 2.3, 1.0]))
    codes = np.zeros(grid.shape, np.int32)
    codes[2:7, 2:6, 2:5] = 1
    area = Sites.of(codes, 2, grid, "surfels").weights.sum()
    a, b, c = np.array([5, 4, 3]) * grid.spacing
    full = 2 * (a * b + b * c + c * a)
    assert 0.85 * full < area < full  # edges and corners are cut off


def test_labels_that_fill_the_image_have_their_border_at_its_faces(grid):
    whole = box(grid, *((0, n) for n in grid.shape))
    half = box(grid, (0, grid.shape[0]), (0, grid.shape[1]), (0, 5))
    (score,) = label_measures(whole, half).labels
    assert score.hd_mm == pytest.approx(4 * 2.3)
    assert label_measures(whole, whole).labels[0].hd_mm == 0


def test_a_label_that_one_map_lacks_scores_zero_and_has_no_distance(grid):
    data = box(grid, (1, 5), (1, 5), (1, 5)).data
    both = data.copy()
    both[8:10, 8:10, 2:4] = 7
    scores = label_measures(LabelImage(both, grid), LabelImage(data, grid), labels=[1, 7, 9]).labels
    assert [s.dice for s in scores[:2]] == [1, 0]
    assert np.isnan([scores[1].assd_mm, scores[2].dice, scores[2].hd_mm]).all()
    agreement = label_measures(LabelImage(both, grid), LabelImage(data, grid))
    assert agreement.mean()["dice"] == 0.5
    assert agreement.mean()["hd_mm"] == 0


def test_groups_are_taken_as_one(random_labels, grid):
    fixed, warped = random_labels(grid), random_labels(grid)
    (group,) = label_measures(fixed, warped, groups={"left": [1, 3]}).groups
    one, other = (LabelImage(np.isin(m.data, [1, 3]).astype(int), grid) for m in (fixed, warped))
    (same,) = label_measures(one, other).labels
    assert (group.label, group.name) == (None, "left")
    assert group.dice == same.dice
    assert [group.assd_mm, group.hd95_mm, group.hd_mm] == pytest.approx(
        [same.assd_mm, same.hd95_mm, same.hd_mm]
    )


@pytest.mark.parametrize("surface", ["voxels", "surfels"])
@pytest.mark.parametrize("span", [(0, 1), (4, 5), (7, 9)])
def test_a_group_is_measured_in_its_box_as_in_the_whole(grid, surface, span):
    """Flat groups too: an axis of a single voxel would have no surface."""
    fixed, warped = box(grid, (3, 8), (2, 9), span), box(grid, (4, 9), (1, 9), span)
    (alone,), (group,) = (
        getattr(label_measures(fixed, warped, groups={"g": [1, 99]}, surface=surface), kind)
        for kind in ("labels", "groups")
    )
    for measure in ("fixed_voxels", "dice", "assd_mm", "hd95_mm", "hd_mm"):
        assert getattr(group, measure) == pytest.approx(getattr(alone, measure)), measure


def test_a_group_may_hold_the_background_or_nothing_that_occurs(random_labels, grid):
    fixed, warped = random_labels(grid), random_labels(grid)
    all_of_it, absent = label_measures(fixed, warped, groups={"all": range(5), "no": [77]}).groups
    assert (all_of_it.fixed_voxels, all_of_it.dice, all_of_it.hd_mm) == (grid.size, 1, 0)
    assert absent.fixed_voxels == 0
    assert np.isnan([absent.dice, absent.hd_mm]).all()


def test_groups_look_at_their_own_box(make_grid, monkeypatch):
    from regista.evaluation import _labels

    looked, of = [], _labels.Sites.of
    monkeypatch.setattr(_labels.Sites, "of", lambda c, *rest: looked.append(c.size) or of(c, *rest))
    grid = make_grid((40, 30, 20))
    fixed, warped = box(grid, (3, 8), (2, 9), (4, 9)), box(grid, (4, 9), (1, 9), (4, 9))
    label_measures(fixed, warped, groups={"g": [1]})
    assert looked == [grid.size] * 2 + [8 * 10 * 7] * 2


def test_many_labels_meet_in_groups_as_few_do(random_labels, grid, monkeypatch):
    from regista.evaluation import _labels

    fixed, warped, groups = random_labels(grid), random_labels(grid), {"a": [1, 3], "b": [0, 2]}
    few = label_measures(fixed, warped, groups=groups, surface=None).groups
    monkeypatch.setattr(_labels, "_TABLE", 4)
    many = label_measures(fixed, warped, groups=groups, surface=None).groups
    assert [(s.dice, s.warped_voxels) for s in few] == [(s.dice, s.warped_voxels) for s in many]


def test_relabelling_and_flipping_change_nothing(random_labels, grid):
    values = [0, 3000000000, -4, 17, 250]
    fixed, warped = random_labels(grid), random_labels(grid)
    renamed = [LabelImage(np.array(values)[m.data], grid) for m in (fixed, warped)]
    turned = [LabelImage(m.data[::-1], grid) for m in (fixed, warped)]
    first = {s.label: s.hd95_mm for s in label_measures(fixed, warped).labels}
    second = {s.label: s.hd95_mm for s in label_measures(*renamed).labels}
    third = {s.label: s.hd95_mm for s in label_measures(*turned).labels}
    assert {values[label]: d for label, d in first.items()} == pytest.approx(second)
    assert first == pytest.approx(third)


@pytest.mark.parametrize("value", [3_000_000_000, 20_000_000, 2**53 + 1, -7])
def test_a_map_without_background_of_any_label_is_scored(grid, value):
    kind = np.uint64 if value > 2**32 else np.uint32 if value > 2**31 else np.int64
    whole = LabelImage(np.full(grid.shape, value, kind), grid)
    (score,) = label_measures(whole, whole).labels
    assert (score.label, score.dice, score.hd_mm) == (value, 1, 0)


def test_far_labels_take_no_table_of_all_numbers(make_grid):
    small = LabelImage(np.full((6, 7, 5), 20_000_000), make_grid((6, 7, 5)))
    tracemalloc.start()
    label_measures(small, small, surface=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_exchange_is_symmetric(random_labels, grid):
    fixed, warped = random_labels(grid), random_labels(grid)
    for one, other in zip(
        label_measures(fixed, warped).labels, label_measures(warped, fixed).labels, strict=True
    ):
        assert one.dice == other.dice
        assert [one.assd_mm, one.hd95_mm] == pytest.approx([other.assd_mm, other.hd95_mm])


@pytest.mark.parametrize("surface", ["voxels", "surfels"])
def test_two_dimensions(grid_2d, random_labels, surface):
    fixed, warped = random_labels(grid_2d, 3), random_labels(grid_2d, 3)
    (score, _) = label_measures(fixed, warped, surface=surface).labels
    masks = [m.data == score.label for m in (fixed, warped)]
    if surface == "voxels":
        one, other = border_distances(*masks, grid_2d)
        assert score.hd_mm == pytest.approx(max(one.max(), other.max()), abs=1e-9)
        return
    theirs = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
    if hasattr(theirs.lookup_tables, "ENCODE_NEIGHBOURHOOD_2D_KERNEL"):
        found = theirs.compute_surface_distances(*masks, tuple(grid_2d.spacing))
        assert score.hd95_mm == pytest.approx(theirs.compute_robust_hausdorff(found, 95), abs=1e-9)


def test_names_come_from_the_map_and_the_caller(random_labels, grid):
    fixed = LabelImage(random_labels(grid).data, grid, names={1: "one", 2: "two"})
    scores = label_measures(fixed, fixed, names={2: "deux"}, surface=None).labels
    assert [s.name for s in scores] == ["one", "deux", "3", "4"]


def test_bad_maps_are_refused(random_labels, grid, make_grid):
    fixed = random_labels(grid)
    with pytest.raises(GeometryError, match="different grids"):
        label_measures(fixed, LabelImage(fixed.data, make_grid(origin=(0, 0, 0))))
    with pytest.raises(GeometryError, match="share no label"):
        label_measures(fixed, LabelImage(fixed.data * 100, grid))
    with pytest.raises(GeometryError, match="warped label map is empty"):
        label_measures(fixed, LabelImage(fixed.data * 0, grid))
    with pytest.raises(GeometryError, match="fractions"):
        LabelImage(fixed.data + 0.5, grid)
    with pytest.raises(PlanError, match="surface is"):
        label_measures(fixed, fixed, surface="mesh")
    with pytest.raises(PlanError, match="no labels"):
        label_measures(fixed, fixed, groups={"none": []})


@pytest.mark.data
def test_a_brain_of_138_labels_is_scored(data_dir):
    folder = data_dir / "brain_t1"
    fixed, moving = (read_labels(folder / f"{n}_labels.nii.gz") for n in (1000, 1001))
    shift = [m.grid.index2world(np.argwhere(m.data > 0).mean(0)) for m in (fixed, moving)]
    warped = resample_labels(moving, fixed.grid, Translation.by(shift[1] - shift[0]))
    found = label_measures(fixed, warped, names=read_label_names(folder / "label_names.csv"))
    assert len(found.labels) >= 134
    assert 0.2 < found.mean()["dice"] < 0.6
    assert 1 < found.mean()["assd_mm"] < 5
