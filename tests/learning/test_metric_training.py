"""Patches drawn from aligned pairs, and metrics trained on them."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_data import contrasts
from scipy.ndimage import rotate

from regista.core import FormatError, GeometryError, Grid, Image, PlanError, silent
from regista.io import write
from regista.learning import (
    AlignedPair,
    MetricConfig,
    MetricOrigin,
    PatchConfig,
    PatchSource,
    _metric_training,
    fit_metric,
    measure_metric,
    prepare_pair,
    read_pairs,
    split_pairs,
    train_metric,
)
from regista.learning._loop import Crew
from regista.learning._metric_training import _Training
from regista.registration import (
    DeformableStage,
    FreeFormStage,
    LinearStage,
    Plan,
    Start,
    VelocityStage,
    metric_landscape,
    register,
)
from regista.similarity import MI, DeepMetric, Sum
from regista.transforms import Affine

PLAIN = PatchConfig(shrinks=(1,), noise=0, gamma=0)
SMALL = MetricConfig(
    ndim=2, channels=(12, 16, 16, 16), patches=PatchConfig(shrinks=(1, 2)), steps=260, batch=64, learning_rate=4e-3,
    validate_every=130,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A metric for made-up contrasts."""
    folder = tmp_path_factory.mktemp("model") / "made-up"
    pairs = [prepare_pair(*contrasts((90, 80), seed), SMALL, subject=f"s{seed}") for seed in range(3)]
    held = [prepare_pair(*contrasts((90, 80), 9), SMALL, subject="held")]
    result = fit_metric(
        SMALL, pairs, folder, MetricOrigin(contrasts=("a", "b"), data="made up"), held_out=held
    )
    return folder, result


@pytest.mark.parametrize("shape", [(60, 50), (26, 30, 28)])
def test_positive_patches_show_one_place_and_negative_ones_do_not(shape):
    config = MetricConfig(ndim=len(shape), patches=PLAIN)
    first, _ = contrasts(shape)
    pair = prepare_pair(first, first, config)
    patches, target = PatchSource([pair], config).batch(np.random.default_rng(0), 64, 3.0)
    assert patches.shape == (64, 2, *(17,) * len(shape))
    assert sorted(set(target)) == [-1, 1]
    assert target.sum() == 0
    difference = np.abs(patches[:, 0] - patches[:, 1]).reshape(64, -1).mean(axis=1)
    assert difference[target > 0].max() < 1e-6
    assert difference[target < 0].min() > 0.01


def test_patches_are_a_function_of_their_generator_and_negatives_get_nearer():
    config = MetricConfig(ndim=2)
    source = PatchSource([prepare_pair(*contrasts((70, 80)), config)], config)
    one, again, other = (source.batch(np.random.default_rng(n), 16, 2.0)[0] for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    nearest = [config.patches.nearest_at(share) for share in (0, 0.5, 1)]
    assert nearest == sorted(nearest, reverse=True)
    assert nearest[0] > nearest[-1]


def test_patches_are_centred_in_the_mask():
    config = MetricConfig(
        ndim=2, patches=replace(PLAIN, rotation_deg=0, scale=0, shear=0, wave_vox=0, flips=False)
    )
    ramp = np.tile(np.linspace(0, 1, 80, dtype=np.float32)[:, None], (1, 60))
    ramp[:, ::7] += 0.01
    image = Image(ramp, Grid(ramp.shape, np.eye(3)))
    inside = np.zeros(ramp.shape, np.uint8)
    inside[30:40, 20:40] = 1
    pair = prepare_pair(image, image, config, Image(inside, image.grid), check_alignment=False)
    level = pair.levels[0]
    assert len(level.centres) == 200
    patches, _ = PatchSource([pair], config).batch(np.random.default_rng(0), 32, 3.0)
    middle = patches[:, 0, 8, 8]
    at = level.first[[29, 41], 0, 21]
    assert at[0] <= middle.min() <= middle.max() <= at[1]


def test_pairs_that_cannot_teach_are_refused(tmp_path):
    config = MetricConfig(ndim=2)
    first, second = contrasts((60, 50))
    with pytest.raises(GeometryError, match="another grid"):
        prepare_pair(first, Image(second.data, Grid((60, 50), np.diag([1, 1.1, 1]))), config)
    with pytest.raises(FormatError, match="constant"):
        prepare_pair(first, Image(np.zeros((60, 50), np.float32), first.grid), config)
    with pytest.raises(GeometryError, match="2-D and the metric is for 3-D"):
        prepare_pair(first, second, MetricConfig(ndim=3))
    with pytest.raises(GeometryError, match="not aligned: shifted by"):
        prepare_pair(*contrasts((60, 50), shift=(4, 0)), config, subject="s1")
    assert isinstance(
        prepare_pair(*contrasts((60, 50), shift=(4, 0)), config, check_alignment=False), AlignedPair
    )
    turned = rotate(second.data, 6, reshape=False, order=1, mode="nearest")
    with pytest.raises(GeometryError, match=r"not aligned: turned by [+-]6° in the plane"):
        prepare_pair(first, Image(turned, first.grid), config)
    with pytest.raises(GeometryError, match="too little is left"):
        prepare_pair(*contrasts((6, 50)), config)
    with pytest.raises(PlanError, match="k = 0"):
        train_metric(config, [], tmp_path)
    with pytest.raises(PlanError, match="k = 0"):
        split_pairs([])


def test_tables_of_pairs_are_read_and_divided_by_subject(tmp_path):
    first, second = contrasts((20, 24))
    rows = ["fixed,moving,subject"]
    for name in "abcd":
        write(tmp_path / f"{name}1.nii.gz", first)
        write(tmp_path / f"{name}2.nii.gz", second)
        rows.append(f"{name}1.nii.gz,{name}2.nii.gz,{'ab'[name > 'b']}")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    files = read_pairs(table)
    parts = split_pairs(files, 0.5)
    assert {len(parts["train"]), len(parts["validation"])} == {2}
    assert len({files[n].subject for n in parts["train"]}) == 1
    for text, word in [
        ("fixed,moving\n", "no pairs"),
        ("a,b\n1,2\n", "columns"),
        ("fixed,moving\nx,y\n", "does not exist"),
    ]:
        table.write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match=word):
            read_pairs(table)


def test_going_on_is_exact(tmp_path):
    config = replace(SMALL, steps=12, validate_every=4, channels=(4, 4, 4, 4), batch=8)
    pairs = [prepare_pair(*contrasts((60, 50)), config)]
    straight = train_metric(config, pairs, tmp_path / "a", held_out=pairs)

    def stop(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_metric(config, pairs, tmp_path / "b", held_out=pairs, progress=stop)
    resumed = train_metric(config, pairs, tmp_path / "b", held_out=pairs)
    assert resumed.steps == straight.steps == 12
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    with pytest.raises(PlanError, match="other settings"):
        train_metric(replace(config, seed=1), pairs, tmp_path / "b")


def test_training_ends_early_without_a_gain(tmp_path):
    config = replace(SMALL, steps=40, validate_every=2, patience=2, learning_rate=1e-8, batch=8)
    config = replace(config, channels=(4, 4, 4, 4), decay=0.0)
    pairs = [prepare_pair(*contrasts((60, 50)), config)]
    result = train_metric(config, pairs, tmp_path, held_out=pairs)
    assert result.finished
    assert result.steps < 40


def test_processes_share_a_batch(tmp_path):
    """Averaged over two processes, gradients are those of the whole batch."""
    config = replace(SMALL, channels=(4, 4, 4, 4), batch=8)
    pairs = [prepare_pair(*contrasts((60, 50)), config)]
    found = []
    for crew in (Crew(), Crew(0, 2), Crew(1, 2)):
        training = _Training(config, pairs, tmp_path, (), silent, "cpu", crew)
        loss = training.terms(training.batch(0))["loss"] / crew.size
        loss.backward()
        found.append([weight.grad for weight in training.network.parameters()])
    for whole, one, other in zip(*found, strict=True):
        torch.testing.assert_close(whole, one + other, atol=1e-6, rtol=1e-5)


def test_a_trained_metric_tells_held_out_patches(trained):
    folder, result = trained
    assert result.best.accuracy > 0.85
    assert {"model.safetensors", "model.json", "card.md", "log.csv"} <= {
        file.name for file in folder.iterdir()
    }
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert "a (first)" in card
    assert "1 × 1 mm" in card


def test_it_is_best_where_unseen_images_are_aligned(trained):
    first, second = contrasts((84, 76), seed=21)
    metrics = {"deep": DeepMetric(model=str(trained[0]))}
    for found in metric_landscape(first, second, metrics, ["tx", "ty", "rz"], reach=6, points=13):
        assert abs(found.optimum) < 0.7
        assert min(found.capture_range) >= 2


STAGES = {
    "rigid": (LinearStage, {"model": "rigid", "shrink": (2, 1), "steps": (30, 20)}),
    "affine": (LinearStage, {"model": "affine", "shrink": (2, 1), "steps": (30, 20)}),
    "bspline": (FreeFormStage, {"shrink": (2, 1), "steps": (20, 15), "spacing_vox": (12.0,)}),
    "svf": (VelocityStage, {"shrink": (2, 1), "steps": (25, 15)}),
    "symmetric svf": (
        VelocityStage,
        {"shrink": (2, 1), "steps": (25, 15), "symmetric": True, "gradient": "composition"},
    ),
    "diffeomorphic": (DeformableStage, {"shrink": (2, 1), "steps": (25, 15)}),
    "syn": (DeformableStage, {"model": "syn", "shrink": (2, 1), "steps": (25, 15)}),
}


@pytest.mark.parametrize(
    ("stage", "mixed"), [*((stage, False) for stage in STAGES), ("rigid", True), ("syn", True)]
)
def test_every_stage_brings_contrasts_together(trained, stage, mixed):
    first, second = contrasts((72, 64), seed=30, shift=(2, -2))
    kind, settings = STAGES[stage]
    metric = DeepMetric(model=str(trained[0]))
    if mixed:
        metric = Sum(terms=((1.0, metric), (0.5, MI())))
    plan = Plan(stages=(kind(similarity=metric, **settings),), start=Start(search="none"))
    result = register(first, second, plan)
    points = np.stack(np.meshgrid(np.arange(16, 56, 4.0), np.arange(16, 48, 4.0)), -1).reshape(-1, 2)
    # the second image at x shows what the first shows at x + shift
    error = np.linalg.norm(result.transform.map_points(points) - (points - [2, -2]), axis=1)
    assert error.mean() < 1.2  # from 2.83


def test_fixed_and_moving_may_change_places(trained):
    first, second = contrasts((72, 64), seed=31, shift=(2, -2))
    metric = DeepMetric(model=str(trained[0]), fixed="second")
    plan = Plan(stages=(LinearStage(model="rigid", similarity=metric, shrink=(2, 1), steps=(30, 20)),))
    start = Affine(np.eye(3), second.space, first.space)
    found = register(second, first, plan, initial=start).transform.map_points([[30.0, 30.0]])[0]
    np.testing.assert_allclose(found, [32, 28], atol=1)


FEATURES = replace(SMALL, architecture="features", steps=120, validate_every=60)


def test_negatives_of_features_are_near_their_positives():
    config = MetricConfig(ndim=2, architecture="features", patches=PLAIN)
    first, _ = contrasts((60, 50))
    patches, target = PatchSource([prepare_pair(first, first, config)], config).batch(
        np.random.default_rng(0), 32, 3.0
    )
    assert (target[::2] == 1).all()
    assert (target[1::2] == -1).all()
    np.testing.assert_array_equal(patches[::2, 0], patches[1::2, 0])
    assert np.abs(patches[::2, 1] - patches[1::2, 1]).max() > 0.1


def test_features_learn_where_unseen_images_are_aligned(tmp_path):
    pairs = [prepare_pair(*contrasts((90, 80), seed), FEATURES, subject=f"s{seed}") for seed in range(3)]
    held = [prepare_pair(*contrasts((90, 80), 9), FEATURES, subject="held")]
    result = fit_metric(FEATURES, pairs, tmp_path / "features", MetricOrigin(), held_out=held)
    assert result.best.accuracy > 0.9
    assert "more alike to their own place" in (tmp_path / "features" / "card.md").read_text(encoding="utf-8")
    first, second = contrasts((84, 76), seed=21)
    metrics = {"deep": DeepMetric(model=str(tmp_path / "features"))}
    for found in metric_landscape(first, second, metrics, ["tx", "ty", "rz"], reach=6, points=13):
        assert abs(found.optimum) < 0.7
        assert min(found.capture_range) >= 2


def test_features_are_not_trained_by_several_processes(tmp_path, monkeypatch):
    pairs = [prepare_pair(*contrasts((60, 50)), FEATURES)]

    @contextlib.contextmanager
    def two(device, batch):
        yield Crew(0, 2)

    monkeypatch.setattr(_metric_training, "crew", two)
    with pytest.raises(PlanError, match="in one process, got 2"):
        train_metric(FEATURES, pairs, tmp_path)


def test_a_metric_is_measured_on_pairs_of_others(trained):
    folder, _ = trained
    pairs = [prepare_pair(*contrasts((90, 80), 12), SMALL, subject="other")]
    found = measure_metric(folder, pairs, patches=256)
    assert found.patches == 256
    assert found.accuracy > 0.8
    noise = np.random.default_rng(0).random((90, 80), np.float32)
    texture = Image(noise, Grid((90, 80), np.eye(3)))
    unlike = prepare_pair(texture, texture, SMALL, subject="noise")
    assert measure_metric(folder, [unlike], patches=256).accuracy < found.accuracy
    with pytest.raises(PlanError, match="there are none"):
        measure_metric(folder, [])
