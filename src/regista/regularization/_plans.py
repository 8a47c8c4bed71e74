"""Penalties from the text of plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from regista.core import PlanError
from regista.regularization._base import PairPenalty, Penalty
from regista.regularization._consistency import GradientConsistency, InverseConsistency
from regista.regularization._prior import DeformationPrior
from regista.regularization._rigidity import LocalRigidity
from regista.regularization._smoothness import Bending, Diffusion, Elastic, TotalVariation
from regista.regularization._volume import Incompressibility, LogJacobian

PENALTIES: dict[str, type] = {
    kind.name: kind
    for kind in (
        Diffusion,
        Bending,
        Elastic,
        TotalVariation,
        LogJacobian,
        Incompressibility,
        LocalRigidity,
        DeformationPrior,
    )
}
"""Penalties on one field, by their names in plans."""

PAIR_PENALTIES: dict[str, type] = {kind.name: kind for kind in (InverseConsistency, GradientConsistency)}
"""Penalties on a map and one back, likewise."""


def penalties_from_plan(specs: Any, where: str = "penalties") -> tuple[Penalty | PairPenalty, ...]:
    """Build penalties from what a plan says.

    Parameters
    ----------
    specs : list of tables or names
        As in ``penalties = ["bending", {log-jacobian = {weight = 1e-3}}]``.
    where : str
        Place in the plan, for messages.

    Returns
    -------
    tuple of Penalty or PairPenalty
        In the order given.

    Raises
    ------
    PlanError
        If a penalty or a setting is unknown, or a value out of range.

    Examples
    --------
    >>> penalties_from_plan([{"bending": {"weight": 0.1}}, {"log-jacobian": {"weight": 1e-3}}])
    (Bending(weight=0.1), LogJacobian(weight=0.001, threshold=0.01))
    """
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        raise PlanError(f"{where} is a list like [{{bending = {{weight = 0.1}}}}], got {specs!r}")
    return tuple(_one(spec, f"{where}.{number}") for number, spec in enumerate(specs))


def _one(spec: Any, where: str) -> Penalty | PairPenalty:
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise PlanError(f'{where} reads like "bending" or {{bending = {{weight = 0.1}}}}, got {spec!r}')
    ((name, options),) = spec.items()
    known_names = PENALTIES | PAIR_PENALTIES
    if name not in known_names:
        raise PlanError(f"{where}: there is no penalty {name!r}; penalties are {', '.join(known_names)}")
    if not isinstance(options, Mapping):
        raise PlanError(f"{where}.{name} is a table of options, got {options!r}")
    kind = known_names[name]
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise PlanError(
            f"{where}.{name} has no setting {unknown[0]!r}; its settings are {', '.join(sorted(known))}"
        )
    try:
        penalty: Penalty | PairPenalty = kind(**options)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from None
    except TypeError:  # a setting without a default
        raise PlanError(f"{where}.{name} needs a model: the .npz file of a learned one") from None
    return penalty
