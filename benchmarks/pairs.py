"""Tables of pairs of the test images, for ``regista benchmark``.

python benchmarks/pairs.py brain_t1 [--pairs 6] [--data DIR] [-o brain_t1.csv]

Names in the table are absolute: it belongs to this machine. Then for instance
regista benchmark brain_t1.csv -o results/brain_t1 -m brain-t1 -m greedy --names …/label_names.csv \
    --names "tissues=1:CSF,2:GM,3:WM"
"""

import argparse
import csv
import itertools
from pathlib import Path

from harness.machine import data_folder

# fixed, moving: those of brain_t1.py
BRAINS = "1000-1001 1006-1002 1007-1008 1010-1009 1011-1012 1014-1013 1015-1017 1036-1000 1002-1010 1008-1015"


def brain_t1(folder: Path) -> list[dict[str, object]]:
    """Return ordered pairs of people, with 138 labels and three tissues; no masks: the scans are stripped."""
    rows = []
    for fixed, moving in (pair.split("-") for pair in BRAINS.split()):
        row: dict[str, object] = {"case": f"{fixed}-{moving}"}
        for role, person in (("fixed", fixed), ("moving", moving)):
            row[role] = folder / "brain_t1" / f"{person}_t1.nii.gz"
            row[f"{role}_labels"] = folder / "brain_t1" / f"{person}_labels.nii.gz"
            row[f"{role}_labels_tissues"] = folder / "brain_t1" / f"{person}_tissues.nii.gz"
        rows.append(row)
    return rows


def mouse_brain(folder: Path) -> list[dict[str, object]]:
    """Return all ordered pairs of the four mice."""
    rows = []
    for fixed, moving in itertools.permutations("1234", 2):
        row: dict[str, object] = {"case": f"{fixed}-{moving}"}
        for role, animal in (("fixed", fixed), ("moving", moving)):
            row[role] = folder / "mouse_brain" / f"{animal}_mri.nii.gz"
            row[f"{role}_labels"] = folder / "mouse_brain" / f"{animal}_labels.nii.gz"
        rows.append(row)
    return rows


def lung_ct(folder: Path) -> list[dict[str, object]]:
    """Return the lung both ways round, with masks and landmarks."""
    rows = []
    for names in (("baseline", "followup"), ("followup", "baseline")):
        row: dict[str, object] = {"case": "-".join(names)}
        for role, name in zip(("fixed", "moving"), names, strict=True):
            row[role] = folder / "lung_ct" / f"{name}.mha"
            row[f"{role}_mask"] = folder / "lung_ct" / f"{name}_mask.mha"
            row[f"{role}_points"] = folder / "lung_ct" / f"{name}_landmarks.txt"
        rows.append(row)
    return rows


TABLES = {function.__name__: function for function in (brain_t1, mouse_brain, lung_ct)}


def main() -> None:
    """Write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", choices=TABLES)
    parser.add_argument("--pairs", type=int, help="only so many, from the top")
    parser.add_argument("--data")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = TABLES[options.images](data_folder(options.data).resolve())[: options.pairs]
    path = options.output or Path(f"{options.images}.csv")
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{path}: {len(rows)} pairs")


if __name__ == "__main__":
    main()
