"""PTQ4DM against values printed by its released quantiser, and its calibration sets."""

from statistics import NormalDist

import pytest
import torch
from torch import nn

from methods.ptq4dm import method as ptq
from repro.diffusion.samplers import ddim
from repro.diffusion.schedules import alphas_cumprod, linear_betas, timesteps_quad
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.quant.affine import grid_from_range
from repro.quant.layers import quantise, quantised_layers
from repro.quant.scores import COSINE, L24

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])
PHI = NormalDist().cdf


def grid(x, bits, **options):
    return grid_from_range(*ptq.search_range(x, bits, **options), bits)


def close(value, expected, tolerance=1e-6):
    return torch.allclose(value, torch.tensor(expected), rtol=0, atol=tolerance)


# Range --------------------------------------------------------------------------------------------


def test_eight_bits():
    found = grid(X, 8)
    assert close(found.delta, 3 / 255, 1e-8) and found.zero_point == 128
    expected = [-1, -0.6, -0.247059, -0.094118, 0, 0.047059, 0.305882, 0.694118, 1.494118]
    assert close(found(X), expected)


def test_four_bits():
    found = grid(X, 4)
    assert close(found.delta, 0.186, 1e-7) and found.zero_point == 7
    assert close(found(X), [-0.93, -0.558, -0.186, -0.186, 0, 0, 0.372, 0.744, 1.488])


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided(sign):
    x = sign * X.abs()
    found = grid(x, 8)
    assert close(found.delta, 1.5 / 255, 1e-8)
    assert found.zero_point == (0 if sign > 0 else 255)
    assert (found(x) - x).abs().max() <= found.delta / 2 * (1 + 1e-5)


def test_smoothing():
    observer = ptq.SmoothedRange((8, 4))
    observer.update(X)
    observer.update(2 * X)
    for bits, end, delta in ((8, 1.65, 0.01294118), (4, 1.5345, 0.2046)):
        low, high = observer.range[bits]
        assert close(low, -end) and close(high, end)
        assert close(observer.grid(bits).delta, delta, 1e-7)


def test_first_of_four_batches_weighs_most():
    observer = ptq.SmoothedRange((8,))
    for value in (1.0, 0.0, 0.0, 0.0):
        observer.update(torch.tensor([-value, value]))
    assert close(observer.range[8][1], 0.9**3)


def test_sidedness_is_decided_on_the_first_batch():
    observer = ptq.SmoothedRange((8,))
    observer.update(X.abs())
    observer.update(X)
    assert observer.range[8][0] == 0


def test_per_channel():
    weight = torch.tensor([[-1, 0.5, 0.25, 0.75], [0.1, 0.2, -0.3, 0.05]])
    found = ptq.weight_grid(weight, 8)
    assert found.delta.shape == (2, 1)
    assert close(found.delta.flatten(), [2 / 255, 0.6 / 255], 1e-8)


@pytest.mark.parametrize("c", [0.25, 2.0, 1024.0])
def test_step_scales_with_the_tensor(c):
    for bits in (4, 8):
        assert grid(c * X, bits).delta == c * grid(X, bits).delta


def test_cosine_cannot_see_a_gain_error():
    mass, half = torch.ones(1, len(X)), 0.5 * X[None, None]
    assert COSINE(X[None], half, mass, None).abs().item() < 1e-6
    assert close(((0.5 * X - X) ** 2).mean(), 0.25 * float((X**2).mean()))
    assert L24(X[None], half, mass, None).item() > 0.01


# Recipe -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = UNet(
        resolution=8, in_channels=1, channels=32, mult=(1, 2), blocks=1, attention=(4,), dropout=0.0
    ).eval()
    nn.init.normal_(made.conv_out.weight, std=0.02)
    return made.requires_grad_(False)


def test_recipe_skips_conv1d_and_the_last_output(network):
    layers = quantised_layers(quantise(network, ptq.recipe(6, (6,))))
    assert layers["conv_in"].weight_bits == layers["conv_out"].weight_bits == 8
    assert layers["temb.dense.0"].weight_bits == 6
    assert len(layers["conv_out"].activations) == 0
    with pytest.raises(ReproError, match="no layer"):
        quantise(nn.Sequential(nn.Conv1d(3, 3, 1)), ptq.recipe(8, (8,)))


# Calibration set ----------------------------------------------------------------------------------


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_released_distribution():
    k = ptq.ndtc_wide(200_000, 250, rng()).label
    for step, p in ((0, PHI(-0.99)), (249, 1 - PHI(1.49))):
        frequency = float((k == step).double().mean())
        assert abs(frequency - p) < 5 * (p * (1 - p) / 200_000) ** 0.5
    assert round(PHI(-0.99), 4) == 0.1611 and round(1 - PHI(1.49), 4) == 0.0681


def test_paper_distribution():
    k = ptq.ndtc_paper(200_000, 250, rng()).label.double()
    assert abs(float(k.std()) - 11.18) < 0.1
    assert abs(float(k.mean()) - 99.5) < 0.1  # 100 less half a step of truncation
    assert abs(float(((k - 100).abs() <= 22).double().mean()) - 0.95) < 0.01


def test_released_pairing_is_off():
    when = ptq.ndtc_released(1000, 20, rng())
    assert torch.equal(when.state, 18 - when.label) and when.raw
    assert int(when.state.min()) == -1
    pairs = ptq.ndtc_released(1000, 20, rng(), raw=False)
    labels = ptq.ndtc_released(1000, 20, rng(), mispaired=False)
    assert torch.equal(pairs.state, when.state) and not pairs.raw
    assert torch.equal(labels.state, when.label) and labels.raw
    right = ptq.ndtc_wide(1000, 20, rng())
    assert torch.equal(right.state, right.label) and torch.equal(right.label, when.label)


def test_single_steps_reach_both_ends():
    assert ptq.single_step(3, 20, 0.0).state.tolist() == [0, 0, 0]
    assert ptq.single_step(3, 20, 1.0).state.tolist() == [19, 19, 19]


def test_uniform_covers_every_step():
    assert sorted(set(ptq.uniform(500, 20, rng()).state.tolist())) == list(range(20))


ABAR = alphas_cumprod(linear_betas())
TAU = timesteps_quad(1000, 12)


def denoise(network, when, n=24):
    """A calibration set, and the (x, t, ε) of every step of the same chains."""
    noise, seen = torch.randn(n, 1, 8, 8, generator=rng(7)), {}

    def remember(step, t, x, eps):
        seen[11 - step] = (x.clone(), t.clone(), eps.clone())

    x_0 = ddim(network, noise, TAU, ABAR, callback=remember)
    [chosen] = ptq.denoising_states(network, noise, [when], TAU, ABAR)
    return chosen, seen, x_0


def test_pairing_is_exact(network):
    """Feeding the set to the network gives the ε of sampling bit for bit."""
    when = ptq.uniform(24, 12, rng(1))
    chosen, seen, _ = denoise(network, when)
    for k in set(when.state.tolist()):
        mask = when.state == k
        x, t, eps = seen[k]
        assert torch.equal(chosen.x[mask], x[mask]) and torch.equal(chosen.t[mask], t[mask])
        full = x.clone()
        full[mask] = chosen.x[mask]
        label = t.clone()
        label[mask] = chosen.t[mask]
        assert torch.equal(network(full, label)[mask], eps[mask])


def test_released_set_breaks_the_pairing(network):
    when = ptq.ndtc_released(24, 12, rng(1))
    chosen, seen, x_0 = denoise(network, when)
    assert torch.equal(chosen.t, when.label * 250 // 12)
    for i, (state, label) in enumerate(zip(when.state.tolist(), when.label.tolist(), strict=True)):
        assert torch.equal(chosen.x[i], x_0[i] if state < 0 else seen[state][0][i])
        assert not torch.equal(network(chosen.x, chosen.t)[i], seen[label][2][i])


def test_one_pass_serves_several_sets(network):
    noise = torch.randn(24, 1, 8, 8, generator=rng(7))
    choices = [ptq.uniform(24, 12, rng(1)), ptq.single_step(24, 12, 0.5)]
    together = ptq.denoising_states(network, noise, choices, TAU, ABAR)
    for when, chosen in zip(choices, together, strict=True):
        [alone] = ptq.denoising_states(network, noise, [when], TAU, ABAR)
        assert torch.equal(chosen.x, alone.x) and torch.equal(chosen.t, alone.t)


def test_other_sources():
    when = ptq.TimeSteps(torch.tensor([0, 11]), torch.tensor([0, 11]))
    x_0, noise = torch.ones(2, 1, 8, 8), torch.randn(2, 1, 8, 8, generator=rng())
    mimic = ptq.training_mimic(x_0, noise, when, TAU, ABAR)
    assert torch.allclose(mimic.x[0], x_0[0], atol=0.06)
    expected = ABAR[800].sqrt() * x_0[1] + (1 - ABAR[800]).sqrt() * noise[1]
    assert torch.allclose(mimic.x[1], expected.float())
    for chosen, source in (
        (ptq.noise_samples(noise, when, TAU), noise),
        (ptq.image_samples(x_0, when, TAU), x_0),
    ):
        assert torch.equal(chosen.x, source) and chosen.t.tolist() == [0, 800]


# Operations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_sampling_without_quantisers_is_ddim(network, eta, clip):
    noise = torch.randn(4, 1, 8, 8, generator=rng(3))
    ours = ptq.sample_with(
        network, noise, TAU, ABAR, lambda name, x: x, eta=eta, generator=rng(4), clip=clip
    )
    theirs = ddim(network, noise, TAU, ABAR, eta=eta, generator=rng(4), clip=clip)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_tensor_quantiser_quantises_only_what_it_is_told(network):
    noise = torch.randn(8, 1, 8, 8, generator=rng(3))

    def run(through):
        return ptq.sample_with(network, noise, TAU, ABAR, through, generator=rng(4), clip=1.0)

    through = ptq.TensorQuantiser(8)
    plain = run(through)
    assert torch.equal(run(through.only()), plain)
    coarse = run(through.only("sample"))
    assert len(coarse.unique()) <= 256 and not torch.equal(coarse, plain)
    assert (coarse - plain).square().mean() < 0.05 * plain.square().mean()
    with pytest.raises(ReproError, match="sigma"):
        through.only("sigma")
