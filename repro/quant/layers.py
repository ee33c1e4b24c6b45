"""Quantised copies of a network: which tensors are quantised, when they are calibrated, and how
they run.

`quantise(network, recipe)` returns a copy whose convolutions and linear layers are
`QuantisedLayer`s. Their weights have grids at once; their activations get grids from `calibrate`. A
weight is quantised a single time and kept, so a quantised forward pass costs a plain one plus the
fake quantisation of activations.

Sources: the wrappers of Q-Diffusion (weights per output channel, the layer's *input* per tensor,
shortcut splitting, attention operands) and of PTQ4DM (the layer's *output* per tensor).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.quant.affine import Rounding, nearest
from repro.quant.floating import AnyGrid

Layer = nn.Conv1d | nn.Conv2d | nn.Linear


class ActivationGrid(Protocol):
    """What an activation is quantised by: x̂ with gradients, or without them in place of x."""

    @property
    def delta(self) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor: ...

    def apply_(self, x: Tensor) -> Tensor: ...


class Observer(Protocol):
    """Sees calibration tensors one after another and turns them into a grid."""

    def update(self, x: Tensor) -> None: ...

    def grid(self, bits: int) -> ActivationGrid: ...


@dataclass(frozen=True)
class AttentionStyle:
    """How an attention block quantises what it multiplies.

    scaled: q and k are quantised after each is multiplied by C^(-1/4), as in the unconditional
    networks of latent diffusion, else before their product is divided by √C. softmax: (widths) -> a
    fresh observer of the softmax matrix, or None for that of all activations.
    """

    scaled: bool = False
    softmax: Callable[[tuple[int, ...]], Observer] | None = None


@dataclass(frozen=True)
class Recipe:
    """What to quantise, and how.

    weight_bits: width of the weights; None leaves them in floating point.
    activation_bits: widths that one calibration pass prepares; empty leaves activations alone. The
    first is used at first.
    weight_grid: (weight, bits) -> grid per output channel.
    observer: (widths) -> a fresh observer for one tensor.
    side: whether a layer quantises its `input` or its `output` (after the bias).
    layers: module types to wrap. skip: (name, module) -> True to leave a module alone.
    edge_bits: width forced on the weights of the first and the last convolution and on the
    activation of the first.
    last_output: whether the output of the last convolution is quantised when `side` is `output`.
    splits: layer name -> number of leading input channels that get quantisers of their own
    (shortcut splitting).
    attention_bits: (width of q, k and v, width of the softmax matrix) or None to leave attention
    products alone. attention_style: block with an `attend` method -> how.
    """

    weight_bits: int | None
    activation_bits: tuple[int, ...]
    weight_grid: Callable[[Tensor, int], AnyGrid]
    observer: Callable[[tuple[int, ...]], Observer]
    side: Literal["input", "output"] = "input"
    layers: tuple[type[Layer], ...] = (nn.Conv2d, nn.Conv1d, nn.Linear)
    skip: Callable[[str, nn.Module], bool] = lambda name, module: False
    edge_bits: int | None = None
    last_output: bool = True
    splits: Mapping[str, int] = field(default_factory=dict)
    attention_bits: tuple[int, int] | None = None
    attention_style: Callable[[nn.Module], AttentionStyle] = lambda block: AttentionStyle()


class ActivationQuantiser(nn.Module):
    """Off, observing, or quantising one tensor, with one grid for each prepared width.

    `start` is observing and quantising at once: what follows sees the tensor quantised.

    `pinned`: the width does not follow the rest of the network (first layer, softmax matrix).
    """

    def __init__(self, observer: Observer, widths: tuple[int, ...], pinned: bool = False):
        super().__init__()
        self.observer, self.widths, self.pinned = observer, widths, pinned
        self.bits = widths[0]
        self.mode: Literal["off", "observe", "start", "quantise"] = "off"
        self.grids: dict[int, ActivationGrid] = {}

    def freeze(self) -> None:
        """Fix the grids of all widths from what was observed."""
        self.grids = {bits: self.observer.grid(bits) for bits in self.widths}

    def use(self, bits: int) -> None:
        """Select a prepared width, unless pinned. Raises ReproError on a width not prepared."""
        if self.pinned:
            return
        if bits not in self.widths:
            raise ReproError(
                f"no {bits}-bit grid was prepared, only {self.widths}; add it to the recipe"
            )
        self.bits = bits

    def forward(self, x: Tensor, own: bool = False) -> Tensor:
        """`x` quantised; `own`: x may be overwritten (it is then when no gradient is asked for)."""
        if self.mode == "off":
            return x
        if self.mode in ("observe", "start"):
            self.observer.update(x)
        if self.mode == "observe":
            return x
        if self.mode == "start":
            self.freeze()
        if self.bits not in self.grids:
            raise ReproError(
                "an activation quantiser has no grid; run calibrate() on a calibration set first"
            )
        grid = self.grids[self.bits]
        if torch.is_grad_enabled() and (x.requires_grad or grid.delta.requires_grad):
            return grid(x)
        return grid.apply_(x if own else x.clone())


def _input_parts(layer: Layer, recipe: Recipe, name: str) -> list[int]:
    """Input channels of each part of a layer; one part unless the recipe splits it."""
    split, total = recipe.splits.get(name), layer.weight.shape[1]
    if not split:
        return [total]
    if recipe.side == "output" or not 0 < split < total or getattr(layer, "groups", 1) != 1:
        raise ReproError(
            f"layer {name} cannot be split at {split} of {total} input channels; split "
            "input-side layers"
        )
    return [split, total - split]


def _weight_width(recipe: Recipe, edge: str | None) -> int | None:
    """Bits of a layer's weights; None where they stay floats."""
    if edge and recipe.edge_bits and recipe.weight_bits:
        return recipe.edge_bits
    return recipe.weight_bits


def _activation_widths(recipe: Recipe, edge: str | None) -> tuple[tuple[int, ...], bool]:
    """Widths of a layer's activations, none where they stay floats, and whether they are pinned."""
    if edge == "last" and recipe.side == "output" and not recipe.last_output:
        return (), False
    if edge == "first" and recipe.edge_bits and recipe.activation_bits:
        return (recipe.edge_bits,), True
    return recipe.activation_bits, False


class QuantisedLayer(nn.Module):
    """A convolution or linear layer with fake-quantised weight and input or output.

    Attributes: `weight_on` (use the quantised weight), `roundings` (one rounding rule per weight
    part; a learned one is evaluated at each call, so its gradient flows), `activations` (quantisers
    of the input parts, or of the output).
    """

    def __init__(self, layer: Layer, recipe: Recipe, name: str, edge: str | None):
        super().__init__()
        self.layer, self.side = layer, recipe.side
        self.parts = _input_parts(layer, recipe, name)
        bits = self.weight_bits = _weight_width(recipe, edge)
        self.weight_grids: list[AnyGrid] = []
        if bits is not None:
            self.weight_grids = [
                recipe.weight_grid(part, bits)
                for part in layer.weight.detach().split(self.parts, 1)
            ]
        self.roundings: list[Rounding] = [nearest] * len(self.parts)
        self.weight_on = bits is not None
        self._kept: Tensor | None = None
        widths, pinned = _activation_widths(recipe, edge)
        self.activations = nn.ModuleList(
            ActivationQuantiser(recipe.observer(widths), widths, pinned)
            for _ in self.parts
            if widths
        )

    @property
    def weight(self) -> Tensor:
        """The weight that the layer computes with, of the shape of the original."""
        if not self.weight_on:
            return self.layer.weight
        if self._kept is not None and not torch.is_grad_enabled():
            return self._kept
        if torch.is_grad_enabled() or any(rounding is not nearest for rounding in self.roundings):
            return self._quantised_weight()
        with torch.inference_mode(False), torch.no_grad():
            self._kept = self._quantised_weight()
        return self._kept

    def _quantised_weight(self) -> Tensor:
        parts = self.layer.weight.split(self.parts, 1)
        sources = zip(self.weight_grids, parts, self.roundings, strict=True)
        quantised = [grid(part, rounding) for grid, part, rounding in sources]
        return quantised[0] if len(quantised) == 1 else torch.cat(quantised, 1)

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def refresh(self) -> None:
        """Forget the kept weight, after a change of grids or roundings."""
        self._kept = None

    def forward(self, x: Tensor) -> Tensor:
        if self.side == "input" and len(self.activations):
            if len(self.parts) == 1:
                x = self.activations[0](x)
            else:
                dim = -1 if isinstance(self.layer, nn.Linear) else 1
                halves = x.split(self.parts, dim)
                x = torch.cat([q(h) for q, h in zip(self.activations, halves, strict=True)], dim)
        if isinstance(self.layer, nn.Linear):
            y = F.linear(x, self.weight, self.layer.bias)
        else:
            y = self.layer._conv_forward(x, self.weight, self.layer.bias)
        if self.side == "output" and len(self.activations):
            y = self.activations[0](y, own=True)
        return y


class QuantisedAttention(nn.Module):
    """softmax(q kᵀ/√C) v with fake-quantised q, k, v and softmax matrix.

    Stands in for the `attend` method of an attention block: q, k, v (B, N, C) -> (B, N, C).
    """

    q: ActivationQuantiser
    k: ActivationQuantiser
    v: ActivationQuantiser
    w: ActivationQuantiser

    def __init__(
        self,
        observer: Callable[[tuple[int, ...]], Observer],
        operand: int,
        softmax: int,
        style: AttentionStyle = AttentionStyle(),
    ) -> None:
        super().__init__()
        self.scaled = style.scaled
        for name, bits in (("q", operand), ("k", operand), ("v", operand), ("w", softmax)):
            make = style.softmax if name == "w" and style.softmax else observer
            self.add_module(name, ActivationQuantiser(make((bits,)), (bits,), pinned=True))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        root = math.sqrt(q.shape[-1])
        if self.scaled:
            s = 1 / math.sqrt(root)
            scores = self.q(q * s, own=True) @ self.k(k * s, own=True).transpose(-1, -2)
        else:
            scores = self.q(q) @ self.k(k).transpose(-1, -2) / root
        return self.w(scores.softmax(-1), own=True) @ self.v(v)


def shortcut_splits(network: nn.Module) -> dict[str, int]:
    """Layers fed with a raw concatenation of decoder and encoder features, and where it joins.

    Reads `skip_channels` of the residual blocks of `repro.nets.unet`: the encoder's channels come
    last. Source: Q-Diffusion, section 3.3.
    """
    return {
        f"{name}.nin_shortcut": block.nin_shortcut.in_channels - block.skip_channels
        for name, block in network.named_modules()
        if getattr(block, "skip_channels", 0) and hasattr(block, "nin_shortcut")
    }


def quantised_layers(network: nn.Module) -> dict[str, QuantisedLayer]:
    """The wrapped layers by name, in registration order."""
    return {name: m for name, m in network.named_modules() if isinstance(m, QuantisedLayer)}


def activation_quantisers(network: nn.Module) -> dict[str, ActivationQuantiser]:
    """All activation quantisers by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, ActivationQuantiser)}


def quantise(network: nn.Module, recipe: Recipe) -> nn.Module:
    """A quantised copy of `network`: weights quantised, activations off until `calibrate`.

    Raises ReproError if the recipe matches no layer or names a split layer that is not there.
    """
    network = copy.deepcopy(network)
    layers = {
        n: m
        for n, m in network.named_modules()
        if isinstance(m, recipe.layers) and not recipe.skip(n, m)
    }
    if not layers:
        raise ReproError(
            "the recipe quantises no layer of this network; check its layer types and what it skips"
        )
    if unknown := set(recipe.splits) - set(layers):
        raise ReproError(
            f"no quantised layer is called {sorted(unknown)[0]}; name splits after the network's "
            "modules"
        )
    convolutions = [n for n, m in layers.items() if not isinstance(m, nn.Linear)] or [*layers]
    edges = {convolutions[0]: "first", convolutions[-1]: "last"}
    for name, layer in layers.items():
        network.set_submodule(name, QuantisedLayer(layer, recipe, name, edges.get(name)))
    if recipe.attention_bits:
        blocks = [m for m in network.modules() if callable(getattr(m, "attend", None))]
        if not blocks:
            raise ReproError("no block of this network has an attend(q, k, v) method to quantise")
        for block in blocks:
            attend = QuantisedAttention(
                recipe.observer, *recipe.attention_bits, recipe.attention_style(block)
            )
            block.add_module("quantised_attend", attend)
            object.__setattr__(block, "attend", attend)
    return network.eval()


def use(network: nn.Module, *, weights: bool = True, activations: int | bool = True) -> nn.Module:
    """Switch quantisation of weights and of activations on or off; an int selects an activation
    width. Returns `network`.
    """
    for layer in quantised_layers(network).values():
        layer.weight_on = weights and layer.weight_bits is not None
    for quantiser in activation_quantisers(network).values():
        quantiser.mode = "quantise" if activations else "off"
        if activations is not True and activations:
            quantiser.use(activations)
    return network


@torch.no_grad()
def calibrate(
    network: nn.Module, batches: Iterable[tuple[Tensor, ...]], *, in_turn: bool = False
) -> nn.Module:
    """Forward every batch with quantised weights, observe all activations, fix their grids and
    switch them on.

    `batches`: tuples of positional arguments of the network, e.g. (x, t). `in_turn`: an activation
    is quantised as soon as it was observed, so that a grid sees what those before it make of its
    tensor, as in the released code of Q-Diffusion; else all see activations in floats. Returns
    `network`.
    """
    quantisers = activation_quantisers(network).values()
    for quantiser in quantisers:
        quantiser.mode = "start" if in_turn else "observe"
    seen = 0
    for arguments in batches:
        network(*arguments)
        seen += 1
    if not seen:
        raise ReproError("the calibration set is empty; give calibrate() at least one batch")
    for quantiser in quantisers:
        quantiser.freeze()
    return use(network)
