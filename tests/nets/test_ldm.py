"""The latent-diffusion U-Nets against the counts of their published configurations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods.ptq4dm.networks import ImprovedUNet
from repro.metrics.cost import (
    bops,
    count_macs,
    count_parameters,
    model_size_bytes,
    quantisable_weights,
)
from repro.nets.ldm import (
    CONFIGS,
    AttentionBlock,
    CrossAttention,
    LatentUNet,
    LDMConfig,
    ResBlock,
    example_inputs,
    select,
    skip_splits,
)
from repro.nets.unet import UNet
from repro.quant.layers import Recipe, calibrate, quantise, shortcut_splits
from repro.quant.ranges import RunningRange, minmax_grid

PUBLISHED = {  # parameters, weights, Linear, Conv2d, Conv1d
    "bedroom": (274_056_163, 273_872_704, 24, 67, 32),
    "church": (294_966_916, 294_741_504, 37, 89, 42),
    "cin256": (400_920_579, 400_586_880, 184, 99, 0),
    "sd-v1": (859_520_964, 859_077_120, 184, 98, 0),
}
MACS = {  # convolutions, linear layers, attention products; batch 1
    "bedroom": (96_005_324_800, 12_644_352, 5_182_062_592),
    "church": (18_612_486_144, 28_459_008, 2_282_643_456),
    "cin256": (72_144_912_384, 27_624_898_560, 4_457_349_120),
    "sd-v1": (221_973_053_440, 116_637_532_160, 63_026_135_040),
}
GIGA = {  # as printed: convolutions, linear layers, attention products, all
    "bedroom": (96.00532, 0.01264, 5.18206, 101.20003),
    "church": (18.61248, 0.02846, 2.28264, 20.92359),
    "cin256": (72.14491, 27.6249, 4.45428, 104.22409),
    "sd-v1": (221.97305, 116.63753, 63.02614, 401.63672),
}
# Products of a softmax row of one context token and one value: elementwise multiplications, which
# the printed count leaves out (2 x 16 blocks; half of the products of the cross-attention).
ONE_TOKEN = {"cin256": 5 * 32**2 * 384 + 5 * 16**2 * 576 + 6 * 8**2 * 960}
SELECTED = {  # name part -> (parameters, layers, printed share in %)
    "bedroom": {
        "emb_layers": (11_653_824, 22, 4.25),
        "qkv": (24_267_936, 16, 8.86),
        "time_embed": (1_005_312, 2, 0.37),
    },
    "church": {
        "emb_layers": (27_757_824, 35, 9.41),
        "qkv": (15_621_696, 21, 5.30),
        "time_embed": (738_816, 2, 0.25),
    },
    "cin256": {
        "emb_layers": (9_597_120, 22, 2.39),
        "qkv": (0, 0, 0.0),
        "ff.net": (95_204_160, 32, 23.75),
        "to_q": (15_851_520, 32, 3.95),
        "time_embed": (738_816, 2, 0.18),
    },
    "sd-v1": {
        "emb_layers": (25_824_960, 22, 3.00),
        "ff.net": (148_797_120, 32, 17.31),
        "time_embed": (2_050_560, 2, 0.24),
    },
}
TUNED = {  # what QuEST's released code tunes in all, and the printed share in %
    "bedroom": (("emb_layers", "qkv"), 13.1),
    "church": (("emb_layers", "qkv"), 14.7),
    "cin256": (("emb_layers", "ff.net", "to_q", "attn1.to_k", "attn1.to_v"), 34.0),
    "sd-v1": (("emb_layers", "ff.net"), 20.3),
}
MEBIBYTES = {  # 32, 8 and 4 bits; norms and biases in floating point
    "bedroom": (1045.44, 261.89, 131.29),
    "church": (1125.21, 281.95, 141.40),
    "cin256": (1529.39, 383.30, 192.29),
    "sd-v1": (3278.81, 820.97, 411.33),
}
MEGABYTES = {  # 32, 8 and 4 bits, everything at that width
    "bedroom": (1096.22, 274.06, 137.03),
    "church": (1179.87, 294.97, 147.48),
}
SPLITS = {  # decoder channels in front of each skip connection, in order of execution
    "bedroom": [896] * 4 + [672] * 3 + [448] * 3 + [224] * 2,
    "church": [768] * 7 + [384] * 6 + [192] * 2,
    "cin256": [960] * 4 + [576] * 3 + [384] * 3 + [192] * 2,
    "sd-v1": [1280] * 7 + [640] * 3 + [320] * 2,
}
TINY = LDMConfig(
    size=8, in_channels=1, out_channels=1, channels=16, mult=(1, 2), attention=(1, 2), blocks=1,
    head_width=8, groups=4,
)  # fmt: skip
KINDS = {
    "attention": TINY,
    "scale-shift": replace(TINY, scale_shift=True, resblock_updown=True),
    "transformer": replace(TINY, transformer=True),
    "context": replace(TINY, transformer=True, context=12, context_length=5, depth=2),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def published(request):
    with torch.device("meta"):
        return request.param, LatentUNet(CONFIGS[request.param])


def test_published_sizes(published):
    name, network = published
    layers = [
        sum(isinstance(m, kind) for m in network.modules())
        for kind in (nn.Linear, nn.Conv2d, nn.Conv1d)
    ]
    found = (count_parameters(network), quantisable_weights(network), *layers)
    assert found == PUBLISHED[name]


def test_published_macs(published):
    name, network = published
    macs = count_macs(network, *example_inputs(CONFIGS[name]))
    assert (macs.conv, macs.linear, macs.attention) == MACS[name]
    attention = macs.attention - ONE_TOKEN.get(name, 0)
    total = macs.total - ONE_TOKEN.get(name, 0)
    counted = [n / 1e9 for n in (macs.conv, macs.linear, attention, total)]
    assert counted == pytest.approx(GIGA[name], abs=1e-5)


def test_conv1d_share_of_the_bedroom_network():
    counts = {nn.Conv1d: 0, nn.Conv2d: 0}
    with torch.device("meta"):
        network = LatentUNet(CONFIGS["bedroom"])
    for module in network.modules():
        if type(module) in counts:

            def hook(m, _, out):
                counts[type(m)] += out.numel() * m.weight[0].numel()

            module.register_forward_hook(hook)
    network(*example_inputs(CONFIGS["bedroom"]))
    assert counts[nn.Conv2d] / 1e9 == pytest.approx(88.34967, abs=5e-6)
    assert counts[nn.Conv1d] / 1e9 == pytest.approx(7.65565, abs=5e-6)


def test_parameters_selected_by_name(published):
    name, network = published
    for part, (parameters, layers, share) in SELECTED[name].items():
        found = select(network, part)
        assert (found.parameters, found.layers) == (parameters, layers), part
        assert round(100 * found.share, 2) == share, part
    parts, share = TUNED[name]
    assert round(100 * select(network, *parts).share, 1) == share
    if name == "cin256":
        assert select(network, "attn1.to_k", "attn1.to_v").parameters == 15_851_520
        assert round(100 * select(network, "emb_layers", "to_q").share, 1) == 6.3


def test_sizes_of_files(published):
    name, network = published
    mib = [model_size_bytes(network, b, honest=b < 32) / 2**20 for b in (32, 8, 4)]
    assert mib == pytest.approx(MEBIBYTES[name], abs=5e-3)
    if name in MEGABYTES:
        mb = [model_size_bytes(network, b) / 1e6 for b in (32, 8, 4)]
        assert mb == pytest.approx(MEGABYTES[name], abs=5.1e-3)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("bedroom", (107.07, 37.24, 18.62, 12.95, 6.48)),
        ("church", (22.14, 7.70, 3.85, 2.68, 1.34)),
    ],
)
def test_bit_operations(name, printed):
    widths = ((32, 32), (8, 32), (4, 32), (8, 8), (4, 8))
    found = [bops(sum(MACS[name]), w, a) / 1e12 for w, a in widths]
    assert found == pytest.approx(printed, abs=5.1e-3)


def test_operations_that_others_print_for_imagenet():
    conv, linear, _ = MACS["cin256"]
    assert (conv + linear) / 1e9 == pytest.approx(99.77, abs=5e-3)
    assert (conv + linear) * 1024 / 1e12 == pytest.approx(102.2, abs=0.05)


def test_layers_to_split(published):
    name, network = published
    found = skip_splits(network)
    expected = {f"output_blocks.{i}.0.skip_connection": c for i, c in enumerate(SPLITS[name])}
    assert found == expected
    for layer, channels in found.items():
        assert 0 < channels < network.get_submodule(layer).in_channels


def test_layers_to_split_see_the_raw_concatenation():
    """The decoder's part of what the layer receives is the output of the block before it."""
    torch.manual_seed(0)
    network = LatentUNet(replace(TINY, mult=(1, 2, 2))).eval()
    splits, seen, before = skip_splits(network), {}, {}
    for i, block in enumerate(network.output_blocks):
        source = network.output_blocks[i - 1] if i else network.middle_block
        source.register_forward_hook(lambda m, a, out, i=i: before.__setitem__(i, out))
        layer = block[0].skip_connection
        layer.register_forward_pre_hook(lambda m, a, i=i: seen.__setitem__(i, a[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 8, 8), torch.tensor([3]))
    assert len(splits) == len(seen) == 6
    for i, channels in enumerate(splits.values()):
        assert torch.equal(seen[i][:, :channels], before[i])


def test_layers_to_split_of_cifar10():
    with torch.device("meta"):
        splits = shortcut_splits(UNet())
    assert len(splits) == 12
    assert splits["up.3.block.0.nin_shortcut"] == 256
    assert splits["up.0.block.2.nin_shortcut"] == 128
    assert all(name.startswith("up.") for name in splits)


def test_published_names(published):
    name, network = published
    state = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    config = CONFIGS[name]
    levels, width = len(config.mult), config.channels
    assert len(network.input_blocks) == levels * (config.blocks + 1)
    assert len(network.output_blocks) == levels * (config.blocks + 1)
    assert state["time_embed.0.weight"] == (4 * width, width)
    assert state["input_blocks.0.0.weight"] == (width, config.in_channels, 3, 3)
    assert state["out.2.weight"] == (config.out_channels, width, 3, 3)
    assert state["input_blocks.1.0.out_layers.3.bias"] == (width,)
    c = state["middle_block.1.norm.weight"][0]
    if config.transformer:
        block = "middle_block.1.transformer_blocks.0"
        assert state["middle_block.1.proj_in.weight"] == (c, c, 1, 1)
        assert state[f"{block}.attn2.to_k.weight"] == (c, config.context)
        assert state[f"{block}.ff.net.0.proj.weight"] == (8 * c, c)
        assert f"{block}.attn1.to_q.bias" not in state
        assert state[f"{block}.attn1.to_out.0.bias"] == state[f"{block}.norm3.bias"] == (c,)
    else:
        assert state["middle_block.1.qkv.weight"] == (3 * c, c, 1)
        assert state["middle_block.1.proj_out.weight"] == (c, c, 1)
    resized = "in_layers.2" if config.resblock_updown else "op"
    assert f"input_blocks.{config.blocks + 1}.0.{resized}.weight" in state
    last = f"output_blocks.{config.blocks}"
    attends = 2 ** (levels - 1) in config.attention
    position = 2 if attends else 1
    resized = "in_layers.2" if config.resblock_updown else "conv"
    assert f"{last}.{position}.{resized}.weight" in state


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradients(kind):
    torch.manual_seed(0)
    config = KINDS[kind]
    network = LatentUNet(config)
    x, t = torch.randn(2, 1, 8, 16), torch.tensor([1, 900])
    context = [] if config.context is None else [torch.randn(2, 5, 12)]
    out = network(x, t, *context)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    with torch.no_grad():
        network.eval()
        assert not torch.allclose(network(x, t.flip(0), *context), out, atol=1e-4)
        if context:
            assert not torch.allclose(network(x, t, context[0].flip(0)), out, atol=1e-5)


def test_same_function_as_improved_ddpm():
    """With scale and shift the two architectures meet; the other class was written apart."""
    torch.manual_seed(0)
    other = ImprovedUNet(
        image_size=16, channel_mult=(1, 2, 2), channels=32, num_res_blocks=2, attention=(8, 4),
        heads=4, out_channels=3,
    ).eval()  # fmt: skip
    network = LatentUNet(
        LDMConfig(
            size=16, in_channels=3, out_channels=3, channels=32, mult=(1, 2, 2), attention=(2, 4),
            heads=4, scale_shift=True,
        )
    ).eval()  # fmt: skip
    network.load_state_dict(other.state_dict(), strict=True)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0, 731])
    with torch.no_grad():
        assert torch.allclose(network(x, t), other(x, t), atol=1e-5)


def test_same_function_as_diffusers():
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    torch.manual_seed(0)
    network = LatentUNet(
        LDMConfig(
            size=16, in_channels=4, out_channels=4, channels=32, mult=(1, 2), attention=(1,),
            blocks=1, heads=4, transformer=True, context=24,
        )
    ).eval()  # fmt: skip
    other = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64),
        layers_per_block=1, attention_head_dim=4, cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), 
    ).eval()  # fmt: skip
    state = {f"model.diffusion_model.{k}": v for k, v in network.state_dict().items()}
    other.load_state_dict(convert_ldm_unet_checkpoint(state, dict(other.config)), strict=True)
    x, t, c = torch.randn(2, 4, 16, 16), torch.tensor([3, 640]), torch.randn(2, 7, 24)
    with torch.no_grad():
        assert torch.allclose(network(x, t, c), other(x, t, c).sample, atol=1e-5)


def test_residual_block_that_halves():
    torch.manual_seed(0)
    block = ResBlock(8, 8, 16, groups=4, resample="down").eval()
    raw, e = torch.randn(1, 8, 6, 6), torch.randn(1, 16)
    w = block.state_dict()
    h = F.silu(F.group_norm(raw, 4, w["in_layers.0.weight"], w["in_layers.0.bias"]))
    h = h.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    h = F.conv2d(h, w["in_layers.2.weight"], w["in_layers.2.bias"], padding=1)
    h = h + F.linear(F.silu(e), w["emb_layers.1.weight"], w["emb_layers.1.bias"])[..., None, None]
    h = F.silu(F.group_norm(h, 4, w["out_layers.0.weight"], w["out_layers.0.bias"]))
    h = F.conv2d(h, w["out_layers.3.weight"], w["out_layers.3.bias"], padding=1)
    x = raw.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    assert torch.allclose(block(raw, e), x + h, atol=1e-5)


def test_attention_has_a_seam_for_quantisers():
    """Every product of queries, keys and values goes through `attend`."""
    for kind, cls in (("attention", AttentionBlock), ("context", CrossAttention)):
        network, shapes = LatentUNet(KINDS[kind]).eval(), []
        for module in network.modules():
            if isinstance(module, cls):

                def attend(q, k, v, own=module.attend, shapes=shapes):
                    shapes.append((q.shape, k.shape))
                    return own(q, k, v)

                module.attend = attend
        network(*example_inputs(KINDS[kind], device="cpu"))
        assert len(shapes) == sum(isinstance(m, cls) for m in network.modules())
        assert all(q[-1] == 8 for q, _ in shapes)


def test_zero_init_gives_zero():
    network = LatentUNet(replace(KINDS["context"], zero_init=True))
    x, t, context = example_inputs(KINDS["context"], batch=2, device="cpu")
    assert not network(x + 1, t, context).any()


def test_impossible_configurations_are_refused():
    with pytest.raises(ValueError, match="head"):
        replace(TINY, heads=2)
    with pytest.raises(ValueError, match="divisible"):
        replace(TINY, size=9)
    with pytest.raises(ValueError, match="transformer"):
        replace(TINY, context=8)
    x, t, context = example_inputs(KINDS["context"], device="cpu")
    with pytest.raises(ValueError, match="needs a context"):
        LatentUNet(KINDS["context"])(x, t)
    with pytest.raises(ValueError, match="no context"):
        LatentUNet(TINY)(x, t, context)


@pytest.mark.parametrize("kind", ["attention", "context"])
def test_quantised_copies(kind):
    """With wide grids, a quantised copy that is split and quantises attention changes little."""
    torch.manual_seed(0)
    config = KINDS[kind]
    network = LatentUNet(config).eval()
    recipe = Recipe(
        weight_bits=14,
        activation_bits=(14,),
        weight_grid=lambda w, bits: minmax_grid(w, bits, channel_wise=True),
        observer=lambda widths: RunningRange(),
        splits=skip_splits(network),
        attention_bits=(14, 14),
    )
    context = [] if config.context is None else [torch.randn(2, 5, 12)]
    inputs = (torch.randn(2, 1, 8, 8), torch.tensor([1, 900]), *context)
    copy = calibrate(quantise(network, recipe), [inputs])
    with torch.no_grad():
        plain, quantised = network(*inputs), copy(*inputs)
    error = (plain - quantised).norm() / plain.norm()
    assert 0 < error < 5e-3
