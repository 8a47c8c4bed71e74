"""Ways to run a network on the CPU: time of one forward pass, and how far the answers differ.

python benchmarks/learned_inference.py [--network voxelmorph-1] [--shape 160 192 224] [--threads 2] [--repeat 3] [--only WORD …]

Weights are random, of a size that gives displacements of a few voxels. OpenVINO joins where it is installed. Rounds go
through all ways in turn, so that other work on the machine meets all of them.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from harness.tables import markdown, write_rows, write_summary
from regista.core import set_threads
from regista.learning import ARCHITECTURES, RegistrationNetwork
from regista.learning._networks import Conv3d

Pass = Callable[[], np.ndarray]


def network_of(name: str, images: list[torch.Tensor]) -> RegistrationNetwork:
    """Return a network whose largest displacement is 5 voxels on these images."""
    torch.manual_seed(0)
    network = RegistrationNetwork(images[0].dim() - 2, ARCHITECTURES[name]).eval()
    with torch.no_grad():
        largest = float(network(*images).field.abs().max())
        network.flow.weight *= 5 / largest
    return network


class Bare(torch.nn.Module):
    """A network that gives its field alone, as what follows torch wants it."""

    def __init__(self, network: RegistrationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Return the field."""
        return self.network(moving, fixed).field


def eager(
    network: RegistrationNetwork,
    images: list[torch.Tensor],
    layout: torch.memory_format,
    bf16: bool = False,
    folded: bool = False,
) -> Pass:
    """Return a pass in eager torch; `folded` upsamples by transposed convolutions and keeps off torch's slow route."""
    network = copy.deepcopy(network).to(memory_format=layout)
    network.body.folded = folded
    for layer in [] if folded else network.modules():
        if isinstance(layer, Conv3d):
            layer.__class__ = torch.nn.Conv3d  # as anyone's network in torch

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network(*(one.to(memory_format=layout) for one in images)).field.float().numpy()

    return run


def frozen(network: RegistrationNetwork, images: list[torch.Tensor], layout: torch.memory_format) -> Pass:
    """Return a pass of the traced network, whose weights are laid out once for all."""
    network = copy.deepcopy(network).to(memory_format=layout)
    inputs = tuple(one.to(memory_format=layout) for one in images)
    with torch.inference_mode():
        traced = torch.jit.optimize_for_inference(
            torch.jit.freeze(torch.jit.trace(Bare(network).eval(), inputs))
        )

    def run() -> np.ndarray:
        with torch.inference_mode():
            return traced(*inputs).numpy()

    run()  # the first passes still optimize
    return run


def built_in(network: RegistrationNetwork, images: list[torch.Tensor]) -> Pass:
    """Return a pass as Regista runs it."""
    moving, fixed = (one[0, 0].numpy() for one in images)
    trained = network.trained()
    return lambda: trained.displacement_vox(fixed, moving)[None]


def openvino(network: RegistrationNetwork, images: list[torch.Tensor], threads: int, precision: str) -> Pass:
    """Return a pass in OpenVINO."""
    import openvino as ov

    model = ov.convert_model(
        Bare(network).eval(), example_input=tuple(images), input=[one.shape for one in images]
    )
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    compiled = ov.compile_model(model, "CPU", settings)
    return lambda: next(iter(compiled([one.numpy() for one in images]).values()))


def main() -> None:
    """Time every way there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="voxelmorph-1", choices=list(ARCHITECTURES))
    parser.add_argument("--shape", type=int, nargs="+", default=[160, 192, 224])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="ways whose names hold one of these words")
    options = parser.parse_args()
    set_threads(options.threads)
    torch.set_num_threads(options.threads)
    images = [torch.rand((1, 1, *options.shape), generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    network = network_of(options.network, images)
    last = torch.channels_last_3d if len(options.shape) == 3 else torch.channels_last
    ways: dict[str, Callable[[], Pass]] = {
        "torch, fp32, default layout": lambda: eager(network, images, torch.contiguous_format),
        "Regista's kernels, fp32": lambda: built_in(network, images),
        "torch, fp32, channels last": lambda: eager(network, images, last),
        "torch, fp32, default layout, folded": lambda: eager(
            network, images, torch.contiguous_format, folded=True
        ),
        "torch, fp32, channels last, folded": lambda: eager(network, images, last, folded=True),
        "torch, bf16, default layout": lambda: eager(network, images, torch.contiguous_format, bf16=True),
        "torch, bf16, channels last": lambda: eager(network, images, last, bf16=True),
        "torch, fp32, frozen": lambda: frozen(network, images, torch.contiguous_format),
        "OpenVINO, fp32": lambda: openvino(network, images, options.threads, "f32"),
        "OpenVINO, bf16": lambda: openvino(network, images, options.threads, "bf16"),
    }
    passes: dict[str, Pass] = {}
    fields: dict[str, np.ndarray] = {}
    first_s: dict[str, float] = {}
    for name, make in ways.items():
        if options.only and not any(word in name for word in options.only):
            continue
        try:
            began = time.perf_counter()
            passes[name] = make()
            fields[name] = passes[name]()
            first_s[name] = time.perf_counter() - began
        except ImportError as error:
            print(f"{name}: left out ({error})", flush=True)
    taken: dict[str, list[float]] = {name: [] for name in fields}
    for _ in range(options.repeat):
        for name, seconds in taken.items():
            began = time.perf_counter()
            passes[name]()
            seconds.append(time.perf_counter() - began)
            print(f"{name}: {seconds[-1]:.2f} s", flush=True)
    first = next(iter(fields))
    rows = [
        {
            "way": name,
            "median_s": statistics.median(seconds),
            "least_s": min(seconds),
            "made ready and first pass, s": first_s[name],
            "share": statistics.median(seconds) / statistics.median(taken[first]),
            "largest difference, voxels": float(np.abs(fields[name] - fields[first]).max()),
        }
        for name, seconds in taken.items()
    ]
    write_rows("learned_inference", rows)
    table = markdown(list(rows[0]), [list(row.values()) for row in rows])
    notes = f"{options.network} at {options.shape}."
    print(
        write_summary("learned_inference", "One pass on the CPU", options.threads, [notes, table]).read_text(
            encoding="utf-8"
        )
    )


if __name__ == "__main__":
    main()
