"""What the benchmark of trained metrics trains on and compares on, set by set."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.deep_metric import (
    AXIAL,
    CORONAL,
    PATIENTS,
    SPOILT,
    STAINS,
    SUBJECTS,
    Case,
    labelled_cases,
    moved_case,
    near_lesions,
    patient_slices,
    people_cases,
    photographs,
    slices,
    spoilt,
    stained_cases,
    volumes,
)
from harness.deep_metric_anatomy import anatomy_cases, anatomy_pairs, like_t2, made_up_slices
from regista.core import Image

TRAIN, TEST = SUBJECTS[:6], SUBJECTS[6:]
VALIDATION = 3
"""How many of the people to train on are compared on while settings are chosen."""
PHOTOGRAPHS = 40
MAPS = {"slices": (6.0, 18.0), "photographs": (6.0, 40.0, 0.25), "volumes": (8.0, 20.0)}
"""Largest displacement of known maps and their smoothness, mm (pixels of photographs), and how much of the affine map."""
Pair = tuple[str, Image, Image]


def people(choosing: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Return the people of `slices` to train on and those to compare on; to choose settings, both of the first alone."""
    return (TRAIN[:-VALIDATION], TRAIN[-VALIDATION:]) if choosing else (TRAIN, TEST)


def training_pairs(name: str, data: Path, choosing: bool = False) -> Sequence[Callable[[], Pair]]:
    """Return what there is to train on, each pair read when it is called for."""
    if name == "slices":
        found = [lambda who=who: (who, *slices(data, who)) for who in people(choosing)[0]]
        more = range(0 if choosing else len(PATIENTS) * len(CORONAL))
        return [*found, *(lambda n=n: patient_slices(data)[n] for n in more)]
    if name in ("axial", "made-up"):
        cut = patient_slices if name == "axial" else made_up_slices
        return [lambda n=n: cut(data, "axial")[n] for n in range(len(PATIENTS) * len(AXIAL))]
    if name == "photographs":
        number = PHOTOGRAPHS // 2 if choosing else PHOTOGRAPHS
        return [lambda n=n: (f"photograph {n}", *photographs(data, n)) for n in range(number)]
    return [lambda: (PATIENTS[0], *volumes(data, PATIENTS[0]))]


def compared_pairs(name: str, data: Path, choosing: bool = False) -> Iterator[Pair]:
    """Yield aligned pairs that nothing was trained on."""
    if name == "slices":
        yield from ((who, *slices(data, who)) for who in people(choosing)[1])
    elif name == "photographs":
        first = PHOTOGRAPHS // 2 if choosing else PHOTOGRAPHS
        yield from ((f"photograph{n}", *photographs(data, n)) for n in range(first, first + 10))
    elif name == "volumes":
        yield (PATIENTS[1], *volumes(data, PATIENTS[1]))
    elif name == "anatomy":
        yield from anatomy_pairs(data)


def cases(options: argparse.Namespace, data: Path, experiment: str) -> Iterator[Case]:
    """Yield the test cases of an experiment."""
    if experiment == "people":
        if options.set == "volumes":
            yield from labelled_cases(data, PATIENTS[1])
        else:
            yield from people_cases(data, people(options.choosing)[1])
    elif experiment == "anatomy":
        yield from anatomy_cases(data)
    elif experiment == "stains":
        for name in STAINS:
            yield from stained_cases(data, name)
    else:
        maps = range(1 if experiment in SPOILT and options.set == "slices" else options.maps)
        for number in maps:
            for place, (name, first, second) in enumerate(
                compared_pairs(options.set, data, options.choosing)
            ):
                seed = 100 * number + place
                if experiment == "function":
                    second = like_t2(first, data)
                case = moved_case(
                    f"{name}_map{number}", first, second, seed, *(options.size or MAPS[options.set])
                )
                if experiment in SPOILT:
                    case = spoilt(case, experiment, data, seed)
                elif options.set == "volumes":
                    case = replace(case, region=near_lesions(data, PATIENTS[1]))
                yield case
