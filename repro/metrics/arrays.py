"""What metrics accept: NumPy arrays and PyTorch tensors alike."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(x: Any, dtype: type | None = None) -> np.ndarray:
    """Returns an array, a tensor (on any device) or a sequence as a NumPy array.

    Arguments:
        x: any shape.
        dtype: the type wanted, or None to keep that of `x`.

    Returns:
        The same shape; shares memory where it can.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    return np.asarray(x, dtype=dtype)
