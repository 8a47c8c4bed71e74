"""Train the T1–T2 metric that ships with the package, and put it there.

python benchmarks/train_shipped_metric.py [--minutes 60] [--steps 2000] [--batch 96] [--nearest 1] [--threads 1] [--data DIR]

On one patient of `brain_multicontrast` (k = 1), skull-stripped T1 and T2 of 1 mm, CC-BY; the other is held out, and
chooses the weights. The same command goes on where it stopped; at the end the files go to
src/regista/learning/models/brain-t1-t2.
"""

import argparse
import shutil
from dataclasses import replace

from harness.deep_metric import PATIENTS, volumes
from harness.learning import Printer, command_line
from harness.machine import RESULTS, ROOT, data_folder
from regista.core import set_threads
from regista.learning import MetricConfig, MetricOrigin, PatchConfig, fit_metric, prepare_pair

NAME = "brain-t1-t2"
FILES = ("model.safetensors", "model.json", "card.md", "log.csv")
ORIGIN = MetricOrigin(
    contrasts=("t1", "t2"),
    data=(
        "skull-stripped T1 and T2 of 1 mm of people with multiple sclerosis: Lesjak et al., A Novel Public MR Image "
        "Dataset of Multiple Sclerosis Patients With Lesion Segmentations Based on Multi-rater Consensus, "
        "Neuroinformatics 2017, doi:10.1007/s12021-017-9348-7, as packaged by open_ms_data"
    ),
    licence="CC-BY; cite Lesjak et al. 2017",
    command="",
)


def main() -> None:
    """Train, or go on, and copy the finished model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--nearest", type=float, default=1.0, help="shift of the last negatives, voxels")
    parser.add_argument("--noise", type=float, default=PatchConfig.noise)
    parser.add_argument("--gamma", type=float, default=PatchConfig.gamma)
    parser.add_argument("--name", default=NAME, help="of a try; any other than the default is not shipped")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data")
    options = parser.parse_args()
    set_threads(options.threads)
    patches = PatchConfig(nearest_vox=(4.0, options.nearest), noise=options.noise, gamma=options.gamma)
    config = MetricConfig(
        ndim=3, steps=options.steps, batch=options.batch, learning_rate=2e-3, patches=patches
    )
    data = data_folder(options.data)
    train, held = (prepare_pair(*volumes(data, name), config, subject=name) for name in PATIENTS)
    origin = replace(
        ORIGIN, command=command_line("train_shipped_metric.py", options, ("data", "minutes", "name"))
    )
    folder = RESULTS / "models" / options.name
    done = fit_metric(
        config, [train], folder, origin, held_out=[held], minutes=options.minutes, progress=Printer()
    )
    if not done.finished:
        print(f"{done.steps} of {options.steps} steps: run this again to go on")
        return
    if options.name != NAME:
        print(f"{folder}: not shipped")
        return
    place = ROOT / "src" / "regista" / "learning" / "models" / NAME
    place.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(folder / name, place / name)
    print(f"{place.relative_to(ROOT)}: {sum((place / name).stat().st_size for name in FILES) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
