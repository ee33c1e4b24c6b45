"""The DDPM / DDIM U-Net against the counts of its published CIFAR-10 configuration."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from repro.nets.classifier import Classifier
from repro.nets.unet import UNet, sinusoidal_embedding

SMALL = dict(in_channels=1, channels=16, mult=(1, 2), blocks=1, attention=(), dropout=0.0, groups=4)


@pytest.fixture(scope="module")
def published() -> UNet:
    with torch.device("meta"):
        return UNet()


def test_published_size(published):
    state = published.state_dict()
    assert sum(v.numel() for v in state.values()) == 35_746_307
    assert len(state) == 328


def test_published_groups(published):
    sizes = Counter()
    for name, value in published.state_dict().items():
        sizes[name.split(".")[0]] += value.numel()
    assert sizes == {
        "temb": 328_704,
        "conv_in": 3_584,
        "down": 10_190_720,
        "mid": 2_888_704,
        "up": 22_330_880,
        "norm_out": 256,
        "conv_out": 3_459,
    }


def test_published_names(published):
    def layers(block, shortcut=False):
        names = ["norm1", "conv1", "temb_proj", "norm2", "conv2"] + ["nin_shortcut"] * shortcut
        return [f"{block}.{n}" for n in names]

    def attention(block):
        return [f"{block}.{n}" for n in ("norm", "q", "k", "v", "proj_out")]

    expected = ["temb.dense.0", "temb.dense.1", "conv_in", "norm_out", "conv_out"]
    for level in range(4):
        for block in range(2):
            expected += layers(f"down.{level}.block.{block}", (level, block) == (1, 0))
        for block in range(3):
            expected += layers(f"up.{level}.block.{block}", True)
    expected += [f"down.{i}.downsample.conv" for i in (0, 1, 2)]
    expected += [f"up.{i}.upsample.conv" for i in (1, 2, 3)]
    attended = [f"down.1.attn.{i}" for i in (0, 1)] + [f"up.1.attn.{i}" for i in (0, 1, 2)]
    for block in ("mid.attn_1", *attended):
        expected += attention(block)
    expected += layers("mid.block_1") + layers("mid.block_2")
    wanted = {f"{name}.{kind}" for name in expected for kind in ("weight", "bias")}
    assert wanted == set(published.state_dict())


def test_published_layers(published):
    kinds = Counter(type(m).__name__ for m in published.modules())
    assert kinds["Linear"] == 24 and kinds["Conv2d"] == 89
    assert published.state_dict()["down.1.attn.0.q.weight"].shape == (256, 256, 1, 1)
    assert published.state_dict()["up.3.block.0.nin_shortcut.weight"].shape == (256, 512, 1, 1)
    split = [b for level in published.up for b in level.block]
    assert len(split) == 12
    assert all(0 < b.skip_channels < b.conv1.in_channels for b in split)
    assert not any(b.skip_channels for level in published.down for b in level.block)


def test_published_cost(published):
    """Multiply-accumulates of one image, counted without computing."""
    with FlopCounterMode(display=False) as counter:
        published(torch.empty(1, 3, 32, 32, device="meta"), torch.empty(1, device="meta"))
    mac = Counter()
    for operator, flops in counter.get_flop_counts()["Global"].items():
        mac[
            "conv"
            if "conv" in str(operator)
            else "attention"
            if "bmm" in str(operator) or "scaled_dot" in str(operator)
            else "linear"
        ] += flops / 2
    assert mac["conv"] == pytest.approx(6.05107e9, rel=1e-6)
    assert mac["linear"] == pytest.approx(0.00288e9, rel=2e-3)
    assert mac["attention"] == pytest.approx(0.16790e9, rel=1e-4)


def test_time_embedding():
    e = sinusoidal_embedding(torch.tensor([0, 7]), 128)
    assert torch.equal(e[0], torch.cat([torch.zeros(64), torch.ones(64)]))
    for k in (0, 31, 63):
        angle = 7 * math.exp(-math.log(1e4) * k / 63)
        assert e[1, k].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert e[1, 64 + k].item() == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_keep_the_shape(patch):
    torch.manual_seed(0)
    net = UNet(resolution=32, patch=patch, **SMALL)
    assert net.conv_in.in_channels == patch**2
    with torch.no_grad():
        y = net(torch.randn(2, 1, 32, 32), torch.tensor([3, 900]))
    assert y.shape == (2, 1, 32, 32) and y.isfinite().all() and y.std() > 0


def test_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="not divisible by 8"):
        UNet(resolution=28, patch=4, **SMALL)


def test_zero_init_starts_blocks_as_their_shortcut_and_the_network_at_zero():
    torch.manual_seed(0)
    net = UNet(resolution=8, zero_init=True, **{**SMALL, "attention": (4,)})
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(net.mid.attn_1(x), x)
    block, h = net.up[0].block[0], torch.randn(2, net.up[0].block[0].conv1.in_channels, 4, 4)
    assert torch.equal(block(h, torch.randn(2, 64)), block.nin_shortcut(h))
    assert net(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])).abs().max() == 0


def test_attention_is_softmax_of_products():
    torch.manual_seed(0)
    net = UNet(resolution=16, **{**SMALL, "attention": (16,)}).double()
    block = net.down[0].attn[0]
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    h = block.norm(x)
    q, k, v = (f(h).flatten(2) for f in (block.q, block.k, block.v))
    weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / 4, dim=2)
    expected = x + block.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))
    assert torch.allclose(block(x), expected, atol=1e-12)


def test_labels_change_the_output_and_none_is_the_extra_class():
    torch.manual_seed(0)
    net = UNet(resolution=8, num_classes=3, **SMALL).eval()
    x, t = torch.randn(1, 1, 8, 8).expand(4, 1, 8, 8), torch.full((4,), 10)
    with torch.no_grad():
        out = net(x, t, torch.tensor([0, 1, 2, 3]))
        none = net(x, t)
    assert all((out[i] - out[j]).abs().max() > 1e-4 for i in range(4) for j in range(i))
    assert torch.allclose(none[0], out[3], atol=1e-6)


def test_labels_are_refused_without_classes():
    net = UNet(resolution=8, **SMALL)
    with pytest.raises(ValueError, match="without classes"):
        net(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))


def test_classifier_head_reads_its_features():
    torch.manual_seed(0)
    net = Classifier(width=4, features=12).eval()
    x = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        features = net.features(x)
        assert features.shape == (3, 12)
        assert torch.equal(net(x), net.head(features))
