"""Files of trained weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from regista.core.errors import FormatError


def read_weights(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Read weights, and the SHA-256 of their file.

    Parameters
    ----------
    path : Path
        A file of safetensors.

    Returns
    -------
    weights : dict of str to ndarray
        By name; numbers with fractions are float32.
    sha256 : str
        Of the file.

    Raises
    ------
    FormatError
        If the file is missing or damaged, or holds numbers that are not finite or of a type that NumPy lacks.
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
        fractions = np.issubdtype(value.dtype, np.floating)
        weights[name] = value.astype(np.float32) if fractions else value
        if fractions and not np.isfinite(weights[name]).all():
            raise FormatError(
                f"{path} holds NaN or Inf weights ({name}): train the model again, or take another"
            )
    return weights, hashlib.sha256(content).hexdigest()
