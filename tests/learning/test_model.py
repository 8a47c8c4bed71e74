"""Trained models: loading, predicting in world space, verifying; and a real heart, brain and mouse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

import regista.learning._passes as passes_module
from regista.core import FormatError, GeometryError, Grid, Image, PlanError
from regista.learning import (
    InputConfig,
    ModelConfig,
    NetworkConfig,
    RegistrationModel,
    list_models,
    load_model,
    verify_model,
)
from regista.learning._checkpoint import SETTINGS, WEIGHTS, save_weights, write_settings
from regista.learning._model import on_native_grid
from regista.learning._prepare import model_grid, seen_by_network
from regista.registration import DeformableStage, Plan, Start, finish, register
from regista.transforms import Affine, Composite, DisplacementField, Translation, resample


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder with a small untrained model that moves things."""
    torch.manual_seed(0)
    config = ModelConfig(
        network=NetworkConfig(name="voxelmorph-1", diffeomorphic=True, half_resolution=True),
        inputs=InputConfig(spacing_mm=(1.5, 1.5, 1.5), shape=(16, 16, 16)),
    )
    network = config.network.build()
    with torch.no_grad():
        pair = torch.rand(2, 1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
        network.flow.weight *= 0.7 / network(*pair).field.abs().max()
    place = tmp_path / "little"
    place.mkdir()
    digest = save_weights(place / WEIGHTS, network.state_dict())
    write_settings(place, config, digest, {"data": "none"})
    return place


def scan(make_grid, rng, shift=0.0):
    grid = make_grid((18, 23, 9))
    data = np.zeros(grid.shape, np.float32)
    data[3:15, 4:19, 1:8] = 0.5 + 0.5 * rng.random((12, 15, 7))
    return Image(data, grid, space=f"scan{shift}")


def test_a_prediction_is_a_world_space_map_on_the_native_grid(folder, make_grid, rng):
    fixed, moving = scan(make_grid, rng), scan(make_grid, rng, 1.0)
    model = load_model(folder)
    start = Translation.by([1.0, -2.0, 0.5], fixed.space, moving.space)
    found = model.predict(fixed, moving, initial=start)
    assert isinstance(found, Composite)
    field, linear = found.transforms
    assert isinstance(field, DisplacementField)
    assert field.grid == fixed.grid
    assert (found.fixed_space, found.moving_space) == (fixed.space, moving.space)
    np.testing.assert_allclose(linear.matrix, start.matrix)
    assert np.abs(field.vectors_mm).max() > 0.05


def test_a_prediction_does_not_depend_on_how_a_scan_is_stored(folder, make_grid, rng):
    fixed, moving = scan(make_grid, rng), scan(make_grid, rng, 1.0)
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = fixed.grid.shape[1] - 1
    order = np.eye(4)[:, [2, 0, 1, 3]]
    turned = Image(
        np.ascontiguousarray(fixed.data[:, ::-1].transpose(2, 0, 1)),
        Grid((9, 18, 23), fixed.grid.grid2world @ flip @ order),
        space=fixed.space,
    )
    np.testing.assert_allclose(turned.grid.center_mm, fixed.grid.center_mm)
    model = load_model(folder)
    points = fixed.grid.index2world(rng.uniform([4, 5, 2], [13, 17, 6], (50, 3)))
    a, b = (model.predict(one, moving).map_points(points) for one in (fixed, turned))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_fields_go_to_other_grids_in_mm(make_grid, rng):
    lattice, native = make_grid((12, 10, 14), (2.0, 2.0, 2.0)), make_grid((20, 22, 9))
    native = Grid(native.shape, np.column_stack([native.grid2world[:, :3], [*lattice.center_mm, 1.0]]))
    matrix = rng.normal(0, 0.05, (3, 3))
    index = np.indices(lattice.shape).reshape(3, -1)
    vectors = (matrix @ index).reshape(3, *lattice.shape).astype(np.float32)
    found = on_native_grid(vectors, lattice, native)
    places = lattice.world2index(native.coordinates_mm().reshape(3, -1).T)
    inside = ((places >= 0) & (places <= np.array(lattice.shape) - 1)).all(axis=1)
    assert inside.sum() > 100
    expected = (places @ matrix.T) @ lattice.grid2world[:3, :3].T
    np.testing.assert_allclose(found.reshape(3, -1).T[inside], expected[inside], atol=2e-4)


def test_damage_is_found(folder):
    assert len(verify_model(folder)) == 64
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FormatError, match="is not the file"):
        verify_model(folder)
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="damaged"):
        load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(FormatError, match="does not exist"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "version 99"),
        ({"network": {"name": "voxelmorph-2"}}, "does not fit"),
        ({"network": {"name": "voxelmorph-1", "colour": "red"}}, "not complete or not known"),
        ({"training": None}, "not complete or not known"),
    ],
)
def test_settings_that_do_not_fit(folder, change, message):
    tree = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    (folder / SETTINGS).write_text(json.dumps({**tree, **change}), encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        load_model(folder)


def test_settings_that_are_no_json(folder):
    (folder / SETTINGS).write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match="damaged"):
        load_model(folder)


def test_models_are_known_by_name(folder, monkeypatch):
    with pytest.raises(FormatError, match="no model 'little'"):
        load_model("little")
    monkeypatch.setenv("REGISTA_MODELS", str(folder.parent))
    assert list_models()["little"]["network"]["name"] == "voxelmorph-1"
    assert load_model("little").name == "little"


def test_wrong_images_are_refused(folder, make_grid, rng, grid_2d):
    model = load_model(folder)
    image = scan(make_grid, rng)
    flat = Image(rng.random(grid_2d.shape), grid_2d)
    with pytest.raises(GeometryError, match="is for 3-D images, the fixed image is 2-D"):
        model.predict(flat, flat)
    bad = image.data.copy()
    bad[5, 5, 5] = np.nan
    with pytest.raises(FormatError, match="the moving image has 1 NaN"):
        model.predict(image, image.with_data(bad))
    with pytest.raises(FormatError, match="3 channels"):
        model.predict(Image(np.stack([image.data] * 3), image.grid, "channels"), image)
    with pytest.raises(PlanError, match="starts from a linear map"):
        model.predict(image, image, DisplacementField(np.zeros((3, *image.grid.shape)), image.grid))


def test_finish_gives_what_register_would(folder, make_grid, rng):
    fixed, moving = scan(make_grid, rng), scan(make_grid, rng, 1.0)
    predicted = load_model(folder).predict(fixed, moving)
    result = finish(fixed, moving, predicted, measures={"model": {"name": "little"}})
    np.testing.assert_array_equal(
        result.warped.data, resample(moving, fixed.grid, predicted, dtype=np.float32).data
    )
    assert result.record.measures["model"] == {"name": "little"}
    assert result.record.measures["inverse_residual_vox"] < 0.1
    points = fixed.grid.index2world(rng.uniform([4, 5, 2], [13, 17, 6], (30, 3)))
    back = result.inverse.map_points(result.transform.map_points(points))
    np.testing.assert_allclose(back, points, atol=0.15)
    wrong = Composite((Affine.identity(3, fixed.space, fixed.space), predicted.transforms[0]))
    with pytest.raises(GeometryError, match="followed by linear maps"):
        finish(fixed, moving, wrong)


def test_a_folding_prediction_fails_its_checks(make_grid, rng):
    image = scan(make_grid, rng)
    wild = rng.normal(0, 6, (3, *image.grid.shape)).astype(np.float32)
    result = finish(image, image, DisplacementField(wild, image.grid))
    assert not result.record.status.ok
    assert result.record.measures["folded_percent"] > 1


@pytest.mark.data
def test_a_mouse_brain_is_learned_and_refined(data_dir, tmp_path):
    """Training on two mice, with the engine's rigid stage before, aligns them better than rigid alone.

    Two mice are too few to learn of others: those are only refined from the network's field.
    """
    from regista.core import LabelImage
    from regista.evaluation import label_measures
    from regista.io import read, read_labels
    from regista.learning import (
        Augmentation,
        Dataset,
        Loss,
        Provenance,
        ScanFile,
        TrainingConfig,
        fit,
        prepare_parts,
    )
    from regista.regularization import Diffusion
    from regista.similarity import LNCC

    mice = data_dir / "mouse_brain"
    dataset = Dataset(
        scans=tuple(
            ScanFile(image=mice / f"{n}_mri.nii.gz", labels=mice / f"{n}_labels.nii.gz", subject=str(n))
            for n in range(1, 5)
        )
    )

    def align(fixed: Image, moving: Image):
        return register(fixed, moving, "rigid").transform

    config = ModelConfig(
        network=NetworkConfig(name="voxelmorph-1"),
        inputs=InputConfig(spacing_mm=(0.45,) * 3),
        loss=Loss(similarity=LNCC(radius=2), penalties=(Diffusion(weight=0.3),)),
        training=TrainingConfig(
            steps=200, learning_rate=2e-3, validate_every=200, augmentation=Augmentation()
        ),
    )
    subjects = {"train": ["1", "2"], "validation": [], "test": []}
    parts = prepare_parts(dataset, subjects, config, align)
    origin = Provenance(data="four mice", subjects=subjects)
    fit(parts, tmp_path / "mice", origin)
    model = load_model(tmp_path / "mice")
    assert isinstance(model, RegistrationModel)
    images = {n: read(mice / f"{n}_mri.nii.gz") for n in range(1, 5)}
    labels = {n: read_labels(mice / f"{n}_labels.nii.gz") for n in range(1, 5)}

    def dice(one, other, transform):
        warped = resample(labels[other], images[one].grid, transform, interpolation="nearest")
        scores = label_measures(labels[one], LabelImage(warped.data, images[one].grid), surface=None)
        return scores.mean()["dice"]

    gains = []
    for one, other in ((1, 2), (2, 1)):
        rigid = align(images[one], images[other])
        predicted = model.predict(images[one], images[other], initial=rigid)
        gains.append(dice(one, other, predicted) - dice(one, other, rigid))
    assert np.mean(gains) > 0.015
    rigid = align(images[3], images[4])
    predicted = model.predict(images[3], images[4], initial=rigid)
    stage = DeformableStage(similarity=LNCC(radius=2), shrink=(2,), steps=(20,))
    plan = Plan(stages=(stage,), start=Start(search="none"))
    refined = register(images[3], images[4], plan, initial=predicted).transform
    assert dice(3, 4, refined) > max(dice(3, 4, rigid), dice(3, 4, predicted))


def test_images_of_another_size_are_told(folder, rng):
    model = load_model(folder)
    margin, steps = model.config.inputs.margin_vox, np.diag([1.5, 1.5, 1.5, 1.0])
    side = (
        16 - 2 * margin
    )  # the most that images of the training showed: sides are rounded up to multiples of 16
    for count in (side, 2 * side, 2):
        alike = Image(rng.random((count,) * 3, np.float32) + np.arange(count), Grid((count,) * 3, steps))
        assert model.warnings(alike, alike) == []
    large = Image(rng.random((40, 8, 8), np.float32), Grid((40, 8, 8), steps))
    (told,) = model.warnings(alike, large)
    assert told.startswith(
        "little sees 40 × 8 × 8 voxels of what the moving image shows, and was trained on some 8 × 8 × 8:"
    )


def test_a_mouse_is_no_brain_of_the_size_it_knows(rng):
    small = Image(rng.random((60, 60, 60), np.float32), Grid((60, 60, 60), np.diag([0.15, 0.15, 0.15, 1.0])))
    assert len(load_model("any-contrast", "cpu").warnings(small, small)) == 2


def test_passes_are_the_models_own_unless_told_otherwise(folder, make_grid, rng):
    """An untrained network makes nothing more alike: in several passes the start is kept, in one its answer is."""
    fixed, moving = scan(make_grid, rng), scan(make_grid, rng, 1.0)
    start = Translation.by([1.0, -2.0, 0.5], fixed.space, moving.space)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    assert load_model(folder).passes == 1
    (folder / SETTINGS).write_text(json.dumps(settings | {"passes": 3}), encoding="utf-8")
    model = load_model(folder)
    (kept,) = model.predict(fixed, moving, initial=start).transforms
    np.testing.assert_allclose(kept.matrix, start.matrix)
    assert len(model.predict(fixed, moving, initial=start, passes=1).transforms) == 2
    record = model.answer(fixed, moving, initial=start).record
    assert (record["passes"], record["passes_followed"]) == (3, 0)
    assert record["likeness_before"] == record["likeness_after"]
    assert model.predict(fixed, moving, passes=np.int64(1)).transforms
    for passes in (0, 11, 1.5, True):
        with pytest.raises(PlanError, match="a whole number from 1 to 10"):
            model.predict(fixed, moving, passes=passes)


@pytest.mark.parametrize("bend_first", [False, True])
def test_a_first_answer_that_is_linear_is_followed_unless_it_is_only_to_bend(
    folder, rng, monkeypatch, bend_first
):
    """The network says that the head is a shift away, all of which is linear."""
    texture = ndimage.gaussian_filter(rng.standard_normal((40, 36, 32)), 1.5)
    grid = Grid((40, 36, 32), np.diag([1.5, 1.5, 1.5, 1.0]))
    fixed = Image((texture - texture.min()).astype(np.float32), grid)
    moving = resample(fixed, grid, Translation.by([-3.0, 0.0, 0.0]))
    model = load_model(folder)

    def estimate(self, one, other):
        sides = model._trained.estimate(one, other).shape
        away = np.zeros(sides, np.float32)
        away[0] = 1.0 if np.abs(one - first).max() < 1e-6 else -1.0  # of its half-resolution lattice
        return away

    lattice = model_grid(fixed, model.config.inputs, multiple=model.config.network.sizes.factor)
    first = seen_by_network(fixed, lattice, model.config.inputs)
    monkeypatch.setattr(RegistrationModel, "_estimate", estimate)
    record = model.answer(fixed, moving, initial=Affine.identity(3), passes=2, bend_first=bend_first).record
    assert (record["passes_followed"] > 0) == (not bend_first)


@pytest.mark.parametrize("passes", ["three", None, [3], 2.5, True, 0, 11])
def test_settings_with_passes_that_make_no_sense_are_refused(folder, passes):
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    (folder / SETTINGS).write_text(json.dumps(settings | {"passes": passes}), encoding="utf-8")
    with pytest.raises(FormatError, match=r"model\.json: passes .* from 1 to 10"):
        load_model(folder)


def moved_by(field, image):
    places = np.indices(image.shape) + field
    return ndimage.map_coordinates(image.astype(float), places, order=1, mode="nearest").astype(np.float32)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_two_passes_are_what_the_network_says_twice(monkeypatch, rng, ndim, diffeomorphic):
    """Composed by SciPy; every answer is followed to its end. Voxels are anisotropic, sides no multiples of 16."""
    for name in ("GAIN_PER_MM", "GAIN_IN_ALL"):
        monkeypatch.setattr(passes_module, name, -np.inf)
    spacing, shape = (1.0, 0.7, 2.3)[:ndim], (37, 29, 18)[:ndim]
    config = ModelConfig(
        network=NetworkConfig(ndim=ndim, diffeomorphic=diffeomorphic, half_resolution=True),
        inputs=InputConfig(spacing_mm=spacing, shape=shape, margin_vox=0),
    )
    torch.manual_seed(0)
    network = config.network.build()
    torch.nn.init.normal_(network.flow.weight, std=0.2)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    model = RegistrationModel("random", Path(), config, weights, {}, "")
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    fixed, moving = (Image(0.1 + rng.random(shape, np.float32), grid) for _ in range(2))
    lattice = model_grid(fixed, config.inputs, multiple=16)
    here, there = (seen_by_network(one, lattice, config.inputs) for one in (fixed, moving))
    trained, expected = model._trained, np.zeros((ndim, *lattice.shape))
    for _ in range(2):
        image = moved_by(expected, there)
        said = trained.displacement(
            0.5 * (trained.estimate(here, image) - trained.estimate(image, here)), here.shape
        )
        expected = said + np.stack([moved_by(said, one) for one in expected])
    found = model.predict(fixed, moving, passes=2).transforms[0]
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(
        found.vectors_mm, on_native_grid(expected.astype(np.float32), lattice, grid), atol=2e-3
    )


def test_an_estimate_and_its_displacement_are_the_answer(folder, rng):
    network = load_model(folder)._trained
    pair = rng.random((2, 19, 16, 21)).astype(np.float32)
    estimate = network.estimate(*pair)
    np.testing.assert_array_equal(
        network.displacement(estimate, pair.shape[1:]), network.displacement_vox(*pair)
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_pytorch_estimates_the_same_as_the_kernels(rng, ndim):
    """The way of graphics cards, here on the CPU."""
    config = ModelConfig(
        network=NetworkConfig(ndim=ndim, diffeomorphic=True, half_resolution=True),
        inputs=InputConfig(spacing_mm=(1.0,) * ndim),
    )
    torch.manual_seed(0)
    network = config.network.build()
    torch.nn.init.normal_(network.flow.weight, std=0.2)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    here, card = (
        RegistrationModel("random", Path(), config, weights, {}, "", where) for where in ("cpu", "card")
    )
    card.__dict__["network"] = here.network
    object.__setattr__(card, "device", torch.device("cpu"))
    pair = rng.random((2, *(19, 16, 21)[:ndim])).astype(np.float32)
    np.testing.assert_allclose(card._estimate(*pair), here._estimate(*pair), atol=2e-5)
    np.testing.assert_allclose(card.displacement_vox(*pair), here.displacement_vox(*pair), atol=2e-5)
