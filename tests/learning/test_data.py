"""Lists of scans: what is read, how it is divided, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regista.core import FormatError, GeometryError, Grid, Image, PlanError
from regista.io import read, write
from regista.learning import (
    InputConfig,
    ModelConfig,
    NetworkConfig,
    prepare_parts,
    read_dataset,
    split_subjects,
)
from regista.learning._bids import without_images
from regista.learning._prepare import model_grid, prepare_scans, read_scan, seen_by_network
from regista.transforms import Affine, Translation

INPUTS = InputConfig(spacing_mm=(1.5, 1.5), shape=(32, 32))


def test_a_table_of_images_is_read(slices):
    found = read_dataset(slices / "scans.csv")
    assert found.subjects == [f"p{n}" for n in range(5)]
    assert found.pairs is None
    assert found.labelled


def test_a_folder_is_read_with_its_labels_and_subjects(slices):
    found = read_dataset(slices)
    assert [(s.image.name, s.subject, s.labels.name) for s in found.scans] == [
        (f"p{n}_t1.nii.gz", f"p{n}", f"p{n}_labels.nii.gz") for n in range(5)
    ]


def test_a_folder_may_be_named_by_a_way_up(slices):
    assert len(read_dataset(slices / ".." / slices.name).scans) == 5


def test_a_table_of_pairs_keeps_both_scans_with_one_subject(slices, table):
    rows = [
        {"fixed": "p0_t1.nii.gz", "moving": "p1_t1.nii.gz", "subject": "a", "split": "train"},
        {"fixed": "p2_t1.nii.gz", "moving": "p3_t1.nii.gz", "subject": "b", "split": "val"},
    ]
    found = read_dataset(table(slices / "pairs.csv", rows))
    assert found.pairs == ((0, 1), (2, 3))
    assert [scan.subject for scan in found.scans] == ["a", "a", "b", "b"]
    parts = split_subjects(found)
    assert parts == {"train": ["a"], "validation": ["b"], "test": []}
    assert found.of(["b"]).pairs == ((0, 1),)


def test_a_table_of_label_maps_alone_is_read(slices, table):
    rows = [{"labels": f"p{n}_labels.nii.gz", "subject": f"p{n}"} for n in range(3)]
    found = read_dataset(table(slices / "maps.csv", rows))
    assert found.maps_alone
    assert found.labelled
    assert [scan.image for scan in found.scans] == [scan.labels for scan in found.scans]
    assert not read_dataset(slices / "scans.csv").maps_alone


def test_subjects_are_never_divided(slices):
    found = read_dataset(slices / "scans.csv")
    parts = split_subjects(found, validation=1, test=0.2, seed=3)
    assert sorted(name for names in parts.values() for name in names) == found.subjects
    assert [len(parts[p]) for p in ("train", "validation", "test")] == [3, 1, 1]
    assert parts == split_subjects(found, validation=1, test=0.2, seed=3)


def test_a_subject_in_two_parts_is_refused(slices, table):
    rows = [
        {
            "image": f"p{n}_t1.nii.gz",
            "subject": "same" if n < 2 else f"p{n}",
            "split": ("train", "test")[n % 2],
        }
        for n in range(5)
    ]
    with pytest.raises(PlanError, match="subject same is in 2 parts"):
        split_subjects(read_dataset(table(slices / "torn.csv", rows)))


def test_one_subject_only_is_refused(slices, table):
    rows = [{"image": f"p{n}_t1.nii.gz", "subject": "alone"} for n in range(3)]
    with pytest.raises(PlanError, match="2 subjects at least, got 1"):
        split_subjects(read_dataset(table(slices / "one.csv", rows)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "nowhere.nii.gz"}], "line 2: .*nowhere.nii.gz does not exist"),
        ([{"image": "p0_t1.nii.gz", "labels": "none.nii.gz"}], "none.nii.gz does not exist"),
        ([{"picture": "p0_t1.nii.gz"}], "expected image.*split is train, validation or test"),
        ([{"image": ""}], "column image is empty"),
        ([{"image": "p0_t1.nii.gz", "split": "exam"}], "split is one of"),
    ],
)
def test_tables_that_cannot_be_used(slices, table, rows, message):
    with pytest.raises(FormatError, match=message):
        read_dataset(table(slices / "bad.csv", rows))


def test_a_missing_or_empty_list_is_refused(slices, tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        read_dataset(tmp_path / "none.csv")
    with pytest.raises(FormatError, match="holds no images"):
        read_dataset(tmp_path)
    (tmp_path / "empty.csv").write_text("image,subject\n", encoding="utf-8")
    with pytest.raises(FormatError, match="no rows"):
        read_dataset(tmp_path / "empty.csv")


def test_label_maps_alone_are_listed_not_named_by_their_folder(tmp_path):
    write(tmp_path / "p0_labels.nii.gz", Image(np.ones((6, 7), np.int16), Grid((6, 7), np.eye(3))))
    with pytest.raises(FormatError, match=r"p0_labels.nii.gz\): list label maps in a CSV file"):
        read_dataset(tmp_path)


def test_an_image_of_whole_numbers_is_no_label_map(slices, table, tmp_path):
    image = read(slices / "p0_t1.nii.gz")
    noise = np.random.default_rng(0).integers(0, 20, image.data.shape)
    write(tmp_path / "p0_counts.nii.gz", image.with_data((image.data + noise).astype(np.int16)))
    found = read_dataset(table(tmp_path / "maps.csv", [{"labels": "p0_counts.nii.gz"}]))
    with pytest.raises(FormatError, match=r"p0_counts.nii.gz is no label map but an image, it seems"):
        read_scan(found.scans[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: np.where(d > 50, np.nan, d), "NaN or Inf voxels"),
        (lambda d: np.full_like(d, 3), "constant"),
    ],
)
def test_scans_that_cannot_be_used(slices, table, tmp_path, spoil, message):
    image = read(slices / "p0_t1.nii.gz")
    write(tmp_path / "bad_t1.nii.gz", image.with_data(spoil(image.data).astype(np.float32)))
    rows = [{"image": str(slices / "p1_t1.nii.gz")}, {"image": str(tmp_path / "bad_t1.nii.gz")}]
    found = read_dataset(table(tmp_path / "scans.csv", rows))
    with pytest.raises(FormatError, match=message):
        prepare_scans(found, INPUTS, image)


def test_a_series_and_another_number_of_axes_are_refused(slices, table, tmp_path):
    grid = Grid((6, 7, 5), np.eye(4))
    noise = np.random.default_rng(0).random((4, 6, 7, 5)).astype(np.float32)
    write(tmp_path / "series_t1.nii.gz", Image(noise, grid, "series"))
    write(tmp_path / "volume_t1.nii.gz", Image(noise[0], grid))
    reference = read(slices / "p0_t1.nii.gz")
    for name, kind, message in (
        ("series", FormatError, "4 frames"),
        ("volume", GeometryError, "3-D, the network is for 2-D"),
    ):
        found = read_dataset(table(tmp_path / "one.csv", [{"image": f"{name}_t1.nii.gz"}]))
        with pytest.raises(kind, match=message):
            prepare_scans(found, INPUTS, reference)


def test_the_grid_of_a_network_follows_the_image_however_it_is_stored(make_grid, rng):
    """Axes run right, front and up; the content's middle is the grid's; a flipped copy gives the same."""
    grid = make_grid()
    data = np.zeros(grid.shape, np.float32)
    data[2:9, 3:12, 2:7] = rng.random((7, 9, 5)) + 1
    image = Image(data, grid)
    inputs = InputConfig(spacing_mm=(2.0, 2.0, 2.0), margin_vox=2)
    found = model_grid(image, inputs, multiple=4)
    assert found.orientation == "RAS"
    assert all(n % 4 == 0 for n in found.shape)
    np.testing.assert_allclose(found.center_mm, grid.index2world([5, 7, 4]), atol=1e-9)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = grid.shape[0] - 1
    turned = Image(data[::-1], Grid(grid.shape, grid.grid2world @ flip))
    assert model_grid(turned, inputs, multiple=4).same_as(found, 1e-6)
    np.testing.assert_allclose(
        seen_by_network(turned, found, inputs), seen_by_network(image, found, inputs), atol=1e-5
    )


def test_prepared_scans_lie_on_one_grid_with_labels_beside(slices):
    found = read_dataset(slices / "scans.csv")
    reference = read(slices / "p0_t1.nii.gz")
    shift = Translation.by([1.5, -3.0])
    still = prepare_scans(found, INPUTS, reference)
    moved = prepare_scans(found, INPUTS, reference, lambda f, m: shift)
    assert still.shape == (32, 32)
    assert still.values == (0, 1, 2)
    assert len(still.pairs) == 20
    assert min(image.min() for image in still.images) == 0
    assert 0.85 < max(image.max() for image in still.images) <= 1
    # the shift is one voxel along the first axis and two back along the second
    np.testing.assert_allclose(moved.images[1][:-1, 2:], still.images[1][1:, :-2], atol=2e-3)
    differ = moved.codes[1][:-1, 2:] != still.codes[1][1:, :-2]
    assert differ.mean() < 0.01  # places halfway between two voxels
    # labels lie where the image is bright
    assert still.images[2][still.codes[2] == 2].mean() > 2 * still.images[2][still.codes[2] == 0].mean()


def test_alignment_sees_the_reference_first(slices):
    asked = []

    def align(fixed: Image, moving: Image) -> Affine:
        asked.append((fixed.space, moving.space))
        return Affine.identity(2)

    found = read_dataset(slices / "scans.csv")
    prepare_scans(found, INPUTS, read(slices / "p0_t1.nii.gz"), align)
    assert asked == [("p0_t1", f"p{n}_t1") for n in range(5)]
    assert isinstance(slices, Path)


def made(folder: Path, *names: str) -> Path:
    """Return a BIDS dataset of empty files."""
    folder.mkdir(exist_ok=True)
    (folder / "dataset_description.json").write_text(
        '{"Name": "t", "BIDSVersion": "1.8.0"}', encoding="utf-8"
    )
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def bids(tmp_path) -> Path:
    """Return three people, one in two sessions, one with two runs; label maps in derivatives, of one run alone."""
    return made(
        tmp_path / "bids",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
        "sub-03/anat/sub-03_run-1_T1w.nii",
        "sub-03/anat/sub-03_run-2_T1w.nii",
        "sub-03/anat/sub-03_run-2_part-phase_T1w.nii",
        "sub-03/anat/broken.nii",
        ".trash/sub-04/anat/sub-04_T1w.nii",
        "sourcedata/sub-04/anat/sub-04_T1w.nii",
        "derivatives/drawn/sub-01/anat/sub-01_space-orig_dseg.nii.gz",
        "derivatives/drawn/sub-01/anat/sub-01_space-MNI_dseg.nii.gz",
        "derivatives/drawn/sub-01/anat/sub-01_hemi-L_dseg.nii.gz",
        "derivatives/drawn/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "derivatives/drawn/sub-02/ses-b/anat/sub-02_ses-b_dseg.nii.gz",
        "derivatives/drawn/sub-03/anat/sub-03_run-2_dseg.nii.gz",
    )


SCANS = [
    ("sub-01_T1w.nii.gz", "sub-01"),
    ("sub-02_ses-a_T1w.nii.gz", "sub-02"),
    ("sub-02_ses-b_T1w.nii.gz", "sub-02"),
    ("sub-03_run-1_T1w.nii", "sub-03"),
    ("sub-03_run-2_T1w.nii", "sub-03"),
]


def test_a_bids_dataset_gives_its_own_anatomical_images(bids):
    found = read_dataset(bids)
    assert [(scan.image.name, scan.subject) for scan in found.scans] == SCANS
    assert not any(scan.labels for scan in found.scans)


def test_label_maps_of_a_bids_dataset_are_those_of_the_scan(bids):
    found = read_dataset(bids, labels="dseg")
    assert [scan.labels and scan.labels.name for scan in found.scans] == [
        "sub-01_space-orig_dseg.nii.gz",
        None,
        "sub-02_ses-b_dseg.nii.gz",
        None,
        "sub-03_run-2_dseg.nii.gz",
    ]
    made(bids, "derivatives/other/sub-03/anat/sub-03_desc-both_dseg.nii.gz")
    with pytest.raises(FormatError, match=r"may belong to .*run-1_T1w.nii and .*run-2_T1w.nii"):
        read_dataset(bids, labels="desc-both_dseg")
    (bids / "derivatives/other/sub-03/anat/sub-03_desc-both_dseg.nii.gz").unlink()
    made(bids, "derivatives/drawn/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz")
    with pytest.raises(FormatError, match=r"has 2 label maps .*say more of the name by --labels"):
        read_dataset(bids, labels="dseg")
    aseg = read_dataset(bids, labels="desc-aseg_dseg").scans[0].labels
    assert aseg.name == "sub-01_desc-aseg_dseg.nii.gz"
    with pytest.raises(FormatError, match=r"no label map that ends in _aparc .*there are .*dseg \(6\)"):
        read_dataset(bids, labels="aparc")


def test_a_derived_bids_dataset_gives_images_in_the_subjects_own_space_where_there_are(bids):
    derived = made(
        bids / "derivatives" / "drawn",
        "sub-01/anat/sub-01_space-MNI_desc-preproc_T1w.nii.gz",
        "sub-02/anat/sub-02_space-MNI_desc-preproc_T1w.nii.gz",
    )
    names = [scan.image.name for scan in read_dataset(derived).scans]
    assert names == ["sub-01_desc-preproc_T1w.nii.gz", "sub-02_space-MNI_desc-preproc_T1w.nii.gz"]
    made(derived, "sub-01/anat/sub-01_desc-brain_T1w.nii.gz")
    with pytest.raises(FormatError, match=r"are one scan: say more of the name by --suffix"):
        read_dataset(derived)
    with pytest.raises(FormatError, match=r"derivatives/drawn has such"):
        read_dataset(bids, ["desc-brain_T1w"])
    (chosen,) = read_dataset(derived, ["desc-brain_T1w"]).scans
    assert chosen.image.name == "sub-01_desc-brain_T1w.nii.gz"
    spaced = read_dataset(derived, ["space-MNI_desc-preproc_T1w"]).scans
    assert [scan.subject for scan in spaced] == ["sub-01", "sub-02"]


def test_images_of_several_kinds_in_a_bids_dataset_are_chosen_from(bids):
    made(bids, "sub-01/anat/sub-01_T2w.nii.gz")
    with pytest.raises(FormatError, match=r"T1w \(5\), T2w \(1\): choose by --suffix T1w"):
        read_dataset(bids)
    assert [scan.image.name for scan in read_dataset(bids, ["T2w"]).scans] == ["sub-01_T2w.nii.gz"]
    assert len(read_dataset(bids, ["T1w", "T2w"]).scans) == 6
    with pytest.raises(FormatError, match="ends in _FLAIR"):
        read_dataset(bids, ["T1w", "FLAIR"])


def test_a_folder_laid_out_as_bids_without_its_description_is_told(bids):
    (bids / "dataset_description.json").unlink()
    with pytest.raises(
        FormatError, match=r"laid out as a BIDS dataset, and has no dataset_description\.json"
    ):
        read_dataset(bids, ["T1w"], labels="aparc")


def test_bids_datasets_that_give_no_scans_are_refused(bids, tmp_path):
    with pytest.raises(FormatError, match=r"without images in sub-…/anat"):
        read_dataset(made(tmp_path / "empty"))
    (bids / "sub-01/anat/sub-01_T1w.nii").touch()
    with pytest.raises(FormatError, match="are one scan"):
        read_dataset(bids)
    (bids / "sub-01/anat/sub-01_T1w.nii").unlink()
    (bids / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    (bids / "sub-01/anat/sub-01_T1w.nii.gz").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="datalad get"):
        read_dataset(bids)


def test_images_of_a_folder_are_chosen_by_the_end_of_their_names(slices):
    assert len(read_dataset(slices, ["t1"]).scans) == 5
    for word in ("labels", "_labels"):
        assert all(scan.labels for scan in read_dataset(slices, labels=word).scans)
    with pytest.raises(FormatError, match="no image whose name ends in t2"):
        read_dataset(slices, ["t2"])
    with pytest.raises(FormatError, match="no label map named like an image with _aparc"):
        read_dataset(slices, labels="aparc")
    for chosen in ({"suffixes": ["t1"]}, {"labels": "labels"}):
        with pytest.raises(FormatError, match="chooses files of a folder"):
            read_dataset(slices / "scans.csv", **chosen)


def test_people_without_a_chosen_image_are_known(bids):
    made(bids, "sub-04/anat/sub-04_T2w.nii.gz", "sub-05/func/sub-05_task-rest_bold.nii.gz")
    chosen = read_dataset(bids, ["T1w"]).subjects
    assert without_images(bids, chosen) == ["sub-04", "sub-05"]
    assert without_images(bids, [*chosen, "sub-04", "sub-05"]) == []
    assert without_images(bids / "sub-01", []) == []  # no dataset


def test_the_number_of_scans_to_prepare_is_known_from_the_first_on(slices):
    dataset = read_dataset(slices / "scans.csv")
    subjects = {"train": ["p0", "p1", "p2"], "validation": ["p3"], "test": ["p4"]}
    told = []
    config = ModelConfig(network=NetworkConfig(ndim=2), inputs=InputConfig(spacing_mm=(1.5, 1.5)))
    parts = prepare_parts(dataset, subjects, config, report=lambda done, total: told.append((done, total)))
    # who validates, or tests, all alone does so beside three to train on
    assert told == [(done, 11) for done in range(1, 12)]
    assert len(parts.validation.images) == len(parts.test.images) == 4
