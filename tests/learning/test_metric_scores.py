"""A patch network over whole images: the same as patch by patch, its gradient, its place in plans."""

from __future__ import annotations

import copy
import itertools
import json
import time

import numpy as np
import pytest
import torch
from metric_data import untrained

from regista.core import FormatError, Grid, Image, PlanError
from regista.registration import (
    LinearStage,
    Plan,
    load_plan,
    metric_from_text,
    plan_from_dict,
    plan_to_toml,
    register,
)
from regista.similarity import MI, DeepMetric, Sum, _deep_dense, _deep_model, check_metric, exchanged

CASES = pytest.mark.parametrize(
    ("shape", "stride"),
    [((11, 14, 9), 2), ((5, 7, 6), 1), ((21, 1, 26), 2), ((20, 1, 23), 1), ((1, 19, 24), 2)],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("metrics")
    return {ndim: (place / f"m{ndim}", untrained(place / f"m{ndim}", ndim)) for ndim in (2, 3)}


def _pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random(shape, np.float32) for _ in range(2))


def _flat(*volumes):
    """Return volumes of one slice as images."""
    axes = tuple(axis for axis, n in enumerate(volumes[0].shape) if n == 1)
    return [np.squeeze(one, axes) for one in volumes]


def _by_patches(network, fixed, warped, weight, stride):
    """Return the value from every patch for itself."""
    fixed, warped, weight = _flat(fixed, warped, weight)
    pair = np.stack([np.pad(one, 8, mode="edge") for one in (fixed, warped)])
    places = list(itertools.product(*(range(0, n, stride) for n in fixed.shape)))
    patches = np.stack([pair[(slice(None), *(slice(a, a + 17) for a in at))] for at in places])
    weights = np.array([weight[at] for at in places], np.float64)
    with torch.no_grad():
        scores = network(torch.from_numpy(patches)).reshape(-1).double().numpy()
    return -(scores * weights).sum() / weights.sum()


def _exact(network, fixed, warped, weight, stride):
    """Return the value in float64, of the whole image at once."""
    fixed, warped, weight = _flat(fixed, warped, weight)
    pair = np.stack([np.pad(one, 8, mode="edge") for one in (fixed, warped)]).astype(np.float64)
    weights = weight[(slice(None, None, stride),) * weight.ndim].astype(np.float64)
    with torch.no_grad():
        scores = copy.deepcopy(network).double()(torch.from_numpy(pair)[None], stride)[0, 0].numpy()
    return -(scores * weights).sum() / weights.sum()


@CASES
def test_all_patches_at_once_are_as_one_by_one(folders, shape, stride, monkeypatch):
    folder, network = folders[2 if 1 in shape else 3]
    fixed, warped = _pair(shape)
    weight = np.random.default_rng(2).uniform(0, 1, shape).astype(np.float32)
    out = np.empty(shape, np.float32)
    prepared = DeepMetric(model=str(folder), stride=stride).prepare(fixed, weight)
    value = prepared.value_and_gradient(warped, weight, out)
    assert value == pytest.approx(_by_patches(network, fixed, warped, weight, stride), abs=1e-4)
    monkeypatch.setattr(_deep_dense, "_SLAB_VOXELS", 1)  # a row of patches at a time
    again = np.empty_like(out)
    assert prepared.value_and_gradient(warped, weight, again) == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(again, out, atol=1e-6 * np.abs(out).max() + 1e-9)


@CASES
def test_gradient_is_the_derivative_of_the_value(folders, shape, stride):
    folder, network = folders[2 if 1 in shape else 3]
    fixed, warped = _pair(shape, seed=5)
    rng = np.random.default_rng(3)
    weight = rng.uniform(0, 1, shape).astype(np.float32)
    out = np.empty(shape, np.float32)
    DeepMetric(model=str(folder), stride=stride).prepare(fixed, None).value_and_gradient(warped, weight, out)
    border = np.zeros(shape, bool)
    for axis, n in enumerate(shape):
        if n > 1:
            np.moveaxis(border, axis, 0)[[0, -1]] = True
    for where in (border, ~border, np.ones(shape, bool)):  # what lies beyond the border repeats it
        along = np.sign(out) * rng.uniform(0.5, 1, shape) * where
        step = 1e-6

        def value(size, along=along):
            return _exact(network, fixed, warped + size * along, weight, stride)

        slope = (value(step) - value(-step)) / (2 * step)
        assert float((out.astype(np.float64) * along).sum()) == pytest.approx(slope, rel=2e-3)


def test_patches_that_show_nothing_and_voxels_of_weight_0_do_not_count(folders):
    folder, _ = folders[3]
    fixed, warped = _pair((24, 13, 11))
    fixed[:17] = 0.25  # patches centred on the first 9 voxels see nothing else
    metric, out = DeepMetric(model=str(folder)), np.empty_like(warped)
    value = metric.prepare(fixed, None).value_and_gradient(warped, None, out)
    weight = np.ones_like(fixed)
    weight[:9] = 0
    assert metric.prepare(fixed, None).value_and_gradient(warped, weight, out) == pytest.approx(
        value, abs=1e-6
    )
    assert metric.prepare(fixed, None).value_and_gradient(warped, weight * 0, out) == np.inf
    assert not out.any()
    flat = np.full_like(fixed, 0.5)
    assert metric.prepare(flat, None).value_and_gradient(warped, weight, out) == 0
    assert not out.any()


def test_fixed_second_exchanges_the_contrasts(folders):
    folder, network = folders[3]
    fixed, warped = _pair((9, 11, 10))
    out, ones = np.empty_like(fixed), np.ones_like(fixed)
    metric = DeepMetric(model=str(folder), fixed="second")
    assert exchanged(Sum(terms=((1.0, metric), (2.0, MI())))).terms[0][1] == DeepMetric(model=str(folder))
    value = metric.prepare(fixed, None).value_and_gradient(warped, None, out)
    assert value == pytest.approx(_by_patches(network, warped, fixed, ones, 2), abs=1e-5)
    assert value != pytest.approx(_by_patches(network, fixed, warped, ones, 2), abs=1e-4)


@pytest.mark.parametrize(("shape", "stride"), [((11, 14, 9), 2), ((21, 1, 26), 1)])
def test_features_of_whole_images_are_those_of_patches_and_their_gradient_is_exact(
    shape, stride, tmp_path, monkeypatch
):
    network = untrained(tmp_path, 2 if 1 in shape else 3, architecture="features")
    fixed, warped = _pair(shape, seed=7)
    rng = np.random.default_rng(4)
    weight = rng.uniform(0, 1, shape).astype(np.float32)
    out = np.empty(shape, np.float32)
    prepared = DeepMetric(model=str(tmp_path), stride=stride).prepare(fixed, None)
    value = prepared.value_and_gradient(warped, weight, out)
    assert value == pytest.approx(_by_patches(network, fixed, warped, weight, stride), abs=1e-4)
    along, step = np.sign(out) * rng.uniform(0.5, 1, shape), 1e-6
    ahead, behind = (_exact(network, fixed, warped + size * along, weight, stride) for size in (step, -step))
    slope = float((out.astype(np.float64) * along).sum())
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)
    other = DeepMetric(model=str(tmp_path), stride=stride, fixed="second").prepare(fixed, None)
    swapped = other.value_and_gradient(warped, weight, out)
    assert swapped == pytest.approx(_by_patches(network, warped, fixed, weight, stride), abs=1e-4)


def test_features_of_the_fixed_image_are_kept_and_follow_it(tmp_path, monkeypatch):
    untrained(tmp_path, 3, architecture="features")
    monkeypatch.setattr(_deep_dense, "_SLAB_VOXELS", 1)  # a row of patches at a time
    (fixed, warped), (third, moved) = _pair((14, 11, 9)), _pair((14, 11, 9), seed=3)
    metric, out = DeepMetric(model=str(tmp_path)), np.empty_like(fixed)
    weight = np.ones_like(fixed)
    weight[:5] = weight[:, :3] = 0  # other slabs, and other parts of them

    def anew(image, moving, weights):
        return metric.prepare(image, None).value_and_gradient(moving, weights, out)

    prepared = metric.prepare(fixed, None)
    for moving, weights in ((warped, None), (moved, None), (warped, weight), (moved, None)):
        found = prepared.value_and_gradient(moving, weights, out)
        assert found == pytest.approx(anew(fixed, moving, weights), abs=1e-6)
    prepared.rebind(third, None)
    assert prepared.value_and_gradient(warped, None, out) == pytest.approx(
        anew(third, warped, None), abs=1e-6
    )


def test_all_patches_at_once_are_much_quicker(folders, tmp_path):
    network = untrained(tmp_path / "wide", 3, (16, 32, 32, 64))
    fixed, warped = _pair((40, 36, 44))
    metric = DeepMetric(model=str(tmp_path / "wide"), device="cpu").prepare(fixed, None)
    images = torch.from_numpy(np.stack([np.pad(one, 8, mode="edge") for one in (fixed, warped)]))[None]
    patch = images[..., :17, :17, :17].contiguous()
    with torch.no_grad():
        network(images), network(patch)
        dense = min(_seconds(lambda: network(images)) for _ in range(3))
        single = min(_seconds(lambda: [network(patch) for _ in range(20)]) / 20 for _ in range(3))
    assert metric is not None
    patches = 20 * 18 * 22
    assert single * patches > 20 * dense  # 50 and more on a quiet machine: benchmarks/deep_metric.py


def _seconds(work):
    began = time.process_time()
    work()
    return time.process_time() - began


def test_plans_name_it_alone_or_in_a_sum(folders):
    name = str(folders[3][0])
    stage = {"model": "rigid", "similarity": {"deep": name}}
    plan = plan_from_dict({"stages": [stage]})
    assert plan.stages[0].similarity == DeepMetric(model=name)
    mixed = [{"weight": 2.0, "deep": {"model": name, "stride": 1}}, {"weight": 0.5, "nmi": {}}]
    plan = plan_from_dict({"stages": [{"model": "diffeomorphic", "similarity": mixed}]})
    assert plan.stages[0].similarity.terms[0] == (2.0, DeepMetric(model=name, stride=1))
    assert "deep" in plan_to_toml(plan)
    assert metric_from_text(f"{{deep = '{name}'}}") == DeepMetric(model=name)


def test_a_plan_with_it_survives_its_file(folders, tmp_path):
    plan = plan_from_dict({"stages": [{"model": "syn", "similarity": {"deep": str(folders[2][0])}}]})
    (tmp_path / "plan.toml").write_text(plan_to_toml(plan), encoding="utf-8")
    assert load_plan(tmp_path / "plan.toml").stages == plan.stages


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": ""}, "folder"),
        ({"model": "x", "stride": 3}, "stride"),
        ({"model": "x", "fixed": "t1"}, "fixed"),
    ],
)
def test_bad_settings_are_refused(settings, word):
    with pytest.raises(PlanError, match=word):
        DeepMetric(**settings)


def test_a_model_that_is_not_there_or_of_other_dimensions_is_refused_before_anything_runs(folders):
    with pytest.raises(PlanError, match="no trained metric 'nowhere'"):
        check_metric(DeepMetric(model="nowhere"), 3)
    for trained, given in ((3, 2), (2, 3)):
        sides = (20, 21, 22)[:given]
        image = Image(np.random.default_rng(0).random(sides, np.float32), Grid(sides, np.eye(given + 1)))
        stages = (
            LinearStage(model="rigid"),
            LinearStage(model="affine", similarity=DeepMetric(model=str(folders[trained][0]))),
        )
        told = rf"stages\.1 \(affine\).*trained on {trained}-D images and these are {given}-D"
        with pytest.raises(PlanError, match=told):
            register(image, image, Plan(stages=stages))


def test_without_torch_the_message_says_what_to_install(folders, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(_deep_model, "import_module", absent)
    with pytest.raises(PlanError, match=r"torch is not installed: pip install 'regista\[learn\]'"):
        _deep_model.patch_network()


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    for text, word in [
        ("{", "cannot read"),
        ('{"kind": "voxelmorph"}', "no trained metric"),
        (json.dumps({"kind": "deep-metric", "network": {"ndim": 2, "channels": [4, 4, 4, 4]}}), "weights"),
        (
            json.dumps(
                {"kind": "deep-metric", "network": {"architecture": "tree", "ndim": 2, "channels": [4] * 4}}
            ),
            "tree",
        ),
    ]:
        (tmp_path / "model.json").write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match=word):
            check_metric(DeepMetric(model=str(tmp_path)), 2)


def test_weights_of_another_network_are_refused(tmp_path):
    untrained(tmp_path, 2)
    told = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    for changed in ({"architecture": "features"}, {"channels": [4, 4, 4, 5]}):
        tree = {**told, "network": {**told["network"], **changed}}
        (tmp_path / "model.json").write_text(json.dumps(tree), encoding="utf-8")
        with pytest.raises(FormatError, match="do not fit"):
            check_metric(DeepMetric(model=str(tmp_path)), 2)
