"""Learned rounding: regulariser, schedule, straight-through floor."""

import pytest
import torch

from repro.quant.affine import Grid
from repro.quant.rounding import (
    abs_power,
    annealed_beta,
    fixed_rounding,
    hard_rounding,
    straight_through_floor,
    undecided,
)


@pytest.mark.parametrize(
    "beta, expected",
    [
        (20, [0, 0.98847, 0.999999, 1, 0.98847, 0]),
        (11, [0, 0.914101, 0.999512, 1, 0.914101, 0]),
        (2, [0, 0.36, 0.75, 1, 0.36, 0]),
    ],
)
def test_regulariser(beta, expected):
    h = torch.tensor([0, 0.1, 0.25, 0.5, 0.9, 1])
    each = torch.stack([undecided(v, beta) for v in h])
    assert torch.allclose(each, torch.tensor(expected), atol=1e-5)
    assert torch.isclose(undecided(h, beta), torch.tensor(expected).sum(), atol=1e-5)


def test_regulariser_gradient():
    h = torch.tensor([0.1, 0.4, 0.5, 0.8, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: abs_power(x - 0.3, 2.4), h)
    undecided(h, 3.0).backward()
    y = 2 * h.detach() - 1
    assert torch.allclose(h.grad, -2 * 3 * y.sign() * y.abs() ** 2)


@pytest.mark.parametrize(
    "iteration, beta",
    [(1, 20), (3999, 20), (4000, 20), (8000, 15.5), (12000, 11), (16000, 6.5), (20000, 2)],
)
def test_beta_falls_linearly_after_the_warm_up(iteration, beta):
    assert annealed_beta(iteration, 20_000) == pytest.approx(beta)


def test_beta_of_very_short_runs_is_finite():
    assert annealed_beta(1, 1) == pytest.approx(2)
    assert annealed_beta(1, 1, warmup=1.0) == pytest.approx(20)


def test_floor_passes_the_gradient():
    u = torch.tensor([-1.2, 0.3, 2.0], requires_grad=True)
    y = straight_through_floor(u)
    y.sum().backward()
    assert y.tolist() == [-2, 0, 2] and u.grad.tolist() == [1, 1, 1]


def test_fixed_rounding_moves_with_the_weight():
    grid = Grid(torch.tensor(0.25), torch.tensor(8.0), 0, 15)
    w = torch.tensor([-5.0, -0.6, 0.1, 0.9, 5.0], requires_grad=True)
    alpha = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    rounding = fixed_rounding(alpha)
    grid(w, rounding).sum().backward()
    assert w.grad.tolist() == [0, 1, 1, 1, 0]
    with torch.no_grad():
        assert torch.equal(grid(w, rounding), grid(w, hard_rounding(alpha)))
        moved = grid(w + grid.delta, rounding) - grid(w, rounding)
    assert moved[1:4].tolist() == [0.25] * 3
