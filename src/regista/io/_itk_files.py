"""ITK's transform files: ``.h5`` composites, ``.tfm``/``.txt`` and MATLAB ``.mat``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, Grid
from regista.io._files import read_text, reading, write_bytes, write_text
from regista.io._h5_text import read_text as h5_text
from regista.io._itk_elements import (
    Element,
    deinterleave,
    from_elements,
    interleave,
    spaces_of,
    to_elements,
)
from regista.transforms import Composite, DisplacementField, Transform, VelocityField

_GROUP, _OURS, _VELOCITY = "TransformGroup", "Regista", "Velocity"
_HEADER = "#Insight Transform File V1.0"


def read_h5(path: Path, grid: Grid | None = None) -> Transform:
    """Read an ITK HDF5 transform or composite."""
    with reading(path, "an ITK HDF5 transform"):
        import h5py

        with h5py.File(path, "r") as file:
            if _GROUP not in file:
                raise FormatError("it is HDF5 but holds no ITK transform (no group TransformGroup)")
            group = file[_GROUP]
            elements = [_h5_element(path, group[key]) for key in sorted(group, key=int)]
            spaces = _read_spaces(file)
            velocities = _read_velocities(file)
        return _with_velocities(from_elements(_in_order(elements), spaces, grid), velocities)


def _in_order(elements: list[Element]) -> list[Element]:
    """Return elements as they are applied: ITK's composite applies the last one first."""
    parts = [e for e in elements if e.name != "CompositeTransform"]
    return parts[::-1]


def _h5_element(path: Path, node: Any) -> Element:
    kind = h5_text(path, node["TransformType"])
    values = []
    for name in ("Parameters", "FixedParameters"):
        # ITK before version 5 misspelt it
        key = next((k for k in (f"Transform{name}", f"Tranform{name}") if k in node), None)
        if key is not None and node[key].dtype.kind not in "fiu":
            raise FormatError(f"the {name} of a transform are not numbers")
        values.append(np.empty(0) if key is None else node[key][()].ravel())
    return Element(kind, values[0], np.asarray(values[1], dtype=np.float64))


def _read_spaces(file: Any) -> list[list[str | None]] | None:
    if _OURS not in file or "spaces" not in file[_OURS].attrs:
        return None
    attribute = file[_OURS].attrs.get_id("spaces")
    if attribute.dtype.kind != "S" or attribute.shape != ():  # ours are of fixed length
        return None
    spaces: list[list[str | None]] = json.loads(bytes(file[_OURS].attrs["spaces"]))
    return spaces


def _read_velocities(file: Any) -> dict[int, tuple[NDArray[Any], int]]:
    """Return the velocities behind displacements, and their squarings, by place in the order of application."""
    found: dict[int, tuple[NDArray[Any], int]] = {}
    if _OURS not in file or _VELOCITY not in file[_OURS]:
        return found
    for key, node in file[_OURS][_VELOCITY].items():
        vectors, squarings = node["vectors"], node["squarings"]
        if vectors.dtype.kind != "f" or squarings.dtype.kind not in "iu" or squarings.size != 1:
            raise FormatError("its velocity field is damaged")
        found[int(key)] = vectors[()].ravel(), int(squarings[()].ravel()[0])
    return found


def _with_velocities(transform: Transform, velocities: dict[int, tuple[NDArray[Any], int]]) -> Transform:
    """Return a chain with velocity fields in place of the displacements they were written with."""
    if not velocities:
        return transform
    parts = list(Composite((transform,)).flatten().transforms)
    for number, (values, squarings) in velocities.items():
        part = parts[number] if 0 <= number < len(parts) else None
        if not isinstance(part, DisplacementField) or values.size != part.vectors_mm.size:
            raise FormatError("its velocity field does not fit its displacement field")
        vectors = deinterleave(values, part.grid.shape)
        parts[number] = VelocityField(vectors, part.grid, squarings, part.fixed_space, part.moving_space)
    return parts[0] if len(parts) == 1 else Composite(tuple(parts))


def write_h5(path: Path, transform: Transform) -> None:
    """Write ITK's HDF5 layout; displacements as float32, uncompressed, and beside them the velocities of flows."""
    import h5py

    elements = to_elements(transform)
    n = transform.ndim
    if len(elements) > 1:
        elements = [Element(f"CompositeTransform_double_{n}_{n}", np.empty(0), np.empty(0)), *elements[::-1]]
    text = h5py.string_dtype("ascii")
    whole = io.BytesIO()  # HDF5 crashes where it finds the disk full, so the disk is left to us
    with h5py.File(whole, "w", libver=("earliest", "v110")) as file:
        file.create_dataset("ITKVersion", data=np.array(["5.4.0"], dtype=object), dtype=text)
        group = file.create_group(_GROUP)
        for number, element in enumerate(elements):
            node = group.create_group(str(number))
            node.create_dataset("TransformType", data=np.array([element.kind], dtype=object), dtype=text)
            if element.name != "CompositeTransform":
                node.create_dataset("TransformFixedParameters", data=element.fixed)
                node.create_dataset("TransformParameters", data=element.parameters)
        ours = file.create_group(_OURS)  # ITK reads TransformGroup alone
        ours.attrs["spaces"] = np.bytes_(json.dumps(spaces_of(transform)))
        for number, part in enumerate(Composite((transform,)).flatten().transforms):
            if isinstance(part, VelocityField):
                node = ours.create_group(f"{_VELOCITY}/{number}")
                node.create_dataset("vectors", data=interleave(part.vectors_mm))
                node.create_dataset("squarings", data=np.array([part.steps], np.int64))
    write_bytes(path, whole.getbuffer())


def is_itk_text(text: str) -> bool:
    """Tell whether a text file is ITK's."""
    return text.lstrip().startswith("#Insight Transform File")


def read_itk_text(path: Path, grid: Grid | None = None) -> Transform:
    """Read ``.tfm`` or ``.txt``."""
    text = read_text(path, "an ITK transform")
    with reading(path, "an ITK transform"):
        if not is_itk_text(text):
            raise FormatError(f"it does not begin with {_HEADER!r}")
        elements: list[Element] = []
        found: dict[str, str] = {}
        for line in [*text.splitlines(), "Transform: end"]:
            key, _, value = line.partition(":")
            if key.strip() == "Transform":
                if found:
                    elements.append(_text_element(found))
                found = {}
            if value:
                found[key.strip()] = value.strip()
        return from_elements(_in_order(elements), None, grid)


def _text_element(found: dict[str, str]) -> Element:
    values = [np.array(found.get(k, "").split(), dtype=np.float64) for k in ("Parameters", "FixedParameters")]
    return Element(found["Transform"], values[0], values[1])


def write_itk_text(path: Path, transform: Transform) -> None:
    """Write ``.tfm`` or ``.txt``; numbers keep all their digits."""
    elements = _linear_only(path, to_elements(transform))
    n = transform.ndim
    if len(elements) > 1:
        elements = [Element(f"CompositeTransform_double_{n}_{n}", np.empty(0), np.empty(0)), *elements[::-1]]
    lines = [_HEADER]
    for number, element in enumerate(elements):
        lines += [f"#Transform {number}", f"Transform: {element.kind}"]
        if element.name != "CompositeTransform":
            lines.append("Parameters: " + " ".join(repr(float(v)) for v in element.parameters))
            lines.append("FixedParameters: " + " ".join(repr(float(v)) for v in element.fixed))
    write_text(path, "\n".join(lines) + "\n")


def read_mat(path: Path, grid: Grid | None = None) -> Transform:
    """Read an ITK transform in MATLAB's version 4 format, as ANTs writes its affines."""
    with reading(path, "an ITK .mat transform"):
        from scipy.io import loadmat

        content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
        kinds = [k for k in content if k != "fixed"]
        if len(kinds) != 1:
            raise FormatError("it is a MATLAB file but holds no single ITK transform")
        fixed = np.asarray(content.get("fixed", np.empty(0)), dtype=np.float64).ravel()
        return from_elements([Element(kinds[0], np.asarray(content[kinds[0]]).ravel(), fixed)], None, grid)


def write_mat(path: Path, transform: Transform) -> None:
    """Write one linear transform in MATLAB's version 4 format."""
    from scipy.io import savemat

    elements = _linear_only(path, to_elements(transform))
    if len(elements) > 1:
        raise FormatError(
            f"{path}: .mat holds one linear transform, got a chain of {len(elements)}; write .h5"
        )
    element = elements[0]
    if element.name == "BSplineTransform":
        raise FormatError(f"{path}: .mat holds one linear transform, got a B-spline; write .tfm or .h5")
    if element.name == "TranslationTransform":  # ANTs reads affines alone from .mat
        n = element.ndim
        values = np.concatenate([np.eye(n).ravel(), element.parameters])
        element = Element(f"AffineTransform_double_{n}_{n}", values, np.zeros(n))
    stream = io.BytesIO()
    content = {element.kind: element.parameters.reshape(-1, 1), "fixed": element.fixed.reshape(-1, 1)}
    savemat(stream, content, format="4")
    write_bytes(path, stream.getvalue())


def _linear_only(path: Path, elements: list[Element]) -> list[Element]:
    if any(e.name == "DisplacementFieldTransform" for e in elements):
        raise FormatError(
            f"{path}: {path.suffix} holds linear transforms and B-splines, got a displacement field; write .h5"
        )
    return elements
