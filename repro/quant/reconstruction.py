"""Learning roundings and steps one unit of a network after another, against the original network.

A unit is a block (residual, attention) or a layer outside of one. With X its inputs and Y = f(X)
its outputs in full precision, both recorded over a calibration set,

    weights      min over α  E ‖f̂(X; α) - Y‖² + λ Σ (1 - |2h(α) - 1|^β)     then h = 1[α ≥ 0]
    activations  min over δ  E ‖f̂(X; δ) - Y‖_2.4^2.4

where ‖.‖ sums over dimension 1 and E averages over samples and all other dimensions. Weights see
the inputs that the network quantised so far produces, activations those of the original.

Units are visited in the order in which they are registered, not run, as in the released code.

A rounding is learned when h(α) has reached 0 or 1. One that is still between is decided by the cut
1[α ≥ 0], which no loss has seen, so learning can go on `until` few are left, and what
was left, with the loss before and after the cut, is told for every layer and unit.

Source: "Q-Diffusion: Quantizing Diffusion Models", Li et al., ICCV 2023 (arXiv 2302.04304), section
3.2 and released code, after BRECQ (Li et al., ICLR 2021) and AdaRound (Nagel et al., ICML 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.nets import ldm, unet
from repro.quant.affine import SMALLEST_STEP, Grid
from repro.quant.calibration import CalibrationSet
from repro.quant.floating import AnyGrid, FloatGrid, scaled, step_of
from repro.quant.layers import (
    ActivationQuantiser,
    QuantisedLayer,
    activation_quantisers,
    quantised_layers,
    use,
)
from repro.quant.rounding import (
    abs_power,
    annealed_beta,
    fixed_rounding,
    hard_rounding,
    initial_alpha,
    rectified_sigmoid,
    undecided,
    undecided_share,
)

BLOCKS: tuple[type[nn.Module], ...] = (
    unet.ResidualBlock,
    unet.AttentionBlock,
    ldm.ResBlock,
    ldm.AttentionBlock,
    ldm.TransformerBlock,
)
"""What is learned as a whole: the blocks of DDPM's U-Net and those of latent diffusion."""
LAYERS = (QuantisedLayer, nn.Conv2d, nn.Conv1d, nn.Linear)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Alphas = dict[str, list[Tensor]]
Progress = Callable[["UnitReport", int, int], None]
"""Called after each unit with its report, the number of units done and the number of units."""


@dataclass(frozen=True)
class Outcome:
    """How learning the roundings of a unit ended.

    iterations: those that were run. soft, hard: mean of ‖f̂(X) - Y‖² over the calibration set with
    h(α) as it was at the end, and after the cut 1[α ≥ 0]. undecided: share of the roundings of
    each layer (by its name in the unit) that were still between. weights: their number.
    """

    iterations: int
    soft: float
    hard: float
    undecided: dict[str, float]
    weights: dict[str, int]


@dataclass(frozen=True)
class UnitReport:
    """Mean of ‖f̂(X) - Y‖^p over the calibration set before and after a unit was learned.

    For roundings also what `Outcome` holds; layers by their names in the network. The loss jumps
    from `soft` to `after` where roundings are cut.
    """

    name: str
    before: float
    after: float
    soft: float | None = None
    iterations: int | None = None
    undecided: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)


class RoundingOptions(TypedDict, total=False):
    """Options of `learn_rounding`."""

    batch: int
    lr: float
    weight: float
    beta: tuple[float, float]
    warmup: float
    scale_aware: bool
    faithful: bool
    until: float | None


class StepOptions(TypedDict, total=False):
    """Options of `learn_steps` beside those that `reconstruct_activations` has itself."""

    batch: int
    lr: float
    faithful: bool


# Units and what they see --------------------------------------------------------------------------


def units(network: nn.Module, blocks: tuple[type[nn.Module], ...] = BLOCKS) -> dict[str, nn.Module]:
    """Blocks, and layers outside of them, by name and in registration order; none without weights.

    The network may be quantised or not: both give the same names. `blocks`: module types that are
    learned as a whole; an empty tuple gives layers only. Attention of an unconditional latent
    network is one unit, as in the released weight-only command; with activations on, the released
    code takes its two layers and its two products apart. Raises ReproError for a network that is
    made of blocks of which none is known, rather than learning it layer by layer unasked.
    """
    found: dict[str, nn.Module] = {}

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(child, blocks + LAYERS):
                if next(child.parameters(), None) is not None:
                    found[path] = child
            else:
                walk(child, f"{path}.")

    walk(network, "")
    if blocks and not any(isinstance(unit, blocks) for unit in found.values()):
        _refuse_unknown_blocks(network)
    return found


def _refuse_unknown_blocks(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if name and not isinstance(module, CONTAINERS + LAYERS):
            if sum(isinstance(inner, LAYERS) for inner in module.children()) > 1:
                raise ReproError(
                    f"no block type is known for {type(network).__name__}, whose {name} is a "
                    f"{type(module).__name__}; give its block types, or blocks=() for layer by "
                    "layer"
                )


@torch.no_grad()
def unit_costs(
    network: nn.Module,
    names: Sequence[str],
    calibration: CalibrationSet | Sequence[Tensor],
) -> dict[str, int]:
    """Multiply-accumulates of one sample in the layers of every unit in `names`.

    network: with or without quantisation. calibration: its arguments, of which one sample is run.
    """
    costs = dict.fromkeys(names, 0)
    owner = {
        f"{name}.{inner}".rstrip("."): name
        for name in names
        for inner, module in network.get_submodule(name).named_modules()
        if isinstance(module, LAYERS)
    }

    def hook(name: str) -> Callable[..., None]:
        def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight = module.layer.weight if isinstance(module, QuantisedLayer) else module.weight
            costs[owner[name]] += weight.numel() * output.numel() // len(weight)

        return count

    # A quantised layer calls no submodule, so that nothing is counted twice.
    handles = [network.get_submodule(n).register_forward_hook(hook(n)) for n in owner]
    try:
        network(*(a[:1] for a in _arguments(calibration)))
    finally:
        for handle in handles:
            handle.remove()
    return costs


SHARE_OF_CHEAP = 0.5


def iterations_by_cost(
    costs: Mapping[str, float], iterations: int, most: int | None = None
) -> dict[str, int]:
    """Iterations of every unit: `iterations`, and more, up to `most`, where they are cheap.

    A cheap unit gets as many as cost `SHARE_OF_CHEAP` of `iterations` of the mean unit, so that
    all together cost at most 1 + `SHARE_OF_CHEAP` times as much as with `iterations` each. The
    last convolution, whose error nothing after it makes up for, is such a unit. most: None for no
    more than `iterations`.
    """
    mean = sum(costs.values()) / max(len(costs), 1)
    found = {}
    for name, cost in costs.items():
        cheap = round(SHARE_OF_CHEAP * iterations * mean / max(cost, 1))
        found[name] = max(iterations, min(cheap, most or iterations))
    return found


@dataclass(frozen=True)
class Cache:
    """What a unit got and gave over N samples: `inputs`, its positional arguments, (N, ...) or
    anything that is not a tensor; `output` (N, ...). What was not recorded is None.
    """

    inputs: tuple[object, ...] | None
    output: Tensor | None

    def both(self) -> tuple[tuple[object, ...], Tensor]:
        """Inputs and output; raises ReproError where either was not recorded."""
        if self.inputs is None or self.output is None:
            raise ReproError("a unit is learned from its inputs and its output; record both")
        return self.inputs, self.output


class _Reached(Exception):
    """All units of interest have run; the rest of the forward pass is not needed."""


def _arguments(calibration: CalibrationSet | Sequence[Tensor]) -> tuple[Tensor, ...]:
    if isinstance(calibration, CalibrationSet):
        return calibration.x, calibration.t
    return tuple(calibration)


class _Recorder:
    """Collects the batches of one tensor in a buffer for all samples."""

    def __init__(self, total: int, dtype: torch.dtype):
        self.total, self.dtype = total, dtype
        self.buffer: Any = None

    def write(self, x: object, start: int) -> None:
        if not isinstance(x, Tensor):
            self.buffer = x
            return
        if self.buffer is None:
            dtype = self.dtype if x.is_floating_point() else x.dtype
            self.buffer = torch.empty(self.total, *x.shape[1:], dtype=dtype, device=x.device)
        self.buffer[start : start + len(x)].copy_(x)


class _Recording:
    """What the submodules `names` get and give while a network sees `total` samples in batches."""

    def __init__(self, names: Sequence[str], total: int, dtype: torch.dtype):
        self.names, self.total, self.dtype = names, total, dtype
        self.inputs: dict[str, list[_Recorder]] = {}
        self.outputs: dict[str, _Recorder] = {}
        self.start = 0
        self.seen: set[str] = set()

    @contextmanager
    def hooks(self, network: nn.Module, record: str) -> Iterator[None]:
        handles = []
        for name in self.names:
            module = network.get_submodule(name)
            if record != "output":
                last = record == "inputs"
                handles.append(module.register_forward_pre_hook(partial(self._got, name, last)))
            if record != "inputs":
                handles.append(module.register_forward_hook(partial(self._gave, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, network: nn.Module, arguments: Sequence[Tensor], start: int) -> None:
        """One batch, whose first sample has the number `start`, through the last of `names`."""
        self.start = start
        self.seen.clear()
        try:
            network(*arguments)
        except _Reached:
            return
        missing = next(name for name in self.names if name not in self.seen)
        raise ReproError(f"{missing} does not run in a forward pass; leave it out of the units")

    def caches(self) -> dict[str, Cache]:
        return {
            name: Cache(
                tuple(r.buffer for r in self.inputs[name]) if name in self.inputs else None,
                self.outputs[name].buffer if name in self.outputs else None,
            )
            for name in self.names
        }

    def _got(self, name: str, last: bool, module: nn.Module, args: tuple[object, ...]) -> None:
        if name not in self.inputs:
            self.inputs[name] = [_Recorder(self.total, self.dtype) for _ in args]
        for recorder, x in zip(self.inputs[name], args, strict=True):
            recorder.write(x, self.start)
        if last:
            self._reached(name)

    def _gave(self, name: str, module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
        if name not in self.outputs:
            self.outputs[name] = _Recorder(self.total, self.dtype)
        self.outputs[name].write(output, self.start)
        self._reached(name)

    def _reached(self, name: str) -> None:
        self.seen.add(name)
        if len(self.seen) == len(self.names):
            raise _Reached


@torch.no_grad()
def capture(
    network: nn.Module,
    names: Sequence[str],
    calibration: CalibrationSet | Sequence[Tensor],
    *,
    record: Literal["inputs", "output", "both"] = "both",
    batch: int = 64,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Cache]:
    """Run the calibration set once and keep what the submodules `names` get and give.

    calibration: positional arguments of the network, each (N, ...). The network runs in batches and
    no further than the last of the submodules. `dtype`: of the kept tensors; bfloat16 halves them
    at a relative error of 2^-9. Raises ReproError on an empty set and on a submodule that never
    runs.
    """
    arguments = _arguments(calibration)
    total = len(arguments[0]) if arguments else 0
    if not total:
        raise ReproError("the calibration set is empty; reconstruction needs at least one sample")
    recording = _Recording(names, total, dtype)
    with recording.hooks(network, record):
        for start in range(0, total, batch):
            recording.run(network, [a[start : start + batch] for a in arguments], start)
    return recording.caches()


def _captures(
    network: nn.Module,
    names: Sequence[str],
    arguments: tuple[Tensor, ...],
    record: Literal["output", "both"],
    batch: int,
    dtype: torch.dtype,
    memory: int,
) -> Iterator[tuple[str, Cache]]:
    """Capture unit after unit, as many in one pass as `memory` bytes hold; at least one."""
    probe = capture(network, names, [a[:1] for a in arguments], record=record, dtype=dtype)

    def size(cache: Cache) -> int:
        kept = [t for t in (*(cache.inputs or ()), cache.output) if isinstance(t, Tensor)]
        return len(arguments[0]) * sum(t.numel() * t.element_size() for t in kept)

    groups: list[list[str]] = []
    used = memory
    for name in names:
        used += size(probe[name])
        if used > memory or not groups:
            groups.append([])
            used = size(probe[name])
        groups[-1].append(name)
    for group in groups:
        caught = capture(network, group, arguments, record=record, batch=batch, dtype=dtype)
        for name in group:
            yield name, caught.pop(name)


# One unit -----------------------------------------------------------------------------------------


@contextmanager
def _only(unit: nn.Module, learned: Sequence[Tensor]) -> Iterator[None]:
    """Gradients for `learned` and for no parameter of the unit."""
    wanted = {p: p.requires_grad for p in unit.parameters()}
    with torch.inference_mode(False), torch.enable_grad():
        for parameter in wanted:
            parameter.requires_grad_(False)
        for tensor in learned:
            tensor.requires_grad_(True)
        try:
            yield
        finally:
            for tensor in learned:
                tensor.requires_grad_(False)
            for parameter, flag in wanted.items():
                parameter.requires_grad_(flag)


def _take(values: Sequence[object], index: Tensor | slice, dtype: torch.dtype) -> list[Any]:
    """Samples `index` of each tensor; the dtype is that of the network for real tensors."""
    taken = [v[index] if isinstance(v, Tensor) else v for v in values]
    return [v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in taken]


def _distance(output: Tensor, target: Tensor, power: float) -> Tensor:
    """Mean over all dimensions but 1 of the sum over dimension 1 of |output - target|^power."""
    error = output - target
    error = error.square() if power == 2 else abs_power(error, power)
    return error.sum() * (error.shape[1] / error.numel())


@torch.no_grad()
def unit_error(unit: nn.Module, cache: Cache, *, power: float = 2.0, batch: int = 64) -> float:
    """Mean of ‖f̂(X) - Y‖^power over a cache of inputs and outputs, with the sums and means of the
    loss.
    """
    dtype = next(unit.parameters()).dtype
    inputs, outputs = cache.both()
    total = 0.0
    for start in range(0, len(outputs), batch):
        index = slice(start, start + batch)
        target = _take([outputs], index, dtype)[0]
        output = unit(*_take(inputs, index, dtype))
        total += float(_distance(output, target, power)) * len(target)
    return total / len(outputs)


def _layers(unit: nn.Module) -> dict[str, QuantisedLayer]:
    return {name: m for name, m in quantised_layers(unit).items() if m.weight_bits is not None}


def set_rounding(
    layer: QuantisedLayer, alphas: Sequence[Tensor], kind: Literal["hard", "fixed"] = "hard"
) -> None:
    """Round the weight parts of a layer as `alphas` say, one of the shape of each part.

    hard: floor or ceiling for good. fixed: the same values, with a gradient for the weights. Raises
    ReproError where the shapes do not match.
    """
    parts = layer.layer.weight.split(layer.parts, 1)
    if [a.shape for a in alphas] != [p.shape for p in parts]:
        raise ReproError(
            f"roundings of shapes {[tuple(a.shape) for a in alphas]} do not fit weights of shapes "
            f"{[tuple(p.shape) for p in parts]}"
        )
    rule = hard_rounding if kind == "hard" else fixed_rounding
    layer.roundings = [rule(alpha) for alpha in alphas]
    layer.refresh()
    if kind == "hard":
        with torch.inference_mode(False), torch.no_grad():
            layer._kept = layer._quantised_weight()


@torch.inference_mode(False)
def learn_rounding(
    unit: nn.Module,
    cache: Cache,
    iterations: int,
    *,
    generator: torch.Generator,
    batch: int = 32,
    lr: float = 1e-3,
    weight: float = 0.01,
    beta: tuple[float, float] = (20.0, 2.0),
    warmup: float = 0.2,
    scale_aware: bool = False,
    faithful: bool = False,
    until: float | None = None,
    outcome: Callable[[Outcome], None] | None = None,
) -> Alphas:
    """Learn the rounding directions of all quantised weights of a unit, and set them.

    cache: inputs and full-precision outputs of the unit. generator: a CPU generator that draws the
    batches. weight: λ. beta, warmup: see `annealed_beta`; the regulariser is off during the
    warm-up. scale_aware: see `soft_rounding`. faithful: as in the released code the unit runs in
    training mode (dropout) and the second half of a split weight has no regulariser. until: largest
    share of undecided roundings, of those that are regularised, to end with; while there are more,
    learning goes on at the last β by a quarter of `iterations` at a time with λ doubled every time,
    at most `EXTENSIONS` times. outcome: told how learning ended. Returns the α of every layer, one
    per weight part; α ≥ 0 means up. Raises ReproError if the unit has no quantised weight.

    Source: Q-Diffusion's released code: Adam, 20,000 iterations; `until` is not in it.
    """
    layers = _layers(unit)
    if not layers:
        raise ReproError("the unit has no quantised weight to round; leave it out")
    decisions = {name: _soften(layer, scale_aware) for name, layer in layers.items()}
    everything = [d for parts in decisions.values() for d in parts]
    penalised = [parts[0] for parts in decisions.values()] if faithful else everything
    learned = [decision.alpha for decision in everything]
    optimise = partial(
        _optimise, unit, cache, learned, torch.optim.Adam(learned, lr=lr),
        generator=generator, batch=batch, power=2.0, dropout=faithful,
    )  # fmt: skip

    optimise(iterations, extra=partial(_annealed, penalised, iterations, weight, beta, warmup))
    total = iterations
    if until is not None:
        total += _extend(optimise, penalised, iterations, until, beta[1], weight)
    soft = unit_error(unit, cache) if outcome else 0.0
    for name, layer in layers.items():
        set_rounding(layer, [decision.alpha for decision in decisions[name]])
    if outcome:
        outcome(_outcome(total, soft, unit_error(unit, cache), decisions))
    return {name: [decision.alpha for decision in parts] for name, parts in decisions.items()}


def _outcome(
    iterations: int, soft: float, hard: float, decisions: Mapping[str, Sequence[_Decision]]
) -> Outcome:
    shares = {name: _undecided_share(parts) for name, parts in decisions.items()}
    weights = {name: sum(d.alpha.numel() for d in parts) for name, parts in decisions.items()}
    return Outcome(iterations, soft, hard, shares, weights)


def _soften(layer: QuantisedLayer, scale_aware: bool) -> list[_Decision]:
    """Give the parts of a layer roundings that can be learned; returns them."""
    parts = layer.layer.weight.detach().split(layer.parts, 1)
    pairs = zip(layer.weight_grids, parts, strict=True)
    decisions = [_Decision.start(grid, part, scale_aware) for grid, part in pairs]
    layer.roundings, layer.weight_on = [*decisions], True
    layer.refresh()
    return decisions


EXTENSIONS = 8


def _relative_step(grid: AnyGrid, part: Tensor) -> Tensor:
    step = step_of(grid, part)
    return (step / step.max()).expand_as(part)


class _Decision:
    """Soft rounding that keeps the h(α) of the last forward pass for the regulariser."""

    def __init__(self, alpha: Tensor, scale: Tensor | None):
        self.alpha, self.scale = alpha, scale

    @classmethod
    def start(cls, grid: AnyGrid, part: Tensor, scale_aware: bool) -> _Decision:
        """The decision with which soft rounding leaves the weights `part` as they are."""
        scale = _relative_step(grid, part) if scale_aware else None
        return cls(initial_alpha(scaled(grid, part), scale), scale)

    @property
    def now(self) -> Tensor:
        """h(α), of the shape of the weights."""
        return rectified_sigmoid(self.alpha if self.scale is None else self.alpha / self.scale)

    def __call__(self, u: Tensor) -> Tensor:
        self.h = self.now
        return torch.floor(u) + self.h


def _pressure(
    decisions: Sequence[_Decision], beta: float, weight: float, k: int = 0
) -> Tensor | float:
    """λ Σ (1 - |2h - 1|^β) over the h of the last forward pass, the same in every iteration k."""
    return weight * sum(undecided(decision.h, beta) for decision in decisions)


def _annealed(
    decisions: Sequence[_Decision],
    iterations: int,
    weight: float,
    beta: tuple[float, float],
    warmup: float,
    k: int,
) -> Tensor | float:
    """The regulariser of iteration k, none during the warm-up."""
    if k < warmup * iterations:
        return 0.0
    now = annealed_beta(k, iterations, start=beta[0], end=beta[1], warmup=warmup)
    return _pressure(decisions, now, weight)


def _extend(
    optimise: Callable[..., None],
    decisions: Sequence[_Decision],
    iterations: int,
    until: float,
    beta: float,
    weight: float,
) -> int:
    """Learn on until few decisions are left; returns the number of iterations."""
    more, extension = -(-iterations // 4), 0
    while extension < EXTENSIONS and _undecided_share(decisions) > until:
        extension += 1
        optimise(more, extra=partial(_pressure, decisions, beta, weight * 2**extension))
    return extension * more


@torch.no_grad()
def _undecided_share(decisions: Sequence[_Decision]) -> float:
    return undecided_share([decision.now for decision in decisions])


@torch.inference_mode(False)
def learn_steps(
    unit: nn.Module,
    cache: Cache,
    iterations: int,
    *,
    generator: torch.Generator,
    batch: int = 32,
    lr: float = 4e-4,
    power: float = 2.4,
    widest: int = 8,
    faithful: bool = False,
) -> None:
    """Learn the activation steps δ of a calibrated unit, those of attention operands included.

    Zero-points and weights stay. cache: inputs and outputs of the full-precision unit. Only grids
    in use, of at most `widest` bits, are learned (Stable Diffusion's 16-bit softmax is not). A
    floating-point grid learns maxval, at lr (2^(n-1) - 1), which moves the range as fast as a step
    of lr moves the range of a symmetric integer grid. faithful: dropout is active. The rate falls
    to 0 along a cosine. Raises ReproError if the unit has no such grid.

    Source: Q-Diffusion's released code: Adam, 5,000 iterations.
    """
    learned, groups = [], []
    for quantiser in _steps(unit, widest):
        bits = quantiser.bits
        grid = quantiser.grids[bits]
        if isinstance(grid, FloatGrid):
            leaf, rate = grid.maxval.detach().clone(), lr * (2 ** (bits - 1) - 1)
            grid = FloatGrid(grid.exponent, grid.mantissa, leaf, grid.unsigned)
        elif isinstance(grid, Grid):
            leaf, rate = grid.delta.detach().clone(), lr
            grid = Grid(leaf, grid.zero_point, grid.lo, grid.hi)
        else:
            raise ReproError(f"the steps of a {type(grid).__name__} cannot be learned")
        quantiser.grids[bits] = grid
        learned.append(leaf)
        groups.append({"params": [leaf], "lr": rate})
    if not learned:
        raise ReproError("the unit has no activation grid to learn; calibrate the network first")
    optimiser = torch.optim.Adam(groups)
    _optimise(
        unit,
        cache,
        learned,
        optimiser,
        iterations,
        generator,
        batch=batch,
        power=power,
        cosine=True,
        dropout=faithful,
    )


def _steps(unit: nn.Module, widest: int) -> list[ActivationQuantiser]:
    return [
        q
        for q in activation_quantisers(unit).values()
        if q.mode == "quantise" and q.bits in q.grids and q.bits <= widest
    ]


def _optimise(
    unit: nn.Module,
    cache: Cache,
    learned: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    iterations: int,
    generator: torch.Generator,
    *,
    batch: int,
    power: float,
    extra: Callable[[int], Tensor | float] = lambda k: 0.0,
    cosine: bool = False,
    dropout: bool,
) -> None:
    """Iterations k = 1 .. I of Adam on ‖f̂(X) - Y‖^power + extra(k)."""
    parameter = next(unit.parameters())
    if cosine:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1))
    inputs, outputs = cache.both()
    total, training = len(outputs), unit.training
    unit.train(dropout)
    with _only(unit, learned), torch.random.fork_rng(devices=_devices(parameter)):
        if dropout:
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        for k in range(1, iterations + 1):
            index = torch.randperm(total, generator=generator)[:batch].to(outputs.device)
            *given, target = _take([*inputs, outputs], index, parameter.dtype)
            loss = _distance(unit(*given), target, power) + extra(k)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if cosine:
                schedule.step()
                with torch.no_grad():
                    for step in learned:
                        step.clamp_(min=SMALLEST_STEP)
    unit.train(training)


def _devices(parameter: Tensor) -> list[torch.device]:
    return [parameter.device] if parameter.is_cuda else []


# Whole networks -----------------------------------------------------------------------------------


def reconstruct_weights(
    network: nn.Module,
    teacher: nn.Module,
    calibration: CalibrationSet | Sequence[Tensor],
    iterations: int,
    *,
    generator: torch.Generator,
    most: int | None = None,
    order: Sequence[str] | None = None,
    asym: bool = True,
    blocks: tuple[type[nn.Module], ...] = BLOCKS,
    dtype: torch.dtype = torch.float32,
    memory: int = 1 << 30,
    capture_batch: int = 64,
    progress: Progress | None = None,
    **options: Unpack[RoundingOptions],
) -> Alphas:
    """Learn the weight roundings of all units of a quantised network; activations are off, and
    stay off.

    teacher: the network in full precision. calibration: arguments of both, each (N, ...).
    iterations: of every unit; cheap ones have up to `most` (see `iterations_by_cost`) at a rate
    smaller by as much, so that every α can travel as far. order: of the units, by name, instead of
    that of their registration. asym: inputs come from the network
    quantised so far, else from the teacher. dtype, memory: of the recorded tensors, and the bytes
    that those of the teacher may take at once. options: see `learn_rounding`. Returns the α of
    every layer by name. Source: Q-Diffusion, released code, which has `iterations` for all.
    """
    use(network, activations=False)
    found = {name: unit for name, unit in units(network, blocks).items() if _layers(unit)}
    found = {name: found[name] for name in order or found}
    arguments = _arguments(calibration)
    record: Literal["output", "both"] = "output" if asym else "both"
    planned = dict.fromkeys(found, iterations)
    if most is not None:
        planned = iterations_by_cost(unit_costs(teacher, [*found], arguments), iterations, most)
    rate = options.get("lr", 1e-3)
    alphas: Alphas = {}
    walk = _captures(teacher, list(found), arguments, record, capture_batch, dtype, memory)
    for done, (name, cache) in enumerate(walk, 1):
        if asym:
            own = capture(
                network, [name], arguments, record="inputs", batch=capture_batch, dtype=dtype
            )
            cache = Cache(own[name].inputs, cache.output)
        before = unit_error(found[name], cache) if progress else 0.0
        ended: list[Outcome] = []
        options["lr"] = rate * iterations / planned[name] if planned[name] else rate
        learnt = learn_rounding(
            found[name], cache, planned[name], generator=generator,
            outcome=ended.append if progress else None, **options,
        )  # fmt: skip
        alphas.update({f"{name}.{leaf}".rstrip("."): alpha for leaf, alpha in learnt.items()})
        if progress:
            progress(_report(name, before, ended[0]), done, len(found))
    return alphas


def _report(name: str, before: float, ended: Outcome) -> UnitReport:
    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{name}.{leaf}".rstrip("."): value for leaf, value in values.items()}

    return UnitReport(
        name, before, ended.hard, ended.soft, ended.iterations,
        named(ended.undecided), named(ended.weights),
    )  # fmt: skip


def reconstruct_activations(
    network: nn.Module,
    teacher: nn.Module,
    calibration: CalibrationSet | Sequence[Tensor],
    iterations: int,
    *,
    generator: torch.Generator,
    blocks: tuple[type[nn.Module], ...] = BLOCKS,
    dtype: torch.dtype = torch.float32,
    memory: int = 1 << 30,
    capture_batch: int = 64,
    widest: int = 8,
    power: float = 2.4,
    progress: Progress | None = None,
    **options: Unpack[StepOptions],
) -> nn.Module:
    """Learn the activation steps of all units of a calibrated network, weights as they are.

    Inputs and outputs are both the teacher's. Arguments as for `reconstruct_weights`; options: see
    `learn_steps`. Returns `network`. Source: Q-Diffusion, released code.
    """
    found = {name: unit for name, unit in units(network, blocks).items() if _steps(unit, widest)}
    if not found:
        raise ReproError("no activation grid is in use; calibrate the network first")
    arguments = _arguments(calibration)
    walk = _captures(teacher, list(found), arguments, "both", capture_batch, dtype, memory)
    for done, (name, cache) in enumerate(walk, 1):
        unit = found[name]
        before = unit_error(unit, cache, power=power) if progress else 0.0
        learn_steps(
            unit, cache, iterations, generator=generator, power=power, widest=widest, **options
        )
        if progress:
            report = UnitReport(name, before, unit_error(unit, cache, power=power))
            progress(report, done, len(found))
    return network
