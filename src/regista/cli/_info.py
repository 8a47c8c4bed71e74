"""``regista info``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from regista.cli._chains import Convention, Format, Kind, Like, Moving, read_optional
from regista.cli._console import Debug, Json, complain, guarded, say, say_json


@guarded
def info(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Images, transforms, points, surfaces, records, result folders of register, motion and register-slices.",
        ),
    ],
    kind: Kind = None,
    like: Like = None,
    moving: Moving = None,
    format: Format = None,
    convention: Convention = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Describe files: geometry, values, what a transform is made of; and the result folder of a registration.

    A file that cannot be read is told, and the others are described all the same; the exit code is then 2.
    """
    from regista.core import RegistaError

    fixed, other = read_optional(like), read_optional(moving)
    options = {"format": format, "convention": convention, "fixed": fixed, "moving": other}
    described, bad = [], 0
    for path in files:
        try:
            entry = _entry(path, kind, options)
        except RegistaError as error:
            entry, bad = {"error": str(error)}, bad + 1
        described.append(entry)
        if as_json:
            continue
        if "error" in entry:
            complain(f"Error: {entry['error']}")
        else:
            say(str(path))
            _print(entry, 1)
    if as_json:
        say_json({"files": [{"file": str(p), **e} for p, e in zip(files, described, strict=True)]})
    return 2 if bad else 0


def _entry(path: Path, kind: str | None, options: dict[str, Any]) -> dict[str, Any]:
    from regista.cli._kinds import fsl_field, load
    from regista.core import FormatError

    if kind is None and (path / "record.json").is_file():
        return _result(path, options)
    if kind is None and (path / "model.json").is_file():
        raise FormatError(f"{path} is a model's folder: regista models show {path} tells what it is")
    record = None if kind else read_record(path) or read_image_record(path)
    if record is not None:
        return {"kind": "record", **record}
    own = fsl_field(path) if kind is None and options["format"] is None else None
    if own is not None:
        from regista.io import read

        return {"kind": "transform", "transform": own, "grid": read(path).grid.describe()}
    found, thing = load(path, kind, **options)
    return {"kind": found, **describe(thing)}


def _result(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Describe the folder that ``regista register``, ``motion`` or ``register-slices`` left."""
    from regista.cli import _motion, _register_slices
    from regista.cli._register import RESULTS
    from regista.core import FormatError, RegistaError
    from regista.io import read_transform

    record = read_record(folder / "record.json")
    if record is None:
        raise FormatError(
            f"{folder / 'record.json'} is not a record of regista register, motion or register-slices"
        )
    tree: dict[str, Any] = {"kind": "result", **record}
    if "series" in record:
        tree[_motion.TRANSFORMS] = len(_motion.earlier_transforms(folder))
        return tree | _present(folder, _motion.RESULTS[:-1])
    if "slices" in record:
        tree[_motion.TRANSFORMS] = len(_motion.earlier_transforms(folder, _register_slices.PREFIX))
        return tree | _present(folder, _register_slices.RESULTS[:-1])
    for name in RESULTS[1:-1]:
        if not (folder / name).exists():
            tree[name] = "missing"
            continue
        try:
            tree[name] = [_transform(read_transform(folder / name))]
        except RegistaError as error:
            raise FormatError(f"{folder}: {error}") from None
    return tree | _present(folder, RESULTS[:1])


def _present(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: "there" if (folder / name).exists() else "missing" for name in names}


def _print(tree: dict[str, Any], depth: int) -> None:
    for key, value in tree.items():
        pad = "  " * depth
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for n, item in enumerate(value, start=1):
                say(f"{pad}{key}" if len(value) == 1 else f"{pad}{key} {n}")
                _print(item, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], list):
            say(f"{pad}{key}")
            for row in value:
                say(pad + "  " + " ".join(f"{v:12.6f}" for v in row))
        elif key in ("summary", "warnings"):
            for line in value:
                say(f"{pad}{line}" if key == "summary" else f"{pad}warning: {line}")
        else:
            say(f"{pad}{key}: {value}")


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the gist of a ``record.json``, or None if the file is something else."""
    from regista.cli._summary import summary_of

    if path.suffix.lower() != ".json":
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return {
            "status": tree["status"],
            "summary": summary_of(tree),
            "plan": " → ".join(_steps(tree)),
            **{role: entry.get("path") or entry["space"] for role, entry in tree["inputs"].items()},
            **({"slices": len(tree["measures"]["slices"])} if "slices" in tree["measures"] else {}),
            **{f"seconds, {name}": round(seconds, 2) for name, seconds in tree["timings"].items()},
            "threads": tree["threads"],
            "seed": tree["seed"],
            "peak memory (GB)": round(tree["peak_memory_bytes"] / 1e9, 2),
            "warnings": list(tree["warnings"]),
            "regista": tree["versions"]["regista"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _steps(record: dict[str, Any]) -> list[str]:
    """Return the names of a run's plan, or of its network and the plans around it."""
    from regista.cli._summary import plans_of

    before, after = (plan.get("name") for plan in plans_of(record))
    return [name for name in (before, record["measures"].get("model", {}).get("name"), after) if name]


def read_image_record(path: Path) -> dict[str, Any] | None:
    """Return the gist of the record beside a preprocessed or stripped image, or None if the file is something else."""
    if path.suffix.lower() != ".json":
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        described: dict[str, Any] = {"program": tree["program"]}
        described |= {role: file for role, file in tree.get("files", {}).items() if file}
        if tree["program"] == "preprocess":
            described |= {f"{role} grid": tree[role]["grid"] for role in ("input", "output")}
            for number, step in enumerate(tree["steps"], start=1):
                described[f"step {number}"] = _step(step)
        else:
            described |= tree["parameters"] | {
                name: value for name, value in tree["measures"].items() if not isinstance(value, dict | list)
            }
            described |= {f"seconds, {name}": round(value, 2) for name, value in tree["timings"].items()}
        more = {"threads": tree["threads"], "warnings": list(tree.get("warnings", ()))}
        return described | more | {"regista": tree["versions"]["regista"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _step(entry: dict[str, Any]) -> str:
    """Return a step of a record as a line: its name, settings, what it measured, how long it took."""
    settings = {
        key: value
        for key, value in entry.items()
        if key not in ("step", "measured", "grid", "seconds") and value is not None
    }
    told = _words(settings)
    measured = _words(entry["measured"])
    return (
        str(entry["step"])
        + (f" ({told})" if told else "")
        + (f": {measured}" if measured else "")
        + f", {entry['seconds']:.1f} s"
    )


def _words(values: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} {text(value)}" for key, value in values.items() if not isinstance(value, dict))


def describe(thing: Any) -> dict[str, Any]:
    """Return what there is to know about an image, transform, points or mesh."""
    from regista.core import Image, Mesh, PointSet

    if isinstance(thing, Image):
        return _image(thing)
    if isinstance(thing, PointSet):
        return {"points": len(thing.points_mm), **_extent(thing.points_mm)}
    if isinstance(thing, Mesh):
        return {
            "vertices": len(thing.vertices_mm),
            "triangles": len(thing.faces),
            **_extent(thing.vertices_mm),
        }
    return _transform(thing)


def _extent(points: Any) -> dict[str, Any]:
    if not len(points):
        return {}
    low, high = points.min(axis=0), points.max(axis=0)
    return {
        "from (RAS mm)": [round(float(v), 3) for v in low],
        "to (RAS mm)": [round(float(v), 3) for v in high],
    }


def _image(image: Any) -> dict[str, Any]:
    import numpy as np

    from regista.core import LabelImage
    from regista.io import non_finite_count

    tree: dict[str, Any] = {
        "image": image.kind,
        "grid": image.grid.describe(),
        "voxels": image.data.dtype.name,
    }
    if image.kind != "scalar":
        tree["frames" if image.kind == "series" else "channels"] = len(image.data)
        if image.frame_seconds is not None:
            tree["seconds per frame"] = image.frame_seconds
        if len(image.data) == image.ndim and image.data.dtype.kind == "f":
            tree["perhaps a field"] = (
                f"{image.ndim} values per voxel; if they are displacements, name the tool: --format fsl, fsl-absolute, "
                "afni, learn2reg or voxelmorph, with the images it belongs to (--like FIXED --moving MOVING)"
            )
    bad = non_finite_count(image)
    finite = image.data[np.isfinite(image.data)] if bad else image.data
    if finite.size:
        tree["range"] = [float(finite.min()), float(finite.max())]
    if bad:
        tree["NaN or Inf voxels"] = bad
    if isinstance(image, LabelImage):
        tree["labels"] = len(image.labels)
    return tree


def _transform(transform: Any) -> dict[str, Any]:
    from regista.transforms import Composite

    parts = [_part(part) for part in Composite((transform,)).flatten().transforms]
    spaces = {"fixed space": transform.fixed_space or "?", "moving space": transform.moving_space or "?"}
    if len(parts) == 1:
        return {**parts[0], **spaces}
    return {"transform": f"chain of {len(parts)}, first applied first", **spaces, "part": parts}


def _part(part: Any) -> dict[str, Any]:
    import numpy as np

    from regista.transforms import Affine, BSplineField, VelocityField, jacobian_determinant

    tree: dict[str, Any] = {"transform": type(part).__name__, "dimensions": part.ndim}
    if isinstance(part, Affine):
        tree["matrix (RAS mm, fixed to moving)"] = part.matrix.tolist()
        tree["volume change"] = round(float(np.linalg.det(part.matrix[:-1, :-1])), 6)
        return tree
    if isinstance(part, BSplineField):
        tree["control points"] = part.grid.describe()
        part = part.displacement(part.domain())
    else:
        tree["grid"] = part.grid.describe()
    if isinstance(part, VelocityField):
        speeds = np.sqrt(np.einsum("i...,i...->...", part.vectors_mm, part.vectors_mm))
        tree["velocity (mm)"] = (
            f"mean {speeds.mean():.3f}, largest {speeds.max():.3f}, {part.steps} squarings"
        )
        part = part.displacement()
    lengths = np.sqrt(np.einsum("i...,i...->...", part.vectors_mm, part.vectors_mm))
    tree["displacement (mm)"] = f"mean {lengths.mean():.3f}, largest {lengths.max():.3f}"
    determinant = jacobian_determinant(part, part.grid)
    tree["Jacobian"] = f"{determinant.min():.3f} to {determinant.max():.3f}"
    tree["folded voxels (%)"] = round(100 * float(np.mean(determinant <= 0)), 5)
    return tree
