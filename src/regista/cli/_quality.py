"""The verdict and the page of a registration that the command has just run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from regista.cli._console import complain

if TYPE_CHECKING:
    from regista.core import Image, Status
    from regista.registration import Guide, Result


def command_line(context: typer.Context) -> str:
    """Return the command that runs, as a line that a shell takes: what was given and nothing else."""
    words: list[str] = []
    arguments: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        if parameter.param_type_name == "argument":
            arguments += [str(one) for one in values]
        elif isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
        else:
            words += [word for one in values for word in (parameter.opts[0], str(one))]
    return shlex.join(["regista", context.info_name or "", *arguments, *words])


def judged(
    result: Result,
    images: Mapping[str, Image | None],
    guides: Sequence[Guide],
    command: str,
    *,
    report: bool,
    verdict: bool,
) -> tuple[Result, str | None]:
    """Return the result with its verdict in the record, and the page.

    Labels and landmarks that guided the registration are drawn on the page, but say little about its accuracy.
    """
    record = replace(result.record, command=command, working_folder=str(Path.cwd()))
    result = replace(result, record=record, fixed_mask=images.get("fixed_mask"))
    if not (report or verdict):
        return result, None
    from regista.reporting import judge, make_report
    from regista.reporting._scene import make_scene

    began = time.perf_counter()
    fixed, moving = images["fixed"], images["moving"]
    assert fixed is not None
    assert moving is not None
    page = found = scene = None
    # one at a time: the results must not be lost for a picture of them, nor the verdict, which sets the exit code
    if verdict:
        try:
            scene = make_scene(fixed, moving, result.transform, result.fixed_mask)
            found = judge(fixed, moving, result, scene=scene)
        except Exception as error:
            result = _warned(result, "the registration could not be judged", error)
    if found is not None:
        result = _with(result, measures={**result.record.measures, "verdict": found.to_dict()})
    if report:
        shown: dict[str, Any] = {
            "verdict": found,
            "judged": found is not None,
            "scene": scene,
            **_truth(guides),
        }
        try:
            page = make_report(fixed, moving, result, **shown).html
        except Exception as error:
            result = _warned(result, "the quality page could not be made", error)
    timings = dict(result.record.timings)
    timings["report"] = time.perf_counter() - began
    timings["total"] = timings.get("total", 0.0) + timings["report"]
    return _with(result, timings=timings), page


def exit_code(failures: Sequence[str] | None, status: Status) -> int:
    """Say on standard error why a registration failed, a reason a line, and return 1; 0 for None."""
    if failures is None:
        return 0
    ended = "" if status.ok else f" (status {status})"
    lines = "".join(f"\n  {reason}" for reason in failures)
    complain(
        f"Error: the registration failed its checks{ended}:{lines}\n"
        "The results are written for inspection, do not use them. Look at the images, try another preset, masks or --initial"
    )
    return 1


def _warned(result: Result, what: str, error: Exception) -> Result:
    text = f"{what} ({type(error).__name__}: {error})"
    complain(f"Warning: {text}")
    return _with(result, warnings=(*result.record.warnings, text))


def _with(result: Result, **changes: Any) -> Result:
    return replace(result, record=replace(result.record, **changes))


def _truth(guides: Sequence[Guide]) -> dict[str, Any]:
    """Return labels and landmarks that were given as guides."""
    from regista.core import LabelImage
    from regista.registration import LabelGuide, LandmarkGuide

    found: dict[str, Any] = {}
    for guide in guides:
        if isinstance(guide, LabelGuide):
            pair = (guide.fixed, guide.moving)
            found["labels"] = tuple(LabelImage(x.data, x.grid, space=x.space) for x in pair)
        elif isinstance(guide, LandmarkGuide):
            found["landmarks"] = (guide.fixed, guide.moving)
    return found
