"""Overlap and surface distance of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from regista.core import GeometryError, Image, LabelImage, PlanError
from regista.evaluation._surfaces import Sites, Surface, surface_distances
from regista.kernels.cpu.labels import overlap_counts

LABEL_MEASURES = ("dice", "jaccard", "volume_similarity", "assd_mm", "hd95_mm", "hd_mm")
_NAN = float("nan")
_TABLE = 1 << 20
"""Values that may lie between the smallest and the largest label for a table of all of them to be worth its memory."""


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """How well one label, or group of labels, of the warped map agrees with the fixed map.

    Parameters
    ----------
    label : int or None
        The label; None for a group.
    name : str
        Its name (the number where it has none).
    fixed_voxels, warped_voxels : int
        Voxels in either map.
    dice, jaccard : float
        ``2|A∩B| / (|A| + |B|)`` and ``|A∩B| / |A∪B|``.
    volume_similarity : float
        ``1 − ||A| − |B|| / (|A| + |B|)``.
    assd_mm, hd95_mm, hd_mm : float
        Average symmetric surface distance, 95 % and maximum Hausdorff distance, mm; NaN where one of the maps
        lacks the label, or where surfaces were not asked for.
    """

    label: int | None
    name: str
    fixed_voxels: int
    warped_voxels: int
    dice: float
    jaccard: float
    volume_similarity: float
    assd_mm: float = _NAN
    hd95_mm: float = _NAN
    hd_mm: float = _NAN


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """Scores of all labels and groups of a pair of maps.

    Parameters
    ----------
    labels : tuple of LabelScore
        One for each label, in rising order.
    groups : tuple of LabelScore
        One for each group, in the order they were given.
    """

    labels: tuple[LabelScore, ...]
    groups: tuple[LabelScore, ...] = field(default=())

    def mean(self) -> dict[str, float]:
        """Return the mean of each measure over the labels where it is defined."""
        return _means(self.labels)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per label and group, for tables."""
        return [
            {"kind": kind, **asdict(score)}
            for kind, scores in (("labels", self.labels), ("groups", self.groups))
            for score in scores
        ]


def check_grid(labels: LabelImage, image: Image, role: str) -> None:
    """Refuse labels that do not lie on their image's grid: one of the two is then not where it seems.

    Raises
    ------
    GeometryError
        If the grids differ.
    """
    if not labels.grid.same_as(image.grid):
        raise GeometryError(
            f"the {role} labels lie on another grid ({labels.grid.describe()}) than the {role} image "
            f"({image.grid.describe()}); give labels drawn on this image, or resample them onto it"
        )


def label_measures(
    fixed: LabelImage,
    warped: LabelImage,
    *,
    labels: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    surface: Surface | None = "voxels",
) -> LabelAgreement:
    """Compare a warped label map with the fixed one, label by label.

    Parameters
    ----------
    fixed, warped : LabelImage
        Maps on the same grid.
    labels : sequence of int, optional
        Which labels to score (default: all that either map has, but the background 0).
    names : mapping of int to str, optional
        Label names (default: those the fixed map carries).
    groups : mapping of str to sequence of int, optional
        Labels to be taken as one, under a name. Only these count for the group, whatever `labels` says.
    surface : {'voxels', 'surfels'} or None
        'voxels' measures from the centres of border voxels, each counting alike (as MONAI and MedPy do);
        'surfels' from marching-cubes surface elements weighted by their area (as DeepMind's surface-distance
        does, and so Learn2Reg). None leaves surfaces out.

    Returns
    -------
    LabelAgreement
        A label that both maps lack has NaN everywhere; one that a single map has, Dice 0.

    Raises
    ------
    GeometryError
        If the grids differ, or the maps share no label.
    PlanError
        If `surface` is unknown, or a group is empty.

    Notes
    -----
    Conventions and their kin elsewhere: see *Measures* in the documentation. Taha and Hanbury, Metrics for
    evaluating 3D medical image segmentation, BMC Med Imaging 2015.

    Examples
    --------
    >>> from regista.core import Grid
    >>> grid = Grid((1, 1, 4), np.diag([1.0, 1.0, 2.0, 1.0]))
    >>> a, b = (LabelImage(np.array([[row]]), grid) for row in ([1, 1, 2, 0], [1, 1, 2, 2]))
    >>> [(s.label, round(s.dice, 3), s.hd_mm) for s in label_measures(a, b).labels]
    [(1, 1.0, 0.0), (2, 0.667, 2.0)]
    """
    if surface is not None and surface not in get_args(Surface):
        raise PlanError(f"surface is 'voxels', 'surfels' or None, got {surface!r}")
    check_same_grid(fixed, warped)
    known = {**fixed.names, **(names or {})}
    values, codes = encode(*(image.data.reshape(image.grid.as_3d().shape) for image in (fixed, warped)))
    counts = overlap_counts(codes[0], codes[1], len(values))
    wanted = values[1:].tolist() if labels is None else [int(label) for label in labels]
    if labels is None:
        _check_common(values, counts)
    code_of = {int(value): n for n, value in enumerate(values)}
    scores = _score(codes, counts, [code_of.get(label, -1) for label in wanted], fixed, surface)
    named = [
        LabelScore(label=label, name=known.get(label, str(label)), **score)
        for label, score in zip(wanted, scores, strict=True)
    ]
    return LabelAgreement(
        labels=tuple(named), groups=tuple(_score_groups(values, codes, groups or {}, fixed, surface))
    )


def check_same_grid(fixed: LabelImage, warped: LabelImage) -> None:
    """Refuse maps that do not lie voxel on voxel."""
    if not fixed.grid.same_as(warped.grid):
        raise GeometryError(
            f"the label maps lie on different grids: fixed {fixed.grid.describe()}; warped "
            f"{warped.grid.describe()}. Bring the moving labels onto the fixed grid first (regista apply --labels), "
            "or give them with their transforms (--moving-labels and --transform)"
        )


def encode(*data: NDArray[Any]) -> tuple[NDArray[np.int64], list[NDArray[np.int32]]]:
    """Return the values that occur in arrays, 0 always and first, and the arrays as codes: places among the values."""
    low, high = min(0, *(int(d.min()) for d in data)), max(0, *(int(d.max()) for d in data))
    if high - low < _TABLE:  # so that int32 holds every value, whatever the type of the arrays
        shifted = [d.astype(np.int32) - low for d in data]
        present = np.zeros(high - low + 1, bool)
        for part in shifted:
            present |= np.bincount(part.ravel(), minlength=len(present)) > 0
        found = np.flatnonzero(present) + low
        values = np.concatenate([[0], found[found != 0]]).astype(np.int64)
        table = np.zeros(high - low + 1, np.int32)
        table[values - low] = np.arange(len(values))
        return values, [table[part] for part in shifted]
    # in int64 throughout: NumPy joins uint64 and int64 to float64, which rounds
    wide = [d.astype(np.int64) for d in data]
    found = np.unique(np.concatenate([np.unique(d) for d in wide]))
    values = np.concatenate([[0], found[found != 0]])
    order = np.argsort(values)
    return values, [order[np.searchsorted(values[order], d)].astype(np.int32) for d in wide]


def _check_common(values: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    sets = [set(values[1:][row[1:] > 0].tolist()) for row in counts[:2]]
    for name, found in zip(("fixed", "warped"), sets, strict=True):
        if not found:
            raise GeometryError(
                f"the {name} label map is empty: every voxel is background (0); check that it is the right file, "
                "and that the transforms do not lead out of the image"
            )
    if not sets[0] & sets[1]:
        texts = [", ".join(map(str, sorted(s)[:6])) + (", …" if len(s) > 6 else "") for s in sets]
        raise GeometryError(
            f"the label maps share no label: the fixed one has {texts[0]}, the warped one {texts[1]}; do they "
            "come from the same protocol?"
        )


def _score(
    codes: list[NDArray[Any]],
    counts: NDArray[np.int64],
    wanted: list[int],
    fixed: LabelImage,
    surface: Surface | None,
) -> list[dict[str, Any]]:
    """Return the measures of each wanted code; −1 stands for a label that neither map has."""
    sites = None if surface is None else [Sites.of(c, counts.shape[1], fixed.grid, surface) for c in codes]
    scores = []
    for code in wanted:
        a, b, both = (int(n) for n in counts[:, code]) if code >= 0 else (0, 0, 0)
        score: dict[str, Any] = {"fixed_voxels": a, "warped_voxels": b, **overlaps(a, b, both)}
        if sites is not None and a and b:
            score |= surface_distances(sites[0], sites[1], code, fixed.grid)
        scores.append(score)
    return scores


def overlaps(fixed: int, warped: int, both: int) -> dict[str, float]:
    """Return the overlap measures from voxel counts; NaN where both sets are empty."""
    total = fixed + warped
    if total == 0:
        return dict.fromkeys(("dice", "jaccard", "volume_similarity"), _NAN)
    return {
        "dice": 2 * both / total,
        "jaccard": both / (total - both),
        "volume_similarity": 1 - abs(fixed - warped) / total,
    }


def _score_groups(
    values: NDArray[np.int64],
    codes: list[NDArray[np.int32]],
    groups: Mapping[str, Sequence[int]],
    fixed: LabelImage,
    surface: Surface | None,
) -> list[LabelScore]:
    if not groups:
        return []
    scores = []
    here, there, number = _meetings(codes, len(values))
    boxes = [] if surface is None else _boxes(codes, len(values))
    for name, members in groups.items():
        if not len(members):
            raise PlanError(f"the group {name!r} has no labels")
        inside = np.isin(values, [int(m) for m in members]).astype(np.int32)
        a, b = inside[here], inside[there]
        counts = np.array([[0, part @ number] for part in (a, b, a * b)])
        box = _around([boxes[code] for code in np.flatnonzero(inside)]) if boxes else ()
        parts = [inside[c[box]] for c in codes] if boxes else codes
        (score,) = _score(parts, counts, [1], fixed, surface)
        scores.append(LabelScore(label=None, name=name, **score))
    return scores


def _meetings(codes: list[NDArray[np.int32]], count: int) -> tuple[NDArray[np.int64], ...]:
    """Return the pairs of codes that meet in a voxel, and in how many voxels each pair does."""
    both = codes[0].ravel().astype(np.int64) * count + codes[1].ravel()
    if count * count <= _TABLE:
        number = np.bincount(both, minlength=count * count)
        found = np.flatnonzero(number)
        number = number[found]
    else:
        found, number = np.unique(both, return_counts=True)
    return found // count, found % count, number


def _boxes(codes: list[NDArray[np.int32]], count: int) -> list[tuple[slice, ...]]:
    """Return the box that holds each code in all maps, a voxel wider: an axis of a single voxel has no surface."""
    shape = codes[0].shape
    whole = tuple(slice(0, size) for size in shape)
    boxes = [whole]  # of the background
    for found in zip(*(find_objects(c, count - 1) for c in codes), strict=True):
        box = _around([one for one in found if one is not None])
        boxes.append(
            tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, shape, strict=True))
        )
    return boxes


def _around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Return the box around boxes."""
    if not boxes:
        return (slice(0, 1),) * 3
    return tuple(
        slice(min(s.start for s in spans), max(s.stop for s in spans)) for spans in zip(*boxes, strict=True)
    )


def _means(scores: Sequence[LabelScore]) -> dict[str, float]:
    means = {}
    for measure in LABEL_MEASURES:
        values = np.array([getattr(score, measure) for score in scores], np.float64)
        values = values[np.isfinite(values)]
        means[measure] = float(values.mean()) if values.size else _NAN
    return means
