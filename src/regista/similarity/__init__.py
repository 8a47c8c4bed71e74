"""Similarity metrics, each a configuration with `prepare(fixed) → value_and_gradient(warped)`."""

from regista.similarity._base import Prepared, Similarity
from regista.similarity._correlation import NCC, SSD
from regista.similarity._demons import DemonsSSD
from regista.similarity._information import MI, NMI
from regista.similarity._lncc import LNCC

SIMILARITIES = {kind.name: kind for kind in (SSD, NCC, LNCC, MI, NMI, DemonsSSD)}

__all__ = ["LNCC", "MI", "NCC", "NMI", "SIMILARITIES", "SSD", "DemonsSSD", "Prepared", "Similarity"]
