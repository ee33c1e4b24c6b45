"""Identities and printed values that the implementation has to meet, each as an error or a count.

The numbers are those that the released quantiser prints for the toy tensors below, in float32, and
closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.q_diffusion.method import accumulated_error
from repro.diffusion.samplers import ddim
from repro.diffusion.schedules import alphas_cumprod, linear_betas, timesteps_quad
from repro.quant import rounded
from repro.quant.affine import Grid
from repro.quant.layers import Recipe, calibrate, quantise, quantised_layers, use
from repro.quant.ranges import RunningRange, minmax_grid, shrink_grid
from repro.quant.rounding import (
    annealed_beta,
    hard_rounding,
    initial_alpha,
    rectified_sigmoid,
    soft_rounding,
    undecided,
)

if TYPE_CHECKING:
    from repro.job import Job

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])
WEIGHT = torch.tensor([[-1, 0.5, 0.25, 0.75], [0.1, 0.2, -0.3, 0.05]])

PRINTED: dict[str, tuple[Callable[..., Grid], dict[str, Any], float, float, list[float]]] = {
    # rule, options, δ, z, x̂
    "max-4bit": (minmax_grid, {"bits": 4}, 1 / 6, 6,
                 [-1, -2 / 3, -1 / 3, -1 / 6, 0, 0, 1 / 3, 2 / 3, 1.5]),
    "mse-4bit": (shrink_grid, {"bits": 4}, 0.1633333, 6,
                 [-0.98, -0.653333, -0.326667, -0.163333, 0, 0, 0.326667, 0.653333, 1.47]),
    "max-8bit": (minmax_grid, {"bits": 8}, 0.00980392, 102,
                 [-1, -0.598039, -0.254902, -0.098039, 0, 0.04902, 0.303922, 0.696078, 1.5]),
    "symmetric-8bit": (minmax_grid, {"bits": 8, "symmetric": True}, 0.01181102, 0,
                       [-1.003937, -0.602362, -0.248031, -0.094488, 0, 0.047244, 0.295276, 0.69685,
                        1.5]),
    "symmetric-4bit": (minmax_grid, {"bits": 4, "symmetric": True}, 0.2142857, 0,
                       [-1.071429, -0.642857, -0.214286, 0, 0, 0, 0.214286, 0.642857, 1.5]),
    "from-zero-max-4bit": (minmax_grid, {"bits": 4, "always_zero": True}, 1 / 6, 0,
                           [0, 0, 0, 0, 0, 0, 1 / 3, 2 / 3, 1.5]),
    "from-zero-mse-4bit": (shrink_grid, {"bits": 4, "always_zero": True}, 0.1, 0,
                           [0, 0, 0, 0, 0, 0, 0.3, 0.7, 1.5]),
}  # fmt: skip


def gap(value: Tensor | float, expected: Tensor | list | float) -> float:
    """Largest absolute difference, in float64."""
    value, expected = (torch.as_tensor(v, dtype=torch.float64) for v in (value, expected))
    return float((value - expected).abs().max())


def quantiser_errors() -> dict[str, float]:
    """Deviations from printed grids and values, and of the gradient of δ, by item."""
    errors = {}
    for item, (rule, options, delta, zero, expected) in PRINTED.items():
        grid = rule(X, **options)
        errors[item] = max(
            gap(grid.delta, delta), abs(float(grid.zero_point) - zero), gap(grid(X), expected)
        )
    grid = minmax_grid(WEIGHT, 4, channel_wise=True)
    errors["per-channel-max"] = max(
        gap(grid.delta.flatten(), [0.1166667, 0.0333333]),
        gap(grid.zero_point.flatten(), [9, 9]),
        gap(grid(WEIGHT), [[-1.05, 0.4666667, 0.2333333, 0.7], [0.1, 0.2, -0.3, 0.0666667]]),
    )
    errors["per-channel-mse"] = gap(shrink_grid(WEIGHT, 4, channel_wise=True).delta[1], 0.033)

    one_sided = torch.tensor([0.2, 0.4, 0.9, 1.0])
    faithful = minmax_grid(one_sided, 4, faithful=True)
    errors["one-sided-released"] = max(
        gap(faithful.delta, 0.0533333), gap(faithful(one_sided), [0.213333, 0.426667, 0.8, 0.8])
    )
    mended = minmax_grid(one_sided, 4)
    errors["one-sided-in-half-steps"] = gap(mended(one_sided), one_sided) / float(mended.delta / 2)

    grid = minmax_grid(X, 4)
    inside = torch.linspace(-1, 1.5, 1001)
    errors["idempotence"] = gap(grid(grid(inside)), grid(inside))
    errors["error-in-half-steps"] = gap(grid(inside), inside) / float(grid.delta / 2)

    grid = minmax_grid(X, 8)
    errors["step-gradient"] = gap(_step_gradient(grid, grid.delta, 0.7), 71 - 71.4)
    clipped = _step_gradient(grid, grid.delta / 2, 1.5)
    errors["clipped-gradient"] = gap(clipped, grid.hi - float(grid.zero_point))
    return errors


def _step_gradient(grid: Grid, delta: Tensor, x: float) -> Tensor:
    """∂x̂/∂δ at a value x."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = delta.detach().clone().requires_grad_(True)
        Grid(leaf, grid.zero_point, grid.lo, grid.hi)(torch.tensor(x)).backward()
    assert leaf.grad is not None
    return leaf.grad


def rounding_errors() -> dict[str, float]:
    """Deviations of the learned rounding: start, regulariser, schedule of β, saturation."""
    grid = shrink_grid(WEIGHT, 4, channel_wise=True)
    alpha = initial_alpha(WEIGHT / grid.delta)
    h = torch.tensor([0, 0.1, 0.25, 0.5, 0.9, 1])
    terms = {
        20: [0, 0.98847, 0.999999, 1, 0.98847, 0],
        11: [0, 0.914101, 0.999512, 1, 0.914101, 0],
        2: [0, 0.36, 0.75, 1, 0.36, 0],
    }
    schedule = {3999: 20, 4000: 20, 8000: 15.5, 12_000: 11, 16_000: 6.5, 20_000: 2}
    limit = math.log(11)
    return {
        "initial-alpha": gap(alpha[0], [-0.239229, -0.747215, -1.371480, -0.239230]),
        "initial-decision": gap(
            rectified_sigmoid(alpha)[0], [0.428572, 0.285714, 0.142857, 0.428571]
        ),
        "soft-weights": gap(grid(WEIGHT, soft_rounding(alpha))[0], [-1, 0.5, 0.25, 0.7]),
        "hard-weights": gap(grid(WEIGHT, hard_rounding(alpha)), grid(WEIGHT)),
        "regulariser": max(
            gap(torch.stack([undecided(v, beta) for v in h]), expected)
            for beta, expected in terms.items()
        ),
        "schedule": max(abs(annealed_beta(k, 20_000) - beta) for k, beta in schedule.items()),
        "saturation": gap(
            rectified_sigmoid(torch.tensor([limit, -limit, 0, 1])), [1, 0, 0.5, 0.777270]
        ),
    }


def splitting_errors() -> dict[str, float]:
    """Of a convolution of [X1 ; X2]: deviation from its two halves, and what its range costs X1."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(12, 5, 1).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x = torch.randn(2, 12, 4, 4, generator=generator, dtype=torch.float64)
    weight_grid = lambda w, bits: minmax_grid(w, bits, channel_wise=True)  # noqa: E731
    observer = lambda widths: RunningRange(symmetric=True)  # noqa: E731
    split = quantise(nn.Sequential(layer), Recipe(4, (4,), weight_grid, observer, splits={"0": 7}))

    def halves(parts: list[Tensor], weights: list[Tensor]) -> Tensor:
        assert layer.bias is not None
        y = sum(F.conv2d(p, w) for p, w in zip(parts, weights, strict=True))
        return y + layer.bias[:, None, None]

    with torch.no_grad():
        plain = list(x.split([7, 5], 1)), list(layer.weight.split([7, 5], 1))
        off = gap(use(split, weights=False, activations=False)(x), halves(*plain))
        calibrate(split, [(x,)])
        wrapped = quantised_layers(split)["0"]
        quantised = (
            [q(p) for q, p in zip(wrapped.activations, plain[0], strict=True)],
            [g(w) for g, w in zip(wrapped.weight_grids, plain[1], strict=True)],
        )
        on = gap(split(x), halves(*quantised))

    small = torch.linspace(-1, 1, 101)
    both = minmax_grid(torch.cat([small, 100 * small]), 8, symmetric=True)
    own = minmax_grid(small, 8, symmetric=True)
    codes = set(both.codes(small).tolist())
    squared = [float((g(small) - small).square().mean()) for g in (both, own)]
    return {
        "halves-off": off,
        "halves-on": on,
        "joint-step": gap(both.delta, 100 / 127),
        "joint-codes": float(len(codes ^ {-1.0, 0.0, 1.0})),
        "step-ratio": gap(both.delta / own.delta, 100),
        "split-over-joint-error": squared[1] / squared[0],
    }


def _disturbed(k: float, errors: Tensor, timesteps: Tensor, x: Tensor, t: Tensor) -> Tensor:
    step = int((timesteps.flip(0) == t.flatten()[0]).nonzero())
    return k * x + errors[step]


def accumulation_error(generator: torch.Generator, k: float = 0.3, steps: int = 20) -> float:
    """Largest relative deviation of DDIM on ε = k x + e_t from the closed form of Δx_0."""
    abar = alphas_cumprod(linear_betas()).double()
    timesteps = timesteps_quad(1000, steps)
    worst = 0.0
    for _ in range(5):
        errors = 0.01 * torch.randn(steps, generator=generator, dtype=torch.float64)
        x_T = torch.randn(1, 1, generator=generator, dtype=torch.float64)
        plain = ddim(lambda x, t: k * x, x_T, timesteps, abar)
        noisy = ddim(partial(_disturbed, k, errors, timesteps), x_T, timesteps, abar)
        expected = accumulated_error(k, errors, timesteps, abar)
        worst = max(worst, abs(float(noisy - plain - expected)) / abs(float(expected)))
    return worst


@torch.no_grad()
def network_errors(network: nn.Module, x: Tensor, t: Tensor) -> dict[str, float]:
    """Deviations of wrapped copies that should compute what the network computes.

    layers-off: layers wrapped and off, largest absolute difference. off: attention wrapped too,
    whose products are then taken in another order. sixteen-bit: 16-bit weights, relative.
    exported: learned roundings that were exported and installed, largest absolute difference.
    """
    plain = network(x, t)
    full = rounded.recipe(network, 4, 8)
    layers, off = (
        use(quantise(network, recipe), weights=False, activations=False)
        for recipe in (replace(full, attention_bits=None), full)
    )
    fine = quantise(network, rounded.recipe(network, 16))
    four = quantise(network, rounded.recipe(network, 4))
    again = quantise(network, rounded.recipe(network, 4))
    rounded.install(again, rounded.export(four))
    return {
        "layers-off": gap(layers(x, t), plain),
        "off": gap(off(x, t), plain),
        "sixteen-bit": float((fine(x, t) - plain).norm() / plain.norm()),
        "exported": gap(again(x, t), four(x, t)),
    }


def reads_of_learning(job: Job) -> int:
    """How many datasets calibration and learned rounding read: every access is counted."""
    reads = 0

    def counting(name: str) -> object:
        nonlocal reads
        reads += 1
        return type(job).data(job, name)

    job.data = counting  # type: ignore[method-assign]
    try:
        rounded.learn(job)
    finally:
        del job.data
    return reads
