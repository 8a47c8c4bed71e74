"""Runs of trained networks, and sweeps, on their page."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="the scripts of trained networks need torch")

HEAD = "method,dice,dice_1,dice_2,dice_3,folded_percent,sd_log_jacobian,seconds"
FACTS = {
    "command": "python benchmarks/learned_cardiac.py --steps 20",
    "commit": "abc",
    "ended": "2026-01-01",
    "machine": "a machine",
    "network": "voxelmorph-2",
    "parameters": 7,
    "steps": 20,
    "planned": 20,
    "batch": 2,
    "minutes": 0.5,
    "subjects": {"train": 3, "validation": 1, "test": 2},
}


@pytest.fixture
def page(script, tmp_path, monkeypatch):
    module = script("publish_learned")
    for name in ("publish_learned", "harness.trained"):
        monkeypatch.setattr(script(name), "RESULTS", tmp_path)
    (tmp_path / "learned_cardiac_classical.csv").write_text(
        f"{HEAD}\nas stored,0.5,0.5,0.5,0.5,0,0,1\n", encoding="utf-8"
    )
    (tmp_path / "learned_cardiac_mine.csv").write_text(
        f"{HEAD}\nmine,0.75,0.5,0.5,0.5,0,0.1,1\nmine,0.25,0.5,0.5,0.5,0,0.1,1\n", encoding="utf-8"
    )
    (tmp_path / "learned_cardiac_mine.json").write_text(json.dumps(FACTS), encoding="utf-8")
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{module.BEGIN}\nan earlier run\n{module.END}\nafter\n", encoding="utf-8")
    return page


def test_runs_are_put_between_the_marks(script, page) -> None:
    script("publish_learned").publish("cardiac", ["mine"], [], page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "an earlier run" not in text
    assert "| mine | 2 | 0.500 ± 0.354 |" in text
    assert "| as stored | 1 |" in text
    assert FACTS["command"] in text


def test_a_sweep_comes_with_its_plot_and_one_that_was_not_run_is_named(script, page, tmp_path) -> None:
    publish = script("publish_learned").publish
    with pytest.raises(SystemExit, match="learned_sweep_cardiac_subjects"):
        publish("cardiac", ["mine"], ["subjects"], page)
    name = "learned_sweep_cardiac_subjects"
    (tmp_path / f"{name}.md").write_text(f"# title\n\na table\n\n![x]({name}.png)\n", encoding="utf-8")
    (tmp_path / f"{name}.png").write_bytes(b"picture")
    publish("cardiac", ["mine"], ["subjects"], page)
    text = page.read_text(encoding="utf-8")
    assert "### By subjects\n\na table" in text
    assert "![x](plots/learned-cardiac/subjects.png)" in text
    assert (page.parent / "plots" / "learned-cardiac" / "subjects.png").read_bytes() == b"picture"
