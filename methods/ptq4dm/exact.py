"""Identities and printed values that the implementation has to meet, each as an error or a count.

The numbers are those that the released quantiser prints for the toy tensors below, and closed forms
of the released and the published time distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from methods.ptq4dm import method as ptq
from repro.quant.affine import grid_from_range
from repro.quant.calibration import record
from repro.quant.scores import COSINE, L24

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])
WEIGHT = torch.tensor([[-1, 0.5, 0.25, 0.75], [0.1, 0.2, -0.3, 0.05]])
DRAWS = 1_000_000


def _gap(value: Tensor, expected: Tensor | list[float] | float) -> float:
    return float((value.double() - torch.as_tensor(expected, dtype=torch.float64)).abs().max())


def quantiser_errors() -> dict[str, float]:
    """Largest deviation from the printed δ, x̂ and running ranges, by item."""
    errors = {}
    printed = {
        8: (3 / 255, [-1, -0.6, -0.247059, -0.094118, 0, 0.047059, 0.305882, 0.694118, 1.494118]),
        4: (0.186, [-0.93, -0.558, -0.186, -0.186, 0, 0, 0.372, 0.744, 1.488]),
    }
    for bits, (delta, x_hat) in printed.items():
        grid = grid_from_range(*ptq.search_range(X, bits), bits)
        errors[f"step-{bits}bit"] = _gap(grid.delta, delta)
        errors[f"values-{bits}bit"] = _gap(grid(X), x_hat)

    grid = grid_from_range(*ptq.search_range(X.abs(), 8), 8)
    errors["one-sided-step"] = _gap(grid.delta, 1.5 / 255) + abs(float(grid.zero_point))
    errors["one-sided-in-half-steps"] = _gap(grid(X.abs()), X.abs()) / float(grid.delta / 2)

    observer = ptq.SmoothedRange((8, 4))
    observer.update(X)
    observer.update(2 * X)
    for bits, end, delta in ((8, 1.65, 0.01294118), (4, 1.5345, 0.2046)):
        low, high = observer.range[bits]
        errors[f"smoothed-range-{bits}bit"] = max(_gap(low, -end), _gap(high, end))
        errors[f"smoothed-step-{bits}bit"] = _gap(observer.grid(bits).delta, delta)

    errors["per-channel-step"] = _gap(
        ptq.weight_grid(WEIGHT, 8).delta.flatten(), [2 / 255, 0.6 / 255]
    )
    grid = ptq.weight_grid(WEIGHT, 4)
    step = grid.delta
    errors["step-scales-with-tensor"] = max(
        _gap(ptq.weight_grid(c * WEIGHT, 4).delta / c, step) for c in (0.25, 2.0, 64.0)
    )
    mass, half = torch.ones(1, len(X)), 0.5 * X[None, None]
    errors["cosine-of-half-gain"] = float(COSINE(X[None], half, mass, grid).abs())
    errors["l2.4-of-half-gain"] = _gap(
        L24(X[None], half, mass, grid), (0.5 * X.double()).abs().pow(2.4).mean()
    )
    return errors


def distribution_errors(generator: torch.Generator, steps: int = 250) -> dict[str, float]:
    """Deviations of the drawn time steps from closed forms, in standard errors of the draw.

    released: P(t = 0) = Φ((1/T - 0.4)/0.4), P(t = T - 1) = 1 - Φ(((T-1)/T - 0.4)/0.4).
    paper: standard deviation √(T/2 + 1/12) after flooring, P(|t - μ| ≤ 22) by the normal law.
    """
    phi = NormalDist().cdf

    def binomial(hits: Tensor, p: float) -> float:
        return abs(float(hits.double().mean()) - p) / math.sqrt(p * (1 - p) / DRAWS)

    k = ptq.ndtc_wide(DRAWS, steps, generator).label
    errors = {
        "released-first-step": binomial(k == 0, phi((1 / steps - 0.4) / 0.4)),
        "released-last-step": binomial(k == steps - 1, 1 - phi(((steps - 1) / steps - 0.4) / 0.4)),
    }
    k = ptq.ndtc_paper(DRAWS, steps, generator).label.double()
    mu, sigma = 0.4 * steps, math.sqrt(steps / 2)
    variance = sigma**2 + 1 / 12
    errors["paper-spread"] = abs(float(k.var()) - variance) / (variance * math.sqrt(2 / DRAWS))
    within = phi(23 / sigma) - phi(-22 / sigma)  # floor(v) in [μ - 22, μ + 22]
    errors["paper-within-22"] = binomial((k - mu).abs() <= 22, within)
    return errors


def pairing(
    eps_model: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    when: ptq.TimeSteps,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    clip: float | None,
) -> float:
    """Share of calibration samples whose (x, t) does not give back the ε of sampling bit by bit.

    Sampling had the state of each chain at the step whose label the sample carries; feeding the
    calibration set to the network step by step has to repeat that step's ε.
    """
    run = record(
        eps_model, lambda model: ptq.ddim(model, x_T, timesteps, alphas_cumprod, clip=clip)
    )
    [chosen] = ptq.denoising_states(eps_model, x_T, [when], timesteps, alphas_cumprod, clip)
    different = 0
    for k in range(len(timesteps)):
        mask = when.label == k
        if not mask.any():
            continue
        step = len(timesteps) - 1 - k
        x, t = run.x[step].clone(), run.t[step].expand(len(x_T)).clone()
        x[mask], t[mask] = chosen.x[mask], chosen.t[mask]
        with torch.no_grad():
            eps = eps_model(x, t)
        same = (eps == run.eps[step]).flatten(1).all(-1)
        different += int((mask & ~same).sum())
    return different / len(x_T)
