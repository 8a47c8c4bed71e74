"""Spatial maps in world space (RAS+ mm, from fixed to moving) and what they carry: images, labels, points."""

from regista.transforms._base import Transform
from regista.transforms._composite import Composite
from regista.transforms._fields import DisplacementField, VelocityField, invert_field
from regista.transforms._linear import Affine, Rigid, Similarity, Translation
from regista.transforms._ops import compose, jacobian_determinant, to_displacement_field, with_spaces
from regista.transforms._resample import map_mesh, map_pointset, resample, resample_labels

__all__ = [
    "Affine",
    "Composite",
    "DisplacementField",
    "Rigid",
    "Similarity",
    "Transform",
    "Translation",
    "VelocityField",
    "compose",
    "invert_field",
    "jacobian_determinant",
    "map_mesh",
    "map_pointset",
    "resample",
    "resample_labels",
    "to_displacement_field",
    "with_spaces",
]
