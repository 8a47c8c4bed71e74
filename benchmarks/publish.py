"""Put a finished run of `side_by_side.py` on its page.

python benchmarks/publish.py benchmarks/results/mouse -o docs/benchmarks/mouse.md
python benchmarks/publish.py benchmarks/results/seconds/mouse -o docs/benchmarks/mouse.md --seconds

writes, between the page's marks, the command, commit and date, the machine with threads and versions, and every
table of the run; its plots go to docs/benchmarks/plots/NAME. What is outside the marks stays as it is. A run that
did not reach its end is refused.

Where other work ran beside a run its seconds do not compare. With ``--seconds`` only the table of seconds is taken, from
a run made for it on a machine left alone, with its plots against time.
"""

import argparse
import json
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PLOTS = ("box_", "time_", "regions_")
SECONDS = re.compile(r"^### Time and memory\n.*?(?=^### |\Z)", re.MULTILINE | re.DOTALL)


def publish(results: Path, page: Path, *, only_seconds: bool = False) -> None:
    """Write the tables of a run into a page, or its table of seconds alone."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} has no place for results: it needs one line {BEGIN} and, below it, one line {END}")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    made, body, name = _finished(results, page.stem)
    if name != page.stem:
        sys.exit(f"{results} is a run of the set {name}: its page is {name}.md, got {page}")
    plots = page.parent / "plots" / page.stem
    if only_seconds:
        body = _with_seconds(old, made, body, f"{results} and {page}")
        for path in plots.glob("time_*.png"):
            new = results / "plots" / path.name
            if new.is_file():
                shutil.copy(new, plots)
            else:  # drawn against seconds that are no longer on the page
                path.unlink()
                body = re.sub(rf"^!\[{path.stem}\].*\n+", "", body, flags=re.MULTILINE)
    else:
        shutil.rmtree(plots, ignore_errors=True)
        for path in sorted((results / "plots").glob("*.png")):
            if path.name.startswith(PLOTS):
                plots.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, plots)
        body = f"{made}\n\n{body}"
    page.write_text(f"{before}{BEGIN}\n\n{body.strip()}\n\n{END}{after}", encoding="utf-8")


def _with_seconds(old: str, made: str, body: str, where: str) -> str:
    """Return what stands on a page with the seconds of another run."""
    table = SECONDS.search(body)
    if not (table and SECONDS.search(old)):
        sys.exit(f"both {where} need a table of seconds, with the heading 'Time and memory'")
    machine = _machine_of(body)
    note = f"Of a run of its own, on a machine left alone: {made}" + (
        f" {machine}" if machine != _machine_of(old) else ""
    )
    heading, _, rest = table[0].partition("\n")
    return SECONDS.sub(lambda _: f"{heading}\n\n{note}\n{rest}", old)


def _finished(results: Path, name: str) -> tuple[str, str, str]:
    """Return how a finished run was made, its tables, and its set."""
    summary, raw, run = (results / name for name in ("summary.md", "raw.csv", "run.json"))
    lacking = [str(path) for path in (summary, raw, run) if not path.is_file()]
    if lacking:
        sys.exit(
            f"no finished run: {', '.join(lacking)} is missing; run benchmarks/side_by_side.py to its end"
        )
    if summary.stat().st_mtime < raw.stat().st_mtime:
        sys.exit(f"the run did not reach its end: {summary} is older than {raw}; run the same command again")
    facts = json.loads(run.read_text(encoding="utf-8"))
    ended = datetime.fromtimestamp(summary.stat().st_mtime, UTC)
    made = f"`{facts['command']}`, commit {facts['commit']}, ended {ended:%Y-%m-%d}."
    return made, tables_of(summary.read_text(encoding="utf-8"), name), str(facts.get("set", name))


def _machine_of(tables: str) -> str:
    """Return the line of a summary that names machine and versions."""
    return next((line for line in tables.splitlines() if "threads for each method" in line), "")


def tables_of(text: str, name: str) -> str:
    """Return a summary without its heading, its titles one level lower, its plots beside the page."""
    text = re.sub(r"\A# .*\n+", "", text)
    text = re.sub(r"^## ", "### ", text, flags=re.MULTILINE)
    return text.replace("](plots/", f"](plots/{name}/").strip()


def main() -> None:
    """Publish a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of the run")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PAGE", help="docs/benchmarks/NAME.md"
    )
    parser.add_argument("--seconds", action="store_true", help="take the table of seconds alone")
    options = parser.parse_args()
    publish(options.results, options.output, only_seconds=options.seconds)
    print(options.output)


if __name__ == "__main__":
    main()
