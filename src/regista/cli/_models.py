"""``regista models``, and what ``regista register --model`` does."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._console import Debug, Json, complain, guarded, say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regista.core import Image, RunRecord
    from regista.registration import Plan, Result
    from regista.transforms import Transform

ANY_CONTRAST = ("mi", "nmi", "mind")
"""Similarities of trainings on scans of different contrasts."""
LEAST_STRETCH = 0.01
"""What an affine map before a network in passes stretches at least: between heads it is four times that, between scans of one head less."""
_MEMORY = "predicted_memory_bytes"
_OF_LINEAR = ("halfway", "stretch")
"""Measures of linear stages that a refinement's own record lacks."""
models = typer.Typer(help="List trained models, show one, or verify its files.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model by name, or its folder.")]


@models.command("list")
@guarded
def list_(as_json: Json = False, debug: Debug = False) -> None:
    """List the models known by name: those of the package and of the folder REGISTA_MODELS."""
    from regista.learning import list_models
    from regista.similarity import METRIC_KIND, missing_folder

    found, wrong = list_models(), missing_folder()
    if wrong:
        complain(f"Warning: {wrong}")
    if as_json:
        say_json(found)
        return
    for name, told in found.items():
        network = told["network"]
        if told.get("kind") == METRIC_KIND:
            first, second = told.get("contrasts", ("first", "second"))
            say(
                f"{name}  similarity metric for {first} and {second}, {network['ndim']}-D; {told.get('data', '')}"
            )
            continue
        spacing = " × ".join(f"{step:g}" for step in told["inputs"]["spacing_mm"])
        purpose = f"for {told['purpose']}; " if told.get("purpose") else ""
        say(f"{name}  {purpose}{network['name']}, {network['ndim']}-D, {spacing} mm; {told.get('data', '')}")
    if not found:
        say("no models are installed: train one with `regista train voxelmorph`")


@models.command("show")
@guarded
def show(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Print a model's card, and where its files are."""
    from regista.core import FormatError
    from regista.learning._checkpoint import CARD, PICTURES, read_settings
    from regista.learning._model import find_model

    folder = find_model(name)
    _, settings = read_settings(folder)
    if as_json:
        say_json(settings)
        return
    if not (folder / CARD).is_file():
        raise FormatError(f"{folder} has no {CARD}; --json prints its settings")
    say((folder / CARD).read_text(encoding="utf-8").rstrip())
    say(f"\nFolder: {folder}")
    if (folder / PICTURES).is_file():
        say(f"Picture: {folder / PICTURES}")


@models.command("verify")
@guarded
def verify(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Check that a model's files are whole and belong together."""
    from regista.learning import verify_model

    found = verify_model(name)
    if as_json:
        say_json({"model": name, "weights_sha256": found})
    else:
        say(f"{name}: whole, weights {found}")


def without_linear_stages(plan: Plan) -> Plan:
    """Return the deformable stages of a plan: what can start from a network's field."""
    from regista.core import PlanError
    from regista.registration import DenseStage

    stages = tuple(stage for stage in plan.stages if isinstance(stage, DenseStage))
    if not stages:
        raise PlanError(
            f"--refine names a plan with deformable stages, {plan.name!r} has none: try --refine deformable"
        )
    return replace(plan, stages=stages)


def linear_plan(settings: Mapping[str, Any]) -> Plan | None:
    """Return what brings images near each other as a model's training images were; None for nothing.

    Parameters
    ----------
    settings : mapping
        What ``model.json`` holds.
    """
    from regista.registration import load_plan

    wanted, loss = settings.get("alignment", "affine"), settings["loss"]
    if wanted == "none":
        return None
    one_contrast = loss["similarity_weight"] and loss["similarity"]["name"] not in ANY_CONTRAST
    # the rigid preset takes any contrast
    named = wanted == "rigid" or (one_contrast and wanted != "multimodal")
    plan = load_plan(wanted) if named else _multimodal()
    return _both_ways(plan) if settings.get("passes", 1) > 1 else plan


def _multimodal() -> Plan:
    """Return the stages that align two contrasts."""
    from regista.registration import LinearStage, load_plan

    plan = load_plan("multimodal")
    return replace(plan, stages=tuple(stage for stage in plan.stages if isinstance(stage, LinearStage)))


def _both_ways(plan: Plan) -> Plan:
    """Return linear stages asked both ways round, as a network in several passes is, whose affine map is rigid where it nearly is."""
    from regista.registration import LinearStage

    stages = tuple(
        replace(one, least_stretch=LEAST_STRETCH)
        if isinstance(one, LinearStage) and one.model == "affine"
        else one
        for one in plan.stages
    )
    return replace(plan, halfway=True, stages=stages)


def run_model(
    images: dict[str, Image | None],
    name: str,
    refine: Plan | None,
    initial: Transform | None,
    fill: Any,
    seed: int,
    device: str,
    passes: int | None,
    run: Callable[[Plan, Transform | None], Result],
) -> Result:
    """Register by a model: linear stage, the network in one pass or several, and the engine from there if asked.

    Parameters
    ----------
    images : dict
        With 'fixed' and 'moving'.
    name : str
        Name or folder of the model.
    refine : Plan, optional
        Deformable stages that start from the network's field.
    initial : Transform, optional
        Linear map to start from; without it the engine's linear stages find one, of the kind the model was trained after.
    fill, seed
        As in `register`.
    device : {'auto', 'cpu', 'cuda'}
        Where the network runs.
    passes : int, optional
        In how many passes it answers at most; None for as many as the model says.
    run : callable
        Runs a plan on the images from a start, masks and all.
    """
    from regista.learning import load_model
    from regista.registration import finish, linear_of

    fixed, moving = images["fixed"], images["moving"]
    assert fixed is not None
    assert moving is not None
    model = load_model(name, device)
    model.check(fixed, moving)  # before the linear stages
    most = max(passes or 1, model.passes)
    plan = None if initial is not None else linear_plan(model.settings | {"passes": most})
    first = None if plan is None else run(plan, None)
    start = initial if first is None else first.transform
    began = time.perf_counter()
    affine = plan is not None and "affine" in {stage.model for stage in plan.stages}
    predicted, answered = model.answer(fixed, moving, initial=start, passes=passes, bend_first=affine)
    seconds = time.perf_counter() - began
    told: dict[str, Any] = {"model": answered}
    told |= {} if initial is None else {"initial_fixed2moving": linear_of(initial)}
    earlier = None if first is None else first.record
    if refine is None:
        result = finish(fixed, moving, predicted, record=earlier, measures=told, fill=fill, seed=seed)
        record = result.record
    else:
        result = run(refine, predicted)
        # the run began at the prediction, which nobody gave
        found = {k: v for k, v in result.record.measures.items() if k != "initial_fixed2moving"}
        before = {} if earlier is None else {k: v for k, v in earlier.measures.items() if k in _OF_LINEAR}
        record = replace(result.record, measures={**before, **found, **told, "refined": True})
        record = record if earlier is None else _joined(earlier, record)
    more = model.warnings(fixed, moving)
    if not answered["passes_followed"]:
        then = (
            "the linear map is kept as it is"
            if refine is None
            else "the refinement starts from the linear map"
        )
        more.append(
            f"{model.name} found nothing that makes the images noticeably more alike, as of two scans of one person: {then} (--passes 1 "
            "would take its answer unchecked)"
        )
    record = replace(record, warnings=(*record.warnings, *more))
    timings = {**record.timings, "network": seconds}
    timings["registration"] += seconds
    return replace(result, record=replace(record, timings=timings))


def _joined(linear: RunRecord, refinement: RunRecord) -> RunRecord:
    """Return the record of a refinement with that of the linear stages before the network."""
    from regista.core import Status

    states = linear.status, refinement.status
    worst = [one for one in states if not one.ok] or [one for one in states if one is not Status.CONVERGED]
    timings = dict(linear.timings)
    for name, seconds in refinement.timings.items():
        timings[name] = timings.get(name, 0.0) + seconds
    both = [one.measures[_MEMORY] for one in (linear, refinement) if _MEMORY in one.measures]
    memory = {_MEMORY: max(both)} if both else {}
    return replace(
        refinement,
        status=worst[0] if worst else Status.CONVERGED,
        history=(*linear.history, *refinement.history),
        timings=timings,
        measures={**refinement.measures, "linear_plan": linear.plan, **memory},
        warnings=tuple(dict.fromkeys([*linear.warnings, *refinement.warnings])),
    )
