"""The network of the package: whole, small, and better than the affine map on contrasts that it has never seen."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest

from regista.cli._models import linear_plan
from regista.core import Image, LabelImage
from regista.demo import make_known_map
from regista.evaluation import label_measures
from regista.io import read, read_labels
from regista.kernels.cpu.fields import jacobian_determinant
from regista.learning import load_model, verify_model
from regista.registration import register
from regista.transforms import DisplacementField, resample, to_displacement_field
from regista.transforms._fields import to_voxels

NAME = "any-contrast"


def linear(**changed):
    """Return the plan that aligns images for it, as `register --model` runs it."""
    plan = linear_plan(load_model(NAME, device="cpu").settings | changed)
    assert plan is not None
    return plan


def one_way():
    """Return the affine stages that are run from the fixed to the moving image alone."""
    return linear(passes=1)


def folded_percent(transform, grid):
    field = to_displacement_field(transform, grid)
    return 100 * float(np.mean(jacobian_determinant(to_voxels(field.vectors_mm, grid)) <= 0))


def test_it_is_whole_small_and_says_where_it_comes_from():
    model = load_model(NAME, device="cpu")
    assert (
        verify_model(NAME)
        == json.loads((model.folder / "model.json").read_text(encoding="utf-8"))["weights_sha256"]
    )
    assert sum(file.stat().st_size for file in model.folder.iterdir()) < 3e6
    assert model.network.edges
    assert model.passes == 3
    card = (model.folder / "card.md").read_text(encoding="utf-8")
    for words in ("Apache-2.0", "no images", "NVIDIA H200", "not stripped"):
        assert words in card


CONTRASTS = list(itertools.permutations(("t1", "t2", "flair"), 2))


@functools.cache
def known_case(data_dir, contrast, displacement_mm):
    """Return an image, its mask and a known map onto it."""
    image = read(data_dir / "brain_multicontrast" / f"patient07_{contrast}.nii.gz")
    mask = LabelImage((image.as_float32() > 0).astype(np.uint8), image.grid)
    return image, mask, make_known_map(mask, displacement_mm=displacement_mm, seed=100)


@pytest.mark.data
@pytest.mark.parametrize(
    ("fixed", "moving", "displacement_mm", "share"),
    [
        *((*pair, 8.0, 0.8) for pair in CONTRASTS),
        *((*pair, 3.0, 0.95) for pair in CONTRASTS[::2]),
        *((*pair, 1.5, 0.95) for pair in CONTRASTS[1::2]),
    ],
)
def test_it_finds_more_of_a_known_map_than_the_affine_map(data_dir, fixed, moving, displacement_mm, share):
    """Every two contrasts, each the fixed one, of a seed of its own that chose nothing."""
    first, mask, known = known_case(data_dir, fixed, displacement_mm)
    second = read(data_dir / "brain_multicontrast" / f"patient07_{moving}.nii.gz")
    moved = resample(
        Image(second.data, second.grid), second.grid.with_spacing((1.2, 1.0, 1.1)), known.moving2fixed
    )
    points = first.grid.index2world(np.argwhere(mask.data)[::40])
    there = known.fixed2moving.map_points(points)
    affine, start = (register(first, moved, plan).transform for plan in (one_way(), linear()))
    found = load_model(NAME, device="cpu").predict(first, moved, initial=start, bend_first=True)
    before, after = (np.linalg.norm(one.map_points(points) - there, axis=1).mean() for one in (affine, found))
    assert after < share * before, (before, after)
    assert folded_percent(found, first.grid) < 0.1


@pytest.mark.data
@pytest.mark.parametrize(("fixed", "moving"), CONTRASTS)
def test_scans_of_one_head_that_nothing_bends_come_nearer_than_by_an_affine_map(data_dir, fixed, moving):
    """Two contrasts as they are, with the identity as the truth: one pass of it ends .5 mm and more away."""
    first, second = (
        read(data_dir / "brain_multicontrast" / f"patient07_{contrast}.nii.gz")
        for contrast in (fixed, moving)
    )
    points = first.grid.index2world(np.argwhere(first.as_float32() > 0)[::40])
    affine, start = (register(first, second, plan).transform for plan in (one_way(), linear()))
    found = load_model(NAME, device="cpu").predict(first, second, initial=start, bend_first=True)
    before, after = (
        np.linalg.norm(one.map_points(points) - points, axis=1).mean() for one in (affine, found)
    )
    assert after < before, (before, after)
    assert not any(isinstance(part, DisplacementField) for part in found.transforms)


@pytest.mark.data
def test_images_of_another_kind_are_left_to_the_linear_map(data_dir):
    """Of a mouse it sees a few voxels, and its one answer takes a third of the overlap away."""
    first, second = (read(data_dir / "mouse_brain" / f"{n}_mri.nii.gz") for n in (1, 2))
    affine = register(first, second, linear()).transform
    found = load_model(NAME, device="cpu").predict(first, second, initial=affine, bend_first=True)
    assert not any(isinstance(part, DisplacementField) for part in found.transforms)


@pytest.mark.data
def test_labels_of_two_people_overlap_more(data_dir):
    first, second = (read(data_dir / "brain_t1" / f"{name}_t1.nii.gz") for name in ("1000", "1002"))
    labels = [read_labels(data_dir / "brain_t1" / f"{name}_labels.nii.gz") for name in ("1000", "1002")]
    affine = register(first, second, linear()).transform
    found = load_model(NAME, device="cpu").predict(first, second, initial=affine, bend_first=True)

    def dice(transform):
        carried = resample(labels[1], first.grid, transform, interpolation="nearest")
        measured = label_measures(labels[0], LabelImage(carried.data, first.grid), surface=None)
        return float(np.nanmean([one.dice for one in measured.labels]))

    assert dice(found) > dice(affine) + 0.05
    assert folded_percent(found, first.grid) < 0.1
