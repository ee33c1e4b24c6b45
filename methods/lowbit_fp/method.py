"""Low-bit floating-point quantisation of a diffusion model (Chen et al. 2024, arXiv 2408.06995).

The pipeline of Q-Diffusion with another grid. Three steps:

1. Format and range. A tensor of n bits is put on the values of a floating-point format ExMy, scaled
   to a largest value `maxval`. Both are searched: every split n = 1 + E + M, and 111 ranges from
   0.1 to 1.2 max|w|, by the squared error of the tensor.

       8 bits: E2M5, E3M4, E4M3, E5M2        4 bits: E1M2 (evenly spaced), E2M1

2. Rounding. Weights of 8 bits are rounded to the nearest value. With s_i the distance of the grid
   points around w_i, the direction of each 4-bit weight is learned, block after block,

       ŵ_i = s_i (floor(w_i/s_i) + h(α_i)),   min over α of the error of the block's output

   The gradient for α_i is proportional to s_i, which differs by 2^(2^E - 2) within a tensor;
   "scale-aware" rounding, h(α_i max(s)/s_i), is FP4DiT's remedy.

3. Activations of 8 bits. Format and range are searched in the same way on states that the
   full-precision network meets while it samples, with the weights already quantised.

Integer baselines run through the same code: as many candidate ranges, the same granularity, the
same learned rounding. The paper publishes no code; formats and search follow the work that it
builds on (Kuzmin et al., NeurIPS 2022, arXiv 2208.09225), the rest Q-Diffusion (Li et al., ICCV
2023, arXiv 2302.04304). Which layers the paper leaves out is unknown: none here, or the first and
the last at 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.quant.calibration import CalibrationSet
from repro.quant.floating import AnyGrid, FloatGrid, float_grid
from repro.quant.layers import Layer, QuantisedLayer, Recipe, quantise, quantised_layers
from repro.quant.ranges import minmax_grid
from repro.quant.reconstruction import Progress, reconstruct_weights, set_rounding
from repro.quant.search import Sampled, search_float_grid, search_integer_grid

Granularity = Literal["tensor", "channel"]
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel")
RANGES = ("max", "search")
WIDE = 8  # bits of activations, and of layers that are kept wider

_FORM = re.compile(r"INT([2-8])(-asym)?|FP([3-8])|E(\d)M(\d)")


# 1. Format and range ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A number format by its name.

    INT4 (symmetric, codes -8..7), INT4-asym (16 codes from a zero-point), E2M1 (a floating-point
    format), FP4 (the floating-point format of these bits that fits best).
    """

    name: str
    bits: int
    integer: bool
    symmetric: bool = True
    split: tuple[int, int] | None = None

    @classmethod
    def of(cls, name: str) -> Form:
        """Raises ReproError on a name of another form."""
        found = _FORM.fullmatch(name)
        if not found:
            raise ReproError(f"no number format `{name}`; write it like INT4, INT4-asym, FP4, E2M1")
        integer, asymmetric, floating, exponent, mantissa = found.groups()
        if integer:
            return cls(name, int(integer), True, asymmetric is None)
        if floating:
            return cls(name, int(floating), False)
        split = int(exponent), int(mantissa)
        return cls(name, 1 + sum(split), False, split=split)

    def at(self, bits: int) -> Form:
        """The format of the same family at another width: INT8 of INT4, FP8 of E2M1."""
        if bits == self.bits:
            return self
        family = "INT{}" if self.symmetric else "INT{}-asym"
        return Form.of((family if self.integer else "FP{}").format(bits))


def grid(
    x: Tensor, form: str, *, granularity: Granularity = "tensor", span: str = "search"
) -> AnyGrid:
    """Grid of a tensor in a number format, one range for it or one for each slice of dimension 0.

    span: `max` takes max|x| (or the extremes), `search` the best of 111 ranges. Raises ReproError
    on unknown names, and on FP<n> with `max`, as the format is chosen by the search.
    """
    if granularity not in GRANULARITIES or span not in RANGES:
        raise ReproError(
            f"no granularity `{granularity}` with range `{span}`; choose tensor or channel, max "
            "or search"
        )
    chosen, per_channel = Form.of(form), {"channel_wise": granularity == "channel"}
    if chosen.integer:
        rule = search_integer_grid if span == "search" else minmax_grid
        return rule(x, chosen.bits, symmetric=chosen.symmetric, **per_channel)
    if span == "search":
        formats = [chosen.split] if chosen.split else None
        return search_float_grid(x, chosen.bits, formats=formats, **per_channel)
    if chosen.split is None:
        raise ReproError(f"{form} is found by the search; name a format, such as E2M1, for `max`")
    return float_grid(x, *chosen.split, **per_channel)


def format_of(grid: AnyGrid) -> str:
    """E<E>M<M> of a floating-point grid, INT<n> of an integer one."""
    if isinstance(grid, FloatGrid):
        return f"E{grid.exponent}M{grid.mantissa}"
    return f"INT{(grid.hi - grid.lo).bit_length()}"


# 2. and 3. Networks -------------------------------------------------------------------------------


class Choices(TypedDict, total=False):
    """Options of `recipe`."""

    granularity: Granularity
    span: str
    keep_first_last_8bit: bool


def recipe(
    network: nn.Module,
    weights: str | None,
    activations: str | None = None,
    *,
    granularity: Granularity = "tensor",
    span: str = "search",
    keep_first_last_8bit: bool = False,
) -> Recipe:
    """What is quantised, and how: every convolution and linear layer and the products of attention.

    weights, activations: number formats; None leaves them in float. Activations (the inputs of
    layers, q, k, v and the softmax matrix) have one searched grid each.
    """

    def weight_grid(w: Tensor, bits: int) -> AnyGrid:
        assert weights is not None, "weights without a format have no grids"
        form = Form.of(weights).at(bits)
        floats = not form.integer and form.split is None
        return grid(w, form.name, granularity=granularity, span="search" if floats else span)

    def activation_grid(x: Tensor, bits: int) -> AnyGrid:
        assert activations is not None, "activations without a format are not observed"
        return grid(x, activations)

    if activations and Form.of(activations).bits != WIDE:
        raise ReproError(f"activations have 8 bits in this method, not {activations}")
    attends = any(callable(getattr(m, "attend", None)) for m in network.modules())
    return Recipe(
        Form.of(weights).bits if weights else None,
        (WIDE,) if activations else (),
        weight_grid,
        lambda widths: Sampled(activation_grid),
        edge_bits=WIDE if keep_first_last_8bit else None,
        attention_bits=(WIDE, WIDE) if activations and attends else None,
    )


@dataclass(frozen=True)
class Variant:
    """How 4-bit weights are rounded by learning: `E2M1.tensor`, `INT4-asym.channel`,
    `E2M1.tensor.aware` (scale-aware).
    """

    form: str
    granularity: Granularity
    scale_aware: bool = False

    @classmethod
    def of(cls, name: str) -> Variant:
        """Raises ReproError on a name of another form."""
        found = re.fullmatch(r"([^.]+)\.(tensor|channel)(\.aware)?", name)
        if not found:
            raise ReproError(
                f"no rounding `{name}`; write it like E2M1.tensor, INT4-asym.channel or "
                "E2M1.tensor.aware"
            )
        granularity: Granularity = "tensor" if found[2] == "tensor" else "channel"
        return cls(Form.of(found[1]).name, granularity, bool(found[3]))


class LearningOptions(TypedDict, total=False):
    """Options of `learn`."""

    lr: float
    batch: int
    most: int | None
    until: float | None
    progress: Progress


def learn(
    network: nn.Module,
    variant: Variant,
    calibration: CalibrationSet,
    iterations: int,
    *,
    generator: torch.Generator,
    **options: Unpack[LearningOptions],
) -> dict[str, Tensor]:
    """Learned rounding directions of all weights of a network, uint8, 1 where a weight goes up.

    iterations: for each block. options: see `repro.quant.reconstruction.reconstruct_weights`.
    """
    rounded = quantise(network, recipe(network, variant.form, granularity=variant.granularity))
    alphas = reconstruct_weights(
        rounded,
        network,
        calibration,
        iterations,
        generator=generator,
        scale_aware=variant.scale_aware,
        **options,
    )
    return {name: (alpha >= 0).to(torch.uint8) for name, [alpha] in alphas.items()}


def set_directions(network: nn.Module, up: Mapping[str, Tensor]) -> nn.Module:
    """Round the weights of a quantised network as `learn` found, in place; returns it.

    up: by layer; what a model keeps beside them (floats and int64) is not read. Raises ReproError
    where the directions are of another network.
    """
    layers = quantised_layers(network)
    up = {name: value for name, value in up.items() if value.dtype == torch.uint8}
    if different := sorted(layers.keys() ^ up.keys()):
        raise ReproError(
            f"these roundings are of another network: {different[0]} is not in both; give those "
            "that were learned on this one"
        )
    for name, layer in layers.items():
        set_rounding(layer, [up[name].to(layer.layer.weight) * 2 - 1])
    return network


# What the weights look like -----------------------------------------------------------------------


def kurtosis(w: Tensor, granularity: Granularity = "tensor") -> float:
    """E w⁴ / (E w²)², 3 for a Gaussian and 6 for a Laplacian; `channel`: of weights that are first
    divided by the root mean square of their output channel.
    """
    rows = w.detach().double().reshape(len(w), -1)
    if granularity == "channel":
        rows = rows / rows.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-300)
    return float(rows.pow(4).mean() / rows.square().mean().square())


def weight_error(w: Tensor, chosen: AnyGrid) -> float:
    """Squared error Σ (w - ŵ)² of rounding to nearest."""
    return float((chosen(w) - w).double().square().sum())


@torch.no_grad()
def output_errors(
    network: nn.Module,
    states: CalibrationSet,
    weights: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, dict[str, float]]:
    """Mean squared change of each layer's output when this layer alone has other weights.

    weights: name of a layer -> label -> weight of the layer's shape. Returns the same keys. The
    layers get the inputs that they have in full precision.
    """
    found: dict[str, dict[str, float]] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(module: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for label, other in weights[name].items():
                change = other - module.weight
                if isinstance(module, nn.Linear):
                    moved = nn.functional.linear(inputs[0], change)
                else:
                    moved = module._conv_forward(inputs[0], change, None)
                found.setdefault(name, {})[label] = float(moved.square().mean())

        return see

    hooks = [network.get_submodule(name).register_forward_hook(hook(name)) for name in weights]
    network(states.x, states.t)
    for handle in hooks:
        handle.remove()
    return found


def spearman(x: list[float], y: list[float]) -> float:
    """Rank correlation of two lists of at least three numbers; 0 where one does not vary."""
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


@torch.no_grad()
def zero_weights(network: nn.Module) -> float:
    """Share of the weights of a quantised network that are exactly 0."""
    layers: list[QuantisedLayer] = list(quantised_layers(network).values())
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    return zeros / sum(layer.weight.numel() for layer in layers)
