"""Slices with anatomical labels, one image of each pair in a made-up contrast."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from harness.deep_metric import PATIENTS, Case, patient_slices, volumes
from regista.core import Image, LabelImage
from regista.io import read

BINS = 25
LEAST = 50
"""Pixels (of 1 mm²) that a label has in both images, else it is left out: smaller ones are cut by chance."""
AHEAD = (1, 2)
"""Which slices are brought to each, counted from it round the ring of all twelve."""


@cache
def t2_curve(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return T1 and, for each, the median T2 of a patient's voxels of that T1; both as shares of a bright T1."""
    first, second = (one.as_float32() for one in volumes(data, PATIENTS[0]))
    inside = first > 0
    t1, t2 = first[inside], second[inside]
    edges = np.quantile(t1, np.linspace(0, 1, BINS + 1))
    place = np.clip(np.searchsorted(edges, t1, side="right") - 1, 0, BINS - 1)
    middle = [[np.median(values[place == n]) for n in range(BINS)] for values in (t1, t2)]
    levels, likely = np.array(middle) / np.percentile(t1, 99)
    return levels, likely


def like_t2(image: Image, data: Path) -> Image:
    """Return a stripped T1 with every intensity replaced by the median T2 that a patient has there."""
    values = image.as_float32()
    inside = values > 0
    shown = np.interp(values / np.percentile(values[inside], 99), *t2_curve(data))
    return Image(np.where(inside, shown, 0).astype(np.float32), image.grid)


@cache
def made_up_slices(data: Path, plane: str) -> list[tuple[str, Image, Image]]:
    """Return the patients' T1 slices, each with itself made to look like T2."""
    return [(name, first, like_t2(first, data)) for name, first, _ in patient_slices(data, plane)]


def labelled_slices(data: Path, what: str) -> dict[str, Image]:
    """Return the labelled slices' images: 't1' or 'labels'."""
    files = sorted((data / "brain_slices_2d").glob(f"*_{what}.nii.gz"))
    found = {file.name.partition("_")[0]: read(file) for file in files}
    return {name: Image(one.data, one.grid) for name, one in found.items()}


def anatomy_pairs(data: Path) -> Iterator[tuple[str, Image, Image]]:
    """Yield the T1 of each labelled slice with itself made to look like T2: aligned, and of the contrasts compared on."""
    for name, image in labelled_slices(data, "t1").items():
        yield name, image, like_t2(image, data)


def anatomy_cases(data: Path) -> Iterator[Case]:
    """Yield the T1 of each slice with the next ones, made to look like T2; labels are the manual ones."""
    found = labelled_slices(data, "t1")
    names, images = list(found), list(found.values())
    labels = list(labelled_slices(data, "labels").values())
    masks = [Image((one.data > 0).astype(np.uint8), one.grid) for one in images]
    for here, name in enumerate(names):
        for there in ((here + step) % len(names) for step in AHEAD):
            large = [
                {
                    code
                    for code, count in zip(*np.unique(one.data, return_counts=True), strict=True)
                    if count >= LEAST
                }
                for one in (labels[here], labels[there])
            ]
            kept = sorted((large[0] & large[1]) - {0})
            fixed, moving = (
                LabelImage(np.where(np.isin(one.data, kept), one.data, 0), one.grid)
                for one in (labels[here], labels[there])
            )
            yield Case(
                name=f"{name}_{names[there]}",
                fixed=images[here],
                moving=like_t2(images[there], data),
                fixed_mask=masks[here],
                moving_mask=masks[there],
                fixed_classes=fixed,
                moving_classes=moving,
                same=(images[here], images[there]),
            )
