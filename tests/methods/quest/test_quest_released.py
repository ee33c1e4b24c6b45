"""Released behaviour of QuEST and of its baselines on a toy network, as numbers.

Made by running the released code itself: QuEST (hatchetProject/QuEST, commit a357018),
`qdiff/quant_layer.py`, `adaptive_rounding.py` and both stages of `post_layer_recon_uncond.py`, with
budgets cut to two epochs and two batches of the second stage, and rates times ten, which move the
toy's numbers; PTQ-D (ziplab/PTQD, commit 6b190f9), `quant_scripts/analyze_error.py` and the sampling
step of `DDIMSampler_quantCorrection_imagenet`; EfficientDM (ThisisBillhe/EfficientDM, commit
293e212), `quant_scripts/quant_layer.py` and the loop of `DDIMSampler_trainer`.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.quest import baselines
from methods.quest import method as qu
from repro.quant import rounded
from repro.quant.affine import Grid
from repro.quant.calibration import CalibrationSet, Trajectory
from repro.quant.layers import activation_quantisers, quantise, quantised_layers

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


def near(found, expected):
    found = torch.as_tensor(found).detach().double().flatten()
    expected = torch.tensor(expected, dtype=torch.float64).flatten()
    return torch.allclose(found, expected, rtol=2e-4, atol=2e-6)


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
