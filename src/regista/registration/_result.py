"""`Result`: what a registration gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from regista.core import Image, RunRecord
from regista.transforms import Composite, Transform, VelocityField

MAX_FOLDED_PERCENT = 1.0
"""Share of folded voxels above which a result is refused; none may fold where a penalty is there against folds."""


@dataclass(frozen=True, eq=False)
class Result:
    """Outcome of `regista.register`.

    Parameters
    ----------
    transform : Transform
        Point map fixed → moving (what resamples the moving image onto the fixed grid).
    inverse : Transform
        Point map moving → fixed.
    warped : Image
        Moving image on the fixed grid, sampled once through the whole chain.
    record : RunRecord
        How it went.
    pair : tuple of two Image, optional
        The fixed and the moving image as they were given, for `regista.view`; references, not copies.
    fixed_mask : Image, optional
        Where on the fixed image they were compared, if not everywhere: the verdict looks there.
    """

    transform: Transform
    inverse: Transform
    warped: Image
    record: RunRecord
    pair: tuple[Image, Image] | None = field(default=None, repr=False)
    fixed_mask: Image | None = field(default=None, repr=False)

    @property
    def velocity(self) -> VelocityField | None:
        """The stationary velocity field that the map flows along before its linear part; None for models without one."""
        first = Composite((self.transform,)).flatten().transforms[0]
        return first if isinstance(first, VelocityField) else None
