"""Q-Diffusion: time-step-aware calibration, shortcut splitting, and learning on top of both.

    1. D = states x_t that the full-precision network meets at every S/T_c-th step of sampling
    2. weights      w -> (clamp(floor(w/δ) + h(α) + z, 0, 2^n - 1) - z) δ, α learned unit by unit
    3. activations  x -> (clamp(round(x/δ), -2^(n-1), 2^(n-1) - 1)) δ, δ learned unit by unit
    4. where a layer sees [X1 ; X2], decoder and encoder features, both steps treat the parts apart:
       Q(X) Q(W) = Q1(X1) Q1(W1) + Q2(X2) Q2(W2)

What other methods continue from (2 and the recipe with 4) is `repro.quant.rounded`; here are the
choices that the paper compares: which steps are calibrated on, how steps δ start, the order in
which units are visited, and the baselines that learn nothing.

Source: Li et al., ICCV 2023 (arXiv 2302.04304), sections 3.2 and 3.3, and the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.quant.affine import Grid
from repro.quant.calibration import CalibrationSet, Trajectory, uniform_grid
from repro.quant.layers import calibrate, quantised_layers
from repro.quant.reconstruction import (
    reconstruct_activations,
    reconstruct_weights,
    set_rounding,
    units,
)

TIMES = ("uniform", "uniform-double", "first-quarter", "last-quarter", "first-step")

# Calibration sets ---------------------------------------------------------------------------------


def part_of_grid(
    run: Trajectory, x_T: Tensor, times: str, steps: int, per_step: int
) -> CalibrationSet:
    """`steps` · `per_step` states of the steps that `times` names (uniform-double: twice as many).

    run: states x (S, B, ...) in the order of sampling, from noise to image. x_T: fresh noises
    (steps · per_step, ...), all that is ever seen at the first step. first-quarter, last-quarter:
    of sampling, so noisy states and nearly finished ones.
    """
    if times not in TIMES:
        raise ReproError(f"no calibration steps `{times}`; choose {', '.join(TIMES)}")
    total = steps * per_step
    if times == "first-step":
        return CalibrationSet(x_T[:total], run.t[0].expand(total))
    if times.startswith("uniform"):
        return uniform_grid(run, steps, per_step * (2 if times == "uniform-double" else 1))
    quarter = max(1, len(run.t) // 4)
    part = slice(0, quarter) if times == "first-quarter" else slice(len(run.t) - quarter, None)
    piece = Trajectory(run.x[part], run.eps[part], run.t[part], run.final)
    return uniform_grid(piece, quarter, min(-(-total // quarter), run.x.shape[1]))


# Activations --------------------------------------------------------------------------------------


def initialise(
    network: nn.Module,
    data: CalibrationSet,
    samples: int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Start all activation steps from one forward pass of `samples` states; returns `network`.

    Every grid sees what the activations quantised before it give, as released. generator: draws the
    states from all of `data`, as released for CIFAR-10. None takes the first
    ones, as released for LSUN-Church, where they all belong to the first step of sampling.
    """
    if generator is None:
        chosen = torch.arange(min(samples, len(data)))
    else:
        chosen = torch.randperm(len(data), generator=generator)[:samples]
    chosen = chosen.to(data.x.device)
    return calibrate(network, [(data.x[chosen], data.t[chosen])], in_turn=True)


def learn_activation_steps(
    network: nn.Module,
    teacher: nn.Module,
    data: CalibrationSet,
    iterations: int,
    bits: int,
    *,
    lr: float,
    batch: int,
    generator: torch.Generator,
) -> nn.Module:
    """Learn the steps δ of a network whose activations were initialised; returns it.

    lr: of 8-bit steps; those of n bits move 2^(8-n) times as fast, so that ranges move alike.
    """
    return reconstruct_activations(
        network, teacher, data, iterations, generator=generator, lr=lr * 2 ** (8 - bits),
        batch=batch,
    )  # fmt: skip


# Weights ------------------------------------------------------------------------------------------

CHANGES = (
    "none",
    "plain-inputs",
    "half-regularised",
    "half-regularised-dropout",
    "executed-order",
)


@torch.no_grad()
def execution_order(network: nn.Module, data: CalibrationSet) -> list[str]:
    """Names of the units in the order in which they run (they are visited as registered)."""
    found, order = units(network), []
    hooks = [
        unit.register_forward_pre_hook(lambda m, i, name=name: order.append(name))
        for name, unit in found.items()
    ]
    try:
        network(data.x[:1], data.t[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return order


def learn_weights(
    network: nn.Module,
    teacher: nn.Module,
    data: CalibrationSet,
    iterations: int,
    *,
    generator: torch.Generator,
    change: str = "none",
    **options: Any,
) -> None:
    """Learn all roundings of a quantised copy, with one departure from the defaults.

    options: of `reconstruct_weights`. change:
        none: inputs from the copy quantised so far, units as registered, all weights regularised
        plain-inputs: inputs from the full-precision network
        executed-order: units in the order in which they run
        half-regularised: as released, no regulariser on the second part of a split weight
        half-regularised-dropout: as released; and dropout of 0.1, that of the CIFAR-10 network, is
            active while learning
    """
    if change not in CHANGES:
        raise ReproError(f"no change `{change}`; choose {', '.join(CHANGES)}")
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    before = [m.p for m in dropouts]
    for module in dropouts:
        module.p = 0.1 if change.endswith("dropout") else 0.0
    try:
        reconstruct_weights(
            network,
            teacher,
            data,
            iterations,
            generator=generator,
            order=execution_order(network, data) if change == "executed-order" else None,
            asym=change != "plain-inputs",
            faithful=change.startswith("half-regularised"),
            **options,
        )
    finally:
        for module, p in zip(dropouts, before, strict=True):
            module.p = p


# A baseline that looks at weights alone -----------------------------------------------------------


def squant_directions(weight: Tensor, grid: Grid) -> Tensor:
    """α (±1, of the shape of `weight`) of SQuant's roundings: 1 is up.

    From round-to-nearest, roundings are flipped until the errors of every k x k kernel add up to at
    most 1/2 of a step, then those of every output channel; those with the largest error flip first.
    weight: (C_out, C_in, ...); grid: per output channel. Recalled from Guo et al., ICLR 2022, not
    checked against its code.
    """
    u = weight / grid.delta
    q, floor = torch.round(u), torch.floor(u)
    kernels = weight.shape[:2] if weight.ndim > 2 else (weight.numel(), 1)
    for rows in (kernels[0] * kernels[1], weight.shape[0]):
        error = (q - u).reshape(rows, -1)
        total = error.sum(1, keepdim=True)
        sign = total.sign()
        # Only a rounding that went the way of the sum can flip and stay a neighbour of w/δ.
        size = torch.where(error * sign > 0, error.abs(), torch.full_like(error, -1.0))
        rank = size.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        flip = (rank < total.abs().round()) & (size > 0)
        q = q - (flip * sign).reshape(q.shape)
    return torch.where(q > floor, 1.0, -1.0)


def squant(network: nn.Module) -> nn.Module:
    """Round all weights of a quantised copy as SQuant does, in place; returns it."""
    for layer in quantised_layers(network).values():
        parts = layer.layer.weight.detach().split(layer.parts, 1)
        pairs = zip(parts, layer.weight_grids, strict=True)
        set_rounding(layer, [squant_directions(w, g) for w, g in pairs if isinstance(g, Grid)])
    return network


# What the splits are for --------------------------------------------------------------------------


@torch.no_grad()
def shortcut_ranges(
    network: nn.Module, data: CalibrationSet, splits: Mapping[str, int], batch: int = 64
) -> dict[str, tuple[float, float]]:
    """(max |X1|, max |X2|) of the inputs [X1 ; X2] of every layer in `splits`, over `data`.

    X1: features of the decoder; X2: those of the encoder, over the skip connection.
    """
    reach = {name: [0.0, 0.0] for name in splits}

    def hook(name: str):
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            parts = args[0][:, : splits[name]], args[0][:, splits[name] :]
            for i, part in enumerate(parts):
                reach[name][i] = max(reach[name][i], float(part.abs().max()))

        return look

    hooks = [network.get_submodule(n).register_forward_pre_hook(hook(n)) for n in splits]
    try:
        for x, t in data.batches(batch):
            network(x, t)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: (low, high) for name, (low, high) in reach.items()}


def accumulated_error(
    k: float, errors: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """Δx_0 of DDIM on ε = k x when an error e_t (S,), first step first, is added to ε.

    With x' = a x + c ε, Δx_0 = Σ_t c_t e_t Π_{s<t} (a_s + k c_s), s running over the later steps.
    """
    now = alphas_cumprod[timesteps].flip(0)
    then = torch.cat([now[1:], now.new_ones(1)])
    a = (then / now).sqrt()
    c = (1 - then).sqrt() - a * (1 - now).sqrt()
    gain = (a + k * c).flip(0).cumprod(0).flip(0)
    later = torch.cat([gain[1:], gain.new_ones(1)])
    return (c * errors * later).sum()
