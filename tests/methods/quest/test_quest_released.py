"""Released behaviour of QuEST and of its baselines on a toy network, as numbers.

Made by running the released code itself: QuEST (hatchetProject/QuEST, commit a357018),
`qdiff/quant_layer.py`, `adaptive_rounding.py` and both stages of `post_layer_recon_uncond.py`, with
budgets cut to two epochs and two batches of the second stage, and rates times ten, which move the
toy's numbers; PTQ-D (ziplab/PTQD, commit 6b190f9), `quant_scripts/analyze_error.py` and the step
of `DDIMSampler_quantCorrection_imagenet`; EfficientDM (ThisisBillhe/EfficientDM, commit
293e212), `quant_scripts/quant_layer.py` and the loop of `DDIMSampler_trainer`.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.quest import baselines
from methods.quest import method as qu
from repro.errors import ReproError
from repro.quant import rounded
from repro.quant.affine import Grid
from repro.quant.calibration import CalibrationSet, Trajectory
from repro.quant.layers import activation_quantisers, quantise, quantised_layers
from repro.quant.ranges import RunningRange

RELEASED = json.loads(Path(__file__).with_name("released.json").read_text())
TIMES = (80, 20)


def wave(*shape, phase=0.0, size=0.5):
    n = torch.Size(shape).numel()
    return (
        (size * torch.sin(1.7 * torch.arange(n, dtype=torch.float64) + phase))
        .float()
        .reshape(shape)
    )


class Block(nn.Module):
    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(2 if name == "temb_proj" else 4, 4))


class Toy(nn.Module):
    """Two projections of time (`a`, `b`) and two layers of attention (`q`, `k`), of four features.

    Ranges hold 0, and what enters a projection is not constant: its step would learn from the sign
    of rounding errors.
    """

    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(4, 4), nn.Linear(4, 4)
        self.a, self.b, self.attn = Block(["temb_proj"]), Block(["temb_proj"]), Block(["q", "k"])
        for k, name in enumerate(NAMES.values(), 1):
            layer = self.get_submodule(name)
            signs = torch.tensor([1.0, -1.0]).repeat(layer.in_features // 2)
            layer.weight.data = wave(*layer.weight.shape, phase=k / 10).abs() * signs
            layer.bias.data = wave(4, phase=k / 10 + 1, size=0.1)

    def forward(self, x, t):
        time = torch.stack([t / 100 + x[:, 0] / 10, t / 100 - 1 + x[:, 1] / 10], -1).float()
        h = torch.relu(self.body(x) + self.a.temb_proj(time))
        h = h + self.attn.q(h) * self.attn.k(h) + self.b.temb_proj(time)
        return self.out(h - 0.5)


NAMES = {
    "body": "body",
    "a": "a.temb_proj",
    "b": "b.temb_proj",
    "q": "attn.q",
    "k": "attn.k",
    "out": "out",
}
RECIPES = {
    "w4a8-percentile": (8, False, qu.PERCENTILES),
    "w4a4-symmetric": (4, True, qu.SYMMETRIC),
    "w4a8-running": (8, False, qu.RUNNING),
}


def near(found, expected, atol=2e-6):
    found = torch.as_tensor(found).detach().double().flatten()
    expected = torch.tensor(expected, dtype=torch.float64).flatten()
    return torch.allclose(found, expected, rtol=2e-4, atol=atol)


@pytest.fixture(params=RECIPES)
def case(request):
    network = Toy().requires_grad_(False)
    data = CalibrationSet(
        wave(16, 4, phase=0.7, size=1.5), torch.tensor(TIMES).repeat_interleave(8)
    )
    bits, channels, ranges = RECIPES[request.param]
    state = rounded.export(quantise(network, rounded.recipe(network, 4)))
    for k, name in enumerate(NAMES.values(), 1):
        up = wave(*network.get_submodule(name).weight.shape, phase=9 + k / 10) >= 0
        state[f"{name}.0.alpha"] = up.to(torch.uint8)
    grids = qu.Granularity(channels, tables=True)
    found = qu.quantised(network, data, 4, bits, grids, state, ranges)
    return network, data, found, state, RELEASED["quest"][request.param]


def steps(network, name):
    quantiser = activation_quantisers(network)[f"{NAMES[name]}.activations.0"]
    return torch.cat([g.delta.flatten() for g in quantiser.grids[quantiser.bits].grids])


def eps(network, data):
    with torch.no_grad():
        parts = [network(data.x[i], data.t[i]) for i in qu.entries_of(data)]
    return torch.cat(parts)[[0, 9]]


def test_ranges_are_those_released(case):
    _, data, network, _, expected = case
    for name, values in expected["ranges"].items():
        assert near(steps(network, name), values), name
    assert near(eps(network, data), expected["before"])


def test_edges_and_softmax_have_the_released_ranges():
    """The first and last convolution have 256 levels of a symmetric quantiser, the softmax matrix
    8-bit codes from 0; running extremes after the first batch, itself again, and a second one.
    """
    x = wave(2, 3, 2, 2, phase=0.4, size=2.0)
    y = wave(2, 3, 2, 2, phase=1.1, size=3.0) - 0.5
    assert near(qu.edge_grid(x, None).delta, 0.007809368)
    assert near(qu.edge_grid(x, 1).delta, [0.007256213, 0.007493561, 0.007809368])
    assert qu.edge_grid(x, 1).delta.shape == (1, 3, 1, 1)
    edge = qu.RunningEdge()
    softmax = RunningRange(always_zero=True)
    for batch in (x, x, y):
        edge.update(batch)
    assert near(edge.grid(8).delta, 0.008095481)
    assert (edge.grid(8).lo, edge.grid(8).hi) == (-257, 256)
    p, r = (wave(2, 4, 4, phase=a, size=b).softmax(-1) for a, b in ((0.2, 2.0), (0.9, 3.0)))
    for batch in (p, p, r):
        softmax.update(batch)
    assert near(softmax.grid(8).delta, 0.003016209) and float(softmax.grid(8).zero_point) == 0


def test_running_extremes_per_channel_are_refused():
    """The released ones start from those of the last channel and forget that codes are symmetric:
    steps of 4 bits went from (0.265, 0.274, 0.286) to (0.659, 0.662, 0.663) on the same batch.
    """
    teacher = Toy().requires_grad_(False)
    data = CalibrationSet(wave(8, 4), torch.tensor(TIMES).repeat_interleave(4))
    with pytest.raises(ReproError, match="running extremes are of whole tensors"):
        qu.quantised(teacher, data, 4, 4, qu.Granularity(True, True), ranges=qu.RUNNING)


def test_both_stages_are_those_released(case):
    """Weights, biases and activation steps after a first stage of two epochs of four batches of two
    at each step, and a second of two passes of two batches of four: fresh optimisers of activation
    steps included.
    """
    teacher, data, network, state, expected = case
    taught = qu.lesson(teacher, data)
    entries = qu.entries_of(data)
    layers = quantised_layers(network)

    def tune(stage, order, batch, epochs):
        with qu.Tuner(network, taught, state, stage, qu.RELEASED, rate=10.0) as tuner:
            for k, samples in enumerate(order):
                tuner.visit(k % 2)
                pool = entries[k % 2][torch.tensor(samples)]
                for _ in range(epochs):
                    for index in pool.split(batch):
                        tuner.step(index)

    tune("tla", RELEASED["order"]["tla"], 2, 2)
    first = expected["first"]
    assert near(layers[NAMES["a"]].layer.weight, first["weights"])
    assert near(layers[NAMES["b"]].layer.bias, first["bias"])
    for name, values in first["steps"].items():
        assert near(steps(network, name), values), name

    tune("cma", RELEASED["order"]["cma"], 4, 1)
    second = expected["second"]
    assert near(layers[NAMES["q"]].layer.weight[:2], second["weights"])
    assert near(layers[NAMES["k"]].layer.bias, second["bias"])
    for name, values in second["steps"].items():
        assert near(steps(network, name), values), name
    assert near(eps(network, data), expected["after"])


# PTQ-D ------------------------------------------------------------------------------------------


class Disturbed(nn.Module):
    """Adds an error to what it is given."""

    def forward(self, x, t):
        return disturbed(x, t)


class Listed(nn.Module):
    """Gives the outputs of a list, by label."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x, t):
        return self.outputs[int(t[0])][: len(x)]


def disturbed(eps, t):
    gain = torch.where(t == 80, 1.2, 0.9)[:, None, None, None]
    noise = 0.5 * wave(*eps.shape, phase=2.2, size=0.1).sin()
    return gain * eps + wave(1, 3, 1, 1, phase=0.5, size=0.2) + noise


@pytest.fixture
def error_run():
    eps = torch.stack([wave(3, 3, 2, 2, phase=p, size=1.0) for p in (0.3, 0.8)])
    whole = disturbed(eps.flatten(0, 1), torch.tensor(TIMES).repeat_interleave(3)).reshape(
        eps.shape
    )
    run = Trajectory(eps, eps, torch.tensor(TIMES), eps[-1])
    return run, Listed(dict(zip(TIMES, whole, strict=True)))


def test_statistics_of_the_error_are_those_released(error_run):
    """A slope below 0 (-0.05 at the second step) counts as 0."""
    run, network = error_run
    found, released = baselines.correction(network, run), RELEASED["ptq-d"]
    assert near(found.gain, [max(k, 0.0) for k in released["gain"]]) and released["gain"][1] < 0
    assert near(found.bias, released["bias"])
    assert near(found.deviation, released["deviation"])


def test_corrected_sampling_is_that_released(error_run):
    """One step with noise of ones, with and without noise of the sampler."""
    run, _ = error_run
    found = baselines.correction(error_run[1], run)
    eps = baselines.Corrected(Disturbed(), found)
    for step in RELEASED["ptq-d"]["steps"]:
        i = TIMES.index(step["t"])
        alpha, prev, sigma = (0.3, 0.8)[i], (0.8, 0.99)[i], step["sigma"]
        x = run.x[i][:1]
        e = eps(x, torch.tensor([step["t"]]))
        sigma = baselines.absorbed_sigma(
            sigma, alpha, prev, float(found.deviation[i]), float(found.gain[i])
        )
        x0 = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
        x = prev**0.5 * x0 + (1 - prev - sigma**2) ** 0.5 * e + sigma
        assert near(x.flatten()[:6], step["x"])


def test_without_noise_of_the_sampler_there_is_nothing_to_absorb():
    assert baselines.absorbed_sigma(0.0, 0.3, 0.8, 0.1, 0.2) == 0
    assert baselines.absorbed_sigma(0.2, 0.3, 0.8, 0.0, 0.0) == pytest.approx(0.2)


def test_a_step_without_statistics_is_refused(error_run):
    found = baselines.correction(error_run[1], error_run[0])
    with pytest.raises(ReproError, match="no error was collected at step 50"):
        baselines.Corrected(error_run[1], found)(torch.zeros(1, 3, 2, 2), torch.tensor([50]))


# EfficientDM ------------------------------------------------------------------------------------


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        for k, name in enumerate(("l1", "l2"), 1):
            layer = nn.Linear(4, 4)
            layer.weight.data = wave(4, 4, phase=k / 10)
            layer.bias.data = wave(4, phase=k / 10 + 1, size=0.1)
            self.add_module(name, layer)

    def forward(self, x, t):
        h = torch.relu(self.l1(x.flatten(1)) + t[:, None] / 100)
        return self.l2(h - 0.5)[:, :, None, None]


def test_low_rank_training_is_that_released():
    """Four steps on two trajectories, rates falling to 0; updates of rank 32 given, not drawn.

    Weights keep away from the ends of their grids: the released rounding, (round(u) - u) + u, lets
    the last bit decide whether a gradient passes there.
    """
    teacher, released = Pair().requires_grad_(False), RELEASED["efficient-dm"]
    x, t = (
        wave(8, 4, phase=0.7, size=1.5)[:, :, None, None],
        torch.tensor(TIMES).repeat_interleave(4),
    )
    generator = torch.Generator().manual_seed(0)
    network = baselines.naive(teacher, CalibrationSet(x, t), 4, 8, generator)
    with torch.no_grad():
        assert near(network(x, t).flatten()[:8], released["naive"])
    coarse = Grid(torch.tensor([[0.08], [0.09], [0.1], [0.11]]), torch.full((4, 1), 8.0), 0, 15)
    for layer in quantised_layers(network).values():
        layer.weight_grids = [coarse]
        layer.refresh()
    training = baselines.LowRankTraining(network, torch.tensor(TIMES), 4, generator=generator)
    updates = {n: m.layer.parametrizations.weight[0] for n, m in training.layers.items()}
    for k, update in enumerate(updates.values(), 1):
        update.a.data = wave(32, 4, phase=k / 10 + 2)
    for k, states in enumerate(released["states"]):
        state = torch.tensor(states).reshape(3, 4, 1, 1)
        label = torch.full((3,), TIMES[k % 2])
        training.step(state, label, teacher(state, label))
    for name, expected in released["layers"].items():
        assert near(updates[name].a.flatten()[:6], expected["a"])
        assert near(updates[name].b.flatten()[:6], expected["b"], atol=1e-8)
        layer = training.layers[name]
        assert near(layer.weight_grids[0].delta, expected["weight_steps"])
        table = layer.activations[0].grids[8]
        assert near(table.deltas, expected["steps"])
        assert near(table.zero_points, expected["zero_points"])
    done = training.finish()
    assert not any("parametrizations" in name for name, _ in done.named_parameters())
    with torch.no_grad():
        assert near(done(x[:4], t[:4]).flatten()[:8], released["after"])
