"""Consistency distillation: boundary, exact functions, order of the solvers, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.slimflow import consistency as cd
from methods.slimflow import method as slim
from repro.diffusion import flow
from repro.errors import ReproError

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@given(st.floats(0.05, 2.0))
def test_boundary_and_first_step(sigma_data):
    x, image = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1)
    f = cd.consistency(lambda x, t: image, sigma_data)
    assert torch.equal(f(x, torch.ones(4, dtype=F64)), x)
    assert torch.equal(f(x, torch.zeros(4, dtype=F64)), image)


@given(st.floats(1e-3, 0.999), st.floats(0.05, 2.0))
def test_coefficients_are_those_of_noise_levels(t, sigma_data):
    sigma = (1 - t) / t
    skip, out = cd.coefficients(torch.tensor([t], dtype=F64), sigma_data)
    total = sigma**2 + sigma_data**2
    assert float(skip) * t == pytest.approx(sigma_data**2 / total, rel=1e-9)
    assert float(out) == pytest.approx(sigma / math.sqrt(total), rel=1e-9)


@pytest.mark.parametrize("spacing", ["even", "karras"])
def test_times_go_from_noise_to_the_image(spacing):
    grid = cd.times(18, spacing)
    assert len(grid) == 19 and float(grid[-1]) == 1
    assert 0 < float(grid[0]) < 0.02 and bool((grid.diff() > 0).all())
    t, later = cd.neighbours(flow.uniform_times(18 * 4, torch.Generator().manual_seed(0)), grid)
    assert torch.equal(t, grid[:-1].repeat_interleave(4))
    assert torch.equal(later, grid[1:].repeat_interleave(4))


def test_the_end_of_the_range_has_a_neighbour():
    grid = cd.times(4, "even")
    t, later = cd.neighbours(torch.tensor([slim.EPS, 1.0]), grid)
    assert t.tolist() == [grid[0], grid[3]] and later.tolist() == [grid[1], 1]


def to_point(mu):
    return lambda x, t: (mu - x) / (1 - t[:, None])


@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_the_function_of_one_point_has_no_loss(solver):
    mu, z = normal(1, 3), normal(64, 3, seed=1)
    grid = cd.times(18, "even").double()
    t, later = cd.neighbours(torch.linspace(slim.EPS, 1, 64), grid)
    assert float(later.max()) == 1

    def f(x, t):
        return torch.where((t < 1)[:, None], mu, x)

    loss = cd.consistency_loss(
        f, f, to_point(mu), mu.expand(64, 3), z, t, later, slim.squared, cd.SOLVERS[solver]
    )
    assert float(loss) < 1e-30


def scale(t):
    return (t**2 + (1 - t) ** 2).sqrt()[:, None]


def of_normal(x, t):
    """Velocity between normal noise and normal data: x_t stays normal, of deviation `scale`."""
    return (2 * t - 1)[:, None] / scale(t) ** 2 * x


@pytest.mark.parametrize(("solver", "order"), [("heun", 3), ("euler", 2)])
def test_loss_of_the_exact_function_falls_with_the_order_of_the_solver(solver, order):
    x, z = normal(4000, 2), normal(4000, 2, seed=1)
    t = torch.full((4000,), 0.3, dtype=F64)

    def f(x, t):
        return x / scale(t)

    def loss(step):
        return float(
            cd.consistency_loss(
                f, f, of_normal, x, z, t, t + step, slim.squared, cd.SOLVERS[solver]
            )
        )

    assert math.log2(loss(0.02) / loss(0.01)) == pytest.approx(2 * order, abs=0.2)


def test_gradients_reach_the_student_alone():
    w, u, a = (torch.ones(1, dtype=F64, requires_grad=True) for _ in range(3))
    x, z = normal(8, 2), normal(8, 2, seed=1)
    t = torch.full((8,), 0.5, dtype=F64)
    cd.consistency_loss(
        lambda x, t: w * x, lambda x, t: u * x, lambda x, t: a * x, x, z, t, t + 0.1, slim.squared
    ).backward()
    # x_t goes to 1.105 x_t by Heun: the derivative is 2 (1 - 1.105) x_t^2.
    x_t = (x + z) / 2
    assert float(w.grad) == pytest.approx(float(-0.21 * x_t.square().mean()))
    assert u.grad is None and a.grad is None


def test_target_follows_the_student():
    net = cd.WithTarget(torch.nn.Linear(2, 2, bias=False))
    before = net.target.weight.clone()
    assert not net.target.weight.requires_grad
    with torch.no_grad():
        net.student.weight.add_(1)
    net.follow(0.75)
    assert torch.allclose(net.target.weight, before + 0.25)
    net.follow(0.0)
    assert torch.equal(net.target.weight, net.student.weight)


def test_bad_spacing_is_named():
    with pytest.raises(ReproError, match="no spacing `cosine`; choose even or karras"):
        cd.times(18, "cosine")
