"""The scripts of ``benchmarks/``: tables of the test images, and pages made of finished runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from regista import read
from regista.benchmarking import check_files, find_methods, read_cases
from regista.benchmarking._store import Store
from regista.core import FormatError

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(tmp_path):
    """Return the folder of a finished run, and a page with a place for it."""
    results, page = tmp_path / "results" / "mouse", tmp_path / "docs" / "mouse.md"
    (results / "plots").mkdir(parents=True)
    page.parent.mkdir()
    for name in ("box_labels_dice", "time_labels_dice"):
        (results / "plots" / f"{name}.png").write_bytes(b"png")
    (results / "raw.csv").write_text("case\n", encoding="utf-8")
    (results / "summary.md").write_text(
        "# mouse\n\nA machine, 2 threads.\n\n## Labels\n\n| a |\n|---|\n| 1 |\n\n## Plots\n\n"
        "![box_labels_dice](plots/box_labels_dice.png)\n",
        encoding="utf-8",
    )
    (results / "run.json").write_text(
        json.dumps({"command": "python x.py mouse", "commit": "abc123"}), encoding="utf-8"
    )
    page.write_text(
        "# Mouse\n\nAbove.\n\n<!-- results: begin -->\nold\n<!-- results: end -->\n\nBelow.\n",
        encoding="utf-8",
    )
    return results, page


def test_a_finished_run_takes_the_place_on_its_page(script, run):
    results, page = run
    script("publish").publish(results, page)
    text = page.read_text(encoding="utf-8")
    assert "`python x.py mouse`, commit abc123, ended 20" in text
    assert "old" not in text
    assert "### Labels" in text
    assert "A machine, 2 threads." in text
    assert text.startswith("# Mouse\n\nAbove.")
    assert text.endswith("<!-- results: end -->\n\nBelow.\n")
    assert "](plots/mouse/box_labels_dice.png)" in text
    assert (page.parent / "plots" / "mouse" / "box_labels_dice.png").is_file()
    script("publish").publish(results, page)
    assert page.read_text(encoding="utf-8") == text  # again: the same


def test_seconds_of_a_run_alone_take_the_place_of_those_beside_other_work(script, run, tmp_path):
    results, page = run
    head = "# mouse\n\nA machine; 2 threads for each method.\n\n## Labels\n\n| a |\n\n## Time and memory\n\n"
    plots = "## Plots\n\n![box_labels_dice](plots/box_labels_dice.png)\n\n![time_labels_dice](plots/time_labels_dice.png)\n"
    (results / "summary.md").write_text(f"{head}| 99 s |\n\n{plots}", encoding="utf-8")
    alone = tmp_path / "alone"
    shutil.copytree(results, alone)
    (alone / "summary.md").write_text(f"{head}| 11 s |\n\n{plots}", encoding="utf-8")
    facts = {"set": "mouse", "command": "python x.py mouse --seconds", "commit": "def456"}
    (alone / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    (alone / "plots" / "time_labels_dice.png").write_bytes(b"of two pairs")
    publish = script("publish").publish
    with pytest.raises(SystemExit, match="need a table of seconds"):
        publish(alone, page, only_seconds=True)
    publish(results, page)
    assert "| 99 s |" in page.read_text(encoding="utf-8")
    drawn = page.parent / "plots" / "mouse"
    assert {path.name for path in drawn.iterdir()} == {"box_labels_dice.png", "time_labels_dice.png"}

    publish(alone, page, only_seconds=True)
    text = page.read_text(encoding="utf-8")
    assert "99 s" not in text
    assert "`python x.py mouse`, commit abc123" in text
    places = [text.index(part) for part in ("### Time", "--seconds`, commit def456", "| 11 s |", "### Plots")]
    assert places == sorted(places)
    assert (
        text.count("### Time and memory")
        == text.count("### Labels")
        == text.count("A machine; 2 threads")
        == 1
    )
    assert (drawn / "time_labels_dice.png").read_bytes() == b"of two pairs"
    assert "time_labels_dice" in text
    publish(alone, page, only_seconds=True)
    assert page.read_text(encoding="utf-8") == text  # again: the same

    (alone / "plots" / "time_labels_dice.png").unlink()
    publish(alone, page, only_seconds=True)
    assert "time_labels_dice" not in page.read_text(encoding="utf-8")
    assert [path.name for path in drawn.iterdir()] == ["box_labels_dice.png"]

    text = page.read_text(encoding="utf-8")
    (alone / "run.json").write_text(json.dumps(facts | {"set": "brain"}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"its page is brain\.md"):
        publish(alone, page, only_seconds=True)
    assert page.read_text(encoding="utf-8") == text


def test_a_run_that_did_not_end_is_not_published(script, run):
    results, page = run
    before = page.read_text(encoding="utf-8")
    os.utime(results / "summary.md", (1, 1))
    with pytest.raises(SystemExit, match="did not reach its end"):
        script("publish").publish(results, page)
    (results / "summary.md").unlink()
    with pytest.raises(SystemExit, match=r"summary\.md is missing"):
        script("publish").publish(results, page)
    assert page.read_text(encoding="utf-8") == before
    with pytest.raises(SystemExit, match="no place for results"):
        script("publish").publish(results, page.with_name("other.md"))


def test_sets_name_methods_that_exist_and_pages_that_have_a_place(script):
    module = script("side_by_side")
    for name, chosen in module.SETS.items():
        own = dict(zip(chosen.options, chosen.options[1:], strict=False)).get("--methods-file")
        find_methods([*chosen.ours, *chosen.peers, *chosen.slow], own)
        find_methods(chosen.quick)
        page = FOLDER.parent / "docs" / "benchmarks" / f"{name}.md"
        assert page.read_text(encoding="utf-8").count("<!-- results: begin -->") == 1
    assert module._without_folder(["mouse", "--data", "/somewhere", "--quick", "--data=x"]) == [
        "mouse",
        "--quick",
    ]


@pytest.mark.parametrize(("code", "written"), [(0, True), (1, True), (2, False), (130, False)])
def test_only_a_run_that_ended_says_what_it_was_made_with(script, monkeypatch, tmp_path, code, written):
    module = script("side_by_side")
    monkeypatch.setattr(module, "command", lambda name, options: (["false"], tmp_path))
    monkeypatch.setattr(module, "commit", lambda: "abc123")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    monkeypatch.setattr("sys.argv", ["side_by_side.py", "mouse"])
    with pytest.raises(SystemExit):
        module.main()
    assert (tmp_path / "run.json").exists() == written


def test_tables_are_not_written_under_a_running_benchmark(script, monkeypatch, tmp_path):
    module = script("side_by_side")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "data_folder", lambda given: tmp_path)
    options = SimpleNamespace(data=None, quick=False, seconds=False, slow=False, pairs=1, threads=1, extra=[])
    with Store(tmp_path / "mouse").locked(), pytest.raises(FormatError, match="another benchmark"):
        module.command("mouse", options)
    assert not (tmp_path / "mouse" / "pairs").exists()
    words, _ = module.command("mouse", options)
    assert words[2] == str(tmp_path / "mouse" / "pairs" / "pairs.csv")


def test_figures_of_other_sources_are_refused(script, monkeypatch, tmp_path):
    module = script("harness.machine")
    module.check_sources()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="not from"):
        module.check_sources()


@pytest.mark.data
@pytest.mark.parametrize(
    ("images", "count"),
    [
        ("brain_t1", 12),
        ("mouse_brain", 12),
        ("lung_ct", 2),
        ("lung_ct_moved", 6),
        ("lung_mri", 6),
        ("histology", 4),
        ("cardiac_cine", 24),
    ],
)
def test_tables_of_the_test_images_lead_to_files(script, data_dir, tmp_path, images, count):
    table = script("pairs").write_pairs(images, Path(data_dir), tmp_path / "one")
    cases = read_cases(table, convention="lps")
    assert len(cases) == count
    assert check_files(cases) == {}
    twin = script("pairs").write_pairs(images, Path(data_dir), tmp_path / "two")
    for path in sorted(table.parent.iterdir()):  # written again alike: a run that was stopped can be taken up
        if path.name != "pairs.csv":
            assert (twin.parent / path.name).read_bytes() == path.read_bytes()


@pytest.mark.data
def test_conversions_keep_what_they_convert(script, data_dir, tmp_path):
    source, pairs = Path(data_dir), script("pairs")
    (heart, *_) = read_cases(pairs.write_pairs("cardiac_cine", source, tmp_path / "h", 1))
    arrays = np.load(source / "cardiac_cine" / "patient001.npz")
    image = read(heart.fixed)
    assert image.data.shape == arrays["es"].shape[::-1]
    assert np.array_equal(image.data[100, 120, 3], arrays["es"][3, 120, 100])
    assert np.allclose(image.grid.spacing, 1)
    (lung, *_) = read_cases(pairs.write_pairs("lung_ct", source, tmp_path / "l"))
    stored, clipped = read(source / "lung_ct" / "baseline.mha"), read(lung.fixed)
    assert clipped.grid.same_as(stored.grid)
    assert np.array_equal(clipped.data, np.maximum(stored.data, -1000))
    case = read_cases(pairs.write_pairs("histology", source, tmp_path / "s"), convention="lps")[2]
    assert case.points is not None
    with case.points[0].open(encoding="utf-8") as stream:
        labels = [row["label"] for row in csv.DictReader(stream)]
    assert labels == [str(n) for n in range(1, 70)]  # the other section has two fewer


def test_measures_are_compared_with_what_is_there(script, monkeypatch, capsys, tmp_path):
    compare = script("reference_measures")
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["reference_measures.py"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "nothing to compare with" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["reference_measures.py", "--ndv", str(tmp_path)])
    with pytest.raises(SystemExit, match="no checkout"):
        compare.main()
    monkeypatch.setattr(compare, "find_spec", lambda name: name)
    monkeypatch.setattr("sys.argv", ["reference_measures.py", "--cases", "1"])
    for value, code in ((1e-12, 0), (0.1, 1)):
        monkeypatch.setattr(compare, "medpy", lambda rng, value=value: [("MedPy HD, mm", value)])
        assert compare.main() == code
