r"""Rectified flow: interpolation of noise and data, its loss, samplers and straightness.

Noise $z$ sits at $t = 0$ and data $x$ at $t = 1$:

$$ x_t = t\, x + (1 - t)\, z, \qquad \frac{\mathrm{d} x_t}{\mathrm{d} t} = v(x_t, t), \qquad
   L = E\, \lVert v(x_t, t) - (x - z) \rVert^2 $$

with any coupling of $z$ and $x$: independent for a first flow (1-rectified), $x$ the end of a
flow started at $z$ for the next ("reflow", 2-rectified). A flow whose paths are straight is sampled
exactly by a single Euler step.

A network that predicts the noise of a variance-preserving diffusion is such a flow too
(`eps_velocity`): both paths mix the same two ingredients, at other times and scales. Along it an
Euler step in $t$ is a DDIM step.

A velocity is called as v(x (B, ...), t (B,)) with t in [0, 1] and returns (B, ...). Samplers run in
inference mode and return an ordinary tensor.

Source: Liu, Gong and Liu, Flow Straight and Fast (arXiv 2209.03003), eqs. 1-3, as in the published
code (gnobitab/RectifiedFlow, commit 5a1fd4d), where networks see the time 999 t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.diffusion.schedules import expand, stratified
from repro.errors import ReproError

__all__ = [
    "Solution",
    "TIME_SCALE",
    "eps_velocity",
    "euler",
    "euler_path",
    "interpolate",
    "network_velocity",
    "rk45",
    "straightness",
    "uniform_times",
    "Velocity",
    "velocity_loss",
]

Velocity = Callable[[Tensor, Tensor], Tensor]

TIME_SCALE = 999.0
"""What the networks of the published code multiply t by."""


def interpolate(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = t x + (1 - t) z: data x and noise z (B, ...), t (B,) -> (B, ...)."""
    t = expand(t, x)
    return t * x + (1 - t) * z


def velocity_loss(v: Velocity, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Mean over all elements of (v(x_t, t) - (x - z))²; x, z (B, ...), t (B,) -> scalar."""
    return (v(interpolate(x, z, t), t).to(x.dtype) - (x - z)).square().mean()


def uniform_times(n: int, generator: torch.Generator, eps: float = 1e-3) -> Tensor:
    """n times t ~ U[eps, 1], one in each of n equal strata, (n,) on the generator's device.

    Strata leave each time uniform and spread a batch evenly, which lowers the variance of a
    gradient; the published code draws independently.
    """
    return eps + (1 - eps) * stratified(n, generator) / n


def network_velocity(network: Callable[[Tensor, Tensor], Tensor]) -> Velocity:
    """The velocity of a network that embeds the time 999 t."""
    return lambda x, t: network(x, TIME_SCALE * t)


def eps_velocity(eps_model: Callable[[Tensor, Tensor], Tensor], alphas_cumprod: Tensor) -> Velocity:
    r"""The flow of a variance-preserving diffusion, $v = \hat x - \hat\varepsilon$.

    $x_t / \sqrt{t^2 + (1 - t)^2}$ is a diffusion state with
    $\sqrt{\bar\alpha} = t / \sqrt{t^2 + (1 - t)^2}$; the real-valued step $\tau$ with that
    $\bar\alpha$ is interpolated linearly in the log signal-to-noise ratio. Its estimates give

    $$ \hat\varepsilon = \varepsilon(x_t / \sqrt{t^2 + (1 - t)^2}, \tau), \qquad
       \hat x = \frac{x_t - (1 - t)\, \hat\varepsilon}{t} $$

    Times outside of the training steps are moved to the nearest one, so that t = 0 starts at the
    last step T - 1, where x_t is nearly the noise.

    Arguments:
        eps_model: (x (B, ...), τ float (B,)) -> ε (B, ...), τ in [0, T - 1].
        alphas_cumprod: ᾱ, shape (T,), descending.
    """
    abar = alphas_cumprod.double()
    # log t / (1 - t) = log sqrt(abar / (1 - abar)) descends with the step.
    table = 0.5 * torch.logit(abar).flip(0)
    steps = torch.arange(len(abar) - 1, -1, -1, dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        levels = table.to(x.device)
        wanted = torch.logit(t.double()).clamp(levels[0], levels[-1])
        right = torch.searchsorted(levels, wanted.contiguous()).clamp(1, len(levels) - 1)
        weight = (wanted - levels[right - 1]) / (levels[right] - levels[right - 1])
        tau = steps.to(x.device)[right - 1] - weight
        s = expand(torch.sigmoid(wanted).to(x.dtype), x)
        eps = eps_model(x / (s**2 + (1 - s) ** 2).sqrt(), tau.float())
        return (x - (1 - s) * eps) / s - eps

    return velocity


@torch.inference_mode()
def _states(v: Velocity, z: Tensor, steps: int, eps: float) -> Iterator[Tensor]:
    """States of Euler's method, the first of them z."""
    if steps < 1:
        raise ReproError(f"a flow needs at least one step, {steps} were asked for")
    x = z
    yield x
    for i in range(steps):
        t = torch.full((len(x),), eps + (1 - eps) * i / steps, dtype=x.dtype, device=x.device)
        x = x + v(x, t).to(x.dtype) / steps
        yield x


def euler(
    v: Velocity, z: Tensor, steps: int, *, eps: float = 0.0, batch: int | None = None
) -> Tensor:
    """Euler's method on t = 0, 1/n, ..., (n - 1)/n: noise z (B, ...) -> images (B, ...).

    Costs n evaluations of v per sample. batch: how many samples go through v at once. eps: the
    published code, whose networks are trained on [eps, 1], squeezes the times into [eps, 1) and
    keeps steps of length 1/n.

    Raises ReproError where ``steps`` is below one.
    """
    ends = []
    for part in z.split(batch or max(len(z), 1)):
        for x in _states(v, part, steps, eps):
            end = x
        ends.append(end)
    return torch.cat(ends).clone()


def euler_path(v: Velocity, z: Tensor, steps: int, *, eps: float = 0.0) -> Tensor:
    """All states of `euler`: noise z (B, ...) -> (steps + 1, B, ...), from z to the images."""
    return torch.stack(list(_states(v, z, steps, eps))).clone()


@dataclass(frozen=True)
class Solution:
    """The end of a flow, and how many evaluations it took (of v on the whole batch)."""

    x: Tensor
    nfe: int


@torch.inference_mode()
def _rk45(v: Velocity, z: Tensor, eps: float, rtol: float, atol: float) -> Solution:
    from scipy.integrate import solve_ivp

    def right(t: float, flat) -> object:
        x = torch.from_numpy(flat).reshape(z.shape).to(z.device, z.dtype)
        times = torch.full((len(z),), t, dtype=z.dtype, device=z.device)
        return v(x, times).double().cpu().numpy().reshape(-1)

    start = z.double().cpu().numpy().reshape(-1)
    found = solve_ivp(right, (eps, 1.0), start, method="RK45", rtol=rtol, atol=atol)
    if not found.success:
        raise ReproError(f"the adaptive solver gave up: {found.message}; lower its tolerances")
    x = torch.from_numpy(found.y[:, -1]).reshape(z.shape).to(z.device, z.dtype)
    return Solution(x, int(found.nfev))


def rk45(
    v: Velocity, z: Tensor, *, eps: float = 1e-3, rtol: float = 1e-5, atol: float = 1e-5
) -> Solution:
    """Adaptive Dormand-Prince (SciPy's RK45) from t = eps to 1: noise z (B, ...) -> `Solution`.

    The published code solves a whole batch as one system, so the steps depend on the batch.

    Raises ReproError where the solver fails.
    """
    found = _rk45(v, z, eps, rtol, atol)
    return Solution(found.x.clone(), found.nfe)


def straightness(v: Velocity, z: Tensor, steps: int = 100, *, eps: float = 0.0) -> float:
    r"""How far paths are from straight: 0 for a constant velocity.

    $$ S = \frac{1}{N} \sum_i \operatorname{mean}_b
           \lVert N (x_{i + 1} - x_i) - (x_N - x_0) \rVert_2 $$

    over the Euler path of z (B, ...) with N = ``steps``; the norm is not squared, as in the
    published code.
    """
    path = euler_path(v, z, steps, eps=eps)
    bend = path.diff(dim=0) * steps - (path[-1] - path[0])
    return float(bend.flatten(2).norm(dim=2).double().mean())
