"""The registration engine: plans in, results out."""

from regista.registration._bases import linear_of
from regista.registration._finish import finish
from regista.registration._guides import Guide, LabelGuide, LandmarkGuide, SurfaceGuide
from regista.registration._landmarks import (
    LANDMARK_MODELS,
    LandmarkFit,
    LandmarkModel,
    fit_landmarks,
)
from regista.registration._landscape import Landscape, metric_landscape
from regista.registration._motion import MotionResult, correct_motion
from regista.registration._motion_measures import framewise_displacement
from regista.registration._plan import Plan, Start
from regista.registration._plan_file import (
    list_presets,
    load_plan,
    metric_from_text,
    plan_from_dict,
    plan_to_dict,
    plan_to_toml,
)
from regista.registration._prior_learning import learn_deformation_prior, list_fields
from regista.registration._register import register
from regista.registration._result import MAX_FOLDED_PERCENT, Result
from regista.registration._slices import SlicesResult, register_slices
from regista.registration._stages import (
    ConvexStage,
    DeformableStage,
    DemonsStage,
    DenseStage,
    FreeFormStage,
    IterativeStage,
    LinearStage,
    VelocityStage,
)
from regista.registration._warmup import warmup

__all__ = [
    "LANDMARK_MODELS",
    "MAX_FOLDED_PERCENT",
    "ConvexStage",
    "DeformableStage",
    "DemonsStage",
    "DenseStage",
    "FreeFormStage",
    "Guide",
    "IterativeStage",
    "LabelGuide",
    "LandmarkFit",
    "LandmarkGuide",
    "LandmarkModel",
    "Landscape",
    "LinearStage",
    "MotionResult",
    "Plan",
    "Result",
    "SlicesResult",
    "Start",
    "SurfaceGuide",
    "VelocityStage",
    "correct_motion",
    "finish",
    "fit_landmarks",
    "framewise_displacement",
    "learn_deformation_prior",
    "linear_of",
    "list_fields",
    "list_presets",
    "load_plan",
    "metric_from_text",
    "metric_landscape",
    "plan_from_dict",
    "plan_to_dict",
    "plan_to_toml",
    "register",
    "register_slices",
    "warmup",
]
