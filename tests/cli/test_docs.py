"""The reference page and the README name every option there is, and none that is not."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from regista.cli import app
from regista.io import TRANSFORM_FORMATS
from regista.registration import LinearStage, list_presets, load_plan
from regista.registration._stages import STAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
COMMON = "Options of every command"


def options_of(command, name="regista") -> dict[str, set[str]]:
    """Return every command's options: those typed on the command line, long, short and negated."""
    options = [p for p in command.params if p.param_type_name == "option"]
    found = {name: {word for p in options for word in (*p.opts, *p.secondary_opts)}}
    for word, part in getattr(command, "commands", {}).items():
        found |= options_of(part, f"{name} {word}")
    return found


COMMANDS = options_of(typer.main.get_command(app))


def sections() -> dict[str, set[str]]:
    """Return the options named in the first column of each section's table."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    named = {}
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        cells = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `-"))
        named[title.strip("`")] = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", cells))
    return named


GROUPS = ("regista", "regista presets", "regista train", "regista models")
"""Commands that only hold others."""


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in GROUPS])
def test_every_option_is_on_the_reference_page(command):
    named = sections()
    assert command in named, f"docs/reference/cli.md has no section for `{command}`"
    missing = COMMANDS[command] - named[command] - named[COMMON]
    assert not missing, f"not in docs/reference/cli.md: {command} {sorted(missing)}"
    invented = named[command] - COMMANDS[command]
    assert not invented, f"in docs/reference/cli.md, but no option: {command} {sorted(invented)}"


def test_every_transform_format_is_on_the_reference_page():
    page = (ROOT / "docs/reference/formats.md").read_text(encoding="utf-8")
    assert [name for name in TRANSFORM_FORMATS if f"`{name}`" not in page] == []


def pages() -> list[Path]:
    """Return every page that shows commands."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_commands_in_the_text_exist(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    for line in (line.strip() for line in lines):
        if not line.startswith("regista "):
            continue
        name = max((c for c in COMMANDS if f"{line} ".startswith(f"{c} ")), key=len)
        assert name != "regista", line
        allowed = COMMANDS[name] | {"-h", "--help"}
        used = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", line))
        assert used <= allowed, f"{page.name}: {line}: {sorted(used - allowed)}"


@pytest.mark.parametrize(
    "page",
    [p for p in sorted((ROOT / "docs/models").glob("*.md")) if p.stem != "index"],
    ids=lambda p: p.stem,
)
def test_pages_of_models_say_all_there_is_to_say(page):
    text = page.read_text(encoding="utf-8")
    for heading in (
        "The idea",
        "The formula",
        "Parameters",
        "When to use it, and when not",
        "Example",
        "Source",
    ):
        assert f"\n## {heading}\n" in text, heading
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    assert all((page.parent / name).is_file() for name in pictures)
    assert "| setting | default | unit | meaning |" in text


def test_every_setting_of_a_model_is_on_its_page():
    pages = {"diffeomorphic": "diffeomorphic", "syn": "syn", "demons": "demons", "svf": "velocity"}
    pages |= {"bspline": "bspline", "convex": "convex"}
    index = (ROOT / "docs/models/index.md").read_text(encoding="utf-8")
    assert set(pages) == {name for name, kind in STAGES.items() if kind is not LinearStage}
    for model, name in pages.items():
        text = (ROOT / f"docs/models/{name}.md").read_text(encoding="utf-8") + index
        settings = {item.name for item in fields(STAGES[model])} - {"model"}
        assert [setting for setting in sorted(settings) if f"`{setting}`" not in text] == [], model
        assert f"({name}.md)" in index


def test_every_preset_is_on_the_pages_of_presets_and_models():
    page = (ROOT / "docs/reference/presets.md").read_text(encoding="utf-8")
    index = (ROOT / "docs/models/index.md").read_text(encoding="utf-8")
    for name in list_presets():
        assert f"`{name}`" in page, name
        if not all(isinstance(stage, LinearStage) for stage in load_plan(name).stages):
            assert f"`{name}`" in index, name
