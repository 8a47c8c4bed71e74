"""The file boundary of plans: TOML in and out, presets, overrides."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from regista.core import FormatError, PlanError
from regista.core._wording import did_you_mean, expectation
from regista.preprocessing import Pipeline
from regista.registration._plan import Plan, Start
from regista.registration._stages import STAGES, DenseStage, LinearStage
from regista.regularization import PAIR_PENALTIES, PENALTIES, penalties_from_plan
from regista.similarity import SIMILARITIES, Similarity, Sum


def list_presets() -> dict[str, str]:
    """Return the shipped presets, name to description."""
    return {name: str(tomllib.loads(text).get("description", "")) for name, text in _presets().items()}


def load_plan(source: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Load a preset by name, or a plan from a TOML file, and change single settings.

    Parameters
    ----------
    source : str or Path
        Name of a preset, or a file ending in ``.toml``.
    overrides : sequence of str
        ``path=value`` with a dotted path, for instance ``stages.diffeomorphic.step_vox=0.5``; a stage is
        named by its model, where no other has it, or its number from 0.

    Raises
    ------
    PlanError
        If there is no such preset, a key is unknown or a value is out of range.

    Examples
    --------
    >>> load_plan("rigid", ["stages.rigid.shrink=[8, 4]", "stages.rigid.steps=[9, 9]"]).stages[0].shrink
    (8, 4)
    """
    text = _read(source)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{source} is not valid TOML: {error}") from None
    _check_twins(tree, overrides)
    for override in overrides:
        _override(tree, override)
    tree.setdefault("name", Path(source).stem)
    return plan_from_dict(tree)


def plan_from_dict(tree: Mapping[str, Any]) -> Plan:
    """Build a plan from plain dictionaries, checking every key and value."""
    tree = dict(tree)
    if isinstance(tree.get("start"), Mapping):
        tree["start"] = _build(Start, tree["start"], "start")
    if "preprocessing" in tree and not isinstance(tree["preprocessing"], Pipeline):
        tree["preprocessing"] = Pipeline.from_dict(tree["preprocessing"])
    stages = tree.get("stages")
    if not isinstance(stages, Sequence) or isinstance(stages, str):
        raise PlanError("a plan has a list of [[stages]]")
    built = []
    for number, stage in enumerate(stages):
        if not isinstance(stage, Mapping) or "model" not in stage:
            raise PlanError(f"stages.{number} needs a model ({', '.join(STAGES)})")
        if not isinstance(stage["model"], str) or stage["model"] not in STAGES:
            raise PlanError(
                f"stages.{number}: there is no model {stage['model']!r}; models are {', '.join(STAGES)}"
            )
        built.append(_build(STAGES[stage["model"]], stage, f"stages.{number}"))
    tree["stages"] = tuple(built)
    return _build(Plan, tree, "plan")  # type: ignore[no-any-return]


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain dictionaries; `plan_from_dict` is its inverse."""
    return {f.name: _plain(getattr(plan, f.name)) for f in fields(plan)}


def plan_to_toml(plan: Plan) -> str:
    """Return a plan as TOML text that `load_plan` reads back to the same plan.

    Examples
    --------
    >>> print(plan_to_toml(load_plan("rigid")).splitlines()[0])
    name = "rigid"
    """
    tree = plan_to_dict(plan)
    keys = (
        "name",
        "description",
        "wants_masks",
        "mask_margin_mm",
        "fixed_surround",
        "halfway",
        "clip_percentiles",
        "slice_thickness",
    )
    lines = [f"{key} = {_toml(tree[key])}" for key in keys]
    steps = tree["preprocessing"]["steps"]
    for step in steps:
        settings = {k: v for k, v in step.items() if v is not None}
        lines += ["", "[[preprocessing.steps]]", *(f"{k} = {_toml(v)}" for k, v in settings.items())]
    lines += ["", "[start]", *(f"{k} = {_toml(v)}" for k, v in tree["start"].items())]
    for stage in tree["stages"]:
        lines += ["", "[[stages]]", *(f"{k} = {_toml(v)}" for k, v in stage.items())]
    return "\n".join(lines) + "\n"


@cache
def _presets() -> dict[str, str]:
    folder = resources.files("regista.registration") / "presets"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in files}


def _read(source: str | Path) -> str:
    name = str(source)
    if name in _presets():
        return _presets()[name]
    if not name.endswith(".toml"):
        known = ", ".join(_presets())
        near = did_you_mean(name, _presets())
        raise PlanError(f"there is no preset {name!r}{near}; presets are {known}; a plan file ends in .toml")
    if not Path(name).exists():
        raise FormatError(
            f"cannot read the plan {name}: it does not exist; expected a plan file (.toml): check the name"
        )
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot read the plan {name}: {error}") from None


def _override(tree: dict[str, Any], text: str) -> None:
    path, sign, value_text = text.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise PlanError(f"a setting reads PATH=VALUE, as in --set stages.0.shrink=[4,2], got {text!r}")
    try:
        value = tomllib.loads(f"value = {value_text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = value_text.strip()
    place: Any = tree
    for depth, key in enumerate(keys[:-1]):
        if isinstance(place, list):
            find = _term_index if keys[depth - 1] == "similarity" else _stage_index
            place = place[find(place, key, text)]
            continue
        below = place.get(key)
        if key == "similarity" and isinstance(below, str):
            below = {below: {}}
        if below is None:
            below = {}
        if not isinstance(below, dict | list):
            raise PlanError(f"{'.'.join(keys[: depth + 1])} in {text!r} is a value, not a section")
        place[key] = below
        place = below
    if isinstance(place, list):
        whole = "term" if keys[-2] == "similarity" else "stage"
        raise PlanError(f"{text!r} would replace a whole {whole}: name a setting of it")
    if keys[-1] in _TWINS:
        place.pop(_TWINS[keys[-1]], None)
    if keys[-1] == "shrink" and isinstance(value, list):
        _keep_levels(place, value)
    place[keys[-1]] = value


_TWINS = {"spacing_mm": "spacing_vox", "spacing_vox": "spacing_mm"}
"""Settings that say the same in two units: an override of one takes the place of the other."""


def _check_twins(tree: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse overrides that give one thing in two units, whichever of its names a stage goes by."""
    said: dict[tuple[str, str], str] = {}
    for override in overrides:
        path = override.partition("=")[0].strip()
        stem, _, name = path.rpartition(".")
        if name not in _TWINS:
            continue
        head, _, stage = stem.rpartition(".")
        if head == "stages" and isinstance(tree.get("stages"), list):
            stem = f"stages.{_stage_index(tree['stages'], stage, override)}"
        other = said.get((stem, _TWINS[name]), said.get((stem, name), path))
        said[stem, name] = path
        if other != path:
            raise PlanError(f"{other} and {path} are both set, and say the same: set one of them")


def _keep_levels(stage: dict[str, Any], shrink: list[Any]) -> None:
    """Where levels are left out, settings with a value for each of them keep those of the levels that stay."""
    before = stage.get("shrink")
    if not isinstance(before, list) or not all(factor in before for factor in shrink):
        return
    kind = STAGES.get(str(stage.get("model")), LinearStage)
    for name in ("steps", *_per_level(kind)):
        values = stage.get(name)
        if isinstance(values, list) and len(values) == len(before):
            stage[name] = [values[before.index(factor)] for factor in shrink]


def _stage_index(stages: list[Any], key: str, text: str) -> int:
    names = [str(s.get("model")) if isinstance(s, dict) else "" for s in stages]
    if names.count(key) > 1:
        path, _, value = text.partition("=")
        numbers = [n for n, name in enumerate(names) if name == key]
        ways = " or ".join(f"{path.strip().replace(key, str(n), 1)}={value}" for n in numbers)
        raise PlanError(f"{text!r}: the plan has {len(numbers)} stages {key!r}; name one by number: {ways}")
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(stages):
        return int(key)
    raise PlanError(f"{text!r} names stage {key!r}; the plan's stages are {', '.join(names)}")


def _term_index(terms: list[Any], key: str, text: str) -> int:
    if key.isdigit() and int(key) < len(terms) and isinstance(terms[int(key)], dict):
        return int(key)
    raise PlanError(f"{text!r} names term {key!r} of a sum of metrics; its terms are 0 … {len(terms) - 1}")


def _per_level(kind: type) -> tuple[str, ...]:
    return kind.per_level if issubclass(kind, DenseStage) else ()


def _build(kind: type, tree: Mapping[str, Any], where: str) -> Any:
    tree = dict(tree)
    for name in _per_level(kind):
        if isinstance(tree.get(name), int | float):
            tree[name] = (tree[name],)
    if "similarity" in tree:
        tree["similarity"] = _similarity(tree["similarity"], f"{where}.similarity")
    if "penalties" in tree:
        tree["penalties"] = penalties_from_plan(tree["penalties"], f"{where}.penalties")
    return _validate(kind, tree, where)


def _similarity(spec: Any, where: str) -> Similarity:
    if isinstance(spec, list | tuple):
        terms = [_term(term, f"{where}.{number}") for number, term in enumerate(spec)]
        parts = {"terms": tuple(term[:2] for term in terms), "channels": tuple(term[2] for term in terms)}
        total: Similarity = _validate(Sum, parts, where)
        return total
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise PlanError(f'{where} reads like "mi" or {{lncc = {{radius = 2}}}}, got {spec!r}')
    ((name, options),) = spec.items()
    if name not in SIMILARITIES:
        raise PlanError(
            f"{where}: there is no metric {name!r}; metrics are {', '.join(SIMILARITIES)}{did_you_mean(name, SIMILARITIES)}"
        )
    option = getattr(SIMILARITIES[name], "option", None)
    if option is not None and isinstance(options, str):
        options = {option: options}
    if not isinstance(options, Mapping):
        raise PlanError(f"{where}.{name} is a table of options, got {options!r}")
    similarity: Similarity = _validate(SIMILARITIES[name], dict(options), f"{where}.{name}")
    return similarity


def metric_from_text(text: str) -> Similarity:
    """Return a metric written as in a plan: a name, a table, or a list of terms.

    Examples
    --------
    >>> metric_from_text("mi"), metric_from_text("{lncc = {radius = 3}}")
    (MI(bins=32), LNCC(radius=3...))
    """
    try:
        spec = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        spec = text.strip()
    return _similarity(spec, "metric")


def _term(spec: Any, where: str) -> tuple[float, Similarity, int | None]:
    """Return weight, metric and channel (None: all of them) of a term of a sum."""
    if not isinstance(spec, Mapping) or "weight" not in spec:
        raise PlanError(f"{where} reads like {{weight = 0.5, lncc = {{radius = 2}}}}, got {spec!r}")
    rest = dict(spec)
    weight, channel = rest.pop("weight"), rest.pop("channel", None)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise PlanError(f"{where}.weight is a number above 0, got {weight!r}")
    if "channel" in spec and (type(channel) is not int or channel < 0):
        raise PlanError(f"{where}.channel is a whole number from 0, got {channel!r}")
    return float(weight), _similarity(rest, where), channel


def _validate(kind: type, tree: dict[str, Any], where: str) -> Any:
    from pydantic import ValidationError  # slow to import; only files need it

    known = {f.name for f in fields(kind)}
    unknown = sorted(set(tree) - known)
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise PlanError(
            f"{where} has no setting {unknown[0]!r}{near}; its settings are {', '.join(sorted(known))}"
        )
    try:
        return _adapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *map(str, first["loc"])])
        if first["type"] == "value_error":  # the setting's own words
            raise PlanError(f"{path}: {first['ctx']['error']}") from None
        raise PlanError(f"{path}: {expectation(first)}") from None


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # slow to import; only files need it

    return TypeAdapter(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, Pipeline):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Start | LinearStage | DenseStage):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Sum):
        return [
            {"weight": weight, **({} if channel is None else {"channel": channel}), **_plain(term)}
            for (weight, term), channel in zip(value.terms, value.named, strict=True)
        ]
    for name, kind in (SIMILARITIES | PENALTIES | PAIR_PENALTIES).items():
        if type(value) is kind:
            return {name: {f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return repr(value)
