"""Scans of a BIDS dataset: anatomical images, and label maps where they are asked for.

K. J. Gorgolewski et al., "The brain imaging data structure, a format for organizing and describing outputs of neuroimaging
experiments", Scientific Data 3, 2016.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from regista.core import FormatError
from regista.io import stem_of, suffix_of

DESCRIPTION = "dataset_description.json"
"""What every BIDS dataset holds."""
_FILES = (".nii", ".nii.gz")
_PLACES = ("sub-*/anat/*", "sub-*/ses-*/anat/*")
_NO_SCANS = ("dseg", "mask", "defacemask", "probseg")
_NO_PARTS = ("phase", "real", "imag")
"""Of complex images."""
_SHARED = ("sub", "ses", "space")
"""Entities that a label map and its image have both, or neither."""


class BidsFile(NamedTuple):
    """A file by its name: ``sub-01_ses-2_run-1_T1w`` has three entities and a suffix."""

    path: Path
    entities: Mapping[str, str]
    suffix: str


def is_bids(folder: Path) -> bool:
    """Tell whether a folder is a BIDS dataset, raw or derived."""
    return (folder / DESCRIPTION).is_file()


def looks_bids(folder: Path) -> bool:
    """Tell whether a folder is laid out like a BIDS dataset, described or not."""
    return any(True for place in _PLACES for _ in folder.glob(place))


def ends_in(stem: str, words: Sequence[str]) -> bool:
    """Tell whether a name ends in one of some words, as names of images do: after a ``_`` or ``-``, or whole.

    Examples
    --------
    >>> ends_in("sub-01_desc-brain_T1w", ["desc-brain_T1w"]), ends_in("p1_t1", ["1"])
    (True, False)
    """
    return any(re.search(rf"(^|[_-]){re.escape(word.lstrip('_-'))}$", stem) for word in words)


def parse_bids(path: Path) -> BidsFile:
    """Return what a BIDS name says; a space of the name ``orig`` is the subject's own, as without one.

    Examples
    --------
    >>> found = parse_bids(Path("sub-01_ses-2_space-orig_T1w.nii.gz"))
    >>> found.entities, found.suffix
    ({'sub': '01', 'ses': '2'}, 'T1w')
    """
    *pairs, suffix = stem_of(path).split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    if entities.get("space") == "orig":
        del entities["space"]
    return BidsFile(path, entities, suffix)


def find_bids(
    folder: Path, suffixes: Sequence[str] = (), labels: str = ""
) -> list[tuple[Path, str, Path | None]]:
    """Return image, subject and label map of every scan of a dataset.

    Parameters
    ----------
    folder : Path
        With ``dataset_description.json``. Images are those in ``sub-…/anat`` and ``sub-…/ses-…/anat``; of derived ones those in
        a subject's own space, if there are such.
    suffixes : sequence of str
        What names of images end in: ``T1w``, ``desc-brain_T1w``. Without it all must be of one kind.
    labels : str
        What names of label maps end in: ``dseg``, ``desc-aseg_dseg``. They lie in the same places or in those of a dataset in
        ``derivatives``, have the subject, session and space of their image, and all else that they are named by in common with it.
        Without it no label maps are taken.

    Raises
    ------
    FormatError
        If there are no images, they are of several kinds and none is chosen, a scan has several images or label maps, a label map several
        scans, a file is a link to none, or no scan has label maps that are asked for.
    """
    kinds = (*_NO_SCANS, *([labels] if labels else []))
    scans = [one for one in _files(folder, _PLACES) if not ends_in(stem_of(one.path), kinds)]
    scans = [one for one in scans if one.entities.get("part") not in _NO_PARTS]
    if not scans:
        raise FormatError(
            f"{folder} is a BIDS dataset without images in sub-…/anat or sub-…/ses-…/anat ({', '.join(_FILES)}): name another "
            "folder, or list images in a CSV file"
        )
    for word in suffixes:
        if not any(ends_in(stem_of(one.path), [word]) for one in scans):
            raise FormatError(
                f"{folder} holds no image in sub-…/anat that ends in _{word.lstrip('_-')}; there are {_counted(scans)}"
                + _in_derivatives(folder, word)
            )
    if not suffixes and len({one.suffix for one in scans}) > 1:
        raise FormatError(
            f"{folder} holds images of several kinds, {_counted(scans)}: choose by --suffix {scans[0].suffix}, once or for several"
        )
    chosen = [one for one in scans if not suffixes or ends_in(stem_of(one.path), suffixes)]
    native = {_of(one) for one in chosen if "space" not in one.entities}
    chosen = [one for one in chosen if "space" not in one.entities or _of(one) not in native]
    _refuse_versions(chosen, folder)
    places = [*_PLACES, *(f"derivatives/{deep}{one}" for deep in ("", "*/") for one in _PLACES)]
    maps = [one for one in _files(folder, places) if ends_in(stem_of(one.path), [labels])] if labels else []
    found = [(one.path, f"sub-{one.entities['sub']}", _labels_of(one, maps, folder)) for one in chosen]
    _refuse_shared_labels(found, folder)
    _refuse_broken_links([path for image, _, drawn in found for path in (image, drawn) if path is not None])
    if labels and not any(drawn for _, _, drawn in found):
        there = _counted([one for one in _files(folder, places) if one.suffix in _NO_SCANS])
        raise FormatError(
            f"{folder} holds no label map that ends in _{labels.lstrip('_-')} and belongs to {chosen[0].path.relative_to(folder)} or another "
            f"of its images, beside them or in derivatives (there are {there or 'none of any name'}): list images and labels in a CSV file "
            "with the columns image,subject,labels"
        )
    return found


def without_images(folder: Path, subjects: Sequence[str]) -> list[str]:
    """Return people of a dataset, ``sub-…``, of whom none of the chosen images is.

    Parameters
    ----------
    folder : Path
        A folder; one that is no BIDS dataset has none.
    subjects : sequence of str
        Whose images were chosen.
    """
    if not is_bids(folder):
        return []
    there = {path.name for path in folder.glob("sub-*") if path.is_dir()}
    return sorted(there - set(subjects))


def _files(folder: Path, places: Sequence[str]) -> list[BidsFile]:
    paths = {path for place in places for path in folder.glob(place) if suffix_of(path) in _FILES}
    return [one for one in map(parse_bids, sorted(paths)) if "sub" in one.entities]


def _in_derivatives(folder: Path, word: str) -> str:
    """Return where images that end in a word are, in a derived dataset below."""
    for one in _files(folder, [f"derivatives/*/{place}" for place in _PLACES]):
        if ends_in(stem_of(one.path), [word]):
            derived = "/".join(one.path.relative_to(folder).parts[:2])
            return f"; {derived} has such: name {folder / derived} as the dataset"
    return ""


def _of(scan: BidsFile) -> tuple[str, str, str]:
    return scan.entities["sub"], scan.entities.get("ses", ""), scan.suffix


def _refuse_versions(scans: Sequence[BidsFile], folder: Path) -> None:
    """Refuse several files of one scan: raw and without its skull, or in two formats."""
    known: dict[object, Path] = {}
    for one in scans:
        scan = (one.suffix, *sorted(item for item in one.entities.items() if item[0] != "desc"))
        other = known.setdefault(scan, one.path)
        if other is not one.path:
            raise FormatError(
                f"{other.relative_to(folder)} and {one.path.relative_to(folder)} are one scan: say more of the name by --suffix, or list "
                "images in a CSV file"
            )


def _refuse_shared_labels(found: Sequence[tuple[Path, str, Path | None]], folder: Path) -> None:
    """Refuse a label map whose name fits several images: it was drawn on one of them."""
    known: dict[Path, Path] = {}
    for image, _, drawn in found:
        if drawn is not None and known.setdefault(drawn, image) is not image:
            names = " and ".join(str(one.relative_to(folder)) for one in (known[drawn], image))
            raise FormatError(
                f"{drawn.relative_to(folder)} may belong to {names}: choose one by --suffix, or list images and labels in a CSV file with "
                "the columns image,subject,labels"
            )


def _refuse_broken_links(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise FormatError(
                f"{path} is a link to a file that is not here: fetch it (of DataLad: datalad get)"
            )


def _labels_of(scan: BidsFile, maps: Sequence[BidsFile], folder: Path) -> Path | None:
    def fits(one: BidsFile) -> bool:
        named = [name for name in one.entities if name not in ("desc", "label", "seg", "atlas")]
        return all(one.entities.get(name) == scan.entities.get(name) for name in (*_SHARED, *named))

    fitting = [one for one in maps if fits(one)]
    if len(fitting) > 1:
        names = " and ".join(str(one.path.relative_to(folder)) for one in fitting[:2])
        raise FormatError(
            f"{scan.path.relative_to(folder)} has {len(fitting)} label maps ({names}): say more of the name by --labels, or list images "
            "and labels in a CSV file with the columns image,subject,labels"
        )
    return fitting[0].path if fitting else None


def _counted(scans: Sequence[BidsFile]) -> str:
    counts = {kind: sum(one.suffix == kind for one in scans) for kind in sorted({s.suffix for s in scans})}
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
