"""Weights of another model that a training begins with."""

from __future__ import annotations

from pathlib import Path

import torch

from regista.core import PlanError
from regista.core.weights import read_weights
from regista.learning._checkpoint import SETTINGS, WEIGHTS, read_settings
from regista.learning._config import ModelConfig
from regista.learning._model import find_model
from regista.similarity import model_folders


def start_file(start: str) -> Path:
    """Return the file of the weights that a training begins with.

    Raises
    ------
    FormatError
        If there is no such model.
    """
    # a training that was interrupted has weights too, before it is a model
    unfinished = start not in model_folders() and (Path(start) / WEIGHTS).is_file()
    return (Path(start) if unfinished else find_model(start)) / WEIGHTS


def start_weights(config: ModelConfig) -> dict[str, torch.Tensor] | None:
    """Return the weights that a training begins with; None where they are random.

    Raises
    ------
    FormatError
        If there is no such model, or it is damaged.
    PlanError
        If it is another network than the one to train.
    """
    start = config.training.start
    if start is None:
        return None
    file = start_file(start)
    weights = {name: torch.tensor(value) for name, value in read_weights(file)[0].items()}
    if (file.parent / SETTINGS).is_file():
        known = read_settings(file.parent)[0].to_dict()["network"]
        wanted = config.to_dict()["network"]
        for name in wanted if isinstance(known, dict) else ():
            if name != "squarings" and known.get(name) != wanted[name]:
                raise PlanError(
                    f"{start!r} is a network with {name} {known.get(name)}, the one to train has {wanted[name]}: its weights do not "
                    "fit; train the same network, or begin from random weights"
                )
    here = {name: tuple(value.shape) for name, value in config.network.build().state_dict().items()}
    if here != {name: tuple(value.shape) for name, value in weights.items()}:
        raise PlanError(
            f"the weights of {start!r} do not fit {config.network.name} as it is to be trained: train the network that they are of, "
            "or begin from random weights"
        )
    return weights
