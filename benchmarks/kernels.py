"""Each kernel's time as a multiple of copying the volume, and its bytes over the memory bandwidth.

python benchmarks/kernels.py [--threads 2] [--shape 160 192 224] [--repeat 7]

`KERNELS` lists ``(name, make)``: ``make(shape)`` allocates the buffers and returns the call to be timed and
the bytes it must move at the least (every input read once, every output written once).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from harness.tables import markdown, write_rows, write_summary
from regista.core import set_threads
from regista.kernels.cpu.fields import compose, invert, jacobian_determinant
from regista.kernels.cpu.filters import box_filter, gaussian_filter
from regista.kernels.cpu.histogram import histogram_gradient, joint_histogram
from regista.kernels.cpu.intensity import image_force, linear_gradient, moments
from regista.kernels.cpu.lncc import lncc_coefficients, lncc_fixed, lncc_force
from regista.kernels.cpu.update import compose_small, largest_component
from regista.kernels.cpu.warp import warp

Shape = tuple[int, int, int]
Timed = tuple[Callable[[], object], int]
Make = Callable[[Shape], Timed]


def copy(shape: Shape) -> Timed:
    """Copy a volume with NumPy: the unit."""
    source = np.random.default_rng(0).random(shape, dtype=np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source), 2 * source.nbytes


def _volumes(shape: Shape, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.random(shape, dtype=np.float32) for _ in range(count)]


def _field(shape: Shape, size: float) -> np.ndarray:
    waves = np.sin(np.indices(shape, dtype=np.float32) / 9)
    return np.ascontiguousarray(waves[::-1] * np.float32(size / np.sqrt(3)))


_AFFINE = np.column_stack([np.diag([0.98, 1.01, 0.99]) + 0.01, [1.5, -2.0, 0.7]])


def warp_affine(shape: Shape) -> Timed:
    """Warp through a linear map: one volume in, image and inside flags out."""
    moving, out, inside = _volumes(shape, 3)
    return lambda: warp(moving, _AFFINE, shape=shape, out=out, inside=inside), 3 * moving.nbytes


def warp_field(shape: Shape) -> Timed:
    """Warp through a field and a linear map."""
    moving, out, inside = _volumes(shape, 3)
    field = _field(shape, 4.0)
    return lambda: warp(moving, _AFFINE, field, shape=shape, out=out, inside=inside), 6 * moving.nbytes


def gaussian(sigma: float) -> Make:
    """Smooth the three components of a field."""

    def make(shape: Shape) -> Timed:
        field = _field(shape, 4.0)
        out = np.empty_like(field)
        return lambda: gaussian_filter(field, sigma, out=out), 2 * field.nbytes

    return make


def box(shape: Shape) -> Timed:
    """Sum one volume over windows of 5 voxels a side."""
    (stack,) = _volumes((1, *shape), 1)
    out = np.empty_like(stack)
    return lambda: box_filter(stack, 2, out=out), 2 * stack.nbytes


def coefficients(shape: Shape) -> Timed:
    """First pass of LNCC: images and fixed statistics in, three coefficients out."""
    fixed, warped = _volumes(shape, 2)
    mean, spread = lncc_fixed(fixed, 2)
    out = np.empty((3, *shape), np.float32)
    call = partial(lncc_coefficients, fixed, mean, spread, warped, None, 2, 1e-5, out=out)
    return call, 7 * fixed.nbytes


def force(shape: Shape) -> Timed:
    """Second pass of LNCC: images and coefficients in, force out."""
    fixed, warped = _volumes(shape, 2)
    given, out = _field(shape, 1.0), np.empty((3, *shape), np.float32)
    return lambda: lncc_force(fixed, warped, given, 2, (1, 1, 1), True, out=out), 8 * fixed.nbytes


def ssd_moments(shape: Shape) -> Timed:
    """Take the sums of SSD and NCC."""
    fixed, warped = _volumes(shape, 2)
    return lambda: moments(fixed, warped), 2 * fixed.nbytes


def symmetric_force(shape: Shape) -> Timed:
    """Force of SSD, NCC and MI from a gradient by intensity."""
    gradient, warped, fixed = _volumes(shape, 3)
    out = np.empty((3, *shape), np.float32)
    return lambda: image_force(gradient, warped, fixed, (1, 1, 1), True, out=out), 6 * fixed.nbytes


def linear(shape: Shape) -> Timed:
    """Reduce a gradient by intensity to the 12 numbers of a linear map."""
    gradient, warped = _volumes(shape, 2)
    return lambda: linear_gradient(gradient, warped), 2 * warped.nbytes


def histogram(shape: Shape) -> Timed:
    """Fill a joint histogram of 32 bins."""
    fixed, warped = _volumes(shape, 2)
    bins = (fixed * 31).astype(np.uint8)
    return lambda: joint_histogram(bins, warped, None, 32, 0.0, 1 / 28), bins.nbytes + warped.nbytes


def histogram_slope(shape: Shape) -> Timed:
    """Gradient of mutual information by intensity."""
    fixed, warped = _volumes(shape, 2)
    bins, table, out = (fixed * 31).astype(np.uint8), np.ones((32, 32)), np.empty_like(warped)
    call = partial(histogram_gradient, bins, warped, None, table, 0.0, 1 / 28, out=out)
    return call, bins.nbytes + 2 * warped.nbytes


def step(shape: Shape) -> Timed:
    """Compositive update of a field by a step of one voxel."""
    field, update = _field(shape, 4.0), _field(shape, 1.0)
    out = np.empty_like(field)
    return lambda: compose_small(field, update, 1.0, out=out), 3 * field.nbytes


def norm(shape: Shape) -> Timed:
    """Longest vector of a field."""
    field = _field(shape, 4.0)
    return lambda: largest_component(field), field.nbytes


def composition(shape: Shape) -> Timed:
    """Composition of two fields of any length."""
    first, second = _field(shape, 4.0), _field(shape, 3.0)
    out = np.empty_like(first)
    return lambda: compose(first, second, out=out), 3 * first.nbytes


def inversion(shape: Shape) -> Timed:
    """Inversion of a field."""
    field = _field(shape, 3.0)
    return lambda: invert(field), 2 * field.nbytes


def jacobian(shape: Shape) -> Timed:
    """Jacobian determinant of a field."""
    field = _field(shape, 3.0)
    return lambda: jacobian_determinant(field), field.nbytes * 4 // 3


KERNELS: list[tuple[str, Make]] = [
    ("np.copyto", copy),
    ("warp, affine", warp_affine),
    ("warp, field + affine", warp_field),
    ("gaussian, field, sigma 0.5", gaussian(0.5)),
    ("gaussian, field, sigma 1.732", gaussian(1.732)),
    ("box sum, radius 2", box),
    ("lncc coefficients, radius 2", coefficients),
    ("lncc force, radius 2", force),
    ("moments", ssd_moments),
    ("image force", symmetric_force),
    ("linear gradient", linear),
    ("joint histogram", histogram),
    ("histogram gradient", histogram_slope),
    ("compose, one-voxel step", step),
    ("largest norm", norm),
    ("compose, any field", composition),
    ("invert, field", inversion),
    ("jacobian determinant", jacobian),
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
    print(write_summary("kernels", title, options.threads, [table]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
