"""Four-bit weights whose roundings were learned, as a model that methods share.

`learn` is what Q-Diffusion does to the weights of a network: grids per output channel, both parts
of a layer that sees a raw concatenation apart, roundings learned one unit after another on states
that the full-precision network meets while it samples. No dataset is read. The result is kept as

    <layer>.<part>.alpha        uint8, 1 where a weight is rounded up
    <layer>.<part>.delta        step of every output channel
    <layer>.<part>.zero_point   zero-point of every output channel

beside how learning ended (`record_of`)

and `install` puts it into any copy that `quantise` made with the same weight width and splits, so
that methods which continue from there (activation steps, fine-tuning) start from the same weights.

Source: "Q-Diffusion: Quantizing Diffusion Models", Li et al., ICCV 2023 (arXiv 2302.04304), and its
released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.nets import ldm
from repro.numbers import finite
from repro.quant.affine import Grid, code_span
from repro.quant.calibration import CalibrationSet, Trajectory, uniform_grid
from repro.quant.floating import AnyGrid
from repro.quant.layers import (
    AttentionStyle,
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


def first_batch(
    scale: Scale = "max", *, always_zero: bool = False
) -> Callable[[tuple[int, ...]], Observer]:
    """Observers of one forward pass: `max` with signed codes, `mse` with unsigned ones, as released
    for CIFAR-10 and for LSUN-Church. always_zero: unsigned codes from 0, for a softmax matrix.
    """
    rule = _rule(scale)
    if always_zero:
        rule = partial(rule, always_zero=True, faithful=True)
    elif scale == "max":
        rule = partial(rule, symmetric=True)
    return lambda widths: FirstBatch(widths, rule)


def attention_style(block: nn.Module, scale: Scale = "max") -> AttentionStyle:
    """How Q-Diffusion's released code quantises the products of an attention block.

    `repro.nets.unet` (DDIM): all four operands alike. `ldm.AttentionBlock`: q and k after scaling,
    the softmax matrix with unsigned codes from 0, whatever the other activations have.
    `ldm.CrossAttention`: q and k before scaling, the softmax matrix from 0 unless codes are signed
    (`max`). Source: qdiff/quant_block.py, commit 715783d.
    """
    from_zero = first_batch(scale, always_zero=True)
    if isinstance(block, ldm.AttentionBlock):
        return AttentionStyle(scaled=True, softmax=from_zero)
    if isinstance(block, ldm.CrossAttention) and scale == "mse":
        return AttentionStyle(softmax=from_zero)
    return AttentionStyle()


def splits(network: nn.Module) -> dict[str, int]:
    """Layers fed with a raw concatenation, and where it joins, in either family of U-Nets."""
    return shortcut_splits(network) | ldm.skip_splits(network)


def recipe(
    network: nn.Module,
    weight_bits: int | None = 4,
    activation_bits: int | None = None,
    *,
    weight_scale: Scale = "max",
    scale: Scale = "max",
    observer: Callable[[tuple[int, ...]], Observer] | None = None,
    split: bool = True,
    softmax_bits: int = 8,
) -> Recipe:
    """What Q-Diffusion quantises: every convolution and linear layer of `network`, first and last
    included, with its weight per output channel and its input per tensor, and both products of
    attention.

    activation_bits: of the inputs of layers and of q, k and v; None leaves activations alone.
    weight_scale, scale: range rules of weights and of activations. The released commands take `max`
    for both on CIFAR-10; `mse` for weights on latent diffusion and Stable Diffusion, and for
    activations there too, but `max` on LSUN-Bedroom. observer: of activations, in place of
    `first_batch(scale)`. split: quantise the two parts of a
    shortcut's input, and of its weight, apart. softmax_bits: of the softmax matrix.
    """
    attends = any(callable(getattr(m, "attend", None)) for m in network.modules())
    return Recipe(
        weight_bits,
        () if activation_bits is None else (activation_bits,),
        partial(_rule(weight_scale), channel_wise=True),
        observer or first_batch(scale),
        splits=splits(network) if split else {},
        attention_bits=(activation_bits, softmax_bits) if activation_bits and attends else None,
        attention_style=partial(attention_style, scale=scale),
    )


def chains(study: Study, stream: str = "calibration") -> Trajectory:
    """What the full-precision network meets from fresh noises: the source of calibration sets.

    As many chains as a batch holds, at least as many as samples are taken of a step; the draw
    depends on the seed and the stream alone. Those of the stream "calibration" are read from the
    study's model of full-precision samples where it has one.
    """
    if stream == "calibration" and (kept := study.kept_chains):
        return kept
    n = max(study.p.batch, study.p.per_step)
    return study.trajectory(study.network, study.noise(n, stream))


def calibration(study: Study, stream: str = "calibration") -> CalibrationSet:
    """`per_step` samples of each of `calibration_steps` steps at a stride, from fresh noises."""
    return uniform_grid(chains(study, stream), study.p.calibration_steps, study.p.per_step)


def learn(job: Job) -> State:
    """Train function of a card: a network of the zoo with learned weight roundings.

    Its card declares `network`, `steps`, `clip`, `batch` (see `Study`), `calibration_steps` and
    `per_step` (the calibration set), `bits`, `scale` ("max" or "mse"), `split`, `iterations` for
    each unit, `lr` and `learning_batch`; optionally `most` (iterations of cheap units, see
    `reconstruct_weights`) and `until` (largest share of undecided roundings, see `learn_rounding`).
    Returns the state that `install` reads, and how learning ended for `learned_units`.
    """
    study, p = Study(job), job.params
    network = quantise(
        study.network, recipe(study.network, p.bits, weight_scale=p.scale, split=p.split)
    )
    units: list[UnitReport] = []

    def progress(report: UnitReport, done: int, total: int) -> None:
        units.append(report)
        _log(job, report, done, total)

    reconstruct_weights(
        network,
        study.network,
        calibration(study),
        p.iterations,
        generator=job.rng("rounding"),
        most=p.get("most"),
        until=p.get("until"),
        lr=p.lr,
        batch=p.learning_batch,
        progress=progress,
    )
    return export(network) | record_of(units)


def _log(job: Job, report: UnitReport, done: int, total: int) -> None:
    share, r = max(report.undecided.values()), report
    job.log.info(
        "%d/%d %s: %.4g -> %.4g (soft %.4g) after %s iterations, %.2g undecided",
        done, total, r.name, r.before, r.after, r.soft, r.iterations, share,
    )  # fmt: skip


def record_of(reports: Sequence[UnitReport]) -> State:
    """How learning ended, to be kept beside the roundings; `learned_units` reads it.

    <unit>.losses       float64 (3,): before, at the end with soft roundings, after the cut
    <unit>.iterations   int64
    <layer>.undecided   float64 (2,): share of undecided roundings, number of roundings
    """
    found: State = {}
    for r in reports:
        assert r.soft is not None and r.iterations is not None, "a report of learned roundings"
        found[f"{r.name}.losses"] = torch.tensor([r.before, r.soft, r.after], dtype=torch.float64)
        found[f"{r.name}.iterations"] = torch.tensor(r.iterations)
        for layer, share in r.undecided.items():
            pair = [share, r.weights[layer]]
            found[f"{layer}.undecided"] = torch.tensor(pair, dtype=torch.float64)
    return found


def learned_units(state: Mapping[str, Tensor]) -> list[UnitReport]:
    """How learning ended in every unit of a state with a record (`record_of`).

    Raises ReproError where there is none.
    """
    names = sorted(key.removesuffix(".losses") for key in state if key.endswith(".losses"))
    if not names:
        raise ReproError("these roundings have no record of how they were learned; learn them anew")
    found = []
    for name in names:
        before, soft, after = state[f"{name}.losses"].tolist()
        pairs = {
            key.removesuffix(".undecided"): value.tolist()
            for key, value in state.items()
            if key.endswith(".undecided") and f"{key}.".startswith(f"{name}.")
        }
        found.append(
            UnitReport(
                name,
                before,
                after,
                soft,
                int(state[f"{name}.iterations"]),
                {layer: share for layer, (share, _) in pairs.items()},
                {layer: int(number) for layer, (_, number) in pairs.items()},
            )  # fmt: skip
        )
    return found


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
