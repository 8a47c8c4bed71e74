"""The quality page of one registration: one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from regista.core import GeometryError, Image, LabelImage, PointSet
from regista.evaluation._likeness import contrasts_differ
from regista.io import write_text
from regista.registration import Result
from regista.reporting._colours import FOLD_COLOUR, RGB, data_uri, is_colour, thumbnail
from regista.reporting._curves import curves
from regista.reporting._deformation import Deformation, draw_deformation
from regista.reporting._mosaic import mosaic
from regista.reporting._numbers import Numbers, measure_numbers, record_facts
from regista.reporting._pictures import Pictures, aligned_centres, draw_pair
from regista.reporting._scene import Scene, make_scene
from regista.reporting._slices import Layout, choose_slices, length_unit
from regista.reporting._verdict import Verdict, beside_truth, judge

DEFORMATION_PIXELS = 560
SUMMARY_START, SUMMARY_END = '<script type="application/json" id="summary">', "</script>"
"""Around the row that a list of pages shows of a page."""
_THUMBNAIL = (220, 150)


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """A page, and what a list of pages shows of it.

    Parameters
    ----------
    html : str
        The whole page.
    verdict : Verdict or None
        What it says; None of a page that does not judge.
    summary : mapping
        A flat row: name, measures, unit of lengths, a thumbnail as a data URI, marks of the run; with a verdict its outcome,
        reasons and probability.
    """

    html: str
    verdict: Verdict | None
    summary: Mapping[str, Any]


def make_report(
    fixed: Image,
    moving: Image,
    result: Result,
    *,
    title: str | None = None,
    labels: tuple[LabelImage, LabelImage] | None = None,
    landmarks: tuple[PointSet, PointSet] | None = None,
    verdict: Verdict | None = None,
    judged: bool = True,
    scene: Scene | None = None,
) -> Report:
    """Make the quality page of a registration.

    Parameters
    ----------
    fixed, moving : Image
        The pair as it was given to `regista.register`, 2-D or 3-D; RGB is shown in colour, of other channels the first.
    result : Result
        What came out, of any method.
    title : str, optional
        Heading; by default the names of the images.
    labels : tuple of two LabelImage, optional
        Labels of the fixed and of the moving image: outlines and overlap.
    landmarks : tuple of two PointSet, optional
        Landmarks of both: target registration error.
    verdict : Verdict, optional
        If judged before.
    judged : bool
        Whether the page has a verdict. Without, lists of runs judge the run themselves.
    scene : Scene, optional
        The pair on its coarse lattice, if made before.

    Returns
    -------
    Report
        The page, its verdict and a row for a table.

    Raises
    ------
    GeometryError
        If images and transform, or labels or landmarks, do not fit together.

    Examples
    --------
    >>> from regista.core import Grid
    >>> from regista.registration import register
    >>> blob = np.exp(-((np.indices((32, 24)) - 12.0) ** 2).sum(0) / 30).astype(np.float32)
    >>> image = Image(blob, Grid(blob.shape, np.eye(3)))
    >>> page = make_report(image, image, register(image, image, "translation"), title="<b>")
    >>> "<b>" in page.html, "&lt;b&gt;" in page.html
    (False, True)
    """
    for given, what in ((labels, "labels"), (landmarks, "landmarks")):
        if given is not None and {one.ndim for one in given} != {fixed.ndim}:
            raise GeometryError(
                f"the images are {fixed.ndim}-D, the {what} {' and '.join(f'{one.ndim}-D' for one in given)}: give {what} of "
                "the same images"
            )
    scene = make_scene(fixed, moving, result.transform, result.fixed_mask) if scene is None else scene
    fresh = judged and verdict is None
    if fresh:
        verdict = judge(fixed, moving, result, scene=scene)
    verdict = verdict if judged else None
    title = title or f"{moving.space or 'moving'} → {fixed.space or 'fixed'}"
    layout = choose_slices(fixed)
    start = aligned_centres(fixed, moving) if scene.centred else None
    contrasts = contrasts_differ(scene.fixed, scene.warped, scene.inside & scene.seen & scene.seen_warped)
    pictures = draw_pair(
        fixed, moving, result, layout, start=start, labels=labels, landmarks=landmarks, contrasts=contrasts
    )
    small = choose_slices(fixed, pixels=DEFORMATION_PIXELS)
    deformation = draw_deformation(result.transform, result.inverse, small, fixed.grid, moving.grid)
    unit = length_unit(fixed, moving)
    numbers = measure_numbers(scene, result, labels, landmarks, start, unit)
    verdict = beside_truth(verdict, numbers.flat, unit) if fresh and verdict is not None else verdict
    record = result.record.to_dict()
    notes = _notes(fixed, moving, layout, scene, result, pictures)
    summary = {
        **_summary(title, verdict, numbers, pictures, layout),
        "unit": unit,
        "run": run_marks(record),
    }
    html = render(
        "run.html",
        title=title,
        verdict=verdict,
        pictures={name: data_uri(picture) for name, picture in pictures.plain.items()},
        overlays={name: data_uri(picture) for name, picture in pictures.overlays.items()},
        size=pictures.plain["fixed"].shape[1::-1],
        deformation=_deformation_pictures(deformation, small),
        scales=deformation,
        fold_colour="#{:02x}{:02x}{:02x}".format(*FOLD_COLOUR),
        numbers=numbers,
        unit=unit,
        curves=curves(record["history"]),
        contrasts=contrasts,
        blend=pictures.blend,
        record=record,
        facts=record_facts(result.record),
        notes=notes,
        style=page_text("style.css"),
        script=page_text("run.js"),
    )
    # at the end, where no text of the page can stand for it
    if verdict is not None:
        carried = SUMMARY_START + json.dumps(summary).replace("<", "\\u003c") + SUMMARY_END
        html = html.replace("</body>", f"{carried}\n</body>")
    return Report(html=html, verdict=verdict, summary=summary)


def write_report(
    path: str | os.PathLike[str], fixed: Image, moving: Image, result: Result, **options: Any
) -> Report:
    """Write the quality page of a registration.

    Parameters
    ----------
    path : path
        File to write, ``.html``; replaced as a whole or not at all.
    fixed, moving, result, **options
        See `make_report`.

    Returns
    -------
    Report
        The page that was written.

    Raises
    ------
    FormatError
        If the disk refuses.
    """
    report = make_report(fixed, moving, result, **options)
    write_text(Path(path), report.html)
    return report


def _notes(
    fixed: Image, moving: Image, layout: Layout, scene: Scene, result: Result, pictures: Pictures
) -> list[str]:
    """Return what a reader must know of how the pictures came about."""
    notes = []
    if layout.shown_fraction < 0.95:
        shape = "×".join(map(str, fixed.grid.shape))
        notes.append(
            f"The fixed image has {shape} voxels; the pictures are down-sampled: a pixel is the mean of "
            f"{1 / layout.shown_fraction:.1f} voxels along an axis."
        )
    if scene.compared is not None:
        notes.append(
            "The verdict compares the images within the mask of the fixed image and just around it, where they were registered."
        )
    if scene.centred:
        notes.append(
            "As stored, the images hardly overlap in world space: 'before' shows them with their centres aligned."
        )
    if layout.tiles[0].letters:
        places = "; mm at a slice are its place in RAS+ world space" if fixed.ndim == 3 else ""
        notes.append(
            f"Radiological convention: the person's left (L) is on the right of the picture{places}."
        )
    for role, image in (("fixed", fixed), ("moving", moving)):
        if image.kind == "channels" and not is_colour(image):
            notes.append(f"Of the {role} image the first of {len(image.data)} channels is shown.")
    notes += pictures.notes
    notes += [str(warning) for warning in result.record.warnings]
    return notes


def _deformation_pictures(deformation: Deformation, layout: Layout) -> dict[str, str]:
    parts = {
        "grid": deformation.grids,
        "magnitude": deformation.magnitude,
        "jacobian": deformation.jacobian,
        "inverse": deformation.inverse,
    }
    return {
        name: data_uri(mosaic(layout, tiles, letters=False, background=(255, 255, 255)))
        for name, tiles in parts.items()
        if tiles
    }


def _summary(
    title: str, verdict: Verdict | None, numbers: Numbers, pictures: Pictures, layout: Layout
) -> dict[str, Any]:
    """Return a flat row for a table of runs."""
    told = {}
    if verdict is not None:
        told = {
            "outcome": str(verdict.outcome),
            "reasons": list(verdict.reasons),
            "probability": round(verdict.probability, 4),
        }
    return {
        "name": title,
        **told,
        "measures": {name: value for name, value in numbers.flat.items() if math.isfinite(value)},
        "thumbnail": data_uri(thumbnail(_one_slice(pictures, layout), *_THUMBNAIL), quality=72),
    }


def run_marks(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a run from others: its images' hashes, and the time it took, to the last digit.

    Examples
    --------
    >>> run_marks({"inputs": {"fixed": {"sha256": "ab"}}, "timings": {"registration": 1.25}})
    {'fixed': 'ab', 'seconds': 1.25}
    """
    inputs = record.get("inputs", {})
    marks = {role: inputs.get(role, {}).get("sha256") for role in ("fixed", "moving")}
    marks["seconds"] = record.get("timings", {}).get("registration")
    return {name: mark for name, mark in marks.items() if mark is not None}


def _one_slice(pictures: Pictures, layout: Layout) -> RGB:
    """Return the registered image with the fixed image's edges, of the middle of the first row."""
    picture = pictures.plain["after"].copy()
    over = pictures.overlays["edges"]
    drawn = over[..., 3] == 255  # without the rim
    picture[drawn] = over[..., :3][drawn]
    height = max(tile.size[1] for tile in layout.rows[0])
    row = layout.rows[0]
    used = sum(t.size[0] for t in row) + 6 * (len(row) - 1)
    left = (picture.shape[1] - used) // 2 + sum(t.size[0] + 6 for t in row[: len(row) // 2])
    return np.ascontiguousarray(picture[:height, left : left + row[len(row) // 2].size[0]])


def page_text(name: str) -> str:
    """Return a template, style or script of the package."""
    return files("regista.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """Fill in a template; every value is escaped but the page's own style and script."""
    from jinja2 import Environment, FunctionLoader  # 50 ms, for those who write pages
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(page_text), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = figure
    values["style"], values["script"] = Markup(values["style"]), Markup(values["script"])  # our own files
    return environment.get_template(template).render(**values)


def figure(value: Any) -> str:
    """Return a number in few digits, a dash for none."""
    if isinstance(value, (bool, int, np.integer)) or not isinstance(value, (float, np.floating)):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return "–"
    size = abs(number)
    return f"{number:.0f}" if size >= 1000 else f"{number:.1f}" if size >= 100 else f"{number:.3g}"
