"""Intensity steps against what is known analytically."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from regista.core import FormatError, GeometryError, Grid, Image, LabelImage, PlanError
from regista.preprocessing import (
    N4,
    Clip,
    Denoise,
    ForegroundMask,
    HistogramMatch,
    Nyul,
    PercentileNormalize,
    ZScore,
)


@pytest.fixture
def image(grid, rng) -> Image:
    """Return positive values with a constant surround."""
    data = rng.gamma(5, 20, grid.shape).astype(np.float32) + 1
    data[:2] = 0
    return Image(data, grid, space="scan")


@pytest.fixture
def head(make_grid, rng) -> tuple[Image, np.ndarray, np.ndarray]:
    """Return a two-tissue ball seen through a known bias field, the tissues, and the field."""
    grid = make_grid((40, 36, 24), (1.0, 1.1, 1.9))
    at = grid.coordinates_mm() - grid.center_mm[:, None, None, None]
    radius = np.sqrt((at**2).sum(0))
    tissue = np.where(radius < 9, 200.0, np.where(radius < 17, 120.0, 0.0))
    field = np.exp(0.25 * np.sin(at[0] / 14) + 0.2 * at[2] / 20)
    noise = rng.normal(0, 2, grid.shape)
    data = tissue * field + np.abs(noise)
    return Image(data.astype(np.float32), grid), tissue, field


def test_clip_by_values_and_percentiles(image) -> None:
    out, _, measured = Clip(percentiles=(10, 90)).apply(image)
    inside = image.data[2:]
    assert measured == pytest.approx({"low": np.percentile(inside, 10), "high": np.percentile(inside, 90)})
    assert out.data.min() == pytest.approx(measured["low"])
    whole = Clip(low=-2.5, high=99.4)(image.with_data(np.rint(image.data).astype(np.int16)))
    assert whole.data.dtype == np.int16
    assert whole.data.max() == 99
    unsigned = Clip(low=-5)(image.with_data(np.rint(image.data).astype(np.uint8)))
    assert unsigned.data.dtype == np.uint8


def test_zscore_over_mask_foreground_and_channels(image, grid) -> None:
    mask = Image((np.indices(grid.shape)[1] > 6).astype(np.uint8), grid)
    out, _, measured = ZScore().apply(image, mask)
    inside = out.data[mask.data > 0]
    assert abs(inside.mean()) < 1e-5
    assert inside.std() == pytest.approx(1, abs=1e-5)
    assert measured["mean"] == pytest.approx(image.data[mask.data > 0].mean(), rel=1e-5)
    assert abs(ZScore()(image).data[2:].mean()) < 1e-5  # the surround does not count
    stack = Image(np.stack([image.data, 10 * image.data + 3]), grid, "channels")
    both, _, found = ZScore().apply(stack, mask)
    np.testing.assert_allclose(both.data[0], both.data[1], atol=1e-4)
    assert len(found["frames"]) == 2


def test_percentiles_go_to_the_ends(image) -> None:
    step = PercentileNormalize(percentiles=(5, 95), to=(-1.0, 3.0), clip=False)
    out = step(image).data[2:]
    assert np.percentile(out, 5) == pytest.approx(-1, abs=1e-4)
    assert np.percentile(out, 95) == pytest.approx(3, abs=1e-4)
    clipped = PercentileNormalize(percentiles=(5, 95))(image).data
    assert (clipped.min(), clipped.max()) == (0, 1)


def test_steps_undo_what_a_scanner_scales(image) -> None:
    other = image.with_data(image.data * 7 + np.where(image.data > 0, 40, 0).astype(np.float32))
    for step in (ZScore(), PercentileNormalize(), Nyul.train([image])):
        np.testing.assert_allclose(step(image).data[2:], step(other).data[2:], atol=2e-3)


def test_histograms_meet(image, grid, rng) -> None:
    reference = Image(rng.normal(500, 60, (20, 21, 22)).astype(np.float32), Grid((20, 21, 22), np.eye(4)))
    out, _, measured = HistogramMatch(reference=reference, above_mean=False).apply(
        image.with_data(rng.gamma(5, 20, grid.shape).astype(np.float32))
    )
    np.testing.assert_allclose(measured["after"][1:-1], measured["reference"][1:-1], rtol=0.05)
    assert out.grid == grid


@pytest.mark.parametrize("above_mean", [False, True])
def test_histograms_meet_inside_the_mask(grid, rng, above_mean) -> None:
    brain = np.indices(grid.shape)[1] > 6
    data = np.where(brain, rng.normal(80, 9, grid.shape), rng.normal(400, 80, grid.shape)).astype(np.float32)
    reference = Image(rng.normal(500, 60, (20, 21, 22)).astype(np.float32), Grid((20, 21, 22), np.eye(4)))
    step = HistogramMatch(reference=reference, above_mean=above_mean)
    out, _, measured = step.apply(Image(data, grid), Image(brain.astype(np.uint8), grid))
    other = reference.data[reference.data >= reference.data.mean()] if above_mean else reference.data
    at = measured["percentiles"]
    np.testing.assert_allclose(np.percentile(out.data[brain], at), np.percentile(other, at), rtol=0.02)
    assert measured["before"][2] == pytest.approx(np.median(data[brain]))
    # what lies outside does not count
    changed = Image(np.where(brain, data, -3 * data), grid)
    again = step(changed, Image(brain.astype(np.uint8), grid))
    assert np.array_equal(again.data[brain], out.data[brain])


def test_nyul_learns_saves_and_goes_on_straight(image, grid, rng, tmp_path) -> None:
    others = [image.with_data(image.data * k + np.where(image.data > 0, b, 0)) for k, b in ((1, 0), (3, 5))]
    nyul = Nyul.train(others, scale=(0.0, 100.0))
    assert nyul.standard[0] == 0
    assert nyul.standard[-1] == 100
    out, _, measured = nyul.apply(others[1])
    inside = out.data[2:]
    np.testing.assert_allclose(np.percentile(inside, nyul.percentiles), nyul.standard, atol=1e-3)
    assert len(measured["landmarks"]) == 11
    order = np.argsort(others[1].data[2:].ravel())
    assert np.all(np.diff(inside.ravel()[order]) >= -1e-4)  # never turns order round
    nyul.save(tmp_path / "model.json")
    assert Nyul.load(tmp_path / "model.json") == nyul
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    named = Nyul(model=str(tmp_path / "model.json"))
    assert np.array_equal(named(others[0]).data, nyul(others[0]).data)


@pytest.mark.parametrize("text", ["", "[]", '{"percentiles": [1, 2]}', '{"percentiles": "x", "standard": 1}'])
def test_damaged_nyul_models_are_refused(tmp_path, text) -> None:
    (tmp_path / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"model\.json"):
        Nyul.load(tmp_path / "model.json")
    with pytest.raises(FormatError, match="cannot be read"):
        Nyul.load(tmp_path / "none.json")
    (tmp_path / "model.json").write_text(
        json.dumps({"percentiles": [1, 9, 5], "standard": [0, 1, 2]}), encoding="utf-8"
    )
    with pytest.raises(PlanError, match="increasing"):
        Nyul.load(tmp_path / "model.json")


def test_nyul_survives_landmarks_that_coincide(grid) -> None:
    coarse = Image((np.indices(grid.shape).sum(0) % 3).astype(np.float32), grid)
    out = Nyul.train([coarse])(coarse, Image(np.ones(grid.shape), grid)).data
    assert np.isfinite(out).all()


def test_n4_flattens_a_known_field(head) -> None:
    image, tissue, _ = head
    out, _, measured = N4(shrink=2).apply(image)
    for level in (120.0, 200.0):
        before, after = (d[tissue == level].std() / d[tissue == level].mean() for d in (image.data, out.data))
        assert after < 0.45 * before
    assert measured["field_min"] < 1 < measured["field_max"]
    assert out.grid == image.grid
    assert out.data[tissue == 0].max() < 40


def test_denoise_halves_noise_and_keeps_the_edge(make_grid, rng) -> None:
    grid = make_grid((30, 28, 20), (1.0, 0.8, 1.5))
    clean = np.where(np.indices(grid.shape)[0] < 15, 100.0, 200.0)
    image = Image((clean + rng.normal(0, 8, grid.shape)).astype(np.float32), grid)
    for step in (Denoise(), Denoise(method="median", strength=1)):
        out, _, measured = step.apply(image)
        assert np.std(out.data - clean) < 0.6 * 8
        assert measured["noise_after"] < 0.6 * measured["noise_before"]
        assert out.data[14].mean() < 120 < 180 < out.data[15].mean()
    assert 6 < measured["noise_before"] < 10


def test_foreground_is_one_piece_without_holes(head, rng) -> None:
    image, tissue, _ = head
    data = image.data.copy()
    data[20, 18, 12] = 0
    data[0, 0, 0] = data[0, 0, 1] = 300
    out, mask, measured = ForegroundMask(closing_mm=2.0, blank=True).apply(image.with_data(data))
    overlap = (mask.data > 0) & (tissue > 0)
    assert 2 * overlap.sum() / (mask.data.sum() + (tissue > 0).sum()) > 0.98
    assert mask.data[20, 18, 12] == 1
    assert mask.data[0, 0, 0] == 0
    assert out.data[0, 0, 0] == 0
    assert measured["volume_ml"] == pytest.approx(mask.data.sum() * 1.0 * 1.1 * 1.9 / 1000)


@pytest.mark.parametrize("closing_mm", [0.0, 6.0])
def test_a_given_mask_bounds_the_foreground(head, closing_mm) -> None:
    image, tissue, _ = head
    given = tissue > 0
    given[18:22] = False  # a gap that closing bridges
    given[10:14, 16:20, 10:14] = False  # a hole that filling closes
    step = ForegroundMask(closing_mm=closing_mm)
    found = step.apply(image, Image(given.astype(np.uint8), image.grid)).mask
    assert 0 < np.count_nonzero(found.data) <= np.count_nonzero(given)
    assert not np.any((found.data > 0) & ~given)
    with pytest.raises(GeometryError, match="another grid"):
        step.apply(image, Image(np.ones((3, 3, 3)), Grid((3, 3, 3), np.eye(4))))


def test_filters_take_planes(grid_2d, rng) -> None:
    data = gaussian_filter(rng.random(grid_2d.shape), 1).astype(np.float32) * 100 + 1
    image = Image(data, grid_2d)
    for step in (N4(shrink=1), Denoise(), ForegroundMask(closing_mm=0), ZScore()):
        out, found, measured = step.apply(image, None)
        assert out.grid == grid_2d
        assert np.isfinite(out.data).all()
        if isinstance(step, ForegroundMask):
            assert "volume_ml" not in measured
            pixel = np.prod(grid_2d.spacing)
            assert measured["area_mm2"] == pytest.approx(np.count_nonzero(found.data) * pixel)


def test_bad_input_is_refused(image, grid) -> None:
    broken = image.data.copy()
    broken[3, 3, 3] = np.nan
    for step in (ZScore(), N4(), Clip(low=0), ForegroundMask(), Denoise()):
        with pytest.raises(GeometryError, match="NaN"):
            step(image.with_data(broken))
        with pytest.raises(GeometryError, match="label"):
            step(LabelImage(np.ones(grid.shape, int), grid))
    constant = image.with_data(np.full(grid.shape, 3.0))
    for step in (ZScore(), PercentileNormalize(), ForegroundMask(), N4()):
        with pytest.raises(GeometryError):
            step(constant)
    with pytest.raises(GeometryError, match="empty"):
        ZScore()(image, Image(np.zeros(grid.shape), grid))
    with pytest.raises(GeometryError, match="another grid"):
        ZScore()(image, Image(np.ones((3, 3, 3)), Grid((3, 3, 3), np.eye(4))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clip(),
        lambda: Clip(low=1, percentiles=(1, 99)),
        lambda: Clip(low=2, high=1),
        lambda: Clip(percentiles=(50, 20)),
        lambda: PercentileNormalize(to=(1, 0)),
        lambda: N4(shrink=0),
        lambda: N4(iterations=()),
        lambda: Denoise(method="wish"),
        lambda: Denoise(strength=0),
        lambda: ForegroundMask(closing_mm=-1),
        lambda: Nyul(),
        lambda: Nyul(percentiles=(1.0, 99.0), standard=(5.0, 1.0)),
        lambda: Nyul.train([]),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(PlanError):
        make()
