"""`regista.view`: the volumes of the served viewer in a notebook's widgets, and an error where the extra is absent."""

from __future__ import annotations

import builtins
import json
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scenes import oblique, organ
from viewer_runs import write_run

import regista
from regista.core import FormatError, GeometryError, LabelImage, PlanError, PointSet
from regista.registration import register
from regista.reporting import RunFolder, ViewerRun, view
from regista.reporting._notebook import _connectome, _folder


@pytest.fixture
def labels(pair):
    return tuple(
        LabelImage(np.where(i.data > 60, 90210, 0) - 7 * (i.data > 120), i.grid)
        for i in (pair.fixed, pair.moving)
    )


@pytest.fixture
def landmarks(pair):
    here = pair.fixed.grid.center_mm + np.random.default_rng(1).uniform(-6, 6, (5, 3))
    return PointSet(here), PointSet(pair.truth.map_points(here) + np.array([0, 0, 0.5]))


def test_without_the_extra_the_error_says_what_to_install(good, pair, monkeypatch) -> None:
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "ipyniivue":
            raise ModuleNotFoundError("No module named 'ipyniivue'", name="ipyniivue")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ipyniivue", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PlanError, match=r"needs ipyniivue.*pip install 'regista\[notebook\]'"):
        regista.view(good, pair.fixed, pair.moving)


def test_a_registration_carries_its_pair(pair) -> None:
    result = register(pair.fixed, pair.moving, "translation")
    run = _folder(result, None, None)
    assert run.fixed is pair.fixed
    assert run.moving is pair.moving
    assert "pair" not in repr(result)


def test_the_pair_comes_from_the_folder_or_from_the_caller(pair, good, tmp_path) -> None:
    folder = write_run(tmp_path / "run", pair.fixed, pair.moving, good)
    np.testing.assert_array_equal(_folder(folder, None, None).moving.data, pair.moving.data)
    np.testing.assert_array_equal(_folder(str(folder), None, None).fixed.data, pair.fixed.data)
    elsewhere = _folder(folder, folder / "fixed.nii.gz", replace(pair.moving, data=pair.moving.data + 1))
    np.testing.assert_array_equal(elsewhere.moving.data, pair.moving.data + 1)
    assert _folder(good, pair.fixed, folder / "moving.nii.gz").moving.grid.same_as(pair.moving.grid, 1e-3)
    with pytest.raises(PlanError, match=r"regista.view\(result, fixed, moving\)"):
        _folder(good, None, None)
    with pytest.raises(GeometryError, match="another grid"):
        _folder(good, organ(oblique((20, 22, 18))), pair.moving)
    with pytest.raises(FormatError, match=r"no record\.json"):
        _folder(tmp_path, None, None)


def test_landmarks_as_a_connectome_keep_their_places(pair, good, landmarks) -> None:
    run = ViewerRun(RunFolder(path=None, fixed=pair.fixed, moving=pair.moving, result=good), None, landmarks)
    tree = json.loads(_connectome(run.landmark_pairs(), 2.0))
    places = np.array([[node[axis] for axis in "xyz"] for node in tree["nodes"]])
    np.testing.assert_allclose(places[::2], landmarks[0].points_mm, atol=1e-9)
    np.testing.assert_allclose(places[1::2], good.inverse.map_points(landmarks[1].points_mm), atol=1e-9)
    assert [node["colorValue"] for node in tree["nodes"][:2]] == [-1, 1]
    assert [(edge["first"], edge["second"]) for edge in tree["edges"]] == [
        (2 * n, 2 * n + 1) for n in range(5)
    ]


@pytest.fixture
def viewer(pair, good, labels, landmarks):
    pytest.importorskip("ipyniivue", reason="the extra 'notebook' is not installed")
    return view(good, pair.fixed, pair.moving, labels=labels, landmarks=landmarks)


def load(viewer) -> None:
    """Answer as the browser does once it has loaded the base volumes: their fractions in world mm."""
    for pane in (viewer.fixed, viewer.moving):
        for volume in list(pane.volumes.values())[:1]:
            image = nibabel.Nifti1Image.from_bytes(volume.data)
            to_index = np.diag([*image.shape[:3], 1.0])
            to_index[:3, 3] = -0.5
            volume.frac2mm = (image.affine @ to_index).T


def test_the_widgets_hold_what_the_viewer_serves(viewer, pair, good, labels) -> None:
    run = ViewerRun(
        RunFolder(path=None, fixed=pair.fixed, moving=pair.moving, result=good), labels, viewer.run.landmarks
    )
    assert viewer.fixed.volumes["fixed"].data == run.volume("fixed")
    assert viewer.moving.volumes["moving"].data == run.volume("moving")
    assert list(viewer.fixed.volumes) == ["fixed"]  # nothing else before the browser knows the colours
    load(viewer)
    assert viewer.fixed.volumes["warped"].data == run.volume("warped")
    for words, name in (("Displacement, mm", "displacement"), ("Moving, as stored", "before")):
        viewer.controls["over"].value = words
        shown = {key: volume.opacity for key, volume in viewer.fixed.volumes.items() if volume.opacity}
        assert shown == {"fixed": 1.0, name: 0.5}
        assert viewer.fixed.volumes[name].data == run.volume(name)
    viewer.controls["labels"].value = "Of the moving image, warped"
    viewer.controls["outline"].value = True
    viewer.controls["over"].value = "Checkerboard"
    assert viewer.fixed.volumes["labels-moved"].data == run.volume("labels-moved")
    assert viewer.fixed.nv.volumes[-1].name == "labels-moved.nii"  # on top of all
    assert viewer.fixed.nv.opts.atlas_outline == 1.0
    assert viewer.fixed.volumes["labels-moved"].colormap_label is not None
    viewer.controls["hide"].value = True
    assert [key for key, volume in viewer.fixed.volumes.items() if volume.opacity > 0.1] == ["fixed"]


def test_marks_are_sent_when_wanted_and_hidden_again(viewer) -> None:
    load(viewer)
    assert viewer.fixed.nv.meshes == []
    viewer.controls["grid"].value = viewer.controls["landmarks"].value = True
    assert viewer.fixed.marks["grid"].data == viewer.run.grid_lines()
    assert [mesh.visible for mesh in viewer.fixed.nv.meshes] == [True, True]
    viewer.controls["grid"].value = False
    assert [mesh.visible for mesh in viewer.fixed.nv.meshes] == [False, True]


def test_a_click_moves_the_other_crosshair_through_the_map(viewer, pair, good) -> None:
    load(viewer)
    here = pair.fixed.grid.index2world([20.0, 30.0, 14.0])
    viewer.fixed.nv._handle_custom_msg({"event": "location_change", "data": {"mm": [*here, 1.0]}}, [])
    there = good.transform.map_points(here[None])[0]
    for pane, image, place in ((viewer.fixed, pair.fixed, here), (viewer.moving, pair.moving, there)):
        fraction = np.asarray(pane.nv.scene.crosshair_pos)
        index = fraction * image.grid.shape - 0.5
        np.testing.assert_allclose(image.grid.index2world(index), place, atol=1e-3)
    assert f"{np.linalg.norm(there - here):.2f}" in viewer.read_out.value
    back = good.transform.map_points(here[None])[0] + 3.0
    viewer.moving.nv._handle_custom_msg({"event": "location_change", "data": {"mm": [*back, 1.0]}}, [])
    fraction = np.asarray(viewer.fixed.nv.scene.crosshair_pos)
    np.testing.assert_allclose(
        pair.fixed.grid.index2world(fraction * pair.fixed.grid.shape - 0.5),
        good.inverse.map_points(back[None])[0],
        atol=1e-3,
    )


def test_names_are_text(pair, good) -> None:
    pytest.importorskip("ipyniivue", reason="the extra 'notebook' is not installed")
    evil = replace(pair.fixed, space="<script>alert(1)</script>")
    viewer = view(replace(good), evil, pair.moving)
    heading = viewer.box.children[0].value
    assert "<script>" not in heading
    assert "&lt;script&gt;" in heading
    assert "application/vnd.jupyter.widget-view+json" in viewer._repr_mimebundle_()
