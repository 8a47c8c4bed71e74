"""What needs a registration first: brain extraction by a template, ablation of preprocessing."""

from regista.atlas._ablation import ablate
from regista.atlas._skull_strip import Stripped, skull_strip
from regista.atlas._template import Template, mni152

__all__ = ["Stripped", "Template", "ablate", "mni152", "skull_strip"]
