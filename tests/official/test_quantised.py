"""Quantised checkpoints, on files that the tests make with the published names and shapes."""

from dataclasses import replace

import pytest
import torch

from repro.nets.ldm import LatentUNet, skip_splits
from repro.nets.unet import UNet
from repro.official.quantised import Bits, load_quantised
from repro.quant.layers import shortcut_splits
from tests.official.making import (
    QUANTISED,
    SMALL,
    TINY,
    on_meta,
    quantised_file,
    refused,
    save,
    zeros_of,
)

TRANSFORMER = replace(TINY, transformer=True, context=12)
W4 = Bits(4)

# Q-Diffusion


def test_published_quantised_layout_of_cifar10(tmp_path):
    network = on_meta(UNet)
    state = quantised_file(network, shortcut_splits(network), fill=zeros_of)
    assert len(state) == 1001
    assert state["model.up.3.block.0.nin_shortcut.weight"].shape == (256, 512, 1, 1)
    for suffix in ("", "_0"):
        key = f"model.up.3.block.0.nin_shortcut.weight_quantizer{suffix}"
        assert state[f"{key}.alpha"].shape == (256, 256, 1, 1)
    loaded = load_quantised(save(state, tmp_path / "cifar_w4a8.pth"), network, W4)
    assert loaded.splits == shortcut_splits(network) and len(loaded.splits) == 12
    assert loaded.weights.keys() == network.state_dict().keys()
    (grids,) = loaded.activations
    assert len(grids.layers) == len(loaded.weight_grids) == 113
    assert sum(len(g) for g in grids.layers.values()) == 125
    assert len(grids.attention) == 24 and "down.1.attn.0.q" in grids.attention
    # α = 0 rounds up, so that w = 0 becomes one step.
    delta = state["model.conv_in.weight_quantizer.delta"]
    assert torch.allclose(loaded.weights["conv_in.weight"], delta.expand(128, 3, 3, 3))
    assert grids.layers["conv_in"][0].lo == -128 and grids.attention["mid.attn_1.w"].hi == 127


def test_hard_rounding_by_the_loading_rule(tmp_path):
    network = on_meta(UNet, **SMALL)
    splits = shortcut_splits(network)
    state = quantised_file(network, splits)
    loaded = load_quantised(save(state, tmp_path / "a.pth"), network, W4)
    for name, m in network.named_modules():
        if not isinstance(m, QUANTISED):
            continue
        w, out = state[f"model.{name}.weight"], []
        halves = [("", 0, m.weight.shape[1])]
        if name in splits:
            halves = [("", 0, splits[name]), ("_0", splits[name], m.weight.shape[1])]
        for suffix, start, stop in halves:
            q = f"model.{name}.weight_quantizer{suffix}"
            d, z, a = (state[f"{q}.{leaf}"] for leaf in ("delta", "zero_point", "alpha"))
            code = (torch.floor(w[:, start:stop] / d) + (a >= 0) + z).clamp(0, 15)
            out.append((code - z) * d)
        assert torch.allclose(loaded.weights[f"{name}.weight"], torch.cat(out, 1)), name
        assert torch.equal(loaded.floats[name], w)
        assert len(loaded.alphas[name]) == len(halves)
    assert torch.equal(loaded.weights["norm_out.weight"], state["model.norm_out.weight"])
    plain = UNet(**SMALL)
    plain.load_state_dict(loaded.weights, assign=True)
    assert torch.isfinite(plain(torch.randn(1, 1, 32, 32), torch.tensor([5]))).all()


def test_activation_grids_quantise(tmp_path):
    network = on_meta(UNet, **SMALL)
    state = quantised_file(network)
    state["model.conv_in.act_quantizer.delta"] = torch.tensor(0.5)
    state["model.conv_in.act_quantizer.zero_point"] = torch.tensor(2.0)
    path = save(state, tmp_path / "a.pth")
    (grids,) = load_quantised(path, network, Bits(4, activation=4, signed=False)).activations
    x = torch.tensor([-9.0, -0.3, 0.2, 0.4, 9.0])
    assert grids.layers["conv_in"][0](x).tolist() == [-1.0, -0.5, 0.0, 0.5, 6.5]
    refused(
        lambda: load_quantised(path, network, W4), "conv_in.act_quantizer", "Bits(signed=False)"
    )


@pytest.mark.parametrize("config", [TINY, TRANSFORMER], ids=["qkv", "transformer"])
@pytest.mark.parametrize("split", [False, True])
def test_quantised_latent_diffusion(tmp_path, config, split):
    network = on_meta(LatentUNet, config)
    splits = skip_splits(network) if split else {}
    state = quantised_file(network, splits)
    path = save(state, tmp_path / "a.pth")
    loaded = load_quantised(path, network, Bits(4, softmax=16))
    assert loaded.splits == splits
    (grids,) = loaded.activations
    name, signed = ("middle_block.1", False)
    if config.transformer:
        name, signed = "middle_block.1.transformer_blocks.0.attn2", True
    w = grids.attention[f"{name}.w"]
    assert (w.lo, w.hi) == ((-(2**15), 2**15 - 1) if signed else (0, 2**16 - 1))
    assert (grids.attention[f"{name}.q"].lo, grids.attention[f"{name}.q"].hi) == (-128, 127)
    assert len(grids.layers["output_blocks.0.0.skip_connection"]) == 1 + split


def test_weights_without_activations(tmp_path):
    network = on_meta(UNet, **SMALL)
    state = quantised_file(network, shortcut_splits(network), activations=None)
    loaded = load_quantised(save(state, tmp_path / "w4.pth"), network, W4)
    assert loaded.activations == () and len(loaded.splits) == 4


def test_foreign_quantised_files_are_refused(tmp_path):
    network, path = on_meta(UNet, **SMALL), tmp_path / "w4a8.pth"
    good = quantised_file(network, shortcut_splits(network))
    q, a = "model.conv_in.weight_quantizer", "model.conv_in.act_quantizer"
    half = "model.up.0.block.0.nin_shortcut.weight_quantizer_0.alpha"
    cases = {
        "lacks `conv_in.weight_quantizer.alpha`": {k: v for k, v in good.items() if q not in k},
        "lacks `up.0.block.0.nin_shortcut.weight_quantizer_0.alpha`": {
            k: v for k, v in good.items() if k != half
        },
        "lacks `conv_in.act_quantizer.delta`": {
            k: v for k, v in good.items() if k != f"{a}.delta"
        },
        "holds `temb.extra`": {**good, "model.temb.extra": torch.zeros(1)},
        "`conv_in.weight` does not start with `model.`": {"conv_in.weight": torch.zeros(1)},
        "`conv_in.weight` has shape (1,)": {**good, "model.conv_in.weight": torch.zeros(1)},
        "`conv_in.weight_quantizer.alpha` has shape (2,)": {**good, f"{q}.alpha": torch.zeros(2)},
        "`conv_in.weight_quantizer.delta` has shape (2,)": {
            **good,
            f"{q}.delta": torch.ones(2),
            f"{q}.zero_point": torch.ones(2),
        },
        "`conv_in.weight_quantizer.delta` is not positive": {
            **good,
            f"{q}.delta": torch.zeros(16, 1, 1, 1),
        },
        "`conv_in.weight_quantizer.zero_point` is not an integer": {
            **good,
            f"{q}.zero_point": torch.full((16, 1, 1, 1), 0.5),
        },
        "`conv_in.weight_quantizer.zero_point` has shape (3,)": {
            **good,
            f"{q}.zero_point": torch.ones(3),
        },
        "`conv_in.act_quantizer.delta` has shape (2,)": {
            **good,
            f"{a}.delta": torch.ones(2),
            f"{a}.zero_point": torch.zeros(2),
        },
    }  # fmt: skip
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_quantised(path, network, W4), "w4a8.pth", message, "; ")
    save(good, path)
    refused(lambda: load_quantised(path, network, W4, splits={}), "w4a8.pth", "holds")
    refused(lambda: load_quantised(path, network, W4, splits={"conv_x": 1}), "conv_x", "splits")
    path.write_bytes(path.read_bytes()[:20_000])
    refused(lambda: load_quantised(path, network, W4), "w4a8.pth", "truncated")


# Widths


def of_width(network, bits, other=()):
    """Normal weights, rounded to nearest on the grid of each channel; ``other``: layer -> bits."""
    torch.manual_seed(0)
    state = {f"model.{k}": torch.randn(v.shape) for k, v in network.state_dict().items()}
    for name, m in network.named_modules():
        if isinstance(m, QUANTISED):
            w = state[f"model.{name}.weight"]
            if name == "conv_in":
                w[0] = w[0].abs() + 0.1  # channels of one sign, which have odd zero-points
                w[1] = -w[1].abs() - 0.1
            column = (len(w),) + (1,) * (w.ndim - 1)
            low, high = (f(w.flatten(1), 1).reshape(column) for f in (torch.amin, torch.amax))
            delta = (high - low) / (2 ** dict(other).get(name, bits) - 1)
            key = f"model.{name}.weight_quantizer"
            state[f"{key}.delta"] = delta
            state[f"{key}.zero_point"] = (-low.clamp(max=0) / delta).round()
            state[f"{key}.alpha"] = w / delta - (w / delta).floor() - 0.5
    return state


@pytest.mark.parametrize("width", [3, 4, 6, 8])
def test_the_declared_width_gives_the_weights_back(tmp_path, width):
    """Rounding errors are uniform in a step: their root mean square is δ / √12."""
    network = on_meta(UNet, **SMALL)
    path = save(of_width(network, width), tmp_path / "a.pth")
    loaded = load_quantised(path, network, Bits(width))
    layer = "mid.block_1.conv1"
    error = loaded.weights[f"{layer}.weight"] - loaded.floats[layer]
    (grid,) = loaded.weight_grids[layer]
    rms = error.square().mean().sqrt()
    assert rms == pytest.approx(float(grid.delta.square().mean().sqrt()) / 12**0.5, rel=0.1)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6, 8])
def test_another_width_is_refused(tmp_path, width):
    network = on_meta(UNet, **SMALL)
    path = save(of_width(network, width), tmp_path / "a.pth")
    for declared in {2, 3, 4, 5, 6, 8} - {width}:
        refused(
            lambda declared=declared: load_quantised(path, network, Bits(declared)),
            f"the middle code of {width} bits; {declared} bits are declared; ",
        )


def test_a_layer_of_another_width_is_refused(tmp_path):
    network = on_meta(UNet, **SMALL)
    path = save(of_width(network, 4, other={"conv_in": 8}), tmp_path / "a.pth")
    refused(lambda: load_quantised(path, network, W4), "`conv_in.weight_quantizer.zero_point`")


def test_codes_of_wider_activations_are_refused(tmp_path):
    network = on_meta(UNet, **SMALL)
    state = quantised_file(network)
    state["model.conv_out.act_quantizer.zero_point"] = torch.tensor(131.0)
    path = save(state, tmp_path / "a.pth")
    load_quantised(path, network, Bits(4, activation=8, signed=False))
    bits = Bits(4, activation=4, signed=False)
    refused(lambda: load_quantised(path, network, bits), "reaches 131, above the last code, 15")


# QuEST


def test_tables_keep_the_number_of_tensors():
    network = on_meta(UNet)
    state = quantised_file(network, shortcut_splits(network), "lists", steps=20, fill=zeros_of)
    assert len(state) == 1001
    assert state["model.conv_out.act_quantizer.delta_list"].shape == (20, 128, 1, 1)


def test_time_tables_of_quest(tmp_path):
    network = on_meta(LatentUNet, TRANSFORMER)
    state = quantised_file(network, activations="lists", steps=5)
    state["model.out.2.act_quantizer.current_delta"] = torch.zeros(1)
    key = "model.input_blocks.1.0.in_layers.2.act_quantizer.delta_list"
    state[key] = torch.arange(1.0, 6)[:, None, None, None].expand(5, 16, 1, 1).clone()
    path = save(state, tmp_path / "quest.pth")
    loaded = load_quantised(path, network, Bits(4, activation=4, wide_edges=True))
    assert len(loaded.activations) == 5
    table = [g.layers["input_blocks.1.0.in_layers.2"][0] for g in loaded.activations]
    assert [g.delta.shape for g in table] == [()] * 5
    assert [float(g.delta) for g in table] == [1, 2, 3, 4, 5]
    last = loaded.activations[3].layers
    shapes = {
        "out.2": (16, 1, 1),
        "time_embed.0": (16,),
        "middle_block.1.proj_in": (32, 1, 1),
        "middle_block.1.transformer_blocks.0.attn2.to_k": (1, 12),
        "input_blocks.1.0.emb_layers.1": (64,),
    }
    for name, shape in shapes.items():
        assert last[name][0].delta.shape == shape, name
    assert (last["out.2"][0].lo, last["out.2"][0].hi) == (-257, 256)
    assert (last["input_blocks.0.0"][0].lo, last["input_blocks.0.0"][0].hi) == (-257, 256)
    assert (last["time_embed.0"][0].lo, last["time_embed.0"][0].hi) == (-8, 7)
    x = torch.randn(2, 16, 4, 4)
    delta = state["model.out.2.act_quantizer.delta_list"][3]
    assert torch.allclose(last["out.2"][0](x), (x / delta).round() * delta)
    assert last["middle_block.1.transformer_blocks.0.attn2.to_k"][0](torch.randn(2, 7, 12)).shape


def test_time_tables_of_qkv_convolutions(tmp_path):
    network = on_meta(LatentUNet, TINY)
    state = quantised_file(network, skip_splits(network), activations="lists")
    loaded = load_quantised(save(state, tmp_path / "a.pth"), network, W4)
    grids = loaded.activations[2].layers
    assert grids["middle_block.1.qkv"][0].delta.shape == (32, 1)
    assert [g.delta.shape for g in grids["output_blocks.3.0.skip_connection"]] == [(16, 1, 1)] * 2


def test_foreign_time_tables_are_refused(tmp_path):
    network, path = on_meta(LatentUNet, TRANSFORMER), tmp_path / "quest.pth"
    good = quantised_file(network, activations="lists")
    for key, shape, message in (
        ("out.2.act_quantizer", (3, 15, 1, 1), "`out.2.act_quantizer.delta_list` has shape"),
        ("out.2.act_quantizer", (3, 16), "for 16 channels"),
        ("out.2.act_quantizer", (), "is no step table"),
        ("time_embed.0.act_quantizer", (3, 2, 16), "time_embed.0.act_quantizer.delta_list"),
        ("out.2.act_quantizer", (4, 16, 1, 1), "different lengths ([3, 4])"),
    ):
        state = dict(good)
        state[f"model.{key}.delta_list"] = torch.ones(shape)
        state[f"model.{key}.zero_point_list"] = torch.zeros(shape)
        save(state, path)
        refused(lambda: load_quantised(path, network, W4), "quest.pth", message)
