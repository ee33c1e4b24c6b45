r"""The absorbing ("mask") discrete diffusion process.

To the vocabulary of $N$ tokens comes an extra symbol M, whose id is $N$. Each position of a
sequence $x_0$ is masked independently, at the rate $\sigma(t)$: with
$\bar\sigma(t) = \int_0^t \sigma$,

$$ P(x_t^i = x_0^i) = e^{-\bar\sigma(t)}, \qquad
   P(x_t^i = M) = \lambda(t) = 1 - e^{-\bar\sigma(t)} . $$

In reverse, a position that is masked at time $t$ is unmasked before $s < t$ with a probability
$\psi(t, s)$ that depends on the schedule and on the discretisation alone. The number of steps in
which anything changes, and with it the number of network evaluations that a caching sampler needs,
therefore has a closed form: :func:`expected_nfe`.

Sources: Ou et al., "Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions
of Clean Data" (arXiv 2406.03736), Sections 2-3 and Appendix D; Lou et al., "Discrete Diffusion
Modeling by Estimating the Ratios of the Data Distribution" (arXiv 2310.16834); the cosine schedule
as in Sahoo et al., "Simple and Effective Masked Diffusion Language Models" (arXiv 2406.07524).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from repro.errors import ReproError

__all__ = [
    "Cosine",
    "Geometric",
    "LogLinear",
    "Noise",
    "check_probabilities",
    "expected_calls",
    "expected_nfe",
    "grid",
    "log_odds",
    "mask_exactly",
    "mask_independently",
    "noise_by_name",
    "psi_euler",
    "psi_tweedie",
    "reveal_probabilities",
    "step_probabilities",
    "uniforms",
]


class Noise(ABC):
    """A noise schedule on t in [0, 1]; every method maps a tensor of times to one of its shape."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        r"""The rate $\sigma(t) \ge 0$."""

    @abstractmethod
    def total(self, t: Tensor) -> Tensor:
        r"""The total noise $\bar\sigma(t) = \int_0^t \sigma$."""

    def masked(self, t: Tensor) -> Tensor:
        r"""The probability $\lambda(t) = 1 - e^{-\bar\sigma(t)}$ that a position is masked."""
        return -torch.expm1(-self.total(t))


class LogLinear(Noise):
    r"""$\bar\sigma = -\log(1 - (1-\epsilon) t)$, so that $\lambda = (1-\epsilon) t$.

    The default of both SEDD and RADD. (Appendix D.4 of RADD prints a stray leading 1.)
    """

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = eps

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * t)

    def total(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * t)


class Geometric(Noise):
    r"""$\bar\sigma = \sigma_{\min}^{1-t} \sigma_{\max}^{t}$. (At t = 0 it is not quite 0.)"""

    def __init__(self, sigma_min: float = 1e-4, sigma_max: float = 20.0) -> None:
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def rate(self, t: Tensor) -> Tensor:
        return self.total(t) * math.log(self.sigma_max / self.sigma_min)

    def total(self, t: Tensor) -> Tensor:
        return self.sigma_min ** (1 - t) * self.sigma_max**t


class Cosine(Noise):
    r"""$\bar\sigma = -\log(\epsilon + (1-\epsilon)\cos(\pi t / 2))$."""

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = eps

    def rate(self, t: Tensor) -> Tensor:
        angle = math.pi / 2 * t
        kept = self.eps + (1 - self.eps) * torch.cos(angle)
        return math.pi / 2 * (1 - self.eps) * torch.sin(angle) / kept

    def total(self, t: Tensor) -> Tensor:
        return -torch.log(self.eps + (1 - self.eps) * torch.cos(math.pi / 2 * t))


_SCHEDULES = {"log-linear": LogLinear, "geometric": Geometric, "cosine": Cosine}


def noise_by_name(name: str) -> Noise:
    """The schedule called "log-linear", "geometric" or "cosine", with its published constants.

    Raises ValueError for any other name.
    """
    if name not in _SCHEDULES:
        raise ValueError(f"no noise schedule {name!r}; choose one of {', '.join(_SCHEDULES)}")
    return _SCHEDULES[name]()


def log_odds(sbar: Tensor) -> Tensor:
    r"""$\log a$ with $a = e^{-\bar\sigma} / (1 - e^{-\bar\sigma}) = 1 / (e^{\bar\sigma} - 1)$.

    The known scalar between the concrete score and the clean conditional (RADD, Theorem 1).
    """
    return -torch.log(torch.expm1(sbar))


def check_probabilities(p: Tensor, what: str) -> None:
    """Raises ReproError unless all of p, any shape, lie in [0, 1], within rounding.

    A comparison with NaN draws nothing, and a clamp hides what is above 1.
    """
    if not bool(((p >= -1e-6) & (p <= 1 + 1e-6)).all()):
        raise ReproError(f"{what} are no probabilities in [0, 1]; check the schedule and its times")


# Drawing levels and masks


def uniforms(
    n: int,
    how: str = "stratified",
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw n numbers in [0, 1), each uniform on its own, one for each sequence of a batch.

    "independent"; "stratified", one number in each n-th of the interval; "lattice", a grid with one
    common random shift (u + i/n mod 1). All three give unbiased losses, with less variance in the
    last two. Shape (n,). Raises ValueError for another name.
    """
    device = generator.device
    steps = torch.arange(n, dtype=dtype, device=device)
    if how == "independent":
        return torch.rand(n, generator=generator, dtype=dtype, device=device)
    if how == "stratified":
        return (torch.rand(n, generator=generator, dtype=dtype, device=device) + steps) / n
    if how == "lattice":
        return (torch.rand(1, generator=generator, dtype=dtype, device=device) + steps / n) % 1
    raise ValueError(f"no draw {how!r}; choose independent, stratified or lattice")


def mask_independently(x0: Tensor, lam: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mask each position of x0 (B, d) with probability lam (B,). Returns bool (B, d).

    Raises ReproError where lam is no probability.
    """
    check_probabilities(lam, "probabilities of a mask")
    u = torch.rand(x0.shape, generator=generator, device=generator.device).to(x0.device)
    return u < lam[:, None]


def mask_exactly(x0: Tensor, k: Tensor, *, generator: torch.Generator) -> Tensor:
    """A uniformly random set of exactly k (B,) masked positions a row of x0 (B, d). Bool (B, d).

    Raises ReproError unless every k lies in 0 ... d.
    """
    if not bool(((k >= 0) & (k <= x0.shape[1])).all()):
        raise ReproError(f"a row of {x0.shape[1]} tokens cannot have this many masks; give 0 to d")
    u = torch.rand(x0.shape, generator=generator, device=generator.device).to(x0.device)
    return u.argsort(dim=1).argsort(dim=1) < k[:, None]


# The reverse process in discrete steps


def grid(n: int, t_end: float = 1e-5) -> Tensor:
    """The n + 1 times of n equal steps from 1 down to t_end, float64.

    Raises ReproError unless n >= 1 and 0 <= t_end < 1.
    """
    if n < 1 or not 0 <= t_end < 1:
        raise ReproError(f"{n} steps down to t = {t_end:g} are no grid; give n >= 1, t in [0, 1)")
    return torch.linspace(1, t_end, n + 1, dtype=torch.float64)


def psi_tweedie(noise: Noise, t: Tensor, s: Tensor) -> Tensor:
    r"""The exact chance to unmask between t and s < t, for a position masked at t.

    $\psi = (e^{-\bar\sigma(s)} - e^{-\bar\sigma(t)}) / (1 - e^{-\bar\sigma(t)})$, the step of
    Tweedie tau-leaping. Under log-linear noise it is (t - s) / t.
    """
    return (noise.masked(t) - noise.masked(s)) / noise.masked(t)


def psi_euler(noise: Noise, t: Tensor, s: Tensor) -> Tensor:
    r"""The first-order step $\psi = (t - s) \sigma(t) a(t)$, $\log a$ as in :func:`log_odds`.

    It equals :func:`psi_tweedie` under log-linear noise and no other (RADD, Appendix D.4).
    """
    return (t - s) * noise.rate(t) * torch.exp(log_odds(noise.total(t)))


def step_probabilities(
    noise: Noise,
    n: int,
    *,
    psi: Callable[[Noise, Tensor, Tensor], Tensor] = psi_tweedie,
    t_end: float = 1e-5,
) -> Tensor:
    """psi of each of n steps, shape (n,), the last one forced to 1 so that no mask is left."""
    t = grid(n, t_end)
    steps = psi(noise, t[:-1], t[1:])
    steps[-1] = 1.0
    return steps


def reveal_probabilities(steps: Tensor) -> Tensor:
    r"""$r_k = \psi_k \prod_{j<k} (1 - \psi_j)$: the chance that a position is unmasked in step k.

    steps: psi in the order of sampling, shape (n,). Returns (n,), which sums to 1 after a forced
    last step.
    """
    survive = torch.cumprod(1 - steps, dim=0)
    return steps * torch.cat([torch.ones_like(survive[:1]), survive[:-1]])


def expected_nfe(reveal: Tensor, length: int) -> float:
    r"""Expected number of steps that change a sequence: $\sum_k 1 - (1 - r_k)^l$ (RADD, Eq. 3.4).

    reveal: r (n,); length: the number l of positions that start masked. With r_k = 1/n (log-linear
    noise) this is $n (1 - (1 - 1/n)^l)$. A cache that serves a batch of B sequences only when none
    of them changes needs expected_nfe(reveal, B * length). Raises ReproError where r_k is no
    probability.
    """
    check_probabilities(reveal, "chances to be unmasked in a step")
    return float(-torch.expm1(length * torch.log1p(-reveal.clamp(max=1.0))).sum())


def expected_calls(reveal: Tensor, length: int) -> float:
    """Expected network calls of the caching sampler.

    They differ from :func:`expected_nfe` at both ends: the first step always calls the network, and
    a change in the last step needs no further call. A call in step k > 1 follows a change in k - 1.
    """
    return 1.0 + expected_nfe(reveal[:-1], length)
