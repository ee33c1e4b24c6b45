import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.errors import ReproError
from repro.job import Job
from repro.metrics import cost


def test_counter_counts_calls_and_samples():
    layer = nn.Linear(3, 2)
    counter = cost.NFECounter(layer)
    x = torch.ones(5, 3)
    assert torch.equal(counter(x), layer(x))
    counter(x[:2])
    assert (counter.calls, counter.rows) == (2, 7)
    assert counter.in_features == 3
    counter.reset()
    assert (counter.calls, counter.rows) == (0, 0)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)
        self.line = nn.Conv1d(8, 16, 1)
        self.qkv = nn.Linear(16, 48, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 8)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x, t, scale=1.0):
        h = self.down(self.norm(self.conv(x))) * self.scale
        s = self.line(h.flatten(2)).transpose(1, 2)  # strided, as in attention blocks
        q, k, v = self.qkv(s).reshape(len(x), -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v)
        return self.up(h).mean() + a.mean() + scale * t.sum()


def test_macs_by_hand():
    model, B = Small(), 2
    before = {k: v.clone() for k, v in model.state_dict().items()}
    macs = cost.count_macs(model, torch.ones(B, 3, 16, 16), torch.ones(B), scale=2.0)
    conv = 256 * 8 * 3 * 9 + 64 * 8 * 4 * 9 + 64 * 16 * 8
    conv += 64 * 8 * 4 * 4  # the transposed convolution: 8 x 8 inputs, a 2 x 2 stamp each
    assert macs.conv == B * conv
    assert macs.linear == B * 64 * 16 * 48
    assert macs.attention == B * 2 * 4 * 64 * 64 * 4
    assert macs.total == macs.conv + macs.linear + macs.attention
    assert model.training
    for key, value in model.state_dict().items():
        assert value.device.type == "cpu" and torch.equal(value, before[key])


def test_macs_of_a_network_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Linear(50_000, 50_000)
    assert cost.count_macs(model, torch.ones(3, 50_000)).linear == 3 * 50_000**2


def test_a_linear_layer_alone_is_linear_whatever_its_input():
    layer = nn.Linear(8, 4, bias=False)
    for x in (torch.ones(2, 8), torch.ones(2, 5, 8), torch.ones(2, 8, 5).transpose(1, 2)):
        assert cost.count_macs(layer, x) == cost.Macs(0, x.numel() // 8 * 32, 0)


def test_parameters_and_sizes():
    model = nn.Sequential(nn.Linear(10, 5), nn.LayerNorm(5), nn.Conv2d(2, 4, 3, bias=False))
    weights, rest = 50 + 72, 5 + 10
    assert cost.count_parameters(model) == weights + rest
    model[1].requires_grad_(False)
    assert cost.count_parameters(model, trainable=True) == weights + 5
    assert cost.quantisable_weights(model) == weights
    assert cost.model_size_bytes(model) == 4 * (weights + rest)
    assert cost.model_size_bytes(model, 8) == weights + rest
    assert cost.model_size_bytes(model, 4, honest=True) == weights / 2 + 4 * rest


def test_shared_weights_count_once():
    layer = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(layer, layer)
    assert cost.count_parameters(model) == cost.quantisable_weights(model) == 16


# G bit operations of Q-Diffusion's CIFAR-10 table, as the rule gives them from 6.22186 GMAC
@pytest.mark.parametrize(
    ("w", "a", "expected"),
    [(32, 32, 6582.7), (8, 32, 2289.6), (4, 32, 1144.8), (8, 8, 796.4), (4, 8, 398.2)],
)
def test_bops_of_q_diffusion(w, a, expected):
    assert cost.bops(6_221_860_000, w, a) / 1e9 == pytest.approx(expected, abs=0.06)


def binomial_below(n, k):
    return sum(math.comb(n, i) for i in range(k)) / 2**n


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 20, 25, 101])
def test_the_interval_is_the_tightest_that_covers_the_median(n):
    summary = cost.Latency.of(np.random.default_rng(n).permutation(n))
    assert summary.median == (n - 1) / 2
    k = int(summary.lo) + 1
    assert summary.hi == n - k
    if n >= 6:
        assert 1 - 2 * binomial_below(n, k) >= 0.95
        assert 1 - 2 * binomial_below(n, k + 1) < 0.95
    else:
        assert k == 1


def test_the_interval_of_20_repeats_is_the_textbook_one():
    summary = cost.Latency.of(range(1, 21))
    assert (summary.lo, summary.hi) == (6, 15)


def test_no_repeats_are_refused():
    with pytest.raises(ReproError, match="at least once"):
        cost.Latency.of([])


def test_functions_take_turns():
    calls = []
    rounds = cost.interleaved(
        {name: lambda name=name: calls.append(name) for name in "abc"}, repeats=4, warmup=1
    )
    assert calls[:3] == list("abc")
    assert ["".join(calls[i : i + 3]) for i in range(3, 15, 3)] == ["abc", "bca", "cab", "abc"]
    assert set(rounds) == set("abc") and all(len(v.values) == 4 for v in rounds.values())


def test_ratios_are_taken_within_rounds():
    # the machine slows down threefold: medians of each would hide that b takes twice as long
    a = [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 1.0]
    rounds = cost.Rounds({"a": a, "b": [2 * v for v in a]})
    ratio = rounds.ratio("b", "a")
    assert (ratio.median, ratio.lo, ratio.hi) == (2, 2, 2)


def test_a_median_is_measured_with_its_interval():
    job = Job.for_test()
    cost.measure_interval(job, "seconds", cost.Latency.of([6.0, 2.0, 4.0]), per=2, network="a")
    at = {"network": "a"}
    assert job.measured == [("seconds", at, 2), ("seconds_low", at, 1), ("seconds_high", at, 3)]


def test_latency_sees_a_sleep():
    seconds = cost.latency(lambda: time.sleep(0.01), warmup=1, repeats=6)
    assert 0.01 <= seconds.lo <= seconds.median <= seconds.hi


def test_peak_memory_counts_what_lives_at_once():
    kept = torch.ones(1_000_000)

    def two_at_once():
        a = kept + 1
        b = a * 2
        del a
        return b + 1

    def one_at_a_time():
        for _ in range(5):
            kept + 1

    assert cost.peak_memory(two_at_once) == pytest.approx(8e6, rel=0.01)
    assert cost.peak_memory(one_at_a_time) == pytest.approx(4e6, rel=0.01)
