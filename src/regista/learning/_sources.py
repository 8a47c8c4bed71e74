"""Where the pairs of a training step come from: each is a function of a random generator alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from regista.core import PlanError
from regista.kernels.cpu.overlap import majority
from regista.kernels.cpu.warp import warp
from regista.learning._config import Augmentation
from regista.learning._prepare import Codes, PreparedScans, Volume


@dataclass(frozen=True, eq=False)
class Sample:
    """A pair to train on.

    Parameters
    ----------
    fixed, moving : (*shape) float32 ndarray
        Images.
    fixed_codes, moving_codes : (*shape) int32 ndarray or None
        Codes of their labels.
    fixed_target, moving_target : (*shape) float32 ndarray or None
        What the loss compares in place of the images that the network sees.
    known_vox : (n, *shape) float32 ndarray or None
        The displacement that brings the fixed onto the moving image, voxels; NaN where it is not known.
    """

    fixed: Volume
    moving: Volume
    fixed_codes: Codes | None = None
    moving_codes: Codes | None = None
    fixed_target: Volume | None = None
    moving_target: Volume | None = None
    known_vox: Volume | None = None


class Source(Protocol):
    """Gives pairs; the same generator gives the same pair."""

    @property
    def code_count(self) -> int:
        """Number of label codes, the background included; 0 without labels."""
        ...

    @property
    def comparable(self) -> bool:
        """Whether the loss may compare the images by their intensities: not where those made up differ in contrast."""
        ...

    @property
    def knows_displacement(self) -> bool:
        """Whether pairs, or some, come with the displacement between them."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells these scans from others: a training goes on with the same alone."""
        ...

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a pair."""
        ...


def digest(*facts: object) -> str:
    """Return a hash of what tells one source from another; not of intensities, whose last bits an alignment may change.

    Examples
    --------
    >>> digest(("ann", "bob"), (64, 64)) == digest(("ann", "eve"), (64, 64))
    False
    """
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class PairSource:
    """Draws pairs of prepared scans, both in one random pose.

    Parameters
    ----------
    scans : PreparedScans
        Scans of the training part.
    pose : Augmentation, optional
        Random pose.
    """

    scans: PreparedScans
    pose: Augmentation | None = None

    def __post_init__(self) -> None:
        if not self.scans.pairs:
            raise PlanError("there is no pair of scans of different subjects to train on: add scans")

    @property
    def code_count(self) -> int:
        """Number of label codes, the background included; 0 without labels."""
        return 0 if self.scans.codes is None else len(self.scans.values)

    @property
    def comparable(self) -> bool:
        """Whether the loss may compare the images by their intensities: scans always."""
        return True

    @property
    def knows_displacement(self) -> bool:
        """Whether pairs come with the displacement between them: scans never."""
        return False

    @property
    def fingerprint(self) -> str:
        """What tells these scans from others."""
        scans = self.scans
        return digest(scans.subjects, scans.pairs, scans.shape, scans.values, self.pose)

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a pair."""
        a, b = self.scans.pairs[int(rng.integers(len(self.scans.pairs)))]
        images, codes = self.scans.images, self.scans.codes
        fixed, moving = images[a], images[b]
        labels = (None, None) if codes is None else (codes[a], codes[b])
        if self.pose is None:
            return Sample(fixed, moving, labels[0], labels[1])
        matrix = random_pose(self.pose, fixed.shape, rng)
        fixed, moving = (posed(one, matrix) for one in (fixed, moving))
        if codes is None:
            return Sample(fixed, moving)
        here, there = (posed_codes(one, matrix, self.code_count) for one in labels)
        return Sample(fixed, moving, here, there)


def random_pose(pose: Augmentation, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random ``(3, 4)`` map of voxels, about the middle of the image; a 2-D one as ``(I, 1, J)``."""
    ndim = len(shape)
    angles = rng.uniform(-pose.rotation_deg, pose.rotation_deg, 3)
    size = np.exp(rng.uniform(-1, 1) * np.log1p(pose.scale))
    shift = rng.uniform(-pose.shift, pose.shift, 3)
    flips = rng.random(3) < 0.5
    if ndim == 2:
        angles[:2] = 0
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    flip = np.diag([-1.0 if axis in pose.flip_axes and flips[axis] else 1.0 for axis in range(3)])
    linear = turn @ flip * size
    full = np.array(shape if ndim == 3 else (*shape, 1), np.float64)
    if ndim == 2:  # the third axis becomes the middle one
        linear[2], linear[:, 2] = (0, 0, 1), (0, 0, 1)
        order = [0, 2, 1]
        linear, full, shift = linear[np.ix_(order, order)], full[order], shift[order]
    middle = (full - 1) / 2
    offset = middle - linear @ middle + shift * np.where(full > 1, full, 0)
    return np.column_stack([linear, offset])


def posed(image: Volume, matrix: NDArray[np.float64]) -> Volume:
    """Return an image in another pose."""
    volume = image if image.ndim == 3 else image[:, None, :]
    return np.asarray(warp(volume, matrix, shape=volume.shape)).reshape(image.shape)


def posed_codes(codes: Codes | None, matrix: NDArray[np.float64], count: int) -> Codes:
    """Return label codes in another pose, by the nearest voxel."""
    assert codes is not None
    volume = codes if codes.ndim == 3 else codes[:, None, :]
    return np.asarray(majority(volume, matrix, volume.shape, (1, 1, 1), count)).reshape(codes.shape)
