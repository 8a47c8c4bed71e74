"""Spatial maps in world space (RAS+ mm, from fixed to moving) and what they carry: images, labels, points."""

from regista.transforms._base import Transform
from regista.transforms._bspline import BSplineField
from regista.transforms._composite import Composite
from regista.transforms._fields import DisplacementField, VelocityField, invert_field
from regista.transforms._linear import Affine, Rigid, Similarity, Translation
from regista.transforms._ops import compose, jacobian_determinant, to_displacement_field, with_spaces
from regista.transforms._resample import Fill, fill_value, map_mesh, map_pointset, resample, resample_labels
from regista.transforms._spaces import check_direction
from regista.transforms._tps import SplineFit, ThinPlateSpline

__all__ = [
    "Affine",
    "BSplineField",
    "Composite",
    "DisplacementField",
    "Fill",
    "Rigid",
    "Similarity",
    "SplineFit",
    "ThinPlateSpline",
    "Transform",
    "Translation",
    "VelocityField",
    "check_direction",
    "compose",
    "fill_value",
    "invert_field",
    "jacobian_determinant",
    "map_mesh",
    "map_pointset",
    "resample",
    "resample_labels",
    "to_displacement_field",
    "with_spaces",
]
