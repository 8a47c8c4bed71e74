"""How a benchmark is run, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regista.benchmarking._methods import Method
from regista.benchmarking._store import Row
from regista.core import PlanError


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a benchmark is run.

    Parameters
    ----------
    output : Path
        Folder of results; what it already holds is not run again.
    threads : int, optional
        Threads of every method (default: all there are).
    limit_s : float
        Seconds after which a registration is stopped and counted as failed.
    repeats : int
        Runs of each case and method: seconds are then medians, and every run is measured.
    equal_affine : Method, optional
        Linear method whose result every other method starts from.
    names, groups : mapping
        By set of labels: names of labels, and labels to be taken as one.
    labels : mapping of str to sequence of int or 'common'
        By set of labels: which of them the tables count; 'common' are those that every map of the cases has. All are
        measured, so that another choice runs nothing anew.
    surface : {'voxels', 'surfels'} or None
        How surface distances are measured; see `regista.evaluation.label_measures`.
    unit : {'mm', 'px'}
        What distances are counted in; 'px' is voxels, for pictures and images of unknown spacing.
    non_finite : {'error', 'mask'}
        Cases whose images hold NaN or infinite voxels are refused, or such voxels are left out: of the measures, of
        the masks of methods that use masks, and filled with the least finite value in the copies that peers get.
    before : bool
        Whether the images are measured as they came.
    keep_going : bool
        Whether cases with missing files are marked, rather than refused at the start.
    keep_transforms : bool
        Whether transforms stay in the folder.
    redo : tuple of str
        Methods to run anew.
    retry_failed : bool
        Whether to run anew what failed.
    retry_changed : bool
        Whether to run anew the results of Regista that other sources made, or sources not recorded.
    """

    output: Path
    threads: int | None = None
    limit_s: float = 3600.0
    repeats: int = 1
    equal_affine: Method | None = None
    names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    labels: Mapping[str, Sequence[int] | str] = field(default_factory=dict)
    surface: str | None = "voxels"
    unit: str = "mm"
    non_finite: str = "error"
    before: bool = True
    keep_going: bool = False
    keep_transforms: bool = False
    redo: tuple[str, ...] = ()
    retry_failed: bool = False
    retry_changed: bool = False

    def __post_init__(self) -> None:
        if not self.limit_s > 0:
            raise PlanError(f"the time limit is a number of seconds above 0, got {self.limit_s}")
        if self.repeats < 1:
            raise PlanError(f"repeats is at least 1, got {self.repeats}")
        if self.threads is not None and self.threads < 1:
            raise PlanError(f"threads is at least 1, got {self.threads}")
        if self.surface not in ("voxels", "surfels", None):
            raise PlanError(f"surface is 'voxels', 'surfels' or None, got {self.surface!r}")
        if self.unit not in ("mm", "px"):
            raise PlanError(f"unit is 'mm' or 'px', got {self.unit!r}")
        if self.non_finite not in ("error", "mask"):
            raise PlanError(f"non_finite is 'error' or 'mask', got {self.non_finite!r}")
        if self.equal_affine is not None and not self.equal_affine.linear:
            raise PlanError(
                f"the shared start is one linear map, but {self.equal_affine.name} is deformable; take for instance "
                "regista:affine or ants:affine"
            )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a benchmark came to.

    Parameters
    ----------
    rows : tuple of dict
        All rows of ``raw.csv``.
    done, failed, kept : int
        Cases by methods that ended well, that failed, and that an earlier run had already dealt with.
    failures : tuple of (str, str, str)
        Case, method and reason of each failure.
    raw : Path
        The table.
    origins : mapping of str to int
        Machines, versions and sources that results were made on and with, and how many results each.
    warnings : tuple of str
        What to know about results that were kept.
    """

    rows: tuple[Row, ...]
    done: int
    failed: int
    kept: int
    failures: tuple[tuple[str, str, str], ...]
    raw: Path
    origins: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
