"""Points and surfaces: every format back and forth, and no guessed handedness."""

from __future__ import annotations

import json

import numpy as np
import pytest

from regista.core import FormatError, Mesh, PointSet
from regista.io import read_mesh, read_points, write


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("p.csv", {"convention": "lps"}),
        ("p.csv", {"convention": "ras"}),
        ("p.txt", {}),
        ("p.pts", {}),
        ("p.fcsv", {}),
        ("p.mrk.json", {}),
    ],
)
def test_points_come_back_to_the_last_digit(tmp_path, rng, name, options, ndim):
    names = ("nose, tip", 'the "left" ear', "chin")
    points = PointSet(rng.normal(size=(3, ndim)) * 100, names)
    write(tmp_path / name, points, **options)
    back = read_points(tmp_path / name, ndim=ndim, **options)
    np.testing.assert_array_equal(back.points_mm, points.points_mm)
    if not name.endswith(("txt", "pts")):
        assert back.names == names


@pytest.mark.parametrize("name", ["p.csv", "p.txt"])
def test_bare_coordinates_need_a_convention(tmp_path, name):
    path = tmp_path / name
    path.write_text("1,2,3\n4,5,6\n" if name.endswith("csv") else "1 2 3\n4 5 6\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"LPS or RAS.*--convention lps"):
        read_points(path)
    lps = read_points(path, convention="lps").points_mm
    ras = read_points(path, convention="ras").points_mm
    np.testing.assert_array_equal(lps, [[-1, -2, 3], [-4, -5, 6]])
    np.testing.assert_array_equal(ras, [[1, 2, 3], [4, 5, 6]])


def test_ants_table_of_plane_points(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("x,y,z,t,label\n1,2,0,0,7\n", encoding="utf-8")
    points = read_points(path, convention="lps", ndim=2)
    assert points.points_mm.tolist() == [[-1, -2]]
    assert points.names == ("7",)


def test_elastix_index_file_needs_the_grid(tmp_path, grid):
    path = tmp_path / "p.txt"
    path.write_text("index\n2\n0 0 0\n3 5 7\n", encoding="utf-8")
    with pytest.raises(FormatError, match="grid"):
        read_points(path)
    got = read_points(path, grid=grid).points_mm
    np.testing.assert_allclose(got, grid.index2world([[0, 0, 0], [3, 5, 7]]))


def test_slicer_says_its_handedness_and_may_not_be_contradicted(tmp_path):
    control = [{"id": "1", "label": "a", "position": [1.0, 2.0, 3.0]}]
    for system, expected in (("LPS", [-1, -2, 3]), ("RAS", [1, 2, 3])):
        path = tmp_path / f"{system}.mrk.json"
        path.write_text(
            json.dumps({"markups": [{"coordinateSystem": system, "controlPoints": control}]}),
            encoding="utf-8",
        )
        assert read_points(path).points_mm.tolist() == [expected]
    with pytest.raises(FormatError, match="it says its coordinates are RAS"):
        read_points(tmp_path / "RAS.mrk.json", convention="lps")
    old = tmp_path / "old.fcsv"
    old.write_text("# CoordinateSystem = 0\n# columns = id,x,y,z\n1,1,2,3\n", encoding="utf-8")
    assert read_points(old).points_mm.tolist() == [[1, 2, 3]]


def test_a_shortened_list_is_noticed(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("point\n3\n1 2 3\n4 5 6\n", encoding="utf-8")
    with pytest.raises(FormatError, match="announces 3 points but holds 2"):
        read_points(path)


def test_lung_landmarks(data_dir):
    fixed = read_points(data_dir / "lung_ct" / "baseline_landmarks.txt").points_mm
    moving = read_points(data_dir / "lung_ct" / "followup_landmarks.txt").points_mm
    assert fixed.shape == (51, 3)
    assert np.linalg.norm(fixed - moving, axis=1).mean() == pytest.approx(34.7, abs=1)


@pytest.fixture
def mesh(rng) -> Mesh:
    return Mesh(rng.normal(size=(5, 3)) * 40, np.array([[0, 1, 2], [2, 3, 4], [0, 2, 4]]))


@pytest.mark.parametrize("name", ["m.surf.gii", "m.vtk", "m.ply"])
@pytest.mark.parametrize("convention", ["ras", "lps"])
def test_surfaces_come_back(tmp_path, mesh, name, convention):
    options = {} if name.endswith("gii") else {"convention": convention}
    write(tmp_path / name, mesh, **options)
    back = read_mesh(tmp_path / name, **options)
    np.testing.assert_allclose(back.vertices_mm, mesh.vertices_mm, atol=1e-4)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    if options:
        with pytest.raises(FormatError, match="LPS or RAS"):
            read_mesh(tmp_path / name)


def test_broken_surface_is_refused(tmp_path):
    (tmp_path / "m.ply").write_text("ply\nnonsense\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"m\.ply"):
        read_mesh(tmp_path / "m.ply", convention="ras")


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("version", [3.0, 5.1])
def test_vtk_surfaces_of_other_tools(tmp_path, mesh, binary, version):
    """POLYDATA, as VTK and Slicer write it, with Slicer's handedness in the title."""
    points = (mesh.vertices_mm * [-1, -1, 1]).astype(">f4")
    if version < 5:
        table = np.column_stack([np.full(len(mesh.faces), 3), mesh.faces]).astype(">i4")
        parts = [(f"POLYGONS {len(table)} {table.size}\n", None), ("", table)]
    else:
        offsets = np.arange(0, mesh.faces.size + 1, 3).astype(">i8")
        parts = [
            (f"POLYGONS {len(offsets)} {mesh.faces.size}\nOFFSETS vtktypeint64\n", offsets),
            ("CONNECTIVITY vtktypeint64\n", mesh.faces.astype(">i8")),
        ]
    kind = "BINARY" if binary else "ASCII"
    head = f"# vtk DataFile Version {version}\nSPACE=LPS\n{kind}\nDATASET POLYDATA\n"
    raw = head.encode()
    for text, values in [(f"POINTS {len(points)} float\n", points), *parts]:
        raw += text.encode()
        if values is not None:
            raw += (values.tobytes() if binary else " ".join(map(str, values.ravel())).encode()) + b"\n"
    (tmp_path / "m.vtk").write_bytes(raw)
    back = read_mesh(tmp_path / "m.vtk")
    np.testing.assert_allclose(back.vertices_mm, mesh.vertices_mm, atol=1e-4)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    (tmp_path / "m.vtk").write_bytes(raw[:-20])
    with pytest.raises(FormatError, match=r"m\.vtk"):
        read_mesh(tmp_path / "m.vtk")


def test_a_first_column_without_a_heading_holds_names(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(",X,Y\n7,1,2\n9,3,4\n", encoding="utf-8")
    assert read_points(path, convention="ras", ndim=2).names == ("7", "9")
