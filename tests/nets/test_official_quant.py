"""Published checkpoint layouts, on files that the tests make with the exact names and shapes."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from repro.errors import ReproError
from repro.nets.ldm import CONFIGS, CrossAttention, LatentUNet, LDMConfig, skip_splits
from repro.nets.ldm import AttentionBlock as QKVBlock
from repro.nets.official import (
    Bits,
    load_calibration,
    load_compvis,
    load_ddpm,
    load_quantised,
    read_compvis,
)
from repro.nets.unet import AttentionBlock, UNet
from repro.quant.layers import shortcut_splits

SMALL = dict(in_channels=1, channels=16, mult=(1, 2), blocks=1, attention=(16,), groups=4)
TINY = LDMConfig(
    size=8, in_channels=1, out_channels=1, channels=16, mult=(1, 2), attention=(2,), blocks=1,
    head_width=8, groups=4,
)  # fmt: skip
TRANSFORMER = replace(TINY, transformer=True, context=12)
QUANTISED = nn.Conv2d | nn.Conv1d | nn.Linear


def on_meta(make, *args, **kwargs):
    with torch.device("meta"):
        return make(*args, **kwargs)


def refused(call, *parts):
    """The call fails with one line that has all parts."""
    with pytest.raises(ReproError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def zeros_of(shape):
    """A tensor of this shape that takes up one number in the file."""
    return torch.zeros(()).expand(shape)


def quantised_file(network, splits=(), activations="scalars", steps=3, fill=torch.randn):
    """State dict in the released layout, written down from its description."""
    torch.manual_seed(0)
    splits = dict(splits)
    state = {f"model.{k}": fill(v.shape) for k, v in network.state_dict().items()}

    def add(key, width, kind):
        if activations == "scalars":
            state[f"{key}.delta"] = torch.rand(()) + 0.1
            state[f"{key}.zero_point"] = torch.zeros(())
        elif activations == "lists":
            shape = {
                "conv": (steps, width, 1, 1),
                "conv1d": (steps, width, 1),
                "tokens": (steps, 1, width),
                "vector": (steps, width),
            }[kind]
            state[f"{key}.delta_list"] = torch.rand(shape) + 0.1
            state[f"{key}.zero_point_list"] = torch.zeros(shape)

    for name, m in network.named_modules():
        if isinstance(m, QUANTISED):
            at, total = splits.get(name), m.weight.shape[1]
            kind = {nn.Conv2d: "conv", nn.Conv1d: "conv1d"}.get(type(m))
            kind = kind or ("vector" if "emb" in name else "tokens")
            for suffix, width in [("", total)] if at is None else [("", at), ("_0", total - at)]:
                key = f"model.{name}.weight_quantizer{suffix}"
                column = (len(m.weight),) + (1,) * (m.weight.ndim - 1)
                state[f"{key}.alpha"] = fill((len(m.weight), width, *m.weight.shape[2:]))
                state[f"{key}.delta"] = torch.rand(column) + 0.1
                state[f"{key}.zero_point"] = torch.randint(6, 10, column).float()
                add(f"model.{name}.act_quantizer{suffix}", width, kind)
        elif isinstance(m, AttentionBlock | CrossAttention):
            for o in "qkvw":
                add(f"model.{name}.act_quantizer_{o}", 8, "tokens")
        elif isinstance(m, QKVBlock):
            for product, o in (("qkv", "q"), ("qkv", "k"), ("smv", "v"), ("smv", "w")):
                add(f"model.{name}.attention.{product}_matmul.act_quantizer_{o}", 8, "tokens")
    return state


def save(state, path):
    torch.save(state, path)
    return path


# Plain state dict of DDPM


def test_ddpm_of_cifar10(tmp_path):
    state = {k: zeros_of(v.shape) for k, v in on_meta(UNet).state_dict().items()}
    assert len(state) == 328
    assert sum(v.numel() for v in state.values()) == 35_746_307
    path = save(state, tmp_path / "model-790000.ckpt")
    network = load_ddpm(path)
    assert not network.training and network.conv_in.weight.shape == (128, 3, 3, 3)
    assert not any(p.is_meta for p in network.parameters())


def test_ddpm_gives_the_same_function(tmp_path):
    torch.manual_seed(0)
    reference = UNet(**SMALL).eval()
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([3, 900])
    for name, write in (("a.ckpt", torch.save), ("a.safetensors", save_file)):
        write(reference.state_dict(), tmp_path / name)
        network = load_ddpm(tmp_path / name, on_meta(UNet, **SMALL))
        with torch.no_grad():
            assert torch.equal(network(x, t), reference(x, t))


def test_foreign_ddpm_files_are_refused(tmp_path):
    state = UNet(**SMALL).state_dict()
    path = tmp_path / "model.ckpt"
    cases = {
        "lacks conv_out.bias": {k: v for k, v in state.items() if k != "conv_out.bias"},
        "holds label.weight": {**state, "label.weight": torch.zeros(1)},
        "conv_out.bias has shape (2,), in the network (1,)": {
            **state,
            "conv_out.bias": torch.zeros(2),
        },
        "conv_out.bias holds NaN": {**state, "conv_out.bias": torch.full((1,), torch.nan)},
        "`model` is a OrderedDict, not a tensor": {"model": state},
        "holds a list": [1, 2],
    }
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_ddpm(path, on_meta(UNet, **SMALL)), "model.ckpt", message, "; ")


def test_broken_files_are_refused(tmp_path):
    def load():
        return load_ddpm(path, on_meta(UNet, **SMALL))

    path = tmp_path / "model.ckpt"
    refused(load, "model.ckpt", "is missing; put")
    save(UNet(**SMALL).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(load, "model.ckpt", "truncated", "fetch")
    path.write_text("not a checkpoint")
    refused(load, "model.ckpt", "cannot be read")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x10\x00\x00")
    refused(load, "model.safetensors", "truncated")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("load", [load_ddpm, read_compvis, load_calibration, load_quantised])
def test_no_file_runs_code(tmp_path, load):
    path = save({"state_dict": {"x": Trap(str(tmp_path / "sprung"))}}, tmp_path / "evil.ckpt")
    network = [on_meta(UNet, **SMALL)] if load is load_quantised else []
    refused(lambda: load(path, *network), "evil.ckpt", "safetensors")
    assert not (tmp_path / "sprung").exists()


# CompVis


def compvis(network, ema=2.0, plain=1.0, step=440_000):
    state = {f"model.diffusion_model.{k}": v + plain for k, v in network.items()}
    state |= {f"model_ema.diffusion_model{k.replace('.', '')}": v + ema for k, v in network.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    state |= {"first_stage_model.decoder.conv_in.weight": torch.zeros(2), "betas": torch.zeros(4)}
    state |= {"cond_stage_model.embedding.weight": torch.zeros(3, 2)}
    return {"state_dict": state, "global_step": step, "epoch": 1}


@pytest.fixture(scope="module")
def zeros():
    return {k: torch.zeros(v.shape) for k, v in on_meta(LatentUNet, TINY).state_dict().items()}


def test_compvis_groups_and_averages(tmp_path, zeros):
    path = save(compvis(zeros), tmp_path / "model.ckpt")
    file = read_compvis(path)
    assert file.global_step == 440_000
    assert file.unet.keys() == zeros.keys()
    assert len(file.ema) == len(zeros) + 2 and "diffusion_modelout2weight" in file.ema
    assert list(file.first_stage) == ["decoder.conv_in.weight"]
    assert list(file.cond_stage) == ["embedding.weight"] and list(file.other) == ["betas"]
    for ema, value in ((True, 2.0), (False, 1.0)):
        network = load_compvis(path, on_meta(LatentUNet, TINY), ema=ema)
        assert all((p == value).all() for p in network.parameters())
        assert not network.training


def test_compvis_as_safetensors_and_half_precision(tmp_path, zeros):
    state = {k: v.half() for k, v in compvis(zeros)["state_dict"].items() if "ema" not in k}
    path = tmp_path / "sd.safetensors"
    save_file(state, path)
    network = load_compvis(path, on_meta(LatentUNet, TINY), ema=False)
    assert all(p.dtype == torch.float32 and (p == 1).all() for p in network.parameters())
    assert read_compvis(path).global_step is None
    refused(
        lambda: load_compvis(path, on_meta(LatentUNet, TINY)), "sd.safetensors", "with ema=False"
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_published_averages_have_names_of_their_own(name):
    names = list(on_meta(LatentUNet, CONFIGS[name]).state_dict())
    assert len({n.replace(".", "") for n in names}) == len(names)
    assert len(names) == {"bedroom": 368, "church": 520, "cin256": 688, "sd-v1": 686}[name]


def test_published_compvis_file(tmp_path):
    shapes = on_meta(LatentUNet, CONFIGS["bedroom"]).state_dict()
    state = {f"model.diffusion_model.{k}": zeros_of(v.shape) for k, v in shapes.items()}
    path = save({"state_dict": state, "global_step": 1}, tmp_path / "model.ckpt")
    network = load_compvis(path, "bedroom", ema=False)
    assert sum(p.numel() for p in network.parameters()) == 274_056_163
    refused(lambda: load_compvis(path, "church", ema=False), "model.ckpt", "does not fit")
    refused(lambda: load_compvis(path, "sd-v2"), "sd-v2", "choose from bedroom")


def test_training_leftovers_are_inert(tmp_path, zeros, monkeypatch):
    """The released files mention a callback class, which must not be imported."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    cls = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = cls
    with monkeypatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, part, types.ModuleType(part))
        patch.setitem(sys.modules, module.__name__, module)
        content = compvis(zeros) | {"callbacks": {cls: {"best_model_score": torch.tensor(1.0)}}}
        path = save(content, tmp_path / "model.ckpt")
    before = set(sys.modules)
    load_compvis(path, on_meta(LatentUNet, TINY))
    assert not any(n.startswith("pytorch_lightning") for n in set(sys.modules) - before)


def test_foreign_compvis_files_are_refused(tmp_path, zeros):
    path, key = tmp_path / "model.ckpt", "model_ema.diffusion_modelout2bias"
    good = compvis(zeros)["state_dict"]
    cases = {
        "has no `state_dict`": zeros,
        "holds no model.diffusion_model.*": {"state_dict": zeros},
        "lacks out.2.bias": {"state_dict": {k: v for k, v in good.items() if k != key}},
        "holds diffusion_modelout29": {"state_dict": good | {f"{key[:-4]}9": torch.zeros(1)}},
        "out.2.bias has shape (3,)": {"state_dict": good | {key: torch.zeros(3)}},
        "`betas` is a int": {"state_dict": good | {"betas": 3}},
    }
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_compvis(path, on_meta(LatentUNet, TINY)), "model.ckpt", message)


# Q-Diffusion


def test_published_quantised_layout_of_cifar10(tmp_path):
    network = on_meta(UNet)
    state = quantised_file(network, shortcut_splits(network), fill=zeros_of)
    assert len(state) == 1001
    assert state["model.up.3.block.0.nin_shortcut.weight"].shape == (256, 512, 1, 1)
    for suffix in ("", "_0"):
        key = f"model.up.3.block.0.nin_shortcut.weight_quantizer{suffix}"
        assert state[f"{key}.alpha"].shape == (256, 256, 1, 1)
    loaded = load_quantised(save(state, tmp_path / "cifar_w4a8.pth"), network)
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
    loaded = load_quantised(save(state, tmp_path / "a.pth"), network)
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
    (grids,) = load_quantised(path, network, Bits(activation=4, signed=False)).activations
    x = torch.tensor([-9.0, -0.3, 0.2, 0.4, 9.0])
    assert grids.layers["conv_in"][0](x).tolist() == [-1.0, -0.5, 0.0, 0.5, 6.5]
    refused(lambda: load_quantised(path, network), "conv_in.act_quantizer", "Bits(signed=False)")


@pytest.mark.parametrize("config", [TINY, TRANSFORMER], ids=["qkv", "transformer"])
@pytest.mark.parametrize("split", [False, True])
def test_quantised_latent_diffusion(tmp_path, config, split):
    network = on_meta(LatentUNet, config)
    splits = skip_splits(network) if split else {}
    state = quantised_file(network, splits)
    path = save(state, tmp_path / "a.pth")
    loaded = load_quantised(path, network, Bits(softmax=16))
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
    loaded = load_quantised(save(state, tmp_path / "w4.pth"), network)
    assert loaded.activations == () and len(loaded.splits) == 4


def test_foreign_quantised_files_are_refused(tmp_path):
    network, path = on_meta(UNet, **SMALL), tmp_path / "w4a8.pth"
    good = quantised_file(network, shortcut_splits(network))
    q, a = "model.conv_in.weight_quantizer", "model.conv_in.act_quantizer"
    half = "model.up.0.block.0.nin_shortcut.weight_quantizer_0.alpha"
    cases = {
        "lacks conv_in.weight_quantizer.alpha": {k: v for k, v in good.items() if q not in k},
        "lacks up.0.block.0.nin_shortcut.weight_quantizer_0.alpha": {
            k: v for k, v in good.items() if k != half
        },
        "lacks conv_in.act_quantizer.delta": {
            k: v for k, v in good.items() if k != f"{a}.delta"
        },
        "holds temb.extra": {**good, "model.temb.extra": torch.zeros(1)},
        "conv_in.weight does not start with `model.`": {"conv_in.weight": torch.zeros(1)},
        "conv_in.weight has shape (1,)": {**good, "model.conv_in.weight": torch.zeros(1)},
        "conv_in.weight_quantizer.alpha has shape (2,)": {**good, f"{q}.alpha": torch.zeros(2)},
        "conv_in.weight_quantizer.delta has shape (2,)": {
            **good,
            f"{q}.delta": torch.ones(2),
            f"{q}.zero_point": torch.ones(2),
        },
        "conv_in.weight_quantizer.delta is not positive": {
            **good,
            f"{q}.delta": torch.zeros(16, 1, 1, 1),
        },
        "conv_in.weight_quantizer.zero_point is not an integer": {
            **good,
            f"{q}.zero_point": torch.full((16, 1, 1, 1), 0.5),
        },
        "conv_in.weight_quantizer.zero_point has shape (3,)": {
            **good,
            f"{q}.zero_point": torch.ones(3),
        },
        "conv_in.act_quantizer.delta has shape (2,)": {
            **good,
            f"{a}.delta": torch.ones(2),
            f"{a}.zero_point": torch.zeros(2),
        },
    }  # fmt: skip
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_quantised(path, network), "w4a8.pth", message, "; ")
    save(good, path)
    refused(lambda: load_quantised(path, network, splits={}), "w4a8.pth", "holds")
    refused(lambda: load_quantised(path, network, splits={"conv_x": 1}), "conv_x", "splits")
    path.write_bytes(path.read_bytes()[:20_000])
    refused(lambda: load_quantised(path, network), "w4a8.pth", "truncated")


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
    loaded = load_quantised(path, network, Bits(activation=4, wide_edges=True))
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
    loaded = load_quantised(save(state, tmp_path / "a.pth"), network)
    grids = loaded.activations[2].layers
    assert grids["middle_block.1.qkv"][0].delta.shape == (32, 1)
    assert [g.delta.shape for g in grids["output_blocks.3.0.skip_connection"]] == [(16, 1, 1)] * 2


def test_foreign_time_tables_are_refused(tmp_path):
    network, path = on_meta(LatentUNet, TRANSFORMER), tmp_path / "quest.pth"
    good = quantised_file(network, activations="lists")
    for key, shape, message in (
        ("out.2.act_quantizer", (3, 15, 1, 1), "out.2.act_quantizer.delta_list has shape"),
        ("out.2.act_quantizer", (3, 16), "for 16 channels"),
        ("out.2.act_quantizer", (), "is no step table"),
        ("time_embed.0.act_quantizer", (3, 2, 16), "time_embed.0.act_quantizer.delta_list"),
        ("out.2.act_quantizer", (4, 16, 1, 1), "different lengths ([3, 4])"),
    ):
        state = dict(good)
        state[f"model.{key}.delta_list"] = torch.ones(shape)
        state[f"model.{key}.zero_point_list"] = torch.zeros(shape)
        save(state, path)
        refused(lambda: load_quantised(path, network), "quest.pth", message)


# Calibration


def calibration(steps=10, samples=6, context=False):
    torch.manual_seed(0)
    t = torch.arange(steps - 1, -1, -1)[:, None].expand(steps, samples).clone()
    content = {"xs": torch.randn(steps, samples, 3, 8, 8), "ts": t * 100}
    if context:
        content |= {k: torch.randn(steps, samples, 7, 12) for k in ("cs", "ucs")}
    return content


def test_calibration_files(tmp_path):
    content = calibration()
    file = load_calibration(save(content, tmp_path / "cali.pt"))
    chosen = file.calibration_set(4, 3)
    assert chosen.x.shape == (12, 3, 8, 8)
    assert chosen.t.tolist() == [900] * 3 + [700] * 3 + [500] * 3 + [300] * 3
    assert torch.equal(chosen.x[3:6], content["xs"][2, :3])
    refused(lambda: file.uniform(11, 1), "10 steps", "ask for fewer")
    refused(lambda: file.uniform(5, 7), "6 samples", "ask for fewer")


def test_calibration_files_with_contexts(tmp_path):
    content = calibration(context=True)
    file = load_calibration(save(content, tmp_path / "cali.pt"))
    x, t, c = file.uniform(5, 2)
    assert len(x) == len(t) == len(c) == 20
    assert torch.equal(x[:10], x[10:]) and torch.equal(t[:10], t[10:])
    assert torch.equal(c[:2], content["cs"][0, :2]) and torch.equal(c[12:14], content["ucs"][2, :2])
    refused(lambda: file.calibration_set(2, 2), "uniform")


def test_foreign_calibration_files_are_refused(tmp_path):
    path, good, paired = tmp_path / "cali.pt", calibration(), calibration(context=True)
    cases = {
        "lacks `ts`": {"xs": good["xs"]},
        "lacks `ucs`": {**good, "cs": torch.zeros(10, 6, 2)},
        "holds `labels`": {**good, "labels": torch.zeros(1)},
        "xs is torch.float32 of shape (10, 3)": {**good, "xs": torch.zeros(10, 3)},
        "ts has shape (10, 5)": {**good, "ts": torch.zeros(10, 5)},
        "ts has shape (10, 6, 1)": {**good, "ts": torch.zeros(10, 6, 1)},
        "ucs (10, 6, 1, 2)": {**paired, "ucs": torch.zeros(10, 6, 1, 2)},
        "xs holds NaN": {**good, "xs": good["xs"] / 0 * 0},
        "holds a list": [good["xs"]],
        "`xs` is a list": {**good, "xs": [1.0]},
    }
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_calibration(path), "cali.pt", message, "; ")
