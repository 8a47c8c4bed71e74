"""Nyúl's intensity standardization: learn a common scale from several images, bring each onto it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Image, PlanError
from regista.preprocessing._step import (
    Foreground,
    IntensityStep,
    Voxels,
    check_intensities,
    foreground_values,
    mask_array,
)

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)


@dataclass(frozen=True, kw_only=True)
class Nyul(IntensityStep):
    """Bend intensities piecewise linearly so that percentiles of the foreground meet standard values.

    Parameters
    ----------
    percentiles : tuple of float
        Landmarks of the histogram, 0 … 100, increasing.
    standard : tuple of float
        The value each landmark takes, increasing; `train` finds them.
    model : file name, optional
        JSON written by `save`, instead of the two.

    Notes
    -----
    Beyond the outer landmarks the nearest piece goes on straight. L. G. Nyúl and J. K. Udupa, "On
    standardizing the MR image intensity scale", Magnetic Resonance in Medicine 42(6), 1999.

    Examples
    --------
    >>> from regista.core import Grid
    >>> rng = np.random.default_rng(0)
    >>> one = Image(rng.gamma(9, 10, (9, 9, 9)), Grid((9, 9, 9), np.eye(4)))
    >>> two = one.with_data(3 * one.data + 20)
    >>> nyul = Nyul.train([one, two])
    >>> bool(np.allclose(nyul(one).data, nyul(two).data, atol=1e-3))
    True
    """

    name: ClassVar[str] = "nyul"
    percentiles: tuple[float, ...] = PERCENTILES
    standard: tuple[float, ...] = ()
    model: str | None = None

    def __post_init__(self) -> None:
        if self.model is not None:
            return
        if len(self.standard) != len(self.percentiles) or len(self.standard) < 2:
            raise PlanError(
                f"nyul needs a standard value for each of its percentiles ({len(self.percentiles)}), got "
                f"{len(self.standard)}: train it with regista train-nyul (in Python Nyul.train) and give the model"
            )
        for name, values in (("percentiles", self.percentiles), ("standard", self.standard)):
            if not np.all(np.isfinite(values)) or not np.all(np.diff(values) > 0):
                raise PlanError(f"nyul.{name} are increasing numbers, got {list(values)}")
        if not 0 <= self.percentiles[0] < self.percentiles[-1] <= 100:
            raise PlanError(f"nyul.percentiles lie within 0 … 100, got {list(self.percentiles)}")

    @classmethod
    def train(
        cls,
        images: Sequence[Image],
        masks: Sequence[Image | None] | None = None,
        *,
        percentiles: Sequence[float] = PERCENTILES,
        scale: tuple[float, float] = (0.0, 100.0),
    ) -> Nyul:
        """Learn the standard values: the mean of the images' landmarks, each mapped to `scale` first.

        Parameters
        ----------
        images : sequence of Image
            Scalar images of one contrast.
        masks : sequence of Image or None, optional
            Foreground of each.
        percentiles : sequence of float
            Landmarks.
        scale : tuple of 2 floats
            Standard values of the first and last landmark.
        """
        if not images:
            raise PlanError("nyul needs at least one image to train on")
        if masks is not None and len(masks) != len(images):
            raise PlanError(
                f"nyul got {len(images)} images and {len(masks)} masks: give one for each, or none"
            )
        rows = []
        for image, mask in zip(images, masks or [None] * len(images), strict=True):
            check_intensities(image, "nyul")
            if image.kind != "scalar":
                raise GeometryError("nyul trains on scalar images; take a frame of each series")
            marks = _landmarks(image, mask_array(image, mask), percentiles)
            rows.append(scale[0] + (marks - marks[0]) * ((scale[1] - scale[0]) / (marks[-1] - marks[0])))
        standard = increasing(np.mean(rows, axis=0))
        return cls(percentiles=tuple(map(float, percentiles)), standard=tuple(map(float, standard)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the landmarks as JSON; the file is replaced as a whole or not at all."""
        path = Path(path)
        text = json.dumps({"percentiles": list(self.percentiles), "standard": list(self.standard)}, indent=2)
        temporary: str | None = None
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".json", dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text + "\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            raise FormatError(f"{path} cannot be written: {error.strerror or error}") from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Nyul:
        """Read landmarks that `save` wrote."""
        try:
            tree = json.loads(Path(path).read_text(encoding="utf-8"))
            marks, standard = (tuple(float(v) for v in tree[key]) for key in ("percentiles", "standard"))
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path} is not a Nyúl model (JSON with 'percentiles' and 'standard'): {error!r}"
            ) from None
        return cls(percentiles=marks, standard=standard)

    def resolved(self, read: Callable[[str], Image]) -> Nyul:
        """Return the step with its model read."""
        return self if self.model is None else Nyul.load(self.model)

    def change(self, frame: Image, mask: Foreground | None) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the bent voxels and the landmarks found."""
        if self.model is not None:
            return Nyul.load(self.model).change(frame, mask)
        marks = _landmarks(frame, mask, self.percentiles)
        goal = np.asarray(self.standard)
        return bend(frame.data, marks, goal), {"landmarks": [float(m) for m in marks]}


def bend(data: NDArray[Any], marks: NDArray[Any], goal: NDArray[Any]) -> Voxels:
    """Return values carried from increasing marks to their goals, straight between them and beyond the outermost."""
    data = data.astype(np.float64)
    out = np.interp(data, marks, goal)
    first, last = ((goal[n + 1] - goal[n]) / (marks[n + 1] - marks[n]) for n in (0, len(marks) - 2))
    out = np.where(data < marks[0], goal[0] + (data - marks[0]) * first, out)
    out = np.where(data > marks[-1], goal[-1] + (data - marks[-1]) * last, out)
    return out.astype(np.float32)


def _landmarks(image: Image, mask: Foreground | None, percentiles: Sequence[float]) -> NDArray[np.float64]:
    values = foreground_values(image, mask, "nyul")
    return increasing(np.percentile(values.astype(np.float64), percentiles))


def increasing(marks: NDArray[Any]) -> NDArray[np.float64]:
    """Part landmarks that coincide, as those of coarse intensities do, by a hair."""
    hair = 1e-6 * max(float(marks[-1] - marks[0]), 1e-6)
    out = np.array(marks, dtype=np.float64)
    for n in range(1, len(out)):
        out[n] = max(out[n], out[n - 1] + hair)
    return out
