"""The choices that the paper compares, on tensors and a small network."""

import pytest
import torch
from torch import nn

from methods.q_diffusion import exact
from methods.q_diffusion import method as qd
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.quant import rounded
from repro.quant.calibration import CalibrationSet, Trajectory
from repro.quant.layers import activation_quantisers, quantise, quantised_layers, use
from repro.quant.ranges import minmax_grid
from repro.quant.reconstruction import units


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    made = UNet(
        resolution=8, in_channels=1, channels=8, mult=(1, 2), blocks=1, groups=4, attention=(4,)
    )
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 1, 8, 8, generator=generator)
    return CalibrationSet(x, torch.randint(0, 1000, (24,), generator=generator))


def seed(number=0):
    return torch.Generator().manual_seed(number)


@pytest.fixture
def run():
    """Eight steps of six chains; x holds 100 · step + chain."""
    x = (100 * torch.arange(8.0)[:, None] + torch.arange(6.0))[..., None]
    return Trajectory(x, x, torch.arange(7, -1, -1) * 10, x[-1])


# Calibration sets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times, steps, total",
    [
        ("uniform", {0, 2, 4, 6}, 12),
        ("uniform-double", {0, 2, 4, 6}, 24),
        ("first-quarter", {0, 1}, 12),
        ("last-quarter", {6, 7}, 12),
    ],
)
def test_sets_hold_the_steps_that_they_are_named_after(run, times, steps, total):
    chosen = qd.part_of_grid(run, run.x, times, 4, 3)
    found = (chosen.x // 100).flatten().long()
    assert set(found.tolist()) == steps and len(chosen) == total
    assert torch.equal(chosen.t, run.t[found])
    assert torch.bincount(found)[sorted(steps)].unique().numel() == 1


def test_first_step_is_fresh_noise(run):
    noise = torch.randn(12, 1)
    chosen = qd.part_of_grid(run, noise, "first-step", 4, 3)
    assert torch.equal(chosen.x, noise) and set(chosen.t.tolist()) == {70}
    with pytest.raises(ReproError, match="first-quarter"):
        qd.part_of_grid(run, noise, "middle", 4, 3)


# Activations --------------------------------------------------------------------------------------


def test_activations_start_from_the_first_states_or_from_random_ones(teacher, data):
    def deltas(generator, samples=6):
        network = quantise(teacher, rounded.recipe(teacher, None, 8))
        qd.initialise(network, data, samples, generator)
        return torch.stack([q.grids[8].delta for q in activation_quantisers(network).values()])

    first = CalibrationSet(data.x[:6], data.t[:6])
    network = quantise(teacher, rounded.recipe(teacher, None, 8))
    qd.initialise(network, first, 100)
    expected = torch.stack([q.grids[8].delta for q in activation_quantisers(network).values()])
    assert torch.equal(deltas(None), expected)
    assert torch.equal(deltas(seed()), deltas(seed())) and not torch.equal(deltas(seed()), expected)


def test_every_grid_sees_what_those_before_it_quantised():
    """As the released wrappers do in the forward pass that initialises them (commit 715783d)."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)).requires_grad_(False)
    x = torch.randn(5, 2, 4, 4, generator=seed())
    network = quantise(plain, rounded.recipe(plain, None, 3))
    network.forward = lambda x, t: network[1](network[0](x))
    qd.initialise(network, CalibrationSet(x, torch.zeros(5)), 5)
    first = x.abs().max() / 3
    seen = plain[0](torch.clamp(torch.round(x / first), -4, 3) * first)
    for layer, expected in ((network[0], first), (network[1], seen.abs().max() / 3)):
        assert float(layer.activations[0].grids[3].delta) == pytest.approx(float(expected))
    assert abs(float(plain[0](x).abs().max() / seen.abs().max()) - 1) > 1e-3


def test_ranges_move_alike_at_every_width(teacher, data):
    moves = {}
    for bits in (8, 4):
        network = quantise(teacher, rounded.recipe(teacher, None, bits))
        qd.initialise(network, data, 8, seed())
        quantiser = quantised_layers(network)["conv_out"].activations[0]
        before = quantiser.grids[bits].delta.clone()
        qd.learn_activation_steps(
            network, teacher, data, 1, bits, lr=1e-3, batch=8, generator=seed()
        )
        moves[bits] = float((quantiser.grids[bits].delta - before).abs())
    assert moves[4] / moves[8] == pytest.approx(16, rel=1e-3)  # Adam's first step is the rate


# Weights ------------------------------------------------------------------------------------------


def test_order_of_execution_differs_from_that_of_registration(teacher, data):
    order = qd.execution_order(teacher, data)
    assert sorted(order) == sorted(units(teacher)) and order != list(units(teacher))
    assert order.index("up.1.block.0") < order.index("up.0.block.0")
    assert not any(m._forward_pre_hooks for m in teacher.modules())


def learn(teacher, data, change):
    network = quantise(teacher, rounded.recipe(teacher, 4))
    qd.learn_weights(
        network, teacher, data, 6, generator=seed(), lr=1e-2, batch=8, change=change
    )  # fmt: skip
    return network


def test_every_departure_gives_weights_of_its_own_and_leaves_dropout_alone(teacher, data):
    changes = ("none", "plain-inputs", "executed-order", "half-regularised",
               "half-regularised-dropout")  # fmt: skip
    found = {}
    for change in changes:
        network = learn(teacher, data, change)
        assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.1}
        assert not network.training
        layers = quantised_layers(network).values()
        found[change] = torch.cat([layer.weight.flatten() for layer in layers])
    assert not torch.equal(found["none"], found["plain-inputs"])
    assert not torch.equal(found["none"], found["executed-order"])
    assert not torch.equal(found["half-regularised"], found["half-regularised-dropout"])
    with pytest.raises(ReproError, match="executed-order"):
        learn(teacher, data, "faster")


def test_learning_lowers_the_error_of_the_network(teacher, data):
    def error(network):
        with torch.no_grad():
            return float((network(data.x, data.t) - teacher(data.x, data.t)).square().mean())

    nearest = quantise(teacher, rounded.recipe(teacher, 4))
    network = quantise(teacher, rounded.recipe(teacher, 4))
    qd.learn_weights(network, teacher, data, 40, generator=seed(), lr=2e-2, batch=8)
    assert error(network) < 0.9 * error(nearest)


# SQuant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (5, 40), (3, 17, 1, 1)])
def test_squant_flips_roundings_until_their_errors_cancel(shape):
    weight = torch.randn(shape, generator=seed())
    grid = minmax_grid(weight, 4, channel_wise=True)
    alpha = qd.squant_directions(weight, grid)
    u = weight / grid.delta
    error = torch.floor(u) + (alpha > 0) - u
    assert error.abs().max() < 1
    nearest = torch.round(u) - u
    assert error.flatten(1).sum(1).abs().max() <= 0.5 + 1e-4
    assert nearest.flatten(1).sum(1).abs().max() > 0.5
    kernels = error.flatten(2).sum(-1).abs() if len(shape) > 2 else error.abs()
    assert kernels.max() <= 1.5 + 1e-4  # a half after the first pass, one more in the second


def test_squant_rounds_whole_networks(teacher, data):
    network = qd.squant(quantise(teacher, rounded.recipe(teacher, 4)))
    assert use(network, activations=False)(data.x, data.t).isfinite().all()


# Shortcuts and errors -----------------------------------------------------------------------------


def test_shortcut_ranges_are_those_of_the_two_parts(teacher, data):
    splits = rounded.splits(teacher)
    name, at = next(iter(splits.items()))
    seen = []
    hook = teacher.get_submodule(name).register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    found = qd.shortcut_ranges(teacher, data, splits, batch=5)
    hook.remove()
    x = torch.cat(seen)
    assert list(found) == list(splits)
    assert found[name] == (float(x[:, :at].abs().max()), float(x[:, at:].abs().max()))
    assert not teacher.get_submodule(name)._forward_pre_hooks


@pytest.mark.parametrize("k", [0.0, 0.3, 0.9])
def test_errors_add_up_as_the_closed_form_says(k):
    assert exact.accumulation_error(seed(), k) < 1e-8


def test_an_error_of_one_step_is_carried_by_the_later_ones():
    abar = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    timesteps = torch.tensor([0, 1, 2])
    last = qd.accumulated_error(0.5, torch.tensor([0, 0, 1.0]).double(), timesteps, abar)
    assert float(last) == pytest.approx(-((1 / 0.9) ** 0.5) * 0.1**0.5)
    first = qd.accumulated_error(0.0, torch.tensor([1.0, 0, 0]).double(), timesteps, abar)
    a, c = (0.5 / 0.1) ** 0.5, 0.5**0.5 - (0.5 / 0.1) ** 0.5 * 0.9**0.5
    assert float(first) == pytest.approx(c * (0.9 / 0.5) ** 0.5 * (1 / 0.9) ** 0.5)
    assert a > 1


# Identities of quantiser, rounding and split ------------------------------------------------------


@pytest.mark.parametrize(
    "item, most",
    [
        ("one-sided-in-half-steps", 1.0001),  # with the range widened to hold 0; float32 slack
        ("error-in-half-steps", 1.0001),
        ("idempotence", 1e-6),
        ("step-gradient", 1e-4),
        ("clipped-gradient", 1e-6),
        ("hard-weights", 1e-6),
        ("joint-step", 1e-6),
        ("joint-codes", 0),
        ("step-ratio", 1e-4),
        ("split-over-joint-error", 1e-3),
    ],
)
def test_identities(item, most):
    every = exact.quantiser_errors() | exact.rounding_errors() | exact.splitting_errors()
    assert every[item] <= most
