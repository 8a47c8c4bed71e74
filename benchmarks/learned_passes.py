"""How far to follow a network: every half of every pass on cases near and far, and what the rule of `_passes.py` makes of them.

python benchmarks/learned_passes.py [--model any-contrast] [--passes 3] [--name NAME] [--threads 2] [--data DIR]

Cases: the known maps of `multimodal.py` by 10, 6, 3, 2 and 1.5 mm at most; the contrasts of both patients as they are, in either order,
with either truth of `learned_contrast.py`, and stretched by a percent or so, which no network is to mend; T1 pairs of two people by Dice. For every place on the way that the answers point: how far voxels moved from
the place before, the likeness of the images there, and the distance from either truth (or Dice). The table tells where the rule
stops, and the best place on the way, by the peers' truth. Patient 07 and the first six T1 pairs are what its numbers were chosen on; patient 19 and twelve other T1 pairs
were not.
Results: results/learned_passes_NAME.csv (every place), .json and .md.
"""

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import learned_brain
from harness.learning import dice_of
from harness.machine import data_folder
from harness.tables import markdown, write_rows, write_summary
from learned_contrast import OneHead, as_they_are, known_case
from multimodal import CASES
from regista.cli._models import linear_plan
from regista.core import Image, LabelImage, set_threads
from regista.io import read, read_labels
from regista.learning import RegistrationModel, load_model
from regista.learning._passes import Place, last_worth_following, least_gain, way
from regista.learning._prepare import model_grid, seen_by_network
from regista.registration import register
from regista.transforms import Affine, Composite, DisplacementField, Transform, resample

MOVED_MM = (10.0, 6.0, 3.0, 2.0, 1.5)
CONTRASTS = {"patient07": ("t1", "t2", "flair"), "patient19": ("t1", "t2")}
CHOSEN_ON = "chosen on"
OTHERS = "others"


STRETCHES = ((1.01, 0.99, 1.01), (0.985, 1.0, 1.015), (1.008, 1.008, 1.008))
"""Along the three axes, about the middle of the head."""


class Case(NamedTuple):
    """A pair and what tells how well it is registered."""

    kind: str
    name: str
    half: str
    fixed: Image
    moving: Image
    head: OneHead | None = None
    labels: tuple[LabelImage, LabelImage] | None = None

    def measured(self, transform: Transform) -> tuple[float, ...]:
        """Return the mean distance from the truth by the peers and by the identity, mm, or the mean Dice."""
        if self.head is not None:
            return tuple(float(one.mean()) for one in self.head.errors_mm(transform)[::-1])
        return (float(dice_of(*self.labels, transform)),)


def cases(data: Path) -> Iterator[Case]:
    """Give every case."""
    for moved_mm, case in itertools.product(MOVED_MM, CASES):
        half = CHOSEN_ON if case.startswith("patient07") else OTHERS
        head = known_case(data, case, moved_mm)
        yield Case(f"moved by {moved_mm:g} mm", case, half, head.fixed, head.moving, head)
    for patient, contrasts in CONTRASTS.items():
        half = CHOSEN_ON if patient == "patient07" else OTHERS
        for pair in itertools.permutations(contrasts, 2):
            files = (data / "brain_multicontrast" / f"{patient}_{one}.nii.gz" for one in pair)
            head = as_they_are(*files)
            yield Case("as they are", f"{patient} {' '.join(pair)}", half, head.fixed, head.moving, head)
            for stretch in STRETCHES:
                wider = stretched(head, stretch)
                name = f"{patient} {' '.join(pair)} {' '.join(f'{100 * (one - 1):+.1f}' for one in stretch)}"
                yield Case("stretched by 1 %", name, half, wider.fixed, wider.moving, wider)
    people = sorted({path.name.split("_")[0] for path in (data / "brain_t1").glob("*_labels.nii.gz")})
    tested = list(itertools.permutations(learned_brain.TEST, 2))[:6]
    rest = [one for one in people if one not in learned_brain.TEST]
    for half, pairs in (
        (CHOSEN_ON, tested),
        (OTHERS, list(zip(rest, rest[1:] + rest[:1], strict=True))[:12]),
    ):
        for pair in pairs:
            fixed, moving = (read(data / "brain_t1" / f"{one}_t1.nii.gz") for one in pair)
            labels = tuple(read_labels(data / "brain_t1" / f"{one}_labels.nii.gz") for one in pair)
            yield Case("T1 to T1", " ".join(pair), half, fixed, moving, labels=labels)


def stretched(head: OneHead, stretch: tuple[float, float, float]) -> OneHead:
    """Return a pair whose moving scan is stretched."""
    matrix, middle = np.diag([*stretch, 1.0]), head.points.mean(axis=0)
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle
    wider = Affine(matrix)
    moving = resample(head.moving, head.moving.grid, wider.inverse())
    there = (wider.map_points(one) for one in (head.by_identity, head.by_peers))
    return OneHead(head.fixed, moving, head.points, *there)


class Course(NamedTuple):
    """The way that a network's answers point on a case: what is measured after the affine map, then the places and what is measured there."""

    affine: tuple[float, ...]
    stretch_percent: float
    left_out: bool
    places: list[Place]
    measured: list[tuple[float, ...]]


def course_of(model: RegistrationModel, case: Case, passes: int) -> Course:
    """Return the way that the answers point, from the linear map that `regista register --model` finds."""
    affine = register(case.fixed, case.moving, linear_plan(model.settings | {"passes": 1})).transform
    linear = register(case.fixed, case.moving, linear_plan(model.settings))
    start = Affine(linear.transform.matrix)
    inputs = model.config.inputs
    lattice = model_grid(case.fixed, inputs, multiple=model.config.network.sizes.factor)
    here = seen_by_network(case.fixed, lattice, inputs)
    there = seen_by_network(case.moving, lattice, inputs, start)
    displacement = partial(model._trained.displacement, shape=here.shape)
    asked = (model._estimate, displacement, here, there, inputs.spacing_mm, passes)
    places = list(way(*asked, bend_first=True))
    world = lattice.grid2world[:3, :3].astype(np.float32)
    measured = []
    for place in places:
        field = np.ascontiguousarray(np.tensordot(world, place.displacement, 1), np.float32)
        measured.append(case.measured(Composite((DisplacementField(field, lattice), start))))
    stretch = linear.record.measures.get("stretch", {"percent": 0.0, "left_out": False})
    return Course(case.measured(affine), stretch["percent"], stretch["left_out"], places, measured)


def stops_at(places: list[Place]) -> int:
    """Return the number of the place where the rule stops."""
    return [one.passes for one in places].index(last_worth_following(places).passes)


def main() -> None:
    """Follow the network on every case; write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="any-contrast", help="name or folder")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--name", default="any-contrast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    options = parser.parse_args()
    set_threads(options.threads)
    model = load_model(options.model, "cpu")
    rows: list[dict] = []
    shown: dict[tuple[str, str], list[tuple]] = {}
    for case in cases(data_folder(options.data)):
        course = course_of(model, case, options.passes)
        values = [one[0] for one in course.measured]
        stop, better_is = stops_at(course.places), -1 if case.labels is None else 1
        best = better_is * max(better_is * one for one in values)
        told = (course.affine[0], values[0], values[2], values[stop], best)
        gains = [
            better_is * (one - before)
            for one, before in zip(course.measured[stop], course.affine, strict=True)
        ]
        shown.setdefault((case.kind, case.half), []).append((told, gains[0], gains[-1]))
        line = " ".join(f"{one:.3f}" for one in told)
        print(f"{case.kind:16s} {case.name:33s} {line} by {course.places[stop].passes:g} passes", flush=True)
        for number, (place, one) in enumerate(zip(course.places, course.measured, strict=True)):
            row = {"kind": case.kind, "case": case.name, "half": case.half, "passes": place.passes}
            row |= {"measured": one[0], "by_identity": one[-1], "affine": course.affine[0]}
            row |= {"affine_by_identity": course.affine[-1], "stretch_percent": course.stretch_percent}
            row |= {"stretch_left_out": course.left_out, "moved_mm": place.moved_mm}
            before = course.places[max(number - 1, 0)].likeness
            row["gain"] = least_gain(place.likeness, before)
            row["gain_in_all"] = least_gain(place.likeness, course.places[0].likeness)
            rows.append(row | place.likeness)
    name = f"learned_passes_{options.name}"
    write_rows(name, rows)
    lines = []
    for (kind, half), some in shown.items():
        means = [f"{value:.3f}" for value in np.mean([one[0] for one in some], axis=0)]
        counts = [f"{sum(one[k] > 0 for one in some)}, {sum(one[k] < 0 for one in some)}" for k in (1, 2)]
        lines.append([kind, half, len(some), *means, *counts])
    columns = (
        "cases",
        "numbers were",
        "n",
        "affine",
        "start",
        "first pass whole",
        "by the rule",
        "best on the way",
    )
    columns += ("better, worse than affine", "the same by the identity")
    path = write_summary(name, "How far to follow a network", options.threads, [markdown(columns, lines)])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
