"""An image smoothed in pieces is the image smoothed whole, and a huge one is never copied whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scenes import oblique
from scipy.ndimage import gaussian_filter

from regista.core import Grid, Image
from regista.reporting import _coarse
from regista.reporting._coarse import coarse_image


def smoothed(data: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    sigma = 0.4 * np.maximum(ratio - 1, 0)
    return gaussian_filter(data.astype(np.float64), sigma, mode="nearest", truncate=4.0)


def check(image: Image, ratio: np.ndarray, data: np.ndarray) -> Image:
    """Compare with the image smoothed whole, at the voxels that are kept; return what was found."""
    found = coarse_image(image, image.grid.spacing * ratio)
    index = [
        image.grid.world2index(found.grid.index2world(corner))
        for corner in (np.zeros(image.ndim), np.array(found.grid.shape) - 1.0)
    ]
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(index, np.rint(index), atol=1e-6)  # voxels of the image
    first, last = np.rint(index).astype(int)
    steps = np.maximum(1, (0.2 * (ratio - 1)).astype(int))
    np.testing.assert_allclose(found.grid.spacing, steps * image.grid.spacing)
    assert (first <= steps / 2).all()  # no voxel far from one that is kept
    assert (np.array(image.grid.shape) - 1 - last <= steps / 2).all()
    kept = tuple(slice(a, b + 1, s) for a, b, s in zip(first, last, steps, strict=True))
    np.testing.assert_allclose(found.data, smoothed(data, ratio)[kept], atol=2e-3 * np.ptp(data))
    return found


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("ratio", [(1.0, 1.0, 1.0), (3.0, 1.5, 0.5), (24.0, 12.0, 1.0), (9.0, 30.0, 17.0)])
def test_pieces_make_the_whole(monkeypatch, order, ratio) -> None:
    monkeypatch.setattr(_coarse, "PIECE", 500)
    grid = oblique((44, 57, 31))
    data = np.asarray(np.random.default_rng(2).integers(0, 255, grid.shape), np.uint8, order=order)
    check(Image(data, grid), np.array(ratio), data)


def test_channels_are_averaged_and_what_is_not_finite_is_0(monkeypatch) -> None:
    monkeypatch.setattr(_coarse, "PIECE", 300)
    data = np.random.default_rng(1).normal(50, 20, (3, 70, 45))
    data[0, 3, 4], data[1, 60, 2] = np.nan, np.inf
    whole = data.astype(np.float32).mean(axis=0)
    whole[~np.isfinite(whole)] = 0
    grid = Grid((70, 45), np.diag([0.5, 0.7, 1.0]))
    check(Image(data, grid, "channels"), np.array([13.0, 2.0]), whole)


def test_a_huge_image_is_not_copied_whole(monkeypatch) -> None:
    monkeypatch.setattr(_coarse, "PIECE", 2**16)
    grid = oblique((200, 180, 160), (0.1, 0.1, 0.1))
    data = np.zeros(grid.shape, np.uint8, order="F")
    data[60:, 30:150, 50:] = 200
    image = Image(data, grid)
    coarse_image(Image(data[:20, :20, :20], oblique((20, 20, 20))), np.full(3, 9.0))  # compiled
    tracemalloc.start()
    found = coarse_image(image, np.full(3, 1.7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.data.size < data.size / 25
    assert peak < 0.8 * data.nbytes  # as float32 it has four times these
    assert found.data.min() >= 0
    assert found.data.max() == pytest.approx(200, abs=0.01)
