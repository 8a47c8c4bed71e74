"""Skull-stripping against phantoms whose brain is known, and real heads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, os.path.dirname(__file__))
from phantom import grid_of, head, template

from regista import read, read_labels, register
from regista.atlas import Stripped, Template, mni152, skull_strip
from regista.atlas._refine import refine
from regista.cli import app
from regista.core import GeometryError, Grid, Image, LabelImage, PlanError, RegistrationError
from regista.io import write
from regista.preprocessing import Pipeline, Resample, SkullStrip
from regista.registration import load_plan, plan_from_dict, plan_to_toml
from regista.transforms import Affine, resample_labels


@pytest.fixture(scope="module")
def atlas() -> Template:
    return Template(*template(), "phantom")


def dice(one, other) -> float:
    one, other = np.asarray(one) > 0, np.asarray(other) > 0
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


CASES = {
    "oblique, anisotropic, with a neck": ((56, 70, 44), (2.0, 1.8, 3.1), (7, -9, 14), {}),
    "large, off the middle": (
        (60, 66, 70),
        (1.9, 2.0, 2.0),
        (0, 0, 0),
        {"scale": 1.08, "shift": (-9, 6, 14)},
    ),
    "inverted contrast": ((56, 66, 54), (2.0, 2.0, 2.2), (4, 0, -5), {"invert": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_brain_of_a_phantom_is_found(atlas, case) -> None:
    shape, spacing, angles, options = CASES[case]
    scan, truth = head(grid_of(shape, spacing, angles), **options)
    found = skull_strip(scan, atlas)
    assert dice(found.mask.data, truth) > 0.95, found.record["measures"]
    assert found.mask.grid == scan.grid
    assert np.array_equal(found.brain.data, np.where(found.mask.data > 0, scan.data, 0))


def test_a_header_turned_by_a_quarter_is_no_obstacle(atlas) -> None:
    scan, truth = head(grid_of((56, 66, 54), (2.0, 2.0, 2.2), (0, 0, 0)))
    turned = np.array([[0.0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, -9], [0, 0, 0, 1]]) @ scan.grid.grid2world
    found = skull_strip(Image(scan.data, Grid(scan.grid.shape, turned)), atlas)
    assert dice(found.mask.data, truth) > 0.95


def test_a_brain_cut_by_the_border_is_stripped_and_told(atlas) -> None:
    scan, truth = head(grid_of((56, 66, 54), (2.0, 2.0, 2.2), (0, 0, 0)))
    low, high = 20, 54  # part of the cerebellum and all of the neck are outside
    part = Image(scan.data[:, :, low:high], scan.grid.crop((0, 0, low), (56, 66, high)))
    found = skull_strip(part, atlas)
    assert dice(found.mask.data, truth[:, :, low:high]) > 0.93
    assert any("border" in text for text in found.record["warnings"])


def test_whole_numbers_stay_and_the_same_input_gives_the_same_mask(atlas) -> None:
    scan, _ = head(grid_of((50, 60, 50), (2.0, 2.0, 2.2), (0, 6, 0)))
    whole = Image(np.rint(scan.data).astype(np.int16), scan.grid, space="head")
    one, two = (skull_strip(whole, atlas, threads=2) for _ in range(2))
    assert one.brain.data.dtype == np.int16
    assert one.brain.space == "head"
    assert one.mask.data.tobytes() == two.mask.data.tobytes()
    record = json.loads(json.dumps(one.record))
    assert record["parameters"] == {"refine_mm": 1.5, "template": "phantom"}
    assert record["measures"]["brain_ml"] == pytest.approx(one.mask.data.sum() * 8.8 / 1000)


def test_refining_takes_fat_off_and_adds_tissue() -> None:
    shape, spacing = (56, 56, 56), np.ones(3)
    radius = np.sqrt(((np.indices(shape) - 27.5) ** 2).sum(0))
    data = np.where(radius < 20, 100.0, np.where(radius < 22, 10.0, np.where(radius < 25, 250.0, 0.0)))
    data = (data + np.random.default_rng(1).normal(0, 5, shape)).astype(np.float32)
    truth = radius < 20
    small = radius < 18.6
    grown, measured = refine(data, small, (radius - 18.6).astype(np.float32), spacing, 2.0)
    assert dice(grown, truth) > 0.99 > 0.92 > dice(small, truth)
    assert measured["added_ml"] > 0
    fat = np.where((radius > 19) & (np.indices(shape)[0] > 28), 250.0, data).astype(np.float32)
    cut, measured = refine(fat, truth, (radius - 20).astype(np.float32), spacing, 2.0)
    assert measured["taken_off_ml"] > 0
    assert not np.any(cut & (radius > 19.2) & (np.indices(shape)[0] > 30))
    alone, nothing = refine(data, small, (radius - 18.6).astype(np.float32), spacing, 0.0)
    assert nothing == {}
    assert dice(alone, small) > 0.99


def test_what_is_not_a_head_is_refused(atlas, rng) -> None:
    noise = Image(rng.random((40, 40, 40)).astype(np.float32), Grid((40, 40, 40), np.diag([3.0, 3, 3, 1])))
    with pytest.raises(RegistrationError, match="nothing like the template"):
        skull_strip(noise, atlas)
    tiny = Image(rng.random((20, 20, 20)).astype(np.float32), Grid((20, 20, 20), np.eye(4)))
    with pytest.raises((GeometryError, RegistrationError), match="template"):
        skull_strip(tiny, atlas)


def test_bad_input_is_refused(atlas, rng) -> None:
    scan, _ = head(grid_of((24, 30, 24), (4.0, 4.0, 4.4), (0, 0, 0)))
    bad = scan.data.copy()
    bad[3, 3, 3] = np.nan
    for wrong, words in (
        (scan.with_data(bad), "NaN"),
        (scan.with_data(np.zeros_like(bad)), "constant"),
        (Image(bad[..., 0], Grid(bad.shape[:2], np.eye(3))), "2-D"),
        (Image(np.stack([bad, bad]), scan.grid, "series"), "series"),
        (Image(bad[:, :, :5], scan.grid.crop((0, 0, 0), (24, 30, 5))), "at least 8"),
    ):
        with pytest.raises(GeometryError, match=words):
            skull_strip(wrong, atlas)
    with pytest.raises(PlanError, match="refine_mm"):
        skull_strip(scan, atlas, refine_mm=-1)
    with pytest.raises(GeometryError, match="another grid"):
        Template(scan, atlas.mask)
    with pytest.raises(GeometryError, match="empty"):
        Template(scan, scan.with_data(np.zeros_like(scan.data)))


def test_command_writes_brain_mask_and_record(atlas, tmp_path) -> None:
    def call(*words):
        return CliRunner().invoke(app, ["skull-strip", *map(str, words)])

    scan, truth = head(grid_of((50, 60, 50), (2.0, 2.0, 2.2), (0, 6, 0)))
    files = {"scan": scan, "t": atlas.image, "m": atlas.mask}
    for name, image in files.items():
        write(tmp_path / f"{name}.nii.gz", image)
    scan_file, t, m = (tmp_path / f"{name}.nii.gz" for name in files)
    words = ("--template", t, "--template-mask", m)
    done = call(scan_file, "-o", tmp_path / "b.nii.gz", "--mask-out", tmp_path / "k.nii.gz", *words, "--json")
    assert done.exit_code == 0, done.output
    assert dice(read(tmp_path / "k.nii.gz").data, truth) > 0.95
    assert json.loads((tmp_path / "b.skull-strip.json").read_text(encoding="utf-8")) == json.loads(
        done.stdout
    )
    before = sorted(p.name for p in tmp_path.iterdir())
    for bad in (
        (scan_file, "-o", tmp_path / "x.nii.gz", "--template", t),
        (scan_file, "-o", tmp_path / "x.nii.gz", "--template-mask", m),
        (scan_file, "-o", scan_file, *words),
        (scan_file, "-o", tmp_path / "x.txt", *words),
        (scan_file, "-o", tmp_path / "no" / "x.nii.gz", *words),
        (tmp_path / "none.nii.gz", "-o", tmp_path / "x.nii.gz", *words),
        (scan_file, "-o", tmp_path / "x.nii.gz", "--template", t, "--template-mask", scan_file),
    ):
        done = call(*bad)
        assert done.exit_code == 2, (bad, done.output)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_skull_stripping_is_a_step_of_pipelines_and_plans(atlas, tmp_path, caplog) -> None:
    scan, truth = head(grid_of((50, 60, 50), (2.0, 2.0, 2.2), (0, 6, 0)))
    for name, image in (("t", atlas.image), ("m", atlas.mask)):
        write(tmp_path / f"{name}.nii.gz", image)
    settings = f"template={tmp_path}/t.nii.gz, template_mask={tmp_path}/m.nii.gz, refine_mm=0"
    named = Pipeline.from_words([f"skull-strip:{settings}", "zscore"])
    done = named.with_files(read).apply(scan)
    assert dice(done.mask.data, truth) > 0.95
    assert np.all(
        done.image.data[done.mask.data == 0] == done.image.data[0, 0, 0]
    )  # the surround is constant
    assert abs(done.image.data[done.mask.data > 0].mean()) < 1e-4  # and does not count
    step = json.loads(json.dumps(done.record))["steps"][0]
    assert step["template"]["space"] == "t"
    assert step["measured"]["brain_ml"] == pytest.approx(done.mask.data.sum() * 8.8 / 1000)
    plan = plan_from_dict({"preprocessing": named.to_dict(), "stages": [{"model": "translation"}]})
    (tmp_path / "p.toml").write_text(plan_to_toml(plan), encoding="utf-8")
    assert load_plan(tmp_path / "p.toml").preprocessing.steps == named.steps


def test_a_step_keeps_to_the_mask_and_passes_warnings_on(atlas, monkeypatch, caplog) -> None:
    scan, truth = head(grid_of((24, 30, 24), (4.0, 4.0, 4.4), (0, 0, 0)))
    brain = LabelImage(truth.astype(np.uint8), scan.grid)
    record = {"measures": {"brain_ml": 1.0}, "warnings": ["look at the mask"]}
    monkeypatch.setattr(
        "regista.atlas.skull_strip", lambda *_, **__: Stripped(scan, brain, Affine.identity(3), record)
    )
    half = np.indices(truth.shape)[0] < 12
    step = SkullStrip(template=atlas.image, template_mask=atlas.mask)
    image, mask, measured = step.apply(scan, Image(half.astype(np.uint8), scan.grid))
    assert np.array_equal(mask.data > 0, truth & half)
    assert np.array_equal(image.data, np.where(truth & half, scan.data, 0))
    assert measured == {"brain_ml": 1.0, "warnings": ["look at the mask"]}
    assert "skull-strip: look at the mask" in caplog.text
    with pytest.raises(GeometryError, match="outside the mask"):
        step.apply(scan, Image((~truth).astype(np.uint8), scan.grid))
    with pytest.raises(GeometryError, match="label"):
        step.apply(brain)
    with pytest.raises(PlanError, match=r"skull-strip\.template needs skull-strip\.template_mask"):
        SkullStrip(template=atlas.image)
    with pytest.raises(PlanError, match=r"skull-strip\.template_mask needs skull-strip\.template"):
        SkullStrip(template_mask=atlas.mask)
    with pytest.raises(PlanError, match="refine_mm"):
        SkullStrip(refine_mm=9)
    with pytest.raises(PlanError, match="has not been read"):
        SkullStrip(template="t.nii.gz", template_mask="m.nii.gz").apply(scan)


@pytest.mark.data
def test_a_mouse_brain_is_found_by_another(data_dir) -> None:
    folder = Path(data_dir) / "mouse_brain"
    half = Resample(spacing_mm=0.3)
    scan, other = (half(read(folder / f"{n}_mri.nii.gz")) for n in (2, 1))
    truth, mask = (half(read_labels(folder / f"{n}_mask.nii.gz")) for n in (2, 1))
    found = skull_strip(scan, Template(other, mask))
    assert dice(found.mask.data, truth.data) > 0.96


@pytest.mark.data
def test_a_head_is_stripped_by_mni152(data_dir) -> None:
    pytest.importorskip("nilearn")
    scan = read(Path(data_dir) / "heads" / "1001_head_2mm.nii.gz")
    stripped = read(Path(data_dir) / "brain_t1" / "1001_t1.nii.gz")
    mask = read(Path(data_dir) / "brain_t1" / "1001_mask.nii.gz")
    plan = load_plan("rigid", ["stages.rigid.shrink=[4]", "stages.rigid.steps=[40]"])
    back = register(stripped, scan, plan, fixed_mask=mask).inverse
    inside = LabelImage((mask.data > 0).astype(np.uint8), mask.grid)
    truth = resample_labels(inside, scan.grid, back, interpolation="smooth")
    assert dice(skull_strip(scan, mni152()).mask.data, truth.data) > 0.96
