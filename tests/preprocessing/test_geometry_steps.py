"""Geometric steps: every voxel keeps its place in the world."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from regista.core import GeometryError, Grid, Image, LabelImage, PlanError
from regista.preprocessing import CropPad, Pipeline, Reorient, Resample

CODES = [
    "".join(code)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for code in itertools.product(*order)
]


def linear_image(grid: Grid, kind="scalar") -> Image:
    """Return an image whose value is a linear function of world position."""
    x, y, *rest = grid.coordinates_mm()
    data = 3 * x - 2 * y + (5 * rest[0] if rest else 0) + 7
    return Image(np.stack([data, -data]) if kind != "scalar" else data, grid, kind, "scan")


def at_world(image: Image) -> np.ndarray:
    """Return what `linear_image` says at the image's own voxel centres."""
    return linear_image(image.grid).data


@pytest.mark.parametrize("code", CODES)
def test_reorient_moves_values_and_changes_none(grid, code) -> None:
    image = linear_image(grid)
    turned = Reorient(orientation=code)(image)
    assert turned.grid.orientation == code
    np.testing.assert_allclose(turned.data, at_world(turned), atol=1e-9)
    assert sorted(turned.data.ravel()) == sorted(image.data.ravel())
    back = Reorient(orientation=grid.orientation)(turned)
    assert back.grid.same_as(grid, 1e-9)
    assert np.array_equal(back.data, image.data)


def test_reorient_handles_planes_channels_labels_and_masks(grid, grid_2d) -> None:
    plane = Reorient(orientation="AR")(linear_image(grid_2d))
    np.testing.assert_allclose(plane.data, at_world(plane), atol=1e-9)
    colour = linear_image(grid, "channels")
    turned, mask, _ = Reorient(orientation="SAR").apply(colour, linear_image(grid))
    np.testing.assert_allclose(turned.data[1], -at_world(turned), atol=1e-9)
    np.testing.assert_allclose(mask.data, at_world(turned), atol=1e-9)
    labels = LabelImage(np.arange(grid.size).reshape(grid.shape), grid, names={1: "a"})
    kept = Reorient(orientation="ASR")(labels)
    assert isinstance(kept, LabelImage)
    assert kept.names == {1: "a"}


@pytest.mark.parametrize("code", ["RA", "RAX", "RRS", "RL", "", "RASI"])
def test_bad_orientations_are_refused(grid, code) -> None:
    with pytest.raises(PlanError, match="orientation"):
        Reorient(orientation=code)(linear_image(grid))


@pytest.mark.parametrize("spacing", [0.6, (1.7, 0.7, 1.1), (2.0, 2.0, 4.0)])
def test_resampled_values_stand_where_they_stood(grid, spacing) -> None:
    out = Resample(spacing_mm=spacing)(linear_image(grid))
    np.testing.assert_allclose(out.grid.spacing, np.broadcast_to(spacing, 3), rtol=1e-9)
    np.testing.assert_allclose(out.grid.center_mm, grid.center_mm, atol=1e-9)
    inner = (slice(3, -3),) * 3  # smoothing and interpolation keep a ramp, except at the border
    if min(out.grid.shape) > 6:
        np.testing.assert_allclose(out.data[inner], at_world(out)[inner], atol=2e-3)


def test_resample_like_takes_the_other_grid(grid, make_grid) -> None:
    other = make_grid((8, 9, 7), (0.5, 0.9, 1.3))
    moved = Grid(other.shape, np.vstack([np.c_[other.grid2world[:3, :3], grid.center_mm], [0, 0, 0, 1]]))
    out = Resample(like=moved, antialias=False)(linear_image(grid))
    assert out.grid == moved
    inside = grid.contains(moved.coordinates_mm().reshape(3, -1).T).reshape(moved.shape)
    deep = np.zeros_like(inside)
    index = grid.world2index(moved.coordinates_mm().reshape(3, -1).T).reshape(*moved.shape, 3)
    deep = ((index > 0) & (index < np.array(grid.shape) - 1)).all(-1)
    assert deep.any()
    np.testing.assert_allclose(out.data[deep], at_world(out)[deep], atol=1e-3)
    assert np.all(out.data[~inside] == 0)


def test_resample_smooths_before_it_thins(make_grid, rng) -> None:
    fine = make_grid((39, 42, 36), (0.5, 0.5, 0.5))
    noise = Image(rng.normal(size=fine.shape).astype(np.float32), fine)
    spread = [
        Resample(spacing_mm=1.5, antialias=on)(noise).data[2:-2, 2:-2, 2:-2].std() for on in (True, False)
    ]
    assert spread[0] < 0.2  # every third voxel as it is would keep a spread of 1
    assert spread[1] > 0.8


def test_resampled_labels_are_not_invented(grid) -> None:
    labels = LabelImage((np.indices(grid.shape).sum(0) // 5 % 2 * 7).astype(np.int16), grid, space="scan")
    out = Resample(spacing_mm=0.8)(labels)
    assert isinstance(out, LabelImage)
    assert set(np.unique(out.data)) == {0, 7}
    assert out.space == "scan"


def test_crop_and_pad_keep_world_positions(grid) -> None:
    image = linear_image(grid)
    data = np.zeros(grid.shape)
    data[3:8, 4:6, 2:7] = image.data[3:8, 4:6, 2:7]
    for step in (
        CropPad(),
        CropPad(margin_mm=2.0),
        CropPad(multiple=8),
        CropPad(content=False, multiple=16),
        CropPad(content=False, margin_mm=-1.5),
        CropPad(margin_mm=30.0, multiple=5),
    ):
        out = step(image.with_data(data))
        assert all(n % step.multiple == 0 for n in out.grid.shape)
        there = out.data != 0
        np.testing.assert_allclose(out.data[there], at_world(out)[there], atol=1e-9)
        assert step.margin_mm < 0 or there.sum() == (data != 0).sum()


def test_crop_follows_the_mask_and_channels(grid) -> None:
    mask = np.zeros(grid.shape, np.uint8)
    mask[2:4, 5:9, 3:5] = 1
    out, inside, measured = CropPad().apply(linear_image(grid, "channels"), Image(mask, grid))
    assert out.data.shape == (2, 2, 4, 2)
    assert inside.data.all()
    assert measured["start_vox"] == [2, 5, 3]
    np.testing.assert_allclose(out.data[0], at_world(out), atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Resample(), "one of the two"),
        (lambda: Resample(spacing_mm=1.0, like=Grid((3, 3), np.eye(3))), "one of the two"),
        (lambda: Resample(spacing_mm=-1.0), "above 0"),
        (lambda: Resample(spacing_mm=1.0, interpolation="magic"), "linear"),
        (lambda: CropPad(multiple=0), "between 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, words) -> None:
    with pytest.raises(PlanError, match=words):
        make()


def test_what_cannot_be_done_is_said(grid) -> None:
    image = linear_image(grid)
    with pytest.raises(GeometryError, match="no content"):
        CropPad()(image.with_data(np.zeros(grid.shape)))
    with pytest.raises(PlanError, match=r"only 11×9\.8×20\.7 mm large; take less than 4\.9 mm off"):
        CropPad(content=False, margin_mm=-50)(image)
    with pytest.raises(PlanError, match="fit"):
        CropPad(content=False, fill=-5.0)(image.with_data(np.zeros(grid.shape, np.uint8)))
    with pytest.raises(PlanError, match="not been read"):
        Pipeline.from_dict(["reorient", {"step": "resample", "like": "x.nii.gz"}])(image)
    with pytest.raises(PlanError, match="3, one per axis"):
        Resample(spacing_mm=(1.0, 2.0))(image)


@pytest.mark.parametrize("spacing", [1e-3, 1e-9])
def test_a_grid_that_memory_cannot_hold_is_refused_at_once(spacing):
    image = Image(np.zeros((60, 70, 50), np.float32), Grid((60, 70, 50), np.eye(4)))
    with pytest.raises(PlanError, match=r"would make .* voxels: about .* GB of memory"):
        Resample(spacing_mm=spacing)(image)


def test_resample_keeps_weights_and_masks_apart(grid) -> None:
    image, first = linear_image(grid), np.indices(grid.shape)[0]
    for values, kind in ((0.5 + 0.02 * first, "weights"), (np.where(first > 4, 3, 0), "labels")):
        mask = Image(values.astype(np.float32), grid)
        moved = Resample(spacing_mm=0.9).apply(image, mask).mask
        place = grid.world2index(np.moveaxis(moved.grid.coordinates_mm(), 0, -1))[..., 0]
        inner = (place > 0) & (place < grid.shape[0] - 1) & (moved.data > 0)
        assert inner.any()
        if kind == "weights":
            np.testing.assert_allclose(moved.data[inner], 0.5 + 0.02 * place[inner], atol=1e-4)
        else:
            assert set(np.unique(moved.data)) <= {0, 1}
