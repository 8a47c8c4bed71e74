"""The only door for file formats: images, labels, points, surfaces and transforms, LPS and RAS."""

from regista.io._files import files_of, replacing, stem_of, suffix_of, write_text
from regista.io._images import non_finite_count, read, read_labels
from regista.io._meshes import read_mesh, write_mesh
from regista.io._points import Convention, read_point_values, read_points, write_points
from regista.io._transforms import TRANSFORM_FORMATS, TransformFormat, read_transform, write_transform
from regista.io._write import write

__all__ = [
    "TRANSFORM_FORMATS",
    "Convention",
    "TransformFormat",
    "files_of",
    "non_finite_count",
    "read",
    "read_labels",
    "read_mesh",
    "read_point_values",
    "read_points",
    "read_transform",
    "replacing",
    "stem_of",
    "suffix_of",
    "write",
    "write_mesh",
    "write_points",
    "write_text",
    "write_transform",
]
