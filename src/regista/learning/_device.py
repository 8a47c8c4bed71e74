"""Where networks run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from regista.core import PlanError

_CARDS = ("nvidiactl", "nvhost-gpu", "nvgpu", "kfd", "dxg")
"""What lies in /dev where there is a graphics card that PyTorch may run on."""


def local_device(device: str) -> str:
    """Return the device of this process: of several started under ``torchrun`` each has a GPU of its own.

    Parameters
    ----------
    device : str
        'cpu', 'cuda' (or one of several, 'cuda:1'), or 'auto': a graphics card where PyTorch finds one.

    Raises
    ------
    PlanError
        If it is another word, or PyTorch finds no such graphics card.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdigit())):
        raise PlanError(f"device is 'auto', 'cpu' or 'cuda', got {device!r}")
    if kind == "cpu" or (kind == "auto" and not _card_possible()):
        return "cpu"
    try:
        import torch
    except (ImportError, OSError) as error:  # missing, or installed and broken
        if kind == "auto":
            return "cpu"
        raise PlanError(
            f"device = {device!r} needs PyTorch, which cannot be imported ({error}): pip install 'regista[learn]', or take 'cpu'"
        ) from None
    if kind == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif int(number or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count() or 'no'} graphics card{'s' * (torch.cuda.device_count() != 1)}"
        raise PlanError(f"device = {device!r}, and PyTorch finds {found} here: take 'cpu' or 'auto'")
    if device == "cuda" and torch.distributed.is_torchelastic_launched():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def _card_possible() -> bool:
    """Tell whether PyTorch is worth asking for a graphics card: its import takes seconds."""
    if "torch" in sys.modules or not sys.platform.startswith("linux"):
        return sys.platform != "darwin"
    return any(Path("/dev", name).exists() for name in _CARDS)
