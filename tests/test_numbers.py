"""Where numbers leave the floats."""

import numpy as np
import pytest
import torch

from repro import numbers
from repro.errors import ReproError

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_comes_back():
    assert torch.equal(numbers.to_bytes(numbers.from_bytes(LEVELS)), LEVELS)
    assert numbers.from_bytes(LEVELS)[[0, 255]].tolist() == [-1, 1]


def test_levels_are_the_nearest():
    x = torch.linspace(-1.1, 1.1, 10_001, dtype=torch.float64)
    error = numbers.from_bytes(numbers.to_bytes(x)).double() - x.clamp(-1, 1)
    assert error.abs().max() <= 0.5 / 127.5 + 1e-6


def test_an_evaluation_that_casts_takes_the_level_below():
    middle = (LEVELS[:-1].float() + 0.75) / 127.5 - 1
    assert torch.equal(numbers.to_bytes(middle, down=True), LEVELS[:-1])
    assert torch.equal(numbers.to_bytes(middle), LEVELS[1:])


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([0.0, torch.nan]),
        torch.tensor([0.0, torch.inf]),
        torch.tensor([0.0, 255.0]),
        torch.tensor([0, 1]),
        torch.tensor([]),
    ],
)
def test_what_is_no_picture_is_refused(x):
    with pytest.raises(ReproError, match="pictures"):
        numbers.to_bytes(x)


def test_floats_are_no_bytes():
    with pytest.raises(ReproError, match="uint8"):
        numbers.from_bytes(torch.zeros(3))


def test_finite_hands_on_what_it_is_given():
    x, y = torch.ones(3), np.ones(3, dtype=int)
    assert numbers.finite(x, "values") is x and numbers.finite(y, "values") is y


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_finite_is_refused(value):
    for x in (torch.tensor([1.0, value]), np.array([1.0, value]), torch.tensor([1j, value])):
        with pytest.raises(ReproError, match="values are not finite"):
            numbers.finite(x, "values")


def test_largest_and_smallest_are_those_of_torch():
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    x[3, 2] = -torch.inf
    for dim in (0, 1, -1):
        assert torch.equal(numbers.argmax(x, dim, "scores"), x.argmax(dim))
    x[3, 2] = torch.inf
    assert torch.equal(numbers.argmin(x, 1, "scores"), x.argmin(1))


@pytest.mark.parametrize(
    "row", [[1.0, torch.nan], [1.0, torch.inf], [-torch.inf, -torch.inf], [torch.nan, torch.nan]]
)
def test_no_index_stands_for_nan(row):
    x = torch.tensor([[1.0, 2.0], row])
    with pytest.raises(ReproError, match="scores"):
        numbers.argmax(x, 1, "scores")
    with pytest.raises(ReproError, match="scores"):
        numbers.argmin(-x, 1, "scores")


def test_an_entry_has_to_have_weight():
    assert numbers.argmax(torch.tensor([[0.0, 0.5]]), 1, "chances", above=0.0) == 1
    with pytest.raises(ReproError, match="chances"):
        numbers.argmax(torch.zeros(1, 2), 1, "chances", above=0.0)
    with pytest.raises(ReproError, match="nothing to choose"):
        numbers.argmax(torch.zeros(2, 0), 1, "chances")


@pytest.mark.parametrize("value", [-1.0, torch.nan, 3.0])
def test_bounds(value):
    assert numbers.at_least(2.0, 0.0, "it", below=3.0) == 2
    with pytest.raises(ReproError, match="it is"):
        numbers.at_least(value, 0.0, "it", below=3.0)
