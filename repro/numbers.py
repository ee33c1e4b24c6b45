"""Where numbers leave the floats: for bytes, indices and categories, which know no NaN.

A NaN that becomes byte 0 or token 0 looks like any other byte or token, so each of these steps is
taken here and refuses what is not finite. Pictures are floats in [-1, 1] and bytes in 0 ... 255:

    to_bytes(x) = round((x + 1) 127.5),    from_bytes(b) = b / 127.5 - 1,

which give back each of the 256 levels. No random stream is touched.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from repro.errors import ReproError

if TYPE_CHECKING:
    from torch import Tensor

X = TypeVar("X", "np.ndarray", "Tensor")


def finite(x: X, what: str) -> X:
    """`x` itself, an array or tensor of any shape.

    Raises ReproError where it holds NaN or infinity; `what` says what it is, in the plural.
    """
    if isinstance(x, np.ndarray):
        good = x.dtype.kind not in "fc" or bool(np.isfinite(x).all())
    else:
        good = not (x.is_floating_point() or x.is_complex()) or bool(x.isfinite().all())
    if not good:
        raise ReproError(f"{what} are not finite; find the step that first gives NaN or infinity")
    return x


def at_least(value: float, least: float, what: str, *, below: float = math.inf) -> float:
    """`value` itself. Raises ReproError unless least <= value < below, so also for NaN."""
    if not least <= value < below:
        bounds = f"{least:g} or more" if below == math.inf else f"in [{least:g}, {below:g})"
        raise ReproError(f"{what} is {value:g}; it has to be {bounds}")
    return value


def clipped(x: Tensor, what: str = "pictures") -> Tensor:
    """Pictures of about [-1, 1], any shape, held in it.

    Raises ReproError for none, integers, NaN or infinity, and for values of bytes: none of them
    negative and some above 2.
    """
    if not x.is_floating_point() or not x.numel():
        raise ReproError(
            f"{what} of type {x.dtype} and shape {tuple(x.shape)} are no floats in [-1, 1]; scale "
            "them first"
        )
    low, high = (float(end) for end in x.aminmax())
    if not math.isfinite(low) or not math.isfinite(high):
        raise ReproError(f"{what} are not finite; find the step that first gives NaN or infinity")
    if low >= 0 and high > 2:
        raise ReproError(
            f"{what} lie in [{low:g}, {high:g}] like bytes where [-1, 1] is due; scale them first"
        )
    return x.clamp(-1, 1)


def to_bytes(x: Tensor, what: str = "pictures", *, down: bool = False) -> Tensor:
    """Pictures of about [-1, 1], clipped to it, to the nearest of 256 levels, uint8 of the shape.

    down: to the level below, for an evaluation whose published code casts without rounding.
    Raises ReproError: see `clipped`.
    """
    x = clipped(x, what)
    x = x.float() if x.element_size() < 4 else x  # halves do not tell all levels apart
    levels = (x + 1) * 127.5
    return (levels if down else levels.round()).byte()


def from_bytes(x: Tensor) -> Tensor:
    """Bytes of any shape to float32 in [-1, 1]. Raises ReproError for another type."""
    if str(x.dtype) != "torch.uint8":
        raise ReproError(f"pictures of type {x.dtype} are no bytes; give uint8")
    return x.float() / 127.5 - 1.0


def argmax(x: Tensor, dim: int, what: str, *, above: float = -math.inf) -> Tensor:
    """Index of the largest entry along `dim`, the shape of `x` without it.

    Raises ReproError where there is none, or it is NaN, infinite, or not more than `above`.
    Entries of minus infinity lose; a row of nothing else is refused.
    """
    if not x.shape[dim]:
        raise ReproError(f"{what} of shape {tuple(x.shape)} hold nothing to choose from")
    index = x.argmax(dim)  # NaN counts as the largest
    won = x.gather(dim, index.unsqueeze(dim))
    if not bool(((won > above) & (won < math.inf)).all()):
        raise ReproError(
            f"{what} are NaN, infinite or all without weight, which no index stands for; find the "
            "step that first gives them"
        )
    return index


def argmin(x: Tensor, dim: int, what: str) -> Tensor:
    """Index of the smallest entry along `dim`; refuses as `argmax` does."""
    index = x.argmin(dim)  # NaN counts as the smallest
    if not bool(x.gather(dim, index.unsqueeze(dim)).isfinite().all()):
        raise ReproError(
            f"{what} are NaN or infinite, which no index stands for; find the step that first "
            "gives them"
        )
    return index
