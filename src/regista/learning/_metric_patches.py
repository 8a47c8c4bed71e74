"""Pairs of patches drawn from aligned images: positive where both are read through one map, negative otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from regista.kernels.cpu.patches import sample_patches
from regista.learning._metric_config import MetricConfig, PatchConfig
from regista.learning._metric_data import AlignedPair, PairLevel

Table = NDArray[np.float64]
PATCH = 17
_GROUPS = 4
"""Pair and level are drawn so many times per batch."""
_WAVES = 2


class PatchSource:
    """Draws batches of pairs of patches (Simonovsky 2016).

    Parameters
    ----------
    pairs : sequence of AlignedPair
        The ``k`` aligned pairs.
    config : MetricConfig
        How to draw.

    Notes
    -----
    A batch is a function of its generator alone, whatever the number of threads. Positive and negative pairs take turns; for
    the architecture 'features' each negative has the first patch of the positive before it, so that one place is compared with
    the right one and with one near by.
    """

    def __init__(self, pairs: Sequence[AlignedPair], config: MetricConfig) -> None:
        self._pairs, self._config = tuple(pairs), config
        self._side = (PATCH, PATCH, PATCH) if config.ndim == 3 else (PATCH, 1, PATCH)

    def batch(
        self, rng: np.random.Generator, size: int, nearest_vox: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return pairs of patches ``(N, 2, *side)`` and what they are ``(N,)``: 1 aligned, −1 not.

        Parameters
        ----------
        rng : numpy Generator
            Decides everything.
        size : int
            How many; a multiple of 4.
        nearest_vox : float
            Least shift of negatives.
        """
        groups = min(_GROUPS, size // 2)
        counts = [2 * (size // 2 * (n + 1) // groups) - 2 * (size // 2 * n // groups) for n in range(groups)]
        patches, targets = [], []
        for count in counts:
            pair = self._pairs[rng.integers(len(self._pairs))]
            # level n is drawn half as often as level n − 1
            odds = 0.5 ** np.arange(len(pair.levels))
            level = pair.levels[rng.choice(len(pair.levels), p=odds / odds.sum())]
            target = np.where(np.arange(count) % 2 == 0, 1, -1).astype(np.float32)
            patches.append(self._group(rng, level, target, nearest_vox))
            targets.append(target)
        stack = np.concatenate(patches)
        if self._config.ndim == 2:
            stack = stack[:, :, :, 0]
        return np.ascontiguousarray(_recoloured(rng, stack, self._config.patches)), np.concatenate(targets)

    def _group(
        self, rng: np.random.Generator, level: PairLevel, target: NDArray[np.float32], nearest_vox: float
    ) -> NDArray[np.float32]:
        setup, ndim, count = self._config.patches, self._config.ndim, len(target)
        chosen = level.centres[rng.integers(len(level.centres), size=count)]
        centres = np.stack(np.unravel_index(chosen, level.first.shape), axis=1) + rng.uniform(
            -0.5, 0.5, (count, 3)
        )
        linear, waves = _linear_maps(rng, count, ndim, setup), _wave_tables(rng, count, ndim, setup.wave_vox)
        if self._config.architecture == "features":
            for table in (centres, linear, waves):
                table[1::2] = table[::2]
        other_linear, other_waves, shift = linear.copy(), waves.copy(), np.zeros((count, 3))
        negative = np.flatnonzero(target < 0)
        shift[negative] = _shifts(rng, len(negative), ndim, nearest_vox, setup.farthest_vox)
        turned = negative[rng.random(len(negative)) < 0.5]
        small = _linear_maps(rng, len(turned), ndim, setup, flips=False)
        other_linear[turned] = linear[turned] @ small
        other_waves[turned] = _wave_tables(rng, len(turned), ndim, setup.wave_vox)
        first = sample_patches(level.first, _affine(linear, centres), waves, self._side)
        second = sample_patches(level.second, _affine(other_linear, centres + shift), other_waves, self._side)
        return np.stack([first, second], axis=1)


def _axes(ndim: int) -> list[int]:
    """Return the axes in use: an image of two dimensions lies in the first and the last."""
    return [0, 1, 2] if ndim == 3 else [0, 2]


def _affine(linear: Table, centres: Table) -> Table:
    return np.concatenate([linear, centres[:, :, None]], axis=2)


def _linear_maps(
    rng: np.random.Generator, count: int, ndim: int, setup: PatchConfig, flips: bool = True
) -> Table:
    """Return random turns, changes of size, shears and flips, ``(count, 3, 3)``."""
    axes = _axes(ndim)
    angle = np.deg2rad(setup.rotation_deg)
    vectors = rng.uniform(-angle, angle, (count, 3))
    if ndim == 2:
        vectors[:, [0, 2]] = 0
    turn = Rotation.from_rotvec(vectors).as_matrix() if count else np.zeros((0, 3, 3))
    stretch = np.tile(np.eye(3), (count, 1, 1))
    for a in axes:
        stretch[:, a, a] = np.exp(rng.uniform(-setup.scale, setup.scale, count))
        for b in axes:
            if b > a:
                stretch[:, a, b] = rng.uniform(-setup.shear, setup.shear, count)
    if flips and setup.flips:
        for a in axes:
            stretch[:, :, a] *= rng.choice([-1.0, 1.0], count)[:, None]
    return np.asarray(turn @ stretch)


def _wave_tables(rng: np.random.Generator, count: int, ndim: int, amplitude: float) -> Table:
    """Return random smooth displacements as waves of 12 to 30 voxels, ``(count, M, 7)``."""
    waves = np.zeros((count, _WAVES, 7))
    axes = _axes(ndim)
    waves[..., :3][..., axes] = rng.uniform(-amplitude, amplitude, (count, _WAVES, len(axes)))
    direction = rng.standard_normal((count, _WAVES, len(axes)))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    length = rng.uniform(12, 30, (count, _WAVES, 1))
    waves[..., 3:6][..., axes] = 2 * np.pi * direction / length
    waves[..., 6] = rng.uniform(0, 2 * np.pi, (count, _WAVES))
    return waves


def _shifts(rng: np.random.Generator, count: int, ndim: int, nearest: float, farthest: float) -> Table:
    """Return shifts in any direction, short ones more often than long ones."""
    axes = _axes(ndim)
    shift = np.zeros((count, 3))
    direction = rng.standard_normal((count, len(axes)))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    shift[:, axes] = direction * (nearest + (farthest - nearest) * rng.random((count, 1)) ** 2)
    return shift


def _recoloured(
    rng: np.random.Generator, patches: NDArray[np.float32], setup: PatchConfig
) -> NDArray[np.float32]:
    """Return patches with other contrast and noise, each for itself."""
    shape = (*patches.shape[:2], *(1,) * (patches.ndim - 2))
    if setup.gamma:
        power = np.exp(rng.uniform(-setup.gamma, setup.gamma, shape)).astype(np.float32)
        patches = np.power(np.maximum(patches, 0), power)
    if setup.noise:
        sigma = (rng.random(shape) * setup.noise).astype(np.float32)
        patches = patches + sigma * rng.standard_normal(patches.shape, np.float32)
    return np.asarray(patches, np.float32)
