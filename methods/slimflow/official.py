"""The released checkpoints and pair sets of SlimFlow.

A checkpoint (Hugging Face, Yuanzhi/SlimFlow) is a ``torch.save`` dictionary
``{optimizer, model, ema, step}``. ``model`` is a state dict, with ``module.`` before every name of
the CIFAR-10 and FFHQ networks; ``ema.shadow_params`` lists the averages of the trainable parameters
in the order of the network, which evaluation uses.

A pair set is a folder of ``z0.npy`` (noises), ``z1.npy`` (images in [−1, 1], not clipped) and, for
networks with classes, ``label.npy`` (one-hot floats).

Nothing unpickles: checkpoints are read with ``weights_only``, arrays without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.slimflow.networks import NETWORKS, Published
from repro.errors import ReproError

SOURCE = "a checkpoint of the Hugging Face repository Yuanzhi/SlimFlow"


class Pairs(NamedTuple):
    """Noises and images (N, C, H, W) float32, and labels (N, classes) or None."""

    z: Tensor
    x: Tensor
    label: Tensor | None


def read(path: Path) -> Mapping[str, Any]:
    """The dictionary of a checkpoint.

    Raises ReproError: missing, truncated, with Python objects in it, or of another layout.
    """
    if not path.is_file():
        raise ReproError(f"{path}: is missing; put {SOURCE} there")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen types for broken files
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        raise ReproError(
            f"{path}: is truncated or holds more than tensors ({first}); fetch {SOURCE} again"
        ) from error
    parts = ("model", "ema")
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(part), Mapping) for part in parts
    ):
        raise ReproError(f"{path}: has no dictionaries `model` and `ema`; give {SOURCE}")
    return content


def load(path: Path | str, name: str, *, average: bool = True) -> nn.Module:
    """A published network, float32, in eval mode.

    name: of `networks.NETWORKS`. average: overwrite the trainable parameters with the averages, as
    the released evaluation does; stage 2 starts from the plain ones.

    Raises ReproError: unknown name, unreadable file, or tensors of another network.
    """
    if name not in NETWORKS:
        raise ReproError(f"no published network `{name}`; choose one of {', '.join(NETWORKS)}")
    return fill(Path(path), NETWORKS[name], average=average)


def fill(path: Path, published: Published, *, average: bool = True) -> nn.Module:
    """As `load`, for any network of the family."""
    content, network = read(path), published.meta()
    own = network.state_dict()
    state = {str(k).removeprefix("module."): v for k, v in content["model"].items()}
    if odd := sorted(set(own) ^ set(state)):
        side = "lacks" if odd[0] in own else "holds"
        raise ReproError(
            f"{path}: {side} {odd[0]} ({len(odd)} names differ); it is of another network"
        )
    if average:
        state |= _averages(path, content["ema"], network)
    for key, expected in own.items():
        value = state[key]
        if not isinstance(value, Tensor) or value.shape != expected.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ReproError(
                f"{path}: {key} is {found}, expected {tuple(expected.shape)}; "
                "it is of another network"
            )
    network.load_state_dict({k: state[k].float() for k in own}, assign=True)
    return network.eval().requires_grad_(False)


def _averages(path: Path, ema: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    shadow = ema.get("shadow_params")
    if not isinstance(shadow, list | tuple) or len(shadow) != len(names):
        found = len(shadow) if isinstance(shadow, list | tuple) else "no"
        raise ReproError(
            f"{path}: ema.shadow_params lists {found} averages, the network trains {len(names)}; "
            "it is of another network"
        )
    return dict(zip(names, shadow, strict=True))


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
    label = None
    if (folder / "label.npy").exists():
        label = _array(folder / "label.npy", 2)
        if len(label) != len(z):
            raise ReproError(
                f"{folder}: label.npy has {len(label)} rows for {len(z)} pairs; "
                "give the files of one pair set"
            )
    return Pairs(*(None if a is None else torch.from_numpy(a) for a in (z, x, label)))


def _array(path: Path, dimensions: int) -> np.ndarray:
    if not path.is_file():
        raise ReproError(f"{path}: is missing; a pair set holds z0.npy, z1.npy (and label.npy)")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ReproError(f"{path}: is no plain array or is truncated; make it again") from error
    if array.ndim != dimensions or not np.issubdtype(array.dtype, np.floating):
        raise ReproError(
            f"{path}: has shape {array.shape} of {array.dtype}, expected {dimensions} dimensions "
            "of floats; give a pair set as released"
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ReproError(f"{path}: holds NaN or infinity; make the pair set again")
    return array
