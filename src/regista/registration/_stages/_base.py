"""What all stages share: the levels of a pyramid, and for dense maps how settings vary with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from regista.core import PlanError

CONFIG = {"extra": "forbid", "arbitrary_types_allowed": True}


@dataclass(frozen=True, kw_only=True)
class DenseStage:
    """Find a dense map, coarse to fine: what all models of such maps share.

    Parameters
    ----------
    shrink, steps : tuple of int
        Shrink factor and step limit of each level, coarse to fine.
    """

    model: str
    shrink: tuple[int, ...] = (8, 4, 2, 1)
    steps: tuple[int, ...] = (100, 100, 50, 10)
    per_level: ClassVar[tuple[str, ...]] = ()
    """Settings with one value for all levels, or one for each."""
    may_be_empty: ClassVar[tuple[str, ...]] = ()
    """Those of them that may have none, where another takes their place."""
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        check_levels(self.model, self.shrink, self.steps)
        for name in self.per_level:
            values = getattr(self, name)
            if not isinstance(values, tuple | list):
                raise PlanError(f"{self.model}: {name} is a list of numbers, got {values!r}")
            if not values and name in self.may_be_empty:
                continue
            if len(values) not in (1, len(self.shrink)):
                raise PlanError(
                    f"{self.model}: {name} has one value or one per level ({len(self.shrink)}), got {list(values)}"
                )

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs."""
        return 0

    @property
    def exchangeable(self) -> bool:
        """Whether exchanging the images inverts the map, so that a plan may begin halfway between them."""
        return False

    def at(self, level: int, name: str) -> Any:
        """Return a setting as it is on a level."""
        value = getattr(self, name)
        return value[min(level, len(value) - 1)] if name in self.per_level else value


def check_levels(name: str, shrink: tuple[int, ...], steps: tuple[int, ...]) -> None:
    """Refuse levels that do not go from coarse to fine, or lack a number of steps."""
    if not shrink or len(shrink) != len(steps):
        raise PlanError(
            f"{name}: shrink and steps have one entry per level, got {list(shrink)} and {list(steps)}"
        )
    if any(not 1 <= s <= 64 for s in shrink):
        raise PlanError(f"{name}: shrink factors are between 1 and 64, got {list(shrink)}")
    if list(shrink) != sorted(shrink, reverse=True):
        raise PlanError(f"{name}: levels go from coarse to fine, got shrink {list(shrink)}")
    if any(n < 0 for n in steps):
        raise PlanError(f"{name}: step limits are at least 0, got {list(steps)}")
