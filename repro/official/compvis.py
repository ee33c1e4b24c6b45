"""Latent and Stable Diffusion, ``model.ckpt`` and ``sd-v1-4.ckpt``, as CompVis released them.

A dictionary with ``state_dict`` and ``global_step``, or the state dict alone. The names of the
U-Net begin with ``model.diffusion_model.``; its averages lie under ``model_ema.``, with names
without dots (``diffusion_modelout2weight``). Source: Rombach et al., CVPR 2022, and its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.nets import ldm
from repro.official.reader import Layout, OfficialFile

LAYOUT = Layout(
    "a CompVis checkpoint of this network (model.ckpt, sd-v1-4.ckpt)",
    mentions=(
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    ),
)

_GROUPS = {
    "model.diffusion_model.": "unet",
    "model_ema.": "ema",
    "first_stage_model.": "first_stage",
    "cond_stage_model.": "cond_stage",
}


@dataclass(frozen=True)
class CompVisFile:
    """The groups of a latent-diffusion checkpoint; prefixes are cut off the names.

    unet: ``model.diffusion_model.``. ema: ``model_ema.``, averages under names without dots.
    first_stage, cond_stage: autoencoder and conditioner. other: buffers of the schedule and the
    like. global_step: training steps, None if not said. None of the tensors is checked.
    """

    file: OfficialFile
    unet: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    first_stage: dict[str, Tensor] = field(default_factory=dict)
    cond_stage: dict[str, Tensor] = field(default_factory=dict)
    other: dict[str, Tensor] = field(default_factory=dict)
    global_step: int | None = None


def read_compvis(path: str | Path) -> CompVisFile:
    """Reads a latent-diffusion checkpoint, whole or as its state dict alone, and sorts its tensors.

    Raises ReproError: missing, damaged, with Python objects, or without ``model.diffusion_model``.
    """
    file = OfficialFile.open(path, LAYOUT)
    nested = isinstance(file.content, Mapping) and "state_dict" in file.content
    step = file.content.get("global_step") if nested else None
    sorted_ = CompVisFile(file, global_step=step if isinstance(step, int) else None)
    for name, tensor in file.tensors("state_dict" if nested else "").items():
        prefix = next((p for p in _GROUPS if name.startswith(p)), "")
        getattr(sorted_, _GROUPS.get(prefix, "other"))[name.removeprefix(prefix)] = tensor
    if not sorted_.unet:
        raise file.refusal("holds no `model.diffusion_model.*` tensors")
    return sorted_


def load_compvis(
    path: str | Path, network: str | ldm.LatentUNet, *, ema: bool = True
) -> ldm.LatentUNet:
    """The U-Net of a latent-diffusion checkpoint, float32, in eval mode.

    network: a key of `ldm.CONFIGS` ("bedroom", "church", "cin256", "sd-v1"), or a network.
    ema: take the averaged weights, as the papers do, or else those of the last step.
    Raises ReproError: see `read_compvis`; or no averages, or of another network.
    """
    if isinstance(network, str):
        if network not in ldm.CONFIGS:
            raise ReproError(
                f"no latent-diffusion network `{network}`; choose from {', '.join(ldm.CONFIGS)}"
            )
        with torch.device("meta"):
            network = ldm.LatentUNet(ldm.CONFIGS[network])
    found = read_compvis(path)
    file, state = found.file, found.unet
    if ema:
        names = {f"diffusion_model{k.replace('.', '')}": k for k in network.state_dict()}
        counters = ("decay", "num_updates")
        state = {names.get(k, k): v for k, v in found.ema.items() if k not in counters}
        if not state:
            raise file.without_averages("model_ema.*")
    return file.fill(network, state)
