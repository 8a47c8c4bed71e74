"""The demo pair: distance of the recovered map from the true one, inside the brain.

python benchmarks/known_truth.py [--threads 2] [--seeds 2026 …]
"""

import argparse
import time

from harness.tables import markdown, write_rows, write_summary
from regista.core import set_threads
from regista.demo import make_known_pair, transform_error
from regista.registration import load_plan, register, warmup


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2026])
    parser.add_argument("--preset", default="brain-t1")
    options = parser.parse_args()
    set_threads(options.threads)
    warmup()
    rows = []
    for seed in options.seeds:
        pair = make_known_pair(seed=seed)
        start = time.perf_counter()
        result = register(pair.fixed, pair.moving, load_plan(options.preset), threads=options.threads)
        seconds = time.perf_counter() - start
        before = transform_error(None, pair.truth, pair.mask)
        after = transform_error(result.transform, pair.truth, pair.mask)
        rows.append({"seed": seed, "seconds": seconds, "before_mm": before.mean_mm, **after.to_dict()})
        print(rows[-1], flush=True)
    write_rows("known_truth", rows)
    header = ("seed", "mean before, mm", "mean, mm", "95th percentile, mm", "largest, mm", "seconds")
    keys = ("seed", "before_mm", "mean_mm", "p95_mm", "max_mm", "seconds")
    table = markdown(header, [[row[key] for key in keys] for row in rows])
    path = write_summary("known_truth", f"Known truth, preset {options.preset}", options.threads, [table])
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
