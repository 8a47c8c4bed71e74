"""Slices of two contrasts whose true map is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regista.registration import load_plan, register


@pytest.mark.data
def test_a_slice_of_another_contrast_is_not_turned_the_wrong_way(script, data_dir, tmp_path) -> None:
    cases = script("harness.verdict_cases").ordinary(data_dir, tmp_path, ("T1-T2 slice",))
    case = next(one for one in cases if one.name == "S15")  # at 28 voxels the start was off by 120°
    plan = load_plan("2d-multimodal")
    affine = replace(plan, stages=plan.stages[:-1])
    errors = {}
    for name, tried in (("affine", affine), ("whole", plan)):
        shown = case.fixed.as_float32()
        points = case.fixed.grid.index2world(np.argwhere(shown > shown.mean())[::7])
        found = register(case.fixed, case.moving, tried).transform
        away = np.linalg.norm(found.map_points(points) - case.truth.map_points(points), axis=1)
        errors[name] = float(away.mean())
    assert errors["affine"] < 3
    assert errors["whole"] < 3
