"""Published layouts: CIFAR-10 checkpoints of the released code, and its splits of the data.

A checkpoint of the released code is an orbax folder ``chkptN`` with a Flax tree of the fields step,
opt_state, model_params, params_ema, ema_rate, key, sampler_state, wandbid. Reading orbax needs JAX;
the loader takes that tree's `params_ema` (or the whole tree), flattened to ``.safetensors`` or
``.npz`` with names joined by "/" or ".":

    flat = flax.traverse_util.flatten_dict(tree["params_ema"], sep="/")
    numpy.savez("params_ema.npz", **flat)

Groups are named in the order in which Flax creates them, per kind: ResnetBlockDDPM_0..21,
AttnBlock_0..6, Downsample_0..2, Upsample_0..2, Conv_0..1, Dense_0..1, GroupNorm_0 and, with
classes, Embed_0. No public weights of these models were found.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.superdiff.networks import ScoreUNet, cifar_network
from repro.errors import ReproError
from repro.nets.unet import AttentionBlock, Downsample, ResidualBlock, Upsample
from repro.official.reader import Layout, OfficialFile, assign

FIELDS = ("params_ema", "model_params")
LAYOUT = Layout(
    "the field params_ema of this model, exported to .safetensors or .npz as "
    "methods/superdiff/official.py says"
)


def _leaf(flax: str, torch_name: str, layer: nn.Module) -> dict[str, tuple[str, str]]:
    """Flax names of a layer's tensors -> (PyTorch name, how to turn the array)."""
    if isinstance(layer, nn.Conv2d):
        turn = {"kernel": ("weight", "convolution"), "bias": ("bias", "as is")}
    elif isinstance(layer, nn.Linear):
        turn = {"kernel": ("weight", "transpose"), "bias": ("bias", "as is")}
    elif isinstance(layer, nn.Embedding):
        turn = {"embedding": ("weight", "as is")}
    else:
        turn = {"scale": ("weight", "as is"), "bias": ("bias", "as is")}
    return {f"{flax}/{k}": (f"{torch_name}.{name}", how) for k, (name, how) in turn.items()}


def _nin(flax: str, torch_name: str) -> dict[str, tuple[str, str]]:
    return {
        f"{flax}/W": (f"{torch_name}.weight", "pointwise"),
        f"{flax}/b": (f"{torch_name}.bias", "as is"),
    }


def _execution(network: ScoreUNet) -> list[tuple[str, Any]]:
    """Blocks in the order in which the forward pass, and so Flax, meets them."""
    found: list[tuple[str, Any]] = []

    def level(name: str, module: Any) -> None:
        for i, block in enumerate(module.block):
            found.append((f"{name}.block.{i}", block))
            if len(module.attn) and isinstance(module.attn[i], AttentionBlock):
                found.append((f"{name}.attn.{i}", module.attn[i]))
        for change in ("downsample", "upsample"):
            if hasattr(module, change):
                found.append((f"{name}.{change}", getattr(module, change)))

    for i, module in enumerate(network.down):
        level(f"down.{i}", module)
    found += [(f"mid.{n}", getattr(network.mid, n)) for n in ("block_1", "attn_1", "block_2")]
    for i in reversed(range(len(network.up))):
        level(f"up.{i}", network.up[i])
    return found


def layout(network: ScoreUNet) -> dict[str, tuple[str, str]]:
    """Every tensor of a checkpoint: Flax name -> (PyTorch name, how to turn the array)."""
    names = _leaf("Conv_0", "conv_in", network.conv_in)
    names |= _leaf("Conv_1", "conv_out", network.conv_out)
    names |= _leaf("GroupNorm_0", "norm_out", network.norm_out)
    for i in range(2):
        names |= _leaf(f"Dense_{i}", f"temb.dense.{i}", network.get_submodule(f"temb.dense.{i}"))
    if network.classes is not None:
        names |= _leaf("Embed_0", "label.embed", network.label.embed)
    counts: Counter[type] = Counter()
    kinds = {
        ResidualBlock: "ResnetBlockDDPM",
        AttentionBlock: "AttnBlock",
        Downsample: "Downsample",
        Upsample: "Upsample",
    }
    for name, module in _execution(network):
        kind = type(module)
        flax = f"{kinds[kind]}_{counts[kind]}"
        counts[kind] += 1
        if kind is ResidualBlock:
            parts = {"GroupNorm_0": "norm1", "Conv_0": "conv1", "Dense_0": "temb_proj",
                     "GroupNorm_1": "norm2", "Conv_1": "conv2"}  # fmt: skip
            for part, own in parts.items():
                names |= _leaf(f"{flax}/{part}", f"{name}.{own}", getattr(module, own))
            if hasattr(module, "nin_shortcut"):
                names |= _nin(f"{flax}/NIN_0", f"{name}.nin_shortcut")
        elif kind is AttentionBlock:
            names |= _leaf(f"{flax}/GroupNorm_0", f"{name}.norm", module.norm)
            for i, own in enumerate(("q", "k", "v", "proj_out")):
                names |= _nin(f"{flax}/NIN_{i}", f"{name}.{own}")
        else:
            names |= _leaf(f"{flax}/Conv_0", f"{name}.conv", module.conv)
    return names


def _turned(array: Tensor, how: str) -> Tensor:
    if how == "convolution":
        return array.permute(3, 2, 0, 1)
    if how == "transpose":
        return array.T
    if how == "pointwise":
        return array.T[:, :, None, None]
    return array


def _published(weight: Tensor, how: str) -> Tensor:
    """The inverse of `_turned`: a tensor of the network as Flax holds it."""
    if how == "convolution":
        return weight.permute(2, 3, 1, 0)
    if how == "transpose":
        return weight.T
    if how == "pointwise":
        return weight[:, :, 0, 0].T
    return weight


def load_checkpoint(
    path: str | Path, network: ScoreUNet | None = None, *, ema: bool = True
) -> ScoreUNet:
    """A network with the weights of an exported checkpoint, in eval mode, float32.

    network: on any device, the meta device too; the paper's unconditional one by default.
    ema: take `params_ema`, as the paper does, or else `model_params`, of a file that holds fields
        of the training state. A file without fields is taken for an export of `params_ema` alone.
    Raises ReproError: no averages, or see `repro.official.reader.load`.
    """
    if network is None:
        with torch.device("meta"):
            network = cifar_network()
    file = OfficialFile.open(path, LAYOUT)
    found = _field(file, "params_ema" if ema else "model_params")
    names, own = layout(network), network.state_dict()
    expected = {name: _published(own[to], how) for name, (to, how) in names.items()}
    state = file.match(expected, found)
    turned = {to: _turned(state[name], how).contiguous() for name, (to, how) in names.items()}
    return assign(network, turned)


def _field(file: OfficialFile, wanted: str) -> dict[str, Tensor]:
    """The tensors of one field of the training state, by their names within it."""
    tensors = {name.replace(".", "/"): value for name, value in file.tensors().items()}
    if any(name.startswith(f"{field}/") for field in FIELDS for name in tensors):
        start = f"{wanted}/"
        tensors = {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
        if not tensors:
            if wanted == "params_ema":
                raise file.without_averages(wanted)
            raise file.refusal(f"has no `{wanted}`")
    return {name.removeprefix("params/"): value for name, value in tensors.items()}


def split(labels: np.ndarray, part: str) -> np.ndarray:
    """Indices of a split of the released configurations, in the order of the training set.

    part: "a" or "b", classes 0-4 or 5-9 (Table 1); "first" or "second" half of the images (Table
    A1). Raises ReproError on another name.
    """
    labels = np.asarray(labels)
    if part in ("a", "b"):
        return np.flatnonzero((labels < 5) == (part == "a"))
    half = len(labels) // 2
    if part in ("first", "second"):
        return np.arange(half) if part == "first" else np.arange(half, len(labels))
    raise ReproError(f"there is no split `{part}`; choose a, b, first or second")
