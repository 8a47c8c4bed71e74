"""Learn2Reg: its tasks, the names of its fields, and its four measures by its own rules."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from regista.core import FormatError, GeometryError, Grid
from regista.evaluation._labels import encode, overlaps
from regista.evaluation._names import read_text
from regista.evaluation._surfaces import Sites, surface_distances
from regista.kernels.cpu.fields import jacobian_determinant
from regista.kernels.cpu.labels import overlap_counts

_SPLITS = ("registration_val", "registration_test", "training_paired_images")
_KNOWN = ("sdlogj", "dice", "hd95", "tre")


@dataclass(frozen=True, kw_only=True)
class Learn2RegPair:
    """A pair of a task.

    Parameters
    ----------
    fixed, moving : Path
        The images, ``…/TASK_XXXX_MMMM.nii.gz``: subject and modality.
    """

    fixed: Path
    moving: Path

    @property
    def name(self) -> str:
        """``XXXX_MMMM<--YYYY_NNNN``, as the challenge's results call it."""
        (a, m), (b, n) = _ids(self.fixed), _ids(self.moving)
        return f"{a}_{m}<--{b}_{n}"

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names its displacement field may have, without extension, the usual one first."""
        (a, m), (b, n) = _ids(self.fixed), _ids(self.moving)
        short, long = f"disp_{a}_{b}", f"disp_{a}_{m}_{b}_{n}"
        if (m, n) == ("0000", "0001"):
            return short, long
        # the short name would be the same for several pairs of modalities of one subject
        return (long, short) if m == n else (long,)

    def beside(self, kind: str, *, moving: bool = False, suffix: str = ".nii.gz") -> Path:
        """Return the file of a kind (labels, masks, landmarks, …) that belongs to the fixed or moving image."""
        image = self.moving if moving else self.fixed
        folder = image.parent.name.replace("images", kind)
        return image.parent.parent / folder / re.sub(r"\.nii(\.gz)?$", suffix, image.name)

    def points(self, kind: str, *, moving: bool = False) -> Path:
        """Return the CSV of landmarks or keypoints (kept per pair of modalities, where these differ)."""
        (_, m), (_, n) = _ids(self.fixed), _ids(self.moving)
        same = m == n or (m, n) == ("0000", "0001")
        return self.beside(kind if same else f"{kind}{min(m, n)}{max(m, n)}", moving=moving, suffix=".csv")


@dataclass(frozen=True, kw_only=True)
class Learn2RegMeasure:
    """A measure that a task asks for.

    Parameters
    ----------
    name : str
        Its name in the results.
    metric : {'sdlogj', 'dice', 'hd95', 'tre'}
        What it is.
    labels : tuple of int
        Labels of dice and hd95; empty for all that occur.
    points : str
        Kind of points of tre: landmarks, keypoints.
    """

    name: str
    metric: str
    labels: tuple[int, ...] = ()
    points: str = ""


@dataclass(frozen=True, kw_only=True)
class Learn2RegTask:
    """A task: its pairs and measures.

    Parameters
    ----------
    name : str
        Name of the task.
    pairs : tuple of Learn2RegPair
        What to register.
    measures : tuple of Learn2RegMeasure
        What is measured.
    masked : bool
        Whether SDlogJ is measured within the fixed masks.
    """

    name: str
    pairs: tuple[Learn2RegPair, ...]
    measures: tuple[Learn2RegMeasure, ...]
    masked: bool = False


def read_learn2reg(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, split: str | None = None
) -> Learn2RegTask:
    """Read a task from its dataset JSON, or from an evaluation configuration of the challenge.

    Parameters
    ----------
    path : path
        ``TASK_dataset.json`` (pairs under ``registration_val`` and the like) or
        ``TASK_VAL_evaluation_config.json`` (``eval_pairs`` and ``evaluation_methods``).
    root : path, optional
        Folder that the paths in it start from (default: the file's).
    split : str, optional
        Which pairs of a dataset (default: the first of registration_val, registration_test,
        training_paired_images that has any).

    Returns
    -------
    Learn2RegTask
        A dataset JSON does not tell the measures: they follow from the folders that exist beside the
        images (labels, landmarks, keypoints, masks).

    Raises
    ------
    FormatError
        If the file is missing or damaged, or lists no pairs.
    """
    where = Path(path).parent if root is None else Path(root)
    try:
        tree = json.loads(read_text(path))
        listed = tree["eval_pairs"] if "eval_pairs" in tree else _pairs(tree, split, path)
        pairs = tuple(_pair(entry, where) for entry in listed)
        if not pairs:
            raise FormatError(f"{path} lists no pairs")
        name = str(tree.get("task_name") or tree.get("name") or Path(path).stem)
        if "evaluation_methods" in tree:
            measures = tuple(_measure(entry, path) for entry in tree["evaluation_methods"])
            masked = bool(tree.get("masked_evaluation", False))
        else:
            measures, masked = _measures_by_folder(pairs[0])
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is no Learn2Reg dataset or evaluation configuration ({error})") from None
    return Learn2RegTask(name=name, pairs=pairs, measures=measures, masked=masked)


def find_field(folder: str | os.PathLike[str], pair: Learn2RegPair) -> Path:
    """Return a pair's displacement field in a folder, ``disp_XXXX_YYYY.nii.gz`` or ``.npz``.

    Raises
    ------
    FormatError
        If there is none.
    """
    for name in pair.field_names:
        for suffix in (".npz", ".nii.gz"):
            path = Path(folder) / (name + suffix)
            if path.is_file():
                return path
    raise FormatError(
        f"{folder} has no displacement field of the pair {pair.name}: expected "
        + " or ".join(f"{name}.nii.gz" for name in pair.field_names)
    )


def learn2reg_sdlogj(field_vox: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Return the challenge's SDlogJ: of ``log(det + 3)``, two voxels at the border left out.

    Parameters
    ----------
    field_vox : (I, J, K, 3) array_like
        Displacement in voxels.
    mask : (I, J, K) array_like, optional
        Measure where it is 1.

    Notes
    -----
    The published code adds 3 to the determinant before the logarithm. `transform_measures` does not: the two
    figures differ several-fold and must not stand in one table.
    """
    field = _field(field_vox)
    if min(field.shape[:3]) < 5:
        raise GeometryError(
            f"SDlogJ leaves out two voxels at each border: the field {field.shape} is too small"
        )
    inner = (slice(2, -2),) * 3
    determinant = jacobian_determinant(np.moveaxis(field, -1, 0))[inner].astype(np.float64)
    values = np.log(np.clip(determinant + 3, 1e-9, 1e9))
    if mask is None:
        return float(values.std())
    where = np.asarray(mask)[inner] != 0
    if not where.any():
        raise GeometryError("the mask is empty two voxels inside the border")
    return float(values[where].std())


def learn2reg_labels(
    fixed: ArrayLike,
    moving: ArrayLike,
    field_vox: ArrayLike,
    labels: Sequence[int] = (),
    *,
    surface: bool = True,
) -> dict[str, dict[int, float]]:
    """Return the challenge's Dice and HD95 of each label.

    Parameters
    ----------
    fixed, moving : (I, J, K) array_like of int
        Label maps.
    field_vox : (I, J, K, 3) array_like
        Displacement in voxels, ``moving voxel = fixed voxel + displacement``.
    labels : sequence of int
        Which ones (default: all that the fixed map has).
    surface : bool
        Whether to measure HD95.

    Returns
    -------
    dict
        ``'dice'`` and ``'hd95'``, the latter in voxels (spacing 1) from area-weighted surface elements. NaN
        for labels that the fixed or the unwarped moving map lacks.
    """
    here, there = np.asarray(fixed), np.asarray(moving)
    field = _field(field_vox)
    if field.shape[:3] != here.shape:
        raise GeometryError(f"the field has shape {field.shape}, the fixed labels {here.shape}")
    places = np.indices(here.shape, np.float64) + np.moveaxis(field.astype(np.float64), -1, 0)
    warped = map_coordinates(there, places, order=0)
    values, codes = encode(here, warped, there)
    counts = overlap_counts(codes[0], codes[1], len(values))
    exists = np.bincount(codes[2].ravel(), minlength=len(values)) > 0
    wanted = [int(v) for v in labels] or sorted(int(v) for v in values[1:][counts[0, 1:] > 0])
    code_of, grid = {int(value): n for n, value in enumerate(values)}, Grid(here.shape, np.eye(4))
    sites = [Sites.of(c, len(values), grid, "surfels") for c in codes[:2]] if surface else []
    found: dict[str, dict[int, float]] = {"dice": {}, "hd95": {}}
    for label in wanted:
        code = code_of.get(label, 0)
        a, b, both = (int(n) for n in counts[:, code])
        dice = hd95 = float("nan")
        if code and a and exists[code]:
            dice = overlaps(a, b, both)["dice"]
            if surface:  # infinite where the label was warped out of the image
                hd95 = surface_distances(sites[0], sites[1], code, grid)["hd95_mm"] if b else float("inf")
        found["dice"][label] = dice
        if surface:
            found["hd95"][label] = hd95
    return found


def learn2reg_tre(
    fixed_vox: ArrayLike, moving_vox: ArrayLike, field_vox: ArrayLike, spacing_mm: ArrayLike
) -> NDArray[np.float64]:
    """Return the challenge's target registration errors, mm.

    Parameters
    ----------
    fixed_vox, moving_vox : (N, 3) array_like
        Corresponding points in voxels.
    field_vox : (I, J, K, 3) array_like
        Displacement in voxels; read at the points by cubic splines.
    spacing_mm : (3,) array_like
        Voxel size of the moving image.
    """
    field = _field(field_vox).astype(np.float64)
    here, there = (np.asarray(p, np.float64).reshape(-1, 3) for p in (fixed_vox, moving_vox))
    if here.shape != there.shape:
        raise GeometryError(f"{len(here)} fixed points but {len(there)} moving ones")
    moved = here + np.stack([map_coordinates(field[..., c], here.T) for c in range(3)], 1)
    return np.asarray(np.linalg.norm((moved - there) * np.asarray(spacing_mm, np.float64), axis=1))


def _field(field_vox: ArrayLike) -> NDArray[Any]:
    field = np.asarray(field_vox)
    if field.ndim != 4 or field.shape[3] != 3:
        raise GeometryError(f"a Learn2Reg field is an (I, J, K, 3) array of voxels, got shape {field.shape}")
    if not np.isfinite(field).all():
        raise GeometryError("the displacement field holds NaN or Inf")
    return field


def _ids(path: Path) -> tuple[str, str]:
    found = re.search(r"(\d{4})_(\d{4})\.nii(\.gz)?$", path.name)
    if not found:
        raise FormatError(f"{path.name} is not named as Learn2Reg names images: TASK_XXXX_MMMM.nii.gz")
    return found[1], found[2]


def _pairs(tree: Mapping[str, Any], split: str | None, path: str | os.PathLike[str]) -> Sequence[Any]:
    for name in _SPLITS if split is None else (split,):
        if tree.get(name):
            pairs: Sequence[Any] = tree[name]
            return pairs
    raise FormatError(f"{path} lists no pairs under {split or ', '.join(_SPLITS)}")


def _pair(entry: Mapping[str, str], root: Path) -> Learn2RegPair:
    pair = Learn2RegPair(fixed=root / entry["fixed"], moving=root / entry["moving"])
    _ = pair.name  # refuses other names
    return pair


def _measure(entry: Mapping[str, Any], path: str | os.PathLike[str]) -> Learn2RegMeasure:
    if entry["metric"] not in _KNOWN:
        raise FormatError(f"{path} asks for the metric {entry['metric']!r}, expected {', '.join(_KNOWN)}")
    return Learn2RegMeasure(
        name=str(entry["name"]),
        metric=entry["metric"],
        labels=tuple(int(label) for label in entry.get("labels", ())),
        points=str(entry.get("dest", "")),
    )


def _measures_by_folder(pair: Learn2RegPair) -> tuple[tuple[Learn2RegMeasure, ...], bool]:
    found = [Learn2RegMeasure(name="LogJacDetStd", metric="sdlogj")]
    if pair.beside("labels").is_file():
        found += [Learn2RegMeasure(name="DSC", metric="dice"), Learn2RegMeasure(name="HD95", metric="hd95")]
    for kind, name in (("landmarks", "TRE_lm"), ("keypoints", "TRE_kp")):
        if pair.points(kind).is_file():
            found.append(Learn2RegMeasure(name=name, metric="tre", points=kind))
    return tuple(found), pair.beside("masks").is_file()
