"""What a registration left in its folder, read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regista.core import FormatError, Image, RunRecord, hash_array, stack_channels
from regista.io import read, read_transform
from regista.registration import Result

RECORD = "record.json"
_FILES = ("warped.nii.gz", "fixed2moving.h5", "moving2fixed.h5")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFolder:
    """A pair and its registration, from files.

    Parameters
    ----------
    path : Path
        The folder.
    fixed, moving : Image
        The pair.
    result : Result
        What came out.
    """

    path: Path
    fixed: Image
    moving: Image
    result: Result


def read_record_tree(folder: Path) -> dict[str, Any]:
    """Return what ``record.json`` of a folder holds.

    Raises
    ------
    FormatError
        If it is missing or damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FormatError(
            f"{folder} holds no {RECORD}: expected the folder that regista register wrote with -o, or a table of such"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read ({error}): run the registration again") from None
    if not isinstance(tree, dict) or "status" not in tree or not isinstance(tree.get("inputs"), dict):
        raise FormatError(f"{path} is not a record of regista register")
    return tree


def check_files(folder: Path) -> None:
    """Raise FormatError if results are missing in a folder."""
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise FormatError(
            f"{folder} lacks {', '.join(missing)}: expected what regista register writes; run the registration again"
        )


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return names that differ: the folders' own, or as many parents with them as it takes.

    Examples
    --------
    >>> short_names([Path("sub1/out"), Path("sub2/out")])
    ['sub1/out', 'sub2/out']
    """
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{n + 1}: {'/'.join(part)}" for n, part in enumerate(parts)]


def read_run(folder: Path, fixed: Path | None = None, moving: Path | None = None) -> RunFolder:
    """Read the folder of a registration, and the pair that it names.

    Parameters
    ----------
    folder : Path
        What ``regista register`` wrote.
    fixed, moving : Path, optional
        The images, where they are no longer where the record says.

    Returns
    -------
    RunFolder
        The pair and the result; a warning is added to the record where `fixed` or `moving` is not what was registered.

    Raises
    ------
    FormatError
        If a file is missing or damaged, or an image that was not named here is another than the one registered.
    """
    record = RunRecord.from_dict(read_record_tree(folder))
    check_files(folder)
    images, warnings = {}, list(record.warnings)
    for role, given in (("fixed", fixed), ("moving", moving)):
        image, text = _image(folder, record, role, given)
        images[role] = image
        warnings += [text] if text else []
    mask, text = _mask(folder, record)
    warnings += [text] if text else []
    warped = read(folder / _FILES[0])
    maps = [read_transform(folder / name) for name in _FILES[1:3]]
    for name, transform in zip(_FILES[1:3], maps, strict=True):
        if transform.ndim != images["fixed"].ndim:
            raise FormatError(
                f"{folder / name} is a {transform.ndim}-D transform and the fixed image is {images['fixed'].ndim}-D: it is of another "
                "run; run the registration again"
            )
    result = Result(
        maps[0],
        maps[1],
        Image(warped.data, warped.grid, warped.kind, images["fixed"].space),
        replace(record, warnings=tuple(warnings)),
        fixed_mask=mask,
    )
    if not warped.grid.same_as(images["fixed"].grid, 1e-2):
        raise FormatError(
            f"{folder / _FILES[0]} lies on another grid ({warped.grid.describe()}) than the fixed image "
            f"({images['fixed'].grid.describe()}): give the right one with --fixed"
        )
    return RunFolder(path=folder, fixed=images["fixed"], moving=images["moving"], result=result)


def _image(folder: Path, record: RunRecord, role: str, given: Path | None) -> tuple[Image, str]:
    """Return an image of the pair, and a warning where it was named and is another than the one registered."""
    tree = record.inputs.get(role, {})
    if given is not None:
        image = _named(read(given), tree)
        differs = f"the {role} image {given} is not the one that was registered: its hash differs"
        return image, "" if _is_registered(image, tree) else differs
    others = []
    for places in _places(folder, record, role):
        if not all(place.exists() for place in places):
            continue
        parts = [read(places[0], series=tree.get("series")), *map(read, places[1:])]
        image = _named(stack_channels(parts) if len(parts) > 1 else parts[0], tree)
        if _is_registered(image, tree):
            return image, ""
        others.append(str(places[0]))
    if others:  # another person's, as likely as not: names like t1.nii.gz are in every folder
        raise FormatError(
            f"{others[0]} is not the {role} image that was registered in {folder}: its hash differs. Name the right file "
            f"with --{role}, or this one to show it all the same"
        )
    named = tree.get("path")
    told = (
        f"{named}, which the record of {folder} names, is not there"
        if named
        else f"has no file in the record of {folder}"
    )
    raise FormatError(f"the {role} image {told}: name the file with --{role}")


def _mask(folder: Path, record: RunRecord) -> tuple[Image | None, str]:
    """Return the fixed mask that was given, and a warning where it is no longer there."""
    tree = record.inputs.get("fixed_mask")
    if not tree:
        return None, ""
    places = [one for (one, *_) in _places(folder, record, "fixed_mask") if one.is_file()]
    masks = [mask for mask in map(read, places) if _is_registered(mask, tree)]
    if masks:
        return masks[0], ""
    return None, (
        f"the fixed mask {tree.get('path') or ''}, where the images were compared, is not there as it was: the verdict looks at all "
        "of the image"
    )


def _places(folder: Path, record: RunRecord, role: str) -> list[list[Path]]:
    """Return where the image and its channels may lie: relative names belong to the folder the command ran in."""
    tree = record.inputs.get(role, {})
    if not tree.get("path"):
        return [[folder / f"{role}.nii.gz"]]
    names = [tree["path"], *tree.get("channel_paths", ())]
    bases = [*([Path(record.working_folder)] if record.working_folder else []), folder, Path()]
    return [list(places) for places in dict.fromkeys(tuple(base / name for name in names) for base in bases)]


def _named(image: Image, tree: Mapping[str, Any]) -> Image:
    return replace(image, space=tree["space"]) if tree.get("space") else image


def _is_registered(image: Image, tree: Mapping[str, Any]) -> bool:
    return tree.get("sha256") in (None, hash_array(image.data))
