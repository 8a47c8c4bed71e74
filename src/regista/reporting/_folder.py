"""What a registration left in its folder, read again."""

from __future__ import annotations

import json
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
        The pair and the result; a warning is added to the record where an image is not the one that was registered.

    Raises
    ------
    FormatError
        If a file is missing or damaged.
    """
    record = RunRecord.from_dict(read_record_tree(folder))
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise FormatError(
            f"{folder} lacks {', '.join(missing)}: expected what regista register writes; run the registration again"
        )
    images, warnings = {}, list(record.warnings)
    for role, given in (("fixed", fixed), ("moving", moving)):
        image, text = _image(folder, record, role, given)
        images[role] = image
        warnings += [text] if text else []
    warped = read(folder / _FILES[0])
    result = Result(
        read_transform(folder / _FILES[1]),
        read_transform(folder / _FILES[2]),
        Image(warped.data, warped.grid, warped.kind, images["fixed"].space),
        replace(record, warnings=tuple(warnings)),
    )
    if not warped.grid.same_as(images["fixed"].grid, 1e-2):
        raise FormatError(
            f"{folder / _FILES[0]} lies on another grid ({warped.grid.describe()}) than the fixed image "
            f"({images['fixed'].grid.describe()}): give the right one with --fixed"
        )
    return RunFolder(path=folder, fixed=images["fixed"], moving=images["moving"], result=result)


def _image(folder: Path, record: RunRecord, role: str, given: Path | None) -> tuple[Image, str]:
    tree = record.inputs.get(role, {})
    written = given or (Path(tree["path"]) if tree.get("path") else folder / f"{role}.nii.gz")
    found = written if written.exists() or written.is_absolute() else folder / written
    if not found.exists():
        raise FormatError(
            f"the {role} image {written}, which the record of {folder} names, is not there: run the command from the "
            f"folder that the registration was run from, or name the file with --{role}"
        )
    image = read(found)
    if given is None and tree.get("channel_paths"):
        image = stack_channels([image, *(read(Path(path)) for path in tree["channel_paths"])])
    if tree.get("space"):
        image = replace(image, space=tree["space"])
    changed = tree.get("sha256") not in (None, hash_array(image.data))
    return (
        image,
        f"the {role} image {found} is not the one that was registered: its hash differs" if changed else "",
    )
