"""Recorded steps on one image before a registration; world coordinates stay what they are."""

from regista.preprocessing._filters import N4, Denoise, ForegroundMask
from regista.preprocessing._geometry import CropPad, Reorient, Resample
from regista.preprocessing._intensity import Clip, HistogramMatch, PercentileNormalize, ZScore
from regista.preprocessing._nyul import Nyul
from regista.preprocessing._pipeline import STEPS, Pipeline, Preprocessed, list_steps, run
from regista.preprocessing._skull_strip import SkullStrip
from regista.preprocessing._step import Step
from regista.preprocessing._unit_range import unit_range

__all__ = [
    "N4",
    "STEPS",
    "Clip",
    "CropPad",
    "Denoise",
    "ForegroundMask",
    "HistogramMatch",
    "Nyul",
    "PercentileNormalize",
    "Pipeline",
    "Preprocessed",
    "Reorient",
    "Resample",
    "SkullStrip",
    "Step",
    "ZScore",
    "list_steps",
    "run",
    "unit_range",
]
