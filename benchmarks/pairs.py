"""Tables of pairs of the test images, for ``regista benchmark``.

python benchmarks/pairs.py IMAGES -o FOLDER [--pairs 6] [--data DIR]

writes FOLDER/pairs.csv, and beside it the images and landmarks that had to be converted. Names in the table are
absolute: it belongs to this machine. `side_by_side.py` makes the tables it needs by itself.
"""

import argparse
import csv
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from harness.machine import data_folder

# fixed, moving: the ten of brain_t1.py, and two more of the four people that no preset was tuned on; with twelve
# pairs the Wilcoxon test can find a difference among some hundred comparisons
BRAINS = (
    "1000-1001 1006-1002 1007-1008 1010-1009 1011-1012 1014-1013 1015-1017 1036-1000 1002-1010 1008-1015 "
)
BRAINS += "1009-1012 1010-1011"
HISTOLOGY = {
    "lesions": ("Izd2-29-041-w35_HE", "Izd2-29-041-w35_proSPC"),
    "rat-kidney": ("Rat-Kidney_HE", "Rat-Kidney_PanCytokeratin"),
}
AIR_HU = -1000
"""Lowest CT number of the lung pairs: voxels outside the field of view, stored as −2048, become air."""

Row = dict[str, Any]


def brain_t1(data: Path, folder: Path) -> list[Row]:
    """Return ordered pairs of people, with 138 labels and three tissues; no masks: the scans are stripped."""
    parts = {"": "t1", "_labels": "labels", "_labels_tissues": "tissues"}
    return [_row(data / "brain_t1", pair.split("-"), "{}_{}.nii.gz", parts) for pair in BRAINS.split()]


def mouse_brain(data: Path, folder: Path) -> list[Row]:
    """Return all ordered pairs of the four mice, with 37 structures."""
    parts = {"": "mri", "_labels": "labels"}
    pairs = itertools.permutations("1234", 2)
    return [_row(data / "mouse_brain", pair, "{}_{}.nii.gz", parts) for pair in pairs]


def cardiac_cine(data: Path, folder: Path) -> list[Row]:
    """Return 24 hearts, ED moved onto ES. The spacing is not known: a voxel counts as one unit on every axis."""
    rows = []
    for source in sorted((data / "cardiac_cine").glob("*.npz")):
        arrays = np.load(source)
        row: Row = {"case": source.stem}
        for role, phase in (("fixed", "es"), ("moving", "ed")):
            for part, name in (("", phase), ("_labels", f"{phase}_labels")):
                row[f"{role}{part}"] = folder / f"{source.stem}_{name}.nii.gz"
                # from (slice, row, column) to (x, y, z)
                image = nib.Nifti1Image(arrays[name].transpose(2, 1, 0), np.eye(4))
                image.header.set_xyzt_units("unknown")
                nib.save(image, row[f"{role}{part}"])
        rows.append(row)
    return rows


def lung_ct(data: Path, folder: Path) -> list[Row]:
    """Return the lung both ways round, with masks and landmarks; nothing below `AIR_HU`."""
    source = data / "lung_ct"
    for name in ("baseline", "followup"):
        image = sitk.ReadImage(str(source / f"{name}.mha"))
        clipped = sitk.Clamp(image, image.GetPixelID(), AIR_HU, 32767)
        sitk.WriteImage(clipped, str(folder / f"{name}.nii.gz"))
    rows = []
    for pair in itertools.permutations(("baseline", "followup")):
        row: Row = {"case": "-".join(pair)}
        for role, name in zip(("fixed", "moving"), pair, strict=True):
            row[role] = folder / f"{name}.nii.gz"
            row[f"{role}_mask"] = source / f"{name}_mask.mha"
            row[f"{role}_points"] = source / f"{name}_landmarks.txt"
        rows.append(row)
    return rows


def lung_ct_moved(data: Path, folder: Path) -> list[Row]:
    """Return `lung_ct` with the moving scan, its mask and landmarks 40 mm and 25° further away, about each axis."""
    rows = []
    for pair in lung_ct(data, folder):
        for axis in range(3):
            image = sitk.ReadImage(str(pair["moving"]))
            center = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
            turn, shift = [0.0] * 3, [0.0] * 3
            turn[axis], shift[(axis + 1) % 3] = np.radians(25), 40.0
            away = sitk.Euler3DTransform(center, *turn, shift)
            row = pair | {"case": f"{pair['case']}-{'xyz'[axis]}"}
            for part in ("moving", "moving_mask"):
                moved = sitk.ReadImage(str(pair[part]))
                moved.SetOrigin(away.TransformPoint(moved.GetOrigin()))
                direction = np.reshape(away.GetMatrix(), (3, 3)) @ np.reshape(moved.GetDirection(), (3, 3))
                moved.SetDirection(direction.ravel().tolist())
                row[part] = folder / f"{row['case']}_{part}.nii.gz"
                sitk.WriteImage(moved, str(row[part]))
            head, points = _elastix_points(pair["moving_points"])
            row["moving_points"] = folder / f"{row['case']}_landmarks.txt"
            lines = [" ".join(map(str, away.TransformPoint(point))) for point in points]
            row["moving_points"].write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
            rows.append(row)
    return rows


def lung_mri(data: Path, folder: Path) -> list[Row]:
    """Return all ordered pairs of three people, with five lobes and masks of the lungs."""
    parts = {"": "h1", "_labels": "lobes", "_mask": "mask"}
    pairs = itertools.permutations(("0004", "0006", "0007"), 2)
    return [_row(data / "lung_mri", pair, "{}_{}.nii.gz", parts) for pair in pairs]


def histology(data: Path, folder: Path) -> list[Row]:
    """Return both pairs of stains both ways round, in colour, with landmarks paired by their numbers."""
    rows = []
    for name, pair in HISTOLOGY.items():
        tables = [_landmarks(data / "histology" / name / f"{stain}.csv") for stain in pair]
        shared = [number for number in tables[0] if number in tables[1]]
        for stain, table in zip(pair, tables, strict=True):
            lines = [f"{','.join(table[number])},{number}" for number in shared]
            (folder / f"{stain}.csv").write_text("\n".join(["x,y,label", *lines]) + "\n", encoding="utf-8")
        for fixed, moving in itertools.permutations(pair):
            row: Row = {"case": f"{name}-{fixed.rpartition('_')[2]}"}
            for role, stain in (("fixed", fixed), ("moving", moving)):
                row[role] = data / "histology" / name / f"{stain}.jpg"
                row[f"{role}_points"] = folder / f"{stain}.csv"
            rows.append(row)
    return rows


def brain_slices_2d(data: Path, folder: Path) -> list[Row]:
    """Return twelve pairs of T1 slices of people, each with the next, with labels."""
    people = [f"{n:02d}" for n in range(1, 13)]
    pairs = zip(people, [*people[1:], people[0]], strict=True)
    parts = {"": "t1", "_labels": "labels"}
    return [_row(data / "brain_slices_2d", pair, "{}_{}.nii.gz", parts) for pair in pairs]


TABLES: dict[str, Callable[[Path, Path], list[Row]]] = {
    function.__name__: function
    for function in (
        brain_t1,
        mouse_brain,
        cardiac_cine,
        lung_ct,
        lung_ct_moved,
        lung_mri,
        histology,
        brain_slices_2d,
    )
}


def write_pairs(images: str, data: Path, folder: Path, pairs: int | None = None) -> Path:
    """Write the table of a folder of test images, and what it needs; return the table's path."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = TABLES[images](data.resolve(), folder)[:pairs]
    path = folder / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _elastix_points(path: Path) -> tuple[list[str], list[list[float]]]:
    """Return the two lines above the points of an elastix file, and the points (mm, LPS)."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return lines[:2], [[float(x) for x in line.split()] for line in lines[2:] if line.strip()]


def _row(folder: Path, pair: Sequence[str], pattern: str, parts: dict[str, str]) -> Row:
    row: Row = {"case": "-".join(pair)}
    for role, name in zip(("fixed", "moving"), pair, strict=True):
        row |= {f"{role}{column}": folder / pattern.format(name, part) for column, part in parts.items()}
    return row


def _landmarks(path: Path) -> dict[str, tuple[str, str]]:
    """Return x and y in pixels by number."""
    with path.open(encoding="utf-8", newline="") as stream:
        return {line[""]: (line["X"], line["Y"]) for line in csv.DictReader(stream)}


def main() -> None:
    """Write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", choices=TABLES)
    parser.add_argument("--pairs", type=int, help="only so many, from the top")
    parser.add_argument("--data")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    print(write_pairs(options.images, data_folder(options.data), options.output, options.pairs))


if __name__ == "__main__":
    main()
