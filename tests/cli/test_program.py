"""The program as a whole: start-up, presets, errors."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
import typer

from regista.cli._console import guarded
from regista.registration import list_presets

COMMANDS = (
    "register",
    "motion",
    "register-slices",
    "apply",
    "apply-points",
    "invert",
    "compose",
    "convert",
    "info",
    "report",
    "presets",
    "warmup",
    "demo",
)


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    # how long it takes is for benchmarks/startup.py; what would make it long is told here
    program = """
import sys
from regista.cli import main
try:
    main()
finally:
    heavy = ("numpy", "numba", "scipy", "SimpleITK", "nibabel", "torch", "matplotlib", "pydantic")
    print("loaded:", *[name for name in heavy if name in sys.modules])
"""
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert all(f" {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.strip().splitlines()[-1].strip() == "loaded:"


def test_a_terminal_without_its_letters_stops_nothing() -> None:
    # a batch system that knows only ASCII
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "regista", "--help"]
    done = subprocess.run(command, capture_output=True, encoding="ascii", check=True, env=ascii_only)
    assert "Ny?l" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, regista.cli; print(*[m for m in ('numpy', 'numba', 'scipy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(call, name) -> None:
    done = call(name, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_usage_errors_exit_with_2(call) -> None:
    assert call("nope").exit_code == 2
    assert call("register", "a.nii").exit_code == 2
    assert call("warmup", "--threads", "0").exit_code == 2


def test_version(call) -> None:
    from regista import __version__

    assert call("--version").stdout == f"regista {__version__}\n"


def test_presets_are_listed_and_shown_as_plans(call, tmp_path) -> None:
    listed = call("presets").stdout
    assert json.loads(call("presets", "--json").stdout) == list_presets()
    for name in list_presets():
        assert name in listed
        shown = call("presets", "show", name).stdout
        assert tomllib.loads(shown)["name"] == name
    (tmp_path / "mine.toml").write_text(shown, encoding="utf-8")
    assert call("presets", "show", tmp_path / "mine.toml").stdout == shown
    assert call("presets", "show", "nope").exit_code == 2


def test_an_unexpected_error_asks_to_be_reported(capsys) -> None:
    @guarded
    def broken(*, debug: bool = False, as_json: bool = False) -> None:
        raise ZeroDivisionError("by chance")

    with pytest.raises(typer.Exit) as end:
        broken()
    told = capsys.readouterr()
    assert end.value.exit_code == 1
    assert "bug" in told.err
    assert "Traceback" not in told.err
    with pytest.raises(typer.Exit):
        broken(debug=True, as_json=True)
    told = capsys.readouterr()
    assert "Traceback" in told.err
    assert json.loads(told.out)["kind"] == "ZeroDivisionError"
