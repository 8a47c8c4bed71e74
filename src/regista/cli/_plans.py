"""``regista presets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regista.cli._console import Debug, Json, guarded, say, say_json

presets = typer.Typer(help="List the presets, or show a whole plan.", invoke_without_command=True)

Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change one setting of the plan.")
]


@presets.callback()
def _list_when_bare(context: typer.Context, as_json: Json = False) -> None:
    """List the presets, or show a whole plan."""
    if context.invoked_subcommand is None:
        list_(as_json=as_json)


@presets.command("list")
@guarded
def list_(as_json: Json = False, debug: Debug = False) -> None:
    """List the presets with a line each."""
    from regista.registration import list_presets

    found = list_presets()
    if as_json:
        say_json(found)
        return
    width = max(map(len, found))
    for name, description in found.items():
        say(f"{name:<{width}}  {description}")


@presets.command("show")
@guarded
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, or a plan file (.toml).")],
    overrides: Override = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print a whole plan as TOML: a file to edit and give to --plan."""
    from regista.registration import load_plan, plan_to_dict, plan_to_toml

    if name.endswith(".toml"):
        check_plan_file(Path(name))
    plan = load_plan(name, overrides or ())
    if as_json:
        say_json(plan_to_dict(plan))
    else:
        say(plan_to_toml(plan).rstrip())


def check_plan_file(path: Path) -> None:
    """Refuse what is no plan file, and say how to get one."""
    from regista.core import PlanError

    if path.suffix != ".toml":
        raise PlanError(f"a plan file ends in .toml, got {path}; a preset's name goes with --preset")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PlanError(
            f"the plan file {path} {what}: check the name, or make one: `regista presets show NAME > {path.name}`"
        )
