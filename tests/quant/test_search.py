"""Range search: scores, blocks, histograms."""

import pytest
import torch

from repro.errors import ReproError
from repro.quant.affine import Grid, grid_from_range
from repro.quant.ranges import RunningRange, best_candidate, histogram
from repro.quant.scores import COSINE, KL, L1, L24


def candidates(x, bits=8):
    theta = x.abs().amax(-1) / 100 * torch.arange(1, 101.0)[:, None]
    return grid_from_range(-theta, theta, bits)


def slow_best(x, bits, score):
    grids, chosen = candidates(x, bits), []
    for c, row in enumerate(x):
        errors = []
        for k in range(100):
            grid = Grid(grids.delta[k, c], grids.zero_point[k, c], grids.lo, grids.hi)
            errors.append(score(row, grid(row)))
        chosen.append(int(torch.stack(errors).argmin()))
    return chosen


REFERENCE = {
    "l1": (L1, lambda x, y: (x - y).abs().mean()),
    "l2.4": (L24, lambda x, y: (x - y).abs().pow(2.4).mean()),
    "cosine": (COSINE, lambda x, y: 1 - torch.cosine_similarity(x, y, 0)),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_vectorised_search_equals_the_loop(name):
    x = torch.randn(7, 200, generator=torch.Generator().manual_seed(1)).double()
    score, slow = REFERENCE[name]
    assert best_candidate(x, candidates(x, 4), score).tolist() == slow_best(x, 4, slow)


def test_blocks_do_not_change_the_result(monkeypatch):
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(2))
    whole = best_candidate(x, candidates(x), L24)
    monkeypatch.setattr("repro.quant.ranges._BLOCK", 4000)
    assert torch.equal(best_candidate(x, candidates(x), L24), whole)


def test_first_of_equal_candidates_wins():
    x = torch.tensor([[0.0, 1.0]])
    same = grid_from_range(torch.zeros(5, 1), torch.ones(5, 1), 8)
    assert best_candidate(x, same, L24) == 0


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("kind", ["normal", "heavy", "spike"])
def test_histogram_finds_as_good_a_range(bits, kind):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 200_000, generator=generator)
    if kind == "heavy":
        x = x**3
    if kind == "spike":
        x = torch.nn.functional.silu(x) * (torch.rand(x.shape, generator=generator) > 0.5)

    def error(index):
        grids = candidates(x, bits)
        grid = Grid(grids.delta[index], grids.zero_point[index], grids.lo, grids.hi)
        return (x - grid(x)).abs().pow(2.4).mean()

    exact = best_candidate(x, candidates(x, bits), L24, exact=True)
    quick = best_candidate(x, candidates(x, bits), L24)
    assert error(quick) <= 1.002 * error(exact)


def test_histogram_counts_every_value():
    x = torch.randn(2, 1000, generator=torch.Generator().manual_seed(4))
    centres, counts = histogram(x, 64)
    assert counts.sum(-1).tolist() == [1000, 1000]
    mean_error = ((centres * counts).sum(-1) / 1000 - x.mean(-1)).abs()
    assert (mean_error <= (x.amax(-1) - x.amin(-1)) / 128).all()


def test_kl_clips_an_outlier_and_keeps_a_uniform_tensor():
    generator = torch.Generator().manual_seed(5)
    spread = torch.rand(1, 20_000, generator=generator) * 2 - 1
    assert best_candidate(spread, candidates(spread, 4), KL) >= 95
    outlier = torch.cat([torch.randn(1, 20_000, generator=generator), torch.tensor([[60.0]])], 1)
    index = best_candidate(outlier, candidates(outlier, 8), KL)
    assert 60 * (int(index) + 1) / 100 < 15


def test_kl_is_zero_when_every_bin_has_its_own_code():
    x, mass = torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[3.0, 5.0, 2.0]])
    grid = Grid(torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0), 0, 3)
    assert KL(x, grid(x), mass, grid).abs().item() < 1e-6


def test_scores_scale_as_stated():
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(6))
    mass, gain = torch.ones_like(x), (0.5 * x)[None]
    assert COSINE(x, gain, mass, None).abs().item() < 1e-6
    error = L24(x, gain, mass, None)
    assert torch.allclose(error, (0.5 * x).abs().pow(2.4).mean())
    assert torch.allclose(L24(3 * x, 3 * gain, mass, None), 3**2.4 * error)


def test_running_range():
    observer = RunningRange()
    with pytest.raises(ReproError, match="update"):
        observer.grid(8)
    observer.update(torch.tensor([-1.0, 2.0]))
    observer.update(torch.tensor([-3.0, 4.0]))
    low, high = -0.95 - 0.15, 0.95 * 2 + 0.2
    assert torch.isclose(observer.grid(8).delta, torch.tensor((high - low) / 255))
    assert observer.grid(8).zero_point == round(-low / ((high - low) / 255))
    observer.always_zero = True
    assert torch.isclose(observer.grid(8).delta, torch.tensor(high / 255))
    observer.symmetric = True
    assert torch.isclose(observer.grid(8).delta, torch.tensor(high / 127))
