"""Made-up pairs of two contrasts, and folders of metrics."""

from __future__ import annotations

import json

import numpy as np
from scipy.ndimage import gaussian_filter

from regista.core import Grid, Image


def contrasts(shape, seed=0, shift=None, spacing=None):
    """Return two images of one texture: the second is a bent, dark-for-bright image of the first, `shift` voxels off."""
    rng = np.random.default_rng(seed)
    room = 12
    texture = gaussian_filter(rng.standard_normal([n + 2 * room for n in shape]), 2.5)
    texture = np.clip(0.5 + 0.2 * texture / texture.std(), 0, 1)
    shift = [0] * len(shape) if shift is None else shift
    here = tuple(slice(room, room + n) for n in shape)
    there = tuple(slice(room + s, room + s + n) for n, s in zip(shape, shift, strict=True))
    first, second = texture[here], np.sin(2.2 * (1 - texture[there])) ** 2
    scale = np.diag([*(spacing or [1.0] * len(shape)), 1.0])
    return tuple(Image(one.astype(np.float32), Grid(tuple(shape), scale)) for one in (first, second))


def untrained(folder, ndim, channels=(4, 4, 4, 4), seed=0, architecture="two-channel"):
    """Write the folder of a metric with random weights; return its network."""
    import torch
    from safetensors.torch import save_file

    from regista.learning import MetricConfig
    from regista.similarity import patch_network

    torch.manual_seed(seed)
    network = patch_network().fresh(architecture, ndim, channels)
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), str(folder / "model.safetensors"))
    config = MetricConfig(architecture=architecture, ndim=ndim, channels=channels)
    (folder / "model.json").write_text(
        json.dumps({**config.to_dict(), "contrasts": ["a", "b"]}), encoding="utf-8"
    )
    return network
