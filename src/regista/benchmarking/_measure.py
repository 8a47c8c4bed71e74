"""A process that looks at a pair, or measures what a method left: every measure of `regista.evaluation`.

``python -m regista.benchmarking._measure FOLDER`` reads ``_measure.json`` and leaves ``_measure.done.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regista.benchmarking._process import work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regista.core import Grid, Image, PointSet
    from regista.transforms import Transform

Row = dict[str, Any]
_PLAIN = (".nii", ".nii.gz")


@dataclass
class _Findings:
    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Write an error down and go on: one bad file does not spoil the other measures."""
        from regista.core import RegistaError

        try:
            yield
        except (RegistaError, MemoryError, OSError) as error:
            self.errors.append(f"{what}: {error or type(error).__name__}")


def run(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Do the job.

    Parameters
    ----------
    job : mapping
        ``case`` (see `Case.to_dict`), ``transforms`` (files, first applied first; None for the images as they
        came), ``inverse`` (the same from moving to fixed, where the method gave one), ``names``, ``groups`` (by set of
        labels), ``surface``, ``unit``, ``threads``; ``prepare`` where copies for the peers are wanted, ``non_finite``
        ('mask' to leave NaN and infinite voxels out, not to refuse them), ``linear`` where the map is to be handed on
        as the shared start.
    folder : Path
        Where copies and the shared start go.

    Returns
    -------
    dict
        ``rows``, ``errors``, and ``pair`` (what to give to peers) or ``affine`` where asked for.
    """
    from regista.core import set_threads
    from regista.io import read

    set_threads(job["threads"])
    case, found = job["case"], _Findings()
    with found.trying("images"):
        fixed, moving = read(case["fixed"]), read(case["moving"])
        _check_pair(fixed, moving)
        if job.get("prepare") and job.get("non_finite") != "mask":
            _check_finite(fixed, moving)
    if found.errors:
        return {"rows": [], "errors": found.errors}
    chain = None if job["transforms"] is None else _chain(job["transforms"])
    inverse = _chain(job["inverse"]) if job.get("inverse") else None
    if chain is not None and chain.ndim != fixed.ndim:
        return {"rows": [], "errors": [f"the transform is {chain.ndim}-D, the images are {fixed.ndim}-D"]}
    masks: dict[str, Any] = {}
    for role, image in (("fixed_mask", fixed), ("moving_mask", moving)):
        with found.trying(role.replace("_", " ")):
            masks[role] = _mask(case[role], image)
    for name, files in case["labels"].items():
        with found.trying(name if name == "labels" else f"labels {name}"):
            found.rows += _labels(job, name, files, (fixed.grid, moving.grid), chain)
    if case["points"]:
        with found.trying("landmarks"):
            found.rows.append(_landmarks(job, fixed, moving, chain))
    masked = "fixed_mask" in masks  # else it was refused, and nothing is measured as if there were none
    if masked:
        with found.trying("images"):
            found.rows.append(_images(fixed, moving, chain, masks["fixed_mask"]))
    if chain is not None and masked:
        with found.trying("transform"):
            found.rows.append(_regularity(chain, inverse, fixed, moving, masks["fixed_mask"]))
    answer: dict[str, Any] = {"rows": found.rows, "errors": found.errors}
    if job.get("prepare"):
        answer["pair"] = {"ndim": fixed.ndim, **_prepare(case, fixed, moving, masks, folder)}
    if job.get("linear") and chain is not None:
        answer["affine"] = _hand_on(chain, folder)
    return answer


def _check_pair(fixed: Image, moving: Image) -> None:
    from regista.core import GeometryError

    for role, image in (("fixed", fixed), ("moving", moving)):
        if image.kind == "series":
            raise GeometryError(
                f"the {role} image is a series of {len(image.data)} frames, expected one image"
            )
    if fixed.ndim != moving.ndim:
        raise GeometryError(f"the fixed image is {fixed.ndim}-D, the moving one {moving.ndim}-D")


def _check_finite(fixed: Image, moving: Image) -> None:
    import numpy as np

    from regista.core import GeometryError

    for role, image in (("fixed", fixed), ("moving", moving)):
        bad = image.data.size - np.count_nonzero(np.isfinite(image.data))
        if bad:
            raise GeometryError(
                f"the {role} image has {bad} NaN or infinite voxels, which no two methods treat alike: replace them first, or "
                "leave them out for all methods by --non-finite mask (in Python non_finite='mask')"
            )


def _chain(paths: list[str]) -> Transform:
    from regista.io import read_transform
    from regista.transforms import Composite, with_spaces

    parts = [with_spaces(read_transform(path), None, None) for path in paths]
    return parts[0] if len(parts) == 1 else Composite(tuple(parts))


def _mask(path: str | None, image: Image) -> Image | None:
    from regista.core import GeometryError
    from regista.io import read_labels

    if not path:
        return None
    mask = read_labels(path)
    _check_grid(path, mask, image.grid)
    if not mask.data.any():
        raise GeometryError(f"{path} is empty: no voxel of it differs from 0")
    return mask


def _check_grid(path: str, image: Image, grid: Grid) -> None:
    from regista.core import GeometryError

    if not image.grid.same_as(grid):
        raise GeometryError(
            f"{path} lies on another grid ({image.grid.describe()}) than its image ({grid.describe()}): check that "
            "it belongs to this image, or resample it to the image's grid first"
        )


def _labels(
    job: Mapping[str, Any], name: str, files: list[str], grids: tuple[Grid, Grid], chain: Transform | None
) -> list[Row]:
    import numpy as np

    from regista.core import LabelImage
    from regista.evaluation import label_measures
    from regista.io import read_labels
    from regista.transforms import resample_labels

    fixed, moving = (read_labels(path) for path in files)
    for path, image, grid in zip(files, (fixed, moving), grids, strict=True):
        _check_grid(path, image, grid)
    here, there = (set(np.unique(image.data).tolist()) - {0} for image in (fixed, moving))
    _check_sets(files, here, there)
    warped = resample_labels(moving, fixed.grid, chain)
    if job["unit"] == "px":
        fixed, warped = (LabelImage(image.data, _counted(fixed.grid)) for image in (fixed, warped))
    agreement = label_measures(
        fixed,
        warped,
        # named, since maps that were not registered, or badly, may not even meet: Dice 0, not an error
        labels=sorted(here | there),
        names={int(label): text for label, text in job["names"].get(name, {}).items()},
        groups=job["groups"].get(name, {}),
        surface=job["surface"],
    )
    found = [{"kind": row.pop("kind"), "set": name, **row} for row in agreement.rows()]
    return [{key.replace("_mm", f"_{job['unit']}"): value for key, value in row.items()} for row in found]


def _counted(grid: Grid) -> Grid:
    """Return a grid whose coordinates count voxels."""
    import numpy as np

    return type(grid)(grid.shape, np.eye(grid.ndim + 1))


def _check_sets(files: list[str], here: set[int], there: set[int]) -> None:
    from regista.core import GeometryError

    for path, found in zip(files, (here, there), strict=True):
        if not found:
            raise GeometryError(f"{path} is empty: every voxel is background (0)")
    if not here & there:
        texts = [", ".join(map(str, sorted(s)[:6])) + (", …" if len(s) > 6 else "") for s in (here, there)]
        raise GeometryError(
            f"{files[0]} and {files[1]} share no label: {texts[0]} against {texts[1]}; are they of one protocol?"
        )


def _landmarks(job: Mapping[str, Any], fixed: Image, moving: Image, chain: Transform | None) -> Row:
    from regista.evaluation import landmark_error

    case = job["case"]
    one, other = (
        _points(path, case["points_in"], image)
        for path, image in zip(case["points"], (fixed, moving), strict=True)
    )
    return {
        "kind": "landmarks",
        **landmark_error(one, other, chain, grid=moving.grid, unit=job["unit"]).row(),
    }


def _points(path: str, points_in: str | None, image: Image) -> PointSet:
    from regista.core import PointSet
    from regista.io import read_points

    if points_in == "vox":  # read as they stand, then counted from the image's first voxel
        found = read_points(path, convention="ras", ndim=image.ndim)
        return PointSet(image.grid.index2world(found.points_mm), found.names)
    return read_points(path, convention=points_in, grid=image.grid, ndim=image.ndim)  # type: ignore[arg-type]


def _images(fixed: Image, moving: Image, chain: Transform | None, mask: Image | None) -> Row:
    import numpy as np

    from regista.evaluation import image_measures
    from regista.transforms import resample

    warped = resample(moving, fixed.grid, chain, dtype=np.float32)
    return {"kind": "images", **image_measures(fixed, warped, mask=mask).row()}


def _regularity(
    chain: Transform, inverse: Transform | None, fixed: Image, moving: Image, mask: Image | None
) -> Row:
    from regista.evaluation import transform_measures

    found = transform_measures(chain, fixed.grid, mask=mask, inverse=inverse, moving_grid=moving.grid)
    return {"kind": "transform", **found.row()}


def _prepare(
    case: Mapping[str, Any], fixed: Image, moving: Image, masks: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return files that every peer reads alike: one channel, finite voxels, NIfTI in 3-D and MetaImage in 2-D.

    Where an image has NaN or infinite voxels, its mask leaves them out.
    """
    import numpy as np

    from regista.io import write

    files: dict[str, Any] = {}
    for role, image in (("fixed", fixed), ("moving", moving)):
        mask, voxels = masks.get(f"{role}_mask"), image.as_float32()
        bad = ~np.isfinite(voxels).reshape(-1, *image.grid.shape).all(axis=0)
        inside = None if mask is None else mask.data != 0
        own = (
            case[role],
            case[f"{role}_mask"] if mask is not None and _plain(mask, case[f"{role}_mask"]) else None,
        )
        if bad.any():
            voxels, inside = _without(voxels, bad), ~bad if inside is None else inside & ~bad
            own = None, None
        elif not _plain(image, case[role]):
            own = None, own[1]
        gray = voxels if image.kind == "scalar" else voxels.mean(axis=0)
        for name, data, path in ((role, gray, own[0]), (f"{role}_mask", inside, own[1])):
            if data is None or path is not None:
                files[name] = None if path is None else str(Path(path).resolve())
                continue
            files[name] = str(folder / (f"{name}.nii" if image.ndim == 3 else f"{name}.mha"))
            kept = data.astype(np.uint8) if data.dtype == bool else data
            write(files[name], type(fixed)(kept, image.grid))
    return files


def _plain(image: Image, path: str | None) -> bool:
    """Tell whether every peer reads a file as it is."""
    from regista.io import suffix_of

    return image.ndim == 3 and image.kind == "scalar" and path is not None and suffix_of(path) in _PLAIN


def _without(data: Any, bad: Any) -> Any:
    """Return voxels with the bad ones, of any channel, at the least finite value."""
    import numpy as np

    clean = np.array(data)
    clean[..., bad] = np.min(data, where=np.isfinite(data), initial=np.inf)
    return clean


def _hand_on(chain: Transform, folder: Path) -> dict[str, str]:
    """Write a linear map as the start that all share: an ITK file, and its matrix in RAS mm as text."""
    import numpy as np

    from regista.core import PlanError
    from regista.io import write
    from regista.transforms import Affine, Composite

    parts = Composite((chain,)).flatten().transforms
    if not all(isinstance(part, Affine) for part in parts):
        raise PlanError("the shared start must be one linear map; this method left a displacement field")
    n = chain.ndim
    corners = chain.map_points(np.vstack([np.zeros(n), np.eye(n)]))
    matrix = np.eye(n + 1)
    matrix[:n, n], matrix[:n, :n] = corners[0], (corners[1:] - corners[0]).T
    itk, ras = folder / "affine.mat", folder / "affine_ras.txt"
    write(itk, Affine(matrix))
    np.savetxt(ras, matrix, fmt="%.15g")
    return {"affine": str(itk), "affine_ras": str(ras)}


if __name__ == "__main__":
    work("_measure", run)
