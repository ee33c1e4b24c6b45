"""Grids against values printed by the released quantisers, and their general properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.quant.affine import Grid, code_span, grid_from_range, nearest
from repro.quant.ranges import minmax_grid, shrink_grid
from repro.quant.rounding import hard_rounding, initial_alpha, rectified_sigmoid, soft_rounding

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])
W = torch.tensor([[-1, 0.5, 0.25, 0.75], [0.1, 0.2, -0.3, 0.05]])


def close(value, expected, tolerance=1e-6):
    return torch.allclose(value, torch.tensor(expected), rtol=0, atol=tolerance)


MAX = [
    ({"bits": 4}, 1 / 6, 6, [-1, -2 / 3, -1 / 3, -1 / 6, 0, 0, 1 / 3, 2 / 3, 1.5]),
    (
        {"bits": 8},
        0.00980392,
        102,
        [-1, -0.598039, -0.254902, -0.098039, 0, 0.04902, 0.303922, 0.696078, 1.5],
    ),
    (
        {"bits": 8, "symmetric": True},
        0.01181102,
        0,
        [-1.003937, -0.602362, -0.248031, -0.094488, 0, 0.047244, 0.295276, 0.69685, 1.5],
    ),
    (
        {"bits": 4, "symmetric": True},
        0.2142857,
        0,
        [-1.071429, -0.642857, -0.214286, 0, 0, 0, 0.214286, 0.642857, 1.5],
    ),
    ({"bits": 4, "always_zero": True}, 1 / 6, 0, [0, 0, 0, 0, 0, 0, 1 / 3, 2 / 3, 1.5]),
]
MSE = [
    (
        {"bits": 4},
        0.1633333,
        6,
        [-0.98, -0.653333, -0.326667, -0.163333, 0, 0, 0.326667, 0.653333, 1.47],
    ),
    ({"bits": 4, "always_zero": True}, 0.1, 0, [0, 0, 0, 0, 0, 0, 0.3, 0.7, 1.5]),
]


@pytest.mark.parametrize(
    "rule, options, delta, zero, expected",
    [(minmax_grid, *row) for row in MAX] + [(shrink_grid, *row) for row in MSE],
)
def test_initial_grid_of_q_diffusion(rule, options, delta, zero, expected):
    grid = rule(X, **options)
    assert close(grid.delta, delta, 1e-7) and grid.zero_point == zero
    assert close(grid(X), expected)


def test_channel_wise_grids():
    grid = minmax_grid(W, 4, channel_wise=True)
    assert close(grid.delta.flatten(), [0.1166667, 0.0333333])
    assert grid.zero_point.flatten().tolist() == [9, 9]
    assert close(grid(W), [[-1.05, 0.4666667, 0.2333333, 0.7], [0.1, 0.2, -0.3, 0.0666667]])
    assert close(shrink_grid(W, 4, channel_wise=True).delta[1], [0.033])


def test_one_sided_range_is_widened_unless_faithful():
    x = torch.tensor([0.2, 0.4, 0.9, 1.0])
    faithful = minmax_grid(x, 4, faithful=True)
    assert close(faithful.delta, 0.0533333)
    assert close(faithful(x), [0.21333, 0.42667, 0.8, 0.8], 1e-5)
    mended = minmax_grid(x, 4)
    assert (mended(x) - x).abs().max() <= mended.delta / 2 * (1 + 1e-6)


def test_symmetric_shrink_search_is_refused():
    with pytest.raises(ReproError, match="minmax_grid"):
        shrink_grid(X, 8, symmetric=True)


@pytest.mark.parametrize("bad", [torch.tensor([]), torch.tensor([1.0, float("nan")])])
def test_useless_tensors_are_refused(bad):
    with pytest.raises(ReproError):
        minmax_grid(bad, 8)


def test_bits_out_of_range_are_refused():
    with pytest.raises(ReproError, match="bits"):
        code_span(0)


def test_constant_tensor_gives_a_finite_grid():
    grid = minmax_grid(torch.zeros(5), 8)
    assert torch.equal(grid(torch.zeros(5)), torch.zeros(5))
    for rule in (minmax_grid, shrink_grid):
        assert torch.isfinite(rule(torch.full((5,), 0.7), 8)(torch.full((5,), 0.7))).all()


def test_step_gradient():
    grid = minmax_grid(X, 8)
    delta = grid.delta.clone().requires_grad_()
    Grid(delta, grid.zero_point, grid.lo, grid.hi)(torch.tensor(0.7)).backward()
    assert close(delta.grad, -0.4, 1e-4)
    half = (grid.delta / 2).requires_grad_()
    Grid(half, grid.zero_point, grid.lo, grid.hi)(torch.tensor(1.5)).backward()
    assert half.grad == grid.hi - grid.zero_point


def test_straight_through_gradient_of_the_input():
    x = torch.tensor([-9.0, 0.3, 9.0], requires_grad=True)
    minmax_grid(X, 8)(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_nearest_is_half_to_even():
    assert nearest(torch.tensor([0.5, 1.5, 2.5, -0.5])).tolist() == [0, 2, 2, 0]


def test_adaround_initialisation():
    grid = shrink_grid(W, 4, channel_wise=True)
    alpha = initial_alpha(W / grid.delta)
    assert close(alpha[0], [-0.239229, -0.747215, -1.371480, -0.239230], 2e-6)
    assert close(rectified_sigmoid(alpha)[0], [0.428572, 0.285714, 0.142857, 0.428571])
    assert close(grid(W, soft_rounding(alpha))[0], [-1, 0.5, 0.25, 0.7])
    assert torch.equal(grid(W, hard_rounding(alpha)), grid(W))


def test_rectified_sigmoid_saturates_at_log_eleven():
    h = rectified_sigmoid(torch.tensor([2.397895, -2.397895, 0.0, 1.0]))
    assert close(h, [1, 0, 0.5, 0.777270])


# Properties ---------------------------------------------------------------------------------------

widths = st.integers(2, 8)
values = st.lists(
    st.floats(-100, 100, width=32, allow_subnormal=False), min_size=2, max_size=40
).map(torch.tensor)


@st.composite
def ranges(draw):
    low = draw(st.floats(-50, -0.015625, width=32))
    high = draw(st.floats(0.015625, 50, width=32))
    return torch.tensor(low), torch.tensor(high)


@settings(max_examples=60, deadline=None)
@given(values, ranges(), widths)
def test_idempotent(x, ends, bits):
    grid = grid_from_range(*ends, bits)
    assert torch.equal(grid(grid(x)), grid(x))


@settings(max_examples=60, deadline=None)
@given(values, ranges(), widths)
def test_error_is_at_most_half_a_step_inside_the_span(x, ends, bits):
    grid = grid_from_range(*ends, bits)
    low, high = grid.span
    inside = x.clamp(float(low), float(high))
    assert (grid(inside) - inside).abs().max() <= grid.delta * (0.5 + 1e-4)


@settings(max_examples=60, deadline=None)
@given(values, ranges(), widths)
def test_monotone_and_bounded(x, ends, bits):
    grid = grid_from_range(*ends, bits)
    y = grid(x.sort().values)
    low, high = grid.span
    assert (y.diff() >= 0).all() and y.min() >= low and y.max() <= high


@settings(max_examples=60, deadline=None)
@given(values, ranges(), widths, st.sampled_from([0.125, 0.5, 2.0, 8.0]))
def test_scale_equivariant(x, ends, bits, c):
    grid = grid_from_range(*ends, bits)
    scaled = grid_from_range(c * ends[0], c * ends[1], bits)
    assert torch.equal(scaled(c * x), c * grid(x))


@settings(max_examples=60, deadline=None)
@given(values, ranges(), widths)
def test_in_place_equals_the_definition(x, ends, bits):
    grid = grid_from_range(*ends, bits)
    assert torch.equal(grid.apply_(x.clone()), grid(x))


def test_in_place_per_channel():
    w = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    grid = minmax_grid(w, 4, channel_wise=True)
    assert torch.equal(grid.apply_(w.clone()), grid(w))
