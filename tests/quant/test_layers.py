"""Quantised copies of a network."""

from functools import partial

import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.quant.calibration import CalibrationSet, record, uniform_grid
from repro.quant.layers import (
    QuantisedLayer,
    Recipe,
    activation_quantisers,
    calibrate,
    quantise,
    quantised_layers,
    shortcut_splits,
    use,
)
from repro.quant.ranges import RunningRange, minmax_grid

weights = partial(minmax_grid, channel_wise=True)


def recipe(weight_bits=8, activation_bits=(8,), **options):
    return Recipe(weight_bits, activation_bits, weights, lambda widths: RunningRange(), **options)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = UNet(
        resolution=8, in_channels=1, channels=32, mult=(1, 2), blocks=1, attention=(4,), dropout=0.0
    ).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 10, 500, 999])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("side", ["input", "output"])
def test_switched_off_is_bit_identical(network, inputs, side):
    quantised = quantise(network, recipe(side=side))
    assert torch.equal(use(quantised, weights=False, activations=False)(*inputs), network(*inputs))


def test_sixteen_bit_weights_are_nearly_exact(network, inputs):
    quantised = use(quantise(network, recipe(16)), activations=False)
    assert 0 < relative(quantised(*inputs), network(*inputs)) < 1e-3


@pytest.mark.parametrize("side", ["input", "output"])
def test_more_bits_are_closer(network, inputs, side):
    quantised = calibrate(quantise(network, recipe(8, (8, 4), side=side)), [inputs])
    errors = [relative(use(quantised, activations=a)(*inputs), network(*inputs)) for a in (8, 4)]
    assert 0 < errors[0] < errors[1] / 3


def test_every_layer_is_wrapped_and_the_original_is_not(network):
    quantised = quantise(network, recipe())
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(quantised_layers(quantised)) == len(layers)
    assert not any(isinstance(m, QuantisedLayer) for m in network.modules())


def test_weights_take_at_most_two_to_the_bits_values(network):
    for layer in quantised_layers(quantise(network, recipe(3))).values():
        assert max(len(row.unique()) for row in layer.weight.flatten(1)) <= 8


def test_edges_stay_at_eight_bits_and_the_last_output_is_free(network, inputs):
    quantised = quantise(network, recipe(4, (4,), side="output", edge_bits=8, last_output=False))
    layers = quantised_layers(quantised)
    assert {n for n, m in layers.items() if m.weight_bits == 8} == {"conv_in", "conv_out"}
    assert layers["conv_in"].activations[0].widths == (8,)
    assert len(layers["conv_out"].activations) == 0
    out = calibrate(quantised, [inputs])(*inputs)
    assert len(out.unique()) > 200
    use(quantised, activations=4)
    with pytest.raises(ReproError, match="6-bit"):
        use(quantised, activations=6)


def test_uncalibrated_and_empty_sets_are_refused(network, inputs):
    with pytest.raises(ReproError, match="calibrate"):
        use(quantise(network, recipe()))(*inputs)
    with pytest.raises(ReproError, match="empty"):
        calibrate(quantise(network, recipe()), [])


def test_recipes_that_match_nothing_are_refused(network):
    with pytest.raises(ReproError, match="no layer"):
        quantise(network, recipe(layers=(nn.Conv1d,)))
    with pytest.raises(ReproError, match="nowhere"):
        quantise(network, recipe(splits={"nowhere": 3}))
    with pytest.raises(ReproError, match="split"):
        quantise(network, recipe(splits={"conv_in": 1}))


def test_quantised_input_is_not_overwritten(network, inputs):
    x = inputs[0].clone()
    calibrate(quantise(network, recipe(side="input")), [inputs])(*inputs)
    assert torch.equal(inputs[0], x)


def test_attention_products(network, inputs):
    plain = calibrate(quantise(network, recipe(None, (8,))), [inputs])
    quantised = quantise(network, recipe(None, (8,), attention_bits=(4, 8)))
    assert relative(use(quantised, activations=False)(*inputs), network(*inputs)) < 1e-5
    calibrate(quantised, [inputs])
    names = [n for n in activation_quantisers(quantised) if n.endswith("quantised_attend.q")]
    blocks = [m for m in network.modules() if hasattr(m, "attend")]
    assert len(names) == len(blocks) > 0
    assert relative(quantised(*inputs), network(*inputs)) > relative(
        plain(*inputs), network(*inputs)
    )


def test_gradient_reaches_the_input_and_the_weights(inputs):
    layer = nn.Sequential(nn.Conv2d(1, 2, 3))
    quantised = calibrate(quantise(layer, recipe(4, (4,))), [inputs[:1]])
    x = inputs[0].clone().requires_grad_()
    quantised(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert quantised_layers(quantised)["0"].layer.weight.grad.abs().sum() > 0


def test_quantised_weight_is_computed_once_and_follows_refresh(network):
    layer = quantised_layers(quantise(network, recipe(4)))["conv_in"]
    with torch.inference_mode():
        first = layer.weight
        assert layer.weight is first
    assert not first.is_inference()
    layer.weight_grids = [weights(layer.layer.weight, 2)]
    layer.refresh()
    with torch.no_grad():
        assert not torch.equal(layer.weight, first)


# Shortcut splitting -------------------------------------------------------------------------------


def test_splits_are_where_the_encoder_joins(network):
    splits = shortcut_splits(network)
    assert splits == {
        "up.0.block.0.nin_shortcut": 64,
        "up.0.block.1.nin_shortcut": 32,
        "up.1.block.0.nin_shortcut": 64,
        "up.1.block.1.nin_shortcut": 64,
    }


def test_split_layer_is_a_sum_of_two_halves():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(12, 5, 1))
    x = torch.randn(2, 12, 4, 4)
    split = quantise(layer, recipe(4, (4,), splits={"0": 7}))
    off = use(split, weights=False, activations=False)(x)
    w, b = layer[0].weight, layer[0].bias
    halves = nn.functional.conv2d(x[:, :7], w[:, :7]) + nn.functional.conv2d(x[:, 7:], w[:, 7:], b)
    assert torch.allclose(off, halves, atol=1e-6)
    with torch.no_grad():
        calibrate(split, [(x,)])
        on = split(x)
        wrapped = quantised_layers(split)["0"]
        parts = [
            nn.functional.conv2d(q(h), g(p))
            for q, h, g, p in zip(
                wrapped.activations,
                x.split([7, 5], 1),
                wrapped.weight_grids,
                w.split([7, 5], 1),
                strict=True,
            )
        ]
    assert torch.allclose(on, parts[0] + parts[1] + b[:, None, None], atol=1e-5)


def test_split_ranges_resolve_the_small_half():
    small = torch.linspace(-1, 1, 101)
    both = minmax_grid(torch.cat([small, 100 * small]), 8, symmetric=True)
    own = minmax_grid(small, 8, symmetric=True)
    assert torch.isclose(both.delta, torch.tensor(0.787402), atol=1e-6)
    assert set(both.codes(small).tolist()) == {-1, 0, 1}
    assert torch.isclose(both.delta / own.delta, torch.tensor(100.0))
    errors = [(grid(small) - small).square().mean() for grid in (both, own)]
    assert errors[0] > 1e3 * errors[1]


# Calibration sets ---------------------------------------------------------------------------------


def walk(eps_model):
    x = torch.arange(6.0).reshape(6, 1)
    for step in (30, 20, 10, 0):
        x = x - eps_model(x, torch.full((6,), step))
    return x


def test_record_keeps_what_the_network_saw():
    run = record(lambda x, t: x / 2, walk)
    assert run.t.tolist() == [30, 20, 10, 0]
    assert torch.equal(run.x[2], run.x[0] / 4) and torch.equal(run.eps, run.x / 2)
    assert torch.equal(run.final, run.x[3] / 2)


def test_uniform_grid_takes_steps_at_a_stride_from_the_first():
    run = record(lambda x, t: x / 2, walk)
    chosen = uniform_grid(run, 2, 3)
    assert chosen.t.tolist() == [30, 30, 30, 10, 10, 10]
    assert torch.equal(chosen.x[:3], run.x[0, :3]) and torch.equal(chosen.x[3:], run.x[2, 3:])
    with pytest.raises(ReproError, match="fewer"):
        uniform_grid(run, 5, 3)


def test_batches_cover_the_set():
    chosen = CalibrationSet(torch.arange(5.0)[:, None], torch.arange(5))
    assert [len(x) for x, _ in chosen.batches(2)] == [2, 2, 1]
