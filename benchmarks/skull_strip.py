"""Skull-stripping beside BET (brainextractor) and dipy's median_otsu, each in a process of its own.

python benchmarks/skull_strip.py [--threads 2] [--tools …] [--data DIR] [--bet-python PYTHON]

The truth is the brain masks of `brain_t1` 1000 and 1001, carried rigidly onto the whole heads of the same
people; the other heads have none, and are drawn for the eye: results/skull_strip_NAME.png. BET runs where
`brainextractor` is installed (pip install brainextractor), by default in this Python, else in --bet-python.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from harness.cases import Pair, run_command
from harness.machine import RESULTS, data_folder
from harness.measures import load_map
from harness.process import run_weighed
from harness.tables import markdown, write_rows, write_summary

HEADS = ("1000_head_2mm", "1001_head_2mm", "chris_t1", "chris_PD", "head_neck_t1")
TOOLS = ("regista", "regista_unrefined", "bet", "median_otsu")
BET = (
    "import sys, nibabel as nib; from brainextractor import BrainExtractor as B; "
    "b = B(img=nib.load(sys.argv[1])); b.run(); b.save_mask(sys.argv[2])"
)
OTSU = (
    "import sys, nibabel as nib, numpy as np; from dipy.segment.mask import median_otsu; "
    "i = nib.load(sys.argv[1]); d = np.asarray(i.dataobj, np.float32).reshape(i.shape[:3]); "
    "nib.save(nib.Nifti1Image(median_otsu(d, median_radius=4, numpass=4)[1].astype('u1'), i.affine), sys.argv[2])"
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--data")
    parser.add_argument("--bet-python", default=sys.executable)
    options = parser.parse_args()
    data = data_folder(options.data)
    rows: list[dict] = []
    for name in options.heads:
        head = data / "heads" / f"{name}.nii.gz"
        folder = RESULTS / "runs" / f"skull_strip_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        truth = true_mask(data, name, head, options.threads)
        masks = {}
        for tool in options.tools:
            mask = folder / f"{tool}.nii.gz"
            weighed = run_weighed(
                command(tool, head, mask, options), threads=options.threads, log=folder / f"{tool}.txt"
            )
            row = {"head": name, "tool": tool, "seconds": weighed.seconds, "peak_mb": weighed.peak_mb}
            if weighed.code == 0:
                masks[tool] = sitk.ReadImage(str(mask), sitk.sitkUInt8) > 0
                row |= measures(masks[tool], truth)
            else:
                row["failed"] = f"code {weighed.code}, see {folder.name}/{tool}.txt"
            rows.append(row)
            print(row, flush=True)
        draw(head, masks, truth, RESULTS / f"skull_strip_{name}.png")
    write_rows("skull_strip", rows)
    print(
        write_summary("skull_strip", "Skull-stripping", options.threads, [table(rows)]).read_text(
            encoding="utf-8"
        )
    )


def command(tool: str, head: Path, mask: Path, options: argparse.Namespace) -> list[str]:
    """Return a tool's command line."""
    if tool == "bet":
        return [options.bet_python, "-c", BET, str(head), str(mask)]
    if tool == "median_otsu":
        return [sys.executable, "-c", OTSU, str(head), str(mask)]
    program = str(Path(sys.executable).with_name("regista"))
    words = [program, "skull-strip", str(head), "-o", str(mask.with_name(f"{tool}_brain.nii.gz"))]
    words += ["--mask-out", str(mask), "--threads", str(options.threads), "--quiet"]
    return words + (["--refine-mm", "0"] if tool == "regista_unrefined" else [])


def true_mask(data: Path, name: str, head: Path, threads: int) -> sitk.Image | None:
    """Return the mask of the stripped scan of the same person on the head's grid, where there is one."""
    person = name.split("_")[0]
    stripped = data / "brain_t1" / f"{person}_t1.nii.gz"
    if not stripped.exists():
        return None
    mask = data / "brain_t1" / f"{person}_mask.nii.gz"
    pair = Pair(f"skull_strip_truth_{person}", str(stripped), str(head), fixed_mask=str(mask))
    outcome = run_command(pair, threads, preset="rigid", name="rigid")
    stripped2head = load_map([path.with_name("moving2fixed.h5") for path in outcome.transforms])
    image = sitk.Cast(sitk.ReadImage(str(mask)) > 0, sitk.sitkFloat32)
    return sitk.Resample(image, sitk.ReadImage(str(head)), stripped2head, sitk.sitkLinear, 0.0) > 0.5


def measures(mask: sitk.Image, truth: sitk.Image | None) -> dict[str, float]:
    """Return the volume and, where there is a truth, Dice and the mean and 95th percentile surface distance."""
    volume = float(np.prod(mask.GetSpacing())) * float(sitk.GetArrayViewFromImage(mask).sum()) / 1000
    if truth is None or not volume:
        return {"volume_ml": volume}
    mask.CopyInformation(truth)
    one, other = (sitk.GetArrayFromImage(image).astype(bool) for image in (mask, truth))
    distances = []
    for here, there in ((mask, truth), (truth, mask)):
        far = sitk.GetArrayFromImage(
            sitk.Abs(sitk.SignedMaurerDistanceMap(there, squaredDistance=False, useImageSpacing=True))
        )
        distances.append(far[sitk.GetArrayFromImage(sitk.LabelContour(here)) > 0])
    both = np.concatenate(distances)
    return {
        "volume_ml": volume,
        "dice": 2 * float((one & other).sum()) / float(one.sum() + other.sum()),
        "surface_mm": float(both.mean()),
        "hd95_mm": float(np.percentile(both, 95)),
    }


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown."""
    header = ("head", "tool", "Dice", "surface mm", "HD95 mm", "volume ml", "command s", "peak MB")
    keys = ("head", "tool", "dice", "surface_mm", "hd95_mm", "volume_ml", "seconds", "peak_mb")
    return markdown(header, [[row.get(key, "–") for key in keys] for row in rows])


def draw(head: Path, masks: dict[str, sitk.Image], truth: sitk.Image | None, path: Path) -> None:
    """Draw the masks' outlines on seven slices, one row for each tool."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not masks:
        return
    image = sitk.ReadImage(str(head))
    voxels, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    where = np.argwhere(sitk.GetArrayFromImage(next(iter(masks.values()))))
    low, middle, high = where.min(axis=0), where.mean(axis=0).astype(int), where.max(axis=0)
    views = [(0, int(low[0] + part * (high[0] - low[0]))) for part in (0.2, 0.4, 0.7)]
    views += [(1, int(low[1] + part * (high[1] - low[1]))) for part in (0.3, 0.6)]
    views += [(2, int(middle[2])), (2, int(low[2] + 0.25 * (high[2] - low[2])))]
    figure, axes = plt.subplots(
        len(masks), len(views), figsize=(3 * len(views), 3 * len(masks)), squeeze=False
    )
    for row, (tool, mask) in zip(axes, masks.items(), strict=True):
        outlines = [(mask, "red")] + ([] if truth is None else [(truth, "cyan")])
        for axis, (direction, index) in zip(row, views, strict=True):
            sides = [spacing[n] for n in range(3) if n != direction]
            axis.imshow(
                np.take(voxels, index, axis=direction), cmap="gray", origin="lower",
                vmax=np.percentile(voxels, 99.3), aspect=sides[0] / sides[1],
            )  # fmt: skip
            for outline, colour in outlines:
                cut = np.take(sitk.GetArrayFromImage(outline), index, axis=direction)
                if cut.any():
                    axis.contour(cut, [0.5], colors=colour, linewidths=0.8)
            axis.set_axis_off()
        row[0].set_title(tool, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


if __name__ == "__main__":
    main()
