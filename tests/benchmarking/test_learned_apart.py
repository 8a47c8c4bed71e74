"""Scans that travel to where a GPU is, and label maps without what is outside the brain."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from scipy import ndimage

from regista.core import threads
from regista.io import read_labels

pytest.importorskip("torch", reason="the scripts of trained networks need torch")

from regista.learning import (
    Augmentation,
    InputConfig,
    ModelConfig,
    NetworkConfig,
    PairSource,
    Parts,
    PreparedScans,
    Provenance,
    TrainingConfig,
    fit,
)

SHAPE = (32, 32, 32)


class Discs:
    """Stands for a script of trained networks: four balls, one of them for validation."""

    @staticmethod
    def config_of(options: argparse.Namespace) -> ModelConfig:
        return ModelConfig(
            network=NetworkConfig(half_resolution=True),
            inputs=InputConfig(spacing_mm=(2.0, 2.0, 2.0)),
            training=TrainingConfig(steps=options.steps, validate_every=2),
        )

    @classmethod
    def prepared(cls, options: argparse.Namespace):
        def scans(seed):
            rng = np.random.default_rng(seed)
            index = np.indices(SHAPE)
            away = [
                np.linalg.norm(index - rng.uniform(14, 18, (3, 1, 1, 1)), axis=0) / rng.uniform(7, 10)
                for _ in range(3)
            ]
            images = [np.clip(1.2 - one, 0, 1).astype(np.float32) for one in away]
            pairs = tuple((a, b) for a in range(3) for b in range(3) if a != b)
            codes = [(one < 1).astype(np.int32) for one in away]
            return PreparedScans(images, codes, (0, 4), ("a", "b", "c"), pairs)

        return Parts(scans(0), scans(1), None, cls.config_of(options).with_shape(SHAPE)), "origin"


def test_a_training_elsewhere_is_taken_for_done_here(script, tmp_path, monkeypatch, capsys):
    apart = script("learned_apart")
    monkeypatch.setitem(apart.SETS, "brain", Discs)
    options = argparse.Namespace(steps=3, minutes=5.0, device="cpu", name="x")
    file = tmp_path / "scans.pack"
    with threads(1):
        apart.pack(file, "brain", options)
        apart.train_packed(file, "brain", options, tmp_path / "x")
        assert "3 steps" in capsys.readouterr().out
        # here the same scans are there, in full: nothing is left to be trained
        parts, _ = Discs.prepared(options)
        origin = script("learned_brain").Provenance(data="balls", subjects={"train": ["a", "b", "c"]})
        seen = []
        result, _ = fit(parts, tmp_path / "x", origin, progress=seen.append)
    assert (result.steps, result.finished, seen) == (3, True, [])
    assert "by 1 CPU thread" in (tmp_path / "x" / "card.md").read_text(encoding="utf-8")


def test_a_run_is_kept_and_set_beside_what_needs_no_training(script, tmp_path, monkeypatch, capsys):
    trained = script("harness.trained")
    for name in ("harness.trained", "harness.tables"):
        monkeypatch.setattr(script(name), "RESULTS", tmp_path)
    monkeypatch.setattr(trained, "set_threads", lambda count: None)
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    options = argparse.Namespace(steps=2, minutes=5.0, name="mine", threads=1, classical=True)
    seen = []

    def prepare(options):
        parts, _ = Discs.prepared(options)
        seen.append(PairSource(parts.train, Augmentation()))
        return parts, Provenance(data="balls", command="train balls", subjects={"train": ["a"]}), *seen

    def learned(options):
        return trained.train_and_keep("balls", options, prepare, test)

    def test(options, model):
        return [{"method": options.name, "dice": 0.75, "spacing": model.config.inputs.spacing_mm[0]}]

    for classical in (True, False):
        options.classical = classical
        with threads(1):
            trained.run(
                "balls_classical",
                options,
                lambda _: [{"method": "affine", "dice": 0.5}],
                learned,
                [("dice", "Dice", 2)],
            )
        assert len(seen) == (not classical)  # without training nothing is prepared
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("| affine | 1 | 0.50 ± 0.00 |") == 2
    assert lines[-1] == "| mine | 1 | 0.75 ± 0.00 |"
    facts, rows = trained.read_run("balls_mine")
    assert (facts["command"], facts["steps"], facts["subjects"]) == ("train balls", 2, {"train": 1})
    assert rows == [{"method": "mine", "dice": 0.75, "spacing": 2.0}]
    assert [row["method"] for row in trained.read_rows(tmp_path / "balls_classical.csv")] == ["affine"]
    assert (tmp_path / "balls" / "mine" / "model.json").is_file()


def test_packing_keeps_intensities_to_16_bits(script):
    apart = script("learned_apart")
    scans = Discs.prepared(argparse.Namespace(steps=1))[0].train
    again = apart.unpacked(apart.packed(scans))
    np.testing.assert_allclose(again.images[1], scans.images[1], atol=1 / 131000)
    np.testing.assert_array_equal(again.codes[2], scans.codes[2])
    assert (again.subjects, again.pairs, again.values) == (scans.subjects, scans.pairs, scans.values)


@pytest.mark.data
def test_maps_to_train_on_show_the_brain_alone(script, data_dir, tmp_path):
    contrast = script("learned_contrast")
    table = contrast.write_brains(data_dir, tmp_path)
    names = table.read_text(encoding="utf-8").splitlines()[1:]
    assert len(names) == 6
    first = sorted(tmp_path.glob("*_brain.nii.gz"))[0]
    codes = read_labels(first).data
    whole = read_labels(data_dir / "brain_label_maps" / first.name.replace("_brain", "")).data
    assert set(np.unique(codes)) <= {0, *contrast.BRAIN} - set(contrast.MERGED)
    assert 0 < np.count_nonzero(codes) < np.count_nonzero(whole)
    sizes = np.bincount(ndimage.label(codes > 0)[0].ravel())[1:]
    assert sizes.max() > 0.999 * sizes.sum()
    both = (codes > 0) & ~np.isin(whole, list(contrast.MERGED))
    np.testing.assert_array_equal(codes[both], whole[both])
