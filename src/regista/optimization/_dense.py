"""What solvers of dense maps share: how they ask for the cost, and what they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from regista.optimization._stopping import Convergence

Field = NDArray[np.float32]
Rows = NDArray[np.int32]


class DenseCost(Protocol):
    """Dissimilarity as a function of displacement fields ``(3, I, J, K)`` in voxels of the fixed grid."""

    def force(self, field: Field, scratch: Field, out: Field) -> float:
        """Return the value at a field; write the descent force on a compositive update."""
        ...

    def forces(
        self, to_fixed: Field, to_moving: Field, scratch: Field, on_fixed: Field, on_moving: Field
    ) -> float:
        """Return the value on a grid halfway; write the descent forces on both halves of the map."""
        ...

    def exchanged_force(self, field: Field, scratch: Field, out: Field) -> float:
        """Do what `force` does for the exchanged problem: the fixed image is warped to the moving one."""
        ...

    def value_and_gradient(self, field: Field, out: Field) -> float:
        """Return the value at a field; write its derivative by every displacement."""
        ...


class DenseSolver(Protocol):
    """A solver of dense maps: pure ``init``, ``step``; ``displacement`` tells what its fields mean.

    It asks for the cost as a `DenseCost`, or as what it names instead.
    """

    parts: ClassVar[int]
    """Number of fields that describe a map, carried from level to level."""
    takes_start: ClassVar[bool]
    """Whether the last field may start as any displacement."""

    @property
    def reach_vox(self) -> int:
        """Largest radius of the smoothing filters, voxels."""
        ...

    def admit(self, fields: Sequence[Field]) -> None:
        """Make fields, in place, such as a level may begin with: where folds are forbidden, without any."""
        ...

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> Any:
        """Start from fields that are used as buffers from here on; `state.values` is the history."""
        ...

    def step(self, state: Any, cost: Any, rule: Convergence | None = None) -> bool:
        """Take one step in place; return False when there is nothing left to do.

        The step that meets `rule` is the last: as much of it is taken as the rule leaves.
        """
        ...

    def value(self, state: Any, cost: Any) -> float:
        """Return the value where the state stands."""
        ...

    def fields(self, state: Any) -> tuple[Field, ...]:
        """Return the fields of a state."""
        ...

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the displacement that fields stand for."""
        ...
