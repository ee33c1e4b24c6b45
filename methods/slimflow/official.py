"""The released checkpoints and pair sets of SlimFlow.

A checkpoint (Hugging Face, Yuanzhi/SlimFlow) is a ``torch.save`` dictionary
``{optimizer, model, ema, step}``. ``model`` is a state dict, with ``module.`` before every name of
the CIFAR-10 and FFHQ networks; ``ema.shadow_params`` lists the averages of the trainable parameters
in the order of the network, which evaluation uses.

A pair set is a folder of ``z0.npy`` (noises), ``z1.npy`` (images in [−1, 1], not clipped) and, for
networks with classes, ``label.npy`` (one-hot floats).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.slimflow.networks import NETWORKS, Published
from repro.errors import ReproError
from repro.official import files, reader

LAYOUT = reader.Layout(
    "a checkpoint of the Hugging Face repository Yuanzhi/SlimFlow",
    group="model",
    averages=("ema", "shadow_params"),
)
NOISE, IMAGE = 8.0, 4.0
"""Magnitudes that no standard normal and no image in [−1, 1], even unclipped, exceeds."""
PAIRS = "a file of a pair set, which holds z0.npy, z1.npy and, with classes, label.npy"


class Pairs(NamedTuple):
    """Noises and images (N, C, H, W) float32, and labels (N, classes) or None."""

    z: Tensor
    x: Tensor
    label: Tensor | None


def load(path: Path | str, name: str, *, ema: bool = True) -> nn.Module:
    """A published network, float32, in eval mode, without gradients.

    name: of `networks.NETWORKS`. ema: with the averages of the trainable parameters, as the
        released evaluation takes them; stage 2 starts from those of the last step.

    Raises ReproError: unknown name, or see `repro.official.reader.load`.
    """
    if name not in NETWORKS:
        raise ReproError(f"no published network `{name}`; choose one of {', '.join(NETWORKS)}")
    return fill(path, NETWORKS[name], ema=ema)


def fill(path: Path | str, published: Published, *, ema: bool = True) -> nn.Module:
    """As `load`, for any network of the family."""
    return reader.load(path, published.meta(), LAYOUT, ema=ema).requires_grad_(False)


def load_pairs(folder: Path | str) -> Pairs:
    """The pairs of a folder.

    Raises ReproError: missing or damaged files, shapes that do not match, values out of reason.
    """
    folder = Path(folder)
    z, x = (_array(folder / file, 4) for file in ("z0.npy", "z1.npy"))
    if z.shape != x.shape:
        raise ReproError(
            f"{folder}: z0.npy has shape {z.shape} and z1.npy {x.shape}; "
            "give both files of one pair set"
        )
    _check_values(folder / "z0.npy", z, -NOISE, NOISE)
    _check_values(folder / "z1.npy", x, -IMAGE, IMAGE)
    if x.min() >= 0 and x.any():
        wrong = f"holds images from {x.min():.3g} to {x.max():.3g}, not in [-1, 1]"
        raise files.refusal(folder / "z1.npy", wrong, "scale them to 2 x - 1")
    label = None
    if (folder / "label.npy").exists():
        label = _array(folder / "label.npy", 2)
        if len(label) != len(z):
            raise ReproError(
                f"{folder}: label.npy has {len(label)} rows for {len(z)} pairs; "
                "give the files of one pair set"
            )
        if not (np.isin(label, (0, 1)).all() and (label.sum(axis=1) == 1).all()):
            raise files.refusal(
                folder / "label.npy", "has rows that are not one-hot", f"give {PAIRS}"
            )
    return Pairs(
        torch.from_numpy(z),
        torch.from_numpy(x),
        None if label is None else torch.from_numpy(label),
    )


def _check_values(path: Path, array: np.ndarray, low: float, high: float) -> None:
    if array.size == 0 or array.min() < low or array.max() > high:
        span = f"{array.min():.3g} to {array.max():.3g}" if array.size else "none"
        wrong = f"holds values out of range ({span}, not {low:g} to {high:g})"
        raise files.refusal(path, wrong, f"give {PAIRS}")


def _array(path: Path, dimensions: int) -> np.ndarray:
    array = files.read_array(path, PAIRS)
    if array.ndim != dimensions or array.dtype.kind != "f":
        wrong = f"has shape {array.shape} of {array.dtype}, expected {dimensions} axes of floats"
        raise files.refusal(path, wrong, f"give {PAIRS}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise files.refusal(path, "holds NaN or infinity", "make the pair set again")
    return array
