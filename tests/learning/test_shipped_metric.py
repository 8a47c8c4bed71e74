"""The T1–T2 metric of the package: whole, small, with its terms, and right on a patient it was not trained on."""

from __future__ import annotations

import json

import pytest

from regista.io import read
from regista.learning import verify_model
from regista.registration import metric_landscape
from regista.similarity import DeepMetric, known_metrics

NAME = "brain-t1-t2"


def test_it_is_whole_small_and_says_where_it_comes_from():
    folder = known_metrics()[NAME]
    assert (
        verify_model(NAME)
        == json.loads((folder / "model.json").read_text(encoding="utf-8"))["weights_sha256"]
    )
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert "CC-BY" in card
    assert "Lesjak" in card


@pytest.mark.data
def test_it_is_best_where_an_unseen_patient_is_aligned(data_dir):
    held_out = json.loads((known_metrics()[NAME] / "model.json").read_text(encoding="utf-8"))["subjects"][
        "validation"
    ]
    assert held_out == ["patient19"]
    first, second = (
        read(data_dir / "brain_multicontrast" / f"patient19_{name}.nii.gz") for name in ("t1", "t2")
    )
    found = metric_landscape(
        first, second, {"deep": DeepMetric(model=NAME)}, ["tx", "rz"], reach=9, points=7, shrink=4
    )
    for one in found:
        assert abs(one.optimum) < 1.5
        assert min(one.capture_range) >= 6
