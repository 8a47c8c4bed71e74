"""Learn2Reg's measures, spelled out, against ours; its names and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import correlate1d, gaussian_filter, map_coordinates

from regista.core import FormatError, GeometryError, Grid, Image, LabelImage
from regista.evaluation import (
    find_field,
    learn2reg_labels,
    learn2reg_sdlogj,
    learn2reg_tre,
    read_learn2reg,
)
from regista.io import write, write_transform
from regista.transforms import DisplacementField

SHAPE = (18, 15, 13)


@pytest.fixture
def field(rng):
    return np.stack([gaussian_filter(rng.normal(size=SHAPE), 2) * 8 for _ in range(3)], -1)


def test_sdlogj_by_the_published_formula(field, rng):
    gradient = np.stack(
        [correlate1d(field, [-0.5, 0, 0.5], axis=axis, mode="constant") for axis in range(3)], -1
    )
    logs = np.log(np.linalg.det(gradient + np.eye(3))[2:-2, 2:-2, 2:-2] + 3)
    assert learn2reg_sdlogj(field) == pytest.approx(logs.std(), rel=1e-5)
    mask = rng.random(SHAPE) < 0.5
    assert learn2reg_sdlogj(field, mask) == pytest.approx(logs[mask[2:-2, 2:-2, 2:-2]].std(), rel=1e-5)
    with pytest.raises(GeometryError, match="mask is empty"):
        learn2reg_sdlogj(field, np.zeros(SHAPE))
    with pytest.raises(GeometryError, match="too small"):
        learn2reg_sdlogj(field[:4])


def test_dice_and_missing_labels(field, rng):
    fixed = (gaussian_filter(rng.normal(size=SHAPE), 2) > 0).astype(int)
    moving = np.roll(fixed, 2, 0)
    fixed[:2, :2, :2], moving[-2:, -2:, -2:] = 2, 3
    found = learn2reg_labels(fixed, moving, field, [1, 2, 3])
    places = np.indices(SHAPE) + np.moveaxis(field, -1, 0)
    warped = map_coordinates(moving.astype(float), places, order=0) == 1
    one = fixed == 1
    assert found["dice"][1] == pytest.approx(2 * (one & warped).sum() / (one.sum() + warped.sum()))
    assert np.isnan([found["dice"][2], found["dice"][3], found["hd95"][3]]).all()
    far = learn2reg_labels(fixed, moving, field + 100, [1])
    assert (far["dice"][1], far["hd95"][1]) == (0, np.inf)


def test_hd95_against_surface_distance(field, rng):
    theirs = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
    maps = [np.stack([gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(3)]).argmax(0) for _ in "ab"]
    found = learn2reg_labels(*maps, 0 * field)
    for label in (1, 2):
        distances = theirs.compute_surface_distances(maps[0] == label, maps[1] == label, np.ones(3))
        assert found["hd95"][label] == pytest.approx(theirs.compute_robust_hausdorff(distances, 95), abs=1e-9)


def test_tre_of_a_constant_field(rng):
    points = rng.uniform(4, 9, (7, 3))
    field = np.broadcast_to([1.0, -2, 0.5], (*SHAPE, 3))
    errors = learn2reg_tre(points, points + np.array([1.0, -2, 1.5]), field, (1.0, 1.0, 2.5))
    np.testing.assert_allclose(errors, 2.5)
    with pytest.raises(GeometryError, match="7 fixed points but 6"):
        learn2reg_tre(points, points[:6], field, (1, 1, 1))


@pytest.fixture
def task(tmp_path, rng):
    """Return the folder of a small task with labels, landmarks and two fields."""
    pairs = []
    for subject in (1, 2):
        for modality in (0, 1):
            stem = f"Toy_{subject:04d}_{modality:04d}"
            grid = Grid(SHAPE, np.diag([1.5, 1.0, 2.0, 1.0]))
            data = np.stack([gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(3)])
            for kind in ("imagesTr", "labelsTr", "landmarksTr"):
                (tmp_path / kind).mkdir(exist_ok=True)
            write(tmp_path / "imagesTr" / f"{stem}.nii.gz", Image(data[0].astype(np.float32), grid))
            labels = LabelImage(data.argmax(0).astype(np.uint8), grid)
            write(tmp_path / "labelsTr" / f"{stem}.nii.gz", labels)
            np.savetxt(tmp_path / "landmarksTr" / f"{stem}.csv", rng.uniform(3, 9, (6, 3)), delimiter=",")
        pairs.append(
            {
                "fixed": f"./imagesTr/Toy_{subject:04d}_0000.nii.gz",
                "moving": f"./imagesTr/Toy_{subject:04d}_0001.nii.gz",
            }
        )
    tree = {"name": "Toy", "tensorImageShape": {"0": list(SHAPE)}, "registration_val": pairs}
    (tmp_path / "Toy_dataset.json").write_text(json.dumps(tree), encoding="utf-8")
    (tmp_path / "fields").mkdir()
    for n, suffix in ((1, ".nii.gz"), (2, ".npz")):
        vectors = np.stack([gaussian_filter(rng.normal(size=SHAPE), 2) * 5 for _ in range(3)])
        path = tmp_path / "fields" / f"disp_{n:04d}_{n:04d}{suffix}"
        write_transform(path, DisplacementField(vectors, grid), format="learn2reg", fixed=grid, moving=grid)
    return tmp_path


def test_a_dataset_is_read(task):
    read = read_learn2reg(task / "Toy_dataset.json")
    assert [m.metric for m in read.measures] == ["sdlogj", "dice", "hd95", "tre"]
    assert read.pairs[0].name == "0001_0000<--0001_0001"
    assert find_field(task / "fields", read.pairs[1]).name == "disp_0002_0002.npz"
    assert not read.masked


def test_other_modalities_have_long_names_and_their_own_points(tmp_path):
    tree = {
        "name": "Toy",
        "registration_val": [
            {"fixed": "imagesTs/T_0007_0002.nii.gz", "moving": "imagesTs/T_0008_0000.nii.gz"}
        ],
    }
    path = tmp_path / "d.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    (pair,) = read_learn2reg(path).pairs
    assert pair.field_names == ("disp_0007_0002_0008_0000",)
    assert pair.points("keypoints").parts[-2:] == ("keypoints00000002Ts", "T_0007_0002.csv")
    with pytest.raises(FormatError, match="no displacement field of the pair 0007_0002<--0008_0000"):
        find_field(tmp_path, pair)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is no Learn2Reg dataset"),
        ("[]", "is no Learn2Reg dataset"),
        ('{"name": "x"}', "lists no pairs"),
        ('{"registration_val": [{"fixed": "a.nii.gz", "moving": "b.nii.gz"}]}', "not named as Learn2Reg"),
        ('{"eval_pairs": [], "evaluation_methods": [], "task_name": "x"}', "lists no pairs"),
    ],
)
def test_bad_datasets(tmp_path, text, match):
    path = tmp_path / "d.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=match):
        read_learn2reg(path)


def test_the_command_scores_both_kinds_of_field(task, call):
    done = call("evaluate", "learn2reg", task / "Toy_dataset.json", "--fields", task / "fields", "--json")
    assert done.exit_code == 0, done.output
    tree = json.loads(done.stdout)
    assert set(tree["aggregates"]) == {"LogJacDetStd", "DSC", "HD95", "TRE_lm"}
    assert len(tree["cases"]) == 2
    out = task / "scores.csv"
    done = call(
        "evaluate", "learn2reg", task / "Toy_dataset.json", "--fields", task / "fields", "-o", out, "-q"
    )
    assert done.exit_code == 0
    assert out.read_text(encoding="utf-8").splitlines()[0] == "task,case,LogJacDetStd,DSC,HD95,TRE_lm"
    (task / "fields" / "disp_0002_0002.npz").unlink()
    done = call("evaluate", "learn2reg", task / "Toy_dataset.json", "--fields", task / "fields")
    assert done.exit_code == 2
    assert "disp_0002_0002.nii.gz" in done.stderr
