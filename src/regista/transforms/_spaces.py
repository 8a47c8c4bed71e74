"""Which way a map leads, by the names of its spaces."""

from __future__ import annotations

from regista.core import GeometryError
from regista.transforms._base import Transform

_MEND = (
    "give its inverse (in Python transform.inverse(); of a registration, result.inverse), or rename its spaces "
    "(in Python regista.transforms.with_spaces) if the names mislead"
)


def check_direction(
    transform: Transform | None, fixed_space: str | None, moving_space: str | None, *, mend: str = _MEND
) -> None:
    """Refuse a map whose names prove that it leads the wrong way round.

    It does where it leads to the fixed space or starts from the moving one. Other names prove nothing: one image
    has files of many names (labels, masks, points).

    Parameters
    ----------
    transform : Transform or None
        Any map; None, and a map whose ends are not both known, pass.
    fixed_space, moving_space : str or None
        Where it should lead from and to, as far as known.
    mend : str
        What the message advises.

    Raises
    ------
    GeometryError
        If the map leads the other way.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> check_direction(Translation.by([1, 0, 0], "ct", "mr"), "ct", "mr")
    """
    if transform is None or fixed_space == moving_space:
        return
    here, there = transform.fixed_space, transform.moving_space
    if here is None or there is None or here == there:
        return
    if there == fixed_space or here == moving_space:  # either name alone proves it
        wanted = [
            f"{word} {space!r}"
            for word, space in (("from", fixed_space), ("to", moving_space))
            if space is not None
        ]
        raise GeometryError(
            f"the transform leads from {here!r} to {there!r}, expected one that leads {' '.join(wanted)}: it is the "
            f"wrong way round; {mend}"
        )
