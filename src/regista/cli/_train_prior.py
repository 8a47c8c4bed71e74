"""``regista train deformation-prior``: what deformations of one's own are like, as a penalty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regista.cli._chains import Format, Moving, read_optional
from regista.cli._console import Debug, Json, Quiet, Threads, guarded, say, say_json


@guarded
def deformation_prior(
    fields: Annotated[
        Path,
        typer.Argument(
            metavar="FIELDS",
            help="CSV with the column field (paths from its folder), or a folder of transforms: fields, or results of "
            "register, whose linear part is left out.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write (.npz).")],
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Modes to keep (default: as many as hold 90 % of the variance)."),
    ] = None,
    residual: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            help="Usual displacement that no mode explains (default: found by leaving out each field in turn).",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", "--fixed", help="Image whose grid all fields are brought onto, such as a template."
        ),
    ] = None,
    moving: Moving = None,
    format: Format = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn which deformations to expect from fields of maps from one space (mean and modes).

    A plan uses it as penalties = [{deformation-prior = {weight = 0.1, model = "FILE"}}].
    """
    import numpy as np

    from regista.cli._outputs import check_outputs, keep_inputs
    from regista.core import threads as use_threads
    from regista.registration import learn_deformation_prior, list_fields
    from regista.regularization import DeformationModel, save_deformation_model

    check_outputs([output], [fields, like, moving], (".npz",))
    files = list_fields(fields)
    keep_inputs([output], files)
    fixed, other = read_optional(like), read_optional(moving)
    with use_threads(threads):
        prior = learn_deformation_prior(
            files,
            rank=rank,
            residual_mm=residual,
            grid=None if fixed is None else fixed.grid,
            format=format,
            fixed=fixed,
            moving=other,
        )
    model = prior.model
    assert isinstance(model, DeformationModel)
    save_deformation_model(model, output)
    along = [round(float(one), 4) for one in np.sqrt(model.variances_mm2)]
    left = float(np.sqrt(model.residual_mm2))
    if as_json:
        say_json(
            {
                "output": str(output),
                "fields": len(files),
                "grid": model.grid.describe(),
                "modes": len(along),
                "modes_mm": along,
                "residual_mm": left,
            }
        )
        return
    modes = "1 mode" if len(along) == 1 else f"{len(along)} modes"
    say(f"{output}: {modes} from {len(files)} fields of {model.grid.describe()}", quiet=quiet)
    shown = ", ".join(f"{one:.3g}" for one in along)
    say(f"  usual displacement along each mode {shown} mm, outside them {left:.3g} mm", quiet=quiet)
