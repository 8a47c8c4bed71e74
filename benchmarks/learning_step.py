"""What a training step's warp, local correlation and smoothness cost: our kernels and plain torch, side by side.

python benchmarks/learning_step.py [--shape 160 192 224] [--threads 2] [--repeat 3] [--radius 4]

Forward and backward of ``LNCC(fixed, warp(moving, field)) + Diffusion(field)``, with the gradient by the field. Plain
torch is `grid_sample`, window means by pooling along one axis after the other ('separable') or by `avg_pool3d` of the whole window
('pooled', as published implementations do), and differences.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from harness.tables import markdown, write_rows, write_summary
from regista.core import set_threads
from regista.learning import _torch_ops, dissimilarity, penalty, warp
from regista.regularization import Diffusion
from regista.similarity import LNCC

SPACING = (1.0, 1.0, 1.0)


def volumes(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return two images and a field, smooth enough to be real."""
    rng = np.random.default_rng(0)
    coarse = [max(4, n // 8) for n in shape]
    noise = torch.from_numpy(rng.random((5, 1, *coarse), np.float32))
    smooth = F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)
    texture = torch.from_numpy(rng.random((2, 1, *shape), np.float32))
    images = smooth[:2] + 0.2 * texture
    return images[:1], images[1:2], (smooth[2:, 0] - 0.5)[None] * 6


def ours(fixed: torch.Tensor, moving: torch.Tensor, field: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the loss by the kernels."""
    return dissimilarity(LNCC(radius=radius), fixed, warp(moving, field)) + penalty(
        Diffusion(weight=1.0), field, SPACING
    )


def separable(fixed: torch.Tensor, moving: torch.Tensor, field: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the loss by plain torch with separable windows."""
    warped = _torch_ops.warp(moving, field)
    return _torch_ops.lncc(fixed, warped, radius, 1e-5) + _torch_ops.diffusion(field, SPACING)


def pooled(fixed: torch.Tensor, moving: torch.Tensor, field: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the loss by plain torch with pooled windows."""
    warped = _torch_ops.warp(moving, field)

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    f, w = mean(fixed), mean(warped)
    cross, ff, ww = mean(fixed * warped) - f * w, mean(fixed**2) - f * f, mean(warped**2) - w * w
    return -(cross**2 / (ff * ww + 1e-5)).mean() + _torch_ops.diffusion(field, SPACING)


def seconds(loss: Callable[[torch.Tensor], torch.Tensor], field: torch.Tensor, repeat: int) -> list[float]:
    """Return the times of forward and backward, the first one left out."""
    taken = []
    for _ in range(repeat + 1):
        leaf = field.clone().requires_grad_()
        began = time.perf_counter()
        loss(leaf).backward()
        taken.append(time.perf_counter() - began)
    return taken[1:]


def main() -> None:
    """Time all three, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 192, 224])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--radius", type=int, default=4)
    options = parser.parse_args()
    set_threads(options.threads)
    torch.set_num_threads(options.threads)
    fixed, moving, field = volumes(tuple(options.shape))
    rows = []
    for name, loss in (("kernels", ours), ("torch, separable", separable), ("torch, pooled", pooled)):
        taken = seconds(lambda u, run=loss: run(fixed, moving, u, options.radius), field, options.repeat)
        rows.append({"what": name, "median_s": statistics.median(taken), "least_s": min(taken)})
        print(rows[-1], flush=True)
    for row in rows:
        row["times ours"] = row["median_s"] / rows[0]["median_s"]
    write_rows("learning_step", rows)
    table = markdown(list(rows[0]), [list(row.values()) for row in rows])
    notes = f"Shape {options.shape}, radius {options.radius}."
    print(
        write_summary("learning_step", "A training step's loss", options.threads, [notes, table]).read_text(
            encoding="utf-8"
        )
    )


if __name__ == "__main__":
    main()
