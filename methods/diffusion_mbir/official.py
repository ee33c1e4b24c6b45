"""Released checkpoints and test volumes of DiffusionMBIR.

A checkpoint is a ``torch.save`` dictionary ``{optimizer, model, ema, step}``:

``model``  state dict whose keys start with ``module.`` (DataParallel), e.g.
           ``module.all_modules.4.Conv_0.weight``, and ``module.sigmas`` (N,)
``ema``    ``{decay, num_updates, shadow_params}``; ``shadow_params`` lists the averages of the
           *trainable* parameters in the order of the network. The fixed Fourier frequencies
           ``module.all_modules.0.W`` are not among them and come from ``model``

Files are read with ``weights_only=True``: nothing in them runs.

The test volumes (AAPM L067, BRATS AAM_1) are folders of ``<number>.npy`` slices, which
``repro.data.official`` reads.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data.official import aapm_l067, brats_aam1
from repro.errors import ReproError
from repro.nets.ncsnpp import NCSNpp, NCSNppConfig

CT = NCSNppConfig()
"""AAPM 256 × 256 slices."""

MRI = NCSNppConfig(image_size=320)
"""fastMRI knee 320 × 320 slices; the same layers, attention at 40 × 40."""

VOLUMES: dict[str, Callable[[Path | None], np.ndarray]] = {
    "aapm-l067": aapm_l067.read,
    "brats-aam1": brats_aam1.read,
}

_KEYS = ("model", "ema", "step")
_PREFIX = "module."


def read_checkpoint(path: Path | str) -> dict:
    """The raw dictionary of a released checkpoint, tensors on the CPU.

    Raises
    ------
    ReproError : no such file, truncated or not a PyTorch file, objects other than tensors in it,
        or not a dictionary with ``model``, ``ema`` and ``step``.
    """
    path = Path(path)
    if not path.is_file():
        raise ReproError(
            f"{path} does not exist; put the released checkpoint_185.pth (CT) or checkpoint_95.pth"
            " (MRI) there"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ReproError(
            f"{path} is no checkpoint of tensors, or is damaged ({_first_line(error)});"
            " fetch the released file again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ReproError(
            f"{path} is truncated or not a PyTorch file ({_first_line(error)});"
            " fetch the released file again"
        ) from error
    if not isinstance(content, Mapping) or any(key not in content for key in _KEYS):
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ReproError(
            f"{path} holds {found or 'nothing'}; a released checkpoint holds"
            f" optimizer, {', '.join(_KEYS)}"
        )
    return dict(content)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120]


def checkpoint_state(content: Mapping, network: NCSNpp, path: Path | str) -> dict[str, Tensor]:
    """State dict for ``network`` from a released dictionary: ``model``, then the averages over it.

    ``module.`` is stripped; ``sigmas`` is dropped where its length differs (another N), since the
    network is conditioned on σ itself. ``network`` may be on the meta device.

    Raises
    ------
    ReproError : keys or shapes are not those of this configuration.
    """
    model, ema = content["model"], content["ema"]
    if not isinstance(model, Mapping) or not isinstance(ema, Mapping):
        raise ReproError(f"{path}: `model` and `ema` must be dictionaries, as in the released file")
    state = {str(k).removeprefix(_PREFIX): v for k, v in model.items()}
    own = network.state_dict()
    if "sigmas" in state and state["sigmas"].shape != own["sigmas"].shape:
        del state["sigmas"]
    wanted = set(own) - {"sigmas"}
    missing, foreign = sorted(wanted - set(state)), sorted(set(state) - set(own))
    if missing or foreign:
        raise ReproError(
            f"{path} does not fit the network: {len(missing)} keys missing"
            f" (first: {missing[0] if missing else 'none'}), {len(foreign)} unknown"
            f" (first: {foreign[0] if foreign else 'none'}); choose the matching configuration"
        )
    for key in sorted(wanted):
        if state[key].shape != own[key].shape:
            raise ReproError(
                f"{path}: {_PREFIX}{key} has shape {tuple(state[key].shape)}, the network"
                f" {tuple(own[key].shape)}; choose the matching configuration"
            )
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    shadow = ema.get("shadow_params")
    if not isinstance(shadow, list | tuple) or len(shadow) != len(trainable):
        count = len(shadow) if isinstance(shadow, list | tuple) else "no"
        raise ReproError(
            f"{path}: {count} averaged parameters, the network trains {len(trainable)};"
            " the fixed Fourier frequencies must not be among them"
        )
    for name, average in zip(trainable, shadow, strict=True):
        if average.shape != own[name].shape:
            raise ReproError(
                f"{path}: average of {name} has shape {tuple(average.shape)}, expected"
                f" {tuple(own[name].shape)}; choose the matching configuration"
            )
        state[name] = average
    return state


def load_score(
    path: Path | str, config: NCSNppConfig = CT, device: torch.device | str = "cpu"
) -> NCSNpp:
    """The released score network with its averaged weights, in evaluation mode.

    Raises
    ------
    ReproError : see :func:`read_checkpoint` and :func:`checkpoint_state`.
    """
    content = read_checkpoint(path)
    with torch.device("meta"):
        skeleton = NCSNpp(config)
    state = checkpoint_state(content, skeleton, path)
    # Fresh weights would be drawn from the global stream only to be overwritten.
    network = NCSNpp(config, generator=torch.Generator().manual_seed(0))
    network.load_state_dict(state, strict=False)
    return network.to(device).eval().requires_grad_(False)


def load_volume(name: str, folder: Path | None = None) -> Tensor:
    """A released test volume as (Z, 1, H, W) in [0, 1]; ``name`` is a key of :data:`VOLUMES`.

    Raises
    ------
    ReproError : unknown name, or missing or malformed slices.
    """
    if name not in VOLUMES:
        raise ReproError(f"no released volume {name!r}; use {' or '.join(VOLUMES)}")
    return torch.from_numpy(VOLUMES[name](folder))[:, None]
