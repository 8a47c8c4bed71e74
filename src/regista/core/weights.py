"""Files of trained weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from regista.core.errors import FormatError


def read_weights(path: Path) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Read weights, and the SHA-256 of their file.

    Parameters
    ----------
    path : Path
        A file of safetensors.

    Returns
    -------
    weights : dict of str to float32 ndarray
        By name.
    sha256 : str
        Of the file.

    Raises
    ------
    FormatError
        If the file is missing or damaged, or holds other numbers than finite ones with fractions.
    """
    if not path.is_file():
        raise FormatError(f"{path} does not exist: copy the whole folder of the model again")
    content = path.read_bytes()
    try:
        found = load(content)
    except SafetensorError as error:
        raise FormatError(f"{path} is damaged or no file of weights: copy it again ({error})") from None
    except KeyError as error:
        raise FormatError(
            f"{path} holds weights as {error.args[0]}, expected float32: save them so"
        ) from None
    weights = {}
    for name, value in found.items():
        if not np.issubdtype(value.dtype, np.floating):
            raise FormatError(f"{path} holds {name} as {value.dtype}, expected float32: save them so")
        with np.errstate(over="ignore"):
            weights[name] = value.astype(np.float32)
        if not np.isfinite(weights[name]).all():
            raise FormatError(
                f"{path} holds NaN or Inf weights ({name}): train the model again, or take another"
            )
    return weights, hashlib.sha256(content).hexdigest()
