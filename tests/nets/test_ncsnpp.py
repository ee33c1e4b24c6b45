"""NCSN++: the published counts, the released layout, and gradients of a small configuration."""

import pytest
import torch

from repro.nets.ncsnpp import NCSNpp, NCSNppConfig, count_macs, downsample, upsample

SMALL = NCSNppConfig(
    image_size=32, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), num_scales=10
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return NCSNpp()


def test_published_counts(full):
    trainable = sum(p.numel() for p in full.parameters() if p.requires_grad)
    fixed = sum(p.numel() for p in full.parameters() if not p.requires_grad)
    assert (trainable, fixed) == (61_433_473, 128)
    assert len(full.state_dict()) == 522
    assert len(full.all_modules) == 54
    assert full.state_dict()["sigmas"].shape == (2000,)


def test_released_layout(full):
    kinds = {i: type(m).__name__ for i, m in enumerate(full.all_modules)}
    assert kinds[0] == "GaussianFourierProjection"
    assert kinds[1] == kinds[2] == "Linear"
    assert [i for i, kind in kinds.items() if kind == "PyramidDownsample"] == [9, 15, 21]
    assert [i for i, kind in kinds.items() if kind == "Attention"] == [27]
    assert kinds[52] == "GroupNorm" and kinds[53] == "Conv2d"
    shapes = {k: tuple(v.shape) for k, v in full.state_dict().items()}
    assert shapes["all_modules.0.W"] == (128,)
    assert shapes["all_modules.4.Dense_0.weight"] == (128, 512)
    assert shapes["all_modules.8.Conv_2.weight"] == (128, 128, 1, 1)
    assert shapes["all_modules.9.Conv2d_0.weight"] == (128, 1, 3, 3)
    assert shapes["all_modules.27.NIN_3.W"] == (256, 256)
    assert "all_modules.4.Conv_2.weight" not in shapes


def test_published_macs():
    macs = count_macs(NCSNppConfig(), 256)
    assert macs["conv_linear"] / 1e9 == pytest.approx(661.04, abs=0.01)
    assert macs["nin"] / 1e9 == pytest.approx(0.27, abs=0.005)
    assert macs["attention"] / 1e9 == pytest.approx(0.54, abs=0.005)


def test_any_divisible_size_and_sigma_scaling():
    network = NCSNpp(SMALL, generator=generator())
    x = torch.rand(2, 1, 24, 40, generator=generator())
    out = network(x, torch.tensor([1.0, 0.1]))
    assert out.shape == x.shape
    with torch.no_grad():
        network.all_modules[-1].bias.fill_(1.0)
        scaled = network(x, torch.tensor([1.0, 0.1]))
    assert float(scaled[1].mean() / scaled[0].mean()) == pytest.approx(10.0, rel=1e-3)


def test_initialisation_is_reproducible():
    a, b = NCSNpp(SMALL, generator=generator(3)), NCSNpp(SMALL, generator=generator(3))
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_attention_at_the_configured_resolution():
    kinds = [type(m).__name__ for m in NCSNpp(SMALL).all_modules]
    assert kinds.count("Attention") == 3  # down, bottleneck, up


def test_fir_resampling_keeps_constants_inside_and_doubles():
    x = torch.ones(1, 2, 8, 8)
    assert torch.allclose(upsample(x)[:, :, 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    assert torch.allclose(downsample(x)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))


def test_every_trainable_parameter_gets_a_gradient():
    network = NCSNpp(SMALL, generator=generator())
    with torch.no_grad():  # zero-initialised layers would block the gradients behind them
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator(1)))
    x = torch.rand(2, 1, 32, 32, generator=generator(2))
    network(x, torch.tensor([0.5, 2.0])).square().mean().backward()
    for name, p in network.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().sum() > 0, name
        else:
            assert p.grad is None, name
