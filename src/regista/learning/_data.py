"""Lists of scans to train on: a CSV or a folder, divided by subject."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regista.core import FormatError, PlanError
from regista.io import stem_of, suffix_of
from regista.learning._bids import DESCRIPTION, ends_in, find_bids, is_bids, looks_bids

_IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".mgh", ".mgz", ".png")
_LABEL_WORDS = ("labels", "label", "dseg", "seg")
_NO_SCAN = re.compile(r"(^|[_-])(labels?|d?seg|mask|lesions?|tissues?)($|[_-])", re.IGNORECASE)
PARTS = ("train", "validation", "test")
_COLUMNS = (
    "image[,subject][,labels][,split], labels[,subject][,split] for --synthesis labels, or "
    "fixed,moving[,subject][,fixed_labels][,moving_labels][,split]; split is train, validation or test"
)


@dataclass(frozen=True, kw_only=True)
class ScanFile:
    """A scan on disk.

    Parameters
    ----------
    image : Path
        The image.
    subject : str
        Whose it is.
    labels : Path, optional
        Its label map.
    part : str
        'train', 'validation', 'test', or '' where the list does not say.
    """

    image: Path
    subject: str
    labels: Path | None = None
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Scans, and which of them are registered with which.

    Parameters
    ----------
    scans : tuple of ScanFile
        The scans.
    pairs : tuple of (int, int), optional
        Fixed and moving scan of each pair; None where any two scans of different subjects make one.
    """

    scans: tuple[ScanFile, ...]
    pairs: tuple[tuple[int, int], ...] | None = None

    @property
    def subjects(self) -> list[str]:
        """Names of the subjects, sorted."""
        return sorted({scan.subject for scan in self.scans})

    @property
    def maps_alone(self) -> bool:
        """Whether some scan is a label map without an image."""
        return any(scan.image == scan.labels for scan in self.scans)

    @property
    def labelled(self) -> bool:
        """Whether every scan has labels."""
        return all(scan.labels is not None for scan in self.scans)

    def of(self, subjects: Sequence[str]) -> Dataset:
        """Return the part that belongs to some subjects."""
        keep = [n for n, scan in enumerate(self.scans) if scan.subject in set(subjects)]
        new = {old: n for n, old in enumerate(keep)}
        pairs = self.pairs and tuple((new[a], new[b]) for a, b in self.pairs if a in new and b in new)
        return Dataset(scans=tuple(self.scans[n] for n in keep), pairs=pairs)


def read_dataset(path: Path, suffixes: Sequence[str] = (), labels: str = "") -> Dataset:
    """Read which scans to train on.

    Parameters
    ----------
    path : Path
        A CSV file with the columns ``image[,subject][,labels][,split]``, or ``fixed,moving[,subject][,fixed_labels]
        [,moving_labels][,split]``; paths count from its folder. With ``labels[,subject][,split]`` alone, without images,
        for training by synthesis, the label maps take the images' place. Or a BIDS dataset, see `find_bids`. Or another folder of images: the subject is
        ``sub-…`` or what comes before the first underscore; labels are files named like the image with ``_labels``,
        ``_label``, ``_seg`` or ``_dseg`` in place of the last part of its name or after it.
    suffixes : sequence of str
        Of a folder, take images whose names end so: ``T1w`` (default: all; a BIDS dataset then must have one kind).
    labels : str
        Of a folder, what names of label maps end in: ``dseg`` (default: as above; of a BIDS dataset none are taken).

    Returns
    -------
    Dataset
        The scans.

    Raises
    ------
    FormatError
        If the file or one that it names is missing, or it has other columns; or a folder holds no images, or no such ones.
    """
    if path.is_dir():
        if is_bids(path):
            found = find_bids(path, suffixes, labels)
            return Dataset(scans=tuple(ScanFile(image=i, subject=s, labels=m) for i, s, m in found))
        return _from_folder(path, suffixes, labels)
    if not path.is_file():
        raise FormatError(
            f"{path} does not exist: name a folder of images, or a CSV file with the columns {_COLUMNS}"
        )
    if path.suffix.lower() != ".csv":
        raise FormatError(
            f"{path} is neither a folder nor a .csv file: name a folder of images, or list them in a CSV file"
        )
    if suffixes or labels:
        word = "--suffix" if suffixes else "--labels"
        raise FormatError(f"{word} chooses files of a folder, and {path} is a list: leave it out")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} is not a CSV file: {error}") from None
    if not rows:
        raise FormatError(f"{path} has no rows: one per image, or per pair, below a header")
    columns = {name for name in rows[0] if name}
    if "image" in columns:
        return Dataset(scans=tuple(_scan(path, n, row, "image", "labels") for n, row in enumerate(rows, 2)))
    if "labels" in columns:
        return Dataset(scans=tuple(_scan(path, n, row, "labels", "labels") for n, row in enumerate(rows, 2)))
    if {"fixed", "moving"} <= columns:
        scans: list[ScanFile] = []
        for n, row in enumerate(rows, 2):
            scans += [_scan(path, n, row, role, f"{role}_labels") for role in ("fixed", "moving")]
        scans[1::2] = [replace(b, subject=a.subject) for a, b in zip(scans[::2], scans[1::2], strict=True)]
        return Dataset(scans=tuple(scans), pairs=tuple((2 * n, 2 * n + 1) for n in range(len(rows))))
    raise FormatError(f"{path} has the columns {', '.join(sorted(columns)) or 'none'}; expected {_COLUMNS}")


def _scan(table: Path, line: int, row: dict[str, str | None], role: str, labels_role: str) -> ScanFile:
    named = {}
    for column in (role, labels_role):
        text = (row.get(column) or "").strip()
        named[column] = None if not text else table.parent / text
    image, labels = named[role], named[labels_role]
    if image is None:
        raise FormatError(f"{table}, line {line}: the column {role} is empty")
    for file in (image, labels):
        if file is not None and not file.exists():
            raise FormatError(
                f"{table}, line {line}: {file} does not exist; paths count from the table's folder"
            )
    part = (row.get("split") or "").strip().lower()
    part = {"val": "validation", "valid": "validation", "training": "train"}.get(part, part)
    if part not in ("", *PARTS):
        raise FormatError(f"{table}, line {line}: split is one of {', '.join(PARTS)}, or empty; got {part!r}")
    subject = (row.get("subject") or "").strip() or subject_of(image)
    return ScanFile(image=image, subject=subject, labels=labels, part=part)


def subject_of(path: Path) -> str:
    """Return whose scan a file is, by its name.

    Examples
    --------
    >>> subject_of(Path("data/sub-07/anat/sub-07_T1w.nii.gz")), subject_of(Path("1003_t1.nii.gz"))
    ('sub-07', '1003')
    """
    found = re.search(r"sub-[A-Za-z0-9]+", str(path.name)) or re.search(r"sub-[A-Za-z0-9]+", str(path))
    return found[0] if found else stem_of(path).split("_")[0]


def _from_folder(folder: Path, suffixes: Sequence[str], labels_word: str) -> Dataset:
    files = sorted(
        file
        for file in folder.rglob("*")
        if suffix_of(file) in _IMAGES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    own = [labels_word.lstrip("_-")] if labels_word else []
    images = [
        file for file in files if not _NO_SCAN.search(stem_of(file)) and not ends_in(stem_of(file), own)
    ]
    if files and not images:
        raise FormatError(
            f"{folder} holds no images, only files named like label maps and masks ({files[0].name}): list label maps in a "
            "CSV file with the columns labels[,subject][,split], for --synthesis labels"
        )
    if not images:
        raise FormatError(
            f"{folder} holds no images ({', '.join(_IMAGES)}): name another folder, or a CSV file"
        )
    if suffixes:
        for word in suffixes:
            if not any(ends_in(stem_of(file), [word]) for file in images):
                raise FormatError(
                    f"{folder} holds no image whose name ends in {word}; one of its images is {images[0].name}"
                )
        images = [file for file in images if ends_in(stem_of(file), suffixes)]
    known = {(file.parent, stem_of(file)): file for file in files}
    scans = []
    for image in images:
        stem = stem_of(image)
        begin = stem.rsplit("_", 1)[0]
        names = [
            f"{base}{sign}{word}" for base in (stem, begin) for word in own or _LABEL_WORDS for sign in "_-"
        ]
        labels = next((known[image.parent, n] for n in names if (image.parent, n) in known), None)
        scans.append(ScanFile(image=image, subject=subject_of(image), labels=labels))
    if own and not any(scan.labels for scan in scans):
        hint = f" (it is laid out as a BIDS dataset, and has no {DESCRIPTION})" if looks_bids(folder) else ""
        raise FormatError(
            f"{folder} holds no label map named like an image with _{own[0]}, as of {images[0].name}{hint}: list images "
            "and labels in a CSV file with the columns image,subject,labels"
        )
    return Dataset(scans=tuple(scans))


def split_subjects(
    dataset: Dataset, validation: float = 0.1, test: float = 0.0, seed: int = 0
) -> dict[str, list[str]]:
    """Divide the subjects, never the scans of one person, into those to train, validate and test on.

    Parameters
    ----------
    dataset : Dataset
        Scans; where the list says the part, it is obeyed.
    validation, test : float
        Shares of the subjects (below 1) or their numbers (1 and above).
    seed : int
        Of the draw.

    Returns
    -------
    dict
        Names of subjects by part.

    Raises
    ------
    PlanError
        If a subject is in two parts, or too few are left to train on.
    """
    told: dict[str, set[str]] = {}
    for scan in dataset.scans:
        told.setdefault(scan.subject, set()).add(scan.part)
    torn = sorted(name for name, parts in told.items() if len(parts) > 1)
    if torn:
        raise PlanError(
            f"subject {torn[0]} is in {len(told[torn[0]])} parts of the data ({', '.join(sorted(told[torn[0]]))}): one "
            "person's scans belong together"
        )
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    free: list[str] = []
    for name in sorted(told):
        part = next(iter(told[name]))
        (parts[part] if part else free).append(name)
    if free:
        order = [free[n] for n in np.random.default_rng(seed).permutation(len(free))]
        counts = [_count(share, len(free)) for share in (validation, test)]
        parts["validation"] += sorted(order[: counts[0]])
        parts["test"] += sorted(order[counts[0] : sum(counts)])
        parts["train"] += sorted(order[sum(counts) :])
    least = 1 if dataset.pairs is not None else 2
    if len(parts["train"]) < least:
        raise PlanError(
            f"training needs {least} subject{'s' * (least > 1)} at least, got {len(parts['train'])} of "
            f"{len(told)}{' (the others validate or test)' * (len(told) > len(parts['train']))}: add scans, or let fewer validate or "
            "test (--validation, --test)"
            + ("" if dataset.pairs is not None else ", or list fixed and moving pairs")
        )
    return parts


def _count(share: float, total: int) -> int:
    if not share >= 0:
        raise PlanError(f"a share of the subjects is at least 0, got {share}")
    if share >= 1:
        return round(share)
    return max(1, round(share * total)) if share > 0 and total > 2 else 0
