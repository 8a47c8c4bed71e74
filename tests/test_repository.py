"""The repository keeps its own rules."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "regista").rglob("*.py"))


def test_files_are_small_enough_to_hold_in_the_head() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 520} == {}


def test_packages_say_what_is_public() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.name == "__init__.py"
        and "import" in path.read_text(encoding="utf-8")
        and "__all__" not in path.read_text(encoding="utf-8")
    ]
    assert silent == []


def test_lps_is_known_to_io_and_grid_only() -> None:
    allowed = ("src/regista/io/", "src/regista/core/grid.py")
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        modules = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if "SimpleITK" in modules and not name.startswith(
            (*allowed, "src/regista/preprocessing/", "src/regista/benchmarking/_tools.py")  # peers speak LPS
        ):
            found.append(name)
    assert found == []


def test_every_pinned_requirement_covers_a_dependency() -> None:
    pins = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in ("demo", "dev"):
        wanted += project["optional-dependencies"][extra]
    names = {re.match(r"[A-Za-z0-9_.-]+", text).group().lower().replace("_", "-") for text in wanted}
    assert names - {"regista"} <= pins


def test_base_install_has_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [text for text in project["dependencies"] if text.startswith("torch")]


def test_import_is_lazy() -> None:
    heavy = ("numba", "scipy", "SimpleITK", "nibabel", "h5py", "pydantic")
    code = f"import sys, regista; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == ""


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:") or target.endswith(".png"):
                continue
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", ".ci/run"])
def test_repository_has(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_no_images_are_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"\.(nii|nii\.gz|mha|mhd|nrrd|mgz|mgh|dcm|h5)$")
    assert [name for name in listed.stdout.splitlines() if pattern.search(name)] == []
