"""The quantised networks of Q-Diffusion and of QuEST, as their code stores them.

Names start with ``model.``. Beside the floating-point tensors of the network, a layer L has
``L.weight_quantizer.{alpha,delta,zero_point}`` and ``L.act_quantizer.{delta,zero_point}``; a split
layer has the same again with ``_0``. Attention has ``act_quantizer_{q,k,v,w}``. QuEST stores
``delta_list`` and ``zero_point_list`` of shape (T_c, C, 1, 1), (T_c, 1, C) or (T_c, C) instead; its
``current_delta`` is dropped. The weights follow from

    ŵ = (clamp(floor(w/δ) + 1[α ≥ 0] + z, 0, 2^n - 1) - z) δ

The file does not say n, so the reader declares it in `Bits`, and what shows of it is checked:
weights scatter about 0, so that their zero-points lie about the middle code, (2^n - 1)/2, and the
zero-points of asymmetric activations are codes. Of symmetric activations nothing shows.

Sources: the released code of Q-Diffusion (Li et al., ICCV 2023) and of QuEST (Wang et al., ICCV
2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.nets import ldm, unet
from repro.official.reader import Layout, OfficialFile
from repro.quant.affine import Grid, code_span
from repro.quant.layers import shortcut_splits
from repro.quant.rounding import hard_rounding

LAYOUT = Layout("the quantised checkpoint of this network", extra=("*current_delta*",))

Layer = nn.Conv2d | nn.Conv1d | nn.Linear


@dataclass(frozen=True)
class Bits:
    """Widths behind a quantised file, which does not say them.

    weight: bits of all weights, 2 or more. activation: bits of the inputs of layers and of q, k, v.
    softmax: bits of the softmax matrix (16 for Stable Diffusion).
    signed: activations were quantised symmetrically. The softmax matrix follows, except in
        unconditional latent-diffusion networks, where it is unsigned always.
    wide_edges: the inputs of the first and of the last convolution have 256 levels, as QuEST's
        released code patches it; signed codes then run from -257 to 256.
    """

    weight: int
    activation: int = 8
    softmax: int = 8
    signed: bool = True
    wide_edges: bool = False


class ActivationGrids(NamedTuple):
    """Activation grids of one time step, or of all.

    layers: layer name -> a grid for its input, or two for the parts of a split input.
    attention: block name + ``.q``, ``.k``, ``.v`` or ``.w`` (softmax matrix) -> grid.
    """

    layers: dict[str, tuple[Grid, ...]]
    attention: dict[str, Grid]


@dataclass(frozen=True)
class QuantisedState:
    """A quantised network read from a file.

    weights: complete state dict with the hard-rounded ŵ in place of each quantised weight; fills
        the plain network. floats: the original weights by layer.
    weight_grids, alphas: by layer, for each part of the weight (two where the layer is split):
        δ, z of shape (out, 1, …) and α of the shape of the part.
    activations: empty if the file has none; one entry for Q-Diffusion; T_c for QuEST, in the order
        of the calibration time steps.
    splits: layer name -> input channels of its first part.
    """

    weights: dict[str, Tensor]
    floats: dict[str, Tensor]
    weight_grids: dict[str, tuple[Grid, ...]]
    alphas: dict[str, tuple[Tensor, ...]]
    activations: tuple[ActivationGrids, ...]
    splits: dict[str, int]


def load_quantised(
    path: str | Path,
    network: nn.Module,
    bits: Bits,
    *,
    splits: Mapping[str, int] | None = None,
) -> QuantisedState:
    """Reads a quantised state dict of Q-Diffusion or of QuEST.

    network: `unet.UNet` or `ldm.LatentUNet`; not changed. Fill it afterwards with
        ``network.load_state_dict(state.weights, assign=True)``.
    bits: the widths that the paper, or whoever made the file, says.
    splits: which layers are split, and at which channel; None: where the file has two quantisers
        anywhere, all layers fed with a raw concatenation.
    Raises ReproError: missing, damaged, tensors that lack, are foreign or have another shape, steps
        that are not positive, zero-points that are not integers or contradict ``bits``.
    """
    file = OfficialFile.open(path, LAYOUT)
    state = _state(file)
    if splits is None:
        halved = any("weight_quantizer_0." in k for k in state)
        splits = {**shortcut_splits(network), **ldm.skip_splits(network)} if halved else {}
    content = _Content.of(file, network, splits, state)
    file.match_names(content.names(network), state)

    own = network.state_dict()
    weights = {k: file.value(k, state[k], v.shape, v.dtype) for k, v in own.items()}
    floats, grids, alphas = {}, {}, {}
    for name in content.layers:
        floats[name] = w = weights[f"{name}.weight"]
        keys = content.keys(name, "weight_quantizer")
        read = [
            _weight_part(content, key, part, bits.weight)
            for key, part in zip(keys, w.split(content.parts[name], 1), strict=True)
        ]
        grids[name], alphas[name], rounded = zip(*read, strict=True)
        weights[f"{name}.weight"] = torch.cat(rounded, 1)
    _check_width(file, grids, bits.weight)
    tables = _activations(content, bits) if content.active else ()
    return QuantisedState(weights, floats, grids, alphas, tables, dict(splits))


def _state(file: OfficialFile) -> dict[str, Tensor]:
    state = file.tensors()
    alien = next((k for k in state if not k.startswith("model.")), None)
    if alien is not None:
        raise file.refusal(f"`{alien}` does not start with `model.`")
    return {k.removeprefix("model."): v for k, v in state.items()}


@dataclass(frozen=True)
class _Content:
    """What a file holds: its tensors, which quantisers it has, and under which keys."""

    file: OfficialFile
    state: Mapping[str, Tensor]
    layers: dict[str, Layer]
    parts: dict[str, list[int]]
    operands: dict[str, tuple[str, bool]]
    active: bool
    leaves: tuple[str, str]

    @classmethod
    def of(
        cls,
        file: OfficialFile,
        network: nn.Module,
        splits: Mapping[str, int],
        state: Mapping[str, Tensor],
    ) -> _Content:
        layers = {n: m for n, m in network.named_modules() if isinstance(m, Layer)}
        if unknown := sorted(splits.keys() - layers.keys()):
            raise ReproError(f"{file.path}: no layer is called {unknown[0]}; correct `splits`")
        parts = {}
        for name, module in layers.items():
            total, at = module.weight.shape[1], splits.get(name)
            parts[name] = [total] if at is None else [at, total - at]
        timed = any(k.endswith(".delta_list") for k in state)
        return cls(
            file,
            state,
            layers,
            parts,
            dict(_operands(network)),
            timed or any("act_quantizer" in k for k in state),
            ("delta_list", "zero_point_list") if timed else ("delta", "zero_point"),
        )

    def keys(self, layer: str, quantiser: str) -> list[str]:
        return [f"{layer}.{quantiser}{'_0' * i}" for i in range(len(self.parts[layer]))]

    def names(self, network: nn.Module) -> Iterator[str]:
        yield from network.state_dict()
        active = list(self.operands)
        for layer in self.layers:
            for key in self.keys(layer, "weight_quantizer"):
                yield from (f"{key}.{leaf}" for leaf in ("alpha", "delta", "zero_point"))
            active += self.keys(layer, "act_quantizer")
        if self.active:
            yield from (f"{key}.{leaf}" for key in active for leaf in self.leaves)

    def value(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        return self.file.value(name, self.state[name], shape)


def _operands(network: nn.Module) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Key in the file -> (name, whether the softmax matrix may be signed)."""
    for name, module in network.named_modules():
        if isinstance(module, unet.AttentionBlock | ldm.CrossAttention):
            for o in "qkvw":
                yield f"{name}.act_quantizer_{o}", (f"{name}.{o}", True)
        elif isinstance(module, ldm.AttentionBlock):
            for o in "qkvw":
                product = "qkv_matmul" if o in "qk" else "smv_matmul"
                yield f"{name}.attention.{product}.act_quantizer_{o}", (f"{name}.{o}", False)


# Weights


def _weight_part(
    content: _Content, key: str, part: Tensor, bits: int
) -> tuple[Grid, Tensor, Tensor]:
    """Grid, α and ŵ of a weight or of one of its two parts."""
    alpha = content.value(f"{key}.alpha", tuple(part.shape))
    grid = _grid(content, key, ("delta", "zero_point"), *code_span(bits))
    shape = (len(part),) + (1,) * (part.ndim - 1)
    if tuple(grid.delta.shape) not in (shape, shape[:1]):
        raise content.file.refusal(
            f"`{key}.delta` has shape {tuple(grid.delta.shape)}, expected {shape}"
        )
    grid = Grid(grid.delta.reshape(shape), grid.zero_point.reshape(shape), grid.lo, grid.hi)
    with torch.no_grad():
        return grid, alpha, grid(part, hard_rounding(alpha))


def _check_width(file: OfficialFile, grids: Mapping[str, tuple[Grid, ...]], bits: int) -> None:
    """Raises ReproError unless the zero-points of the weights are those of the declared width.

    A median, over the file and in each layer, because a channel of weights of one sign has a
    zero-point of its own.
    """
    remedy = "give the file of the declared width, or declare the width of this one in Bits"
    zero_points = {k: torch.cat([g.zero_point.flatten() for g in v]) for k, v in grids.items()}
    middle = float(torch.cat(list(zero_points.values())).median())
    if (found := round(math.log2(2 * max(middle, 0) + 1))) != bits:
        wrong = (
            f"its zero-points of weights lie about {middle:g}, the middle code of {found} bits; "
            f"{bits} bits are declared"
        )
        raise file.refusal(wrong, remedy)
    for name, values in zero_points.items():
        if (middle := float(values.median())) > 2**bits - 1:
            wrong = (
                f"`{name}.weight_quantizer.zero_point` lies about {middle:g}, above the last code "
                f"of {bits} bits, {2**bits - 1}"
            )
            raise file.refusal(wrong, remedy)


def _grid(content: _Content, key: str, leaves: tuple[str, str], lo: int, hi: int) -> Grid:
    delta, zero_point = (content.value(f"{key}.{leaf}") for leaf in leaves)
    again = f"fetch {LAYOUT.what} again"
    if not (delta > 0).all():
        raise content.file.refusal(f"`{key}.{leaves[0]}` is not positive", again)
    if not torch.equal(zero_point, zero_point.round()):
        raise content.file.refusal(f"`{key}.{leaves[1]}` is not an integer", again)
    if zero_point.numel() not in (1, delta.numel()):
        raise content.file.refusal(
            f"`{key}.{leaves[1]}` has shape {tuple(zero_point.shape)}, its step "
            f"{tuple(delta.shape)}",
            again,
        )
    if zero_point.shape != delta.shape:
        zero_point = zero_point.reshape(-1).expand(delta.numel()).reshape(delta.shape)
    return Grid(delta, zero_point + 0.0, lo, hi)


# Activations


def _activations(content: _Content, bits: Bits) -> tuple[ActivationGrids, ...]:
    """One entry for each time step; a single one where the file has no time steps."""
    layers = _layer_tables(content, bits)
    attention = _attention_tables(content, bits)
    every = [table for tables in layers.values() for table in tables] + list(attention.values())
    lengths = {len(table) for table in every}
    if len(lengths) > 1:
        raise content.file.refusal(f"its step tables have different lengths ({sorted(lengths)})")
    return tuple(
        ActivationGrids(
            {name: tuple(table[i] for table in tables) for name, tables in layers.items()},
            {name: table[i] for name, table in attention.items()},
        )
        for i in range(lengths.pop())
    )


def _layer_tables(content: _Content, bits: Bits) -> dict[str, list[list[Grid]]]:
    """Layer -> for each part of its input, the grids by time step."""
    convolutions = [n for n, m in content.layers.items() if not isinstance(m, nn.Linear)]
    tables = {}
    for name, module in content.layers.items():
        wide = bits.wide_edges and name in (convolutions[0], convolutions[-1])
        span = _span(256 if wide else 2**bits.activation, bits.signed, wide)
        keys = content.keys(name, "act_quantizer")
        tables[name] = [
            _table(content, key, span, bits.signed, module, width)
            for key, width in zip(keys, content.parts[name], strict=True)
        ]
    return tables


def _attention_tables(content: _Content, bits: Bits) -> dict[str, list[Grid]]:
    tables = {}
    for key, (name, signable) in content.operands.items():
        softmax = name.endswith(".w")
        signed = bits.signed and (signable or not softmax)
        span = _span(2 ** (bits.softmax if softmax else bits.activation), signed, False)
        tables[name] = _table(content, key, span, signed)
    return tables


def _span(levels: int, signed: bool, patched: bool) -> tuple[int, int]:
    if not signed:
        return 0, levels - 1
    return (-levels - 1, levels) if patched else (-(levels // 2), levels // 2 - 1)


def _table(
    content: _Content,
    key: str,
    span: tuple[int, int],
    signed: bool,
    layer: Layer | None = None,
    width: int | None = None,
) -> list[Grid]:
    """The grids of one activation, one for each time step; a single one without time steps."""
    grid = _grid(content, key, content.leaves, *span)
    if signed and grid.zero_point.any():
        raise content.file.refusal(
            f"`{key}` has zero-points other than 0, so it is asymmetric",
            "read it with Bits(signed=False)",
        )
    if not signed and (grid.zero_point > span[1]).any():
        raise content.file.refusal(
            f"`{key}.{content.leaves[1]}` reaches {float(grid.zero_point.max()):g}, above the last "
            f"code, {span[1]}",
            "declare the width of its activations in Bits",
        )
    shape = tuple(grid.delta.shape)
    if content.leaves[0] == "delta":
        if grid.delta.numel() != 1:
            raise content.file.refusal(f"`{key}.delta` has shape {shape}, not one step")
        return [Grid(grid.delta.reshape(()), grid.zero_point.reshape(()), *span)]
    channels = "" if width is None else f" for {width} channels"
    if not shape or not shape[0] or not _fits(shape[1:], layer, width):
        raise content.file.refusal(
            f"`{key}.{content.leaves[0]}` has shape {shape}, which is no step table{channels}"
        )
    tail = (width, 1) if isinstance(layer, nn.Conv1d) else shape[1:]
    return [
        _of_step(delta, zero_point, tail, span)
        for delta, zero_point in zip(grid.delta, grid.zero_point, strict=True)
    ]


def _fits(tail: tuple[int, ...], layer: Layer | None, width: int | None) -> bool:
    """Whether the step of one time has a shape for the input of this layer, or of attention."""
    if layer is None:
        return len(tail) in (1, 2, 3)
    if isinstance(layer, nn.Linear):
        return tail in ((1, width), (width,))
    if isinstance(layer, nn.Conv1d):
        return tail in ((width, 1), (width, 1, 1))
    return tail == (width, 1, 1)


def _of_step(delta: Tensor, zero_point: Tensor, shape: tuple, span: tuple[int, int]) -> Grid:
    """A grid of one time step; a scalar one where all channels have the same."""
    if (delta == delta.flatten()[0]).all() and (zero_point == zero_point.flatten()[0]).all():
        return Grid(delta.flatten()[0], zero_point.flatten()[0], *span)
    return Grid(delta.reshape(shape), zero_point.reshape(shape), *span)
