"""Ctrl-C at any moment: one line, exit code 130, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

FILES = ["fixed2moving.h5", "moving2fixed.h5", "record.json", "report.html", "warped.nii.gz"]
LINE = "Stopped; nothing half-written is left.\n"

AT_IMPORT = """
import os, signal, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == {when!r}:
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Stop())
"""
AT_CALL = """
import os, signal
import {module} as module
real = module.{name}
def stop(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*args, **kwargs)
module.{name} = stop
"""
MAIN = "from regista.cli import main; main()"


def run(program: str, pair, folder):
    words = ["register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", folder / "out"]
    words = [str(word) for word in (*words, "--preset", "translation", "--quiet")]
    return subprocess.run(
        [sys.executable, "-c", program + MAIN, *words],
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
    )


@pytest.mark.parametrize("when", ["typer", "regista.registration"])
def test_while_the_program_is_loaded(pair, tmp_path, when) -> None:
    done = run(AT_IMPORT.format(when=when, signal="SIGINT"), pair, tmp_path)
    assert (done.returncode, done.stderr) == (130, LINE)
    assert os.listdir(tmp_path) == []


def test_by_a_batch_system(pair, tmp_path) -> None:
    done = run(AT_IMPORT.format(when="nibabel", signal="SIGTERM"), pair, tmp_path)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, LINE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["write", "tempfile.mkdtemp"])
def test_while_files_are_written(pair, tmp_path, name) -> None:
    done = run(AT_CALL.format(module="regista.cli._outputs", name=name), pair, tmp_path)
    assert (done.returncode, done.stderr) == (130, LINE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exists", [False, True])
def test_while_finished_files_are_moved_comes_too_late(pair, tmp_path, exists) -> None:
    if exists:
        (tmp_path / "out").mkdir()
    done = run(AT_CALL.format(module="regista.cli._outputs", name="FolderWriter._move"), pair, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == FILES


@pytest.mark.parametrize("name", ["write", "tempfile.mkdtemp"])
def test_earlier_results_stay_as_they_were(pair, tmp_path, name) -> None:
    (tmp_path / "out").mkdir()
    for file in (*FILES, "notes.txt"):
        (tmp_path / "out" / file).write_text(f"old {file}", encoding="utf-8")
    done = run(AT_CALL.format(module="regista.cli._outputs", name=name), pair, tmp_path)
    assert (done.returncode, done.stderr) == (130, LINE)
    left = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    assert left == {file: f"old {file}" for file in (*FILES, "notes.txt")}
