"""What trained networks are compared with, and how their runs are kept: rows, and what they were made by."""

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from harness.learning import Printer
from harness.machine import RESULTS, commit, describe
from harness.tables import markdown, spread, write_rows
from regista.core import Grid, Image, set_threads
from regista.io import read_transform, write
from regista.kernels.cpu.fields import jacobian_determinant
from regista.learning import Provenance, RegistrationModel, TrainingResult, fit, load_model
from regista.transforms import Composite, Transform, to_displacement_field, with_spaces
from regista.transforms._fields import to_voxels

Method = Callable[[Image, Image], Transform]
Row = dict[str, object]


def ants_method(kind: str) -> Method:
    """Return ANTsPy's `registration` of a kind, as a map fixed → moving; files are written and read for each pair."""
    import ants

    def run(fixed: Image, moving: Image) -> Transform:
        with tempfile.TemporaryDirectory() as place:
            pair = []
            for role, image in (("fixed", fixed), ("moving", moving)):
                path = Path(place) / f"{role}.nii.gz"
                write(path, Image(image.as_float32(), image.grid))
                pair.append(ants.image_read(str(path)))
            found = ants.registration(*pair, kind, outprefix=f"{place}/out", random_seed=1)
            parts = tuple(with_spaces(read_transform(path), None, None) for path in found["fwdtransforms"])
        return parts[0] if len(parts) == 1 else Composite(parts)

    return run


def deformation(transform: Transform, grid: Grid) -> tuple[float, float]:
    """Return the share of folded voxels, percent, and the SD of log J over the others."""
    field = to_displacement_field(transform, grid)
    found = np.asarray(jacobian_determinant(to_voxels(field.vectors_mm, grid)))
    kept = found[found > 0]
    rough = float(np.std(np.log(kept))) if kept.size else float("nan")
    return 100 * float(np.mean(found <= 0)), rough


def run(
    classical_name: str,
    options: argparse.Namespace,
    classical: Callable[[argparse.Namespace], list[Row]],
    train_and_test: Callable[[argparse.Namespace], list[Row]],
    columns: Sequence[tuple[str, str, int]],
) -> None:
    """Run what needs no training and keep its rows, or train and set the network beside them; print the table."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(options.threads)
    set_threads(options.threads)
    if options.classical:
        rows = classical(options)
        write_rows(classical_name, rows)
    else:
        rows = train_and_test(options)
        known = RESULTS / f"{classical_name}.csv"
        rows = (read_rows(known) if known.is_file() else []) + rows
    print(table(rows, columns))


def train_and_keep(
    script: str,
    options: argparse.Namespace,
    prepare: Callable[[argparse.Namespace], Sequence],
    test: Callable[[argparse.Namespace, RegistrationModel], list[Row]],
    device: str = "cpu",
) -> list[Row]:
    """Train in ``results/SCRIPT/NAME``, or go on there, test the network and keep the run; return the rows.

    Parameters
    ----------
    script : str
        What the files of the run begin with.
    options : argparse.Namespace
        Name of the run, and minutes and threads it has.
    prepare : callable
        Gives the parts, where the model will have come from, and the source of its pairs unless they are of the parts.
    test : callable
        Gives a row for each case and method.
    device : str
        What trains.
    """
    sources = commit()  # as they are now, not when the run has ended
    parts, origin, *source = prepare(options)
    place = RESULTS / script / options.name
    result, _ = fit(
        parts,
        place,
        origin,
        source=source[0] if source else None,
        minutes=options.minutes,
        progress=Printer(),
        device=device,
    )
    model = load_model(place)
    rows = test(options, model)
    keep_run(f"{script}_{options.name}", options, origin, result, model, rows, sources)
    return rows


def keep_run(
    name: str,
    options: argparse.Namespace,
    origin: Provenance,
    result: TrainingResult,
    model: RegistrationModel,
    rows: Sequence[Row],
    commit: str,
) -> None:
    """Write ``results/NAME.csv``, and ``NAME.json`` with all that a page has to say of the run."""
    write_rows(name, rows)
    training = model.config.training
    facts = {
        "command": origin.command,
        "commit": commit,
        "ended": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": describe(options.threads),
        "network": model.config.network.name,
        "parameters": sum(weight.size for weight in model.weights.values()),
        "steps": result.steps,
        "planned": training.steps,
        "batch": training.batch,
        "minutes": round(result.total_seconds / 60, 1),
        "trained_by": list(result.devices),
        "subjects": {part: len(names) for part, names in origin.subjects.items()},
        "loss": model.config.loss.to_dict(),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_run(name: str) -> tuple[dict, list[Row]]:
    """Return what `keep_run` wrote: facts, and rows whose figures are numbers again."""
    facts = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return facts, read_rows(RESULTS / f"{name}.csv")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file, figures as numbers."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(stream)]


def table(rows: Sequence[Row], columns: Sequence[tuple[str, str, int]]) -> str:
    """Return means and SD over cases, a line per method.

    Parameters
    ----------
    rows : sequence of dict
        A row per case and method.
    columns : sequence of (str, str, int)
        Key of the rows, title, digits.
    """
    lines = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        cells = [spread([float(row[key]) for row in own if row[key] != ""], n) for key, _, n in columns]
        lines.append([method, len(own), *cells])
    return markdown(["method", "cases", *(title for _, title, _ in columns)], lines)


def budget(facts: dict) -> str:
    """Return a sentence on how a network was trained."""
    people = ", ".join(f"{count} {part}" for part, count in facts["subjects"].items() if count)
    by = f" by {' and '.join(facts['trained_by'])}" if facts.get("trained_by") else ""
    rest = "" if facts["steps"] == facts["planned"] else f" (of {facts['planned']} planned)"
    return (
        f"{facts['network']}, {facts['parameters']} weights, {facts['steps']} steps{rest} of {facts['batch']} pairs, "
        f"{facts['minutes']:g} minutes in all{by}, validation included; subjects: {people}. Measured at commit {facts['commit']}, "
        f"{facts['ended']}.\n\n`{facts['command']}`"
    )


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
