"""Messages speak the command line's words: options, not what Python calls them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from regista.core import Image, PointSet
from regista.io import read, write
from regista.transforms import Translation

PYTHON = re.compile(
    r"in Python|\w+=[…'\"(]|\w+=(,| and|\))|\bnp\.|NumPy|tuple|Composite|Value error|dict|\{'|Error\(|shape \("
)


@pytest.fixture
def files(pair, registered, tmp_path):
    """Return names to put into words: good files, and one of each kind of bad one."""
    fixed = read(pair / "fixed.nii.gz")
    write(tmp_path / "series.nii.gz", Image(np.stack([fixed.data] * 3), fixed.grid, "series"))
    nan = np.array(fixed.data)
    nan[:] = np.nan
    write(tmp_path / "nan.nii.gz", fixed.with_data(nan))
    write(tmp_path / "shift.h5", Translation.by([1.0, 2.0, 3.0]))
    write(tmp_path / "flat.mrk.json", PointSet(np.zeros((2, 3))))
    (tmp_path / "flat.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    (tmp_path / "bare.csv").write_text("1,2,3\n", encoding="utf-8")
    (tmp_path / "words.csv").write_text("one two three\n", encoding="utf-8")
    (tmp_path / "matrix.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", encoding="utf-8")
    (tmp_path / "nothing.toml").write_text('name = "x"\n', encoding="utf-8")
    return {
        "fixed": pair / "fixed.nii.gz",
        "moving": pair / "moving.nii.gz",
        "out": registered,
        "dir": tmp_path,
    }


CASES = {
    "register {fixed} {moving} -o {dir}/o --set stages.rigid.steps=[1] --preset rigid": "got [4, 2, 1] and [1]",
    "register {fixed} {moving} -o {dir}/o --set clip_percentiles=5": "expected a list, got 5",
    "register {fixed} {moving} -o {dir}/o --set clip_percentiles=[9,1]": "[low, high]",
    "register {fixed} {moving} -o {dir}/o --preset deformable --set stages.0.window=0": "at least 2 values, got 0",
    "register {fixed} {moving} -o {dir}/o --fixed-mask {dir}/series.nii.gz": "take a frame of it",
    "register {dir}/nan.nii.gz {moving} -o {dir}/o": "(100 %); clean it, or treat them as masked out: --non-finite mask",
    "register {fixed} {moving} -o {dir}/o --initial {dir}/matrix.txt": "regista convert FILE start.h5 --from FORMAT",
    "register {fixed} {moving} -o {dir}/o --initial {fixed}": "it is an image of 26×31×17, not a displacement field",
    "apply {dir}/matrix.txt {moving} --like {fixed} -o {dir}/o.nii.gz": "--format fsl (with --like FIXED",
    "apply {dir}/shift.abc {moving} --like {fixed} -o {dir}/o.nii.gz": "does not exist",
    "apply {moving} --like {fixed} -o {dir}/o.nii.gz --dtype int7": "--dtype is a type such as",
    "apply {moving} --like {fixed} -o {dir}/o.nii.gz --dtype uint8 --fill 999": "--dtype float32",
    "apply {out}/fixed2moving.h5 {out}/fixed2moving.h5 {moving} --like {fixed} -o {dir}/o.nii.gz": "--ignore-spaces",
    "apply-points {dir}/shift.h5 {dir}/flat.csv -o {dir}/o.csv --convention ras": "the points are 2-D",
    "apply-points {dir}/shift.h5 {dir}/bare.csv -o {dir}/o.csv": "--convention lps (ANTs and ITK) or --convention ras",
    "apply-points {dir}/shift.h5 {dir}/words.csv -o {dir}/o.csv --convention ras": "'one two three'",
    "convert {out}/fixed2moving.h5 {dir}/w.nii.gz --to fsl --like {fixed}": "give that image: --moving MOVING",
    "convert {out}/fixed2moving.h5 {dir}/w.nii.gz --to learn2reg": "--like FIXED --moving MOVING",
    "convert {out}/fixed2moving.h5 {dir}/w.nii.gz": "the fixed image's grid: --like FIXED",
    "preprocess {fixed} -o {dir}/p.nii.gz --step histogram-match": "reference must be given",
    "preprocess {fixed} -o {dir}/p.nii.gz --step nyul": "regista train-nyul",
    "preprocess {fixed} -o {dir}/p.nii.gz --step zscore --mask {dir}/series.nii.gz": "one value per voxel",
    "preprocess {fixed} -o {dir}/p.nii.gz --steps {dir}/nothing.toml": "has no steps",
    "preprocess {fixed} -o {dir}/words.csv/p.nii.gz --step zscore": "words.csv is a file, expected a folder; choose another name",
    "skull-strip {moving} -o {dir}/s.nii.gz --template {fixed} --template-mask {dir}/series.nii.gz": "one value per voxel",
    "evaluate --fixed-points {dir}/flat.mrk.json --moving-points {dir}/flat.mrk.json --unit px": "--moving IMAGE",
    "evaluate learn2reg {dir}/words.csv --fields {dir}": "no Learn2Reg dataset",
}


@pytest.mark.parametrize("words", CASES)
def test_a_message_names_options_not_python(files, call, words) -> None:
    before = sorted(files["dir"].iterdir())
    done = call(*(word.format(**files) for word in words.split()))
    assert done.exit_code == 2, done.output
    assert CASES[words] in done.stderr
    told = done.stderr.replace(str(files["dir"]), "").replace(str(files["out"]), "")
    assert not PYTHON.search(told), told
    assert sorted(files["dir"].iterdir()) == before


def test_in_python_the_same_message_names_the_arguments(files) -> None:
    from regista.core import FormatError
    from regista.io import write_transform

    with pytest.raises(FormatError, match=r"--like FIXED --moving MOVING \(in Python fixed= and moving=\)"):
        write_transform(files["dir"] / "w.npz", Translation.by([1.0, 2.0, 3.0]), format="learn2reg")
