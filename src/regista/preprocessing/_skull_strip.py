"""Skull-stripping as a step."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from regista.core import GeometryError, Image, PlanError
from regista.preprocessing._step import Outcome, Step, check_intensities, load, mask_array, needs_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SkullStrip(Step):
    """Remove everything but the brain by registering a template; later steps take their statistics in it.

    Parameters
    ----------
    template : Image or file name, optional
        Template to look for (default: the stripped MNI152 T1 that nilearn ships). Goes with
    template_mask : Image or file name, optional
        Its brain mask.
    refine_mm : float
        How far intensities may move the registered edge, mm, 0 … 5; 0 for not at all.

    Notes
    -----
    Calls `regista.atlas.skull_strip`, which says how it works.
    """

    name: ClassVar[str] = "skull-strip"
    template: Image | str | None = None
    template_mask: Image | str | None = None
    refine_mm: float = 1.5

    def __post_init__(self) -> None:
        if (self.template is None) != (self.template_mask is None):
            given, missing = ("template", "template_mask")[:: 1 if self.template_mask is None else -1]
            raise PlanError(
                f"skull-strip.{given} needs skull-strip.{missing} too: the mask says which part of the template is brain"
            )
        if not 0 <= self.refine_mm <= 5:
            raise PlanError(f"skull-strip.refine_mm is between 0 and 5 mm, got {self.refine_mm}")

    def resolved(self, read: Callable[[str], Image]) -> SkullStrip:
        """Return the step with its template and mask read."""
        return replace(self, template=load(self.template, read), template_mask=load(self.template_mask, read))

    def apply(self, image: Image, mask: Image | None = None) -> Outcome:
        """Return the image, 0 outside the brain, and the brain's mask; a mask given before bounds it."""
        check_intensities(image, self.name)
        bound = mask_array(image, mask)
        needs_file(self, "template", self.template)
        needs_file(self, "template_mask", self.template_mask)
        # by name: it registers, and a registration may preprocess, so its package lies above this one
        atlas = importlib.import_module("regista.atlas")
        template = None if self.template is None else atlas.Template(self.template, self.template_mask)
        found = atlas.skull_strip(image, template, refine_mm=self.refine_mm)
        for warning in found.record["warnings"]:
            _log.warning("skull-strip: %s", warning)
        measured = {**found.record["measures"], "warnings": list(found.record["warnings"])}
        if bound is None:
            return Outcome(found.brain, found.mask, measured)
        inside = (found.mask.data > 0) & bound
        if not inside.any():
            raise GeometryError(
                "skull-strip: the brain found lies outside the mask that was given: is it the brain's?"
            )
        brain = image.with_data(np.where(inside, image.data, 0).astype(image.data.dtype))
        return Outcome(brain, found.mask.with_data(inside.astype(np.uint8)), measured)
