"""``regista fit-points``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import Convention, Moving, read_optional, tell_apart, with_folder
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._convert import Output, ToFormat

if TYPE_CHECKING:
    from regista.core import Image, PointSet
    from regista.registration import LandmarkFit


@guarded
def fit_points(
    fixed_points: Annotated[
        Path, typer.Argument(metavar="FIXED_POINTS", help="Landmarks of the fixed image.")
    ],
    moving_points: Annotated[
        Path,
        typer.Argument(
            metavar="MOVING_POINTS", help="The same of the moving image: paired by name, else by order."
        ),
    ],
    output: Output,
    model: Annotated[
        str, typer.Option(help="translation, rigid, similarity, affine, or tps (thin-plate spline).")
    ] = "rigid",
    smoothing: Annotated[
        float, typer.Option(help="Of tps: 0 meets every landmark, 0.01 to 1 pass near them.")
    ] = 0.0,
    weights_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of FIXED_POINTS (.csv): how far to trust each landmark."),
    ] = None,
    robust: Annotated[bool, typer.Option("--robust", help="Find outliers and set them aside.")] = False,
    convention: Convention = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", "--fixed", help="Fixed image: its grid holds the field that tps is written as."
        ),
    ] = None,
    moving: Moving = None,
    to: ToFormat = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a transform to corresponding landmarks alone.

    It maps points fixed → moving: what resamples the moving image, and what `register --initial` starts from.
    """
    from regista.cli._outputs import check_outputs
    from regista.core import FormatError
    from regista.core import threads as use_threads
    from regista.io import read_point_values, write_transform
    from regista.registration import fit_landmarks

    check_outputs([output], [fixed_points, moving_points, like, moving])
    if model == "tps" and like is None:
        raise FormatError(
            "a thin-plate spline is written as a displacement field: give the fixed image, whose grid it is to lie on, "
            "--like FIXED"
        )
    images: dict[str, Image | None] = {"fixed": read_optional(like), "moving": read_optional(moving)}
    tell_apart(images, {"fixed": like, "moving": moving})
    fixed, other = images["fixed"], images["moving"]
    here, there = read_landmarks((fixed_points, moving_points), convention, (fixed, other))
    weights = None if weights_column is None else read_point_values(fixed_points, weights_column)
    fit = fit_landmarks(
        here,
        there,
        model,  # type: ignore[arg-type]
        weights=weights,
        smoothing=smoothing,
        robust=robust,
    )
    with use_threads(threads):
        sampled = _on_grid(fit, here, there, fixed) if model == "tps" and fixed is not None else {}
        write_transform(output, fit.transform, format=to, fixed=fixed, moving=other)
    warnings = _warnings(fit, (here, there), (fixed, other), sampled)
    if as_json:
        say_json({"output": str(output), **_tree(fit, sampled), "warnings": warnings})
        return
    for warning in [] if quiet else warnings:
        complain(f"Warning: {warning}")
    _show(fit, sampled, output, quiet)


def read_landmarks(
    paths: tuple[Path, Path], convention: str | None, images: tuple[Image | None, Image | None]
) -> tuple[PointSet, PointSet]:
    """Return both sets of landmarks, in the spaces of their images where those are given."""
    from regista.core import GeometryError
    from regista.io import read_points, suffix_of

    # beside a file that needs to be told, one that tells its own convention is left to itself
    tells = [suffix_of(path) in (".fcsv", ".mrk.json", ".json") for path in paths]
    told = [None if telling and not all(tells) else convention for telling in tells]
    known = [image for image in images if image is not None]
    if len({image.ndim for image in known}) > 1:
        raise GeometryError(f"the fixed image is {known[0].ndim}-D, the moving image {known[1].ndim}-D")
    sets = [
        read_points(
            path,
            convention=word,  # type: ignore[arg-type]
            grid=None if image is None else image.grid,
            ndim=known[0].ndim if known else None,
        )
        for path, image, word in zip(paths, images, told, strict=True)
    ]
    for points, path in zip(sets, paths, strict=True):
        if known and points.ndim != known[0].ndim:
            raise GeometryError(f"{path} holds {points.ndim}-D points, but the image is {known[0].ndim}-D")
    if sets[0].space == sets[1].space:  # fixed/points.csv and moving/points.csv
        sets = [
            replace(points, space=with_folder(str(points.space), path))
            for points, path in zip(sets, paths, strict=True)
        ]
    named = [
        points if image is None or image.space is None else replace(points, space=image.space)
        for points, image in zip(sets, images, strict=True)
    ]
    return named[0], named[1]


def _on_grid(fit: LandmarkFit, here: PointSet, there: PointSet, fixed: Image) -> dict[str, float]:
    """Return what becomes of a spline as a field on the fixed image's grid: landmarks missed, and folds."""
    import numpy as np

    from regista.evaluation import match_landmarks
    from regista.transforms import jacobian_determinant, to_displacement_field

    field = to_displacement_field(fit.transform, fixed.grid)
    one, other = match_landmarks(here, there)
    places = here.points_mm[one]
    telling = fixed.grid.contains(places) & (fit.weights > 0)
    missed = np.linalg.norm(field.map_points(places) - there.points_mm[other], axis=1)[telling]
    return {
        "field_residual_mean_mm": float(missed.mean()) if missed.size else float("nan"),
        "field_residual_max_mm": float(missed.max(initial=0.0)) if missed.size else float("nan"),
        "folded_percent": 100 * float((jacobian_determinant(field, fixed.grid) <= 0).mean()),
    }


def _warnings(
    fit: LandmarkFit,
    sets: tuple[PointSet, PointSet],
    images: tuple[Image | None, Image | None],
    sampled: dict[str, float],
) -> list[str]:
    from regista.evaluation import tell_unmatched

    found = []
    if text := tell_unmatched(*sets, len(fit.residuals_mm)):
        found.append(text)
    for role, points, image in zip(("fixed", "moving"), sets, images, strict=True):
        outside = 0 if image is None else int((~image.grid.contains(points.points_mm)).sum())
        if outside:
            found.append(
                f"{outside} of {len(points.points_mm)} {role} landmarks lie outside the {role} image: do they belong to "
                "it, and is their convention (LPS or RAS) right?"
            )
    if sampled.get("folded_percent"):
        found.append(
            f"the spline folds {sampled['folded_percent']:.3g} % of the fixed image's voxels: look for wrong landmarks "
            "(--robust), or give more --smoothing"
        )
    return found


def _tree(fit: LandmarkFit, sampled: dict[str, float]) -> dict[str, Any]:
    from regista.cli._evaluate_parts import for_json
    from regista.transforms import Affine

    tree = fit.summary() | sampled
    tree |= {
        "fixed_space": fit.transform.fixed_space,
        "moving_space": fit.transform.moving_space,
        "names": _names(fit),
        "residuals_mm": fit.residuals_mm.tolist(),
        "left_out_mm": fit.left_out_mm.tolist(),
        "weights": fit.weights.tolist(),
        "outlier": fit.outliers.tolist(),
    }
    if isinstance(fit.transform, Affine):
        tree["matrix"] = fit.transform.matrix.tolist()
    plain: dict[str, Any] = for_json(tree)
    return plain


def _names(fit: LandmarkFit) -> list[str]:
    """Return the names of the landmarks, or their numbers in the file, counted from 1."""
    return list(fit.names) if fit.names is not None else [str(n + 1) for n in fit.fixed_numbers]


def _show(fit: LandmarkFit, sampled: dict[str, float], output: Path, quiet: bool) -> None:
    found = fit.summary()
    used = int((fit.weights > 0).sum())
    say(f"{output}: {found['model']} through {used} landmarks", quiet=quiet)
    for title, name in (("residual", "residual"), ("left one out", "left_out")):
        mean, median, top = (found[f"{name}_{word}_mm"] for word in ("mean", "median", "max"))
        text = f"mean {mean:.3f} mm, median {median:.3f}, largest {top:.3f}"
        if mean != mean:
            text = "not known: there are no more landmarks than the model needs"
        say(f"  {title}: {text}", quiet=quiet)
    if sampled:
        mean, top = sampled["field_residual_mean_mm"], sampled["field_residual_max_mm"]
        say(f"  residual of the field, between voxels: mean {mean:.3f} mm, largest {top:.3f}", quiet=quiet)
    for number in fit.outliers.nonzero()[0]:
        name = _names(fit)[number]
        say(f"  outlier: landmark {name}, {fit.residuals_mm[number]:.3f} mm away", quiet=quiet)
