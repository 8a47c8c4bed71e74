"""Training: it learns, goes on exactly where it stopped, and refuses what it cannot go on with."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from regista.core import FormatError, PlanError, RegistrationError, get_threads, threads
from regista.core.weights import read_weights
from regista.learning import (
    InputConfig,
    Loss,
    ModelConfig,
    NetworkConfig,
    PairSource,
    PreparedScans,
    TrainingConfig,
    train,
)
from regista.learning._checkpoint import CHECKPOINT, LOG
from regista.learning._device import local_device
from regista.learning._loop import TrainingLoop
from regista.regularization import Diffusion
from regista.similarity import LNCC, SSD

SHAPE = (32, 32)


def disc(center, radius):
    """Return a soft disc and its label."""
    y, x = np.indices(SHAPE)
    away = np.hypot(y - center[0], x - center[1])
    return np.clip((radius - away) / 3 + 0.5, 0, 1).astype(np.float32), (away < radius).astype(np.int32)


def discs(seed, count=4, labelled=True):
    """Return discs of many places and sizes."""
    rng = np.random.default_rng(seed)
    made = [disc(rng.uniform(13, 19, 2), rng.uniform(6, 9)) for _ in range(count)]
    pairs = tuple((a, b) for a in range(count) for b in range(count) if a != b)
    codes = [codes for _, codes in made] if labelled else None
    names = tuple(f"p{n}" for n in range(count))
    return PreparedScans([image for image, _ in made], codes, (0, 1) if labelled else (), names, pairs)


def config(**training) -> ModelConfig:
    settings = {"steps": 8, "batch": 2, "learning_rate": 1e-3, "validate_every": 4, "augmentation": None}
    return ModelConfig(
        network=NetworkConfig(name="voxelmorph-1", ndim=2),
        inputs=InputConfig(spacing_mm=(1.0, 1.0), shape=SHAPE),
        loss=Loss(similarity=SSD(), penalties=(Diffusion(weight=0.02),)),
        training=TrainingConfig(**{**settings, **training}),
    )


class StopAt:
    """Progress that stops the training after a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step, self.seen = step, []

    def __call__(self, report):
        self.seen.append(report)
        if report.step == self.step:
            raise KeyboardInterrupt


def test_a_network_learns_to_align_discs_it_has_not_seen(tmp_path):
    setup = config(steps=150, batch=4, learning_rate=2e-3, validate_every=50)
    result = train(setup, PairSource(discs(1, 12)), tmp_path, validation=discs(2))
    assert result.finished
    assert result.best.pairs == 12
    assert result.best.dice > result.best.dice_before + 0.08
    assert result.best.dice > 0.85
    with (tmp_path / LOG).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [50, 100, 150]
    assert float(rows[-1]["ssd"]) < 0.7 * float(rows[0]["ssd"])


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_interrupted_training_ends_with_the_same_weights(tmp_path, stop):
    source, held = PairSource(discs(1), config().training.augmentation), discs(2, 3)
    whole = train(config(), source, tmp_path / "whole", validation=held)
    with pytest.raises(KeyboardInterrupt):
        train(config(), source, tmp_path / "parts", validation=held, progress=StopAt(stop))
    rest = StopAt(None)
    parts = train(config(), source, tmp_path / "parts", validation=held, progress=rest)
    assert [report.step for report in rest.seen] == list(range(stop + 1, 9))
    assert parts.best == whole.best
    a, b = (read_weights(tmp_path / name / "model.safetensors")[0] for name in ("whole", "parts"))
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_a_validation_cut_in_half_is_done_again(tmp_path, monkeypatch):
    """Ctrl-C within a validation leaves the checkpoint before it: the course is that of a training not stopped."""
    source, held = PairSource(discs(1)), discs(2, 3)
    whole = train(config(), source, tmp_path / "whole", validation=held)
    with monkeypatch.context() as patched:
        patched.setattr("regista.learning._train.score", _stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config(), source, tmp_path / "parts", validation=held)
    assert not (tmp_path / "parts" / CHECKPOINT).exists()
    parts = train(config(), source, tmp_path / "parts", validation=held)
    assert (parts.best, parts.steps) == (whole.best, whole.steps)
    a, b = (read_weights(tmp_path / name / "model.safetensors")[0] for name in ("whole", "parts"))
    assert all(np.array_equal(a[key], b[key]) for key in a)


def _stopped(*_, **__):
    raise KeyboardInterrupt


def test_batches_are_made_with_the_number_of_threads_asked_for(tmp_path):
    scans, seen = discs(1), set()

    class Watched(PairSource):
        def sample(self, rng):
            seen.add(get_threads())
            return super().sample(rng)

    with threads(3):
        train(config(steps=2), Watched(scans), tmp_path)
    assert seen == {3}


def test_batches_made_by_several_threads_are_those_made_by_one(tmp_path, monkeypatch):
    """Beside a graphics card every processor makes batches: the course is the same."""
    source = PairSource(discs(1), config().training.augmentation)
    with threads(3):
        one = train(config(), source, tmp_path / "one")
    seen, init = set(), TrainingLoop.__init__

    def several(self, *arguments):
        init(self, *arguments)
        self.makers = 3

    class Watched(PairSource):
        def sample(self, rng):
            seen.add(get_threads())
            return super().sample(rng)

    monkeypatch.setattr(TrainingLoop, "__init__", several)
    watched = Watched(source.scans, source.pose)
    with threads(3), pytest.raises(KeyboardInterrupt):
        train(config(), watched, tmp_path / "three", progress=StopAt(4))
    with threads(3):
        train(config(), watched, tmp_path / "three")
    assert seen == {1}  # each of several makers takes one thread
    a, b = (read_weights(tmp_path / name / "model.safetensors")[0] for name in ("one", "three"))
    assert one.steps == 8
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_a_training_begins_with_the_weights_of_another(tmp_path):
    source, held = PairSource(discs(1)), discs(2, 3)
    first = train(config(steps=30, learning_rate=2e-3), source, tmp_path / "first", validation=held)
    still = config(steps=1, learning_rate=1e-12, start=str(tmp_path / "first"))
    second = train(still, source, tmp_path / "second", validation=held)
    assert second.best.loss == pytest.approx(first.best.loss, rel=1e-4)
    a, b = (read_weights(tmp_path / name / "model.safetensors")[0] for name in ("first", "second"))
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=0, atol=1e-6)
    other = replace(still, network=NetworkConfig(name="voxelmorph-2", ndim=2))
    with pytest.raises(PlanError, match="do not fit voxelmorph-2"):
        train(other, source, tmp_path / "third")
    with pytest.raises(FormatError, match="no model 'nothing'"):
        train(config(start="nothing"), source, tmp_path / "third")
    # and goes on only as it began
    with pytest.raises(PlanError, match=r"training\.start"):
        train(config(steps=1, learning_rate=1e-12), source, tmp_path / "second", validation=held)


def test_what_computed_is_kept(tmp_path):
    source = PairSource(discs(1))
    with threads(2), pytest.raises(KeyboardInterrupt):
        train(config(), source, tmp_path, progress=StopAt(4))
    with threads(1):
        assert train(config(), source, tmp_path).devices == ("2 CPU threads", "1 CPU thread")
    with threads(2):  # nothing is left to be done
        assert train(config(), source, tmp_path).devices == ("2 CPU threads", "1 CPU thread")


def test_a_network_of_several_resolutions_learns(tmp_path):
    setup = config(steps=30, batch=4, learning_rate=2e-3, validate_every=30)
    setup = replace(setup, network=replace(setup.network, resolutions=3))
    result = train(setup, PairSource(discs(1, 12)), tmp_path, validation=discs(2, 3))
    assert result.best.dice > result.best.dice_before + 0.03


def test_time_that_is_up_leaves_a_model_and_a_checkpoint(tmp_path):
    source = PairSource(discs(1))
    first = train(config(), source, tmp_path, minutes=0.0)
    assert (first.steps, first.finished) == (1, False)
    second = train(config(), source, tmp_path)
    assert (second.steps, second.finished) == (8, True)
    assert second.seconds < second.total_seconds < second.seconds + first.seconds
    again = train(config(), source, tmp_path)
    assert again.steps == 8
    assert again.seconds < 60


def test_training_ends_early_without_a_gain(tmp_path):
    setup = config(steps=40, validate_every=2, patience=2, learning_rate=1e-12)
    result = train(setup, PairSource(discs(1)), tmp_path, validation=discs(2, 3))
    # Dice stays what it was: the first validation is the best, and two more without a gain end it
    assert (result.steps, result.finished) == (6, True)


def test_the_seed_alone_decides(tmp_path):
    source = PairSource(discs(1))
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        train(config(seed=seed), source, tmp_path / str(number))
        weights.append(read_weights(tmp_path / str(number) / "model.safetensors")[0])
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(np.array_equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(tmp_path):
    source = PairSource(discs(1))
    train(config(), source, tmp_path)
    with pytest.raises(PlanError, match=r"training\.learning_rate: 0\.001 there, 0\.01 now"):
        train(config(learning_rate=0.01), source, tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a checkpoint at all" * 50):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(FormatError, match="damaged checkpoint"):
            train(config(), source, tmp_path)
    assert train(config(), source, tmp_path, resume=False).steps == 8
    others = replace(discs(1), subjects=tuple("abcd"))
    with pytest.raises(PlanError, match="training on other scans"):
        train(config(), PairSource(others), tmp_path)


def test_a_dice_term_without_labels_is_refused_before_training(tmp_path):
    setup = replace(config(), loss=Loss(dice_weight=0.5))
    with pytest.raises(PlanError, match="not every scan has labels"):
        train(setup, PairSource(discs(1, labelled=False)), tmp_path)


def test_images_that_do_not_compare_are_refused_by_a_loss_that_compares_them(tmp_path):
    class TwoContrasts(PairSource):
        @property
        def comparable(self):
            return False

    assert PairSource(discs(1)).comparable
    with pytest.raises(PlanError, match="targets=True, or set similarity_weight to 0"):
        train(config(), TwoContrasts(discs(1)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    setup = config(learning_rate=9.0, steps=60)
    setup = replace(setup, loss=Loss(similarity=LNCC(), penalties=(Diffusion(weight=1e30),)))
    with pytest.raises(RegistrationError, match="lower the learning rate"):
        train(setup, PairSource(discs(1)), tmp_path)


def test_a_pair_needs_two_people():
    alone = replace(discs(1, 2), pairs=())
    with pytest.raises(PlanError, match="no pair of scans"):
        PairSource(alone)


def test_augmentation_moves_both_images_and_their_labels_alike():
    from regista.learning import Augmentation

    scans = discs(3, 2)
    same = replace(scans, pairs=((0, 0),))
    source = PairSource(same, Augmentation(rotation_deg=40, scale=0.3, shift=0.1, flip_axes=(0, 1)))
    samples = [source.sample(np.random.default_rng(n)) for n in range(6)]
    for sample in samples:
        np.testing.assert_array_equal(sample.fixed, sample.moving)
        np.testing.assert_array_equal(sample.fixed_codes, sample.moving_codes)
        assert np.mean((sample.fixed > 0.5) != sample.fixed_codes) < 0.03
    sizes = [sample.fixed_codes.sum() for sample in samples]
    assert np.ptp(sizes) > 0.2 * np.mean(sizes)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(PlanError, match="finds no graphics cards here"):
        local_device("cuda")
    for word in ("gpu", "cpu:1", "cuda:x"):
        with pytest.raises(PlanError, match="'auto', 'cpu' or 'cuda'"):
            local_device(word)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [local_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_train import PairSource, config, discs, train
from regista.core import set_threads
set_threads(1)
train(config(steps=4), PairSource(discs(1)), Path({out!r}), validation=discs(2, 3))
"""


def test_two_processes_train_as_one(tmp_path):
    """Gradients averaged over two processes, each with half of every batch, are those of the whole batch."""
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(folder=str(Path(__file__).parent), out=str(tmp_path / "two")), encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ},
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train(config(steps=4), PairSource(discs(1)), tmp_path / "one", validation=discs(2, 3))
    a, b = (read_weights(tmp_path / name / "model.safetensors")[0] for name in ("one", "two"))
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=2e-4, rtol=0)
