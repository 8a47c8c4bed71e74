"""A metric from the command line: trained, listed, shown, verified, and used in a plan."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata

import pytest
from metric_data import contrasts
from typer.testing import CliRunner

from regista.cli import app
from regista.io import write

QUICK = ("--steps", "4", "--batch", "8", "--channels", "4,4,4,4", "--shrinks", "1", "--validate-every", "2")


def _call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with `pairs.csv` and a metric trained on it, `models/quick`."""
    folder = tmp_path_factory.mktemp("metric")
    rows = ["fixed,moving,subject"]
    for number in range(3):
        for name, image in zip("ab", contrasts((44, 40), number), strict=True):
            write(folder / f"{number}{name}.nii.gz", image)
        rows.append(f"{number}a.nii.gz,{number}b.nii.gz,s{number}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    output = folder / "models" / "quick"
    done = _call(
        "train", "deep-metric", folder / "pairs.csv", "-o", output, *QUICK, "--contrasts", "t1,t2", "--json"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["steps"] == 4
    assert told["finished"]
    assert told["validation"]["patches"] == 512
    return folder


def test_models_are_listed_shown_and_verified(place, monkeypatch):
    monkeypatch.setenv("REGISTA_MODELS", str(place / "models"))
    assert "quick  similarity metric for t1 and t2, 2-D" in _call("models", "list").stdout
    assert "t1 (first)" in _call("models", "show", "quick").stdout
    assert "whole" in _call("models", "verify", "quick").stdout
    done = _call("register", place / "0a.nii.gz", place / "0b.nii.gz", "-o", place / "o", "--model", "quick")
    assert done.exit_code == 2
    assert "similarity metric" in done.stderr


def test_a_plan_names_it(place, monkeypatch, tmp_path):
    monkeypatch.setenv("REGISTA_MODELS", str(place / "models"))
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[start]\nsearch = "none"\n[[stages]]\nmodel = "rigid"\nsimilarity = {deep = "quick"}\nshrink = [2]\nsteps = [3]\n',
        encoding="utf-8",
    )
    done = _call(
        "register",
        place / "0a.nii.gz",
        place / "0b.nii.gz",
        "-o",
        tmp_path / "out",
        "--plan",
        plan,
        "--no-verdict",
    )
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert "quick" in json.dumps(record["plan"])
    sha = hashlib.sha256((place / "models" / "quick" / "model.safetensors").read_bytes()).hexdigest()
    assert record["measures"]["trained_metrics"] == {"quick": sha}
    assert record["versions"]["torch"] == metadata.version("torch")


def test_bad_tables_and_models_end_with_code_2(place, tmp_path):
    (place / "empty.csv").write_text("fixed,moving\n", encoding="utf-8")
    done = _call("train", "deep-metric", place / "empty.csv", "-o", tmp_path / "m", *QUICK)
    assert done.exit_code == 2
    assert "no pairs" in done.stderr
    write(place / "off.nii.gz", contrasts((44, 40), 0, shift=(6, 0))[1])
    (place / "off.csv").write_text("fixed,moving\n0a.nii.gz,off.nii.gz\n", encoding="utf-8")
    done = _call("train", "deep-metric", place / "off.csv", "-o", tmp_path / "m", *QUICK)
    assert done.exit_code == 2
    assert "not aligned" in done.stderr
    done = _call("train", "deep-metric", place / "pairs.csv", "-o", tmp_path / "m", "--channels", "many")
    assert done.exit_code == 2
    assert "--channels" in done.stderr


def test_training_and_landscapes_write_over_none_of_their_inputs(place, tmp_path):
    table = tmp_path / "log.csv"  # the name of a file that a training writes
    table.write_text((place / "pairs.csv").read_text(encoding="utf-8"), encoding="utf-8")
    done = _call("train", "deep-metric", table, "-o", tmp_path, *QUICK)
    assert done.exit_code == 2
    assert table.read_text(encoding="utf-8") == (place / "pairs.csv").read_text(encoding="utf-8")
    image = tmp_path / "landscape.png"
    image.write_bytes(b"an image")
    done = _call("metric-landscape", image, place / "0b.nii.gz", "-o", tmp_path)
    assert done.exit_code == 2
    assert image.read_bytes() == b"an image"
