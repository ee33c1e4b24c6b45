"""PTQ4DM against numbers that its released code (42Shawn/PTQ4DM, 180a4d1) gave on the same inputs.

In the configuration that the arms run: evenly spaced steps, clipped x̂_0, weights per channel and
symmetric outputs at 8 and 6 bits, ranges averaged over four batches with weights and outputs
quantised (order "together"). Made with `space_timesteps`, `SpacedDiffusion` (1000 linear steps
respaced to 20), `backward_t_calib_data_generator`, `QuantModel` and `set_act_quantize_params`.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods.ptq4dm import arms
from methods.ptq4dm import method as ptq
from repro.diffusion.schedules import alphas_cumprod, linear_betas
from repro.quant.layers import quantise, quantised_layers
from repro.suite import zoo
from repro.suite.cards import library

EVEN = [0, 53, 105, 158, 210, 263, 315, 368, 421, 473,
        526, 578, 631, 684, 736, 789, 841, 894, 946, 999]  # fmt: skip


def wave(*shape, a, k):
    """a sin(k i^1.1), i = 1, 2, ...: weights and inputs that need no generator."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (a * torch.sin(k * i**1.1)).float().reshape(shape)


def test_arms_sample_on_the_released_grid():
    card = library.load("ptq4dm")
    weights = {"zoo/digits-unconditional": zoo.shipped("digits-unconditional")[0]}
    for arm in ("denoising", "tensors"):
        params = card.arm_params("smoke", arm) | {"steps": 20}
        protocol = arms.Protocol(zoo.job("ptq4dm", arm, 0, params, weights))
        assert protocol.timesteps.tolist() == EVEN
        # `space_timesteps(1000, "10")`
        assert protocol.grid(10).tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_released_calibration_states():
    """Six draws of v ~ N(0.4, 0.4): the labels, and three values of each state, x̂_0 clipped.

    The network gives ε = 0.8 tanh(x + 0.001 t) and Σ that DDIM does not use.
    """
    draws = torch.tensor([-0.1, 0.02, 0.31, 0.5, 0.97, 1.4])
    labels = (draws * 20).trunc().clamp(0, 19).long()
    assert labels.tolist() == [0, 0, 6, 10, 19, 19]
    x_T = torch.tensor([1.5 * math.sin(1.7 * i + 0.3) for i in range(72)]).reshape(6, 3, 2, 2)
    [chosen] = ptq.denoising_states(
        lambda x, t: 0.8 * torch.tanh(x + 0.001 * t.float()[:, None, None, None]),
        x_T,
        [ptq.TimeSteps(18 - labels, labels, raw=True)],
        torch.tensor(EVEN),
        alphas_cumprod(linear_betas()),
        clip=1.0,
    )
    expected = torch.tensor(
        [
            [0.4389161765575409, 0.8816909790039062, 0.22045978903770447],
            [1.4460232257843018, -1.2028355598449707, 1.4916175603866577],
            [-0.5067935585975647, -1.0436354875564575, -0.28839200735092163],
            [-1.731066107749939, 1.4596812725067139, -1.764586329460144],
            [-0.3070755898952484, 1.0, -0.460416316986084],
            [1.0, -1.0, 1.0],
        ]
    )
    assert torch.allclose(chosen.x.flatten(1)[:, [0, 5, 11]], expected, rtol=0, atol=2e-5)


class Network(nn.Module):
    """A linear embedding of time and three convolutions, (x (B, 2, 4, 4), t (B,)) -> like x."""

    def __init__(self) -> None:
        super().__init__()
        self.temb = nn.Linear(4, 6)
        self.conv_in = nn.Conv2d(2, 6, 3, padding=1)
        self.mid = nn.Conv2d(6, 6, 3, padding=1)
        self.conv_out = nn.Conv2d(6, 2, 3, padding=1)
        for i, p in enumerate(self.parameters()):
            p.data = wave(*p.shape, a=0.6 if p.ndim > 1 else 0.2, k=0.7 + 0.13 * i)

    def forward(self, x, t):
        angles = [torch.sin(t.float() * f) for f in (1, 0.1, 0.01, 0.001)]
        h = self.conv_in(x) + self.temb(torch.stack(angles, 1))[:, :, None, None]
        return self.conv_out(F.silu(self.mid(F.silu(h))))


@pytest.mark.parametrize(
    ("bits", "ranges", "outputs"),
    [
        (
            8,
            {"temb": 0.982784, "conv_in": 4.443003, "mid": 4.053513},
            [2.0952115058898926, 0.1365530639886856, -0.39307576417922974, -0.3538796901702881,
             1.486790657043457, -0.23305176198482513, 1.6555373668670654, 0.3188563585281372],
        ),
        (
            6,
            {"temb": 0.98157, "conv_in": 4.323721, "mid": 3.846755},
            [2.2358551025390625, 0.25630682706832886, -0.4980279207229614, -0.5202652215957642,
             1.5353858470916748, -0.07598003000020981, 1.6469452381134033, 0.38674020767211914],
        ),
    ],
)  # fmt: skip
def test_released_calibration_of_a_network(bits, ranges, outputs):
    """Running ranges and outputs after four batches of growing inputs.

    Later batches exceed the average and are clipped before `mid` sees them; ranges of float
    outputs would give it 4.848384 and 4.692090.
    """
    x = wave(32, 2, 4, 4, a=1.6, k=0.37) * torch.linspace(0.4, 1.6, 32)[:, None, None, None]
    t = torch.arange(32) * 31
    network = quantise(Network().eval(), replace(ptq.recipe(8, (bits,)), edge_bits=None))
    ptq.calibrate(network, zip(x.split(8), t.split(8), strict=True))
    found = {
        name: float(layer.activations[0].observer.range[bits][1])
        for name, layer in quantised_layers(network).items()
        if len(layer.activations)
    }
    assert found == pytest.approx(ranges, abs=1e-5)
    with torch.no_grad():
        y = network(x[:4], t[:4])
    assert y.flatten()[::17].tolist() == pytest.approx(outputs, abs=2e-5)
