"""`train deformation-prior`, and what a plan does with its model; `convert --velocity`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from regista.core import FormatError, GeometryError, Grid, Image, PlanError
from regista.io import read_transform, write, write_transform
from regista.registration import (
    DeformableStage,
    Plan,
    Start,
    learn_deformation_prior,
    list_fields,
    register,
)
from regista.regularization import DeformationPrior, load_deformation_model
from regista.similarity import SSD
from regista.transforms import Affine, BSplineField, Composite, DisplacementField, Translation, VelocityField

SHAPES = {3: ((13, 16, 9), (1.0, 0.8, 2.1)), 2: ((26, 22), (0.9, 1.2))}


def lattice(ndim: int) -> Grid:
    shape, spacing = SHAPES[ndim]
    return Grid(shape, np.diag([*spacing, 1.0]))


def fields_of(ndim: int, count: int = 6, seed: int = 0) -> list[DisplacementField]:
    """Return fields that vary along two modes, and a little noise."""
    rng, grid = np.random.default_rng(seed), lattice(ndim)
    modes = ndimage.gaussian_filter(rng.normal(size=(2, ndim, *grid.shape)), (0, 0, *[3.0] * ndim))
    modes /= np.sqrt((modes**2).sum(axis=1).mean(axis=tuple(range(1, ndim + 1)))).reshape(
        2, *[1] * (ndim + 1)
    )
    weights = rng.normal(size=(count, 2)) * [2.0, 0.8]
    noise = 0.03 * rng.normal(size=(count, ndim, *grid.shape))
    return [DisplacementField(one, grid) for one in np.tensordot(weights, modes, axes=1) + noise + 0.5]


def written(folder, ndim: int):
    """Write fields in several formats, one of them with a linear map after it; return the names."""
    names = []
    for number, field in enumerate(fields_of(ndim)):
        name = f"field{number}.h5" if number % 2 or ndim == 2 else f"field{number}.nii.gz"
        linear = Translation.by([5.0] * ndim)
        write_transform(folder / name, Composite((field, linear)) if number == 3 else field)
        names.append(name)
    return names


@pytest.mark.parametrize("ndim", [3, 2])
def test_a_prior_is_learned_from_files(call, tmp_path, ndim):
    names = written(tmp_path, ndim)
    table, model = tmp_path / "fields.csv", tmp_path / "prior.npz"
    table.write_text("subject,field\n" + "".join(f"s,{name}\n" for name in names), encoding="utf-8")
    done = call("train", "deformation-prior", table, "-o", model, "--rank", 2, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["fields"], told["modes"], told["output"]) == (6, 2, str(model))
    expected = DeformationPrior.learn(
        [field.vectors_mm for field in fields_of(ndim)], lattice(ndim), rank=2
    ).model
    found = load_deformation_model(model)
    np.testing.assert_allclose(found.mean_mm, expected.mean_mm, atol=1e-5)
    np.testing.assert_allclose(found.variances_mm2, expected.variances_mm2, rtol=1e-4)
    assert told["modes_mm"][0] == pytest.approx(expected.variances_mm2[0] ** 0.5, rel=1e-3)
    twin = learn_deformation_prior(table, rank=2).model
    np.testing.assert_array_equal(twin.modes, found.modes)
    (tmp_path / "prior.npz").unlink()
    done = call("train", "deformation-prior", tmp_path, "-o", model)  # the folder; two modes hold nearly all
    assert done.exit_code == 0, done.output
    assert " from 6 fields" in done.stdout
    assert len(load_deformation_model(model).modes) == (1 if "1 mode " in done.stdout else 2)


def test_what_is_expected_of_a_plane_keeps_a_registration_near_it(tmp_path):
    grid = lattice(2)
    prior = learn_deformation_prior(fields_of(2), rank=2)
    rng = np.random.default_rng(1)
    fixed, moving = (
        Image(ndimage.gaussian_filter(rng.normal(size=grid.shape), 2).astype(np.float32), grid)
        for _ in range(2)
    )
    results = {}
    for weight in (0.0, 3.0):
        penalty = DeformationPrior(weight=weight, model=prior.model)
        stage = DeformableStage(similarity=SSD(), shrink=(1,), steps=(30,), penalties=(penalty,))
        result = register(fixed, moving, Plan(stages=(stage,), start=Start(search="none")))
        field = result.transform.flatten().transforms[0]
        vectors = np.einsum("ab,bij->aij", grid.world2grid[:2, :2], field.vectors_mm).astype(np.float32)
        vectors = np.ascontiguousarray(np.concatenate([vectors, 0 * vectors[:1]])[..., None])
        unit = DeformationPrior(model=prior.model).prepare(grid)
        results[weight] = unit.value_and_gradient(vectors, np.zeros_like(vectors))
    assert results[3.0] < 0.5 * results[0.0]


def test_grids_are_one_or_brought_onto_one(call, tmp_path):
    fields = fields_of(3)
    other = Grid((13, 16, 10), lattice(3).grid2world)
    vectors = np.concatenate([fields[1].vectors_mm, fields[1].vectors_mm[..., -1:]], axis=-1)
    mixed = [
        fields[0],
        DisplacementField(vectors, other),
        VelocityField(fields[2].vectors_mm / 9, lattice(3)),
    ]
    for number, field in enumerate(mixed):
        write_transform(tmp_path / f"{number}.h5", field)
    write(tmp_path / "template.nii.gz", Image(np.zeros(lattice(3).shape, np.float32), lattice(3)))
    table = tmp_path / "fields.csv"
    table.write_text("field\n0.h5\n1.h5\n2.h5\n", encoding="utf-8")
    words = ["train", "deformation-prior", table, "-o", tmp_path / "prior.npz", "--rank", 1]
    done = call(*words)
    assert done.exit_code == 2
    assert "1.h5 lies on another grid (13×16×10 voxels" in done.stderr
    assert "--like TEMPLATE" in done.stderr
    assert not (tmp_path / "prior.npz").exists()
    done = call(*words, "--like", tmp_path / "template.nii.gz")
    assert done.exit_code == 0, done.output
    model = load_deformation_model(tmp_path / "prior.npz")
    expected = [fields[0].vectors_mm, fields[1].vectors_mm, mixed[2].displacement().vectors_mm]
    np.testing.assert_allclose(model.mean_mm, np.mean(expected, axis=0), atol=1e-4)


def test_what_cannot_be_learned_from_is_refused(call, tmp_path):
    fields, grid = fields_of(3), lattice(3)
    with pytest.raises(PlanError, match="2 fields or more, got 1"):
        learn_deformation_prior(fields[:1])
    with pytest.raises(PlanError, match="rank is a whole number from 1 to one less"):
        learn_deformation_prior(fields[:2], rank=2)
    with pytest.raises(GeometryError, match="field 1 is Translation"):
        learn_deformation_prior([fields[0], Translation.by([1.0, 0, 0])])
    with pytest.raises(GeometryError, match="field 0 is Affine, DisplacementField"):
        learn_deformation_prior([Composite((Affine(np.eye(4)), fields[0])), fields[1]])
    spline = BSplineField(np.zeros((3, 5, 5, 5)), Grid((5, 5, 5), np.diag([9.0, 9.0, 9.0, 1.0])))
    with pytest.raises(GeometryError, match=r"field 0 is a BSplineField, which has no voxels.*grid="):
        learn_deformation_prior([spline, fields[0]])
    with pytest.raises(GeometryError, match=r"field 0 is 3-D, the grid to bring it onto 2-D"):
        learn_deformation_prior(fields, grid=lattice(2))
    assert len(learn_deformation_prior([*fields[:2], spline], grid=grid, rank=1).model.modes) == 1
    for text, message in (
        ("image\na.h5\n", "has image; expected one row"),
        ("field\n", "has no rows"),
        ("field\n\n", "has no rows"),
        ("field\nnone.h5\n", r"line 2: .*none\.h5 does not exist"),
        ("field,x\n,1\n", "line 2: the column field is empty"),
    ):
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match=message):
            list_fields(tmp_path / "bad.csv")
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("empty", "holds no fields"),
        ("missing", "does not exist"),
        ("bad.txt", "neither"),
    ):
        (tmp_path / "bad.txt").write_text("field\n", encoding="utf-8")
        with pytest.raises(FormatError, match=message):
            list_fields(tmp_path / source)
    broken = fields[0].vectors_mm.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(GeometryError, match="NaN"):
        DeformationPrior.learn([broken, fields[1].vectors_mm], grid)
    (tmp_path / "noise.h5").write_bytes(b"nothing")
    (tmp_path / "one.csv").write_text("field\nnoise.h5\nnoise.h5\n", encoding="utf-8")
    done = call("train", "deformation-prior", tmp_path / "one.csv", "-o", tmp_path / "prior.npz")
    assert done.exit_code == 2
    assert "noise.h5" in done.stderr
    done = call("train", "deformation-prior", tmp_path / "one.csv", "-o", tmp_path / "prior.txt")
    assert done.exit_code == 2
    assert ".npz" in done.stderr


def test_modes_are_as_many_as_hold_nine_tenths_of_the_variance():
    model = learn_deformation_prior(fields_of(3, count=12)).model
    fields = np.stack([field.vectors_mm for field in fields_of(3, count=12)])
    whole = ((fields - fields.mean(axis=0)) ** 2).sum() / lattice(3).size / 11
    shares = np.cumsum(model.variances_mm2) / whole
    assert shares[-1] >= 0.9 - 1e-6
    assert len(shares) == 1 or shares[-2] < 0.9


def test_the_velocity_of_a_flow_is_converted(call, tmp_path):
    field = fields_of(3)[0]
    flow = VelocityField(field.vectors_mm, field.grid, 6, "a", "b")
    write_transform(tmp_path / "map.h5", Composite((flow, Translation.by([1.0, 2.0, 3.0], "b", "c"))))
    done = call("convert", tmp_path / "map.h5", tmp_path / "velocity.nii.gz", "--velocity", "--json")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(
        read_transform(tmp_path / "velocity.nii.gz").vectors_mm, field.vectors_mm, atol=1e-6
    )
    done = call("convert", tmp_path / "map.h5", tmp_path / "again.h5")
    assert "(VelocityField, Translation)" in done.stdout
    assert isinstance(read_transform(tmp_path / "again.h5").flatten().transforms[0], VelocityField)
    done = call("info", tmp_path / "map.h5")
    assert "velocity (mm)" in done.stdout
    assert "6 squarings" in done.stdout
    write_transform(tmp_path / "plain.h5", field)
    done = call("convert", tmp_path / "plain.h5", tmp_path / "no.nii.gz", "--velocity")
    assert done.exit_code == 2
    assert "no velocity fields" in done.stderr
