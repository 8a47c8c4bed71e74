"""``regista skull-strip``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regista.cli._chains import IMAGE_SUFFIXES
from regista.cli._console import Debug, Json, Quiet, Threads, complain, guarded, say, say_json
from regista.cli._register import tell_compiling
from regista.cli._stops import stops_deferred

if TYPE_CHECKING:
    from regista.atlas import Template


@guarded
def skull_strip(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="Scan of a head, or a folder of DICOM slices.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Brain to write; its record goes beside it.")
    ],
    mask_out: Annotated[Path | None, typer.Option(help="Brain mask to write.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="Template (default: the stripped MNI152 T1 that nilearn ships).")
    ] = None,
    template_mask: Annotated[Path | None, typer.Option(help="Brain mask of the template.")] = None,
    refine_mm: Annotated[
        float, typer.Option(help="How far intensities may move the registered edge, mm; 0 for not at all.")
    ] = 1.5,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove everything but the brain, by registering a template and its brain mask.

    Writes the brain on the grid of IMAGE, and beside it a .skull-strip.json with parameters, measures and warnings.
    """
    from regista.atlas import skull_strip as run
    from regista.cli._outputs import check_outputs, keep_inputs, write_together
    from regista.cli._preprocess import sidecar_of
    from regista.cli._progress import progress_bar
    from regista.io import read

    inputs = [image, template, template_mask]
    check_outputs([output, mask_out], inputs, IMAGE_SUFFIXES)
    keep_inputs([sidecar_of(output, "skull-strip")], inputs)
    chosen = _template(template, template_mask)
    scan = read(image)
    if not (quiet or as_json):
        tell_compiling()
    with stops_deferred(), progress_bar(not (quiet or as_json)) as progress:
        found = run(scan, chosen, refine_mm=refine_mm, threads=threads, progress=progress)
    record = {
        **found.record,
        "files": {
            "image": str(image),
            "output": str(output),
            "mask": None if mask_out is None else str(mask_out),
            "template": None if template is None else str(template),
            "template_mask": None if template_mask is None else str(template_mask),
        },
    }
    things: dict[Path, Any] = {
        output: found.brain,
        sidecar_of(output, "skull-strip"): json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }
    if mask_out is not None:
        things[mask_out] = found.mask
    write_together(things)
    if as_json:
        say_json(record)
        return
    if not quiet:
        for warning in record["warnings"]:
            complain(f"Warning: {warning}")
        say(
            f"{output}: brain of {record['measures']['brain_ml']:.4g} ml in {record['timings']['total']:.1f} s"
        )
        for path in filter(None, (mask_out, sidecar_of(output, "skull-strip"))):
            say(f"  {path}")


def _template(template: Path | None, mask: Path | None) -> Template | None:
    from regista.core import PlanError

    if template is None and mask is None:
        return None
    if template is None or mask is None:
        given, missing = (
            ("--template", "--template-mask") if mask is None else ("--template-mask", "--template")
        )
        raise PlanError(f"{given} needs {missing} too: the mask says which part of the template is brain")
    from regista.atlas import Template
    from regista.io import read, stem_of

    return Template(read(template), read(mask), stem_of(template))
