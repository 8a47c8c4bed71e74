"""Plans: presets, TOML round trip, overrides, and a parser that meets anything with a clear error."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regista.core import FormatError, PlanError, RegistaError
from regista.registration import (
    ConvexStage,
    DeformableStage,
    DemonsStage,
    FreeFormStage,
    LinearStage,
    Plan,
    VelocityStage,
    list_presets,
    load_plan,
    plan_from_dict,
    plan_to_dict,
    plan_to_toml,
)
from regista.registration._channels import metric_volumes
from regista.regularization import InverseConsistency
from regista.similarity import LNCC, MI, MIND, NGF, NMI, SSD, CorrelationRatio, DemonsSSD, Sum

PRESETS = sorted(list_presets())


def test_the_promised_presets_are_there_and_described():
    promised = {
        "rigid",
        "affine",
        "fast",
        "brain-t1",
        "accurate",
        "multimodal",
        "lung-ct",
        "2d",
        "histology",
        "lung-mri",
    }
    models = {"syn", "syn-cc", "demons", "diffeomorphic-demons", "log-demons", "svf", "bspline-mi", "convex"}
    assert promised | models <= set(PRESETS)
    assert all(list_presets().values())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_the_round_trip(name, tmp_path):
    plan = load_plan(name)
    assert plan.name == name
    file = tmp_path / "edited.toml"
    file.write_text(plan_to_toml(plan), encoding="utf-8")
    assert load_plan(file) == plan
    assert plan_from_dict(plan_to_dict(plan)) == plan
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan


def test_preprocessing_is_part_of_a_plan():
    steps = ["n4", {"step": "clip", "percentiles": [1, 99]}, {"step": "resample", "spacing_mm": 2.0}]
    plan = plan_from_dict({"stages": [{"model": "rigid"}], "preprocessing": {"steps": steps}})
    assert [step.name for step in plan.preprocessing.steps] == ["n4", "clip", "resample"]
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan
    assert load_plan("rigid", ["preprocessing.steps=['n4']"]).preprocessing.steps[0].name == "n4"
    with pytest.raises(PlanError, match="no step 'n5'"):
        load_plan("rigid", ["preprocessing.steps=['n5']"])


SPECS = [
    ("mind", MIND()),
    ({"mind": {"radius": 2, "dilation": 3}}, MIND(radius=2, dilation=3)),
    ("ngf", NGF()),
    ({"ngf": {"edge": 0.05}}, NGF(edge=0.05)),
    ({"ngf": {"edge": "auto", "share": 0.1}}, NGF(share=0.1)),
    ({"cr": {"both": True, "bins": 24}}, CorrelationRatio(both=True, bins=24)),
    (
        [
            {"weight": 0.7, "lncc": {"radius": 3}},
            {"weight": 2, "mi": {}},
            {"weight": 0.3, "ngf": {"edge": 0.1}},
        ],
        Sum(terms=((0.7, LNCC(radius=3)), (2.0, MI()), (0.3, NGF(edge=0.1)))),
    ),
]


@pytest.mark.parametrize(("spec", "metric"), SPECS)
@pytest.mark.parametrize("model", ["rigid", "diffeomorphic"])
def test_metrics_and_their_sums_are_named_in_plans(model, spec, metric):
    plan = plan_from_dict({"stages": [{"model": model, "similarity": spec}], "start": {"similarity": spec}})
    assert plan.stages[0].similarity == plan.start.similarity == metric
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("[{weight = -0.5, mi = {}}]", "weight of a metric in a sum is a number above 0, got -0.5"),
        ("[{weight = 0, mi = {}}]", "a number above 0, got 0.0"),
        ("[{weight = inf, mi = {}}]", "a number above 0, got inf"),
        ('[{weight = "much", mi = {}}]', r"stages.0.similarity.0.weight is a number above 0, got 'much'"),
        ("[{weight = 1, mi = {}}, {mi = {}}]", r"similarity.1 reads like {weight = 0.5, lncc"),
        ("[{weight = 1, mi = {}, lncc = {}}]", r"similarity.0 reads like"),
        ("[{weight = 1}]", r"similarity.0 reads like"),
        (
            "[{weight = 1, mi = {radius = 2}}]",
            r"similarity.0.mi has no setting 'radius'; its settings are bins",
        ),
        ("[{weight = 1, sum = {}}]", "no metric 'sum'; metrics are ssd, .*mind, ngf, cr"),
        ("[]", "at least one term"),
        ("[3]", r"similarity.0 reads like"),
        ("{mind = {size = 2}}", r"similarity.mind has no setting 'size'; its settings are dilation, radius"),
        ("{mind = {radius = 40}}", "mind radius is between 0 and 8"),
        ("{ngf = {edge = -1}}", "ngf edge is 'auto' or an intensity per voxel above 0"),
        ('{ngf = {edge = "none"}}', "edge"),
        ("{cr = {bins = 1}}", "cr bins is between 8 and 254"),
    ],
)
def test_wrong_metrics_are_refused_with_what_would_be_right(spec, message):
    with pytest.raises(PlanError, match=message):
        load_plan("rigid", [f"stages.0.similarity={spec}"])


def test_single_settings_of_a_sum_are_changed():
    terms = "stages.0.similarity=[{weight = 1, mi = {}}, {weight = 2, lncc = {radius = 2}}]"
    changed = load_plan(
        "rigid", [terms, "stages.0.similarity.1.lncc.radius=4", "stages.0.similarity.0.weight=0.5"]
    )
    assert changed.stages[0].similarity == Sum(terms=((0.5, MI()), (2.0, LNCC(radius=4))))
    for override, message in (
        ("stages.0.similarity.2.weight=1", "names term '2' of a sum of metrics; its terms are 0 … 1"),
        ("stages.0.similarity.lncc.radius=1", "names term 'lncc' of a sum"),
        ("stages.0.similarity.0=mi", "would replace a whole term"),
    ):
        with pytest.raises(PlanError, match=message):
            load_plan("rigid", [terms, override])


def test_text_that_needs_escaping_survives():
    plan = Plan(name='a "b" \\ c', description="two\nlines\tand é", stages=(LinearStage(model="rigid"),))
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan


def test_control_characters_survive():
    plan = Plan(name="bell \x07, delete \x7f, return \r", stages=(LinearStage(model="rigid"),))
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan


@pytest.mark.parametrize(
    ("override", "look", "value"),
    [
        ("stages.diffeomorphic.step_vox=0.5", lambda p: p.stages[-1].step_vox, 0.5),
        ("stages.0.similarity.mi.bins=24", lambda p: p.stages[0].similarity, MI(bins=24)),
        ("stages.diffeomorphic.similarity=ssd", lambda p: p.stages[-1].similarity, SSD()),
        (
            "stages.diffeomorphic.similarity={nmi = {bins = 20}}",
            lambda p: p.stages[-1].similarity,
            NMI(bins=20),
        ),
        ("start.search=centers", lambda p: p.start.search, "centers"),
        ("clip_percentiles=[1, 99]", lambda p: p.clip_percentiles, (1, 99)),
        ("name=mine", lambda p: p.name, "mine"),
    ],
)
def test_single_settings_are_changed(override, look, value):
    before, after = load_plan("multimodal"), load_plan("multimodal", [override])
    assert look(after) == value
    assert look(before) != value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.diffeomorphic.step=1", "no setting 'step'; did you mean 'steps'.*step_vox"),
        ("stages.elastic.step_vox=1", "names stage 'elastic'; the plan's stages are"),
        ("stages.7.step_vox=1", "names stage '7'"),
        ("stages.diffeomorphic.step_vox=9", "step_vox is above 0 and at most 2"),
        ("stages.diffeomorphic.step_vox=fast", "step_vox"),
        ("stages.diffeomorphic.similarity=psnr", "no metric 'psnr'; metrics are ssd"),
        ("stages.diffeomorphic.similarity.lncc.radius=0", "radius is between 1 and 16"),
        ("stages.diffeomorphic.shrink=[1, 2]", "one entry per level|coarse to fine"),
        ("start.search=everywhere", "start.search"),
        ("speed=9", "no setting 'speed'"),
        ("start.search", "PATH=VALUE"),
        ("=3", "PATH=VALUE"),
        ("description.first=x", "is a value, not a section"),
        ("stages.0=rigid", "replace a whole stage"),
        ("clip_percentiles=[99, 1]", "clip_percentiles"),
    ],
)
def test_wrong_settings_are_refused_with_what_would_be_right(override, message):
    with pytest.raises(PlanError, match=message):
        load_plan("fast", [override])


def test_a_model_of_two_stages_is_named_by_number():
    stages = [s.model for s in load_plan("brain-multimodal").stages]
    first, second = (n for n, model in enumerate(stages) if model == "diffeomorphic")
    ways = rf"2 stages 'diffeomorphic'.*stages\.{first}\.step_vox=0\.3 or stages\.{second}\.step_vox=0\.3"
    with pytest.raises(PlanError, match=ways):
        load_plan("brain-multimodal", ["stages.diffeomorphic.step_vox=0.3"])
    after = load_plan("brain-multimodal", [f"stages.{second}.step_vox=0.3"]).stages
    assert after[second].step_vox == 0.3
    assert after[first] == load_plan("brain-multimodal").stages[first]


def test_steps_of_demons_need_forces_that_are_steps():
    with pytest.raises(PlanError, match=r"those of lncc are none; take similarity = 'demons', .*'svf'"):
        DemonsStage(similarity=LNCC())
    with pytest.raises(PlanError, match="those of lncc are none"):
        load_plan("demons", ["stages.demons.similarity=lncc"])
    with pytest.raises(PlanError, match="those of ssd are none; take similarity = 'demons'"):
        VelocityStage(similarity=SSD(), gradient="composition", natural_step=True)
    with pytest.raises(PlanError, match=r"natural_step = true .*take gradient = 'composition'"):
        VelocityStage(similarity=DemonsSSD(), natural_step=True)


@pytest.mark.parametrize(
    "last",
    [VelocityStage(), FreeFormStage(penalties=(InverseConsistency(weight=0.1),))],
    ids=["svf", "pair of maps"],
)
def test_a_stage_that_cannot_start_from_a_bent_map_is_the_first_that_bends(last):
    rigid = LinearStage(model="rigid")
    for before in (ConvexStage(), DeformableStage()):
        with pytest.raises(PlanError, match=rf"stages\.2: '{last.model}' cannot start from the map"):
            Plan(stages=(rigid, before, last))
    assert Plan(stages=(rigid, last, DeformableStage())).stages[1] == last


@pytest.mark.parametrize("metric", [LNCC(), MIND()], ids=["lncc", "mind"])
def test_models_that_hold_more_need_more_memory(metric):
    plain, syn = DeformableStage(similarity=metric), DeformableStage(model="syn", similarity=metric)
    assert syn.volumes >= plain.volumes + metric.volumes + 20  # two fields, and a metric each way
    svf = [VelocityStage(similarity=metric, squarings=n).volumes for n in (6, 12)]
    assert svf[0] >= plain.volumes + 38
    assert svf[1] == svf[0] + 18  # the adjoint keeps the field of every squaring
    for stage in (syn, VelocityStage(similarity=metric)):
        assert metric_volumes(stage, 2) > metric_volumes(stage, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"fixed_surround": "hide"}, "fixed_surround is 'fill' or 'keep', got 'hide'"),
        ({"mask_margin_mm": -1.0}, "mask_margin_mm is between 0 and 1000 mm, got -1.0"),
        ({"stages": (DeformableStage(), LinearStage(model="affine"))}, "linear stages come before"),
        ({"clip_percentiles": (5, 120)}, "clip_percentiles"),
    ],
)
def test_plans_check_themselves(change, message):
    with pytest.raises(PlanError, match=message):
        replace(load_plan("rigid"), **change)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FormatError, match="cannot read the plan"):
        load_plan(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(FormatError, match="cannot read the plan"):
        load_plan(tmp_path / "bytes.toml")
    (tmp_path / "broken.toml").write_text("stages = [", encoding="utf-8")
    with pytest.raises(PlanError, match="not valid TOML"):
        load_plan(tmp_path / "broken.toml")


# What comes below must end in a plan or in one of our own errors, whatever goes in.

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        "name",
        "description",
        "clip_percentiles",
        "start",
        "start.search",
        "start.similarity",
        "start.candidates",
        "stages",
        "stages.0",
        "stages.affine.model",
        "stages.affine.shrink",
        "stages.1.steps",
        "stages.1.similarity",
        "stages.1.similarity.lncc",
        "stages.1.similarity.lncc.radius",
        "stages.1.similarity.0",
        "stages.1.similarity.0.weight",
        "stages.1.update_sigma_vox",
        "stages.1.symmetric_force",
        "stages.1.window",
    ]
)
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survive(call) -> None:
    try:
        plan = call()
    except RegistaError as refusal:
        plan, reason = None, str(refusal)
    if plan is None:
        assert reason
    else:
        assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan


@QUICK
@given(PATHS, ANYTHING)
def test_any_value_at_any_place(path, value):
    tree = plan_to_dict(load_plan("fast"))
    place, keys = tree, path.replace("affine", "0").split(".")
    for key in keys[:-1]:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    if isinstance(place, list):
        place[int(keys[-1])] = value
    else:
        place[keys[-1]] = value
    survive(lambda: plan_from_dict(tree))


@QUICK
@given(PATHS, TEXT | st.integers().map(str) | st.floats().map(str) | st.just("[1, [2]]"))
def test_any_override(path, text):
    survive(lambda: load_plan("fast", [f"{path}={text}"]))


@QUICK
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30))
def test_any_text_as_override(text):
    survive(lambda: load_plan("fast", [text]))


@QUICK
@given(st.dictionaries(TEXT | st.sampled_from(["name", "stages", "start"]), ANYTHING, max_size=4))
def test_any_tree(tree):
    survive(lambda: plan_from_dict(tree))


@settings(QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_file(tmp_path, data):
    text = plan_to_toml(load_plan("fast"))
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 20))
    damaged = text[:at] + data.draw(st.text(max_size=5)) + text[at + cut :]
    file = tmp_path / "plan.toml"
    file.write_bytes(damaged.encode("utf-8", "surrogatepass"))
    survive(lambda: load_plan(file))


@pytest.mark.parametrize("kept", [(0, 1), (1, 2, 3), (0, 2)])
def test_levels_that_stay_keep_their_settings(kept):
    whole = load_plan("brain-t1").stages[-1]
    shrink = [whole.shrink[n] for n in kept]
    cut = load_plan("brain-t1", overrides=[f"stages.diffeomorphic.shrink={shrink}"]).stages[-1]
    for name in ("shrink", "steps", "update_sigma_vox", "saturation"):
        assert getattr(cut, name) == tuple(getattr(whole, name)[n] for n in kept)


def test_settings_given_for_fewer_levels_hold_and_new_levels_need_their_own():
    own = load_plan("brain-t1", overrides=["stages.2.steps=[7, 6]", "stages.2.shrink=[8, 4]"])
    assert own.stages[-1].steps == (7, 6)
    with pytest.raises(PlanError, match="one entry per level"):
        load_plan("brain-t1", overrides=["stages.2.shrink=[6, 3]"])
