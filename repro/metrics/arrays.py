"""What metrics accept: NumPy arrays and PyTorch tensors alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.numbers import finite


def to_numpy(x: Any, dtype: type | None = None) -> np.ndarray:
    """Returns an array, a tensor (on any device) or a sequence as a NumPy array.

    Arguments:
        x: any shape.
        dtype: the type wanted, or None to keep that of `x`.

    Returns:
        The same shape; shares memory where it can.

    Raises:
        ReproError: for what holds no numbers (text, objects, rows of different lengths), or complex
            ones where `dtype` is given.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ReproError("rows of different lengths are no array; give them one length") from error
    if array.dtype.kind not in "biufc" or (dtype is not None and array.dtype.kind == "c"):
        raise ReproError(f"values of type {array.dtype} cannot be measured; give real numbers")
    return np.asarray(array, dtype=dtype)


def features(x: Any, what: str = "features") -> np.ndarray:
    """Returns feature vectors (N, D) as float64.

    Raises:
        ReproError: if they have another shape, no width, or are not finite.
    """
    array = to_numpy(x, np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise ReproError(f"{what} of shape {array.shape} are no vectors; give (N, D)")
    return finite(array, what)
