r"""QuEST (Wang et al., ICCV 2025, 2402.03666): fine-tune a few weights of a quantised network.

Activations get their grids first: a range between percentiles, or symmetric to the largest value
(`RangeRule`), for each calibration step of sampling apart (`tables`) and for each channel apart
(`channels`) or not. Then, with the
full-precision network as teacher and O, Õ the outputs of teacher and student,

    L_TLA = Σ_l E ‖O_l - Õ_l‖²    l: projections of the time embedding
    L_CMA = Σ_l E ‖O_l - Õ_l‖²    l: projections of attention
    L_G   = E ‖ε - ε̃‖²            output of the network

first TLA with L_G, then CMA with L_G. A stage tunes the weights of its layers and activation steps
δ; every other tensor stays as it is, bit for bit, and so do the roundings, steps and zero-points of
all weights. A tuned weight is

    ŵ = (clamp(floor(w/δ) + 1[α ≥ 0] + z, 0, 2^n - 1) - z) δ,    ∂ floor(u)/∂u := 1

Two configurations: `PAPER` (one table, losses 1, 1 and 2) and `RELEASED` (a table for each step,
channels apart at 4 bits, L_G weighed by the number of hooked layers, no layer term in CMA, and for
every calibration step that is visited a fresh optimiser of its activation steps).

Layers are called as in `repro.nets.unet`: `temb_proj` is what `emb_layers` is in latent diffusion,
and `q`, `k`, `v` of an attention block are what its `qkv` is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.quant import rounded
from repro.quant.affine import SMALLEST_STEP, Grid
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import (
    ActivationQuantiser,
    Observer,
    QuantisedLayer,
    activation_quantisers,
    calibrate,
    quantise,
    quantised_layers,
)
from repro.quant.ranges import RunningRange, minmax_grid
from repro.quant.reconstruction import capture, set_rounding
from repro.quant.search import Sampled, dimension_grid, percentile_grid, released_edge_grid

EDGES = ("conv_in", "conv_out")
EDGE_BITS = 8
KEPT = 1 << 14

# Activation grids ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Granularity:
    """What has activation grids of its own: each channel, each calibration step; or neither."""

    channels: bool
    tables: bool


class Clock:
    """The entry of every table that is in use; set by the label of each call of the network.

    labels: (T_c,) of the calibration steps in the order of sampling, so falling. A sampling step
    uses the entry of the last calibration step reached: with S steps, entries change at every
    (S/T_c)-th.
    """

    def __init__(self, labels: Tensor):
        self.labels, self.entry = labels.cpu(), 0

    def look_up(self, label: float) -> int:
        """The entry of a time label."""
        return max(int((self.labels >= label).sum()) - 1, 0)

    def before(self, network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Hook: sets the entry. Raises ReproError where a batch mixes entries."""
        labels = arguments[1].reshape(-1)
        first, last = self.look_up(float(labels.min())), self.look_up(float(labels.max()))
        if first != last:
            raise ReproError(
                "a batch mixes time steps that have activation grids of their own; call the "
                "network with one step at a time"
            )
        self.entry = first


Stage = Literal["tla", "cma"]


class GridTable:
    """Grids by calibration step; behaves like the `Grid` of the clock's entry."""

    def __init__(self, grids: Sequence[Grid], clock: Clock):
        self.grids, self.clock = list(grids), clock

    @property
    def now(self) -> Grid:
        return self.grids[self.clock.entry]

    @property
    def delta(self) -> Tensor:
        return self.now.delta

    def __call__(self, x: Tensor) -> Tensor:
        return self.now(x)

    def apply_(self, x: Tensor) -> Tensor:
        return self.now.apply_(x)


def integer_grid(grid: object) -> Grid:
    """A grid of integers: this method has no other."""
    assert isinstance(grid, Grid)
    return grid


@dataclass(frozen=True)
class RangeRule:
    """How the range of an activation is found.

    symmetric: δ = max|x|/(2^(n-1) - 1) with signed codes, else percentiles with unsigned ones.
    running: both extremes averaged over batches, m <- 0.95 m + 0.05 min(x); for grids of whole
    tensors alone, since the released update per channel starts from the extremes of the last one
    and forgets that codes are symmetric (δ = (max - min)/6 at 4 bits; README leaves it out there).
    """

    symmetric: bool = False
    running: bool = False


PERCENTILES = RangeRule()
"""Released commands for LSUN-Church."""
SYMMETRIC = RangeRule(symmetric=True)
"""Released commands for LSUN-Bedroom and ImageNet at W4A4."""
RUNNING = RangeRule(symmetric=True, running=True)
"""The same at 8-bit activations."""

BATCHES = 4
"""Batches of a calibration step that running extremes see; 256 samples in batches of 64."""
FIRST = 64
"""Samples of a calibration step that ranges are found on otherwise."""


def edge_grid(x: Tensor, dim: int | None) -> Grid:
    """Symmetric grid of the first and last convolution: δ = max|x|/256, codes -257 .. 256.

    dim: steps for each index of this dimension, or None. Source: released code, which sets 256
    levels of a symmetric quantiser too.
    """
    if dim is None:
        return released_edge_grid(x)
    others = [i for i in range(x.ndim) if i != dim % x.ndim]
    delta = (x.abs().amax(others, keepdim=True) / 256).clamp(min=SMALLEST_STEP)
    return Grid(delta, torch.zeros_like(delta), -257, 256)


class RunningEdge(RunningRange):
    """Running extremes for `edge_grid`."""

    def grid(self, bits: int) -> Grid:
        if self.low is None or self.high is None:
            raise ReproError("a running range has seen no batch; call update() before grid()")
        return edge_grid(torch.stack([self.low, self.high]), None)


Role = Literal["layer", "edge", "softmax"]


def _observer(rule: RangeRule, role: Role, bits: int, dim: int | None, kept: int) -> Observer:
    """A fresh observer of one tensor. kept: values that percentiles are found on."""
    if not rule.symmetric:
        return Sampled(percentile_grid, kept, dim)
    from_zero = role == "softmax"
    if rule.running:
        if dim is not None:
            raise ReproError("running extremes are of whole tensors; ask for no grids per channel")
        if role == "edge":
            return RunningEdge()
        return RunningRange(symmetric=not from_zero, always_zero=from_zero)
    if role == "edge":
        return rounded.FirstBatch((bits,), lambda x, _: edge_grid(x, dim))
    if from_zero:
        return rounded.first_batch(always_zero=True)((bits,))
    if dim is None:
        return rounded.first_batch()((bits,))
    return rounded.FirstBatch(
        (bits,), lambda x, n: integer_grid(dimension_grid(x, n, minmax_grid, dim, symmetric=True))
    )


class Ranges:
    """Observer: a range for each entry of the clock, or a single one.

    fresh: makes the observer of one range.
    """

    def __init__(self, clock: Clock, tables: bool, fresh: Callable[[], Observer]):
        self.clock, self.tables, self.fresh = clock, tables, fresh
        self.seen: dict[int, Observer] = {}
        self.fixed: dict[int, Grid] = {}

    def update(self, x: Tensor) -> None:
        entry = self.clock.entry if self.tables else 0
        if entry not in self.seen:
            self.seen[entry] = self.fresh()
        self.seen[entry].update(x)
        self.fixed.pop(entry, None)

    def grid(self, bits: int) -> Grid | GridTable:
        """The grids observed so far; entries that are not have that of the clock's."""
        for entry in set(self.seen) - set(self.fixed):
            self.fixed[entry] = integer_grid(self.seen[entry].grid(bits))
        if not self.tables:
            return self.fixed[0]
        current = self.fixed[self.clock.entry]
        entries = range(len(self.clock.labels))
        return GridTable([self.fixed.get(entry, current) for entry in entries], self.clock)


def labels_of(data: CalibrationSet) -> Tensor:
    """Labels of the calibration steps (T_c,) in the order of sampling."""
    return torch.unique(data.t).flip(0)


def entries_of(data: CalibrationSet) -> list[Tensor]:
    """Indices of the samples of each calibration step, in the order of sampling."""
    return [torch.nonzero(data.t == label).flatten() for label in labels_of(data)]


def calibration_batches(
    data: CalibrationSet, tables: bool, running: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """What ranges are found on, in the order of sampling: of each calibration step its first
    samples, or all of them in batches (`running`); without tables, samples of all steps.
    """
    pools = entries_of(data) if tables else [torch.arange(len(data))]
    for pool in pools:
        if not running:
            limit = FIRST if tables else FIRST * BATCHES
            pool = pool[:: -(-len(pool) // limit)]
        parts = min(BATCHES, len(pool)) if running else 1
        for part in range(parts):
            index = pool[part::parts]
            yield data.x[index], data.t[index]


def quantised(
    network: nn.Module,
    data: CalibrationSet,
    weight_bits: int,
    activation_bits: int,
    granularity: Granularity,
    state: Mapping[str, Tensor] | None = None,
    ranges: RangeRule = PERCENTILES,
) -> nn.Module:
    """A calibrated copy, weights rounded to nearest or as `state` says (`repro.quant.rounded`).

    All layers and both products of attention are quantised, shortcuts in two parts. Inputs of the
    first and of the last convolution, and the softmax matrix, have 8 bits; weights have
    `weight_bits` everywhere. Convolution inputs have their channels in dimension 1, inputs of
    linear layers and of attention in the last; the 8-bit softmax matrix has none. Grids are found
    in turn, each on what those before it make of its tensor, as released.
    """
    copy = quantise(network, rounded.recipe(network, weight_bits, activation_bits))
    if state is not None:
        rounded.install(copy, state)
    clock = Clock(labels_of(data))
    if granularity.tables:
        copy.register_forward_pre_hook(clock.before)
    kept = KEPT if granularity.tables else KEPT * len(clock.labels)

    def observer(role: Role, bits: int, dim: int) -> Ranges:
        own = dim if granularity.channels and role != "softmax" else None
        fresh = partial(_observer, ranges, role, bits, own, kept)
        return Ranges(clock, granularity.tables, fresh)

    for name, layer in quantised_layers(copy).items():
        wide = name in EDGES
        bits = EDGE_BITS if wide else activation_bits
        dim = -1 if isinstance(layer.layer, nn.Linear) else 1
        for i in range(len(layer.activations)):
            seen = observer("edge" if wide else "layer", bits, dim)
            layer.activations[i] = ActivationQuantiser(seen, (bits,), pinned=wide)
    for name, quantiser in activation_quantisers(copy).items():
        if "quantised_attend" in name:
            role: Role = "softmax" if name.endswith(".w") else "layer"
            quantiser.observer = observer(role, quantiser.bits, -1)
    batches = calibration_batches(data, granularity.tables, ranges.running)
    return calibrate(copy, batches, in_turn=True)


@contextmanager
def plain_weights(layers: Iterable[QuantisedLayer]) -> Iterator[None]:
    """Inside, layers compute with the values of their quantised weights, kept as plain tensors,
    which saves quantising them at every step; afterwards they are as before.
    """
    kept = [(layer, layer.layer.weight, layer.weight_on) for layer in layers]
    with torch.no_grad():
        for layer, _, _ in kept:
            value = layer.weight.detach()
            layer.layer.weight, layer.weight_on = nn.Parameter(value, False), False
    try:
        yield
    finally:
        for layer, weight, on in kept:
            layer.layer.weight, layer.weight_on = weight, on


# Fine-tuning --------------------------------------------------------------------------------------

TLA = r"\btemb_proj$"
CMA = r"\battn\w*\.(\w+\.)?[qkv]$"


@dataclass(frozen=True)
class Losses:
    """Weights of the layer term and of L_G; `overall` None: the number of hooked layers."""

    local: float
    overall: float | None


@dataclass(frozen=True)
class Configuration:
    """How both stages are run.

    weights: which layers' weights are tuned, those of the stage or all; activation steps are those
    of the stage. mixed: batches of all steps at random, which needs a single table, and one
    optimiser; else step after step, each with an optimiser of its activation steps of its own, as
    released. lr, tla_step_lr, cma_step_lr: Adam's rates of weights and of activation steps.
    """

    tla: Losses
    cma: Losses
    weights: Literal["stage", "all"] = "stage"
    mixed: bool = False
    lr: float = 1e-5
    tla_step_lr: float = 1e-5
    cma_step_lr: float = 1e-4


PAPER = Configuration(Losses(1, 2), Losses(1, 2), mixed=True, tla_step_lr=1e-4)
RELEASED = Configuration(Losses(1, None), Losses(0, None))
GLOBAL_ONLY = Configuration(Losses(0, 1), Losses(0, 1))
LOCAL_ONLY = Configuration(Losses(1, 0), Losses(1, 0))
FULL = Configuration(Losses(1, None), Losses(0, None), weights="all")


def matching(network: nn.Module, pattern: str) -> list[str]:
    """Names of convolutions and linear layers, quantised or not, that match a pattern."""
    names = [
        name.removesuffix(".layer")
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d | nn.Conv1d | nn.Linear)
    ]
    return [name for name in names if re.search(pattern, name)]


@dataclass(frozen=True)
class Lesson:
    """What the teacher says to a calibration set: ε, and the outputs of layers by name."""

    data: CalibrationSet
    eps: Tensor
    layers: dict[str, Tensor]


@torch.no_grad()
def lesson(teacher: nn.Module, data: CalibrationSet, batch: int = 64) -> Lesson:
    """One pass of the teacher over the calibration set."""
    names = matching(teacher, TLA) + matching(teacher, CMA)
    if not names:
        raise ReproError("this network has neither projections of time nor attention to tune")
    found = capture(teacher, names, data, record="output", batch=batch)
    eps = torch.cat([teacher(x, t) for x, t in data.batches(batch)])
    outputs = {name: c.output for name, c in found.items() if c.output is not None}
    return Lesson(data, eps, outputs)


class Tuner:
    """One stage of fine-tuning of a network that `quantised` made; use it as a context manager.

    stage: "tla" or "cma". rate: times the rates of the configuration. Weights have one optimiser
    for the whole stage; activation steps have one from `visit` to `visit`. Inside the context,
    weights that are not tuned are plain tensors, which saves their quantisation at every step; they
    come back untouched at its end.
    """

    def __init__(
        self,
        network: nn.Module,
        lesson: Lesson,
        state: Mapping[str, Tensor],
        stage: Stage,
        configuration: Configuration,
        *,
        rate: float = 1.0,
    ):
        self.network, self.lesson = network, lesson
        losses = getattr(configuration, stage)
        self.hooked = matching(network, _PATTERNS[stage])
        self.local = losses.local
        self.overall = len(self.hooked) if losses.overall is None else losses.overall
        layers = quantised_layers(network)
        everything = configuration.weights == "all"
        self.tuned = {n: layers[n] for n in (layers if everything else self.hooked)}
        self.frozen = {n: layer for n, layer in layers.items() if n not in self.tuned}
        for name, layer in self.tuned.items():
            set_rounding(layer, _directions(state, name, layer), "fixed")
        self.weights = [p for layer in self.tuned.values() for p in layer.layer.parameters()]
        self.tables = [
            _learnable(quantiser)
            for name, quantiser in activation_quantisers(network).items()
            if _has_steps(name, stage, self.hooked)
        ]
        self.steps = [step for table in self.tables for step in table]
        self.step_lr = rate * getattr(configuration, f"{stage}_step_lr")
        self.weight_optimiser = torch.optim.Adam(self.weights, lr=rate * configuration.lr)
        self.visit()
        self.outputs: dict[str, Tensor] = {}

    def __enter__(self) -> Tuner:
        self._plain = plain_weights(self.frozen.values())
        self._plain.__enter__()
        self._grad = {p: p.requires_grad for p in self.network.parameters()}
        for p in self._grad:
            p.requires_grad_(False)
        for leaf in self.weights + self.steps:
            leaf.requires_grad_(True)
        self._hooks = [
            self.network.get_submodule(name).register_forward_hook(
                lambda m, i, out, name=name: self.outputs.__setitem__(name, out)
            )
            for name in self.hooked
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self.outputs.clear()
        for p, wanted in self._grad.items():
            p.requires_grad_(wanted)
        for step in self.steps:
            step.requires_grad_(False)
        self._plain.__exit__(None, None, None)

    def visit(self, entry: int | None = None) -> None:
        """A fresh optimiser of the activation steps, those of an entry of the tables or all."""
        tables = self.tables
        self.now = (
            self.steps
            if entry is None
            else [table[entry] if len(table) > 1 else table[0] for table in tables]
        )
        self.step_optimiser = torch.optim.Adam(self.now, lr=self.step_lr)

    def step(self, index: Tensor) -> float:
        """One step of Adam on samples `index` of the lesson; returns the loss."""
        data = self.lesson.data
        with torch.enable_grad():
            eps = self.network(data.x[index], data.t[index])
            loss = self.overall * (eps - self.lesson.eps[index]).square().mean()
            if self.local:
                loss = loss + self.local * sum(
                    (self.outputs[name] - self.lesson.layers[name][index]).square().mean()
                    for name in self.hooked
                )
            self.weight_optimiser.zero_grad(set_to_none=True)
            self.step_optimiser.zero_grad(set_to_none=True)
            loss.backward()
        self.weight_optimiser.step()
        self.step_optimiser.step()
        with torch.no_grad():
            for step in self.now:
                step.clamp_(min=SMALLEST_STEP)
        return float(loss.detach())


_PATTERNS = {"tla": TLA, "cma": CMA}


def _has_steps(quantiser: str, stage: str, hooked: Sequence[str]) -> bool:
    """Whether a stage tunes the steps of a quantiser: its own, or all but those of embeddings."""
    if stage == "tla":
        return any(quantiser.startswith(f"{name}.") for name in hooked)
    return "emb" not in quantiser


def _learnable(quantiser: ActivationQuantiser) -> list[Tensor]:
    """Gives a quantiser in use steps of its own that can be learned, and returns them."""

    def fresh(grid: Grid) -> Grid:
        return Grid(grid.delta.detach().clone(), grid.zero_point, grid.lo, grid.hi)

    grid = quantiser.grids[quantiser.bits]
    if isinstance(grid, GridTable):
        grid.grids = [fresh(g) for g in grid.grids]
        return [g.delta for g in grid.grids]
    quantiser.grids[quantiser.bits] = single = fresh(integer_grid(grid))
    return [single.delta]


def _directions(state: Mapping[str, Tensor], name: str, layer: QuantisedLayer) -> list[Tensor]:
    ups = [state[f"{name}.{i}.alpha"] for i in range(len(layer.parts))]
    return [up.to(layer.layer.weight) * 2 - 1 for up in ups]


def visits(
    data: CalibrationSet,
    iterations: int,
    batch: int,
    passes: int,
    generator: torch.Generator,
    mixed: bool = False,
) -> Iterator[tuple[int | None, list[Tensor]]]:
    """Calibration steps in the order of tuning, each with the samples of its iterations.

    `passes` over the steps in the order of sampling; at each visit its samples are drawn anew and
    taken batch after batch, over and over. mixed: a single visit, None, to random samples of all.
    """
    entries = entries_of(data)
    total = 1 if mixed else passes * len(entries)
    for k in range(total):
        entry = None if mixed else k % len(entries)
        pool = torch.arange(len(data)) if entry is None else entries[entry]
        count = iterations * (k + 1) // total - iterations * k // total
        if count:
            yield entry, _batches(pool, count, batch, generator)


def _batches(pool: Tensor, count: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    order = pool[torch.randperm(len(pool), generator=generator)]
    return [order.roll(-k * batch)[:batch] for k in range(count)]


def tune(
    network: nn.Module,
    lesson: Lesson,
    state: Mapping[str, Tensor],
    stage: Stage,
    configuration: Configuration,
    iterations: int,
    *,
    batch: int,
    passes: int,
    generator: torch.Generator,
    rate: float = 1.0,
) -> list[float]:
    """Run one stage, in place; returns the loss of every iteration.

    state: the roundings of the weights, which stay. passes: of the second stage over the
    calibration steps; the first stage visits each once. rate: see `Tuner`.
    """
    passes = 1 if stage == "tla" else passes
    losses = []
    with Tuner(network, lesson, state, stage, configuration, rate=rate) as tuner:
        order = visits(lesson.data, iterations, batch, passes, generator, configuration.mixed)
        for entry, indices in order:
            tuner.visit(entry)
            losses += [tuner.step(index) for index in indices]
    return losses


# Looking at a network -----------------------------------------------------------------------------


@contextmanager
def watching(
    network: nn.Module, names: Sequence[str], see: Callable[[str, Tensor, Tensor], object]
) -> Iterator[None]:
    """Calls `see(name, inputs, output)` at every run of the named submodules."""
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda m, inputs, output, name=name: see(name, inputs[0], output)
        )
        for name in names
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def input_ranges(network: nn.Module, data: CalibrationSet) -> dict[str, tuple[float, float, float]]:
    """(smallest, largest, standard deviation) of what enters each layer, before it is quantised."""
    sums: dict[str, list[float]] = {}

    def see(name: str, x: Tensor, _: Tensor) -> None:
        low, high, n, first, second = sums.get(name, [float("inf"), float("-inf"), 0.0, 0.0, 0.0])
        x = x.double()
        sums[name] = [
            min(low, float(x.min())), max(high, float(x.max())), n + x.numel(),
            first + float(x.sum()), second + float(x.square().sum()),
        ]  # fmt: skip

    with watching(network, list(quantised_layers(network)), see):
        for index in entries_of(data):
            network(data.x[index], data.t[index])
    return {
        name: (low, high, max(second / n - (first / n) ** 2, 0.0) ** 0.5)
        for name, (low, high, n, first, second) in sums.items()
    }


@torch.no_grad()
def embedding_error(network: nn.Module, teacher: nn.Module, x: Tensor, t: Tensor) -> float:
    """Mean over the projections of the time embedding of ‖Õ - O‖²/‖O‖², over times t (S,).

    x: (S, ...), any states, one for each time.
    """
    names = matching(teacher, TLA)
    seen: dict[str, list[Tensor]] = {}
    for model in (teacher, network):
        with watching(model, names, lambda name, _, out: seen.setdefault(name, []).append(out)):
            for state, label in zip(x, t, strict=True):
                model(state[None], label[None])
    errors = []
    for outputs in seen.values():
        mine = torch.cat(outputs[len(t) :])
        target = torch.cat(outputs[: len(t)])
        errors.append((mine - target).square().sum() / target.square().sum())
    return float(torch.stack(errors).mean())


def without_time(network: nn.Module) -> nn.Module:
    """The same network with everything that carries the time embedding in floating point."""
    for name, layer in quantised_layers(network).items():
        if "temb" in name:
            layer.weight_on = False
            for quantiser in activation_quantisers(layer).values():
                quantiser.mode = "off"
    return network


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a quantised network computes from: parameters, and all grids."""
    found = {name: p.detach() for name, p in network.named_parameters()}
    for name, layer in quantised_layers(network).items():
        for i, grid in enumerate(map(integer_grid, layer.weight_grids)):
            found[f"{name}.weight_grid.{i}.delta"] = grid.delta
            found[f"{name}.weight_grid.{i}.zero_point"] = grid.zero_point
    for name, quantiser in activation_quantisers(network).items():
        used = quantiser.grids[quantiser.bits]
        grids = used.grids if isinstance(used, GridTable) else [integer_grid(used)]
        for i, entry in enumerate(grids):
            found[f"{name}.{i}.delta"] = entry.delta
            found[f"{name}.{i}.zero_point"] = entry.zero_point
    return {name: value.clone() for name, value in found.items()}
