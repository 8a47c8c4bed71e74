"""A registration whose answer is known: real anatomy moved by a map that is written down."""

from regista.demo._error import ErrorSummary, transform_error
from regista.demo._field import KnownMap, make_known_map
from regista.demo._montage import write_montage
from regista.demo._pair import KnownPair, make_known_pair
from regista.demo._run import run_demo

__all__ = [
    "ErrorSummary",
    "KnownMap",
    "KnownPair",
    "make_known_map",
    "make_known_pair",
    "run_demo",
    "transform_error",
    "write_montage",
]
