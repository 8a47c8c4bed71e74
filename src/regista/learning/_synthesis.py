"""Images made up from label maps: any contrast, so that a network learns shapes and not intensities.

A label map is deformed twice by random smooth flows; each copy gets a random intensity per label, noise, blur, a bias
field and, at times, thick slices. Training compares the labels, or clean images of one contrast (M. Hoffmann et al., "SynthMorph: learning
contrast-invariant registration without acquired images", IEEE TMI 41(3), 2022); where both images come from one map, the displacement
between them is known and may be compared as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.kernels.cpu.fields import compose, exponential
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.warp import warp
from regista.learning._prepare import Codes, Volume
from regista.learning._sources import Sample, digest

_RECIPE = 2
"""Counts what changed in how pairs are made from the same settings: a training goes on with its own pairs alone."""
_DARKEST, _BRIGHTEST = np.float32(0.05), np.float32(1.0)
"""Intensities of tissues."""


def _full(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a shape as kernels take it; a slice as ``(I, 1, J)``."""
    first, *middle, last = shape
    return first, middle[0] if middle else 1, last


def smooth_noise(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> Volume:
    """Return smooth noise of SD about 1, ``(I, J, K)``: white on a coarse lattice, interpolated.

    Parameters
    ----------
    shape : tuple of int
        Size, a slice's middle axis being 1.
    spacing : float
        Voxels between the coarse lattice's nodes.
    rng : Generator
        Source of randomness.
    """
    full = _full(shape)
    nodes = tuple(1 if n == 1 else max(2, int(np.ceil(n / spacing)) + 1) for n in full)
    coarse = rng.standard_normal((1, *nodes), np.float32)
    coarse = np.asarray(gaussian_filter(coarse, [0.0 if n == 1 else 0.8 for n in nodes], border="nearest"))[0]
    coarse /= max(float(coarse.std()), 1e-6)
    scale = [0.0 if n == 1 else (m - 1) / (n - 1) for n, m in zip(full, nodes, strict=True)]
    return np.asarray(warp(coarse, np.column_stack([np.diag(scale), np.zeros(3)]), shape=full))


def _random_flow(
    shape: tuple[int, ...], spacing: float, sd: float, rng: np.random.Generator
) -> Callable[[float], Volume]:
    """Return a random flow: its displacement ``(3, I, J, K)``, voxels, by the time flowed, 1 the whole and -1 the inverse.

    Each component of its velocity has this SD. It is as smooth as its lattice is wide: integrated at every second voxel and interpolated, in an eighth of the time.
    """
    full = _full(shape)
    coarse = tuple(1 if n == 1 else n // 2 + 1 for n in full)
    velocity = np.stack(
        [smooth_noise(coarse, spacing / 2, rng) if n > 1 else np.zeros(coarse, np.float32) for n in full]
    )
    scale = np.column_stack([np.diag([0.0 if n == 1 else 0.5 for n in full]), np.zeros(3)])

    def reached(time: float) -> Volume:
        flow = exponential(velocity * np.float32(time * sd / 2), 5)
        return np.stack([2 * np.asarray(warp(one, scale, shape=full)) for one in flow])

    return reached


def _leads_out(field: Volume) -> NDArray[np.bool_]:
    """Tell where a displacement leads beyond the lattice."""
    out = np.zeros(field.shape[1:], bool)
    for axis, n in enumerate(field.shape[1:]):
        place = field[axis] + np.arange(n, dtype=np.float32).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        out |= (place < 0) | (place > n - 1)
    return out


def random_shapes(
    shape: tuple[int, ...], *, count: int = 16, labels: int = 20, size: float = 12.0, seed: int = 0
) -> tuple[Codes, ...]:
    """Return random label maps of blobs, for networks that are to know no anatomy at all.

    Parameters
    ----------
    shape : tuple of int
        Size of the maps.
    count : int
        Number of maps.
    labels : int
        Labels per map, without the background.
    size : float
        Typical size of a blob, voxels.
    seed : int
        Of the draw.

    Returns
    -------
    tuple of (*shape) int32 ndarray
        Codes 0 … `labels`.

    Examples
    --------
    >>> first = random_shapes((24, 20), count=1, labels=3, size=6)[0]
    >>> first.shape, int(first.max())
    ((24, 20), 3)
    """
    maps = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        highest = smooth_noise(shape, size, rng)
        codes = np.zeros(highest.shape, np.int32)
        for label in range(1, labels + 1):
            other = smooth_noise(shape, size, rng)
            above = other > highest
            codes[above] = label
            highest = np.maximum(highest, other)
        maps.append(codes.reshape(shape))
    return tuple(maps)


class _Anatomy(NamedTuple):
    """A label map before and after it was deformed, the flow that deforms it, and where that leads, voxels ``(3, I, J, K)``."""

    drawn: Codes
    codes: Codes
    flow: Callable[[float], Volume]
    field: Volume

    def shown(self, values: NDArray[np.float32]) -> Volume:
        """Return an image ``(I, J, K)`` with a value for each code, in between at borders, which thus lie where the flow puts them."""
        full = _full(self.drawn.shape)
        return np.asarray(warp(values[self.drawn].reshape(full), np.eye(3, 4), self.field, shape=full))


class _Look(NamedTuple):
    """Intensity of each code, which codes count as outside, and whether it is dark there."""

    levels: Volume
    outside: NDArray[np.bool_]
    dark: bool


@dataclass(frozen=True, eq=False)
class SynthesisSource:
    """Draws pairs of made-up images of one anatomy.

    Parameters
    ----------
    maps : tuple of (*shape) int32 ndarray
        Label codes, 0 the background, all of one size.
    deformation_vox : float
        Typical length of the random displacement of each image, drawn anew up to this, short ones more often, voxels.
    deformation_spacing : tuple of 2 floats
        Range of the distance between nodes of the deformation's lattice, voxels.
    across : float
        Share of the pairs whose images come from two maps, of different people.
    bias, noise, blur : float
        Largest SD of the logarithm of the bias field, of the noise (intensities span 0 … 1), and of the blur (voxels).
    thick : float
        Share of the images with thick slices along a random axis, up to four voxels.
    dark_background : float
        Share of the images whose background is 0, as in skull-stripped scans.
    tissues : tuple of int, optional
        Tissue of each code, the background included: codes of one tissue are equally bright, as the two halves of a brain
        are (default: each code is a tissue of its own).
    fluid : tuple of int
        Codes that half of the images show as dark as the background: the fluid around a brain is dark in some contrasts, and cut
        away in some scans.
    same_contrast : float
        Share of the pairs whose two images have one contrast: networks learn to compare from these first, and of two contrasts
        alone slowly or not at all.
    reversed_contrast : float
        Share of the pairs in which what is bright in one image is dark in the other, as between T1 and T2: without them networks
        that have learned to compare one contrast go by it.
    targets : bool
        Give the loss a clean pair of one contrast, drawn anew each time, to compare by its similarity; the labels are then needed
        for its Dice term alone.
    displacements : bool
        Give the displacement between images of one map, for a loss with an end-point error.

    Raises
    ------
    PlanError
        If there is no map, they differ in size, a share is none, `tissues` leaves a code out, `fluid` names one that there is not, or the shares of pairs of one and of
        reversed contrast are more than all.
    """

    maps: tuple[Codes, ...]
    deformation_vox: float = 3.0
    deformation_spacing: tuple[float, float] = (8.0, 32.0)
    across: float = 0.0
    bias: float = 0.3
    noise: float = 0.1
    blur: float = 1.0
    thick: float = 0.25
    dark_background: float = 0.5
    tissues: tuple[int, ...] = ()
    fluid: tuple[int, ...] = ()
    same_contrast: float = 0.0
    reversed_contrast: float = 0.0
    targets: bool = False
    displacements: bool = True

    def __post_init__(self) -> None:
        if not self.maps:
            raise PlanError("synthesis needs a label map at least, got none")
        if len({one.shape for one in self.maps}) > 1:
            raise PlanError("the label maps of a synthesis have one size: bring them to one grid first")
        if self.tissues and len(self.tissues) < self.code_count:
            raise PlanError(
                f"tissues are given for {len(self.tissues)} codes, the label maps have {self.code_count}, the background "
                "included: give one for each"
            )
        if not 0 <= min(shares := (self.same_contrast, self.reversed_contrast)) <= sum(shares) <= 1:
            raise PlanError(
                f"shares of pairs of one contrast and of reversed ones are at least 0 and together at most 1, got {shares}"
            )
        if not 0 <= self.across <= 1:
            raise PlanError(f"the share of pairs of two maps (across) is between 0 and 1, got {self.across}")
        if not set(self.fluid) <= set(range(1, self.code_count)):
            raise PlanError(f"codes of fluid are between 1 and {self.code_count - 1}, got {list(self.fluid)}")

    @cached_property
    def code_count(self) -> int:
        """Number of label codes, the background included."""
        return max(int(one.max()) for one in self.maps) + 1

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        """Place of each code's tissue among the tissues."""
        return np.unique(self.tissues[: self.code_count], return_inverse=True)[1]

    @property
    def comparable(self) -> bool:
        """Whether the loss may compare the images by their intensities: those of `targets` alone."""
        return self.targets

    @property
    def knows_displacement(self) -> bool:
        """Whether pairs come with their displacement: those of one map, if asked for."""
        return self.displacements and (self.across < 1 or len(self.maps) == 1)

    @property
    def fingerprint(self) -> str:
        """What tells these maps, and what is made of them, from others."""
        settings = [getattr(self, item.name) for item in fields(self) if item.name != "maps"]
        return digest(_RECIPE, len(self.maps), self.maps[0].shape, self.code_count, settings)

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a pair with its labels."""
        first = int(rng.integers(len(self.maps)))
        second = int(rng.integers(len(self.maps))) if rng.random() < self.across else first
        fixed, moving = (self._deformed(self.maps[n], rng) for n in (first, second))
        known = self._known(fixed, moving) if first == second and self.displacements else None
        clean: tuple[Volume | None, Volume | None] = (None, None)
        if self.targets:
            levels = self._levels(rng)
            clean = self._clean(fixed, levels), self._clean(moving, levels)
        levels, others = self._levels(rng), self._levels(rng)
        kind = rng.random()
        if self.same_contrast <= kind < self.same_contrast + self.reversed_contrast:
            others = _BRIGHTEST + _DARKEST - levels
        here, there = self._look(levels, rng), self._look(others, rng)
        if kind < self.same_contrast:
            there = here
        images = self._image(fixed, here, rng), self._image(moving, there, rng)
        return Sample(*images, fixed.codes, moving.codes, *clean, known_vox=known)

    def _known(self, fixed: _Anatomy, moving: _Anatomy) -> Volume:
        """Return the displacement, voxels ``(n, *shape)``, that brings one deformed copy of a map onto the other.

        NaN where it leads out of the lattice, beyond which nothing is known.
        """
        field = compose(moving.flow(-1), fixed.field)
        outside = _leads_out(fixed.field) | _leads_out(field)
        field[:, outside] = np.nan
        return field if fixed.codes.ndim == 3 else np.ascontiguousarray(field[::2, :, 0])

    def _deformed(self, codes: Codes, rng: np.random.Generator) -> _Anatomy:
        full = _full(codes.shape)
        spacing = float(rng.uniform(*self.deformation_spacing))
        length = float(self.deformation_vox * rng.random() ** 2)
        flow = _random_flow(codes.shape, spacing, length / np.sqrt(codes.ndim), rng)
        field = flow(1)
        at = []
        for axis, n in enumerate(full):
            line = np.arange(n, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            at.append(np.clip(np.rint(line + field[axis]), 0, n - 1).astype(np.int32))
        flat = (at[0] * full[1] + at[1]) * full[2] + at[2]
        deformed = np.asarray(codes.ravel()[flat], np.int32).reshape(codes.shape)
        return _Anatomy(codes, deformed, flow, field)

    def _levels(self, rng: np.random.Generator) -> Volume:
        """Return an intensity for each code."""
        count = self.code_count
        levels = rng.uniform(_DARKEST, _BRIGHTEST, count).astype(np.float32)
        return levels[self._groups] if self.tissues else levels

    def _dark(self, levels: Volume) -> Volume:
        """Return intensities with those of the background, and of its tissue, 0."""
        groups = self._groups if self.tissues else np.arange(len(levels))
        return np.where(groups == groups[0], 0, levels).astype(np.float32)

    def _clean(self, anatomy: _Anatomy, levels: Volume) -> Volume:
        """Return an image of these intensities, the background dark, its borders soft."""
        image = anatomy.shown(self._dark(levels))
        sigma = [0.5 if n > 1 else 0.0 for n in image.shape]
        soft = gaussian_filter(image[None], sigma, border="nearest")[0]
        return cast(Volume, soft.reshape(anatomy.codes.shape))

    def _look(self, levels: Volume, rng: np.random.Generator) -> _Look:
        """Return how an image of these intensities looks outside."""
        dark = rng.random() < self.dark_background
        levels = self._dark(levels) if dark else levels.copy()
        outside = np.zeros(len(levels), bool)
        outside[[0, *(self.fluid if self.fluid and rng.random() < 0.5 else ())]] = True
        levels[outside] = levels[0]
        return _Look(levels, outside, dark)

    def _image(self, anatomy: _Anatomy, look: _Look, rng: np.random.Generator) -> Volume:
        """Return an image that looks so, with the faults of scans."""
        shape = anatomy.codes.shape
        full = _full(shape)
        image = anatomy.shown(look.levels)
        noise = rng.standard_normal(full, np.float32)
        if look.dark:  # where a skull was stripped away there is no noise either
            noise *= anatomy.shown((~look.outside).astype(np.float32))
        image += noise * np.float32(rng.uniform(0, self.noise))
        image = self._softened(image, rng)
        field = smooth_noise(shape, float(max(full)) / 3, rng)
        image *= np.exp(field * np.float32(rng.uniform(0, self.bias)))
        low, high = np.percentile(image[::2, :: min(2, full[1]), ::2], (0.5, 99.5))
        image = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
        gamma = np.float32(np.exp(rng.uniform(-0.3, 0.3)))
        return np.ascontiguousarray(image**gamma, np.float32).reshape(shape)

    def _softened(self, image: Volume, rng: np.random.Generator) -> Volume:
        """Blur, and give some images thick slices."""
        sigma = np.where(np.array(image.shape) > 1, rng.uniform(0, self.blur), 0.0)
        thick = rng.random() < self.thick
        axis = int(rng.integers(3)) if image.shape[1] > 1 else int(rng.choice([0, 2]))
        step = int(rng.integers(2, 5)) if thick else 1
        sigma[axis] = max(sigma[axis], 0.42 * step if thick else 0.0)
        image = np.asarray(gaussian_filter(image[None], sigma.tolist(), border="nearest"))[0]
        if thick:
            kept = np.take(image, np.arange(0, image.shape[axis], step), axis=axis)
            scale = np.eye(3, 4)
            scale[axis, axis] = 1 / step
            image = np.asarray(warp(np.ascontiguousarray(kept), scale, shape=image.shape))
        return image
