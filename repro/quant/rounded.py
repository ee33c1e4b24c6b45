"""Four-bit weights whose roundings were learned, as a model that methods share.

`learn` is what Q-Diffusion does to the weights of a network: grids per output channel, both parts
of a layer that sees a raw concatenation apart, roundings learned one unit after another on states
that the full-precision network meets while it samples. No dataset is read. The result is kept as

    <layer>.<part>.alpha        uint8, 1 where a weight is rounded up
    <layer>.<part>.delta        step of every output channel
    <layer>.<part>.zero_point   zero-point of every output channel

and `install` puts it into any copy that `quantise` made with the same weight width and splits, so
that methods which continue from there (activation steps, fine-tuning) start from the same weights.

Source: "Q-Diffusion: Quantizing Diffusion Models", Li et al., ICCV 2023 (arXiv 2302.04304), and its
released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.nets.ldm import skip_splits
from repro.numbers import finite
from repro.quant.affine import Grid, code_span
from repro.quant.calibration import CalibrationSet, Trajectory, uniform_grid
from repro.quant.floating import AnyGrid
from repro.quant.layers import (
    Observer,
    QuantisedLayer,
    Recipe,
    quantise,
    quantised_layers,
    shortcut_splits,
)
from repro.quant.ranges import minmax_grid, shrink_grid
from repro.quant.reconstruction import UnitReport, reconstruct_weights, set_rounding
from repro.quant.study import Study

if TYPE_CHECKING:
    from repro.job import Job

State = dict[str, Tensor]
Scale = Literal["max", "mse"]

_RULES: dict[str, Callable[..., Grid]] = {
    "max": minmax_grid,
    "mse": partial(shrink_grid, faithful=True),
}


def _rule(scale: str) -> Callable[..., Grid]:
    if scale not in _RULES:
        raise ReproError(f"no scale `{scale}`; choose max (extremes) or mse (80 shrunken ranges)")
    return _RULES[scale]


class FirstBatch:
    """Grid of the first tensor seen, for every prepared width; later ones change nothing.

    rule: (x, bits) -> grid. Q-Diffusion initialises activation steps in one forward pass.
    """

    def __init__(self, widths: tuple[int, ...], rule: Callable[[Tensor, int], Grid]):
        self.widths, self.rule = widths, rule
        self.grids: dict[int, Grid] = {}

    def update(self, x: Tensor) -> None:
        if not self.grids:
            self.grids = {bits: self.rule(x, bits) for bits in self.widths}

    def grid(self, bits: int) -> Grid:
        if bits not in self.grids:
            raise ReproError("this observer has seen no batch; calibrate the network first")
        return self.grids[bits]


def first_batch(scale: Scale = "max") -> Callable[[tuple[int, ...]], Observer]:
    """Observers of one forward pass: `max` with signed codes, `mse` with unsigned ones, as released
    for CIFAR-10 and for LSUN-Church.
    """
    rule = partial(_rule(scale), symmetric=True) if scale == "max" else _rule(scale)
    return lambda widths: FirstBatch(widths, rule)


def splits(network: nn.Module) -> dict[str, int]:
    """Layers fed with a raw concatenation, and where it joins, in either family of U-Nets."""
    return shortcut_splits(network) | skip_splits(network)


def recipe(
    network: nn.Module,
    weight_bits: int | None = 4,
    activation_bits: int | None = None,
    *,
    weight_scale: Scale = "max",
    observer: Callable[[tuple[int, ...]], Observer] | None = None,
    split: bool = True,
    softmax_bits: int = 8,
) -> Recipe:
    """What Q-Diffusion quantises: every convolution and linear layer of `network`, first and last
    included, with its weight per output channel and its input per tensor, and both products of
    attention.

    activation_bits: of the inputs of layers and of q, k and v; None leaves activations alone.
    observer: of activations, `first_batch()` by default. split: quantise the two parts of a
    shortcut's input, and of its weight, apart. softmax_bits: of the softmax matrix.
    """
    attends = any(callable(getattr(m, "attend", None)) for m in network.modules())
    return Recipe(
        weight_bits,
        () if activation_bits is None else (activation_bits,),
        partial(_rule(weight_scale), channel_wise=True),
        observer or first_batch(),
        splits=splits(network) if split else {},
        attention_bits=(activation_bits, softmax_bits) if activation_bits and attends else None,
    )


def chains(study: Study, stream: str = "calibration") -> Trajectory:
    """What the full-precision network meets from fresh noises: the source of calibration sets.

    As many chains as a batch holds, at least as many as samples are taken of a step; the draw
    depends on the seed and the stream alone.
    """
    n = max(study.p.batch, study.p.per_step)
    return study.trajectory(study.network, study.noise(n, stream))


def calibration(study: Study, stream: str = "calibration") -> CalibrationSet:
    """`per_step` samples of each of `calibration_steps` steps at a stride, from fresh noises."""
    return uniform_grid(chains(study, stream), study.p.calibration_steps, study.p.per_step)


def learn(job: Job) -> State:
    """Train function of a card: a network of the zoo with learned weight roundings.

    Its card declares `network`, `steps`, `clip`, `batch` (see `Study`), `calibration_steps` and
    `per_step` (the calibration set), `bits`, `scale` ("max" or "mse"), `split`, `iterations` for
    each unit, `lr` and `learning_batch`. Returns the state that `install` reads.
    """
    study, p = Study(job), job.params
    network = quantise(
        study.network, recipe(study.network, p.bits, weight_scale=p.scale, split=p.split)
    )
    reconstruct_weights(
        network,
        study.network,
        calibration(study),
        p.iterations,
        generator=job.rng("rounding"),
        lr=p.lr,
        batch=p.learning_batch,
        progress=partial(_log, job),
    )
    return export(network)


def _log(job: Job, report: UnitReport, done: int, total: int) -> None:
    job.log.info("%d/%d %s: %.4g -> %.4g", done, total, report.name, report.before, report.after)


def _weighted(network: nn.Module) -> dict[str, QuantisedLayer]:
    return {n: m for n, m in quantised_layers(network).items() if m.weight_bits is not None}


@torch.no_grad()
def export(network: nn.Module) -> State:
    """The state of all quantised weights of a network: directions, steps, zero-points.

    Whatever rounding a layer has, a weight counts as rounded up where its code, before it is
    clamped, lies above the floor of w/δ.
    """
    state: State = {}
    for name, layer in _weighted(network).items():
        parts = layer.layer.weight.detach().split(layer.parts, 1)
        for i, (grid, part, rule) in enumerate(
            zip(layer.weight_grids, parts, layer.roundings, strict=True)
        ):
            if not isinstance(grid, Grid):
                raise ReproError(f"the weights of {name} are not integers; export needs a Grid")
            u = finite(part / grid.delta, f"weights of {name} in units of their steps")
            state[f"{name}.{i}.alpha"] = (rule(u) > torch.floor(u)).to(torch.uint8)
            state[f"{name}.{i}.delta"] = grid.delta.clone()
            state[f"{name}.{i}.zero_point"] = grid.zero_point.clone()
    if not state:
        raise ReproError("this network has no quantised weight to export; give weight_bits")
    return state


def install(
    network: nn.Module, state: Mapping[str, Tensor], kind: Literal["hard", "fixed"] = "hard"
) -> nn.Module:
    """Give a quantised copy the grids and roundings of a state, in place; returns it.

    network: made by `quantise`, with the layers, splits and weight width of the state. kind: hard,
    or fixed, which lets a gradient through to the weights (see `set_rounding`). Raises ReproError
    where state and network have different layers, parts or shapes.
    """
    layers = _weighted(network)
    wanted = {f"{n}.{i}.alpha" for n, m in layers.items() for i in range(len(m.parts))}
    if different := sorted(wanted ^ {k for k in state if k.endswith(".alpha")}):
        raise ReproError(
            f"these weights are of another network: {different[0]} is not in both; quantise the "
            "network with the splits that they were learned with"
        )
    for name, layer in layers.items():
        _install(name, layer, state, kind)
    return network


def _install(
    name: str, layer: QuantisedLayer, state: Mapping[str, Tensor], kind: Literal["hard", "fixed"]
) -> None:
    assert layer.weight_bits is not None
    lo, hi = code_span(layer.weight_bits)
    weight = layer.layer.weight
    alphas: list[Tensor] = []
    grids: list[AnyGrid] = []
    for i in range(len(layer.parts)):
        up, delta, zero_point = (
            state[f"{name}.{i}.{leaf}"].to(weight.device)
            for leaf in ("alpha", "delta", "zero_point")
        )
        if float(zero_point.min()) < lo or float(zero_point.max()) > hi:
            raise ReproError(
                f"the zero-points of {name} do not fit {layer.weight_bits} bits; quantise the "
                "network with the width that the weights were learned at"
            )
        alphas.append(up.to(weight.dtype) * 2 - 1)
        grids.append(Grid(delta.to(weight.dtype), zero_point.to(weight.dtype), lo, hi))
    layer.weight_grids = grids
    set_rounding(layer, alphas, kind)
