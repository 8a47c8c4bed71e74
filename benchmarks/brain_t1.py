"""Brain pairs side by side: ANTsPy, Greedy and Regista, equal threads, one after another.

python benchmarks/brain_t1.py [--pairs 10] [--threads 2] [--tools …] [--data DIR] [--reuse-peers]

Each tool runs in a process of its own. Labels are sampled once, nearest neighbour, through the map each tool
left, by SimpleITK. Rows go to results/brain_t1.csv, the summary to results/brain_t1.md.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.cases import Outcome, Pair, run_command, run_tool
from harness.machine import data_folder
from harness.measures import folded_percent, load_map, mean_dice
from harness.tables import markdown, spread, write_rows, write_summary

# fixed, moving: straight from the files' own headers, origins arbitrary
PAIRS = (
    ("1000", "1001"),
    ("1006", "1002"),
    ("1007", "1008"),
    ("1010", "1009"),
    ("1011", "1012"),
    ("1014", "1013"),
    ("1015", "1017"),
    ("1036", "1000"),
    ("1002", "1010"),
    ("1008", "1015"),
)
PEERS = ("ants_linear", "greedy_deformable", "greedy_whole")
OURS = ("regista_affine", "regista_deformable", "regista_whole")
COMPARISONS = (
    ("Affine stage", "ants_linear", "regista_affine", "stage_seconds"),
    ("Deformable stage from ANTs' affine", "greedy_deformable", "regista_deformable", "stage_seconds"),
    (
        "… with our inverse and warped image",
        "greedy_deformable",
        "regista_deformable",
        "with_inverse_seconds",
    ),
    ("Whole pipeline, own affine, command", "greedy_whole", "regista_whole", "command_seconds"),
)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="how many of the listed pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tools", nargs="+", choices=PEERS + OURS, default=list(PEERS + OURS))
    parser.add_argument("--data", help="folder of images; default REGISTA_DATA or ../shared/data")
    parser.add_argument(
        "--reuse-peers", action="store_true", help="keep the peers' earlier outputs: times not side by side"
    )
    return parser.parse_args()


def brain_pair(data: Path, fixed: str, moving: str) -> Pair:
    """Return the images of two subjects."""
    folder = data / "brain_t1"
    return Pair(
        f"brain_{fixed}_{moving}", str(folder / f"{fixed}_t1.nii.gz"), str(folder / f"{moving}_t1.nii.gz")
    )


def run_pair(pair: Pair, tools: Sequence[str], threads: int, reuse: bool) -> list[Outcome]:
    """Run the tools on a pair, in the order listed."""
    affine: Path | None = None
    if {"ants_linear", "greedy_deformable", "regista_deformable"} & set(tools):
        start = run_tool("ants_linear", pair, threads, reuse=reuse or "ants_linear" not in tools)
        affine = start.transforms[0]
    runs: dict[str, Callable[[], Outcome]] = {
        "ants_linear": lambda: start,
        "greedy_deformable": lambda: run_tool("greedy_deformable", pair, threads, affine=affine, reuse=reuse),
        "greedy_whole": lambda: run_tool("greedy_whole", pair, threads, reuse=reuse),
        "regista_affine": lambda: run_tool("regista_affine", pair, threads),
        "regista_deformable": lambda: run_tool("regista_deformable", pair, threads, affine=affine),
        "regista_whole": lambda: run_command(pair, threads),
    }
    return [runs[tool]() for tool in tools]


def measure(pair: Pair, outcome: Outcome) -> dict[str, object]:
    """Return one row."""
    mapping = load_map(outcome.transforms)
    labels = [name.replace("_t1.nii.gz", "_labels.nii.gz") for name in (pair.fixed, pair.moving)]
    dice, count = mean_dice(*labels, mapping)
    return {
        "pair": pair.name,
        "tool": outcome.tool,
        "dice": dice,
        "labels": count,
        "folded_percent": folded_percent(pair.fixed, mapping),
        "stage_seconds": outcome.stage_seconds,
        "with_inverse_seconds": outcome.timing.get("with_inverse_seconds", outcome.stage_seconds),
        "command_seconds": outcome.command_seconds,
        "peak_mb": outcome.peak_mb,
    }


def summarize(rows: Sequence[dict], tools: Sequence[str]) -> list[str]:
    """Return the sections of the summary: every tool, then the comparisons by pair."""
    by_tool = {tool: [row for row in rows if row["tool"] == tool] for tool in tools}
    table = [
        [
            tool,
            len(found),
            spread([r["dice"] for r in found], 4),
            f"{max(r['folded_percent'] for r in found):.4f}",
            spread([r["stage_seconds"] for r in found], 2),
            spread([r["command_seconds"] for r in found], 2),
            f"{max(r['peak_mb'] for r in found):.0f}",
        ]
        for tool, found in by_tool.items()
        if found
    ]
    header = (
        "tool",
        "pairs",
        "mean label Dice",
        "folded % (worst)",
        "stage s",
        "command s",
        "peak MB (worst)",
    )
    compared = [
        _compared(title, by_tool[peer], by_tool[ours], clock)
        for title, peer, ours, clock in COMPARISONS
        if by_tool.get(peer) and by_tool.get(ours)
    ]
    sections = [markdown(header, table)]
    if compared:
        header = ("what", "Dice, ours − theirs", "pairs won", "their s", "our s", "times faster")
        sections.append(markdown(header, compared))
    return sections


def _compared(title: str, peer: Sequence[dict], ours: Sequence[dict], clock: str) -> list[object]:
    theirs = {row["pair"]: row for row in peer}
    both = [(theirs[row["pair"]], row) for row in ours if row["pair"] in theirs]
    gains = [b["dice"] - a["dice"] for a, b in both]
    before = statistics.fmean(a[clock] for a, _ in both)
    after = statistics.fmean(b[clock] for _, b in both)
    won = f"{sum(gain > 0 for gain in gains)}/{len(gains)}"
    return [title, spread(gains, 4), won, f"{before:.2f}", f"{after:.2f}", f"{before / after:.1f}"]


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    data = data_folder(options.data)
    rows: list[dict] = []
    for fixed, moving in PAIRS[: options.pairs]:
        pair = brain_pair(data, fixed, moving)
        for outcome in run_pair(pair, options.tools, options.threads, options.reuse_peers):
            row = measure(pair, outcome)
            rows.append(row)
            print(
                f"{pair.name} {outcome.tool:20s} Dice {row['dice']:.4f}  {outcome.stage_seconds:7.2f} s stage"
                f"  {outcome.command_seconds:7.2f} s command  {outcome.peak_mb:6.0f} MB  "
                f"folded {row['folded_percent']:.4f} %",
                flush=True,
            )
        write_rows("brain_t1", rows)
        notes = ["Peers' outputs reused from an earlier run."] if options.reuse_peers else []
        path = write_summary(
            "brain_t1", "Brain T1 pairs", options.threads, notes + summarize(rows, options.tools)
        )
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
