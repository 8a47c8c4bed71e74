"""One value and gradient of a trained metric on a whole brain, all patches at once against one by one, a step of training.

python benchmarks/deep_metric.py [--shape 160 205 183] [--stride 2] [--channels 16 32 32 64] [--architecture two-channel]
    [--threads 2] [--repeats 3] [--no-mind]

Weights are random: they do not change the time. All patches at once are to be at least 50 times faster than one by one, and
differ by less than 1e-4; the last lines say whether they are. Results: results/deep_metric_speed.csv and .md.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from harness.machine import check_sources
from harness.tables import markdown, write_rows, write_summary
from regista.core import Grid, Image, set_threads
from regista.learning import MetricConfig, PatchSource, prepare_pair
from regista.learning._metric_objectives import objective
from regista.similarity import METRIC_ARCHITECTURES, MIND, DeepMetric, Prepared, patch_network

LEAST_RATIO = 50.0
"""How many times faster all patches at once are to be than one by one."""
LARGEST_DIFFERENCE = 1e-4


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=3, type=int, default=(160, 205, 183))
    parser.add_argument("--stride", type=int, choices=(1, 2), default=2)
    parser.add_argument("--channels", nargs=4, type=int, default=(16, 32, 32, 64))
    parser.add_argument("--architecture", choices=METRIC_ARCHITECTURES, default=METRIC_ARCHITECTURES[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-mind", action="store_true", help="leave MIND out")
    return parser.parse_args()


def least(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the least wall and processor seconds."""
    best = (np.inf, np.inf)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
    return best


def timed(metric: Prepared, warped: np.ndarray, repeats: int) -> tuple[float, float]:
    """Return the least wall and processor seconds of one value and gradient."""
    out = np.empty_like(warped)
    return least(lambda: metric.value_and_gradient(warped, None, out), repeats)


def patch_ratio(network: torch.nn.Module, repeats: int) -> tuple[float, float, float]:
    """Return how many times longer patches take than the whole, one by one and 256 at a time, and the difference."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 2, 79, 79, 79), np.float32))
    count = 32**3
    places = rng.integers(0, 32, (256, 3))
    patches = torch.stack([image[0, :, a : a + 17, b : b + 17, c : c + 17] for a, b, c in places * 2])
    with torch.no_grad():
        dense = network(image)
        apart = network(patches)[:, 0, 0, 0, 0] - dense[0, 0][tuple(places.T)]
        whole = least(lambda: network(image), repeats)[1]
        single = least(lambda: [network(patches[:1]) for _ in range(64)], repeats)[1] * count / 64
        many = least(lambda: network(patches), repeats)[1] * count / 256
    return single / whole, many / whole, float(apart.abs().max())


def training_step(config: MetricConfig, repeats: int) -> tuple[float, float]:
    """Return the wall seconds of drawing a batch, which goes on during the step before, and of a step on it."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.standard_normal((96, 104, 90)), 2).astype(np.float32)
    image = Image(texture, Grid(texture.shape, np.eye(4)))
    source = PatchSource([prepare_pair(image, image, config, check_alignment=False)], config)
    network = patch_network().fresh(config.architecture, 3, config.channels)
    optimizer = torch.optim.AdamW(network.parameters())
    images, target = (torch.from_numpy(one) for one in source.batch(rng, config.batch, 3.0))

    def step() -> None:
        optimizer.zero_grad()
        objective(network, images, target)[0].backward()
        optimizer.step()

    drawn = least(lambda: source.batch(rng, config.batch, 3.0), repeats)[0]
    return drawn, least(step, repeats)[0]


def verdicts(ratio: float, difference: float) -> list[str]:
    """Return whether all patches at once are fast enough, and the same."""
    return [
        f"{'pass' if met else 'FAIL'}: {told}"
        for met, told in (
            (ratio >= LEAST_RATIO, f"{ratio:.0f} times faster than one by one, at least {LEAST_RATIO:g}"),
            (
                difference < LARGEST_DIFFERENCE,
                f"they differ by {difference:.1e}, below {LARGEST_DIFFERENCE:g}",
            ),
        )
    ]


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    check_sources()
    set_threads(options.threads)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    fixed, warped = (rng.random(options.shape, np.float32) for _ in range(2))
    config = MetricConfig(
        architecture=options.architecture, ndim=3, channels=tuple(options.channels), batch=64
    )
    with tempfile.TemporaryDirectory() as place:
        network = patch_network().fresh(options.architecture, 3, options.channels).requires_grad_(False)
        save_file(network.state_dict(), f"{place}/model.safetensors")
        Path(place, "model.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        metric = DeepMetric(model=place, stride=options.stride, device="cpu").prepare(fixed, None)
        deep = timed(metric, warped, options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    one, many, difference = patch_ratio(network, options.repeats)
    drawn, step = training_step(config, options.repeats)
    row = {
        "architecture": options.architecture,
        "voxels": int(np.prod(options.shape)),
        "stride": options.stride,
        "wall_s": deep[0],
        "processor_s": deep[1],
        "peak_gb": peak,
        "one_by_one_ratio": one,
        "by_256_ratio": many,
        "difference": difference,
        "draw_s": drawn,
        "step_s": step,
    }
    if not options.no_mind:
        row["mind_wall_s"], row["mind_processor_s"] = timed(
            MIND().prepare(fixed, None), warped, options.repeats
        )
    write_rows("deep_metric_speed", [row])
    table = markdown(["measure", "found"], [[name, value] for name, value in row.items()])
    told = [table, *verdicts(one, difference)]
    summary = write_summary("deep_metric_speed", "Trained metric: speed", options.threads, told)
    print(summary.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
