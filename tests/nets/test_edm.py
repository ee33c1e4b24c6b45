"""EDM's networks: published sizes, key layout, and what the blocks compute."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from repro.metrics.cost import count_macs, count_parameters
from repro.nets import edm

ADM = dict(channels=128, mult=(1, 2, 2, 4), blocks=2)
FFHQ = dict(resolution=64, mult=(1, 2, 2, 2))
SLIM = dict(attention=(32, 16), blocks=2, channels=128)
AUGMENTATION = 9 * 128
"""Weights of the map of augmentation labels, which counts of the published files hold."""

# network, arguments -> parameters, entries of the state dict, conv + linear GMACs, all GMACs
SIZES = {
    "imagenet-64 teacher": (edm.DhariwalUNet, {}, 295_899_267, 553, 103.449, 109.665),
    "42 % fewer": (
        edm.DhariwalUNet,
        dict(channels=160, mult=(1, 2, 2, 4)),
        172_813_603,
        551,
        None,
        67.6,
    ),
    "71 % fewer": (edm.DhariwalUNet, ADM, 85_943_555, 427, None, 34.3),
    "slimflow 80.7 M": (
        edm.DhariwalUNet,
        SLIM | dict(mult=(1, 2, 2, 4)),
        80_685_315,
        397,
        31.038,
        33.895,
    ),
    "slimflow 44.7 M": (
        edm.DhariwalUNet,
        SLIM | dict(mult=(1, 2, 2, 2)),
        44_685_827,
        395,
        28.062,
        30.917,
    ),
    "cifar-10": (edm.SongUNet, {}, 55_733_891 - AUGMENTATION, 424, 21.022, 21.192),
    "ffhq-64": (edm.SongUNet, FFHQ, 61_805_571 - AUGMENTATION, 552, 41.696, 41.866),
}


def inputs(network, resolution):
    classes = 1000 if isinstance(network, edm.DhariwalUNet) else 0
    label = torch.zeros(1, classes, device="meta") if classes else None
    x = torch.zeros(1, 3, resolution, resolution, device="meta")
    return x, torch.zeros(1, device="meta"), label


def filter_macs(network, arguments) -> int:
    """Of the box filters, which the published code runs as convolutions: 4 a coarse value."""
    total = 0

    def count(module, args, output):
        nonlocal total
        if getattr(module, "mode", None):
            coarse = args[0].numel() if module.mode == "up" else args[0].numel() // 4
            total += 4 * coarse

    handles = [m.register_forward_hook(count) for m in network.modules()]
    with torch.no_grad():
        network(*arguments)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    build, arguments, parameters, entries, conv_linear, total = SIZES[name]
    with torch.device("meta"):
        network = build(**arguments).eval()
    assert count_parameters(network) == parameters
    assert len(network.state_dict()) == entries
    example = inputs(network, 32 if name == "cifar-10" else 64)
    macs, filters = count_macs(network, *example), filter_macs(network, example)
    if conv_linear is not None:
        assert (macs.conv + macs.linear + filters) / 1e9 == pytest.approx(conv_linear, abs=6e-4)
        assert (macs.total + filters) / 1e9 == pytest.approx(total, abs=6e-4)
    else:
        assert (macs.total + filters) / 1e9 == pytest.approx(total, abs=0.06)


def test_published_names():
    with torch.device("meta"):
        adm = edm.EDMPrecond(edm.DhariwalUNet()).state_dict()
        song = edm.EDMPrecond(edm.SongUNet()).state_dict()
    for name, shape in {
        "model.map_layer0.weight": (768, 192),
        "model.map_label.weight": (768, 1000),
        "model.enc.64x64_conv.weight": (192, 3, 3, 3),
        "model.enc.32x32_down.conv0.resample_filter": (1, 1, 2, 2),
        "model.enc.32x32_down.skip.resample_filter": (1, 1, 2, 2),
        "model.enc.8x8_block2.qkv.weight": (2304, 768, 1, 1),
        "model.dec.8x8_in0.proj.weight": (768, 768, 1, 1),
        "model.dec.8x8_in1.affine.weight": (1536, 768),
        "model.dec.64x64_up.conv0.weight": (384, 384, 3, 3),
        "model.dec.64x64_block3.skip.weight": (192, 384, 1, 1),
        "model.out_norm.weight": (192,),
        "model.out_conv.weight": (3, 192, 3, 3),
    }.items():
        assert tuple(adm[name].shape) == shape, name
    assert "model.enc.32x32_down.skip.weight" not in adm
    for name, shape in {
        "model.enc.32x32_conv.weight": (128, 3, 3, 3),
        "model.enc.16x16_down.skip.weight": (256, 256, 1, 1),
        "model.dec.8x8_in0.qkv.bias": (768,),
        "model.dec.16x16_block4.norm2.weight": (256,),
        "model.dec.32x32_aux_norm.bias": (256,),
        "model.dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }.items():
        assert tuple(song[name].shape) == shape, name
    assert "model.dec.16x16_block3.norm2.weight" not in song
    assert "model.map_label.weight" not in song


SMALL = dict(resolution=8, in_channels=1, out_channels=1, classes=3, channels=16, mult=(1, 2))


def small(build, **arguments):
    generator = torch.Generator().manual_seed(1)
    options = SMALL | dict(blocks=1, attention=(4,), dropout=0.0) | arguments
    return build(**options, generator=generator).eval()


def randomise(network):
    """Weights that are nowhere zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network


@pytest.mark.parametrize("build", [edm.DhariwalUNet, edm.SongUNet])
def test_the_label_and_the_noise_matter_and_none_is_a_label_of_zeros(build):
    network = randomise(small(build))
    x, noise = torch.randn(2, 1, 8, 8), torch.tensor([0.1, -0.4])
    one_hot = torch.eye(3)[:2]
    y = network(x, noise, one_hot)
    assert y.shape == x.shape
    assert not torch.allclose(y, network(x, noise + 0.5, one_hot))
    assert not torch.allclose(y, network(x, noise, one_hot.flip(0)))
    torch.testing.assert_close(network(x, noise), network(x, noise, torch.zeros(2, 3)))


def test_attention_is_interleaved_by_head():
    block = edm.UNetBlock(
        8, 8, 4, heads=2, fill=edm.kaiming_uniform(), fill_zero=edm.kaiming_uniform(),
        fill_attention=edm.kaiming_uniform(), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    x = torch.randn(2, 8, 3, 3)
    q, k, v = block.qkv(block.norm2(x)).reshape(2 * 2, 4, 3, -1).unbind(2)
    w = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(4)).softmax(dim=2)
    expected = block.proj(torch.einsum("nqk,nck->ncq", w, v).reshape(x.shape))
    torch.testing.assert_close(block.attend(x), expected, atol=1e-6, rtol=1e-5)


def test_resampling_equals_the_box_filter():
    x = torch.randn(2, 3, 4, 4)
    taps = edm._box_filter().repeat(3, 1, 1, 1)
    down = F.conv2d(x, taps, groups=3, stride=2)
    up = F.conv_transpose2d(x, 4 * taps, groups=3, stride=2)
    torch.testing.assert_close(edm.resample(x, "down"), down)
    torch.testing.assert_close(edm.resample(x, "up"), up)
    torch.testing.assert_close(edm._box_filter().sum(), torch.tensor(1.0))


def test_a_new_network_is_the_skip_connection_alone():
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    denoiser = edm.EDMPrecond(small(edm.DhariwalUNet))
    expected = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(denoiser(x, sigma), expected[:, None, None, None] * x)
    denoiser = edm.EDMPrecond(small(edm.SongUNet))
    torch.testing.assert_close(
        denoiser(x, sigma), expected[:, None, None, None] * x, atol=1e-3, rtol=0
    )


def test_preconditioning_at_the_largest_noise():
    c_skip, c_out, c_in, c_noise = edm.coefficients(torch.tensor(80.0, dtype=torch.float64), 0.5)
    assert c_skip.item() == pytest.approx(3.9061e-05, rel=1e-4)
    assert c_out.item() == pytest.approx(0.499990, abs=5e-7)
    assert c_in.item() == pytest.approx(0.0124998, abs=5e-8)
    assert c_noise.item() == pytest.approx(1.095507, abs=5e-7)
    assert edm.loss_weight(torch.tensor(1.0), 0.5).item() == 5.0


def test_the_bottleneck_is_where_the_encoder_ends():
    denoiser = edm.EDMPrecond(small(edm.DhariwalUNet))
    assert denoiser.bottleneck(torch.randn(2, 1, 8, 8), 1.0, torch.eye(3)[:2]).shape == (
        2,
        32,
        4,
        4,
    )


def test_initial_weights_depend_on_the_generator_alone():
    a, b = small(edm.DhariwalUNet).state_dict(), small(edm.DhariwalUNet).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    weight = a["enc.8x8_block0.conv0.weight"]
    bound = math.sqrt(1 / 3) * math.sqrt(3 / (16 * 9))
    assert 0.9 * bound < weight.abs().max() <= bound


def test_a_resolution_that_does_not_divide():
    with pytest.raises(ValueError, match="not divisible by 4"):
        edm.DhariwalUNet(resolution=6, mult=(1, 2, 2))
