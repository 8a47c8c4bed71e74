"""Scans of a BIDS dataset: anatomical images, and label maps where they lie beside them or in derivatives.

K. J. Gorgolewski et al., "The brain imaging data structure, a format for organizing and describing outputs of neuroimaging
experiments", Scientific Data 3, 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from regista.core import FormatError
from regista.io import stem_of, suffix_of

DESCRIPTION = "dataset_description.json"
"""What every BIDS dataset holds."""
_FILES = (".nii", ".nii.gz")
_LABELS = "dseg"
_NO_SCANS = (_LABELS, "mask", "probseg")
_NAMED = ("sub", "ses", "space")
"""Entities that a label map shares with its image."""
_FURTHER = ("acq", "ce", "rec", "run", "echo", "part")
"""Entities that tell label maps of several images apart, where they are named."""


class BidsFile(NamedTuple):
    """A file by its name: ``sub-01_ses-2_run-1_T1w`` has three entities and a suffix."""

    path: Path
    entities: Mapping[str, str]
    suffix: str


def is_bids(folder: Path) -> bool:
    """Tell whether a folder is a BIDS dataset, raw or derived."""
    return (folder / DESCRIPTION).is_file()


def parse_bids(path: Path) -> BidsFile:
    """Return what a BIDS name says.

    Examples
    --------
    >>> found = parse_bids(Path("sub-01_ses-2_T1w.nii.gz"))
    >>> found.entities, found.suffix
    ({'sub': '01', 'ses': '2'}, 'T1w')
    """
    *pairs, suffix = stem_of(path).split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return BidsFile(path, entities, suffix)


def find_bids(folder: Path, suffixes: Sequence[str] = ()) -> list[tuple[Path, str, Path | None]]:
    """Return image, subject and label map of every scan of a dataset.

    Parameters
    ----------
    folder : Path
        With ``dataset_description.json``. Images are those in ``sub-…/anat`` or ``sub-…/ses-…/anat``; of derived
        ones those in a subject's own space, if there are such. Label maps (``_dseg``) lie anywhere below, ``derivatives``
        included, and have the subject, session and space of their image.
    suffixes : sequence of str
        Which images: ``T1w``. Without them all must have the same.

    Raises
    ------
    FormatError
        If there are none, if they are of several suffixes and none is chosen, or if an image has several label maps.
    """
    files = [parse_bids(path) for path in sorted(folder.rglob("sub-*")) if suffix_of(path) in _FILES]
    scans = [one for one in files if _is_anatomical(one.path, folder) and one.suffix not in _NO_SCANS]
    native = [one for one in scans if "space" not in one.entities]
    scans = native or scans
    found = sorted({one.suffix for one in scans})
    if not scans:
        raise FormatError(
            f"{folder} is a BIDS dataset without images in sub-…/anat or sub-…/ses-…/anat ({', '.join(_FILES)}): name another "
            "folder, or list images in a CSV file"
        )
    unknown = [one for one in suffixes if one not in found]
    if unknown:
        raise FormatError(
            f"{folder} holds no image that ends in _{unknown[0]} in sub-…/anat; there are {_counted(scans)}"
        )
    if not suffixes and len(found) > 1:
        raise FormatError(
            f"{folder} holds images of several kinds, {_counted(scans)}: choose one by --suffix {found[0]}, or several by more of it"
        )
    chosen = [one for one in scans if not suffixes or one.suffix in suffixes]
    labels = [one for one in files if one.suffix == _LABELS]
    return [(one.path, f"sub-{one.entities['sub']}", _labels_of(one, labels, folder)) for one in chosen]


def _is_anatomical(path: Path, folder: Path) -> bool:
    """Tell whether a file lies where a dataset has its own anatomical images."""
    match path.parent.relative_to(folder).parts:
        case (subject, "anat"):
            return subject.startswith("sub-")
        case (subject, session, "anat"):
            return subject.startswith("sub-") and session.startswith("ses-")
    return False


def _labels_of(scan: BidsFile, labels: Sequence[BidsFile], folder: Path) -> Path | None:
    """Return the label map of a scan: that which shares its subject, session and space, and most of what else it is named by."""

    def same(one: BidsFile, names: Sequence[str]) -> bool:
        return all(one.entities.get(name) == scan.entities.get(name) for name in names)

    fitting = [one for one in labels if same(one, _NAMED)]
    if len(fitting) > 1:
        fitting = [one for one in fitting if same(one, _FURTHER)]
    if len(fitting) > 1:
        names = " and ".join(str(one.path.relative_to(folder)) for one in fitting[:2])
        raise FormatError(
            f"{scan.path.relative_to(folder)} has {len(fitting)} label maps ({names}): list images and labels in a CSV file with the "
            "columns image,subject,labels"
        )
    return fitting[0].path if fitting else None


def _counted(scans: Sequence[BidsFile]) -> str:
    counts = {one: sum(scan.suffix == one for scan in scans) for one in sorted({s.suffix for s in scans})}
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
