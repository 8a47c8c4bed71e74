"""``regista metric-landscape``: a metric along one parameter, to choose one with one's eyes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regista.cli._console import Debug, Json, Quiet, Threads, guarded, say, say_json
from regista.cli._stops import stops_deferred

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regista.registration import Landscape
    from regista.transforms import Affine

_DPI = 110
# Okabe and Ito's colours, told apart by the colour-blind
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#999933")
TABLE, SUMMARY, PICTURE = "landscape.csv", "summary.csv", "landscape.png"


@guarded
def metric_landscape(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    along: Annotated[
        str, typer.Option(help="Parameters with commas between: tx, ty, tz (mm), rx, ry, rz (degrees).")
    ] = "tx,ty,rz",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric as in a plan: mi, or {deep = 'NAME'}; repeat (default: mi, nmi and mind)."
        ),
    ] = None,
    reach: Annotated[float, typer.Option(help="How far to either side, mm or degrees.")] = 20.0,
    points: Annotated[int, typer.Option(help="How many values of each parameter, odd.")] = 41,
    shrink: Annotated[int, typer.Option(help="Level of the images, as in a plan.")] = 1,
    initial: Annotated[
        Path | None, typer.Option(help="Linear transform fixed → moving that counts as 0.")
    ] = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Voxels of the fixed image to compare, or weights 0 to 1.")
    ] = None,
    moving_mask: Annotated[
        Path | None, typer.Option(help="Voxels of the moving image to compare, or weights 0 to 1.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Evaluate metrics while one image is moved along a parameter: a table, a picture, and what they tell.

    The summary says where each metric's best value is, how far to either side it falls towards it without a break
    (capture range), and how many local minima there are.
    """
    from regista.cli._outputs import FolderWriter, keep_inputs
    from regista.core import threads as use_threads
    from regista.io import read
    from regista.registration import metric_from_text
    from regista.registration import metric_landscape as run

    names = (TABLE, SUMMARY, PICTURE)
    keep_inputs([output / name for name in names], [fixed, moving, initial, fixed_mask, moving_mask])
    _check_picture()
    metrics = {text: metric_from_text(text) for text in (metric or ["mi", "nmi", "mind"])}
    images = [None if path is None else read(path) for path in (fixed, moving, fixed_mask, moving_mask)]
    assert images[0] is not None
    assert images[1] is not None
    with FolderWriter(output) as folder, use_threads(threads), stops_deferred():
        found = run(
            images[0],
            images[1],
            metrics,
            [part.strip() for part in along.split(",") if part.strip()],
            reach=reach,
            points=points,
            shrink=shrink,
            initial=None if initial is None else _linear(initial),
            fixed_mask=images[2],
            moving_mask=images[3],
        )
        _write_tables(found, folder.hidden)
        _draw(found, folder.hidden / PICTURE)
        folder.commit(PICTURE)
    rows = [one.summary() for one in found]
    if as_json:
        say_json({"landscapes": rows, "outputs": [str(output / name) for name in names]})
        return 0
    for row in rows:
        say(
            f"{row['parameter']} {row['metric']}: best at {row['optimum']:.2f} {row['unit']}, captures "
            f"{row['capture_below']:g} below and {row['capture_above']:g} above, {row['local_minima']} local minima",
            quiet=quiet,
        )
    say(f"  {output}", quiet=quiet)
    return 0


def _check_picture() -> None:
    from importlib.util import find_spec

    from regista.core import PlanError

    if find_spec("matplotlib") is None:
        raise PlanError("the picture needs Matplotlib, which is not installed: pip install 'regista[report]'")


def _linear(path: Path) -> Affine:
    from regista.core import PlanError
    from regista.io import read_transform
    from regista.transforms import Affine

    found = read_transform(path)
    if not isinstance(found, Affine):
        raise PlanError(
            f"--initial is a linear transform, and {path} is a {type(found).__name__}: give the affine part alone"
        )
    return found


def _write_tables(found: Sequence[Landscape], folder: Path) -> None:
    import csv

    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["metric", "parameter", "unit", "offset", "value"])
        for one in found:
            for offset, value in zip(one.offsets, one.values, strict=True):
                table.writerow([one.metric, one.parameter, one.unit, f"{offset:.6g}", f"{value:.9g}"])
    rows = [one.summary() for one in found]
    with (folder / SUMMARY).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _draw(found: Sequence[Landscape], path: Path) -> None:
    """Draw each parameter's metrics, every one scaled to 0 … 1 within the range."""
    import numpy as np

    # not pyplot: a library has no business with the user's windows and open figures
    from matplotlib.figure import Figure

    parameters = list(dict.fromkeys(one.parameter for one in found))
    metrics = list(dict.fromkeys(one.metric for one in found))
    figure = Figure(figsize=(4.2 * len(parameters), 3.6), layout="constrained")
    places = figure.subplots(1, len(parameters), squeeze=False, sharey=True)[0]
    for place, parameter in zip(places, parameters, strict=True):
        for one in (one for one in found if one.parameter == parameter):
            usable = one.values[np.isfinite(one.values)]
            low, high = (usable.min(), usable.max()) if usable.size else (0.0, 1.0)
            scaled = (one.values - low) / max(high - low, 1e-12)
            colour = _COLOURS[metrics.index(one.metric) % len(_COLOURS)]
            place.plot(one.offsets, scaled, color=colour, lw=1.4, label=one.metric)
        place.axvline(0, color="0.7", lw=0.8, zorder=0)
        place.set_xlabel(f"{parameter}, {'mm' if parameter[0] == 't' else '°'}")
    places[0].set_ylabel("dissimilarity, scaled")
    places[-1].legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)
