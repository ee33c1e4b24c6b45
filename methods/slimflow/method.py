r"""SlimFlow (Zhu, Liu and Liu, ECCV 2024), in its symbols; times as in the released code.

Noise z at t = 0, image x at t = 1. Pairs (z, x) come from a teacher's deterministic sampler.

Annealing Reflow trains a small flow v_φ on pairs whose noise end is mixed with fresh noise,

    z^β = √(1 − β(k)²) z + β(k) z',   x_t^β = t x + (1 − t) z^β,
    L = E ‖v_φ(x_t^β, t) − (x − z^β)‖²                                                  (eq. 9)

with β from 1 (independent noise: a first flow on the teacher's images) to 0 (reflow) in training.
Each pair serves twice, since z and x may be mirrored together.

Flow-Guided Distillation then trains a one-step student v_φ' that starts from v_φ: besides the
regression on pairs, fresh noise n is sent through the student's own first step and one more Euler
step of the frozen v_φ, and the student has to reach that end at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.diffusion.flow import TIME_SCALE, Velocity, interpolate, velocity_loss
from repro.diffusion.schedules import expand
from repro.errors import ReproError

EPS = 1e-3
"""The smallest time ε that a network meets."""

Distance = Callable[[Tensor, Tensor], Tensor]

# Schedules of β ------------------------------------------------------------------------------


def linear(k: int, K: float) -> float:
    """1 − min(1, k / K), the default with K = 300,000 of 800,000 updates."""
    return 1.0 - min(1.0, k / K)


def cosine(k: int, K: float) -> float:
    """(1 + cos(π min(1, k / K))) / 2."""
    return (1.0 + math.cos(math.pi * min(1.0, k / K))) / 2.0


def exponential(k: int, K: float) -> float:
    """exp(−k / K)."""
    return math.exp(-k / K)


def reflow(k: int, K: float) -> float:
    """0: plain reflow."""
    return 0.0


def independent(k: int, K: float) -> float:
    """1: the coupling stays random, a first flow on the teacher's images."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, float], float]] = {
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "reflow": reflow,
    "independent": independent,
}


def schedule(name: str) -> Callable[[int, float], float]:
    """β(k, K) by name.

    Raises ReproError where there is none of that name.
    """
    if name not in SCHEDULES:
        raise ReproError(f"no schedule `{name}`; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


# Annealing Reflow ----------------------------------------------------------------------------


def anneal(z: Tensor, z_fresh: Tensor, beta: float) -> Tensor:
    """z^β = √(1 − β²) z + β z': of variance 1 for every β in [0, 1]."""
    if beta == 0.0:
        return z
    return math.sqrt(1.0 - beta**2) * z + beta * z_fresh


def flip_pairs(z: Tensor, x: Tensor, coins: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror noise and image (B, C, H, W) together where the coin (B,) bool says so.

    The released code tosses one coin for the whole batch; a coin a pair has the same expectation
    and a smaller variance.
    """
    coins = coins[:, None, None, None]
    return torch.where(coins, z.flip(-1), z), torch.where(coins, x.flip(-1), x)


def annealing_reflow_loss(
    v: Velocity, z: Tensor, x: Tensor, t: Tensor, beta: float, z_fresh: Tensor
) -> Tensor:
    """Eq. 9, mean over elements: noise z, image x and fresh noise z' (B, ...), t (B,) in [ε, 1]."""
    return velocity_loss(v, x, anneal(z, z_fresh, beta), t)


# Flow-Guided Distillation --------------------------------------------------------------------


def one_step(v: Velocity, z: Tensor) -> Tensor:
    """z + v(z, ε): images (B, ...) from noise in one full Euler step."""
    return z + first_velocity(v, z)


def first_velocity(v: Velocity, z: Tensor) -> Tensor:
    """v(z, ε), in the precision of z (B, ...)."""
    return v(z, z.new_full((len(z),), EPS)).to(z.dtype)


def two_step_target(v_phi: Velocity, n: Tensor, first: Tensor, s: Tensor) -> Tensor:
    """Where two Euler steps from noise n end: m = n + s p, then q = m + (1 − s) v_φ(m, s).

    first: p (B, ...), the velocity of the first step: the student's own (released code) or
    v_φ(n, ε) (the paper's equation). s (B,). No gradient passes.
    """
    with torch.no_grad():
        m = n + expand(s, n) * first.detach()
        return m + expand(1 - s, n) * v_phi(m, s).to(n.dtype)


def distil_loss(v: Velocity, z: Tensor, x: Tensor, distance: Distance) -> Tensor:
    """D(z + v_φ'(x_ε, ε), x) for pairs (z, x) (B, ...), with x_ε = ε x + (1 − ε) z."""
    t = z.new_full((len(z),), EPS)
    return distance(z + first_velocity(v, interpolate(x, z, t)), x)


def two_step_loss(
    p: Tensor, v_phi: Velocity, n: Tensor, s: Tensor, distance: Distance, first: Tensor
) -> Tensor:
    """D(n + p, sg(q)) for fresh noise n (B, ...), p = v_φ'(n, ε), s (B,) ~ U[0.2, 0.8].

    first: the velocity that leads to the second step, see `two_step_target`.
    """
    return distance(n + p, two_step_target(v_phi, n, first, s))


def flow_guided_loss(
    v: Velocity,
    v_phi: Velocity,
    z: Tensor,
    x: Tensor,
    n: Tensor,
    s: Tensor,
    distance: Distance,
    *,
    own_first_step: bool = True,
) -> Tensor:
    """`distil_loss` of pairs (z, x) plus `two_step_loss` of fresh noise n, all (B, ...); s (B,).

    The student meets both batches in one call, which takes two thirds of the time of two.
    """
    x_eps = interpolate(x, z, z.new_full((len(z),), EPS))
    of_pairs, p = first_velocity(v, torch.cat([x_eps, n])).chunk(2)
    if own_first_step:
        first = p
    else:
        with torch.no_grad():
            first = first_velocity(v_phi, n)
    return distance(z + of_pairs, x) + two_step_loss(p, v_phi, n, s, distance, first)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """ℓ2: mean squared difference. Of images or of velocities from one noise it is the same."""
    return (a - b).square().mean()


def feature_distance(stages: nn.Sequential, taps: tuple[int, ...]) -> Distance:
    """A perceptual distance: squared difference of normalised activations, as in LPIPS.

    Activations behind the stages of the given indices are normalised to length 1 over channels;
    squared differences are summed over channels and averaged over positions and images, and the
    stages are summed. There are no learned weights of channels, unlike in LPIPS.
    """
    # Two thirds of the time on a CPU, for pooling and sums over channels.
    stages = stages.to(memory_format=torch.channels_last)

    def activations(x: Tensor) -> list[Tensor]:
        kept = []
        for i, stage in enumerate(stages[: max(taps) + 1]):
            x = stage(x)
            if i in taps:
                kept.append(F.normalize(x.float(), dim=1, eps=1e-6))
        return kept

    def distance(a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(activations(a), activations(b), strict=True)
        return sum(((f - g).square().sum(1).mean() for f, g in pairs), a.new_zeros(()))

    return distance


# What else the released training fixes ----------------------------------------------------------


def learning_rate(step: int, lr: float = 2e-4, warmup: int = 5000, *, resumed=False) -> float:
    """lr · min(step / warmup, 1): the very first update has rate 0; none when resumed (stage 2)."""
    return lr if resumed else lr * min(step / warmup, 1.0)


def data_velocity(network: Callable[[Tensor, Tensor], Tensor], floor: float) -> Velocity:
    """v(x_t, t) = (F(x_t, 999 t) − x_t) / max(1 − t, floor): F predicts the image.

    The paper's networks predict v itself and spend part of 800,000 updates on learning to pass the
    noise through a U-Net; the small networks of short trainings here have no time for that. One
    step from the noise returns F. ``floor`` bounds the weight of late times in the loss.
    """

    def v(x: Tensor, t: Tensor) -> Tensor:
        image = network(x, TIME_SCALE * t).to(x.dtype)
        return (image - x) / expand((1 - t).clamp(min=floor), x)

    return v


def empirical_velocity(data: Tensor) -> Velocity:
    """The exact velocity between noise and an empirical distribution (M, D), coupled at random.

    v(x, t) = (E[x_1 | x_t = x] − x) / (1 − t), an average of the data with softmax weights.
    """

    def v(x: Tensor, t: Tensor) -> Tensor:
        s = t[:, None]
        gaps = (x[:, None] - s[..., None] * data).square().sum(-1)
        mean = torch.softmax(-gaps / (2 * (1 - s) ** 2), dim=1) @ data
        return (mean - x) / (1 - s)

    return v
