"""Put runs of trained networks on their page, beside the methods that need no training.

python benchmarks/publish_learned.py cardiac unsupervised semi-supervised -o docs/benchmarks/learned-cardiac.md
python benchmarks/publish_learned.py brain unsupervised diffeomorphic -o docs/benchmarks/learned-brain.md
python benchmarks/publish_learned.py contrast any-contrast -o docs/benchmarks/learned-contrast.md

writes, between the page's marks, a table of `learned_cardiac.py --classical` and of the runs named, how each network
was trained, and what `--sweeps smoothness subjects` names of `learned_sweep.py`; of `contrast`, the tables that `learned_contrast.py` wrote. What is outside the marks stays as it is.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import learned_brain
import learned_cardiac
from harness.machine import RESULTS
from harness.trained import budget, read_rows, read_run, table
from publish import BEGIN, END, tables_of

SETS = {"brain": learned_brain, "cardiac": learned_cardiac}


def contrast(name: str) -> list[str]:
    """Return the tables of a network for any contrast, and how far it is followed where `learned_passes.py` tells."""
    parts = [tables_of((RESULTS / f"learned_contrast_{name}.md").read_text("utf-8"), "")]
    followed = RESULTS / f"learned_passes_{name}.md"
    if followed.is_file():
        body = followed.read_text("utf-8").split("\n", 1)[1].strip()
        parts.append(
            f"### How far it is followed\n\n`python benchmarks/learned_passes.py --name {name} --threads 1`\n\n{body}"
        )
    return parts


def sweep(images: str, setting: str, page: Path) -> str:
    """Return the tables of a sweep, its plot copied beside the page."""
    name = f"learned_sweep_{images}_{setting}"
    source = RESULTS / f"{name}.md"
    if not source.is_file():
        sys.exit(f"{source} is missing: run benchmarks/learned_sweep.py {images} --{setting} … first")
    plots = page.parent / "plots" / f"learned-{images}"
    plots.mkdir(parents=True, exist_ok=True)
    shutil.copy(RESULTS / f"{name}.png", plots / f"{setting}.png")
    body = source.read_text(encoding="utf-8").split("\n", 1)[1].strip()
    return f"### By {setting}\n\n" + body.replace(f"({name}.png)", f"(plots/learned-{images}/{setting}.png)")


def publish(images: str, names: list[str], sweeps: list[str], page: Path) -> None:
    """Write the tables of runs into a page."""
    if images == "contrast":
        put(
            page,
            [part for name in names for part in contrast(name)],
        )
        return
    script = SETS[images]
    known = RESULTS / f"{script.CLASSICAL}.csv"
    if not known.is_file():
        sys.exit(f"{known} is missing: run benchmarks/learned_{images}.py --classical first")
    runs = {name: read_run(f"learned_{images}_{name}") for name in names}
    rows = [*read_rows(known), *(row for _, own in runs.values() for row in own)]
    machines = dict.fromkeys(facts["machine"] for facts, _ in runs.values())
    trained = "\n\n".join(f"**{name}**: {budget(facts)}" for name, (facts, _) in runs.items())
    parts = (
        table(rows, script.COLUMNS),
        "Mean ± SD over cases.",
        "\n\n".join(machines),
        f"`python benchmarks/learned_{images}.py --classical`",
        "### Training",
        trained,
        *(sweep(images, setting, page) for setting in sweeps),
    )
    put(page, parts)


def put(page: Path, parts: Sequence[str]) -> None:
    """Write what comes between the page's marks."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} has no place for results: it needs one line {BEGIN} and, below it, one line {END}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Publish runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", choices=(*SETS, "contrast"))
    parser.add_argument("names", nargs="+", help="runs, as --name called them")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PAGE", help="docs/benchmarks/NAME.md"
    )
    parser.add_argument("--sweeps", nargs="+", default=[], choices=("smoothness", "subjects"))
    options = parser.parse_args()
    publish(options.images, options.names, options.sweeps, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
