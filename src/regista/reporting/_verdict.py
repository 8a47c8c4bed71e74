"""The verdict: whether to believe a registration, and why, from what can be told without a truth."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from regista.core import GeometryError, Image
from regista.registration import MAX_FOLDED_PERCENT, Result
from regista.reporting._features import measure_features
from regista.reporting._scene import Scene, make_scene

STRETCH = (1.4, 1.6)
"""Largest over smallest scale of the nearest affine map beyond which to look, and to fail: of good runs it is 1.3 at most."""
LARGEST_SCALE = 2.0
"""Scale in all directions alike beyond which a person should look: pixel sizes are often unknown or wrong."""
LEAST_COVERED, USUAL_COVERED = 0.3, 0.6
"""Share of an image's content in the other's view below which a registration fails, or asks for a look."""
FOLDED_PERCENT = (0.01, MAX_FOLDED_PERCENT)
"""Percent of folded voxels from which to look, and beyond which to fail; good runs show none."""
INVERSE = (0.002, 0.01)
INVERSE_VOXELS = (1.0, 3.0)
"""Error of the inverse beyond which to look, and to fail, as share of the diagonal and in voxels: both must be passed.
Of good runs 97 % are below the first share."""
LARGEST_TURN_DEG = (60.0, 75.0)
"""A rotation against how the images are stored beyond which to look; and to fail, where both files state how they lie in the
patient, the organ is nearly its own mirror image, and no start that turns so was given. Of good runs whose headers are right
it is 16° at most."""
WORSE = (-0.05, -0.3)
"""Log ratio that all three measures of likeness are below, to the start or to the map without its bending part: look, fail."""
NUDGED = (0.0, 0.02)
"""Log ratio that a small push of the map adds to all three measures: look, fail. Of good runs it is −0.04 at most."""
MIRRORED = (-0.03, -0.06)
"""Log ratio to the likeness of mirrored images that all three measures are below: look, fail."""
WORSE_DICE, WORSE_TRE = 0.02, 1.05
"""By how much the mean overlap of labels given must fall, and by which factor the mean error of landmarks rise, to be said."""
SYMMETRIC = 0.05
"""Log ratio to the likeness of mirrored images below which a flip would not show; it is said, and changes nothing."""
STAYED = 0.005
"""Share of the diagonal; a map that leads no place further from the start returned the identity."""


class Outcome(enum.StrEnum):
    """What the verdict says."""

    PASS = "pass"
    LOOK = "look"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether to believe a registration.

    Parameters
    ----------
    outcome : Outcome
        ``pass``; ``look``: a person should; ``fail``.
    reasons : tuple of str
        Sentences, the weightiest first; of a pass, what is worth knowing (a few folds, a symmetric organ), mostly
        nothing.
    probability : float
        Of a failed registration, by the fitted model, 0 … 1.
    features : mapping of str to float
        What was measured.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    probability: float
    features: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "outcome": str(self.outcome),
            "reasons": list(self.reasons),
            "probability": round(self.probability, 4),
            "features": {name: float(f"{value:.5g}") for name, value in self.features.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Model:
    """A logistic model of failure, and the features' ranges over good registrations.

    Parameters
    ----------
    weights : mapping of str to tuple of 3 floats
        Centre, scale and weight of each feature.
    intercept : float
        Of the model.
    look_above, fail_above : float
        Probabilities of failure from which the verdict is 'look' and 'fail'.
    limits : mapping of str to float
        Value of each feature that few of the good runs are beyond.
    """

    weights: Mapping[str, tuple[float, float, float]]
    intercept: float
    look_above: float
    fail_above: float
    limits: Mapping[str, float]

    def contributions(self, features: Mapping[str, float]) -> dict[str, float]:
        """Return what each feature adds to the log-odds of failure."""
        return {
            name: weight * float(np.clip((features[name] - centre) / scale, -3, 3))
            for name, (centre, scale, weight) in self.weights.items()
        }

    def probability(self, features: Mapping[str, float]) -> float:
        """Return the probability of failure."""
        score = self.intercept + sum(self.contributions(features).values())
        return float(1 / (1 + np.exp(-np.clip(score, -50, 50))))


WORDS = {
    "nmi": "the images share little information where they are laid on each other ({:.2f} of the smaller entropy)",
    "nmi_ratio": "the match is hardly better than when the result is moved aside (log ratio of information {:.2f})",
    "nmi_over_shifts": "the match is hardly better than when the result is moved aside (information {:+.3f})",
    "nmi_gain": "the metric did not improve over the start (information {:+.3f})",
    "nmi_straight": "without the bending part of the map the images share little information ({:.2f})",
    "nmi_straight_share": "the match rests on the bending part of the map alone (log share of information {:.2f})",
    "nmi_over_mirror": "mirrored, the images match as well or better (log ratio of information {:.2f}): is one flipped?",
    "lncc": "local structure does not agree (mean squared local correlation {:.2f})",
    "lncc_ratio": "local structure agrees hardly better than when the result is moved aside (log ratio {:.2f})",
    "lncc_over_shifts": "local structure agrees hardly better than when the result is moved aside ({:+.3f})",
    "lncc_gain": "local structure agrees no better than at the start ({:+.3f})",
    "lncc_straight": "without the bending part of the map local structure does not agree ({:.2f})",
    "lncc_straight_share": "local structure agrees by the bending part of the map alone (log share {:.2f})",
    "lncc_over_mirror": "mirrored, local structure agrees as well or better (log ratio {:.2f}): is an image flipped?",
    "edges": "edges do not meet (agreement {:.2f} of 1)",
    "edges_ratio": "edges meet hardly better than when the result is moved aside (log ratio {:.2f})",
    "edges_over_shifts": "edges meet hardly better than when the result is moved aside ({:+.3f})",
    "edges_gain": "edges meet no better than at the start ({:+.3f})",
    "edges_straight": "without the bending part of the map edges do not meet ({:.2f} of 1)",
    "edges_straight_share": "edges meet by the bending part of the map alone (log share {:.2f})",
    "edges_over_mirror": "mirrored, edges meet as well or better (log ratio {:.2f}): is an image flipped?",
    "content_dice": "the outlines of what the images show do not agree (Dice {:.2f})",
    "content_straight": "without the bending part of the map the outlines do not agree (Dice {:.2f})",
    "log_scale": "the scaling or shear of the map is large (log {:.2f})",
    "log_stretch": "the map stretches or shears the image (log of largest over smallest scale {:.2f})",
    "bent": "the deformation is large (95th percentile {:.1%} of the image's diagonal)",
    "sd_log_jacobian": "volumes change unusually much from place to place (SD of the log-Jacobian {:.2f})",
    "inverse_p95": "the map and its inverse do not undo each other (95th percentile {:.2%} of the image's diagonal)",
    "nudged": "a small push of the map hardly makes the match worse (log ratio {:.2f})",
}
"""What it means, in words, when a feature tells of failure."""


@cache
def load_model() -> Model:
    """Return the model that ships with the package, fitted by ``benchmarks/verdict.py``."""
    tree = json.loads(files("regista.reporting").joinpath("verdict.json").read_text(encoding="utf-8"))
    return Model(
        weights={name: (w[0], w[1], w[2]) for name, w in tree["weights"].items()},
        intercept=tree["intercept"],
        look_above=tree["look_above"],
        fail_above=tree["fail_above"],
        limits=tree["limits"],
    )


def judge(fixed: Image, moving: Image, result: Result, *, scene: Scene | None = None) -> Verdict:
    """Tell whether to believe a registration.

    Parameters
    ----------
    fixed, moving : Image
        The pair as it was given to `regista.register`.
    result : Result
        What came out, of any method.
    scene : Scene, optional
        The pair on its coarse lattice, if made before.

    Returns
    -------
    Verdict
        Pass, look or fail, with reasons in words.

    Raises
    ------
    GeometryError
        If an image is a series, or the dimensions differ.

    Notes
    -----
    Nothing here knows the truth: a registration that looks right and is not (a brain mirrored from left to right,
    for instance) passes. *The verdict*, in the documentation, has the features and how often it errs.

    Examples
    --------
    >>> from regista.core import Grid
    >>> from regista.registration import register
    >>> blob = np.exp(-((np.indices((32, 24)) - 12.0) ** 2).sum(0) / 30).astype(np.float32)
    >>> image = Image(blob, Grid(blob.shape, np.eye(3)))
    >>> result = register(image, image, "translation")
    >>> judge(image, image, result).outcome in list(Outcome)
    True
    """
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.kind == "series":
            raise GeometryError(f"the {name} image is a series of {len(image.data)} frames: give one of them")
    if not fixed.ndim == moving.ndim == result.transform.ndim:
        raise GeometryError(
            f"2-D and 3-D do not mix: fixed {fixed.ndim}-D, moving {moving.ndim}-D, transform "
            f"{result.transform.ndim}-D"
        )
    scene = make_scene(fixed, moving, result.transform, result.fixed_mask) if scene is None else scene
    return conclude(measure_features(scene, result, fixed, moving), str(result.record.status))


def conclude(features: Mapping[str, float], status: str = "converged", model: Model | None = None) -> Verdict:
    """Return the verdict on features that were measured.

    Parameters
    ----------
    features : mapping of str to float
        From `judge`, or a table.
    status : str
        How the run ended.
    model : Model, optional
        By default the one that ships with the package.
    """
    model = model or load_model()
    modelled = model.probability(features)
    doubtful = modelled >= model.look_above
    hard, odd = _certain(features, status, doubtful), _odd(features, doubtful)
    probability = 1.0 if hard else modelled
    if hard or probability >= model.fail_above:
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.LOOK if odd or doubtful else Outcome.PASS
    soft = _soft(features, model) if doubtful else []
    few = _worth_knowing(features) if outcome is not Outcome.FAIL else []
    reasons = [*[*hard, *odd, *soft][: 5 - len(few)], *few]
    return Verdict(outcome=outcome, reasons=tuple(reasons), probability=probability, features=dict(features))


def beside_truth(verdict: Verdict, numbers: Mapping[str, float], unit: str = "mm") -> Verdict:
    """Return a verdict that says so where labels or landmarks, which it does not know, speak against it.

    Parameters
    ----------
    verdict : Verdict
        On the images alone.
    numbers : mapping of str to float
        ``dice`` and ``dice_before``; ``tre_mean_mm``, ``tre_before_mm``, and the share ``landmarks_beyond`` of landmarks that
        lie outside the fixed image; whichever were measured.
    unit : str
        Of lengths; names of measures end in it.

    Returns
    -------
    Verdict
        At least *look*, the new reasons first, where the truth became worse or does not lie in the image.
    """
    found = []
    apart, before = numbers.get(f"tre_mean_{unit}", 0.0), numbers.get(f"tre_before_{unit}", np.inf)
    if numbers.get("dice", 1.0) < numbers.get("dice_before", 0.0) - WORSE_DICE:
        found.append(
            f"the labels given overlap less than before (mean Dice {numbers['dice_before']:.3f}, now "
            f"{numbers['dice']:.3f}): are they of these images, on their grids?"
        )
    if numbers.get("landmarks_beyond", 0.0) > 0:
        found.append(
            f"{numbers['landmarks_beyond']:.0%} of the landmarks lie outside the fixed image: are they of this pair, in {unit}, "
            "by the convention that was named (--convention)?"
        )
    elif apart > WORSE_TRE * before:
        found.append(
            f"the landmarks given are further apart than before ({before:.3g} {unit} in the mean, now {apart:.3g})"
        )
    if not found:
        return verdict
    outcome = Outcome.LOOK if verdict.outcome is Outcome.PASS else verdict.outcome
    return replace(verdict, outcome=outcome, reasons=(*found, *verdict.reasons))


def _certain(features: Mapping[str, float], status: str, doubtful: bool) -> list[str]:
    """Return what makes a failure on its own, or, where it says so, with images that hardly match."""
    found = []
    if status in ("non-finite", "diverged", "cancelled"):
        found.append(f"the registration ended {status}")
    if status == "folded" or features["folded_percent"] > FOLDED_PERCENT[1]:  # the run may allow none
        found.append(f"the map folds: {features['folded_percent']:.2g} % of the voxels")
    if features["mirrored"]:
        found.append("the map mirrors the anatomy (its determinant is negative)")
    if _stretch(features) > STRETCH[1]:
        found.append(f"the scaling or shear is implausible: {_stretches(features)}")
    least, most = sorted((features["fixed_covered"], features["moving_covered"]))
    if most < LEAST_COVERED or (least < LEAST_COVERED and doubtful):
        found.append(f"the field of view is lost: {_covered(features)}")
    if _inverse_beyond(features, 1):
        found.append(f"the map and its inverse do not undo each other: they miss by {_inverse(features)}")
    better = _nudged(features) > NUDGED[0]
    if doubtful and _stayed(features) and better:  # else a start that is right, of images hard to match
        found.append(f"identity returned: {_stays(features)}, and the images do not match there")
    if _nudged(features) > NUDGED[1]:
        found.append(_could_do_better(features, doubtful))
    for ratio, told in ((_worse(features), _than_before), (_bent_worse(features), _than_straight)):
        if ratio < WORSE[1]:
            found.append(told(features))
    if _against_headers(features):
        found.append(
            f"the map turns the image by {features['turned_deg']:.0f}° though both files state how they lie, and mirrored "
            "it would match about as well: a header is wrong, or an image is flipped and left and right are swapped, and "
            "nothing in a pair tells which; mend the header, or, if the turn is right, give it as the start: --initial with the "
            "fixed2moving.h5 of this run, or, where this map bends, of a run with --preset affine"
        )
    if _over_mirror(features) < MIRRORED[1]:
        found.append(_than_mirrored(features))
    return found


def _odd(features: Mapping[str, float], doubtful: bool) -> list[str]:
    """Return what a person should look at, though it may be right."""
    found = []
    least, most = sorted((features["fixed_covered"], features["moving_covered"]))
    if least < USUAL_COVERED and most >= LEAST_COVERED and not (least < LEAST_COVERED and doubtful):
        found.append(f"the fields of view share little: {_covered(features)}")
    if features["turned_deg"] > LARGEST_TURN_DEG[0] and not _against_headers(features):
        # a coin's toss: the headers may be wrong by this turn, or an image may be flipped
        alike = _mirrored_alike(features)
        found.append(
            f"the map turns the image by {features['turned_deg']:.0f}° against how it is stored"
            + (
                ", and mirrored it would match as well: left and right may be swapped"
                if alike
                else ": is that meant?"
            )
        )
    if STRETCH[0] < _stretch(features) <= STRETCH[1]:
        found.append(f"the scaling or shear is large: {_stretches(features)}")
    scale = float(np.sqrt(features["smallest_scale"] * features["largest_scale"]))
    if not 1 / LARGEST_SCALE <= scale <= LARGEST_SCALE:
        found.append(
            f"the map scales the image {max(scale, 1 / scale):.1f}-fold throughout: are the voxel sizes of both images right?"
        )
    if _inverse_beyond(features, 0) and not _inverse_beyond(features, 1):
        found.append(f"the map and its inverse hardly undo each other: they miss by {_inverse(features)}")
    if FOLDED_PERCENT[0] <= features["folded_percent"] <= FOLDED_PERCENT[1]:
        found.append(f"the map folds: {features['folded_percent']:.2g} % of the voxels")
    nudged = _nudged(features)
    if doubtful and _stayed(features) and nudged <= NUDGED[0]:
        found.append(f"identity returned: {_stays(features)}, and the images hardly match there")
    if NUDGED[0] < nudged <= NUDGED[1]:
        found.append(_could_do_better(features, doubtful))
    for ratio, told in ((_worse(features), _than_before), (_bent_worse(features), _than_straight)):
        if WORSE[1] <= ratio < WORSE[0]:
            found.append(told(features))
    if MIRRORED[1] <= _over_mirror(features) < MIRRORED[0]:
        found.append(_than_mirrored(features))
    return found


def _worth_knowing(features: Mapping[str, float]) -> list[str]:
    """Return a word on folds too few to ask for a look, and on an organ that is nearly its own mirror image."""
    share = features["folded_percent"]
    found = [f"a few voxels fold ({share:.2g} %)"] if 0 < share < FOLDED_PERCENT[0] else []
    turned = features["turned_deg"] > LARGEST_TURN_DEG[0]  # has been said with the turn
    if MIRRORED[0] <= _over_mirror(features) < SYMMETRIC and not turned:
        found.append("mirrored, the images would match as well: only the headers tell whether one is flipped")
    return found


def _against_headers(features: Mapping[str, float]) -> bool:
    """Tell whether the map makes a turn that both files speak against and nobody asked for.

    Of an organ that is not its own mirror image a header is wrong; of one that is, an image may be flipped as well, or have
    two axes exchanged.
    """
    turned = features.get("turned_unasked_deg", features["turned_deg"])
    return bool(features.get("oriented")) and _mirrored_alike(features) and turned > LARGEST_TURN_DEG[1]


def _stretch(features: Mapping[str, float]) -> float:
    return features["largest_scale"] / max(features["smallest_scale"], 1e-6)


def _stretches(features: Mapping[str, float]) -> str:
    return (
        f"{_stretch(features):.1f} times as much along one direction as along another (scales "
        f"{features['smallest_scale']:.2f} to {features['largest_scale']:.2f})"
    )


def _covered(features: Mapping[str, float]) -> str:
    return (
        f"{features['fixed_covered']:.0%} of what the fixed image shows lies in the moving one, "
        f"{features['moving_covered']:.0%} the other way round"
    )


def _inverse_beyond(features: Mapping[str, float], step: int) -> bool:
    """Tell whether the inverse misses by more than the first limits (0) or the second (1)."""
    voxels = features.get("inverse_voxels", np.inf)
    return features["inverse_p95"] > INVERSE[step] and voxels > INVERSE_VOXELS[step]


def _inverse(features: Mapping[str, float]) -> str:
    voxels = f"{features['inverse_voxels']:.1f} voxels, " if "inverse_voxels" in features else ""
    return f"{voxels}{features['inverse_p95']:.1%} of the image's diagonal (95th percentile)"


def _stayed(features: Mapping[str, float]) -> bool:
    return features.get("moved", np.inf) < STAYED


def _stays(features: Mapping[str, float]) -> str:
    return f"the map leads no further than {features['moved']:.2%} of the image's diagonal from the start"


MEASURES = {"nmi": "information", "lncc": "local correlation", "edges": "edges"}


def _worse(features: Mapping[str, float]) -> float:
    """Return the log ratio to the start of the measure of likeness that fell least; 0 if it was not measured.

    A start that shows less than half of what the result shows of the fixed image is nothing to compare with.
    """
    names = [name for name in MEASURES if f"{name}_gain" in features]
    if not names or features.get("before_covered", 1.0) < 0.5 * features["fixed_covered"]:
        return 0.0
    return max(_log_ratio(features[n], features[n] - features[f"{n}_gain"]) for n in names)


def _bent_worse(features: Mapping[str, float]) -> float:
    """Return the log ratio to the map's linear part of the measure of likeness that fell least; 0 if it was not measured."""
    known = all(f"{n}_straight" in features for n in MEASURES)
    return max(_log_ratio(features[n], features[f"{n}_straight"]) for n in MEASURES) if known else 0.0


def _than_straight(features: Mapping[str, float]) -> str:
    told = [
        f"{word} {features[n]:.2f}, without it {features[f'{n}_straight']:.2f}"
        for n, word in MEASURES.items()
    ]
    less = f"the bending part of the map makes the images less alike ({'; '.join(told)})"
    return f"{less}: take the linear stages of the plan alone, or another plan or model"


def _log_ratio(value: float, other: float) -> float:
    return float(np.log((max(value, 0.0) + 0.005) / (max(other, 0.0) + 0.005)))


def _than_before(features: Mapping[str, float]) -> str:
    told = [
        f"{word} {features[n]:.2f}, before {features[n] - features[f'{n}_gain']:.2f}"
        for n, word in MEASURES.items()
    ]
    return f"the metric did not improve: the images match less well than at the start ({'; '.join(told)})"


def _could_do_better(features: Mapping[str, float], doubtful: bool) -> str:
    # of a doubtful one it has been said already
    stayed = f"identity returned: {_stays(features)}; " if _stayed(features) and not doubtful else ""
    return (
        f"{stayed}the map is off: pushed or turned a little, it makes the images match better by every measure "
        f"(log ratio {features['nudged']:.2f})"
    )


def _nudged(features: Mapping[str, float]) -> float:
    """Return what a push adds; −1 where none could be measured, of which an image of few voxels has 0."""
    return features.get("nudged", 0.0) or -1.0


def _over_mirror(features: Mapping[str, float]) -> float:
    """Return the log ratio to the likeness of mirrored images of the measure that speaks least for a mirror."""
    return max(_mirror_ratios(features), default=np.inf)


def _mirrored_alike(features: Mapping[str, float]) -> bool:
    """Tell whether, by most measures, mirrored images match about as well."""
    found = _mirror_ratios(features)
    return bool(found) and float(np.median(found)) < SYMMETRIC


def _mirror_ratios(features: Mapping[str, float]) -> list[float]:
    """Return the log ratio to mirrored images of each measure; nothing where none could be mirrored.

    Of an image that is its own mirror image all are 0. Records without ``mirrors_tried`` have 0 for both.
    """
    found = [features[f"{n}_over_mirror"] for n in MEASURES if f"{n}_over_mirror" in features]
    return found if features.get("mirrors_tried", float(any(found))) else []


def _than_mirrored(features: Mapping[str, float]) -> str:
    return (
        "mirrored, the images match better by every measure "
        f"(log ratio {_over_mirror(features):.2f}): is an image flipped?"
    )


def _soft(features: Mapping[str, float], model: Model) -> list[str]:
    """Return the reasons of the model, those that weigh most first."""
    given = model.contributions(features)
    ranked = sorted((name for name in given if given[name] > 0.15), key=lambda name: -given[name])
    if _inverse_beyond(features, 0):  # a rule has said so
        ranked = [name for name in ranked if name != "inverse_p95"]
    beyond = [n for n in ranked if _beyond(features[n], n, model)]
    beyond += [n for n in ranked if n not in beyond][: max(0, 2 - len(beyond))]  # one alone may lead astray
    return [WORDS[name].format(features[name]) for name in beyond]


def _beyond(value: float, name: str, model: Model) -> bool:
    limit, weight = model.limits.get(name), model.weights[name][2]
    return limit is None or (value > limit if weight > 0 else value < limit)
