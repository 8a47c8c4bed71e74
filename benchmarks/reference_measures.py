"""Our measures beside those of the code they follow, on random data: largest differences.

python benchmarks/reference_measures.py [--l2r DIR] [--ndv DIR] [--cases 4]

``--l2r`` is a checkout of the Learn2Reg challenge (github.com/MDL-UzL/L2R): Dice, HD95, SDlogJ and TRE of random tasks
on disk, scored by its `evaluate_L2R` and by ``regista evaluate learn2reg``. ``--ndv`` is one of the non-diffeomorphic
volume's authors (github.com/yihao6/digital_diffeomorphism; needs PyTorch). Surface distances are compared with MedPy
where it is installed (``pip install medpy``). Ends with code 1 where a difference exceeds what the documentation says.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from harness.tables import markdown
from regista.core import Grid, LabelImage
from regista.evaluation import label_measures, transform_measures
from regista.transforms import DisplacementField

SHAPE, SPACING, LABELS = (26, 31, 22), (1.5, 1.0, 2.2), [1, 2, 3, 4, 5]
BOUNDS = {
    "Learn2Reg Dice": 1e-12,
    "Learn2Reg HD95, voxels": 1e-9,
    "Learn2Reg SDlogJ": 1e-8,
    "Learn2Reg TRE, mm": 1e-5,
    "NDV, %": 1e-6,
    "MedPy HD, mm": 1e-9,
    "MedPy ASSD, mm": 1e-9,
}
Difference = tuple[str, float]


def main() -> int:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--l2r", type=Path, help="checkout of MDL-UzL/L2R")
    parser.add_argument("--ndv", type=Path, help="checkout of yihao6/digital_diffeomorphism")
    parser.add_argument("--cases", type=int, default=4)
    options = parser.parse_args()
    rng, found = np.random.default_rng(0), list[Difference]()
    for _ in range(options.cases):
        if options.l2r:
            found += learn2reg(options.l2r, rng)
        if options.ndv:
            found += non_diffeomorphic_volume(options.ndv, rng)
        if find_spec("medpy"):
            found += medpy(rng)
    if not found:
        parser.error("there is nothing to compare with: give --l2r or --ndv, or install medpy")
    values = {name: [value for other, value in found if other == name] for name in dict(found)}
    rows = [[name, len(v), f"{max(v):.2g}", f"{BOUNDS[name]:.0e}"] for name, v in values.items()]
    print(markdown(("measure", "values", "largest difference", "bound"), rows))
    return int(any(not max(v) <= BOUNDS[name] for name, v in values.items()))


def blobs(rng: np.random.Generator, count: int = len(LABELS) + 1) -> np.ndarray:
    """Return a random label map, all of whose labels touch."""
    return np.stack([gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(count)]).argmax(0)


def field(rng: np.random.Generator, size: float) -> np.ndarray:
    """Return a random smooth displacement in voxels, ``(I, J, K, 3)`` float32."""
    parts = [size * gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(3)]
    return np.stack(parts, -1).astype(np.float32)


def learn2reg(checkout: Path, rng: np.random.Generator) -> Iterator[Difference]:
    """Score a random task by the challenge's code and by ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_task(folder, rng)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate(checkout)(str(folder / "fields"), str(folder), str(folder / "theirs.json"), str(config))
        theirs = json.loads((folder / "theirs.json").read_text(encoding="utf-8"))["cases"]
        words = ["evaluate", "learn2reg", str(config), "--fields", str(folder / "fields"), "--json"]
        done = subprocess.run([sys.executable, "-m", "regista", *words], capture_output=True, check=True)
        ours = json.loads(done.stdout)["cases"]
    names = {"DSC": "Dice", "HD95": "HD95, voxels", "LogJacDetStd": "SDlogJ", "TRE": "TRE, mm"}
    assert ours.keys() == theirs.keys()
    for case, scores in theirs.items():
        for key, measure in names.items():
            one, other = (np.atleast_1d(np.array(s[key]["detailed"], float)) for s in (scores, ours[case]))
            assert np.array_equal(np.isnan(one), np.isnan(other)), (case, key)
            for value in np.abs(one - other)[~np.isnan(one)]:
                yield f"Learn2Reg {measure}", float(value)


def evaluate(checkout: Path):
    """Return the challenge's `evaluate_L2R`."""
    # names that their code asks for and that are no more, or that only word its errors
    np.Inf, np.NAN = np.inf, np.nan
    stub = types.ModuleType("evalutils.exceptions")
    stub.ValidationError = ValueError
    sys.modules.setdefault("evalutils", types.ModuleType("evalutils"))
    sys.modules.setdefault("evalutils.exceptions", stub)
    for path in (checkout / "evaluation" / "surface-distance", checkout / "evaluation"):
        if not path.is_dir():
            raise SystemExit(f"{checkout} is no checkout of MDL-UzL/L2R: it has no folder {path.name}")
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
    from evaluation import evaluate_L2R

    return evaluate_L2R


def write_task(folder: Path, rng: np.random.Generator) -> Path:
    """Write two pairs with labels, masks and landmarks, and their fields, one of each kind of file."""
    for kind in ("imagesTr", "labelsTr", "masksTr", "landmarksTr", "fields"):
        (folder / kind).mkdir()
    pairs = []
    for subject in (1, 2):
        names = [f"Toy_{subject:04d}_{modality:04d}" for modality in (0, 1)]
        for name in names:
            labels = blobs(rng).astype(np.uint8)
            labels[labels == rng.integers(1, 9)] = 0  # now and then a label is missing
            mask = gaussian_filter(rng.normal(size=SHAPE), 3) > -0.02
            for kind, data in (("images", rng.normal(size=SHAPE)), ("labels", labels), ("masks", mask)):
                image = nib.Nifti1Image(
                    data.astype(np.float32 if kind == "images" else np.uint8), np.diag([*SPACING, 1])
                )
                nib.save(image, folder / f"{kind}Tr" / f"{name}.nii.gz")
            np.savetxt(folder / "landmarksTr" / f"{name}.csv", rng.uniform(1, 20, (9, 3)), delimiter=",")
        vectors, stem = field(rng, 6.0), folder / "fields" / f"disp_{subject:04d}_{subject:04d}"
        if subject == 1:
            nib.save(nib.Nifti1Image(vectors, np.eye(4)), f"{stem}.nii.gz")
        else:
            np.savez_compressed(f"{stem}.npz", vectors)
        fixed, moving = (f"imagesTr/{name}.nii.gz" for name in names)
        pairs.append({"fixed": fixed, "moving": moving})
    methods = [
        {"name": "LogJacDetStd", "metric": "sdlogj"},
        {"name": "DSC", "metric": "dice", "labels": LABELS},
        {"name": "HD95", "metric": "hd95", "labels": LABELS},
        {"name": "TRE", "metric": "tre", "dest": "landmarks"},
    ]
    tree = {"task_name": "Toy", "expected_shape": [*SHAPE, 3], "masked_evaluation": True}
    path = folder / "Toy_VAL_evaluation_config.json"
    path.write_text(json.dumps(tree | {"evaluation_methods": methods, "eval_pairs": pairs}), encoding="utf-8")
    return path


def non_diffeomorphic_volume(checkout: Path, rng: np.random.Generator) -> Iterator[Difference]:
    """Measure a random field by the authors' code and by ours, whole and within a mask."""
    if not (checkout / "digital_diffeomorphism").is_dir():
        raise SystemExit(f"{checkout} is no checkout of yihao6/digital_diffeomorphism")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    from digital_diffeomorphism import ndv

    grid, vectors = Grid(SHAPE, np.eye(4)), field(rng, 14.0)
    for mask in (None, rng.random(SHAPE) < 0.5):
        theirs = ndv(vectors.copy(), mask, is_disp=True)[1]
        ours = transform_measures(DisplacementField(np.moveaxis(vectors, -1, 0), grid), grid, mask=mask)
        assert ours.ndv_percent > 0.01
        yield "NDV, %", abs(ours.ndv_percent - float(theirs))


def medpy(rng: np.random.Generator) -> Iterator[Difference]:
    """Measure the surfaces of random labels with MedPy and with ours."""
    from medpy.metric.binary import assd, hd

    grid = Grid(SHAPE, np.diag([*SPACING, 1]))
    fixed, warped = (LabelImage(blobs(rng), grid) for _ in range(2))
    for score in label_measures(fixed, warped).labels:
        masks = fixed.data == score.label, warped.data == score.label
        yield "MedPy HD, mm", abs(score.hd_mm - hd(*masks, SPACING))
        yield "MedPy ASSD, mm", abs(score.assd_mm - assd(*masks, SPACING))


if __name__ == "__main__":
    sys.exit(main())
