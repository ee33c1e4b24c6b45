"""Identities and closed forms that the implementation has to meet, each as an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from methods.slimflow import method as slim
from repro.diffusion import flow
from repro.nets.ddpmpp import DDPMpp, DDPMppConfig
from repro.training.settings import ema_decay

if TYPE_CHECKING:
    from repro.job import Job

F64 = torch.float64
STEPS = (0, 50_000, 100_000, 150_000, 300_000)
WARM_UP = 300_000
PRINTED = {
    "linear": (1, 0.833333, 0.666667, 0.5, 0),
    "cosine": (1, 0.933013, 0.75, 0.5, 0),
    "exponential": (1, 0.846482, 0.716531, 0.606531, 0.367879),
}
SMALL_NETWORK = DDPMppConfig(
    image_size=16, channels=1, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,)
)


def gap(value: Tensor | list | float, expected: Tensor | list | tuple | float) -> float:
    """Largest absolute difference, in float64."""
    value, expected = (torch.as_tensor(v, dtype=F64) for v in (value, expected))
    return float((value - expected).abs().max())


def normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def schedules() -> dict[str, float]:
    """β at five updates of the default warm-up, against six decimals."""
    return {
        f"beta-{name}": gap([slim.schedule(name)(k, WARM_UP) for k in STEPS], values)
        for name, values in PRINTED.items()
    }


def annealing(generator: Generator) -> dict[str, float]:
    """The mixed noise keeps its variance, and its ends are reflow and a first flow."""
    # Independent unit-variance noises are orthonormal vectors.
    z, fresh = torch.eye(2, dtype=F64)
    betas = torch.linspace(0, 1, 101, dtype=F64).tolist()
    mixed = torch.stack([slim.anneal(z, fresh, beta) for beta in betas])
    pairs, x, other = (normal(generator, 64, 1, 4, 4) for _ in range(3))
    t = torch.rand(64, generator=generator, dtype=F64)

    def v(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x + t[:, None, None, None])

    shuffled = pairs[torch.randperm(64, generator=generator)]
    return {
        "variance": gap(mixed.square().sum(1), torch.ones(101)),
        "correlation": gap(slim.anneal(z, fresh, 0.6)[0], 0.8),
        "reflow-end": gap(
            slim.annealing_reflow_loss(v, pairs, x, t, 0.0, other),
            flow.velocity_loss(v, x, pairs, t),
        ),
        "first-flow-end": gap(
            slim.annealing_reflow_loss(v, pairs, x, t, 1.0, shuffled),
            flow.velocity_loss(v, x, shuffled, t),
        ),
    }


def _to_point(mu: float) -> flow.Velocity:
    return lambda x, t: (mu - x) / (1 - t.reshape(-1, *[1] * (x.ndim - 1)))


def targets(generator: Generator) -> dict[str, float]:
    """Two-step targets of a straight and of a curved flow, and what gradients pass."""
    n, s = normal(generator, 100, 1), 0.2 + 0.6 * torch.rand(100, generator=generator, dtype=F64)
    straight, mu = _to_point(0.7), 0.7
    q = slim.two_step_target(straight, n, straight(n, torch.zeros(100, dtype=F64)), s)
    p = normal(generator, 100, 1)
    student = slim.two_step_loss(p, straight, n, s, slim.squared, p)

    def curved(x: Tensor, t: Tensor) -> Tensor:
        return -x

    one = torch.ones(100, 1, dtype=F64)
    half = slim.two_step_target(curved, one, -one, torch.full((100,), 0.5, dtype=F64))
    general = slim.two_step_target(curved, one, -one, s)
    return {
        "straight-target": gap(q, mu),
        "straight-loss": gap(student, (n + p - mu).square().mean()),
        "curved-target": max(gap(half, 0.25), gap(half - one, -0.75)),
        "curved-general": gap((general - one)[:, 0], s * (1 - s) - 1),
        "stopped-gradient": _gradient_gap(curved),
    }


def _gradient_gap(v_phi: flow.Velocity) -> float:
    """d/dp of (n + p − q)² at n = 1, p = −0.9, s = 0.5, where only the first p may move.

    m = 0.55, q = 0.275, n + p = 0.1: the derivative is 2 (0.1 − 0.275) = −0.35; with a gradient
    through m it would be half of that.
    """
    with torch.inference_mode(False), torch.enable_grad():
        p = torch.tensor([[-0.9]], dtype=F64, requires_grad=True)
        one, half = torch.ones(1, 1, dtype=F64), torch.full((1,), 0.5, dtype=F64)

        slim.two_step_loss(p, v_phi, one, half, slim.squared, p).backward()
    assert p.grad is not None
    return gap(p.grad, -0.35)


def oracle() -> dict[str, float]:
    """The velocity of two points ±1, in six decimals, and its closed form on a grid."""
    v = slim.empirical_velocity(torch.tensor([[-1.0], [1.0]], dtype=F64))
    known = {(0.5, 0): -0.5, (0.5, 0.5): 0.523188, (1, 0.5): -0.0719448, (0.2, 0.9): 8.0}
    x, t = (torch.tensor(c, dtype=F64) for c in zip(*known, strict=True))
    grid_x, grid_t = (
        g.flatten()
        for g in torch.meshgrid(
            torch.linspace(-2, 2, 41, dtype=F64),
            torch.linspace(0, 0.9, 19, dtype=F64),
            indexing="ij",
        )
    )
    closed = (torch.tanh(grid_t * grid_x / (1 - grid_t) ** 2) - grid_x) / (1 - grid_t)
    # The fourth value is 8 up to 2 exp(-36) / 0.1.
    return {
        "oracle": gap(v(x[:, None], t)[:, 0], list(known.values())),
        "oracle-grid": gap(v(grid_x[:, None], grid_t)[:, 0], closed),
    }


def flips(generator: Generator) -> dict[str, float]:
    """An equivariant velocity maps mirrored noise to mirrored images, and its loss is invariant."""
    weight = normal(generator, 6, 6)

    def plain(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ weight + t[:, None, None, None])

    def v(x: Tensor, t: Tensor) -> Tensor:
        return (plain(x, t) + plain(x.flip(-1), t).flip(-1)) / 2

    z, x, fresh = (normal(generator, 8, 1, 6, 6) for _ in range(3))
    t = torch.rand(8, generator=generator, dtype=F64)
    coins = torch.rand(8, generator=generator) < 0.5
    z_flipped, x_flipped = slim.flip_pairs(z, x, coins)
    fresh_flipped, _ = slim.flip_pairs(fresh, x, coins)
    end = flow.euler(v, z, 20)
    return {
        "flip-flow": gap(flow.euler(v, z.flip(-1), 20), end.flip(-1)),
        "flip-loss": gap(
            slim.annealing_reflow_loss(v, z_flipped, x_flipped, t, 0.6, fresh_flipped),
            slim.annealing_reflow_loss(v, z, x, t, 0.6, fresh),
        ),
    }


def training() -> dict[str, float]:
    """The average's ramp and the learning rate, in numbers."""
    average, after = 0.0, []
    for n in range(1, 6):
        decay = ema_decay(n, 0.999999)
        average = decay * average + (1 - decay)
        after.append(average)
    effective = [ema_decay(n, 0.999999) for n in (400_000, 800_000)]
    rates = [slim.learning_rate(n) for n in (0, 2500, 5000)]
    return {
        "average": gap(after, [0.818182, 0.954545, 0.986014, 0.995005, 0.998002]),
        "effective-decay": gap(effective, [0.9999775, 0.9999888]),
        "learning-rate": max(
            gap(rates, [0, 1e-4, 2e-4]), gap(slim.learning_rate(0, resumed=True), 2e-4)
        ),
    }


def samplers(generator: Generator) -> dict[str, float]:
    """Straightness of a constant velocity; how far the two released one-step samplers differ."""
    z = normal(generator, 16, 3)
    constant = normal(generator, 1, 3)

    def v(x: Tensor, t: Tensor) -> Tensor:
        return constant.expand_as(x)

    full = flow.euler(v, z, 1, eps=slim.EPS) - z
    short = (1 - slim.EPS) * constant.expand_as(z)
    return {
        "straightness": flow.straightness(v, z, 100),
        "euler-full-step": gap((full - short).norm() / full.norm(), 1e-3),
    }


def fresh_network(generator: Generator) -> dict[str, float]:
    """A fresh network of the paper's kind returns almost 0, so one step returns the noise."""
    network = DDPMpp(SMALL_NETWORK, generator=torch.Generator().manual_seed(0)).eval()
    z = torch.randn(4, 1, 16, 16, generator=generator)
    with torch.no_grad():
        sample = slim.one_step(flow.network_velocity(network), z)
    return {"fresh-network": gap(sample, z)}


def errors(generator: Generator) -> dict[str, float]:
    """All of the above, by item."""
    return {
        **schedules(),
        **annealing(generator),
        **targets(generator),
        **oracle(),
        **flips(generator),
        **training(),
        **samplers(generator),
        **fresh_network(generator),
    }


def measure(job: Job) -> None:
    """Identities and printed values."""
    for item, error in errors(job.rng("exact")).items():
        job.measure("error", error, item=item)
