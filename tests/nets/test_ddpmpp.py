"""DDPM++: published counts and layout, resampling, and a small configuration."""

from __future__ import annotations

import pytest
import torch

from repro.metrics.cost import count_macs, count_parameters
from repro.nets.ddpmpp import DDPMpp, DDPMppConfig, resample

SLIM = dict(ch_mult=(1, 2, 2), num_res_blocks=2)
# configuration -> parameters, entries of the state dict, conv + linear GMACs, all GMACs
PUBLISHED = [
    ({}, 61_804_419, 565, 10.339, 10.847),
    (SLIM, 27_906_179, 289, 6.574, 6.895),
    (SLIM | dict(nf=96), 15_707_235, 289, 3.699, 3.899),
    (SLIM | dict(nf=64), 6_989_891, 289, 1.645, 1.751),
    (dict(nf=64, ch_mult=(1, 1, 2), num_res_blocks=1), 3_437_123, 213, 0.705, 0.736),
    (SLIM | dict(image_size=64), 27_906_179, 289, 26.287, 26.690),
    (
        dict(image_size=64, nf=64, ch_mult=(1, 1, 2), num_res_blocks=1),
        3_536_195,
        213,
        2.820,
        2.920,
    ),
]
SMALL = DDPMppConfig(
    image_size=16, channels=1, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,)
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("options", "parameters", "entries", "conv_linear", "total"), PUBLISHED)
def test_published_counts(options, parameters, entries, conv_linear, total):
    config = DDPMppConfig(**options)
    with torch.device("meta"):
        network = DDPMpp(config).eval()
        size = config.image_size
        macs = count_macs(network, torch.zeros(1, 3, size, size), torch.zeros(1))
    assert count_parameters(network) == parameters
    assert len(network.state_dict()) == entries
    assert (macs.conv + macs.linear) / 1e9 == pytest.approx(conv_linear, abs=6e-4)
    assert macs.total / 1e9 == pytest.approx(total, abs=6e-4)


def test_published_layout():
    with torch.device("meta"):
        network = DDPMpp(DDPMppConfig(**SLIM))
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert shapes["sigmas"] == (1000,)
    assert shapes["all_modules.0.weight"] == (512, 128)
    assert shapes["all_modules.2.weight"] == (128, 3, 3, 3)
    assert shapes["all_modules.3.Dense_0.bias"] == (128,)
    assert shapes["all_modules.5.Conv_2.weight"] == (128, 128, 1, 1)
    assert shapes["all_modules.7.NIN_3.W"] == (256, 256)
    assert "all_modules.3.Conv_2.weight" not in shapes
    kinds = [type(m).__name__ for m in network.all_modules]
    assert kinds.count("Attention") == 4  # two in the encoder, the middle, one in the decoder
    assert kinds[-2:] == ["GroupNorm", "Conv2d"]


def test_a_fresh_network_returns_almost_zero():
    network = DDPMpp(SMALL, generator=generator()).eval()
    x = torch.randn(2, 1, 16, 16, generator=generator(1))
    out = network(x, torch.tensor([0.999, 500.0]))
    assert out.shape == x.shape
    assert float(out.detach().abs().max()) < 1e-3


def test_time_and_input_matter_once_the_last_layers_do():
    network = DDPMpp(SMALL, generator=generator()).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "Conv_1" in name or name == "all_modules.15.weight":
                weight.normal_(0, 0.1, generator=generator(len(name)))
        x = torch.randn(1, 1, 16, 16, generator=generator(1))
        early, late = (network(x, torch.tensor([t])) for t in (10.0, 900.0))
    assert not torch.allclose(early, late, rtol=1e-3)


def test_resampling_repeats_and_averages():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    up = resample(x, "up")
    assert up.shape == (1, 1, 8, 8) and torch.equal(up[..., ::2, ::2], x)
    assert torch.equal(resample(up, "down"), x)
    assert resample(x, "none") is x


def test_initial_weights_follow_the_generator():
    a, b, c = (DDPMpp(SMALL, generator=generator(s)).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["all_modules.2.weight"], c["all_modules.2.weight"])
