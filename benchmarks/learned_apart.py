"""Train where a GPU is and the images are not: pack here, train there, measure here.

python benchmarks/learned_apart.py pack scans.pack brain --half-resolution --subjects 11
python benchmarks/learned_apart.py train scans.pack brain --half-resolution --subjects 11 --name NAME --device cuda [-o FOLDER]
python benchmarks/learned_brain.py --half-resolution --subjects 11 --name NAME

The first writes the scans as the network sees them (intensities in 16 bits, no names of files); the second, which needs nothing but
NumPy, SciPy, Numba, PyTorch and safetensors, trains on them; the third, with the folder it wrote in `results/learned_brain/NAME`,
finds the training done and measures. Options are those of `learned_brain.py`, or of `learned_contrast.py` after `contrast`.
"""

import argparse
import lzma
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import learned_brain
import learned_contrast
from harness.learning import Printer
from harness.machine import RESULTS
from regista.core import set_threads
from regista.learning import PairSource, PreparedScans, train

SETS = {"brain": learned_brain, "contrast": learned_contrast}
STEPS = 65535
"""Intensities from 0 to 1 in 16 bits."""


def packed(scans: PreparedScans | None) -> PreparedScans | None:
    """Return scans in fewer bytes."""
    if scans is None:
        return None
    images = [np.rint(one * STEPS).astype(np.uint16) for one in scans.images]
    codes = None if scans.codes is None else [one.astype(np.uint16) for one in scans.codes]
    return replace(scans, images=images, codes=codes)


def unpacked(scans: PreparedScans | None) -> PreparedScans | None:
    """Return what was packed."""
    if scans is None:
        return None
    images = [one.astype(np.float32) / np.float32(STEPS) for one in scans.images]
    codes = None if scans.codes is None else [one.astype(np.int32) for one in scans.codes]
    return replace(scans, images=images, codes=codes)


def pack(path: Path, images: str, options: argparse.Namespace) -> None:
    """Write the scans, or the maps, of a run."""
    script = SETS[images]
    parts, *more = script.prepared(options)
    tree: dict[str, Any] = {"shape": parts.config.inputs.shape}
    if images == "contrast":
        tree["source"] = replace(more[0], maps=tuple(one.astype(np.uint16) for one in more[0].maps))
    else:
        tree |= {"train": packed(parts.train), "validation": packed(parts.validation)}
    with lzma.open(path, "wb", preset=3) as stream:
        pickle.dump(tree, stream)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def train_packed(path: Path, images: str, options: argparse.Namespace, folder: Path | None) -> None:
    """Train on what `pack` wrote."""
    with lzma.open(path, "rb") as stream:
        tree = pickle.load(stream)
    config = SETS[images].config_of(options).with_shape(tree["shape"])
    validation = None
    if images == "contrast":
        maps = tuple(one.astype(np.int32) for one in tree["source"].maps)
        changes = {
            "deformation_vox": options.deformation,
            "same_contrast": options.same_contrast,
            "reversed_contrast": options.reversed_contrast,
        }
        if options.maps == "labels":
            changes["across"] = options.across
        source = replace(tree["source"], maps=maps, **changes)
    else:
        scans, validation = unpacked(tree["train"]), unpacked(tree["validation"])
        assert scans is not None
        if not config.loss.dice_weight:
            scans = replace(scans, codes=None, values=())
        source = PairSource(scans, config.training.augmentation)
    place = folder or RESULTS / f"learned_{images}" / options.name
    result = train(
        config,
        source,
        place,
        validation=validation,
        minutes=options.minutes,
        progress=Printer(),
        device=options.device,
    )
    print(f"{place}: {result.steps} steps, {result.total_seconds:.0f} s, {result.best}")


def main() -> None:
    """Pack or train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pack", "train"))
    parser.add_argument("pack", type=Path, help="file of scans as the network sees them")
    parser.add_argument("images", choices=SETS)
    parser.add_argument(
        "-o", "--output", type=Path, help="folder of the training; default results/learned_SET/NAME"
    )
    own, rest = parser.parse_known_args()
    options = SETS[own.images].arguments().parse_args(rest)
    set_threads(options.threads)
    if own.what == "pack":
        pack(own.pack, own.images, options)
    elif own.pack.is_file():
        train_packed(own.pack, own.images, options, own.output)
    else:
        sys.exit(f"{own.pack} is missing: write it with `learned_apart.py pack` first")


if __name__ == "__main__":
    main()
