"""`regista register --model`: what it does, records and tells, and how far a network is followed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
from commands import call

from regista.cli._models import _joined, linear_plan
from regista.core import Image, RunRecord
from regista.io import read, read_transform, write
from regista.learning import RegistrationModel
from regista.transforms import Translation


def test_a_network_in_the_place_of_a_metric_is_told(trained, slices, tmp_path):
    words = (slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "o")
    for name in ("any-contrast", trained.as_posix()):
        plan = f'[[stages]]\nmodel = "rigid"\nsimilarity = {{deep = "{name}"}}\n'
        (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
        refused = call("register", *words, "--plan", tmp_path / "plan.toml")
        assert refused.exit_code == 2
        for part in ("is a network that registers", f"--model {name}", "brain-t1-t2"):
            assert part in refused.stderr


@pytest.mark.parametrize("refined", [False, True])
def test_register_by_a_model(trained, slices, tmp_path, refined):
    more = ("--refine", "2d", "--set", "stages.diffeomorphic.steps=[3,3,3,3,3]") if refined else ()
    words = (slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "out", "--model", trained)
    done = call("register", *words, *more, "--no-verdict", "--threads", 2)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["measures"]["model"]["name"] == "tiny"
    assert "initial_fixed2moving" not in record["measures"]  # the network's field is no start that was given
    assert record["measures"].get("refined", False) == refined
    assert record["timings"]["network"] > 0
    # it was trained on scans as they lie: no linear stage comes before it
    np.testing.assert_allclose(record["measures"]["linear_fixed2moving"], np.eye(3), atol=1e-12)
    fixed = read(slices / "p0_t1.nii.gz")
    warped = read(tmp_path / "out" / "warped.nii.gz")
    assert warped.grid.same_as(fixed.grid)
    there, back = (read_transform(tmp_path / "out" / f"{n}.h5") for n in ("fixed2moving", "moving2fixed"))
    points = fixed.grid.index2world([[16.0, 19.0], [12.0, 22.0]])
    np.testing.assert_allclose(back.map_points(there.map_points(points)), points, atol=0.1)


def test_an_answer_that_helps_nothing_is_not_kept_and_that_is_told(trained, slices, tmp_path):
    words = (slices / "p0_t1.nii.gz", slices / "p0_t1.nii.gz", "--model", trained, "--threads", 1)
    done = call("register", *words, "-o", tmp_path / "out", "--passes", 3, "--no-verdict", "--no-report")
    assert done.exit_code == 0, done.output
    assert "found nothing that makes the images noticeably more alike" in done.stderr
    assert "--passes 1" in done.stderr
    assert ": not followed (in 3 passes at most)" in done.stdout
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert (record["measures"]["model"]["passes"], record["measures"]["model"]["passes_followed"]) == (3, 0)
    there = read_transform(tmp_path / "out" / "fixed2moving.h5")
    np.testing.assert_allclose(there.map_points([[3.0, 4.0]]), [[3.0, 4.0]], atol=1e-9)
    once = call("register", *words, "-o", tmp_path / "once", "--no-verdict", "--no-report")
    record = json.loads((tmp_path / "once" / "record.json").read_text(encoding="utf-8"))
    assert (record["measures"]["model"]["passes"], record["measures"]["model"]["passes_followed"]) == (1, 1)
    assert once.stderr == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--passes", "3"), "--passes goes with --model"),
        (("--model", "any-contrast", "--passes", "11"), "10"),
    ],
)
def test_passes_that_make_no_sense_are_refused(slices, tmp_path, words, told):
    refused = call(
        "register", slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "out", *words
    )
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("refined", [False, True])
def test_what_a_network_did_is_told_apart_from_the_stages_around_it(trained, slices, tmp_path, refined):
    shutil.copytree(trained, tmp_path / "turned")
    settings = json.loads((trained / "model.json").read_text(encoding="utf-8")) | {"alignment": "rigid"}
    (tmp_path / "turned" / "model.json").write_text(json.dumps(settings), encoding="utf-8")
    more = ("--refine", "2d", "--set", "stages.diffeomorphic.steps=[3,3,3,3,3]") if refined else ()
    words = (slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "out", "--threads", 1)
    done = call("register", *words, "--model", tmp_path / "turned", *more)
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    sha = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert record["measures"]["model"]["weights_sha256"] == sha
    assert record["versions"]["torch"] == metadata.version("torch")
    stages = ["rigid", "diffeomorphic"] if refined else ["rigid"]
    assert list(dict.fromkeys(level["stage"] for level in record["history"])) == stages
    assert set(stages) <= set(record["timings"])
    lines = [line.strip() for line in done.stdout.splitlines()]
    course = next(
        n for n, line in enumerate(lines) if line.startswith("before the network: rigid, finest level")
    )
    bending = "without and with what bends, information 0."
    network = f"network turned (voxelmorph-1, weights {sha[:12]})"
    if refined:
        assert lines[course + 1] == network
        assert lines[course + 3].startswith(f"network and refinement: {bending}")
    else:
        assert lines[course + 1].startswith(f"{network}: {bending}")
    assert lines[course + 2].startswith("after it: diffeomorphic, finest level") == refined
    assert ("finest level" in lines[course + 2]) == refined
    plans = "rigid → turned → 2d" if refined else "rigid → turned"
    assert f"plan: {plans}\n" in call("info", tmp_path / "out").stdout
    page = " ".join((tmp_path / "out" / "report.html").read_text(encoding="utf-8").split())
    steps = ["<summary>Linear stages: rigid<", "Network turned: voxelmorph-1, voxels of 1.2 × 1.2 mm, on cpu"]
    steps += ["<summary>Refinement: diffeomorphic<"] if refined else []
    places = [page.index(step) for step in steps]
    assert places == sorted(places)
    assert "<summary>Plan<" not in page
    assert f">turned</th><td>{sha[:12]}…</td>" in page


@pytest.mark.parametrize("more", [(), ("--refine", "2d", "--set", "stages.diffeomorphic.steps=[3,3,3,3,3]")])
def test_register_by_a_model_from_a_given_linear_map(trained, slices, tmp_path, more):
    write(tmp_path / "start.h5", Translation.by([1.0, 2.0]))
    words = (slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "out", "--model", trained)
    done = call("register", *words, "--initial", tmp_path / "start.h5", "--json", "--no-verdict", *more)
    assert done.exit_code == 0, done.output
    measures = json.loads(done.stdout)["measures"]
    for name in ("linear_fixed2moving", "initial_fixed2moving"):
        np.testing.assert_allclose(np.array(measures[name])[:2, 2], [1.0, 2.0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--refine", "2d"), "--refine goes with --model"),
        (("--device", "cpu"), "--device goes with --model"),
        (("--model", "here", "--device", "gpu"), "'auto', 'cpu' or 'cuda', got 'gpu'"),
        (("--model", "here", "--preset", "2d"), "takes the place of --preset"),
        (("--model", "nowhere"), "no model 'nowhere'"),
        (("--model", "here", "--refine", "affine"), "deformable stages, .* has none"),
        (("--model", "here", "--set", "start.search=none"), "name one by --refine"),
    ],
)
def test_options_that_do_not_fit(trained, slices, tmp_path, more, message):
    more = [trained if word == "here" else word for word in more]
    done = call("register", slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "o", *more)
    assert done.exit_code == 2
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("alignment", "similarity", "weight", "stages"),
    [
        ("none", "lncc", 1.0, None),
        ("rigid", "lncc", 1.0, [("rigid", "mi")]),
        ("affine", "ssd", 1.0, [("rigid", "ncc"), ("affine", "lncc")]),
        ("affine", "nmi", 1.0, [("rigid", "mi"), ("affine", "mi")]),
        ("affine", "lncc", 0.0, [("rigid", "mi"), ("affine", "mi")]),
    ],
)
def test_a_model_aligns_as_its_training_did(alignment, similarity, weight, stages):
    loss = {"similarity": {"name": similarity}, "similarity_weight": weight}
    plan = linear_plan({"alignment": alignment, "loss": loss})
    found = None if plan is None else [(stage.model, stage.similarity.name) for stage in plan.stages]
    assert found == stages


@pytest.mark.parametrize("alignment", ["none", "rigid", "affine", "multimodal"])
def test_before_a_network_in_passes_linear_stages_are_asked_both_ways_round(alignment):
    settings = {"alignment": alignment, "loss": {"similarity": {"name": "lncc"}, "similarity_weight": 1.0}}
    once, several = (linear_plan(settings | {"passes": passes}) for passes in (1, 3))
    assert (several is None) == (alignment == "none")
    if several is not None:
        assert (once.halfway, several.halfway) == (False, True)
        assert [one.model for one in several.stages] == [one.model for one in once.stages]
        least = {one.model: one.least_stretch for one in several.stages}
        assert least.get("affine", 0.01) == 0.01
        assert least["rigid"] == 0
        assert not any(one.least_stretch for one in once.stages)


def test_a_linear_map_taken_for_rigid_is_told(trained, slices, tmp_path):
    """A scan and the same a little darker: what stretches them is nothing."""
    first = read(slices / "p0_t1.nii.gz")
    write(tmp_path / "darker.nii.gz", Image((0.8 * first.as_float32()).astype(np.float32), first.grid))
    folder = tmp_path / "affine"
    shutil.copytree(trained, folder)
    settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    changed = settings | {"alignment": "affine", "passes": 2}
    (folder / "model.json").write_text(json.dumps(changed), encoding="utf-8")
    words = (slices / "p0_t1.nii.gz", tmp_path / "darker.nii.gz", "-o", tmp_path / "o", "--model", folder)
    for more in ((), ("--refine", "2d")):
        done = call("register", *words, *more)
        assert done.exit_code in (0, 1), done.output
        assert "the linear map is taken for rigid" in done.stdout
        record = json.loads((tmp_path / "o" / "record.json").read_text(encoding="utf-8"))
        assert record["measures"]["stretch"]["left_out"]
        assert record["measures"]["stretch"]["percent"] < 1
        assert record["measures"]["halfway"]["linear_gap_mm"] < 1  # of the rigid parts
        assert "taken for rigid: they stretch by" in (tmp_path / "o" / "report.html").read_text(
            encoding="utf-8"
        )


@pytest.mark.parametrize(
    ("of_model", "told", "both"), [(1, None, False), (1, 2, True), (3, 1, True), (2, None, True)]
)
def test_how_linear_stages_are_asked_goes_by_the_passes_there_may_be(
    trained, slices, tmp_path, monkeypatch, of_model, told, both
):
    folder = tmp_path / "affine"
    shutil.copytree(trained, folder)
    settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    changed = settings | {"alignment": "affine", "passes": of_model}
    (folder / "model.json").write_text(json.dumps(changed), encoding="utf-8")
    bends = []
    whole = RegistrationModel.answer

    def answer(self, *words, bend_first=False, **more):
        bends.append(bend_first)
        return whole(self, *words, bend_first=bend_first, **more)

    monkeypatch.setattr(RegistrationModel, "answer", answer)
    pair = (slices / "p0_t1.nii.gz", slices / "p1_t1.nii.gz", "-o", tmp_path / "o", "--model", folder)
    more = () if told is None else ("--passes", told)
    assert call("register", *pair, *more).exit_code in (0, 1)
    record = json.loads((tmp_path / "o" / "record.json").read_text(encoding="utf-8"))
    assert record["plan"]["halfway"] == both
    write(tmp_path / "start.tfm", Translation.by([0.5, 0.0]))
    assert call("register", *pair, *more, "--initial", tmp_path / "start.tfm").exit_code in (0, 1)
    assert bends == [True, False]  # a start that was given may need more than bending


def record_of(status, **more):
    """Return the record of a part of a run."""
    return RunRecord.from_dict({"status": status, **more})


@pytest.mark.parametrize(
    ("before", "after", "both"),
    [
        ("converged", "converged", "converged"),
        ("step limit", "converged", "step limit"),
        ("converged", "step limit", "step limit"),
        ("non-finite", "step limit", "non-finite"),
        ("step limit", "non-finite", "non-finite"),
    ],
)
def test_a_refinement_is_recorded_with_the_stages_before(before, after, both):
    first = record_of(
        before, timings={"affine": 1.0, "registration": 2.0}, warnings=["a", "b"], plan={"name": "x"}
    )
    second = record_of(after, timings={"registration": 3.0}, warnings=["b", "c"], plan={"name": "y"})
    first, second = (
        replace(one, measures={"predicted_memory_bytes": count}) for one, count in ((first, 7), (second, 5))
    )
    joined = _joined(first, second)
    assert joined.status.value == both
    assert joined.timings == {"affine": 1.0, "registration": 5.0}
    assert joined.warnings == ("a", "b", "c")
    assert joined.plan == {"name": "y"}
    assert joined.measures == {"linear_plan": {"name": "x"}, "predicted_memory_bytes": 7}
