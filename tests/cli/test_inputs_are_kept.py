"""No command writes over what it reads, whatever name leads there; and a set of results is never half old, half new."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import typer

from regista.cli import app
from regista.cli._outputs import FolderWriter
from regista.core import FormatError, PointSet
from regista.io import write
from regista.transforms import Translation

# every command that writes: its words, with {name} for each input and {out} for the output
WRITES = {
    "apply": "{a.h5} {b.nii.gz} --like {c.nii.gz} -o {out}",
    "apply-points": "{a.h5} {b.csv} --like {c.nii.gz} --moving {d.nii.gz} -o {out}",
    "fit-points": "{a.csv} {b.csv} --like {c.nii.gz} --moving {d.nii.gz} -o {out}",
    "invert": "{a.h5} --like {c.nii.gz} --moving {d.nii.gz} -o {out}",
    "compose": "{a.h5} {b.h5} --like {c.nii.gz} --moving {d.nii.gz} -o {out}",
    "convert": "{a.h5} {out} --like {c.nii.gz} --moving {d.nii.gz}",
    "preprocess": "{a.nii.gz} --mask {b.nii.gz} --step histogram-match:reference={c.nii.gz} -o {out}",
    "preprocess mask": "{a.nii.gz} --step reorient -o other.nii.gz --mask-out {out}",
    "train-nyul": "{a.json} {b.json} --mask {c.json} -o {out}",
    "skull-strip": "{a.nii.gz} --template {b.nii.gz} --template-mask {c.nii.gz} -o {out}",
    "ablate": "{a.csv} {b.csv} --steps {c.csv} --fixed-labels {d.csv} --moving-labels {e.csv} --fixed-points {f.csv} "
    "--moving-points {g.csv} -o {out}",
    "evaluate": "--fixed-labels {a.csv} --warped-labels {b.csv} --names {c.csv} --groups {d.csv} --fixed-points {e.csv} "
    "--moving-points {f.csv} --transform {g.csv} --inverse {h.csv} --mask {i.csv} --fixed {j.csv} --moving {k.csv} "
    "-o {out}",
    "train deformation-prior": "{a.npz} --like {b.npz} --moving {c.npz} -o {out}",
    "evaluate compare": "{a.csv} {b.csv} --measure dice -o {out}",
}
ELSEWHERE = {
    "register",
    "motion",
    "register-slices",
    "benchmark",
    "demo",
    "evaluate learn2reg",
    "train voxelmorph",
    "train deep-metric",
    "metric-landscape",
    "report",
}  # they write to a folder, or have a test below


def inputs_of(words: str) -> list[str]:
    return [part.split("}")[0] for part in words.split("{")[1:] if not part.startswith("out}")]


CASES = [(command, name) for command, words in WRITES.items() for name in inputs_of(words)]


def test_every_command_that_writes_is_here() -> None:
    def writing(command, name=""):
        found = set()
        if any(p.name in ("output", "target") for p in command.params):
            found.add(name)
        for word, part in getattr(command, "commands", {}).items():
            found |= writing(part, f"{name} {word}".strip())
        return found

    assert writing(typer.main.get_command(app)) == {c for c in WRITES if c != "preprocess mask"} | ELSEWHERE


@pytest.mark.parametrize("how", ["itself", "relative", "symbolic link", "hard link"])
@pytest.mark.parametrize(("command", "name"), CASES)
def test_an_input_is_never_written_over(call, tmp_path, monkeypatch, command, name, how) -> None:
    words = WRITES[command]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for file in inputs_of(words):
        (tmp_path / file).write_text(f"content of {file}", encoding="utf-8")
    suffix = name[name.index(".") :]
    output = {
        "itself": tmp_path / name,
        "relative": f"sub/../{name}",
        "symbolic link": tmp_path / f"link{suffix}",
        "hard link": tmp_path / f"link{suffix}",
    }[how]
    if how == "symbolic link":
        output.symlink_to(tmp_path / name)
    if how == "hard link":
        os.link(tmp_path / name, output)
    told = words.replace("{out}", str(output))
    for file in inputs_of(words):
        told = told.replace("{" + file + "}", str(tmp_path / file))
    done = call(*command.removesuffix(" mask").split(), *told.split())
    assert done.exit_code == 2, done.output
    assert "would destroy the input" in done.stderr  # and so before anything was read
    for file in inputs_of(words):
        assert (tmp_path / file).read_text(encoding="utf-8") == f"content of {file}"


@pytest.mark.parametrize("role", ["fixed", "moving", "--fixed-mask", "--moving-mask", "--initial"])
def test_register_keeps_inputs_in_its_folder(pair, call, tmp_path, role) -> None:
    name = "fixed2moving.h5" if role == "--initial" else "warped.nii.gz"
    (tmp_path / name).write_text("mine", encoding="utf-8")
    places = {"fixed": pair / "fixed.nii.gz", "moving": pair / "moving.nii.gz"}
    extra = []
    if role in places:
        places[role] = tmp_path / name
    else:
        extra = [role, tmp_path / name]
    done = call("register", *places.values(), *extra, "-o", tmp_path)
    assert done.exit_code == 2
    assert "would destroy the input" in done.stderr
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_plan_may_not_name_a_file_that_is_written_over(pair, call, tmp_path) -> None:
    shutil.copy(pair / "fixed.nii.gz", tmp_path / "warped.nii.gz")
    (tmp_path / "plan.toml").write_text(
        f'[[preprocessing.steps]]\nstep = "histogram-match"\nreference = "{tmp_path}/warped.nii.gz"\n'
        '[[stages]]\nmodel = "rigid"\n',
        encoding="utf-8",
    )
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path)
    done = call(*words, "--plan", tmp_path / "plan.toml")
    assert done.exit_code == 2, done.output
    assert "would destroy the input" in done.stderr


def test_demo_and_benchmark_keep_their_inputs(pair, call, tmp_path) -> None:
    shutil.copy(pair / "fixed.nii.gz", tmp_path / "warped.nii.gz")
    done = call(
        "demo", "--fixed", tmp_path / "warped.nii.gz", "--moving", pair / "moving.nii.gz", "-o", tmp_path
    )
    assert (done.exit_code, "would destroy the input" in done.stderr) == (2, True)
    table = tmp_path / "raw.csv"
    table.write_text(f"fixed,moving\n{pair}/fixed.nii.gz,{pair}/moving.nii.gz\n", encoding="utf-8")
    done = call("benchmark", table, "-o", tmp_path, "-m", "translation")
    assert (done.exit_code, "would destroy the input" in done.stderr) == (2, True)
    assert sorted(os.listdir(tmp_path)) == ["raw.csv", "warped.nii.gz"]


def test_learn2reg_keeps_its_landmarks(call, tmp_path) -> None:
    for folder in ("imagesTr", "landmarksTr", "fields"):
        (tmp_path / folder).mkdir()
    names = ["T_0001_0000", "T_0002_0000"]
    for name in names:
        (tmp_path / f"imagesTr/{name}.nii.gz").write_text("image", encoding="utf-8")
        (tmp_path / f"landmarksTr/{name}.csv").write_text("1,2,3\n", encoding="utf-8")
    (tmp_path / "fields/disp_0001_0002.nii.gz").write_text("field", encoding="utf-8")
    paths = [f"./imagesTr/{name}.nii.gz" for name in names]
    tree = {"name": "T", "registration_val": [{"fixed": paths[0], "moving": paths[1]}]}
    (tmp_path / "task.json").write_text(json.dumps(tree), encoding="utf-8")
    words = ("evaluate", "learn2reg", tmp_path / "task.json", "--fields", tmp_path / "fields")
    done = call(*words, "-o", tmp_path / "landmarksTr/T_0002_0000.csv")
    assert done.exit_code == 2, done.output
    assert "would destroy the input" in done.stderr
    assert (tmp_path / "landmarksTr/T_0002_0000.csv").read_text(encoding="utf-8") == "1,2,3\n"


@pytest.mark.parametrize(("header", "voxels"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw"), ("a.hdr", "a.img")])
def test_voxels_beside_a_header_are_inputs_too(pair, call, tmp_path, header, voxels) -> None:
    data = sitk.GetImageFromArray(np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    sitk.WriteImage(data, str(tmp_path / header), False)
    write(tmp_path / "shift.h5", Translation.by([1.0, 2.0, 3.0]))
    before = (tmp_path / voxels).read_bytes()
    words = (
        "convert",
        tmp_path / "shift.h5",
        tmp_path / voxels,
        "--to",
        "greedy",
        "--like",
        tmp_path / header,
    )
    done = call(*words)
    assert done.exit_code == 2
    assert "belongs to the input" in done.stderr
    assert (tmp_path / voxels).read_bytes() == before


def test_the_record_beside_an_image_may_not_destroy_an_input(pair, call, tmp_path) -> None:
    (tmp_path / "scale.preprocess.json").write_text("{}", encoding="utf-8")
    words = ("preprocess", pair / "fixed.nii.gz", "--step", f"nyul:model={tmp_path}/scale.preprocess.json")
    done = call(*words, "-o", tmp_path / "scale.nii.gz")
    assert done.exit_code == 2
    assert "scale.preprocess.json is one of the inputs" in done.stderr
    assert os.listdir(tmp_path) == ["scale.preprocess.json"]


def test_two_outputs_of_one_name_are_refused(pair, call, tmp_path) -> None:
    words = ("preprocess", pair / "fixed.nii.gz", "--step", "foreground-mask", "-o", tmp_path / "a.nii.gz")
    done = call(*words, "--mask-out", tmp_path / "a.nii.gz")
    assert done.exit_code == 2
    assert "two outputs" in done.stderr
    assert os.listdir(tmp_path) == []


def test_an_earlier_output_is_written_over(pair, registered, call, tmp_path) -> None:
    out = tmp_path / "out.nii.gz"
    words = ("apply", registered / "fixed2moving.h5", pair / "moving.nii.gz", "--like", pair / "fixed.nii.gz")
    assert call(*words, "-o", out).exit_code == 0
    before = out.read_bytes()
    out.write_bytes(b"old")
    assert call(*words, "-o", out).exit_code == 0
    assert out.read_bytes() == before
    assert os.listdir(tmp_path) == ["out.nii.gz"]


def test_files_that_belong_together_are_moved_together(pair, call, tmp_path, monkeypatch) -> None:
    from regista.cli import _outputs

    def refuse(path, text):
        raise FormatError(f"{path} cannot be written: the disk is full")

    words = (
        "preprocess",
        pair / "fixed.nii.gz",
        "--step",
        "reorient",
        "-o",
        tmp_path / "a.nii.gz",
        "--quiet",
    )
    words += ("--mask", pair / "mask.nii.gz", "--mask-out", tmp_path / "m.nii.gz")
    assert call(*words).exit_code == 0
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert sorted(before) == ["a.nii.gz", "a.preprocess.json", "m.nii.gz"]
    monkeypatch.setattr(_outputs, "write_text", refuse)
    done = call(*words, "--step", "clip:low=3")
    assert done.exit_code == 2
    assert f"{tmp_path / 'a.preprocess.json'} cannot be written" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


NAMES = ("a.txt", "b.txt", "record.json")


@pytest.mark.parametrize("broken", range(6))
def test_a_disk_that_refuses_halfway_puts_the_earlier_files_back(tmp_path, monkeypatch, broken) -> None:
    for name in (*NAMES, "notes.txt"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    real, calls = os.replace, []
    with FolderWriter(tmp_path) as folder:
        for name in NAMES:
            folder.text(name, "new")

        def replace(source, goal):
            calls.append(goal)
            if len(calls) == broken + 1:
                raise OSError(5, "Input/output error")
            real(source, goal)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(FormatError, match="Input/output error"):
            folder.commit("record.json")
    assert len(calls) > broken
    found = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir() if p.is_file()}
    assert found == dict.fromkeys((*NAMES, "notes.txt"), "old")
    (kept,) = (p for p in tmp_path.iterdir() if p.is_dir())  # the new ones are not thrown away either
    assert {p.name: p.read_text(encoding="utf-8") for p in kept.iterdir() if p.is_file()} == dict.fromkeys(
        NAMES, "new"
    )


def test_while_files_are_exchanged_no_record_stands_beside_those_of_another_run(
    tmp_path, monkeypatch
) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("old", encoding="utf-8")
    real, states = os.replace, []

    def look(source, goal):
        real(source, goal)
        states.append({p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir() if p.is_file()})

    with FolderWriter(tmp_path) as folder:
        for name in NAMES:
            folder.text(name, "new")
        monkeypatch.setattr(os, "replace", look)
        folder.commit("record.json")
    assert len(states) == 6
    for state in states[:-1]:
        assert "record.json" not in state
    assert states[-1] == dict.fromkeys(NAMES, "new")


def test_earlier_files_that_cannot_be_put_back_are_not_thrown_away(tmp_path, monkeypatch) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("old", encoding="utf-8")
    real, calls = os.replace, []

    def replace(source, goal):
        calls.append(goal)
        if len(calls) > 4:
            raise OSError(5, "Input/output error")
        real(source, goal)

    with FolderWriter(tmp_path) as folder:
        for name in NAMES:
            folder.text(name, "new")
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(FormatError, match="they are in"):
            folder.commit("record.json")
    kept = next(tmp_path.glob(".regista-*/earlier"))
    assert {p.name: p.read_text(encoding="utf-8") for p in kept.iterdir()} == dict.fromkeys(NAMES, "old")


def test_points_are_kept_too(call, tmp_path) -> None:
    write(tmp_path / "shift.h5", Translation.by([1.0, 2.0, 3.0]))
    write(tmp_path / "p.mrk.json", PointSet(np.zeros((2, 3))))
    before = (tmp_path / "p.mrk.json").read_bytes()
    done = call("apply-points", tmp_path / "shift.h5", tmp_path / "p.mrk.json", "-o", tmp_path / "p.mrk.json")
    assert done.exit_code == 2
    assert (tmp_path / "p.mrk.json").read_bytes() == before
