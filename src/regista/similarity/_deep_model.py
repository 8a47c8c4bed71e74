"""Files of trained metrics: found, read and checked, without PyTorch until the network is asked for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, PlanError
from regista.core.weights import read_weights

_VARIABLE = "REGISTA_MODELS"
"""Environment variable that names a folder of models of one's own."""
METRIC_KIND = "deep-metric"
"""What the configuration of a trained metric calls itself."""
METRIC_ARCHITECTURES = ("two-channel", "features")
"""Networks of trained metrics: one that scores pairs of patches, and two that describe each patch by itself."""


@dataclass(frozen=True, eq=False)
class MetricModel:
    """A trained metric.

    Parameters
    ----------
    architecture : {'two-channel', 'features'}
        Its network.
    ndim : {2, 3}
        Dimensions of the images it compares.
    channels : tuple of 4 int
        Filters of the network's layers.
    weights : dict of str to float32 ndarray
        What was trained.
    weights_sha256 : str
        Of the file that holds them.
    configuration : dict
        All that its file says.
    """

    architecture: str
    ndim: int
    channels: tuple[int, ...]
    weights: dict[str, NDArray[np.float32]]
    weights_sha256: str
    configuration: dict[str, Any]
    _built: dict[str, Any] = field(default_factory=dict)

    def network(self, device: str) -> Any:
        """Return the network on a device, built once.

        Raises
        ------
        FormatError
            If the weights are not those of such a network.
        """
        if device not in self._built:
            module = patch_network()
            tensors = {name: module.torch.from_numpy(array) for name, array in self.weights.items()}
            try:
                network = module.build(self.architecture, self.ndim, self.channels, tensors)
            except RuntimeError as error:
                told = " ".join(str(error).split())[:150]
                raise FormatError(
                    f"the weights of a trained metric do not fit its model.json: copy the whole folder again ({told})"
                ) from None
            self._built[device] = network.to(device)
        return self._built[device]


def patch_network() -> Any:
    """Return the module with the network, or say how to get what it needs.

    Raises
    ------
    PlanError
        If PyTorch is not installed.
    """
    try:
        return import_module("regista.similarity._deep_network")
    except ModuleNotFoundError as error:
        raise PlanError(
            f"a trained metric needs PyTorch, and {error.name} is not installed: pip install 'regista[learn]'"
        ) from None


def model_folders() -> dict[str, Path]:
    """Return the models known by name: those of the package, and those in the folder ``REGISTA_MODELS``."""
    places = [Path(str(resources.files("regista"))) / "learning" / "models"]
    if os.environ.get(_VARIABLE):
        places.append(Path(os.environ[_VARIABLE]))
    files = [file for place in places for file in sorted(place.glob("*/model.json"))]
    return {file.parent.name: file.parent for file in files}


def missing_folder() -> str:
    """Return what is wrong with the folder that ``REGISTA_MODELS`` names; an empty text where nothing is."""
    place = os.environ.get(_VARIABLE)
    if not place or Path(place).is_dir():
        return ""
    return f"{_VARIABLE} names {place}, which is not a folder: set it to the folder that holds your models' folders"


def known_metrics() -> dict[str, Path]:
    """Return the trained metrics known by name."""
    return {name: folder for name, folder in model_folders().items() if _kind(folder) == METRIC_KIND}


def _kind(folder: Path) -> str | None:
    """Return what a model's settings call it: None for a network that registers, and '' where they cannot be read."""
    try:
        tree = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return tree.get("kind") if isinstance(tree, dict) else ""


def metric_folder(model: str) -> Path:
    """Return the folder of a model, given its name or its folder.

    Raises
    ------
    PlanError
        If there is none, or the model is a network that registers.
    """
    known = known_metrics()
    if model in known:
        return known[model]
    folder = model_folders().get(model, Path(model).expanduser())
    names = ", ".join(known) or "none in this installation"
    if not (folder / "model.json").is_file():
        wrong = missing_folder()
        raise PlanError(
            f"there is no trained metric {model!r}: neither a folder with model.json nor one known by name ({names}); "
            f"train one with regista train deep-metric{wrong and f'. {wrong}'}"
        )
    if _kind(folder) is None:
        raise PlanError(
            f"the model {model!r} is a network that registers, and no metric that a plan could compare images by: run it by "
            f"`regista register FIXED MOVING -o OUT --model {model}`, or name a trained metric here ({names})"
        )
    return folder


def load_metric_model(model: str) -> MetricModel:
    """Return a trained metric by its name or folder, read once for as long as its files stay the same.

    Raises
    ------
    PlanError
        If there is none, or what is needed to read it is not installed.
    FormatError
        If its files are not those of a trained metric.
    """
    folder = metric_folder(model)
    try:
        stamps = [(folder / name).stat().st_mtime_ns for name in ("model.json", "model.safetensors")]
    except OSError as error:
        raise FormatError(f"the trained metric {folder} is not whole: {error}") from None
    return _read(folder.resolve(), *stamps)


@cache
def _read(folder: Path, *stamps: int) -> MetricModel:
    try:
        configuration = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        kind = configuration.get("kind")
        if kind != METRIC_KIND:
            raise FormatError(f"the model {folder} is a {kind!r} and no trained metric ({METRIC_KIND!r})")
        network = configuration["network"]
        ndim, channels = int(network["ndim"]), tuple(int(n) for n in network["channels"])
        architecture = network.get("architecture", METRIC_ARCHITECTURES[0])
        if architecture not in METRIC_ARCHITECTURES or ndim not in (2, 3):
            raise ValueError(f"no such network: {ndim}-D {architecture}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"cannot read the trained metric {folder}: {error!r} in model.json") from None
    weights, digest = read_weights(folder / "model.safetensors")
    return MetricModel(architecture, ndim, channels, weights, digest, configuration)
