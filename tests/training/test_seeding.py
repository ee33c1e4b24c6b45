"""Networks are drawn from their stream alone."""

from __future__ import annotations

import torch
from torch import nn

from repro.training.seeding import seed_global, seeded


def test_weights_follow_the_stream_and_nothing_else():
    torch.manual_seed(1)
    first = seeded(lambda: nn.Linear(3, 3), torch.Generator().manual_seed(7))
    used = torch.Generator().manual_seed(7)
    torch.rand(5, generator=used)
    torch.manual_seed(2)
    again = seeded(lambda: nn.Linear(3, 3), used)
    other = seeded(lambda: nn.Linear(3, 3), torch.Generator().manual_seed(8))
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)
    torch.manual_seed(7)
    assert torch.equal(nn.Linear(3, 3).weight, first.weight)


def test_the_global_generator_is_put_back():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeded(lambda: torch.rand(100), torch.Generator().manual_seed(7))
    assert torch.equal(torch.rand(3), expected)


def test_the_global_generator_is_seeded_as_torch_does():
    torch.manual_seed(123)
    expected = torch.rand(3), torch.randn(2)
    seed_global(torch.Generator().manual_seed(123), torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected[0]) and torch.equal(torch.randn(2), expected[1])
