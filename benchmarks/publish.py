"""Put a finished run of `side_by_side.py` on its page.

python benchmarks/publish.py benchmarks/results/mouse -o docs/benchmarks/mouse.md

writes, between the page's marks, the command, commit and date, the machine with threads and versions, and every
table of the run; its plots go to docs/benchmarks/plots/NAME. What is outside the marks stays as it is. A run that
did not reach its end is refused.
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


def publish(results: Path, page: Path) -> None:
    """Write the tables of a run into a page."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} has no place for results: it needs one line {BEGIN} and, below it, one line {END}")
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
    plots = page.parent / "plots" / page.stem
    shutil.rmtree(plots, ignore_errors=True)
    for path in sorted((results / "plots").glob("*.png")):
        if path.name.startswith(PLOTS):
            plots.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, plots)
    body = _tables(summary.read_text(encoding="utf-8"), page.stem)
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{made}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _tables(text: str, name: str) -> str:
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
    options = parser.parse_args()
    publish(options.results, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
