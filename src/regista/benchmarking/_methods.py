"""What can be compared: Regista's plans, the peers, programs of the user's own."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from regista.core import FormatError, PlanError
from regista.core._wording import did_you_mean
from regista.evaluation._names import UNREGISTERED, read_text

TOOLS = ("ants", "greedy", "elastix", "sitk", "dipy", "command")

_KEYS = {"about", "source", "tool", "package", "linear", "masks", "settings"}
_COMMAND_KEYS = {"command", "transforms", "from_affine"}
_OURS = "regista:"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, and all that decides its result.

    Parameters
    ----------
    name : str
        Its name in tables.
    tool : str
        Who runs it: regista, ants, greedy, elastix, sitk, dipy, command.
    settings : mapping
        For Regista a whole plan; for a peer the table of ``peers.toml``.
    package : str
        Distribution that has to be installed; empty where none is.
    linear : bool
        Whether its result is one linear map.
    masks : bool
        Whether it uses masks.
    about, source : str
        One line on it, and where its settings come from.
    """

    name: str
    tool: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    linear: bool = False
    masks: bool = False
    about: str = ""
    source: str = ""

    @property
    def version(self) -> str | None:
        """Installed version of the package; None where it is absent, empty where there is none to install."""
        if not self.package:
            return ""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def lacking(self) -> str | None:
        """Return how to install what is absent, or None."""
        if self.version is not None:
            return None
        return (
            f"{self.package} is not installed: pip install 'regista[peers]' (or pip install {self.package})"
        )


def list_methods(own: str | os.PathLike[str] | None = None) -> dict[str, Method]:
    """Return all methods by name: Regista's presets, then the peers.

    Parameters
    ----------
    own : path, optional
        TOML file with further methods, or others under the same names.

    Examples
    --------
    >>> sorted(name for name in list_methods() if name.startswith("ants"))
    ['ants:affine', 'ants:syn-cc', 'ants:syn-mi']
    """
    from regista.registration import list_presets

    found = {f"{_OURS}{name}": _from_plan(name) for name in list_presets()}
    found |= dict(_peers())
    if own is not None:
        found |= _read(read_text(own), str(own))
    return found


def find_methods(names: Sequence[str], own: str | os.PathLike[str] | None = None) -> tuple[Method, ...]:
    """Return methods by name.

    Parameters
    ----------
    names : sequence of str
        Presets of Regista, with or without ``regista:``, plan files (``.toml``), or peers.
    own : path, optional
        See `list_methods`.

    Raises
    ------
    PlanError
        If a method is unknown, or named twice.

    Examples
    --------
    >>> [method.name for method in find_methods(["fast", "greedy"])]
    ['regista:fast', 'greedy']
    """
    known = list_methods(own)
    found: list[Method] = []
    for name in names:
        if name.endswith(".toml"):
            method = _from_plan(name)
        elif name in known or f"{_OURS}{name}" in known:
            method = known[name] if name in known else known[f"{_OURS}{name}"]
        else:
            names = [key.removeprefix(_OURS) for key in known]
            raise PlanError(
                f"there is no method {name!r}{did_you_mean(name, names)}; there are {', '.join(known)}; and any plan file (.toml) of Regista. "
                "`regista benchmark --list` says what each is"
            )
        if method.name in (m.name for m in found):
            raise PlanError(f"the method {method.name!r} is named twice")
        found.append(method)
    return tuple(found)


def _from_plan(source: str) -> Method:
    from regista.registration import LinearStage, load_plan, plan_to_dict

    plan = load_plan(source)
    return Method(
        name=f"{_OURS}{Path(source).stem if source.endswith('.toml') else source}",
        tool="regista",
        settings=plan_to_dict(plan),
        package="regista",
        linear=all(isinstance(stage, LinearStage) for stage in plan.stages),
        masks=True,
        about=plan.description,
    )


@cache
def _preset_names() -> frozenset[str]:
    from regista.registration import list_presets

    return frozenset(list_presets())


@cache
def _peers() -> Mapping[str, Method]:
    text = (resources.files("regista.benchmarking") / "peers.toml").read_text(encoding="utf-8")
    return _read(text, "peers.toml")


def _read(text: str, where: str) -> dict[str, Method]:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{where} is not valid TOML: {error}") from None
    return {name: _method(name, table, where) for name, table in tree.items()}


def _method(name: str, table: Any, where: str) -> Method:
    if not isinstance(table, Mapping):
        raise PlanError(f'{where}: a method is a table such as ["my:method"], got {name} = {table!r}')
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        raise PlanError(
            f"{where}: {name} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}"
        )
    if table.get("tool") not in TOOLS:
        raise PlanError(f"{where}: {name} needs tool = one of {', '.join(TOOLS)}, got {table.get('tool')!r}")
    if name == UNREGISTERED or name.startswith(_OURS) or name in _preset_names():
        raise PlanError(
            f"{where}: the name {name!r} is taken, by a preset of Regista or a row of the tables; give the method another, "
            f"such as my:{name.removeprefix(_OURS)}"
        )
    settings = table.get("settings", {})
    if table["tool"] == "command":
        _check_command(name, settings, where)
    else:
        _check_settings(name, table["tool"], settings, where)
    return Method(
        name=name,
        tool=table["tool"],
        settings=settings,
        package=str(table.get("package", _package(table["tool"]))),
        linear=bool(table.get("linear", False)),
        masks=bool(table.get("masks", False)),
        about=str(table.get("about", "")),
        source=str(table.get("source", "")),
    )


def _package(tool: str) -> str:
    return {"ants": "antspyx", "greedy": "picsl-greedy", "elastix": "itk-elastix", "sitk": "SimpleITK"}.get(
        tool, "" if tool == "command" else tool
    )


def _check_command(name: str, settings: Mapping[str, Any], where: str) -> None:
    if not {"command", "transforms"} <= set(settings) <= _COMMAND_KEYS:
        raise PlanError(
            f'{where}: {name} runs a command: its settings are command = ["program", "{{fixed}}", "{{moving}}", '
            "…], transforms = [files it leaves in {out}, in the order in which they act on a fixed point], and "
            "perhaps from_affine (the command that starts from {affine})"
        )


def _check_settings(name: str, tool: str, settings: Mapping[str, Any], where: str) -> None:
    """Refuse settings that no peer of the same tool has, most likely mistyped, and a lack of those it needs."""
    if where == "peers.toml":
        return
    kept = [set(peer.settings) for peer in _peers().values() if peer.tool == tool]
    known = sorted(set().union(*kept))
    # ANTsPy takes any keyword of ants.registration
    unknown = [] if tool == "ants" else sorted(set(settings) - set(known))
    if unknown:
        raise PlanError(
            f"{where}: {name} has the unknown setting {unknown[0]!r}; {tool} has {', '.join(known)}"
        )
    needed = ["type_of_transform"] if tool == "ants" else sorted(set(known).intersection(*kept))
    lacking = [key for key in needed if key not in settings]
    if lacking:
        raise PlanError(
            f"{where}: {name} lacks the setting {lacking[0]!r}; {tool} needs {', '.join(needed)} (regista benchmark "
            "--list shows those of its peers)"
        )
