"""`skull_strip`: find the brain in a head by registering a template."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.atlas._placement import Placement, find_placements
from regista.atlas._refine import refine
from regista.atlas._template import Template, WorkingTemplate, check_volume, mni152, scaled, working
from regista.core import (
    Image,
    LabelImage,
    PlanError,
    Progress,
    ProgressCallback,
    RegistrationError,
    get_threads,
    hash_array,
    silent,
    software_versions,
)
from regista.core import threads as use_threads
from regista.registration import Result, plan_from_dict, register
from regista.transforms import Transform, resample

# shares of the template's size (123 mm for MNI152): about 2, 10, 8, 6 and 2 mm for it
_SPACING, _LATTICE, _HALO, _WIDE, _NARROW = 1 / 61.5, 1 / 12.3, 1 / 15.4, 1 / 20.5, 1 / 61.5
_PLACES, _MORE_PLACES = 3, 8
_LARGEST = 1.35
"""Times the template's volume beyond which more places are tried."""
_MIN_CORRELATION, _MIN_NMI, _SURE_NMI = 0.4, 1.07, 1.1
"""Below the first two nothing like the template was found; below the third it is told. Seen: heads of two
contrasts 0.6 … 0.8 and 1.11 … 1.21, lungs 0.5 … 0.6 and 1.03 … 1.06, noise 0.15."""
_VOLUME_CHANGE = (0.8, 1.25)
"""A deformation that changes the affine mask's volume by more has left the brain."""


@dataclass(frozen=True, eq=False)
class Stripped:
    """Outcome of `skull_strip`.

    Parameters
    ----------
    brain : Image
        The scan, 0 outside the mask; grid and voxel type unchanged.
    mask : LabelImage
        1 in the brain, on the scan's grid.
    transform : Transform
        Point map template → scan.
    record : mapping
        Parameters, measures, times, versions, warnings: plain JSON types.
    """

    brain: Image
    mask: LabelImage
    transform: Transform
    record: Mapping[str, Any] = field(default_factory=dict)


def skull_strip(
    image: Image,
    template: Template | None = None,
    *,
    refine_mm: float = 1.5,
    threads: int | None = None,
    progress: ProgressCallback = silent,
) -> Stripped:
    """Remove everything but the brain from a scan of a head.

    The template is placed by masked correlation over all positions, many tilts and turns; an affine map (by
    normalized mutual information, on the brain and a rim around it) and a smooth deformation (by local
    correlation, on the brain alone) follow; the mask is carried over, and its edge refined by intensity.

    Parameters
    ----------
    image : Image
        3-D scalar scan of any contrast in which the brain differs from its surround; neck and shoulders may
        be in it, and parts of the brain may be cut off.
    template : Template, optional
        Image and mask to look for; by default `mni152`.
    refine_mm : float
        How far intensities may move the edge, mm, 0 … 5; 0 leaves the registered edge.
    threads : int, optional
        Number of threads (default: `regista.core.get_threads`).
    progress : callable
        Gets a `Progress` after every step; may raise `Cancelled`.

    Returns
    -------
    Stripped
        Brain, mask, transform and record.

    Raises
    ------
    GeometryError, PlanError
        If the scan or the template cannot be used.
    FormatError
        If the default template is asked for and not installed.
    RegistrationError
        If nothing like the template is found.

    Examples
    --------
    >>> import numpy as np
    >>> from regista.core import Grid
    >>> at = np.indices((60, 66, 56)) - np.array([30.0, 32.0, 28.0])[:, None, None, None]
    >>> radius = np.sqrt((at**2 / np.array([1.0, 1.3, 0.9])[:, None, None, None]).sum(0))
    >>> head = np.where(radius < 18, 80 + 20 * np.cos(at[0] / 2 + 1) * np.cos(at[1] / 3) + at[2] / 2, 0.0)
    >>> brain = Image(head.astype(np.float32), Grid(head.shape, np.eye(4)), space="atlas")
    >>> head += np.where((radius > 22) & (radius < 25), 120.0, 0.0)
    >>> scan = Image(head.astype(np.float32), Grid(head.shape, np.eye(4)), space="head")
    >>> found = skull_strip(scan, Template(brain, brain), refine_mm=0)
    >>> bool(abs(found.mask.data.sum() / (radius < 18).sum() - 1) < 0.1)
    True
    """
    if not 0 <= refine_mm <= 5:
        raise PlanError(f"refine_mm is between 0 and 5 mm, got {refine_mm}")
    check_volume(image, "scan")
    with use_threads(threads):
        return _Run(image, template or mni152(), refine_mm, progress).result()


@dataclass
class _Run:
    image: Image
    template: Template
    refine_mm: float
    progress: ProgressCallback
    timings: dict[str, float] = field(default_factory=dict)
    measures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def result(self) -> Stripped:
        began = time.perf_counter()
        size = self.template.size_mm
        work = working(self.template, _SPACING * size)
        scan = scaled(self.image)
        lap = self._lap("prepare", began)
        affine = self._affine(work, scan, size)
        lap = self._lap("affine", lap)
        chosen = self._deformed(work, scan, affine)
        lap = self._lap("deformable", lap)
        distance = resample(
            work.brain.with_data(work.distance_mm),
            self.image,
            chosen.inverse,
            fill=float(work.distance_mm.max()),
        )
        mask, refined = refine(
            self.image.as_float32(),
            self._carried(chosen),
            distance.as_float32(),
            self.image.grid.spacing,
            self.refine_mm,
        )
        self.measures |= refined
        self.measures["brain_ml"] = self._volume(mask)
        self._check_border(mask)
        self._lap("refine", lap)
        self._lap("total", began)
        brain = self.image.with_data(np.where(mask, self.image.data, 0).astype(self.image.data.dtype))
        labels = LabelImage(
            mask.astype(np.uint8), self.image.grid, "scalar", self.image.space, names={1: "brain"}
        )
        return Stripped(brain, labels, chosen.transform, self._record())

    def _affine(self, work: WorkingTemplate, scan: Image, size: float) -> Result:
        weight = work.within(_HALO * size)
        places = find_placements(work.image, weight, scan, _LATTICE * size, _MORE_PLACES)
        self.measures["placement_correlation"] = [round(p.score, 4) for p in places[:_PLACES]]
        self.progress(Progress("placement", 0, 1, 1, 1, -places[0].score, 0.1))
        wide = work.within(_WIDE * size)
        best, value = self._best_affine(work, scan, wide, places)
        self.measures["affine_nmi"] = -value
        self._check_found(places[0].score, -value)
        return register(
            work.image, scan, _linear(("affine", (2, 1), (40, 15))), initial=best.transform,
            fixed_mask=work.within(_NARROW * size), progress=self._part(0.4, 0.1),
        )  # fmt: skip

    def _best_affine(
        self, work: WorkingTemplate, scan: Image, wide: Image, places: list[Placement]
    ) -> tuple[Result, float]:
        """Refine places in turn; more of them while what was found is the whole head, not the brain in it."""
        plan = _linear(("similarity", (4,), (40,)), ("affine", (4,), (60,)))
        tries: list[tuple[bool, float, int, Result, float]] = []
        for number, place in enumerate(places):
            if number >= _PLACES and tries and not min(tries)[0]:
                break
            try:
                result = register(
                    work.image, scan, plan, initial=place.transform, fixed_mask=wide,
                    progress=self._part(0.1 + 0.3 * number / len(places), 0.3 / len(places)),
                )  # fmt: skip
            except RegistrationError:  # too little of the template lies in the scan there
                continue
            value = _last_value(result)
            growth = abs(float(np.linalg.det(result.record.measures["linear_fixed2moving"])))
            # a turn away from the header must be worth it
            tries.append((growth > _LARGEST, value + (0.02 if place.turned else 0.0), number, result, value))
        if not tries:
            raise RegistrationError(
                f"nothing like the template {self.template.name!r} was found in the scan: wherever it was tried, it lay "
                "mostly outside; check that the scan shows a head"
            )
        large, _, _, best, value = min(tries)
        if large:
            self.warnings.append(
                f"what was found is more than {_LARGEST:g} times as large as the template, perhaps the whole head: "
                "look at the mask"
            )
        return best, value

    def _check_found(self, correlation: float, information: float) -> None:
        if correlation < _MIN_CORRELATION or information < _MIN_NMI:
            raise RegistrationError(
                f"nothing like the template {self.template.name!r} was found in the scan (correlation "
                f"{correlation:.2f}, at least {_MIN_CORRELATION} expected; normalized mutual information "
                f"{information:.3f}, at least {_MIN_NMI}); is it a head, and its voxel size right? Give a template "
                "of the same kind with --template and --template-mask"
            )
        if information < _SURE_NMI:
            self.warnings.append(
                f"the scan resembles the template weakly (normalized mutual information {information:.3f}, usually "
                f"above {_SURE_NMI}): look at the mask"
            )

    def _deformed(self, work: WorkingTemplate, scan: Image, affine: Result) -> Result:
        deformed = register(
            work.image, scan, _DEFORMABLE, initial=affine.transform,
            fixed_mask=work.within(0.0), progress=self._part(0.5, 0.45),
        )  # fmt: skip
        before, after = (self._volume(self._carried(r)) for r in (affine, deformed))
        self.measures |= {"affine_ml": before, "registered_ml": after}
        self.measures["folded_percent"] = deformed.record.measures.get("folded_percent", 0.0)
        low, high = _VOLUME_CHANGE
        better = all(level.values[-1] <= level.values[0] for level in deformed.record.history)
        if deformed.record.status.ok and better and low <= after / max(before, 1e-9) <= high:
            return deformed
        self.warnings.append(
            f"the deformation was left out: it ended {deformed.record.status}, its metric "
            f"{'better' if better else 'worse'} than before, and took the brain from {before:.4g} to {after:.4g} ml; "
            "the mask is the affine one: look at it"
        )
        return affine

    def _carried(self, result: Result) -> NDArray[np.bool_]:
        mask = self.template.mask
        whole = Image((mask.as_float32() > 0).astype(np.float32), mask.grid, space=self.template.image.space)
        return np.asarray(resample(whole, self.image, result.inverse).as_float32() > 0.5)

    def _volume(self, mask: NDArray[np.bool_]) -> float:
        voxel = float(abs(np.linalg.det(self.image.grid.grid2world[:3, :3])))
        return float(np.count_nonzero(mask)) * voxel / 1000

    def _check_border(self, mask: NDArray[np.bool_]) -> None:
        if not mask.any():
            raise RegistrationError("the brain found lies outside the scan: is the scan's geometry right?")
        faces = [np.take(mask, end, axis=axis).sum() for axis in range(3) for end in (0, -1)]
        cut = float(sum(faces)) / float(np.count_nonzero(mask))
        if cut > 0.01:
            self.warnings.append("the brain reaches the border of the scan: part of it may be missing there")

    def _part(self, start: float, span: float) -> Callable[[Progress], None]:
        def report(step: Progress) -> None:
            self.progress(replace(step, fraction=min(1.0, start + span * step.fraction)))

        return report

    def _lap(self, name: str, began: float) -> float:
        now = time.perf_counter()
        self.timings[name] = now - began
        return now

    def _record(self) -> dict[str, Any]:
        return {
            "program": "skull-strip",
            "parameters": {"refine_mm": self.refine_mm, "template": self.template.name},
            "measures": self.measures,
            "warnings": self.warnings,
            "timings": self.timings,
            "inputs": {
                role: {"space": image.space, "grid": image.grid.describe(), "sha256": hash_array(image.data)}
                for role, image in (
                    ("image", self.image),
                    ("template", self.template.image),
                    ("template_mask", self.template.mask),
                )
            },
            "threads": get_threads(),
            "versions": software_versions(),
        }


def _linear(*stages: tuple[str, tuple[int, ...], tuple[int, ...]]) -> Any:
    return plan_from_dict(
        {
            "fixed_surround": "keep",
            "stages": [
                {"model": model, "similarity": "nmi", "shrink": list(shrink), "steps": list(steps)}
                for model, shrink, steps in stages
            ],
        }
    )


# no level coarser than 4 mm, and a stiff field: a stripped template must not be drawn to the scalp
_DEFORMABLE = plan_from_dict(
    {
        "fixed_surround": "keep",  # the brain's edge, which the mask ends at, is what is looked for
        "stages": [
            {
                "model": "diffeomorphic",
                "similarity": {"lncc": {"radius": 2}},
                "shrink": [2, 1],
                "steps": [60, 25],
                "update_sigma_vox": [6.0, 5.0],
                "field_sigma_vox": [0.5],
                "step_vox": 0.5,
            }
        ],
    }
)


def _last_value(result: Result) -> float:
    return float(result.record.history[-1].values[-1])
