"""Points from CSV, elastix and ITK text, and Slicer; never a guessed handedness."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, Grid, PointSet
from regista.io._files import PathLike, read_text, reading, stem_of, suffix_of, write_text

Convention = Literal["lps", "ras"]
_SIGNS = np.array([-1.0, -1.0, 1.0])
_HOW = (
    "say which it is: --convention lps (ANTs and ITK) or --convention ras (nibabel, FreeSurfer's scanner coordinates) "
    "(in Python convention=)"
)


def read_points(
    path: PathLike,
    *,
    convention: Convention | None = None,
    grid: Grid | None = None,
    ndim: int | None = None,
    space: str | None = None,
) -> PointSet:
    r"""Read points.

    Parameters
    ----------
    path : path
        CSV (columns x, y and z, or the first two or three); elastix and ITK text (``.txt``, ``.pts``: a line
        ``point`` or ``index``, the count, the coordinates; or coordinates alone); Slicer ``.fcsv``,
        ``.mrk.json``.
    convention : {'lps', 'ras'}, optional
        Handedness of the coordinates, mm. Needed for files that do not tell: CSV and bare text. ANTs' CSV
        is 'lps'.
    grid : Grid, optional
        Grid of the image that the voxel indices of an elastix ``index`` file belong to.
    ndim : int, optional
        Keep the first 2 or 3 coordinates (ANTs' CSV of 2-D points has a z of zeros).
    space : str, optional
        Name of the points' space (default: the file's name without extension).

    Returns
    -------
    PointSet
        Points in RAS+ mm.

    Raises
    ------
    FormatError
        If the file is missing or damaged, or its handedness is not known.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "landmarks.csv")
    ...     _ = path.write_text("x,y,z\n1,2,3\n")
    ...     read_points(path, convention="lps").points_mm.tolist()
    [[-1.0, -2.0, 3.0]]
    """
    path = Path(path)
    if convention not in (None, "lps", "ras"):
        raise FormatError(f"convention is 'lps' or 'ras', got {convention!r}")
    text = read_text(path, "a point")
    with reading(path, "a point"):
        suffix = suffix_of(path)
        if suffix == ".csv":
            points, names = _parse_csv(text)
            _need(convention, path)
        elif suffix == ".fcsv":
            points, names, convention = _parse_fcsv(text, convention)
        elif suffix in (".mrk.json", ".json"):
            points, names, convention = _parse_markups(text, convention)
        elif suffix in (".txt", ".pts"):
            points, names, convention = _parse_text(text, convention, grid, path)
        else:
            raise FormatError(
                f"{path}: {suffix!r} is no point format Regista knows; expected .csv, .txt, .pts, .fcsv, .mrk.json"
            )
        if ndim is not None:
            points = points[:, :ndim]
        if convention == "lps":
            points = points * _SIGNS[: points.shape[1]]
        return PointSet(points, names, space or stem_of(path))


def read_point_values(path: PathLike, column: str) -> NDArray[np.float64]:
    r"""Read a number for each point, such as its confidence, from a column of a CSV of points.

    Parameters
    ----------
    path : path
        CSV whose first line names its columns.
    column : str
        Name of the column; capitals do not matter.

    Returns
    -------
    (N,) float64 ndarray
        The numbers, in the order of the points.

    Raises
    ------
    FormatError
        If the file is no CSV, or missing or damaged, or has no such column of numbers.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "landmarks.csv")
    ...     _ = path.write_text("x,y,z,sure\n1,2,3,0.5\n")
    ...     read_point_values(path, "sure").tolist()
    [0.5]
    """
    path = Path(path)
    if suffix_of(path) != ".csv":
        raise FormatError(f"{path}: only a .csv of points has columns to choose from, got {column!r}")
    text = read_text(path, "a point")
    with reading(path, "a point"):
        head, *body = _csv_rows(text)
        names = [name.lower() for name in head]
        if column.lower() not in names:
            raise FormatError(f"it has no column {column!r}, only {', '.join(head)}")
        place = names.index(column.lower())
        for number, row in enumerate(body, start=1):
            if place >= len(row) or not _is_number(row[place]):
                got = repr(row[place]) if place < len(row) else "nothing"
                raise FormatError(f"its column {column!r} holds {got} for point {number}, expected a number")
        return np.array([float(row[place]) for row in body])


def write_points(path: PathLike, points: PointSet, *, convention: Convention | None = None) -> None:
    """Write points; see `read_points`. CSV needs a `convention`, the other formats are written as LPS.

    Raises
    ------
    FormatError
        If the format is not known, or a CSV's convention is not given.
    """
    path, suffix = Path(path), suffix_of(path)
    if suffix == ".csv":
        _need(convention, path)
    if convention not in (None, "lps", "ras"):
        raise FormatError(f"convention is 'lps' or 'ras', got {convention!r}")
    lps = (convention or "lps") == "lps"
    xyz = points.points_mm * (_SIGNS[: points.ndim] if lps else 1.0) + 0.0  # no negative zeros
    names = points.names or tuple(str(n + 1) for n in range(len(xyz)))
    if suffix == ".csv":
        text = _csv_text(xyz, points.names)
    elif suffix in (".txt", ".pts"):
        if not lps:
            raise FormatError(f"{path}: elastix and ITK point files are LPS; leave the convention out")
        text = f"point\n{len(xyz)}\n" + "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in xyz)
    elif suffix == ".fcsv":
        text = _fcsv_text(_as_3d(xyz), names, lps)
    elif suffix in (".mrk.json", ".json"):
        text = _markups_text(_as_3d(xyz), names, lps)
    else:
        raise FormatError(
            f"{path}: points are written as .csv, .txt, .pts, .fcsv or .mrk.json, not {suffix!r}"
        )
    write_text(path, text)


def _need(convention: str | None, path: Path) -> None:
    if convention is None:
        raise FormatError(f"{path} does not tell whether its coordinates are LPS or RAS; {_HOW}")


def _as_3d(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    return xyz if xyz.shape[1] == 3 else np.column_stack([xyz, np.zeros(len(xyz))])


def _array(rows: list[list[str]]) -> NDArray[np.float64]:
    if not rows:
        raise FormatError("there are no points in it")
    if len({len(row) for row in rows}) > 1:
        raise FormatError("its rows have different numbers of coordinates")
    return np.array([[float(value) for value in row] for row in rows])


def _csv_rows(text: str) -> list[list[str]]:
    sample = text[:2000]
    delimiter = next((d for d in (",", ";", "\t") if d in sample), " ")
    rows = [[c.strip() for c in r] for r in csv.reader(io.StringIO(text), delimiter=delimiter) if any(r)]
    rows = [row for row in rows if not row[0].startswith("#")]
    if not rows:
        raise FormatError("there are no points in it")
    return rows


def _parse_csv(text: str) -> tuple[NDArray[np.float64], tuple[str, ...] | None]:
    rows = _csv_rows(text)
    head = [name.lower() for name in rows[0]]
    if "x" in head and "y" in head:
        columns = [head.index(axis) for axis in "xyz" if axis in head]
        # pandas and ImageJ leave the head of a first column of indices empty
        known = [n for n in ("name", "label", "id") if n in head] + ([""] if head[0] == "" else [])
        label = head.index(known[0]) if known else None
        body = rows[1:]
        names = None if label is None else tuple(row[label] for row in body)
        return _array([[row[c] for c in columns] for row in body]), names
    if not all(_is_number(cell) for cell in rows[0]):
        raise FormatError(
            f"its first line {' '.join(rows[0])!r} names no columns x and y, and is not coordinates either"
        )
    if len(rows[0]) not in (2, 3):
        raise FormatError(f"it has {len(rows[0])} columns and no header; expected x,y or x,y,z, or a header")
    return _array(rows), None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _agree(header: str, convention: Convention | None) -> Convention:
    name: Convention = "lps" if header.strip().upper() in ("LPS", "1") else "ras"
    if header.strip().upper() not in ("LPS", "1", "RAS", "0"):
        raise FormatError(f"its coordinate system is {header!r}, expected LPS or RAS")
    if convention not in (None, name):
        raise FormatError(
            f"it says its coordinates are {name.upper()}, not {convention}: leave the convention out"
        )
    return name


def _parse_fcsv(
    text: str, convention: Convention | None
) -> tuple[NDArray[np.float64], tuple[str, ...] | None, Convention]:
    header, rows, columns = "", [], ["id", "x", "y", "z"]
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            if key.strip().lower() == "coordinatesystem":
                header = value.strip()
            elif key.strip().lower() == "columns":
                columns = [c.strip() for c in value.split(",")]
        elif line.strip():
            rows.append(next(csv.reader([line])))
    found = _agree(header or "RAS", convention)
    places = [columns.index(axis) for axis in "xyz"]
    label = columns.index("label") if "label" in columns else None
    names = None if label is None else tuple(row[label] if label < len(row) else "" for row in rows)
    return _array([[row[p] for p in places] for row in rows]), names, found


def _parse_markups(
    text: str, convention: Convention | None
) -> tuple[NDArray[np.float64], tuple[str, ...] | None, Convention]:
    markups = json.loads(text)["markups"]
    if len(markups) != 1:
        raise FormatError(f"it holds {len(markups)} markups, expected one: export the one you want")
    controls = markups[0]["controlPoints"]
    found = _agree(str(markups[0].get("coordinateSystem", "LPS")), convention)
    names = tuple(str(c.get("label", "")) for c in controls)
    return _array([c["position"] for c in controls]), names, found


def _parse_text(
    text: str, convention: Convention | None, grid: Grid | None, path: Path
) -> tuple[NDArray[np.float64], None, Convention]:
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    kind = lines[0].lower() if lines else ""
    if kind not in ("point", "index"):
        rows = _array([line.replace(",", " ").split() for line in lines])
        _need(convention, path)
        return rows, None, convention  # type: ignore[return-value]
    count, rows = int(lines[1]), _array([line.split() for line in lines[2:]])
    if len(rows) != count:
        raise FormatError(f"it announces {count} points but holds {len(rows)}: it is truncated or was edited")
    if kind == "point":
        return rows, None, _agree("LPS", convention)
    if grid is None:
        raise FormatError("it holds voxel indices: give the image's grid (grid=image.grid; --like IMAGE)")
    return grid.index2world(rows), None, "ras"


def _csv_text(xyz: NDArray[np.float64], names: tuple[str, ...] | None) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*"xyz"[: xyz.shape[1]], *(["label"] if names else [])])
    for n, row in enumerate(xyz):
        writer.writerow([*(repr(float(v)) for v in row), *([names[n]] if names else [])])
    return out.getvalue()


def _fcsv_text(xyz: NDArray[np.float64], names: tuple[str, ...], lps: bool) -> str:
    out = io.StringIO()
    out.write(
        "# Markups fiducial file version = 4.11\n"
        f"# CoordinateSystem = {'LPS' if lps else 'RAS'}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    )
    writer = csv.writer(out, lineterminator="\n")
    for n, (row, name) in enumerate(zip(xyz, names, strict=True)):
        writer.writerow([n + 1, *(repr(float(v)) for v in row), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    return out.getvalue()


def _markups_text(xyz: NDArray[np.float64], names: tuple[str, ...], lps: bool) -> str:
    controls: list[dict[str, Any]] = [
        {"id": str(n + 1), "label": name, "position": row.tolist()}
        for n, (row, name) in enumerate(zip(xyz, names, strict=True))
    ]
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    )
    tree = {
        "@schema": f"{schema}markups-schema-v1.0.3.json#",
        "markups": [
            {
                "type": "Fiducial",
                "coordinateSystem": "LPS" if lps else "RAS",
                "coordinateUnits": "mm",
                "controlPoints": controls,
            }
        ],
    }
    return json.dumps(tree, indent=1) + "\n"
