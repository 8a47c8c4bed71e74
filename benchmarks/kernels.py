"""Each kernel's time as a multiple of copying the volume, and its bytes over the memory bandwidth.

python benchmarks/kernels.py [--threads 2] [--shape 160 192 224] [--repeat 7]

`KERNELS` lists ``(name, make)``: ``make(shape)`` allocates the buffers and returns the call to be timed and
the bytes it must move at the least (every input read once, every output written once).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from harness.tables import markdown, write_rows, write_summary
from regista.core import set_threads

Shape = tuple[int, int, int]
Make = Callable[[Shape], tuple[Callable[[], object], int]]


def copy(shape: Shape) -> tuple[Callable[[], object], int]:
    """Copy a volume with NumPy: the unit."""
    source = np.random.default_rng(0).random(shape, dtype=np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source), 2 * source.nbytes


KERNELS: list[tuple[str, Make]] = [
    ("np.copyto", copy),
]


def timed(call: Callable[[], object], repeat: int) -> float:
    """Return the median seconds of a call, after one that compiles and warms."""
    call()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 192, 224))
    options = parser.parse_args()
    set_threads(options.threads)
    rows: list[dict[str, object]] = []
    unit = bandwidth = 1.0
    for name, make in KERNELS:
        call, moved = make(tuple(options.shape))
        seconds = timed(call, options.repeat)
        if not rows:
            unit, bandwidth = seconds, moved / seconds
        rows.append(
            {
                "kernel": name,
                "ms": 1e3 * seconds,
                "times_copy": seconds / unit,
                "gb_per_s": moved / seconds / 1e9,
                "over_bandwidth_limit": seconds * bandwidth / moved,
            }
        )
    write_rows("kernels", rows)
    table = markdown(tuple(rows[0]), [list(row.values()) for row in rows])
    title = "Kernels on " + "×".join(map(str, options.shape)) + " float32"
    print(write_summary("kernels", title, options.threads, [table]).read_text())


if __name__ == "__main__":
    main()
