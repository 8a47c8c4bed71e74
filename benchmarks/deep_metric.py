"""One value and gradient of a trained metric on a whole brain, and all patches at once against one by one.

python benchmarks/deep_metric.py [--shape 160 205 183] [--stride 2] [--channels 16 32 32 64] [--threads 2]

Weights are random: they do not change the time. Results: results/deep_metric_speed.csv and .md.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from harness.machine import check_sources
from harness.tables import markdown, write_rows, write_summary
from regista.core import set_threads
from regista.learning import MetricConfig
from regista.similarity import MIND, DeepMetric, Prepared, patch_network


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=3, type=int, default=(160, 205, 183))
    parser.add_argument("--stride", type=int, choices=(1, 2), default=2)
    parser.add_argument("--channels", nargs=4, type=int, default=(16, 32, 32, 64))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-mind", action="store_true", help="leave MIND out")
    return parser.parse_args()


def timed(metric: Prepared, warped: np.ndarray, repeats: int) -> tuple[float, float]:
    """Return the least wall and processor seconds of one value and gradient."""
    out, best = np.empty_like(warped), (np.inf, np.inf)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        metric.value_and_gradient(warped, None, out)
        best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
    return best


def patch_ratio(network: torch.nn.Module, repeats: int) -> tuple[float, float, float]:
    """Return how many times longer patches take than the whole, one by one and 256 at a time, and the difference."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 2, 79, 79, 79), np.float32))
    count = 32**3
    patches = torch.stack(
        [image[0, :, a : a + 17, b : b + 17, c : c + 17] for a, b, c in rng.integers(0, 32, (256, 3)) * 2]
    )
    with torch.no_grad():
        dense = network(image)
        corner = float((network(image[..., :17, :17, :17]) - dense[..., :1, :1, :1]).abs().max())
        times = []
        for work, share in (
            (lambda: network(image), 1),
            (lambda: [network(patches[:1]) for _ in range(64)], count / 64),
            (lambda: network(patches), count / 256),
        ):
            spent = []
            for _ in range(repeats):
                began = time.process_time()
                work()
                spent.append(time.process_time() - began)
            times.append(min(spent) * share)
    return times[1] / times[0], times[2] / times[0], corner


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    check_sources()
    set_threads(options.threads)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    fixed, warped = (rng.random(options.shape, np.float32) for _ in range(2))
    with tempfile.TemporaryDirectory() as place:
        network = patch_network().PatchNetwork(3, options.channels).requires_grad_(False)
        save_file(network.state_dict(), f"{place}/model.safetensors")
        config = MetricConfig(ndim=3, channels=tuple(options.channels))
        Path(place, "model.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        metric = DeepMetric(model=place, stride=options.stride, device="cpu").prepare(fixed, None)
        deep = timed(metric, warped, options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    one, many, difference = patch_ratio(network, options.repeats)
    row = {
        "voxels": int(np.prod(options.shape)),
        "stride": options.stride,
        "wall_s": deep[0],
        "processor_s": deep[1],
        "peak_gb": peak,
        "one_by_one_ratio": one,
        "by_256_ratio": many,
        "difference": difference,
    }
    if not options.no_mind:
        row["mind_wall_s"], row["mind_processor_s"] = timed(
            MIND().prepare(fixed, None), warped, options.repeats
        )
    write_rows("deep_metric_speed", [row])
    table = markdown(list(row), [list(row.values())])
    print(
        write_summary("deep_metric_speed", "Trained metric: speed", options.threads, [table]).read_text(
            encoding="utf-8"
        )
    )


if __name__ == "__main__":
    main()
