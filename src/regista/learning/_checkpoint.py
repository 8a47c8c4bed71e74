"""Files of a training: checkpoints to go on from, the log, and the folder a model is."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save

from regista.core import FormatError, PlanError
from regista.io import replacing, write_text
from regista.learning._config import ModelConfig
from regista.learning._metric_config import MetricConfig
from regista.similarity import METRIC_KIND

if TYPE_CHECKING:
    import torch

WEIGHTS, SETTINGS, CARD, PICTURES, LOG, CHECKPOINT = (
    "model.safetensors",
    "model.json",
    "card.md",
    "pairs.png",
    "log.csv",
    "checkpoint.pt",
)
"""What lies in a model's folder."""


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> str:
    """Write weights and return their hash."""
    content = save({name: value.detach().cpu().contiguous().numpy() for name, value in weights.items()})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_settings(folder: Path, config: ModelConfig, weights_hash: str, more: Mapping[str, Any]) -> None:
    """Write ``model.json``: the whole configuration, the hash of the weights, what was measured."""
    tree = {**config.to_dict(), "weights_sha256": weights_hash, **more}
    write_text(folder / SETTINGS, json.dumps(tree, indent=2, default=str) + "\n")


def read_settings(folder: Path) -> tuple[ModelConfig | MetricConfig, dict[str, Any]]:
    """Read ``model.json``: the configuration, of a network that registers or of a metric, and everything the file holds.

    Raises
    ------
    FormatError
        If it is missing or damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FormatError(f"{folder} is no model: expected a folder with {SETTINGS} and {WEIGHTS}")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} is damaged: {error}") from None
    if not isinstance(tree, dict):
        raise FormatError(f"{path} is damaged: expected a JSON object")
    try:
        kind = MetricConfig if tree.get("kind") == METRIC_KIND else ModelConfig
        return kind.from_dict(tree), tree
    except PlanError as error:
        raise FormatError(f"{path}: {error}") from None


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the course of a training as CSV."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write all that a training needs to go on, atomically."""
    import torch

    with replacing(path) as temporary:
        torch.save(dict(state), temporary)


def load_checkpoint(
    path: Path, config: ModelConfig | MetricConfig, *, any_shape: bool = False
) -> dict[str, Any]:
    """Read a checkpoint; with `any_shape` that of the images need not be the same.

    Raises
    ------
    FormatError
        If it is damaged.
    PlanError
        If it belongs to another configuration.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = {"config", "step", "network", "optimizer", "best", "best_weights", "rows", "stale"}
        if not isinstance(state, dict) or not known <= set(state):
            raise ValueError("it lacks parts")
        # as settings that came later would have been
        settings = type(config).from_dict(json.loads(state["config"])).to_dict()
        now = config.to_dict()
        if any_shape:
            now["inputs"]["shape"] = settings["inputs"]["shape"]
    except Exception as error:  # torch raises whatever the damage leads to
        raise FormatError(
            f"{path} is a damaged checkpoint ({' '.join(str(error).split())[:120]}): remove it to begin again"
        ) from None
    changed = _difference(*(json.loads(json.dumps(one)) for one in (settings, now)))
    if changed:
        raise PlanError(
            f"{path} belongs to a training with other settings ({changed}): give the same settings to go on, or another "
            "folder (-o), or --restart"
        )
    return state


def refuse_other_settings(folder: Path, config: ModelConfig) -> None:
    """Refuse a checkpoint in a folder that belongs to another configuration, of a shape that may not be known yet.

    Raises
    ------
    FormatError, PlanError
        As `load_checkpoint`.
    """
    path = folder / CHECKPOINT
    if path.exists():
        load_checkpoint(path, config, any_shape=not config.inputs.shape)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """Return the first setting that differs."""
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found = _difference(a, b, f"{prefix}{key}.")
            if found:
                return found
        elif a != b:
            return f"{prefix}{key}: {a} there, {b} now"
    return ""
