"""Searches with a common budget, QuEST's ranges, and grids per channel of an activation."""

from functools import partial

import pytest
import torch

from repro.errors import ReproError
from repro.quant.affine import Grid
from repro.quant.ranges import minmax_grid
from repro.quant.search import (
    Sampled,
    dimension_grid,
    percentile_grid,
    released_edge_grid,
    search_float_grid,
    search_integer_grid,
)

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])


def error(x, grid):
    return float((grid(x) - x).square().mean())


def slow_integer_search(x, bits, symmetric):
    errors, grids = [], []
    for factor in torch.linspace(0.1, 1.2, 111, dtype=torch.float64).to(x):
        if symmetric:
            top = 2 ** (bits - 1) - 1
            grid = Grid(factor * (x.abs().max() / top), torch.tensor(0.0), -top - 1, top)
        else:
            top = 2**bits - 1
            delta = factor * ((x.max() - x.min()) / top)
            grid = Grid(delta, torch.round(-factor * x.min() / delta), 0, top)
        grids.append(grid)
        errors.append((grid(x) - x).double().square().mean())
    return grids[int(torch.stack(errors).argmin())]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_integer_search_equals_the_loop(bits, symmetric):
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) ** 3
    slow = slow_integer_search(x, bits, symmetric)
    grid = search_integer_grid(x, bits, symmetric=symmetric)
    assert (grid.lo, grid.hi) == (slow.lo, slow.hi)
    assert grid.delta == slow.delta and grid.zero_point == slow.zero_point
    rows = search_integer_grid(x, bits, symmetric=symmetric, channel_wise=True)
    assert rows.delta.shape == (4, 1)
    assert rows.delta[2] == search_integer_grid(x[2], bits, symmetric=symmetric).delta


def test_one_sided_search():
    x = torch.rand(500, generator=torch.Generator().manual_seed(1))
    grid = search_integer_grid(x, 4, always_zero=True)
    assert grid.zero_point == 0 and (grid.lo, grid.hi) == (0, 15)
    assert error(x, grid) <= error(x, minmax_grid(x, 4, always_zero=True))


# Percentiles --------------------------------------------------------------------------------------


def test_percentile_of_an_even_ramp():
    grid = percentile_grid(torch.linspace(-1, 3, 100_001), 4)
    assert torch.isclose(grid.delta, torch.tensor(0.266133), atol=1e-6, rtol=0)
    assert torch.isclose(grid.delta, torch.tensor(4 * 0.998 / 15), atol=1e-6, rtol=0)
    assert grid.zero_point == 4


def test_percentile_clips_rare_outliers():
    x = 0.5 * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    x[:20] = 30
    covering, clipping = (percentile_grid(x, 4, percentiles=(p,)) for p in (0.99999, 0.9999))
    assert error(x, clipping) == pytest.approx(0.0836, rel=0.05)
    assert error(x, covering) == pytest.approx(0.2250, rel=0.05)
    chosen = percentile_grid(x, 4)
    assert error(x, chosen) <= error(x, clipping)
    assert chosen(torch.tensor(30.0)) < 5


def test_percentile_of_nine_values():
    grid = percentile_grid(X, 4)
    assert torch.isclose(grid.delta, torch.tensor(0.166027), atol=1e-6, rtol=0)
    assert grid.zero_point == 6
    expected = [-0.99616, -0.664107, -0.332053, -0.166027, 0, 0, 0.332053, 0.664107, 1.49424]
    assert torch.allclose(grid(X), torch.tensor(expected), atol=5e-6, rtol=0)


# Channels of activations --------------------------------------------------------------------------


def test_channel_grids_of_convolution_and_linear_inputs():
    x = torch.stack([X[:8], 10 * X[:8]]).reshape(1, 2, 2, 4)
    grid = dimension_grid(x, 4, minmax_grid, 1)
    assert grid.delta.shape == (1, 2, 1, 1)
    assert torch.allclose(grid.delta.flatten(), torch.tensor([0.113333, 1.133333]), atol=1e-6)
    assert grid.zero_point.flatten().tolist() == [9, 9]
    assert torch.equal(grid.apply_(x.clone()), grid(x))
    tokens = x.reshape(1, 2, 8).transpose(1, 2)
    assert dimension_grid(tokens, 4, minmax_grid, -1).delta.shape == (1, 1, 2)
    assert dimension_grid(tokens, 4, search_float_grid, -1).maxval.shape == (1, 1, 2)
    assert dimension_grid(tokens, 4, percentile_grid, -1).delta.shape == (1, 1, 2)


def test_released_edge_grid():
    grid = released_edge_grid(X)
    assert torch.isclose(grid.delta, torch.tensor(0.00585938))
    assert (grid.lo, grid.hi) == (-257, 256) and grid(torch.tensor(1.5)) == 1.5


# Observer -----------------------------------------------------------------------------------------


def test_sampled_observer_sees_all_of_small_batches():
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    observer = Sampled(minmax_grid)
    with pytest.raises(ReproError, match="update"):
        observer.grid(8)
    for batch in x.split(2):
        observer.update(batch)
    assert observer.grid(8).delta == minmax_grid(x, 8).delta
    channels = Sampled(minmax_grid, dim=1)
    for batch in x.split(2):
        channels.update(batch)
    assert torch.equal(channels.grid(4).delta, dimension_grid(x, 4, minmax_grid, 1).delta)


@pytest.mark.parametrize("rule", [search_integer_grid, search_float_grid])
def test_thinned_sample_finds_as_good_a_range(rule):
    x = torch.randn(8, 16, 32, 32, generator=torch.Generator().manual_seed(3))
    x = x * x.abs()
    observer = Sampled(partial(rule), limit=2048)
    for batch in x.split(2):
        observer.update(batch)
    assert sum(k.numel() for k in observer.kept) < 10_000
    assert observer.grid(4).span[1] < x.max()
    assert error(x, observer.grid(4)) < 1.15 * error(x, rule(x, 4))
