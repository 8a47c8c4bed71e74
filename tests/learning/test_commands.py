"""`regista train voxelmorph` and `regista models`."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from commands import QUICK, TINY, call
from PIL import Image as Picture

from regista.cli._models import linear_plan
from regista.cli._train import stop_told
from regista.core import Image, PlanError
from regista.io import read
from regista.learning import load_model


def test_a_training_begins_with_another_model(trained, slices, tmp_path):
    words = ("train", "voxelmorph", slices / "scans.csv", "--validation", 1, "--test", 1, *QUICK)
    same = (*words, "--network", "voxelmorph-1", "--diffeomorphic")
    done = call(*same, "-o", tmp_path / "tuned", "--start", trained)
    assert done.exit_code == 0, done.output
    card = (tmp_path / "tuned" / "card.md").read_text(encoding="utf-8")
    sha = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert f"from the weights of {trained} (SHA-256 {sha})" in card
    assert "by 2 CPU threads" in card
    # the weights lie elsewhere, or are others, when the same command is given again: the card keeps what was
    again = (*same, "-o", tmp_path / "moved", "--start", tmp_path / "first")
    shutil.copytree(trained, tmp_path / "first")
    assert call(*again).exit_code == 0
    (tmp_path / "first" / "model.safetensors").write_bytes(b"other")
    assert call(*again).exit_code == 0
    shutil.rmtree(tmp_path / "first")
    assert call(*again).exit_code == 0
    assert sha in (tmp_path / "moved" / "card.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "moved" / "model.json").read_text(encoding="utf-8"))["start_sha256"] == sha
    for extra, message in (
        ((*words, "-o", tmp_path / "no", "--start", trained), "with name voxelmorph-1"),
        ((*same, "-o", tmp_path / "no", "--start", tmp_path / "absent"), "no model"),
        ((*same, "-o", trained, "--start", trained, "--restart"), "model.safetensors"),
        ((*same[:-1], "-o", tmp_path / "no", "--start", trained), "diffeomorphic True"),
    ):
        refused = call(*extra)
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("device", "message"), [("gpu", "got 'gpu'"), ("cuda:77", "graphics card")])
def test_a_device_that_is_not_there_is_told_before_scans_are_read(slices, tmp_path, device, message):
    for kind in ("voxelmorph", "deep-metric"):
        refused = call("train", kind, slices / "scans.csv", "-o", tmp_path / "no", "--device", device)
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "no").exists()


def test_what_is_told_of_made_up_images_reaches_their_source(slices, tmp_path, monkeypatch):
    seen = {}

    def keep(**settings):
        seen.update(settings)
        raise PlanError("seen")

    monkeypatch.setattr("regista.learning.SynthesisSource", keep)
    words = (
        "train",
        "voxelmorph",
        slices / "scans.csv",
        "-o",
        tmp_path / "m",
        *QUICK,
        "--synthesis",
        "labels",
    )
    told = ("--deformation", 1.5, "--same-contrast", 0.2, "--reversed-contrast", 0.3, "--targets")
    assert call(*words, *told).exit_code == 2
    wanted = {"deformation_vox": 1.5, "same_contrast": 0.2, "reversed_contrast": 0.3, "targets": True}
    assert {name: seen[name] for name in wanted} == wanted
    refused = call(*words, "--same-contrast", 0.6, "--reversed-contrast", 0.5)
    assert "together at most 1" in " ".join(refused.stderr.split())


def test_a_network_that_sees_edges_is_trained_and_registers(slices, tmp_path):
    words = ("train", "voxelmorph", slices / "scans.csv", "-o", tmp_path / "m", *QUICK, "--edges")
    assert call(*words).exit_code == 0
    model = load_model(tmp_path / "m")
    fixed, moving = (read(slices / f"p{n}_t1.nii.gz") for n in (0, 1))
    negative = Image(moving.data.max() - moving.data, moving.grid)
    one, other = (model.network.edges, model.config.network.edges)
    assert one
    assert other
    a, b = (
        model.displacement_vox(*(x.as_float32()[:32, :32] / 130 for x in (fixed, y)))
        for y in (moving, negative)
    )
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_log_file_tells_every_round_and_a_card_that_it_is_not_finished(slices, tmp_path):
    words = ("train", "voxelmorph", slices / "scans.csv", "-o", tmp_path / "m", *QUICK)
    done = call(*words, "--minutes", 1e-6)
    assert done.exit_code == 0, done.output
    steps = json.loads((tmp_path / "m" / "model.json").read_text(encoding="utf-8"))["training"]["steps"]
    card = (tmp_path / "m" / "card.md").read_text(encoding="utf-8")
    assert f"**Not finished**: the time was up after 1 of {steps} steps" in card
    assert "`similarity` lncc (radius" in card
    done = call(*words)
    told = re.findall(rf"step (\d+) of {steps}, loss (\S+), \d+ s", done.stderr)
    with (tmp_path / "m" / "log.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert told == [(row["step"], f"{float(row['loss']):.4f}") for row in rows]
    assert "Not finished" not in (tmp_path / "m" / "card.md").read_text(encoding="utf-8")


def test_a_model_folder_is_whole(trained):
    names = {path.name for path in trained.iterdir()} - {"tensorboard"}
    assert names == {"model.safetensors", "model.json", "card.md", "pairs.png", "log.csv", "checkpoint.pt"}
    settings = json.loads((trained / "model.json").read_text(encoding="utf-8"))
    assert settings["inputs"]["spacing_mm"] == [1.2, 1.2]
    assert len(settings["inputs"]["shape"]) == 2
    assert settings["licence"] == "CC0"
    assert settings["subjects"]["test"]
    card = (trained / "card.md").read_text(encoding="utf-8")
    for words in (
        "](pairs.png)",
        "Licence: CC0",
        "Known failures",
        "Test (never used in training): 6 pairs",
        "velocity",
    ):
        assert words in card
    assert len((trained / "log.csv").read_text(encoding="utf-8").splitlines()) == 3

    with Picture.open(trained / "pairs.png") as picture:
        pixels = np.asarray(picture)
    # three rows of six tiles, 2 pixels of white around each, enlarged
    across, down = settings["inputs"]["shape"]
    factor = pixels.shape[1] // (6 * (across + 4))
    assert pixels.shape == (3 * (down + 4) * factor, 6 * (across + 4) * factor)
    tile = pixels[::factor, ::factor][2 : 2 + down, 2 : 2 + across]
    assert tile.min() < 5
    assert tile.max() > 250


def test_models_are_listed_shown_and_verified(trained, monkeypatch):
    monkeypatch.setenv("REGISTA_MODELS", str(trained.parent))
    listed = call("models", "list")
    assert "tiny  voxelmorph-1, 2-D, 1.2 × 1.2 mm" in listed.stdout
    shown = call("models", "show", "tiny").stdout
    assert shown.startswith("# tiny")
    assert f"Picture: {trained / 'pairs.png'}\n" in shown
    assert json.loads(call("models", "show", trained, "--json").stdout)["licence"] == "CC0"
    assert "whole" in call("models", "verify", "tiny").stdout
    monkeypatch.delenv("REGISTA_MODELS")
    missing = call("models", "verify", "tiny")
    assert missing.exit_code == 2
    assert "no model 'tiny'" in missing.stderr
    assert "REGISTA_MODELS" not in missing.stderr


def test_a_folder_of_models_that_is_not_there_is_told(slices, tmp_path, monkeypatch):
    monkeypatch.setenv("REGISTA_MODELS", str(tmp_path / "gone"))
    listed = call("models", "list")
    assert listed.exit_code == 0
    assert "any-contrast" in listed.stdout
    (tmp_path / "plan.toml").write_text(
        '[[stages]]\nmodel = "rigid"\nsimilarity = {deep = "tiny"}\n', encoding="utf-8"
    )
    words = (slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "o")
    by_metric = call("register", *words, "--plan", tmp_path / "plan.toml")
    for told in (
        listed,
        call("models", "show", "tiny"),
        call("register", *words, "--model", "tiny"),
        by_metric,
    ):
        assert f"REGISTA_MODELS names {tmp_path / 'gone'}, which is not a folder" in told.stderr


def test_a_training_that_is_stopped_says_that_it_can_go_on(tmp_path, capsys):
    for there in (False, True):
        with pytest.raises(KeyboardInterrupt), stop_told(tmp_path / "checkpoint.pt", speaks=True):
            raise KeyboardInterrupt
        assert ("the same command goes on from there" in capsys.readouterr().err) == there
        (tmp_path / "checkpoint.pt").touch()


def test_scans_without_labels_are_told_where_others_have_them(slices, table, tmp_path):
    rows = [{"image": slices / f"p{n}_t1.nii.gz", "labels": slices / f"p{n}_labels.nii.gz"} for n in range(4)]
    rows[1]["labels"] = ""
    listed = table(tmp_path / "scans.csv", rows)
    told = call(
        "train", "voxelmorph", listed, "-o", tmp_path / "m", "--steps", 1, "--half-resolution", "--threads", 1
    )
    assert told.exit_code == 0, told.output
    assert "1 of 4 scans have no labels" in told.stderr


def test_the_same_command_goes_on_and_restart_begins_again(trained, slices, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(trained, folder)
    told = call("info", folder)
    assert told.exit_code == 2
    assert f"regista models show {folder}" in " ".join(told.stderr.split())
    again = call("train", "voxelmorph", slices / "scans.csv", "-o", folder, *TINY, *QUICK, "--json")
    assert json.loads(again.stdout)["seconds"] < json.loads(again.stdout)["steps"] * 10
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    other = call("train", "voxelmorph", slices / "scans.csv", "-o", folder, *TINY, *QUICK, "--seed", 1)
    assert other.exit_code == 2
    assert "training.seed: 0 there, 1 now" in " ".join(other.stderr.split())
    assert "prepared" not in other.stderr
    (folder / "checkpoint.pt").write_bytes(b"broken")
    broken = call("train", "voxelmorph", slices / "scans.csv", "-o", folder, *TINY, *QUICK)
    assert broken.exit_code == 2
    assert "damaged checkpoint" in broken.stderr
    fresh = call("train", "voxelmorph", slices / "scans.csv", "-o", folder, *TINY, *QUICK, "--restart", "-q")
    assert fresh.exit_code == 0, fresh.output
    assert fresh.stdout == ""
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_synthesis_from_labels_and_shapes(slices, tmp_path):
    for kind in ("labels", "shapes"):
        words = ("-o", tmp_path / kind, "--network", "voxelmorph-1", "--synthesis", kind, "--validation", 2)
        done = call("train", "voxelmorph", slices / "scans.csv", *words, *QUICK, "--json")
        assert done.exit_code == 0, done.output
        loss = json.loads((tmp_path / kind / "model.json").read_text(encoding="utf-8"))["loss"]
        assert (loss["similarity_weight"], loss["dice_weight"]) == (0.0, 1.0)


def test_synthesis_may_compare_clean_images_of_one_contrast(slices, table, tmp_path):
    path = table(slices / "maps_clean.csv", [{"labels": f"p{n}_labels.nii.gz"} for n in range(4)])
    aligned = [word for word in QUICK if word not in ("--align", "none")]
    words = ("--network", "voxelmorph-1", "--validation", 0, *aligned, "--synthesis", "labels", "--targets")
    done = call("train", "voxelmorph", path, "-o", tmp_path / "clean", *words, "--similarity", "ssd")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "clean" / "model.json").read_text(encoding="utf-8"))
    assert (settings["loss"]["similarity_weight"], settings["loss"]["dice_weight"]) == (1.0, 0.0)
    # whatever the loss, scans to come may be of two contrasts
    stages = linear_plan(settings).stages
    assert {stage.similarity.name for stage in stages} == {"mi"}


def test_made_up_pairs_may_be_trained_by_their_known_displacement(slices, tmp_path):
    words = (
        "--network",
        "voxelmorph-1",
        "--synthesis",
        "labels",
        "--validation",
        1,
        "--endpoint-weight",
        0.7,
    )
    done = call("train", "voxelmorph", slices / "scans.csv", "-o", tmp_path / "known", *words, *QUICK)
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "known" / "model.json").read_text(encoding="utf-8"))
    assert settings["loss"]["endpoint_weight"] == 0.7
    header, *rows = (tmp_path / "known" / "log.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("endpoint")
    assert all(float(row.split(",")[column]) > 0 for row in rows)


def test_training_by_synthesis_needs_label_maps_alone(slices, table, tmp_path):
    rows = [{"labels": f"p{n}_labels.nii.gz"} for n in range(4)]
    path = table(slices / "maps_alone.csv", rows)
    words = ("train", "voxelmorph", path, "--network", "voxelmorph-1", "--validation", 0, *QUICK)
    done = call(
        *words,
        "-o",
        tmp_path / "maps",
        "--synthesis",
        "labels",
        "--resolutions",
        2,
        "--shape",
        32,
        "--alike",
        "1,2",
        "--deformation",
        1.5,
    )
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "maps" / "model.json").read_text(encoding="utf-8"))
    assert settings["inputs"]["shape"] == [32, 32]
    assert settings["network"]["resolutions"] == 2
    refused = call(*words, "-o", tmp_path / "images")
    assert refused.exit_code == 2
    assert "label maps are listed without" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{"image": "p0_t1.nii.gz"}, {"image": "gone.nii.gz"}], (), "gone.nii.gz does not exist"),
        ([{"image": "p0_t1.nii.gz"}], (), "2 subjects at least"),
        ([{"image": f"p{n}_t1.nii.gz"} for n in range(4)], ("--alike", "1,2"), "give --synthesis labels too"),
        (
            [{"labels": f"p{n}_labels.nii.gz"} for n in range(4)],
            ("--synthesis", "labels", "--alike", "1;2"),
            "labels with commas between them, as in 2,41; got '1;2'",
        ),
        (
            [{"labels": f"p{n}_labels.nii.gz"} for n in range(4)],
            ("--synthesis", "labels", "--alike", "1,99,0"),
            "--alike names 0, 99, labels that no scan",
        ),
        (
            [{"labels": f"p{n}_labels.nii.gz"} for n in range(4)],
            ("--synthesis", "labels", "--alike", "1,2", "--alike", "2,1"),
            "--alike names 1, 2 twice",
        ),
        ([{"image": f"p{n}_t1.nii.gz"} for n in range(4)], ("--alike", "2"), "as in 2,41; got '2'"),
        (
            [{"image": f"p{n}_t1.nii.gz"} for n in range(4)],
            ("--deformation", 2),
            "--deformation is for made-up",
        ),
        ([{"image": f"p{n}_t1.nii.gz"} for n in range(4)], ("--targets",), "--targets is for made-up images"),
        (
            [{"image": f"p{n}_t1.nii.gz"} for n in range(4)],
            ("--endpoint-weight", 1),
            "--endpoint-weight is for made-up images",
        ),
        ([{"image": f"p{n}_t1.nii.gz"} for n in range(4)], ("--labels-weight", 1), "has no labels"),
        ([{"image": f"p{n}_t1.nii.gz"} for n in range(4)], ("--similarity", "sad"), "--similarity is one of"),
        ([{"image": f"p{n}_t1.nii.gz"} for n in range(4)], ("--network", "unet"), "the networks are"),
        (
            [{"image": f"p{n}_t1.nii.gz"} for n in range(4)],
            ("--spacing", 1, "--spacing", 1, "--spacing", 2),
            "once per axis",
        ),
        (
            [{"image": f"p{n}_t1.nii.gz"} for n in range(4)],
            ("--synthesis", "labels"),
            "list label maps in the column labels",
        ),
    ],
)
def test_bad_data_is_refused_before_the_first_step(slices, table, tmp_path, rows, more, message):
    path = table(slices / "case.csv", rows)
    quick = [word for word in QUICK if more[:1] != ("--spacing",) or word not in ("--spacing", 1.2)]
    done = call("train", "voxelmorph", path, "-o", tmp_path / "out", *quick, *more)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_a_list_of_scans_is_not_written_over(slices, table, tmp_path):
    path = table(tmp_path / "log.csv", [{"image": str(slices / f"p{n}_t1.nii.gz")} for n in range(4)])
    before = path.read_bytes()
    done = call("train", "voxelmorph", path, "-o", tmp_path, *QUICK)
    assert done.exit_code == 2
    assert "is one of the inputs" in done.stderr
    assert path.read_bytes() == before


def test_a_file_in_the_place_of_the_model_is_told_first(slices, tmp_path):
    (tmp_path / "m").write_text("mine", encoding="utf-8")
    for kind, table in (("voxelmorph", "scans.csv"), ("deep-metric", "scans.csv")):
        refused = call("train", kind, slices / table, "-o", tmp_path / "m")
        assert refused.exit_code == 2, refused.output
        assert "is a file, expected a folder" in " ".join(refused.stderr.split())
    assert (tmp_path / "m").read_text(encoding="utf-8") == "mine"


def test_a_training_that_has_not_ended_is_no_model(trained, slices, tmp_path):
    shutil.copytree(trained, tmp_path / "m")
    (tmp_path / "m" / "model.json").unlink()
    refused = call("models", "show", tmp_path / "m")
    assert refused.exit_code == 2
    assert "holds a training that has not ended" in " ".join(refused.stderr.split())


@pytest.mark.parametrize("option", ["--prior", "--kl-weight"])
def test_settings_of_a_prior_without_one_are_refused(slices, tmp_path, option):
    refused = call("train", "voxelmorph", slices / "scans.csv", "-o", tmp_path / "m", *QUICK, option, 3)
    assert refused.exit_code == 2
    assert f"{option} is of networks that estimate a variance" in " ".join(refused.stderr.split())
    assert not (tmp_path / "m").exists()
