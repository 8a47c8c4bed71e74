"""Tables of the benchmark of trained metrics: paired comparisons, landscapes, what was learned from how many pairs."""

import csv
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.tables import markdown, spread
from regista.evaluation import compare_methods

REFERENCES = ("MI", "MI with mask")
Rows = Sequence[dict]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table: an experiment, the columns to show with their headings, and the one that is tested."""

    experiment: str
    title: str
    columns: dict[str, str]
    tested: str
    digits: int = 3
    before: str = ""


def sections(unit: str) -> list[Section]:
    """Return the tables of registrations, for images measured in mm or px."""
    error = {"error": f"error, {unit}"}
    digits = 2
    found = [
        Section(
            experiment="people",
            title="Two people: overlap of classes",
            columns={"dice": "Dice", "jaccard": "Jaccard"},
            tested="dice",
            before="dice_before",
        ),
        Section(
            experiment="people",
            title="Two people: against labels that a registration of T1 to T1 carries (silver standard)",
            columns={
                "silver_dice": "Dice",
                "silver_jaccard": "Jaccard",
                "silver_mm": f"distance of the maps, {unit}",
            },
            tested="silver_dice",
            before="silver_dice_before",
        ),
        Section(
            experiment="known",
            title="A map that is known",
            columns={**error, "error_lesions": f"around lesions, {unit}"},
            tested="error",
            digits=digits,
            before="error_before",
        ),
        Section(
            experiment="anatomy",
            title="Two people: overlap of anatomical labels",
            columns={
                "dice": "Dice",
                "jaccard": "Jaccard",
                "silver_mm": f"distance from the map of T1 to T1, {unit}",
            },
            tested="dice",
            before="dice_before",
        ),
        Section(
            experiment="stains",
            title="Landmarks of two stains",
            columns=error,
            tested="error",
            digits=digits,
            before="error_before",
        ),
    ]
    for kind, title in (
        ("function", "A map that is known, T2 a function of T1"),
        ("bias", "A map that is known, both images shaded"),
        ("noise", "A map that is known, noise on both images"),
        ("lesions", "A map that is known, lesions in the moving image alone"),
    ):
        found.append(
            Section(
                experiment=kind,
                title=title,
                columns=error,
                tested="error",
                digits=digits,
                before="error_before",
            )
        )
    return found


def comparison(rows: Rows, section: Section) -> str:
    """Return a table of means with the paired tests, over the cases that every metric was run on; '' without rows."""
    own = [row for row in rows if row["experiment"] == section.experiment and row.get(section.tested)]
    names = list(dict.fromkeys(row["metric"] for row in own))
    if not own:
        return ""
    by_name = {name: {row["case"]: row for row in own if row["metric"] == name} for name in names}
    cases = [case for case in by_name[names[0]] if all(case in found for found in by_name.values())]
    if not cases:
        return ""
    values = {
        name: {case: float(found[case][section.tested]) for case in cases} for name, found in by_name.items()
    }
    people = {name: _by_person(found) for name, found in values.items()}
    references = [name for name in REFERENCES if name in names]
    tests = {
        reference: [
            {one.method: one for one in compare_methods(table, reference=reference)}
            for table in (values, people)
        ]
        for reference in references
    }
    shown = {
        column: title
        for column, title in section.columns.items()
        if all(by_name[name][case].get(column) for name in names for case in cases)
    }
    lines = []
    for name in names:
        found = [by_name[name][case] for case in cases]
        cells = [name, *(spread([float(row[column]) for row in found], section.digits) for column in shown)]
        cells += [
            "–" if name == reference else _told(*(test[name] for test in tests[reference]))
            for reference in references
        ]
        lines.append([*cells, spread([float(row["seconds"]) for row in found], 1)])
    header = ["metric", *shown.values(), *(f"against {name}" for name in references), "s"]
    count = len(people[names[0]])
    before = spread([float(by_name[names[0]][case][section.before]) for case in cases], section.digits)
    told = f"n = {len(cases)} registrations with each metric, of {count} subject{'s' if count > 1 else ''}. Before: {before}."
    return f"### {section.title}\n\n{told}\n\n{markdown(header, lines)}"


def _by_person(values: dict[str, float]) -> dict[str, float]:
    """Return the mean of each subject, whose name cases begin with: cases that share one are not independent."""
    groups: dict[str, list[float]] = {}
    for case, value in values.items():
        groups.setdefault(case.split("_")[0], []).append(value)
    return {name: statistics.fmean(found) for name, found in groups.items()}


def _told(test, by_person) -> str:
    """Return difference, p of the signed-rank test, and p of the t test on the means of each subject."""
    parts = [f"{test.difference:+.3f}"]
    if np.isfinite(test.p_wilcoxon_holm):
        parts.append(f"p {test.p_wilcoxon_holm:.2g}")
    if np.isfinite(by_person.p_t_holm):
        parts.append(f"by subject {by_person.p_t_holm:.2g}")
    return ", ".join(parts)


def landscapes(rows: Rows, reach: float, unit: str) -> str:
    """Return place of the optimum, capture range and local minima of each metric, over cases and parameters."""
    if not rows:
        return ""
    lines = []
    for name in dict.fromkeys(row["metric"] for row in rows):
        for kind, along in (("mm", f"shift, {unit}"), ("deg", "turn, °")):
            own = [row for row in rows if row["metric"] == name and row["unit"] == kind]
            capture = [min(float(row["capture_below"]), float(row["capture_above"])) for row in own]
            lines.append(
                [
                    name,
                    along,
                    spread([abs(float(row["optimum"])) for row in own], 2),
                    spread(capture, 1),
                    f"{min(capture):.1f}",
                    spread([float(row["local_minima"]) for row in own], 1),
                ]
            )
    header = ["metric", "along", "best value off by", "capture range", "least", "local minima"]
    count = len({row["case"] for row in rows})
    told = f"{count} aligned pair{'s' if count > 1 else ''} that no metric was trained on; the range looked at ends {reach:g} to either side."
    return f"### Landscapes\n\n{told}\n\n{markdown(header, lines)}"


def trainings(rows: Rows) -> str:
    """Return what was trained on what, for how long, and how well it tells patches of its own pairs and of others."""
    if not rows:
        return ""
    header = [
        "metric",
        "pairs",
        "steps × patches",
        "weights",
        "training, s",
        "right on its own pairs, %",
        "on others, %",
        "loss on its own",
        "on others",
    ]
    lines = [
        [
            row["metric"],
            row["pairs"],
            f"{row['steps']} × {row['batch']}",
            row["weights"],
            f"{float(row['seconds']):.0f}",
            *(f"{100 * float(row[f'{part}_accuracy']):.1f}" for part in ("own", "other")),
            *(f"{float(row[f'{part}_loss']):.3f}" for part in ("own", "other")),
        ]
        for row in rows
    ]
    return f"### Trainings\n\n{markdown(header, lines)}"


def read_rows(path: Path) -> list[dict]:
    """Return the rows of earlier sessions."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def append(path: Path, row: dict, columns: Sequence[str]) -> None:
    """Add a row to a table, so that nothing is lost when the session ends."""
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def publish(page: Path, name: str, text: str, picture: Path | None = None) -> None:
    """Put the tables of a run between a page's marks for it, and a picture beside the page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    if old.count(begin) != 1 or old.count(end) != 1:
        sys.exit(f"{page} has no place for {name}: it needs one line {begin} and, below it, one line {end}")
    if picture is not None and picture.is_file():
        place = page.parent / "plots" / page.stem
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place / f"{name}.png")
        text += f"\n\n![Metrics along three parameters](plots/{page.stem}/{name}.png)"
    before, _, rest = old.partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")
