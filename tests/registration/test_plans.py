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
    Start,
    VelocityStage,
    list_presets,
    load_plan,
    plan_from_dict,
    plan_to_dict,
    plan_to_toml,
)
from regista.registration._channels import metric_volumes
from regista.registration._inputs import unused_warnings
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearStage(model="rigid", shrink=(4, 2), steps=(10,)), "one entry per level"),
        (lambda: LinearStage(model="rigid", shrink=(0,), steps=(10,)), "between 1 and 64"),
        (lambda: LinearStage(model="rigid", shrink=(2, 4), steps=(10, 10)), "coarse to fine"),
        (lambda: LinearStage(model="rigid", shrink=(2,), steps=(-1,)), "at least 0"),
        (lambda: LinearStage(model="rigid", tolerance_vox=0), "tolerance_vox"),
        (lambda: DeformableStage(window=1), "window"),
        (lambda: DeformableStage(update_sigma_vox=(-1.0,) * 4), "update_sigma_vox"),
        (lambda: LNCC(radius=40), "radius"),
        (lambda: MI(bins=2), "bins"),
        (lambda: Start(candidates=0), "candidates"),
    ],
)
def test_stages_check_themselves(make, message):
    with pytest.raises(PlanError, match=message):
        make()


NEW_STAGES = {
    "syn": DeformableStage,
    "demons": DemonsStage,
    "svf": VelocityStage,
    "bspline": FreeFormStage,
    "convex": ConvexStage,
}


def one_stage(model, **settings) -> Plan:
    return plan_from_dict({"stages": [{"model": model, **settings}]})


@pytest.mark.parametrize("model", NEW_STAGES)
def test_every_model_has_a_stage_of_its_own_with_defaults(model):
    plan = one_stage(model)
    assert type(plan.stages[0]) is NEW_STAGES[model]
    assert plan.stages[0].model == model
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan
    with pytest.raises(PlanError, match=r"stages.0 has no setting 'speed'; its settings are .*shrink, "):
        one_stage(model, speed=2)


@pytest.mark.parametrize(
    ("model", "name", "values"),
    [
        ("syn", "update_sigma_vox", [3.0, 2.5, 2.0]),
        ("syn", "saturation", [3.0, 2.0, 0.0]),
        ("demons", "field_sigma_vox", [2.0, 1.5, 1.0]),
        ("svf", "update_sigma_vox", [3.0, 2.5, 2.0]),
        ("bspline", "spacing_vox", [8.0, 6.0, 4.0]),
        ("bspline", "spacing_mm", [32.0, 16.0, 8.0]),
        ("convex", "stride", [3, 2, 1]),
        ("convex", "search", [5, 4, 2]),
    ],
)
def test_a_setting_has_one_value_or_one_per_level(model, name, values):
    levels = {"shrink": [8, 4, 2], "steps": [9, 8, 7]}
    if model == "convex":
        levels |= {"stride": [2], "search": [3]}
    stage = one_stage(model, **{**levels, name: values}).stages[0]
    assert [stage.at(n, name) for n in range(3)] == values
    alike = one_stage(model, **{**levels, name: values[:1]}).stages[0]
    assert [alike.at(n, name) for n in range(3)] == values[:1] * 3
    plain = one_stage(model, **{**levels, name: values[0]}).stages[0]
    assert plain == alike
    with pytest.raises(PlanError, match=rf"{model}: {name} has one value or one per level \(3\)"):
        one_stage(model, **{**levels, name: values[:2]})


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("syn", {"step_vox": 3}, "step_vox is above 0 and at most 2 voxels, got 3"),
        ("syn", {"saturation": [101.0]}, "saturation is between 0 and 100"),
        ("demons", {"update": "multiplicative"}, "update.*multiplicative"),
        ("demons", {"step_vox": 1.5}, "step_vox is above 0 and at most 1 voxel, got 1.5"),
        ("demons", {"field_sigma_vox": -1}, "field_sigma_vox is between 0 and 20 voxels"),
        (
            "demons",
            {"similarity": {"demons": {"normalization_vox": 0}}},
            "normalization_vox is between 0 and 20",
        ),
        ("demons", {"similarity": {"demons": {"gradient": "both"}}}, "gradient.*both"),
        ("svf", {"gradient": "numeric"}, "gradient.*numeric"),
        ("svf", {"symmetric": True}, "symmetric velocity field takes gradient = 'composition'"),
        ("svf", {"squarings": 13}, "squarings is between 2 and 12, got 13"),
        ("svf", {"step_decay": 0}, "step_decay is above 0 and at most 1"),
        ("bspline", {"spacing_vox": 0.5}, "spacing_vox is between 1 and 200 voxels, got 0.5"),
        ("bspline", {"spacing_vox": [4, 4, 0]}, "spacing_vox is between 1 and 200 voxels, got 0"),
        ("bspline", {"spacing_mm": -8.0}, "spacing_mm is above 0 mm, got -8"),
        (
            "bspline",
            {"spacing_mm": 8, "spacing_vox": 4},
            r"in voxels \(.*4.*\) and in mm \(.*8.*\); give one",
        ),
        ("bspline", {"max_step_vox": 21}, "max_step_vox is above 0 and at most 20 voxels, got 21"),
        ("bspline", {"memory": 0}, "memory is between 1 and 50 steps, got 0"),
        ("bspline", {"optimizer": "adam"}, "optimizer.*adam"),
        (
            "bspline",
            {"optimizer": "asgd", "samples": 10},
            "samples is between 100 and 10000000 voxels, got 10",
        ),
        ("bspline", {"decay_steps": 0}, "decay_steps is between 1 and 10000 steps, got 0"),
        ("bspline", {"decay_power": 2}, "decay_power is between 0 and 1, got 2"),
        ("bspline", {"optimizer": "asgd", "similarity": "lncc"}, "asgd.*lncc compares.*optimizer = 'lbfgs'"),
        ("convex", {"stride": [0]}, "convex: stride is between 1 and 32"),
        ("convex", {"search": [13]}, "convex: search is between 1 and 12"),
        ("convex", {"radius": 9}, "convex: radius is between 0 and 8 voxels, got 9"),
        ("convex", {"dilation": 0}, "convex: dilation is between 1 and 16 voxels, got 0"),
        ("convex", {"cost_sigma": -1}, "convex: cost_sigma is between 0 and 20"),
        ("convex", {"similarity": "mi"}, "no setting 'similarity'"),
        ("convex", {"shrink": [2, 4, 4]}, "coarse to fine"),
        ("bspline", {"steps": [1, 2]}, "one entry per level"),
    ],
)
def test_settings_of_models_out_of_range(model, settings, message):
    with pytest.raises(PlanError, match=message):
        one_stage(model, **settings)


def test_control_points_are_so_far_apart_in_mm():
    stage = one_stage("bspline", shrink=[8, 4, 2], steps=[9, 8, 7], spacing_mm=[32, 16, 8]).stages[0]
    assert stage.spacing_vox == ()
    assert one_stage("bspline").stages[0].spacing_vox == (5.0,)
    assert [stage.control_spacing(n, (8 / 2**n, 4 / 2**n, 4 / 2**n)) for n in range(3)] == [
        (4.0, 8.0, 8.0)
    ] * 3
    assert stage.control_spacing(2, (2.0, 1.0, 10.0)) == (4.0, 8.0, 1.0)  # not closer than voxels
    assert stage.control_spacing(2, (8.0000002,) * 3) == (1.0, 1.0, 1.0)  # as float32 headers have it
    assert stage.solver(2, (2.0, 1.0, 4.0)).spacing_vox == (4.0, 8.0, 2.0)
    for voxels in ((9.0, 8.5, 12.0), (0.03, 0.03, 0.03)):
        with pytest.raises(
            PlanError, match=r"control points 8 mm apart \(spacing_mm\) on level 2, whose voxels are"
        ):
            stage.control_spacing(2, voxels)


def test_mm_take_the_place_of_voxels_in_an_override():
    plan = load_plan("bspline-mi", ["stages.bspline.spacing_mm=[40, 20, 10]"])
    assert plan.stages[-1].spacing_mm == (40.0, 20.0, 10.0)
    assert plan.stages[-1].spacing_vox == ()
    assert plan_from_dict(tomllib.loads(plan_to_toml(plan))) == plan
    number = len(plan.stages) - 1
    for one, other in (("bspline", "bspline"), ("bspline", number), (number, "bspline"), (number, number)):
        with pytest.raises(
            PlanError, match=rf"stages\.{one}\.spacing_mm and stages\.{other}\.spacing_vox are both set"
        ):
            load_plan("bspline-mi", [f"stages.{one}.spacing_mm=20", f"stages.{other}.spacing_vox=4"])


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        ("bspline", {"symmetric_force": False, "samples": 3000}, ["symmetric_force", "samples"]),
        ("bspline", {"optimizer": "asgd", "memory": 9, "tolerance": 0.01}, ["memory", "tolerance"]),
        ("bspline", {"optimizer": "asgd", "samples": 3000, "decay_power": 0.6}, []),
        ("bspline", {"memory": 9, "tolerance": 0.01}, []),
        ("demons", {"symmetric_force": False}, ["symmetric_force"]),
        ("svf", {"symmetric_force": False}, ["symmetric_force"]),
        ("svf", {"symmetric_force": False, "gradient": "composition"}, []),
        (
            "svf",
            {"symmetric_force": False, "gradient": "composition", "similarity": "demons"},
            ["symmetric_force"],
        ),
        ("syn", {"symmetric_force": False}, []),
    ],
)
def test_settings_without_effect_are_told(model, settings, named):
    told = unused_warnings(one_stage(model, **settings))
    assert sorted(told) == sorted(
        next(one for one in told if f"({model}): {name} has no effect, as " in one) for name in named
    )
    assert len(told) == len(named)


def test_presets_set_nothing_without_effect():
    assert [warning for name in list_presets() for warning in unused_warnings(load_plan(name))] == []


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
