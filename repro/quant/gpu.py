"""Linear layers on 4-bit weights or float8 products of a GPU, through torchao.

Unlike `repro.quant.deploy`, the grids are the library's: groups of 128 weights of 4 bits with a
zero-point each, products in bfloat16 (`int4`); float8 (e4m3) with one scale per row of the weight
and one per row of the activation, found at each call, products in float8 (`float8`). Convolutions
stay as they are (torchao 0.18 has none in int4, and its float8 ones need compute capability 10.0
and a further package), so these suit transformers, not U-Nets. Needs torchao (the dependency group
`deploy-gpu` of pyproject.toml) and a GPU of compute capability 8.0 (int4) or 8.9 (float8).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from repro.errors import ReproError

CAPABILITY = {"int4": (8, 0), "float8": (8, 9)}


class _InBfloat16(nn.Module):
    """A linear layer in bfloat16 for inputs and outputs of any type."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(torch.bfloat16)).to(x.dtype)


def on_gpu(network: nn.Module, kind: Literal["int4", "float8"]) -> nn.Module:
    """A copy of `network` on the current GPU with its linear layers on `kind` kernels.

    network: calls its linear layers (one that reads their weights, as nn.MultiheadAttention does,
        cannot be converted). float8 leaves layers alone whose widths 16 does not divide. int4 pads
        inputs to multiples of 1024: narrow layers get larger, not smaller.

    Raises ReproError on another kind, without a fitting GPU, without torchao, or where the network
    has no linear layer.
    """
    _check_device(kind)
    convert = _converter(kind)
    network = copy.deepcopy(network).eval().requires_grad_(False).cuda()
    layers = {
        n: m
        for n, m in network.named_modules()
        if type(m) is nn.Linear
        and (kind == "int4" or not (m.in_features % 16 or m.out_features % 16))
    }
    if not layers:
        raise ReproError(f"this network has no linear layer that {kind} kernels can compute")
    for name, layer in layers.items():
        wrapped = _InBfloat16(layer)
        if name:
            network.set_submodule(name, wrapped)
        else:
            network = wrapped
    chosen = {id(m.linear) for m in network.modules() if isinstance(m, _InBfloat16)}
    convert(network, filter_fn=lambda module, name: id(module) in chosen)
    return network


def _check_device(kind: str) -> None:
    if kind not in CAPABILITY:
        raise ReproError(f"no kernels are called '{kind}'; choose {' or '.join(CAPABILITY)}")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY[kind]:
        major, minor = CAPABILITY[kind]
        raise ReproError(f"{kind} kernels need a GPU of compute capability {major}.{minor} or more")


def _converter(kind: str) -> Callable[..., None]:
    """(network, filter_fn): puts the layers that the filter chooses on kernels of a kind."""
    try:
        import torchao.quantization as ao
        from torchao.quantization.quantize_.workflows import Int4PackingFormat
    except ImportError as error:
        raise ReproError(
            "GPU kernels need the package 'torchao'; run: pip install 'torchao>=0.18,<0.19'"
        ) from error
    if kind == "int4":
        packing = Int4PackingFormat.TILE_PACKED_TO_4D  # its kernels come with PyTorch
        config = ao.Int4WeightOnlyConfig(group_size=128, int4_packing_format=packing)
    else:
        config = ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow())
    return partial(ao.quantize_, config=config)
