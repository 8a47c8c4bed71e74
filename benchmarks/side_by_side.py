"""Methods side by side on the test images, by ``regista benchmark``: the tables of docs/benchmarks.

python benchmarks/side_by_side.py SET [--quick | --seconds] [--slow] [--pairs N] [--threads 2] [--data DIR] [-- OPTIONS]

leaves tables and plots in results/SET (results/quick/SET, results/seconds/SET). Stopped, the same command takes it up
where it ended. Seconds compare only where nothing else runs: ``--seconds`` takes them on a few pairs, without surface
distances, so that a run of many pairs need not have the machine to itself for hours.
OPTIONS after -- go to ``regista benchmark`` as they are: -m dipy:syn, --repeats 3, --retry-failed. `publish.py`
puts a finished run on its page.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.machine import RESULTS, ROOT, commit, data_folder
from pairs import write_pairs
from regista.benchmarking._machine import sources
from regista.benchmarking._store import Store
from regista.core import RegistaError

PEERS = (
    "ants:affine",
    "ants:syn-mi",
    "greedy",
    "elastix:bspline",
    "sitk:demons",
    "sitk:diffeomorphic-demons",
)
WITH_DIPY = (*PEERS, "dipy:syn")
ALL = (*WITH_DIPY, "ants:syn-cc")


@dataclass(frozen=True, kw_only=True)
class Set:
    """What is run on a set of images.

    Parameters
    ----------
    images : str
        Table of `pairs`.
    ours : sequence of str
        Presets of Regista, the one meant for such images first.
    peers, slow : sequence of str
        Methods beside them; those that take minutes a pair only with ``--slow``.
    quick : sequence of str
        Methods of a quick look, on the first pair.
    options : sequence of str
        Further options of ``regista benchmark``; ``{data}`` is the folder of images.
    """

    images: str
    ours: Sequence[str]
    peers: Sequence[str] = WITH_DIPY
    slow: Sequence[str] = ("ants:syn-cc",)
    quick: Sequence[str] = ("affine", "sitk:demons")
    options: Sequence[str] = ()


# the fifth ventricle, both insulae and a vitamin E tablet are in some of the maps only
_BRAIN = (
    "--labels",
    "common",
    "--names",
    "{data}/brain_t1/label_names.csv",
    "--names",
    "tissues=1:CSF,2:GM,3:WM",
)
SETS = {
    "brain": Set(
        images="brain_t1",
        ours=("brain-t1", "syn-cc", "diffeomorphic-demons", "bspline-mi", "fast", "affine"),
        peers=PEERS,
        slow=("dipy:syn", "ants:syn-cc"),
        options=_BRAIN,
    ),
    "brain_syn_cc": Set(  # the slow ones of `brain` alone, on a few pairs
        images="brain_t1",
        ours=("syn-cc",),
        peers=("greedy", "dipy:syn", "ants:syn-cc-2", "ants:syn-cc"),
        slow=(),
        quick=("syn-cc",),
        options=(*_BRAIN, "--methods-file", str(ROOT / "benchmarks" / "ants_radius_2.toml")),
    ),
    "brain_same_affine": Set(
        images="brain_t1",
        ours=("brain-t1", "fast"),
        peers=PEERS[1:],
        slow=("dipy:syn", "ants:syn-cc"),
        quick=("fast", "sitk:demons"),
        options=(*_BRAIN, "--equal-affine", "ants:affine"),
    ),
    "mouse": Set(images="mouse_brain", ours=("mouse-brain", "brain-t1", "affine")),
    "cardiac": Set(
        images="cardiac_cine",
        ours=("cardiac-cine", "brain-t1", "affine"),
        peers=PEERS,
        slow=("greedy:one-level", "dipy:syn", "ants:syn-cc"),
        options=(
            *("--unit", "px", "--names", "labels=1:RV,2:myocardium,3:LV"),
            *("--methods-file", str(ROOT / "benchmarks" / "flat_stacks.toml")),
        ),
    ),
    "lung_ct": Set(images="lung_ct", ours=("lung-ct", "brain-t1", "affine")),
    "lung_ct_moved": Set(
        images="lung_ct_moved",
        ours=("lung-ct", "convex"),
        peers=("ants:affine", "ants:syn-mi", "greedy"),
        quick=("lung-ct",),
    ),
    "lung_mri": Set(images="lung_mri", ours=("lung-mri", "lung-ct", "affine")),
    "histology": Set(
        images="histology",
        ours=("histology", "2d", "affine"),
        peers=ALL,
        slow=(),
        options=("--unit", "px", "--convention", "lps", "--repeats", "2"),
    ),
    "slices": Set(
        images="brain_slices_2d", ours=("2d", "affine"), peers=ALL, slow=(), options=("--unit", "px")
    ),
}


def command(name: str, options: argparse.Namespace) -> tuple[list[str], Path]:
    """Return the ``regista benchmark`` command of a set, and its folder of results."""
    chosen, data = SETS[name], data_folder(options.data).resolve()
    part = "quick" if options.quick else "seconds" if options.seconds else ""
    folder = RESULTS / part / name
    pairs = 1 if options.quick else options.pairs
    with Store(folder).locked():  # never under a benchmark that reads them
        table = write_pairs(chosen.images, data, folder / "pairs", pairs)
    methods = (
        chosen.quick
        if options.quick
        else (*chosen.ours, *chosen.peers, *(chosen.slow if options.slow else ()))
    )
    words = [str(Path(sys.executable).with_name("regista")), "benchmark", str(table), "-o", str(folder)]
    words += [word for method in methods for word in ("-m", method)]
    words += [word.format(data=data) for word in chosen.options]
    words += ["--repeats", "1"] if options.quick else []
    words += ["--surface", "none"] if options.seconds else []
    words += ["--threads", str(options.threads), "--title", name, *options.extra]
    return words, folder


def _without_folder(words: Sequence[str]) -> list[str]:
    """Return a command without the folder of images: it belongs to this machine."""
    return [
        word
        for before, word in zip(("", *words), words, strict=False)
        if before != "--data" and word != "--data" and not word.startswith("--data=")
    ]


def main() -> None:
    """Run a set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS)
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--quick", action="store_true", help="one pair, quick methods: does everything run?")
    parts.add_argument(
        "--seconds", action="store_true", help="a run for its seconds, on a machine left alone"
    )
    parser.add_argument("--slow", action="store_true", help="also methods that take minutes a pair")
    parser.add_argument("--pairs", type=int, help="only so many, from the top")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data")
    parser.epilog = "Options after -- go to regista benchmark as they are."
    # argparse would take the place of the words after -- for filled once it has seen the set
    own, _, extra = "\0".join(sys.argv[1:]).partition("\0--\0")
    options = parser.parse_args(own.split("\0") if own else [])
    options.extra = extra.split("\0") if extra else []
    try:
        words, folder = command(options.set, options)
    except RegistaError as error:
        sys.exit(f"Error: {error}")
    made = {"commit": commit(), "sources": sources()}  # as they are now, not when the run has ended
    asked = ["python", "benchmarks/side_by_side.py", *_without_folder(sys.argv[1:])]
    print(shlex.join(words), flush=True)
    code = subprocess.run(words, check=False).returncode
    if code in (0, 1):  # neither refused nor stopped
        run = {"set": options.set, "command": shlex.join(asked), **made}
        (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
