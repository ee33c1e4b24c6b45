"""Grids of any tensor: errors of half a step, codes in their span, 0 a point, all of it finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.quant.affine import Grid, grid_from_range, holding_zero
from repro.quant.floating import float_grid, step_of
from repro.quant.ranges import minmax_grid, shrink_grid
from repro.quant.search import percentile_grid, search_integer_grid

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SEARCHES = (shrink_grid, percentile_grid, search_integer_grid)

tensors = st.builds(
    lambda values, kind, scale, shift: (
        torch.tensor(values, dtype=torch.float64) * 2.0**scale + shift
    ).to(kind),
    st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    st.sampled_from(TYPES),
    st.integers(-20, 14),
    st.sampled_from([0.0, 0.5, -0.5, 3.0, -100.0]),
)


def sound(x, grid):
    """Codes, zero and values of an integer grid."""
    q, found = grid.codes(x), grid(x)
    assert found.dtype == x.dtype and found.isfinite().all()
    assert ((q >= grid.lo) & (q <= grid.hi) & (q == q.round())).all()
    assert grid.lo <= grid.zero_point <= grid.hi and grid.delta > 0 and grid.delta.isfinite()
    assert grid(torch.zeros((), dtype=x.dtype)) == 0


def close(x, grid, ends):
    """Half a step, and the rounding of x/δ, of δ and of x̂ in the type; inside of `ends`."""
    low, high = (end.double() for end in ends)
    wide = x.double().clamp(low, high)
    rounding = 3 * torch.finfo(x.dtype).eps * torch.maximum(-low, high)
    error = (grid(x).double() - wide).abs()
    assert (error <= step_of(grid, x).double() / 2 + rounding).all()


@given(tensors, st.integers(1, 8), st.booleans())
def test_extremes(x, bits, symmetric):
    if symmetric and bits == 1:
        with pytest.raises(ReproError, match="2 to 24"):
            minmax_grid(x, bits, symmetric=True)
        return
    grid = minmax_grid(x, bits, symmetric=symmetric)
    sound(x, grid)
    close(x, grid, grid.span)
    # A rounded zero-point leaves at most half a step of the range out.
    low, high = (float(end) for end in grid.span)
    slack = float(grid.delta) / 2 + 8 * torch.finfo(x.dtype).eps * float(x.double().abs().max())
    assert low - slack <= float(x.min()) and float(x.max()) <= high + slack


@given(tensors, st.integers(1, 8), st.sampled_from(SEARCHES))
def test_searches(x, bits, rule):
    try:
        grid = rule(x, bits)
    except ReproError as error:  # squares and candidates beyond the halves
        assert x.dtype == torch.float16 and "\n" not in str(error)
        return
    sound(x, grid)
    close(x, grid, grid.span)


@given(tensors, st.sampled_from([(2, 1), (3, 2), (2, 5), (4, 3), (5, 2)]))
def test_floats(x, form):
    if x.dtype == torch.float16 and form in ((4, 3), (5, 2)):
        with pytest.raises(ReproError, match="float16"):
            float_grid(x, *form)
        return
    grid = float_grid(x, *form)
    assert grid(x).isfinite().all() and grid(torch.zeros((), dtype=x.dtype)) == 0
    close(x, grid, grid.span)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.integers(1, 8), st.sampled_from(TYPES))
def test_ranges_hold_zero(low, width, bits, kind):
    ends = torch.tensor([low, low + width], dtype=kind).unbind()
    grid = grid_from_range(*ends, bits)
    sound(torch.stack(ends), grid)


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("shift", [5.0, -5.0])
def test_a_range_without_zero_is_widened(rule, shift):
    x = torch.linspace(0, 1, 50) + shift
    grid = rule(x, 8)
    sound(x, grid)
    assert (grid(x) - x).abs().max() <= 6 / 255 + 1e-5


def test_widening_leaves_other_grids_alone():
    grid = Grid(torch.tensor([0.1, 0.1]), torch.tensor([3.0, 300.0]), 0, 15)
    wide = holding_zero(grid, 4)
    assert wide.delta[0] == grid.delta[0] and wide.zero_point[0] == 3
    assert wide.zero_point[1] == 15 and wide.span[0][1] == pytest.approx(-30)


def test_a_range_beyond_the_type_is_refused():
    x = torch.tensor([-65504.0, 65504.0], dtype=torch.float16)
    with pytest.raises(ReproError, match="too wide for torch.float16"):
        minmax_grid(x, 1)
    with pytest.raises(ReproError, match="scores of ranges"):
        shrink_grid(x, 1)
    with pytest.raises(ReproError, match="codes apart"):
        minmax_grid(x, 12)
    assert math.isfinite(float(minmax_grid(x, 8).delta))
