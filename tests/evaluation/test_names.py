"""Tables of label names and groups."""

from __future__ import annotations

import pytest

from regista.core import FormatError, PlanError
from regista.evaluation import parse_group, read_label_groups, read_label_names

TABLES = {
    "csv with a header": "Label Number,Label Name,Class\n4,Right Hippocampus,\n7,Left Caudate,GM\n",
    "columns exchanged": "name;label\nRight Hippocampus;4\nLeft Caudate;7\n",
    "no header": "4,Right Hippocampus\n7,Left Caudate\n",
    "itk-snap": '# comment\n4 255 0 0 1 1 1 "Right Hippocampus"\n7 0 255 0 1 1 1 "Left Caudate"\n',
    "bom and spaces": "\ufeffid , region\n4 , Right Hippocampus\n7 , Left Caudate\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES.keys())
def test_names(tmp_path, text):
    path = tmp_path / "names.csv"
    path.write_text(text, encoding="utf-8")
    assert read_label_names(path) == {4: "Right Hippocampus", 7: "Left Caudate"}


def test_freesurfer_colours(tmp_path):
    path = tmp_path / "lut.txt"
    path.write_text(
        "#No. Label Name: R G B A\n17  Left-Hippocampus  220 216 20 0\n\n0 Unknown 0 0 0 0\n",
        encoding="utf-8",
    )
    assert read_label_names(path) == {17: "Left-Hippocampus", 0: "Unknown"}


def test_groups(tmp_path):
    table, tree = tmp_path / "groups.csv", tmp_path / "groups.json"
    table.write_text("label,name,group\n1,a,GM\n2,b,WM\n3,c,GM\n4,d,\n5,e,None\n", encoding="utf-8")
    tree.write_text('{"GM": [1, 3], "WM": [2]}', encoding="utf-8")
    assert read_label_groups(table) == read_label_groups(tree) == {"GM": [1, 3], "WM": [2]}
    tree.write_text('{"GM": [1, "5-7"], "WM": "2, 9-10", "CSF": 4}', encoding="utf-8")
    assert read_label_groups(tree) == {"GM": [1, 5, 6, 7], "WM": [2, 9, 10], "CSF": [4]}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"GM": [1.5]}', r"whole number or a range in quotes, got 1\.5"),
        ('{"GM": [true]}', "got true"),
        ('{"GM": "5-1"}', "lower to the higher"),
        ('{"GM": ["a"]}', "got 'a'"),
        ('{"GM": [1}', "not valid JSON"),
    ],
)
def test_bad_groups_say_which_entry(tmp_path, text, match):
    path = tmp_path / "groups.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=match):
        read_label_groups(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("nummer,name\n4,Hippocampus\n", "no column of label numbers: its headings are nummer, name"),
        ("name\nHippocampus\n", "no column of label numbers"),
        ("label,volume\n4,3000\n", r"no column of names: .* name that column name \(or labelname"),
    ],
)
def test_unknown_headings_are_refused(tmp_path, text, match):
    path = tmp_path / "names.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=match):
        read_label_names(path)


def test_groups_without_known_headings_are_refused(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("label,lobe\n1,frontal\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"no column of groups: .* lobe; name that column group"):
        read_label_groups(path)
    path.write_text("1,frontal\n", encoding="utf-8")
    with pytest.raises(FormatError, match="has no header"):
        read_label_groups(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [("", "empty"), ("# nothing\n", "comments only"), ("label,name\nx,Hippocampus\n", "names no labels")],
)
def test_bad_names(tmp_path, text, match):
    path = tmp_path / "names.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=match):
        read_label_names(path)


def test_bad_files(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        read_label_names(tmp_path / "absent.csv")
    image = tmp_path / "image.csv"
    image.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(FormatError, match="not text"):
        read_label_names(image)
    bad = tmp_path / "bad.json"
    bad.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(FormatError, match="JSON object of groups"):
        read_label_groups(bad)
    with pytest.raises(FormatError, match="does not exist"):
        read_label_groups(tmp_path / "absent.json")
    plain = tmp_path / "plain.csv"
    plain.write_text("label,name\n1,a\n", encoding="utf-8")
    with pytest.raises(FormatError, match="no column of groups"):
        read_label_groups(plain)


@pytest.mark.parametrize("text", ["GM", "=1,2", "GM=", "GM=a", "GM=3-1", "GM=1,,2"])
def test_bad_groups(text):
    with pytest.raises(PlanError, match="group"):
        parse_group(text)
