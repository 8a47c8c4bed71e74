"""Tables of pairs and lists of methods: what is read, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from regista.benchmarking import check_files, find_methods, list_methods, read_cases
from regista.benchmarking._cases import unread_columns
from regista.core import FormatError, Grid, Image, PlanError
from regista.io import write


def test_names_start_from_the_folder_of_the_table(tmp_path):
    table = tmp_path / "sub" / "pairs.csv"
    table.parent.mkdir()
    table.write_text(
        "\ufeffcase;fixed;moving;fixed_labels;moving_labels;fixed_labels_tissues;moving_labels_tissues;age\n"
        "a;f.nii;../m.nii;fl.nii;ml.nii;ft.nii;mt.nii;7\n\n"
        ";f.nii.gz;m.nii.gz;;;;;\n",
        encoding="utf-8",
    )
    first, second = read_cases(table, convention="lps")
    assert first.fixed == tmp_path / "sub" / "f.nii"
    assert first.labels == {
        "labels": (tmp_path / "sub" / "fl.nii", tmp_path / "sub" / "ml.nii"),
        "tissues": (tmp_path / "sub" / "ft.nii", tmp_path / "sub" / "mt.nii"),
    }
    assert (second.name, second.labels, second.points, second.row) == ("f-m", {}, None, 4)
    assert read_cases(table, root=tmp_path)[0].fixed == tmp_path / "f.nii"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixed\nf.nii\n", "no column 'moving'"),
        ("fixed,moving,fixed_label\nf.nii,m.nii,l.nii\n", "fixed_label"),
        ("fixed,moving,labels_fixed\nf.nii,m.nii,l.nii\n", "labels_fixed"),
        ("fixed,moving,fixed_mask,fixed_mask\nf.nii,m.nii,a,b\n", "two columns"),
        ("fixed,moving\nf.nii,\n", "row 2"),
        ("fixed,moving\nf.nii,m.nii,x\n", "more cells"),
        ("fixed,moving,fixed_labels,moving_labels\nf.nii,m.nii,l.nii,\n", "moving_labels is not"),
        ("case,fixed,moving\na,f.nii,m.nii\na,g.nii,m.nii\n", "rows 2 and 3"),
        ("fixed,moving\n", "no rows"),
        ("", "empty"),
    ],
)
def test_bad_tables_are_refused_with_their_row(tmp_path, text, said):
    table = tmp_path / "pairs.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=said):
        read_cases(table)


def test_all_missing_files_are_named(tmp_path):
    (tmp_path / "f.nii").write_bytes(b"x")
    (tmp_path / "empty.nii").touch()
    rows = ["f.nii,f.nii,"] * 2 + ["f.nii,gone.nii,away.nii", "f.nii,empty.nii,"]
    lines = [f"c{n},{row}" for n, row in enumerate(rows)]
    (tmp_path / "pairs.csv").write_text(
        "\n".join(["case,fixed,moving,fixed_mask", *lines]) + "\n", encoding="utf-8"
    )
    missing = check_files(read_cases(tmp_path / "pairs.csv"))
    assert list(missing) == ["c2", "c3"]
    assert all(word in missing["c2"] for word in ("row 4", "gone.nii", "away.nii"))
    assert "empty.nii" in missing["c3"]


def test_learn2reg_tasks_are_tables_of_pairs(tmp_path):
    for kind in ("images", "labels", "masks"):
        (tmp_path / f"{kind}Tr").mkdir()
        for subject in ("0001", "0002"):
            image = Image(np.ones((4, 5, 6), np.uint8), Grid((4, 5, 6), np.eye(4)))
            write(tmp_path / f"{kind}Tr" / f"T_{subject}_0000.nii.gz", image)
    pair = {"fixed": "./imagesTr/T_0001_0000.nii.gz", "moving": "./imagesTr/T_0002_0000.nii.gz"}
    (tmp_path / "T_dataset.json").write_text(
        json.dumps({"name": "T", "registration_val": [pair]}), encoding="utf-8"
    )
    (case,) = read_cases(tmp_path / "T_dataset.json")
    assert (case.name, case.points_in) == ("0001_0000-0002_0000", "vox")
    assert case.labels["labels"][1] == tmp_path / "labelsTr" / "T_0002_0000.nii.gz"
    assert case.moving_mask == tmp_path / "masksTr" / "T_0002_0000.nii.gz"
    assert check_files([case]) == {}
    for kind in ("keypoints", "landmarks"):  # the second, set by hand, wherever it is
        (tmp_path / f"{kind}Tr").mkdir()
        for subject in ("0001", "0002"):
            (tmp_path / f"{kind}Tr" / f"T_{subject}_0000.csv").write_text("1,2,3\n", encoding="utf-8")
        (case,) = read_cases(tmp_path / "T_dataset.json")
        assert case.points == tuple(tmp_path / f"{kind}Tr" / f"T_{s}_0000.csv" for s in ("0001", "0002"))


def test_columns_that_are_not_read_are_known(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text(
        "case;fixed;moving;age;fixed_labels_t;moving_labels_t;notes\na;f.nii;m.nii;7;a;b;\n", encoding="utf-8"
    )
    assert unread_columns(table) == ["age", "notes"]


def test_every_peer_of_the_page_is_there_with_its_settings():
    methods = list_methods()
    wanted = "ants:affine ants:syn-mi ants:syn-cc greedy elastix:bspline sitk:demons "
    wanted += "sitk:diffeomorphic-demons dipy:syn regista:brain-t1 regista:fast"
    assert set(wanted.split()) <= set(methods)
    for method in methods.values():
        assert method.settings
        assert method.about
        assert method.package
    assert methods["ants:affine"].linear
    assert methods["regista:affine"].linear
    assert not methods["regista:brain-t1"].linear


def test_plan_files_are_methods(tmp_path):
    from regista.registration import load_plan, plan_to_toml

    (tmp_path / "mine.toml").write_text(plan_to_toml(load_plan("fast")), encoding="utf-8")
    mine, fast = find_methods([str(tmp_path / "mine.toml"), "fast"])
    assert (mine.name, fast.name) == ("regista:mine", "regista:fast")
    assert mine.settings["stages"] == fast.settings["stages"]


@pytest.mark.parametrize(
    ("names", "own", "said"),
    [
        (["ants:sin"], "", "there is no method 'ants:sin'; did you mean 'ants:syn-..'.; there are .*greedy"),
        (["fast", "regista:fast"], "", "named twice"),
        (["x"], '["x"]\ntool = "antz"\n', "needs tool = one of ants"),
        (["x"], '["x"]\ntool = "ants"\nsetting = 3\n', "unknown key 'setting'"),
        (["x"], '["x"]\ntool = "greedy"\nsettings = { radios = 3 }\n', "unknown setting 'radios'"),
        (["x"], '["x"]\ntool = "greedy"\nsettings = { steps = "9" }\n', "lacks the setting 'radius'"),
        (["x"], '["x"]\ntool = "ants"\n', "lacks the setting 'type_of_transform'; ants needs"),
        (["x"], '["x"]\ntool = "command"\nsettings = { command = ["a"] }\n', "transforms"),
        (["x"], "x = 3\n", "a method is a table"),
        (["x"], '["unregistered"]\ntool = "ants"\n', "is taken"),
        (["x"], '["brain-t1"]\ntool = "ants"\n', "is taken, by a preset.*my:brain-t1"),
        (["brian-t1"], "", "there is no method 'brian-t1'; did you mean 'brain-t1'"),
        (["x"], "[", "not valid TOML"),
        (["none.toml"], "", "none.toml"),
    ],
)
def test_bad_methods_are_refused(tmp_path, names, own, said):
    file = None
    if own:
        file = tmp_path / "own.toml"
        file.write_text(own, encoding="utf-8")
    with pytest.raises((PlanError, FormatError), match=said):
        find_methods(names, file)


def test_absent_peers_say_how_to_get_them(tmp_path):
    (tmp_path / "own.toml").write_text(
        '["x"]\ntool = "ants"\npackage = "no-such-package-here"\nsettings.type_of_transform = "Rigid"\n',
        encoding="utf-8",
    )
    (method,) = find_methods(["x"], tmp_path / "own.toml")
    assert method.version is None
    assert "pip install" in method.lacking()
