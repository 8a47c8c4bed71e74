"""Target registration error, and the likeness of intensities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from regista.core import GeometryError, Image, PlanError, PointSet
from regista.evaluation import image_measures, landmark_error, match_landmarks
from regista.transforms import Translation


def test_errors_of_a_known_residual(grid, rng):
    fixed = PointSet(rng.normal(size=(20, 3)) * 10)
    moving = PointSet(fixed.points_mm + np.array([3.0, 0, 0]))
    shift = rng.normal(size=(20, 3))
    before = landmark_error(fixed, moving)
    assert [before.mean, before.median, before.max, before.p95] == pytest.approx([3] * 4)
    after = landmark_error(fixed, PointSet(moving.points_mm + shift), Translation.by([3.0, 0, 0]))
    lengths = np.linalg.norm(shift, axis=1)
    np.testing.assert_allclose(after.errors, lengths, atol=1e-9)
    assert after.p95 == pytest.approx(np.percentile(lengths, 95))
    assert after.sd == pytest.approx(lengths.std(ddof=1))
    assert np.isnan(after.relative_mean)


def test_pixels_and_diagonal(grid):
    fixed = PointSet(grid.index2world([[1.0, 2, 3]]))
    moving = PointSet(grid.index2world([[1.0, 2, 5]]))
    mm, px = (landmark_error(fixed, moving, grid=grid, unit=unit) for unit in ("mm", "px"))
    assert mm.mean == pytest.approx(2 * 2.3)
    assert px.mean == pytest.approx(2)
    assert px.relative_mean == pytest.approx(2 / np.linalg.norm(grid.shape))
    assert mm.relative_mean == pytest.approx(2 * 2.3 / np.linalg.norm(np.array(grid.shape) * grid.spacing))


def test_points_are_paired_by_name(rng):
    points = rng.normal(size=(4, 2))
    fixed = PointSet(points, ("a", "b", "c", "d"))
    moving = PointSet(points[[2, 0, 3]], ("c", "a", "d"))
    found = landmark_error(fixed, moving)
    assert len(found.errors) == 3
    assert found.max == 0
    assert found.row()["landmarks"] == 3
    with pytest.raises(GeometryError, match="share no name"):
        landmark_error(fixed, PointSet(points, ("w", "x", "y", "z")))


def test_names_that_repeat_are_no_names(rng):
    points = rng.normal(size=(3, 3))
    same = PointSet(points, ("p", "p", "p"))
    assert landmark_error(same, same).max == 0


def test_names_that_repeat_on_one_side_alone_are_refused(rng):
    points = rng.normal(size=(3, 3))
    own, twice = PointSet(points, ("a", "b", "c")), PointSet(points, ("c", "a", "a"))
    with pytest.raises(GeometryError, match="the moving landmarks have the name 'a' more than once"):
        landmark_error(own, twice)
    with pytest.raises(GeometryError, match="the fixed landmarks have the name 'a' more than once"):
        match_landmarks(twice, own)


def test_names_without_a_partner_are_counted(rng, caplog):
    points = rng.normal(size=(80, 3))
    fixed = PointSet(points, tuple(f"f{n}" for n in range(80)))
    moving = PointSet(points, ("f0", *(f"m{n}" for n in range(79))))
    assert len(landmark_error(fixed, moving).errors) == 1
    assert "1 landmarks have a name in both files, of 80 fixed and 80 moving" in caplog.text
    assert "158 are left out" in caplog.text
    caplog.clear()
    landmark_error(fixed, fixed)
    assert not caplog.text


def test_bad_landmarks(grid, grid_2d):
    three, two = PointSet(np.zeros((3, 3))), PointSet(np.zeros((2, 3)))
    with pytest.raises(GeometryError, match="3 fixed landmarks but 2"):
        landmark_error(three, two)
    with pytest.raises(GeometryError, match="cannot correspond"):
        landmark_error(three, PointSet(np.zeros((3, 2))))
    with pytest.raises(GeometryError, match="no fixed landmarks"):
        landmark_error(PointSet(np.zeros((0, 3))), two)
    with pytest.raises(PlanError, match="need the moving image"):
        landmark_error(three, three, unit="px")
    with pytest.raises(PlanError, match="unit is"):
        landmark_error(three, three, unit="cm")
    with pytest.raises(GeometryError, match="2-D"):
        landmark_error(three, three, grid=grid_2d)


@pytest.fixture
def pair(make_grid, rng):
    grid = make_grid((24, 27, 21))
    a = gaussian_filter(rng.normal(size=grid.shape), 1.5) * 100
    b = 0.6 * a + gaussian_filter(rng.normal(size=grid.shape), 1.5) * 60 + 10
    return Image(a.astype(np.float32), grid), Image(b.astype(np.float32), grid)


def test_intensity_measures_by_their_formulas(pair):
    a, b = (image.data.astype(float) for image in pair)
    found = image_measures(*pair)
    assert found.ssd == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    assert found.ncc == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-5)
    assert 0 < found.lncc < 1
    assert found.mi > 0
    assert image_measures(pair[0], pair[0].with_data(-pair[0].data)).ncc == pytest.approx(-1)
    assert image_measures(pair[0], pair[0]).ssim == pytest.approx(1)


def spline(t):
    """Return the cubic B-spline."""
    t = np.abs(t)
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0))


def mutual_information(a, b, bins=32):
    """Return MI in nats: nearest bin of the one, cubic windows of the other between two bins of padding (Mattes)."""
    rows = np.floor((a - a.min()) / np.ptp(a) * (bins - 1) + 0.5).astype(int).ravel()
    places = (b - b.min()).ravel() / np.ptp(b) * (bins - 4) + 1.5
    p = np.zeros((bins, bins))
    np.add.at(p, rows, spline(np.clip(places, 1, bins - 2.5)[:, None] - np.arange(bins)))
    p /= p.sum()
    apart = p.sum(1, keepdims=True) * p.sum(0)
    return (p[p > 0] * np.log(p[p > 0] / apart[p > 0])).sum()


def local_correlation(a, b, radius=2):
    """Return the mean squared correlation over windows cut at the borders."""
    found = []
    for place in np.ndindex(a.shape):
        window = tuple(slice(max(c - radius, 0), c + radius + 1) for c in place)
        found.append(np.corrcoef(a[window].ravel(), b[window].ravel())[0, 1] ** 2)
    return np.mean(found)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e3])
def test_measures_of_a_small_image_by_numpy(pair, scale):
    """In any unit: the same, but for the squared difference."""
    images = [Image(i.data[:9, :8, :7] * np.float32(scale), i.grid.crop((0, 0, 0), (9, 8, 7))) for i in pair]
    a, b = (image.data.astype(float) for image in images)
    found = image_measures(*images)
    assert found.ssd == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    assert found.ncc == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-5)
    assert found.lncc == pytest.approx(local_correlation(a, b), rel=1e-3)
    assert found.mi == pytest.approx(mutual_information(a, b), rel=1e-4)


def test_windows_that_are_flat_in_the_fixed_image_count_nowhere(pair):
    fixed, warped = pair
    flat = np.array(fixed.data)
    flat[:12] = 7
    half = fixed.with_data(flat)
    textured = np.zeros(flat.shape)
    textured[10:] = 1  # windows that reach into the texture
    assert image_measures(half, warped).lncc == pytest.approx(
        image_measures(half, warped, mask=textured).lncc, rel=1e-4
    )
    # flat in the warped image alone they count as 0: the measure is not symmetric
    one, other = fixed.with_data(flat), fixed
    assert image_measures(one, other).lncc > 0.8
    assert 0.4 < image_measures(other, one).lncc < 0.6


@pytest.mark.parametrize("ndim", [2, 3])
def test_ssim_against_scikit_image(pair, grid_2d, rng, ndim):
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    from regista.core import Grid

    if ndim == 2:
        a, b = (Image(i.data[:, :, 5], Grid(i.data.shape[:2], np.eye(3))) for i in pair)
    else:
        a, b = pair
    theirs = metrics.structural_similarity(
        a.data.astype(float),
        b.data.astype(float),
        data_range=float(np.ptp(a.data)),
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    assert image_measures(a, b).ssim == pytest.approx(theirs, abs=1e-6)


def test_a_mask_leaves_the_rest_out(pair):
    fixed, warped = pair
    mask = np.zeros(fixed.grid.shape)
    mask[6:18, 6:20, 6:16] = 1
    broken = warped.data.copy()
    broken[:2] = np.nan
    inside = image_measures(fixed, warped, mask=mask)
    again = image_measures(fixed, warped.with_data(np.where(mask > 0, broken, 500)), mask=mask)
    assert again.ssd == pytest.approx(inside.ssd, rel=1e-6)
    assert again.ncc == pytest.approx(inside.ncc, rel=1e-6)
    assert again.mi > 0
    assert np.isfinite(image_measures(fixed, warped.with_data(broken)).ssim)


def test_images_that_cannot_be_compared(pair, make_grid):
    fixed, warped = pair
    with pytest.raises(GeometryError, match="different grids"):
        image_measures(fixed, Image(warped.data, make_grid((24, 27, 21), origin=(0, 0, 0))))
    with pytest.raises(GeometryError, match="series of 3 frames"):
        image_measures(Image(np.stack([fixed.data] * 3), fixed.grid, "series"), warped)
    with pytest.raises(GeometryError, match="finite"):
        image_measures(fixed, warped.with_data(np.full_like(warped.data, np.nan)))


def test_channels_are_averaged(pair):
    fixed, warped = pair
    colours = Image(np.stack([fixed.data - 5, fixed.data, fixed.data + 5]), fixed.grid, "channels")
    assert image_measures(colours, warped).ssd == pytest.approx(image_measures(fixed, warped).ssd, rel=1e-5)
