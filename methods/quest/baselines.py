r"""What QuEST is compared with: Q-Diffusion's activation steps, PTQ-D, EfficientDM.

Q-Diffusion learns steps unit by unit (`learn_steps`). PTQ-D leaves the quantised network as it is
and corrects what it says: with e = ε̃ - ε its error on states of full-precision sampling at t,

    ε̂ = (ε̃ - b_t) / (1 + k_t),   k_t = max(slope of e over ε, 0),   b_t = mean of e by channel
    σ'² = max(σ² - (√(1 - ᾱ' - σ²) - √(ᾱ'(1 - ᾱ)/ᾱ))² (s_t/(1 + k_t))², 0)

where s_t is the deviation of e - k_t ε and σ the sampler's; with η = 0 there is no σ to take from.
EfficientDM trains updates of low rank that are merged before weights are rounded,

    ŵ = Q(ŵ_0 + B A),   ŵ_0 the rounded weight, A and B of rank 32, B = 0 at first,

together with the steps of weights and, for every step of sampling, those of activations, against
the output of the full-precision network along its own trajectories.

Sources: "PTQD", He et al., NeurIPS 2023 (arXiv 2305.10657), released code (ziplab/PTQD, commit
6b190f9: quant_scripts/analyze_error.py, ldm/models/diffusion/ddim.py); "EfficientDM", He et al.,
ICLR 2024 (arXiv 2310.03270), released code (ThisisBillhe/EfficientDM, commit 293e212:
quant_scripts/train_efficientdm.py, quant_layer.py). PTQ-D's choice of widths by step is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.quest.method import (
    EDGE_BITS,
    EDGES,
    Clock,
    GridTable,
    entries_of,
    integer_grid,
    plain_weights,
)
from repro.errors import ReproError
from repro.quant import rounded
from repro.quant.affine import SMALLEST_STEP, Grid
from repro.quant.calibration import CalibrationSet, Trajectory
from repro.quant.layers import (
    ActivationQuantiser,
    QuantisedLayer,
    activation_quantisers,
    calibrate,
    quantise,
    quantised_layers,
)
from repro.quant.reconstruction import reconstruct_activations

# Q-Diffusion ----------------------------------------------------------------------------------


def learn_steps(
    network: nn.Module,
    teacher: nn.Module,
    data: CalibrationSet,
    iterations: int,
    *,
    lr: float,
    batch: int,
    generator: torch.Generator,
) -> nn.Module:
    """Activation steps learned unit by unit, for every table apart; in place.

    `iterations` in all, a table gets its share. lr: of 8-bit steps; those of n bits move 2^(8-n)
    times as fast, so that ranges move alike. Returns `network`.
    """
    bits = min(q.bits for q in activation_quantisers(network).values())
    learn = partial(
        reconstruct_activations,
        network,
        teacher,
        generator=generator,
        lr=lr * 2 ** (8 - bits),
        batch=batch,
    )
    tables = {
        q: grid
        for q in activation_quantisers(network).values()
        if isinstance(grid := q.grids[q.bits], GridTable)
    }
    if not tables:
        with plain_weights(quantised_layers(network).values()):
            learn(data, iterations)
        return network
    entries = entries_of(data)
    for entry, index in enumerate(entries):
        for quantiser, table in tables.items():
            quantiser.grids[quantiser.bits] = table.grids[entry]
        part = CalibrationSet(data.x[index], data.t[index])
        with plain_weights(quantised_layers(network).values()):
            learn(part, max(1, iterations // len(entries)))
        for quantiser, table in tables.items():
            table.grids[entry] = integer_grid(quantiser.grids[quantiser.bits])
    for quantiser, table in tables.items():
        quantiser.grids[quantiser.bits] = table
    return network


# PTQ-D ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correction:
    """Statistics of the error of ε at the labels t (S,).

    gain: k_t (S,). bias: b_t (S, C). deviation: s_t (S,), the mean over samples of their standard
    deviations.
    """

    t: Tensor
    gain: Tensor
    bias: Tensor
    deviation: Tensor


def error_statistics(eps: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k, b (C,) and s of one step from ε and its error, both (N, C, H, W)."""
    x, e = eps.flatten().double(), error.flatten().double()
    spread = (x - x.mean()).square().mean()
    slope = ((x - x.mean()) * (e - e.mean())).mean() / spread
    gain = slope.clamp(min=0).to(eps.dtype)
    left = (error - gain * eps).flatten(1).std(1).mean()
    return gain, error.mean((0, 2, 3)), left


@torch.no_grad()
def correction(network: nn.Module, run: Trajectory) -> Correction:
    """The statistics of a quantised network on a full-precision trajectory, step by step."""
    found = [
        error_statistics(eps, network(x, t.expand(len(x))) - eps)
        for x, t, eps in zip(run.x, run.t, run.eps, strict=True)
    ]
    gain, bias, left = (torch.stack(values) for values in zip(*found, strict=True))
    return Correction(run.t, gain, bias, left)


class Corrected(nn.Module):
    """(x, t) -> ε̂. Raises ReproError at a label without statistics."""

    def __init__(self, network: nn.Module, found: Correction):
        super().__init__()
        self.network, self.found = network, found
        self.places = {int(t): i for i, t in enumerate(found.t)}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        label = int(t.flatten()[0])
        if label not in self.places:
            raise ReproError(f"no error was collected at step {label}; collect on all of them")
        i = self.places[label]
        bias, gain = self.found.bias[i, :, None, None], self.found.gain[i]
        return (self.network(x, t) - bias) / (1 + gain)


def absorbed_sigma(
    sigma: float, alpha: float, alpha_prev: float, deviation: float, gain: float
) -> float:
    """σ' of a DDIM step from ᾱ to ᾱ' whose noise holds what quantisation adds."""
    direct = math.sqrt(1 - alpha_prev - sigma**2) - math.sqrt(alpha_prev * (1 - alpha) / alpha)
    left = sigma**2 - (direct * deviation / (1 + gain)) ** 2
    return math.sqrt(max(left, 0.0))


# EfficientDM ----------------------------------------------------------------------------------

RANK = 32
LOW_RANK_SHARE = 1 / 2500
"""Rate of A and B over the mean step of the layer's weights."""
WEIGHT_STEP_LR = 1e-6
ACTIVATION_LR = 5e-4
FIRST_SAMPLES = 32


class LowRank(nn.Module):
    """Parametrisation of a weight (C_out, C_in, ...): w + B A, B A of rank `rank`.

    A (rank, C_in, ...) is drawn uniformly within ±1/√(fan-in), B (C_out, rank) starts at 0.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        inputs = weight[0].numel()
        a = torch.rand(rank, inputs, generator=generator) * 2 - 1
        self.a = nn.Parameter((a / math.sqrt(inputs)).to(weight))
        self.b = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).reshape(weight.shape)


@torch.no_grad()
def naive(
    network: nn.Module, data: CalibrationSet, weight_bits: int, activation_bits: int,
    generator: torch.Generator,
) -> nn.Module:  # fmt: skip
    """What EfficientDM starts from: weights to nearest between their extremes, one grid for each
    activation found by search on `FIRST_SAMPLES` random states.

    Layers, products of attention and widths are those of the other methods here; the released code
    leaves shortcuts, resampling and products of attention in floats.
    """
    copy = quantise(network, rounded.recipe(network, weight_bits, activation_bits, scale="mse"))
    for name in set(EDGES) & set(quantised_layers(copy)):
        layer = quantised_layers(copy)[name]
        for i in range(len(layer.activations)):
            observer = rounded.first_batch("mse")((EDGE_BITS,))
            layer.activations[i] = ActivationQuantiser(observer, (EDGE_BITS,), pinned=True)
    some = torch.randperm(len(data), generator=generator)[:FIRST_SAMPLES]
    return calibrate(copy, [(data.x[some], data.t[some])], in_turn=True)


class LowRankTraining:
    """EfficientDM on a network that `naive` made, in place; `step` is one step of AdamW.

    labels: (S,) of the steps of sampling, falling. iterations: those over which rates fall to 0.
    rate: times all rates. The first and the last layer stay as they are, as released.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Tensor,
        iterations: int,
        *,
        generator: torch.Generator,
        rank: int = RANK,
        rate: float = 1.0,
    ):
        self.network, self.clock = network, Clock(labels)
        network.register_forward_pre_hook(self.clock.before)
        network.requires_grad_(False)
        self.layers = {n: m for n, m in quantised_layers(network).items() if n not in EDGES}
        self.quantisers = [
            q for n, q in activation_quantisers(network).items() if n.partition(".")[0] not in EDGES
        ]
        groups = [self._low_rank(m, rank, generator, rate) for m in self.layers.values()]
        steps = [p for m in self.layers.values() for p in _free_weight_steps(m)]
        self.tables = [
            LearnedTable(integer_grid(q.grids[q.bits]), self.clock) for q in self.quantisers
        ]
        for quantiser, table in zip(self.quantisers, self.tables, strict=True):
            quantiser.grids[quantiser.bits] = table
        self.positive = steps + [table.deltas for table in self.tables]
        tables = [leaf for table in self.tables for leaf in (table.deltas, table.zero_points)]
        groups.append({"params": steps, "lr": rate * WEIGHT_STEP_LR})
        groups.append({"params": tables, "lr": rate * ACTIVATION_LR})
        self.optimiser = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda k: max(0.0, 1 - k / iterations)
        )

    def _low_rank(
        self, layer: QuantisedLayer, rank: int, generator: torch.Generator, rate: float
    ) -> dict[str, object]:
        with torch.no_grad():
            value = layer.weight.detach().clone()
        layer.layer.weight = nn.Parameter(value, requires_grad=False)
        update = LowRank(value, rank, generator)
        parametrize.register_parametrization(layer.layer, "weight", update)
        layer.refresh()
        steps = torch.cat([integer_grid(grid).delta.flatten() for grid in layer.weight_grids])
        lr = rate * LOW_RANK_SHARE * float(steps.mean())
        return {"params": [update.a, update.b], "lr": lr}

    def step(self, x: Tensor, t: Tensor, eps: Tensor) -> float:
        """One step on states of one sampling step; the loss is a sum, as released."""
        with torch.enable_grad():
            loss = (self.network(x, t) - eps).square().sum()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        self.optimiser.step()
        self.schedule.step()
        with torch.no_grad():
            for step in self.positive:
                step.clamp_(min=SMALLEST_STEP)
        return float(loss.detach())

    @torch.no_grad()
    def finish(self) -> nn.Module:
        """Merges the updates and fixes all grids; returns the network."""
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer.layer, "weight")
            layer.weight_grids = [_fixed(integer_grid(grid)) for grid in layer.weight_grids]
            layer.refresh()
        for quantiser, table in zip(self.quantisers, self.tables, strict=True):
            quantiser.grids[quantiser.bits] = table.fixed()
        return self.network.requires_grad_(False)


def _fixed(grid: Grid) -> Grid:
    """A copy without gradients, nor what a grid keeps of its zero-point."""
    return Grid(grid.delta.detach().clone(), grid.zero_point.detach().clone(), grid.lo, grid.hi)


def _free_weight_steps(layer: QuantisedLayer) -> list[Tensor]:
    grids = [_fixed(integer_grid(grid)) for grid in layer.weight_grids]
    layer.weight_grids = [*grids]
    return [grid.delta.requires_grad_(True) for grid in grids]


class LearnedTable:
    """A grid table whose steps and zero-points are two vectors (S,), each learned as a whole.

    As released, so that an entry goes on with its momentum, and decays, while others are in use; a
    zero-point is a real number once it was trained. Behaves like the `Grid` of the clock's entry.
    """

    def __init__(self, grid: Grid, clock: Clock):
        self.clock, self.lo, self.hi = clock, grid.lo, grid.hi
        entries = len(clock.labels)
        self.deltas = grid.delta.detach().repeat(entries).requires_grad_(True)
        self.zero_points = grid.zero_point.detach().repeat(entries).requires_grad_(True)

    def entry(self, i: int) -> Grid:
        return Grid(self.deltas[i], self.zero_points[i], self.lo, self.hi)

    @property
    def delta(self) -> Tensor:
        return self.deltas

    def __call__(self, x: Tensor) -> Tensor:
        return self.entry(self.clock.entry)(x)

    def apply_(self, x: Tensor) -> Tensor:
        return self.entry(self.clock.entry).apply_(x)

    def fixed(self) -> GridTable:
        """The same as a table without gradients."""
        return GridTable([_fixed(self.entry(i)) for i in range(len(self.deltas))], self.clock)


def efficient_dm(
    network: nn.Module,
    runs: Iterator[Trajectory],
    iterations: int,
    *,
    generator: torch.Generator,
    rate: float = 1.0,
) -> nn.Module:
    """EfficientDM: a step of training for every step of sampling, run after run; in place.

    runs: full-precision trajectories from fresh noises, as many chains as a batch has.
    """
    run = next(runs)
    training = LowRankTraining(network, run.t, iterations, generator=generator, rate=rate)
    for k in range(iterations):
        i = k % len(run.t)
        if k and not i:
            run = next(runs)
        training.step(run.x[i], run.t[i].expand(run.x.shape[1]), run.eps[i])
    return training.finish()
