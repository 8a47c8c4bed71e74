"""The guides of ``regista register``: labels, landmarks and surfaces from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from regista.core import Image
    from regista.registration import Guide

FixedLabels = Annotated[
    Path | None, typer.Option(help="Labels of FIXED that are to overlap with those of --moving-labels.")
]
MovingLabels = Annotated[Path | None, typer.Option(help="Labels of MOVING, numbered alike.")]
LabelsUsed = Annotated[
    str | None, typer.Option("--guide-labels", metavar="LABELS", help="Only these labels, such as 1,2,5-9.")
]
LabelsWeight = Annotated[
    float | None, typer.Option(help="Weight of 1 − mean Dice in the cost (default: 0.5).")
]
FixedPoints = Annotated[
    Path | None, typer.Option(help="Landmarks of FIXED that are to meet those of --moving-points.")
]
MovingPoints = Annotated[Path | None, typer.Option(help="The same of MOVING: paired by name, else by order.")]
PointsWeight = Annotated[
    float | None, typer.Option(help="Weight of the mean squared distance, per mm² (default: 0.01).")
]
PointsWeightsColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of --fixed-points (.csv): how far to trust each landmark."),
]
FixedSurface = Annotated[
    Path | None,
    typer.Option(help="Mask of FIXED whose surface is to meet that of --moving-surface-mask."),
]
MovingSurface = Annotated[Path | None, typer.Option(help="Mask of the same in MOVING.")]
SurfaceWeight = Annotated[
    float | None, typer.Option(help="Weight of the mean squared distance, per mm² (default: 0.1).")
]


@dataclass(frozen=True, kw_only=True)
class GuideFiles:
    """Files of guides, and their options as given."""

    fixed_labels: Path | None
    moving_labels: Path | None
    labels: str | None
    labels_weight: float | None
    fixed_points: Path | None
    moving_points: Path | None
    points_convention: str | None
    points_weight: float | None
    points_weights_column: str | None
    fixed_surface: Path | None
    moving_surface: Path | None
    surface_weight: float | None

    def __post_init__(self) -> None:
        from regista.core import PlanError

        for kind, ending, more in (
            ("labels", "labels", {"guide-labels": self.labels, "labels-weight": self.labels_weight}),
            (
                "points",
                "points",
                {
                    "points-convention": self.points_convention,
                    "points-weight": self.points_weight,
                    "points-weights-column": self.points_weights_column,
                },
            ),
            ("surface", "surface-mask", {"surface-weight": self.surface_weight}),
        ):
            fixed, moving = getattr(self, f"fixed_{kind}"), getattr(self, f"moving_{kind}")
            if (fixed is None) != (moving is None):
                given, missing = ("fixed", "moving") if moving is None else ("moving", "fixed")
                raise PlanError(
                    f"--{given}-{ending} guides only together with --{missing}-{ending}: give both"
                )
            idle = [name for name, value in more.items() if value is not None]
            if fixed is None and idle:
                raise PlanError(
                    f"--{idle[0]} belongs to --fixed-{ending} and --moving-{ending}, which are not given"
                )

    @property
    def files(self) -> dict[str, Path | None]:
        """The files by the names the record gives their contents."""
        return {
            f"{role}_{kind}": getattr(self, f"{role}_{kind}")
            for kind in ("labels", "points", "surface")
            for role in ("fixed", "moving")
        }

    def read(self, fixed: Image | None, moving: Image | None) -> Sequence[Guide]:
        """Read the files; points belong to the images."""
        from regista.cli._fit_points import read_landmarks
        from regista.evaluation import parse_labels
        from regista.io import read, read_labels, read_point_values
        from regista.registration import LabelGuide, LandmarkGuide, SurfaceGuide

        guides: list[Guide] = []
        if self.fixed_labels is not None and self.moving_labels is not None:
            here, there = read_labels(self.fixed_labels), read_labels(self.moving_labels)
            chosen = None if self.labels is None else tuple(parse_labels(self.labels))
            given = {} if self.labels_weight is None else {"weight": self.labels_weight}
            guides.append(LabelGuide(fixed=here, moving=there, labels=chosen, **given))
        if self.fixed_points is not None and self.moving_points is not None:
            paths = self.fixed_points, self.moving_points
            one, other = read_landmarks(paths, self.points_convention, (fixed, moving))
            given = {} if self.points_weight is None else {"weight": self.points_weight}
            column = self.points_weights_column
            trust = None if column is None else read_point_values(self.fixed_points, column)
            guides.append(LandmarkGuide(fixed=one, moving=other, weights=trust, **given))
        if self.fixed_surface is not None and self.moving_surface is not None:
            masks = read(self.fixed_surface), read(self.moving_surface)
            given = {} if self.surface_weight is None else {"weight": self.surface_weight}
            guides.append(SurfaceGuide(fixed=masks[0], moving=masks[1], **given))
        return guides
