"""What ``regista evaluate`` reads, measures and prints."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regista.cli._apply import check_overlap
from regista.cli._chains import check_direction, read_chain
from regista.core import FormatError, Image, LabelImage, PlanError, PointSet
from regista.evaluation import (
    LabelAgreement,
    check_grid,
    image_measures,
    label_measures,
    landmark_error,
    match_landmarks,
    parse_group,
    parse_labels,
    read_label_groups,
    read_label_names,
    tell_unmatched,
    transform_measures,
)
from regista.io import read, read_labels, read_points, write_text
from regista.transforms import (
    BSplineField,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
    resample,
    resample_labels,
)

_WORST = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks to be measured; see the options of ``regista evaluate``."""

    fixed_labels: Path | None
    warped_labels: Path | None
    moving_labels: Path | None
    names: Path | None
    groups: Path | None
    group: tuple[str, ...]
    labels: str | None
    surface: str
    fixed_points: Path | None
    moving_points: Path | None
    convention: str | None
    unit: str
    transform: tuple[Path, ...]
    inverse: tuple[Path, ...]
    mask: Path | None
    fixed: Path | None
    warped: Path | None
    moving: Path | None
    before: bool
    format: str | None
    ignore_spaces: bool

    @property
    def files(self) -> list[Path | None]:
        """All files that will be read."""
        labels = [self.fixed_labels, self.warped_labels, self.moving_labels, self.names, self.groups]
        images = [self.mask, self.fixed, self.warped, self.moving]
        return [*labels, self.fixed_points, self.moving_points, *self.transform, *self.inverse, *images]

    def check(self) -> None:
        """Refuse combinations that leave nothing, or not enough, to measure."""
        one_of = "give one of them: the labels already on the fixed grid, or the moving ones with --transform"
        if self.warped_labels and self.moving_labels:
            raise PlanError(f"--warped-labels and --moving-labels: {one_of}")
        if bool(self.fixed_labels) != bool(self.warped_labels or self.moving_labels):
            raise PlanError(
                "--fixed-labels goes with --warped-labels, or with --moving-labels and --transform"
            )
        if bool(self.fixed_points) != bool(self.moving_points):
            raise PlanError("--fixed-points and --moving-points go together")
        if self.warped and not self.fixed:
            raise PlanError("--warped goes with --fixed, the image it is compared with")
        if self.inverse and not self.transform:
            raise PlanError("--inverse goes with --transform, the map it should invert")
        if self.surface not in ("voxels", "surfels", "none"):
            raise PlanError(f"--surface is voxels, surfels or none, got {self.surface!r}")
        if self.unit not in ("mm", "px"):
            raise PlanError(f"--unit is mm or px, got {self.unit!r}")
        images = self.fixed and (self.warped or self.moving)
        if not (self.fixed_labels or self.fixed_points or self.transform or images):
            raise PlanError(
                "there is nothing to measure: give labels (--fixed-labels with --warped-labels, or --moving-labels "
                "and --transform), landmarks (--fixed-points, --moving-points), transforms (--transform) or images "
                "(--fixed with --warped or --moving)"
            )


@dataclass(kw_only=True)
class Findings:
    """Rows for the CSV, a tree for JSON, and agreements for the screen."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tree: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, LabelAgreement] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, kind: str, stage: str, row: dict[str, Any]) -> None:
        """Write down one row of measures."""
        self.rows.append({"kind": kind, "stage": stage, **row})
        self.tree.setdefault(kind, {})[stage] = row


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    fixed: Image | None
    moving: Image | None
    fixed_labels: LabelImage | None
    moving_labels: LabelImage | None
    chain: Transform | None

    def stages(self, request: Request) -> list[tuple[str, Transform | None]]:
        """Return what to carry moving things through, by name."""
        if self.chain is None:
            return [("before", None)]
        return [*([("before", None)] if request.before else []), ("after", self.chain)]


def measure(request: Request) -> Findings:
    """Read what a request names and measure it."""
    request.check()
    inputs, found = _read_inputs(request), Findings()
    if inputs.fixed_labels is not None:
        _measure_labels(request, inputs, found)
    if request.fixed_points and request.moving_points:
        _measure_points(request, inputs, found)
    if inputs.chain is not None:
        _measure_transform(request, inputs, found)
    if inputs.fixed is not None and (request.warped or inputs.moving is not None):
        _measure_images(request, inputs, found)
    return found


def _read_inputs(request: Request) -> _Inputs:
    names = read_label_names(request.names) if request.names else None
    fixed = read(request.fixed) if request.fixed else None
    moving = read(request.moving) if request.moving else None
    fixed_labels = read_labels(request.fixed_labels, names) if request.fixed_labels else None
    moving_labels = read_labels(request.moving_labels) if request.moving_labels else None
    for role, image, labels in (("fixed", fixed, fixed_labels), ("moving", moving, moving_labels)):
        if image is not None and labels is not None:
            check_grid(labels, image, role)
    chain = None
    if request.transform:
        here, there = fixed or fixed_labels, moving or moving_labels
        chain = read_chain(
            list(request.transform), request.format, here, there, ignore_spaces=request.ignore_spaces
        )
        if here is not None and there is not None:
            check_overlap(chain, here.grid, there)
            files = (request.fixed or request.fixed_labels, request.moving or request.moving_labels)
            check_direction(chain, here.space, there.space, files=files)
    return _Inputs(
        fixed=fixed, moving=moving, fixed_labels=fixed_labels, moving_labels=moving_labels, chain=chain
    )


def _measure_labels(request: Request, inputs: _Inputs, found: Findings) -> None:
    target, moving = inputs.fixed_labels, inputs.moving_labels
    assert target is not None
    maps: dict[str, LabelImage] = {}
    if moving is None:
        assert request.warped_labels is not None
        maps["after"] = read_labels(request.warped_labels)
    else:
        for stage, chain in inputs.stages(request):
            maps[stage] = resample_labels(moving, target.grid, chain)
    groups = dict(read_label_groups(request.groups)) if request.groups else {}
    groups |= dict(parse_group(text) for text in request.group)
    wanted = parse_labels(request.labels) if request.labels else None
    last = "after" if "after" in maps else "before"
    for stage in sorted(maps, key=lambda name: name != last):
        found.labels[stage] = label_measures(
            target,
            maps[stage],
            labels=wanted,
            groups=groups,
            surface=None if request.surface == "none" else request.surface,  # type: ignore[arg-type]
        )
        if stage == last:
            _check_wanted(found.labels[stage], target, maps[stage], request.labels)
            _warn_of_absent(found, groups, target, maps[stage])
        # before registration the maps may not even meet: score the same labels, at Dice 0
        wanted = [score.label for score in found.labels[stage].labels if score.label is not None]
    _warn_of_one_sided(found, found.labels[last])
    for stage in maps:
        agreement = found.labels[stage]
        found.rows += [{"kind": row.pop("kind"), "stage": stage, **row} for row in agreement.rows()]
        lists: dict[str, list[dict[str, Any]]] = {"labels": [], "groups": []}
        for row in agreement.rows():
            lists[row.pop("kind")].append(row)
        found.tree.setdefault("labels", {})[stage] = {"mean": agreement.mean(), **lists}


def _check_wanted(
    agreement: LabelAgreement, fixed: LabelImage, warped: LabelImage, asked: str | None
) -> None:
    """Refuse labels of which neither map has any."""
    if asked is None or any(score.fixed_voxels or score.warped_voxels for score in agreement.labels):
        return
    there = [f"the {side} one has {_some(m.labels)}" for side, m in (("fixed", fixed), ("warped", warped))]
    raise PlanError(f"--labels {asked}: neither label map has any of these; {', '.join(there)}")


def _warn_of_absent(
    found: Findings, groups: Mapping[str, Sequence[int]], fixed: LabelImage, warped: LabelImage
) -> None:
    """Refuse groups of which neither map has a label, and tell labels of the others that neither has."""
    there = set(fixed.labels) | set(warped.labels)
    for name, members in groups.items():
        absent = [label for label in members if label not in there]
        if members and len(absent) == len(members):
            raise PlanError(
                f"the group {name}: neither label map has any of {_some(absent)}; there are {_some(sorted(there))}"
            )
        if absent:
            found.warnings.append(f"the group {name}: neither map has {_some(absent)}")


def _some(labels: Sequence[Any]) -> str:
    """Return the first labels of a list, and how many more there are."""
    more = "" if len(labels) <= _WORST else f" and {len(labels) - _WORST} more"
    return (", ".join(map(str, labels[:_WORST])) or "none") + more


def _warn_of_one_sided(found: Findings, agreement: LabelAgreement) -> None:
    absent = [s.name for s in agreement.labels if not (s.fixed_voxels or s.warped_voxels)]
    if absent:
        found.warnings.append(f"neither map has {_some(absent)}: undefined, left out of the mean")
    common = sum(bool(s.fixed_voxels and s.warped_voxels) for s in agreement.labels)
    if common < 0.2 * (len(agreement.labels) - len(absent)):
        found.warnings.append(
            f"the maps have {common} of {len(agreement.labels) - len(absent)} labels in common: is one of them an "
            "intensity image, or of another protocol?"
        )
    for side, other in (("fixed", "warped"), ("warped", "fixed")):
        alone = [
            score.name
            for score in agreement.labels
            if getattr(score, f"{side}_voxels") and not getattr(score, f"{other}_voxels")
        ]
        if alone:
            found.warnings.append(
                f"only the {side} map has {_some(alone)}: Dice 0 counts in the mean, and there is "
                "no surface distance"
            )


def _measure_points(request: Request, inputs: _Inputs, found: Findings) -> None:
    assert request.fixed_points is not None
    assert request.moving_points is not None
    here, there = inputs.fixed or inputs.fixed_labels, inputs.moving or inputs.moving_labels
    ndim = inputs.chain.ndim if inputs.chain is not None else None
    one = _points(request.fixed_points, request.convention, here, ndim)
    other = _points(request.moving_points, request.convention, there, ndim)
    grid = None if there is None else there.grid
    if inputs.chain is not None:
        check_direction(inputs.chain, one.space, other.space)
    numbers = match_landmarks(one, other)
    if text := tell_unmatched(one, other, len(numbers[0])):
        found.warnings.append(text)
    one, other = (
        PointSet(points.points_mm[chosen], space=points.space)
        for points, chosen in zip((one, other), numbers, strict=True)
    )
    for stage, chain in inputs.stages(request):
        errors = landmark_error(one, other, chain, grid=grid, unit=request.unit)  # type: ignore[arg-type]
        found.add("landmarks", stage, errors.row())


def _points(path: Path, convention: str | None, image: Image | None, ndim: int | None) -> PointSet:
    grid = None if image is None else image.grid
    return read_points(path, convention=convention, grid=grid, ndim=ndim)  # type: ignore[arg-type]


def _measure_transform(request: Request, inputs: _Inputs, found: Findings) -> None:
    assert inputs.chain is not None
    here, there = inputs.fixed or inputs.fixed_labels, inputs.moving or inputs.moving_labels
    first = Composite((inputs.chain,)).flatten().transforms[0]
    if here is not None:
        grid = here.grid
    elif isinstance(first, DisplacementField | VelocityField):
        grid = first.grid
    elif isinstance(first, BSplineField):
        grid = first.domain()
    else:  # a field behind another map does not lie in the fixed image's space
        text = (
            "the (first) transform has no grid in the fixed image's space: name the fixed image with --fixed"
        )
        if not found.rows:
            raise FormatError(text)
        found.warnings.append(f"the transform itself was not measured: {text}")
        return
    inverse = None
    if request.inverse:
        inverse = read_chain(
            list(request.inverse), request.format, there, here, ignore_spaces=request.ignore_spaces
        )
    mask = _mask(request)
    quality = transform_measures(
        inputs.chain,
        grid,
        mask=mask,
        inverse=inverse,
        moving_grid=None if there is None else there.grid,
    )
    found.add("transform", "after", quality.row())
    if quality.inverse_rim_percent > 0 and quality.inverse_max_mm > quality.inverse_inner_max_mm:
        found.warnings.append(
            f"the largest inverse-consistency error, {quality.inverse_max_mm:.3g} mm, lies at the faces of the grid: the "
            f"way back of {quality.inverse_rim_percent:.2g} % of the voxels leaves the lattice of the inverse, beyond which "
            f"a field moves nothing; elsewhere it is at most {quality.inverse_inner_max_mm:.3g} mm"
        )


def _mask(request: Request) -> Image | None:
    return read_labels(request.mask) if request.mask else None


def _measure_images(request: Request, inputs: _Inputs, found: Findings) -> None:
    assert inputs.fixed is not None
    mask, fixed = _mask(request), inputs.fixed
    compared: dict[str, Image] = {}
    if inputs.moving is not None:
        for stage, chain in inputs.stages(request):
            if not (request.warped and stage == "after"):
                compared[stage] = resample(inputs.moving, fixed.grid, chain, dtype=np.float32)
    if request.warped:
        compared["after"] = read(request.warped)
    for stage, warped in compared.items():
        measures = image_measures(fixed, warped, mask=mask)
        found.add("images", stage, measures.row())
        if measures.left_out_voxels:
            found.warnings.append(
                f"images, {stage} registration: {measures.left_out_voxels} voxels are NaN or infinite in one of the "
                "images and were left out of the comparison"
            )


def split_pair(text: str, option: str) -> tuple[str, str]:
    """Return the two sides of ``NAME=VALUE``."""
    name, sign, value = text.partition("=")
    if not (sign and name.strip()):
        raise PlanError(f"{option} is written NAME=VALUE, got {text!r}")
    return name.strip(), value.strip()


def check_tags(tags: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tags that a measure would overwrite."""
    taken = sorted(set(tags) & {name for row in rows for name in row})
    if taken:
        raise PlanError(
            f"--tag {taken[0]}=… would be overwritten: {taken[0]} is a column of the measures; choose another"
        )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the union of their columns; what is missing or undefined stays empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(n for row in rows for n in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({n: "" if undefined(v) else v for n, v in row.items()})
    write_text(path, out.getvalue())


def undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def for_json(tree: Any) -> Any:
    """Return a tree fit for JSON, which knows neither NaN, written null, nor infinity, written "Infinity"."""
    if isinstance(tree, Mapping):
        return {str(name): for_json(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [for_json(value) for value in tree]
    if not isinstance(tree, float) or math.isfinite(tree):
        return tree
    if math.isnan(tree):
        return None
    return "Infinity" if tree > 0 else "-Infinity"


def means_only(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure."""
    return {name: float(score["mean"]) for name, score in scores.items()}


def spread(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation (n) of each column."""
    found = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        found[name] = {"mean": float(values.mean()), "std": float(values.std())}
    return found
