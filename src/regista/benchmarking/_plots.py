"""Pictures of a benchmark: boxes with points, accuracy against time, regions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regista.benchmarking._tables import TITLES, Row, finite, label_sets, of_kind
from regista.evaluation._names import UNREGISTERED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_REGIONS = 160
_DPI = 110
# Okabe and Ito's colours, told apart by the colour-blind; a method's marker tells it from those of its colour
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#999933")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")


def available() -> bool:
    """Tell whether Matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw all that the rows allow; return the files, in the order of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    # the images as they came lie so far off that nothing else could be told apart
    rows = [row for row in rows if row["method"] != UNREGISTERED]
    sources: list[tuple[str, str, list[Row], tuple[str, ...]]] = [
        (name, "labels", of_kind(rows, "labels", name), ("dice", "assd_mm", "assd_px"))
        for name in label_sets(rows)
    ]
    sources.append(("landmarks", "landmarks", of_kind(rows, "landmarks"), ("tre_mean",)))
    runs = of_kind(rows, "run")
    for name, kind, own, measures in sources:
        for measure in measures:
            values = _by_method(own, measure)
            if not values:
                continue
            title = (
                TITLES.get(measure, measure)
                if kind == "labels"
                else f"Landmark error, mean, {own[0]['unit']}"
            )
            label = title if name in ("labels", "landmarks") else f"{title} ({name})"
            stem = _plain(f"{name}_{measure}")
            found.append(_save(_boxes(values, label), folder / f"box_{stem}.png"))
            timed = _against_time(values, runs, label)
            if timed is not None:
                found.append(_save(timed, folder / f"time_{stem}.png"))
        if kind == "labels":
            regions = _regions(own, name)
            if regions is not None:
                found.append(_save(regions, folder / f"regions_{_plain(name)}_dice.png"))
    return found


def _by_method(rows: Sequence[Row], measure: str) -> dict[str, dict[str, float]]:
    """Return method → case → mean value."""
    lists: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if finite(row.get(measure)):
            lists.setdefault(str(row["method"]), {}).setdefault(str(row["case"]), []).append(row[measure])
    return {m: {c: statistics.fmean(v) for c, v in cases.items()} for m, cases in lists.items()}


def _boxes(values: dict[str, dict[str, float]], label: str) -> Figure:
    import numpy as np

    figure, axes = _figure(7.5, 0.5 * len(values) + 1.4)
    names = list(values)[::-1]
    data = [list(values[name].values()) for name in names]
    axes.boxplot(
        data, orientation="horizontal", widths=0.55, showfliers=False, medianprops={"color": "black"}
    )
    spread = np.random.default_rng(0)
    for place, (name, points) in enumerate(zip(names, data, strict=True), start=1):
        jitter = spread.uniform(-0.15, 0.15, len(points))
        axes.plot(points, place + jitter, **_look(list(values), name), ls="", ms=4.5, alpha=0.7)
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _against_time(values: dict[str, dict[str, float]], runs: Sequence[Row], label: str) -> Figure | None:
    seconds = _by_method(runs, "seconds_stage")
    names = [name for name in values if name in seconds]
    if not names:
        return None
    figure, axes = _figure(7.5, 4.5)
    for name in names:
        both = [c for c in values[name] if c in seconds[name]]
        if not both:
            continue
        x, y = ([table[name][c] for c in both] for table in (seconds, values))
        look = _look(list(values), name)
        axes.plot(x, y, **look, ls="", ms=3, alpha=0.35)
        bars = [statistics.stdev(v) if len(v) > 1 else 0 for v in (x, y)]
        centre = statistics.fmean(x), statistics.fmean(y)
        axes.errorbar(
            *centre, xerr=min(bars[0], 0.9 * centre[0]), yerr=bars[1], **look, ls="", ms=9,
            label=name, capsize=2,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("registration, s")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _regions(rows: Sequence[Row], name: str) -> Figure | None:
    """Draw one line for each region, one dot for each method: the mean over cases."""
    lists: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if finite(row.get("dice")):
            lists.setdefault(str(row["name"]), {}).setdefault(str(row["method"]), []).append(row["dice"])
    if not 1 < len(lists) <= _MOST_REGIONS:
        return None
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    means = {region: {m: statistics.fmean(v) for m, v in found.items()} for region, found in lists.items()}
    order = sorted(means, key=lambda region: statistics.fmean(means[region].values()))
    figure, axes = _figure(8, 0.16 * len(order) + 1.5)
    for method in methods:
        places = [n for n, region in enumerate(order) if method in means[region]]
        shown = [means[order[n]][method] for n in places]
        axes.plot(shown, places, **_look(methods, method), ls="", ms=4.5, alpha=0.85, label=method)
    axes.set_yticks(range(len(order)), order, fontsize=6 if len(order) > 25 else 9)
    axes.set_ylim(-1, len(order))
    axes.set_xlabel("Dice" if name == "labels" else f"Dice ({name})")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # not pyplot: a library has no business with the user's windows and open figures
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _look(names: Sequence[str], name: str) -> dict[str, Any]:
    """Return a method's colour and marker, the same in every plot of a benchmark."""
    place = list(names).index(name)
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}


def _save(figure: Figure, path: Path) -> Path:
    from regista.io._files import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, bbox_inches="tight")
    return path


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
