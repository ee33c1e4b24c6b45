"""The transformer of SEDD and RADD: shapes, symmetries, conditioning, cost."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from repro.nets.transformer import MEDIUM, SMALL, Config, Transformer, macs

TINY = Config(vocab=11, d=16, blocks=2, heads=2)


def build(config, seed=0, spread=0.3):
    """A network without zero weights, so that every part has an effect."""
    torch.manual_seed(seed)
    network = Transformer(config).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(spread * torch.randn_like(p))
    return network


def reference(network, x, sbar=None):
    """The same function written plainly from the state dict, one sequence and head at a time."""
    w, config = network.state_dict(), network.config
    d, heads = config.d, config.heads
    size = d // heads
    half = size // 2

    def norm(v, name):
        v = (v - v.mean(-1, keepdim=True)) / (v.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return v * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0)

    out = []
    for row, ids in enumerate(x):
        c = None
        if sbar is not None:
            steps = torch.arange(config.frequencies // 2)
            angle = sbar[row] * 10000.0 ** (-2 * steps / config.frequencies)
            e = torch.cat([angle.cos(), angle.sin()]).double()
            e = w["sigma_map.mlp.0.weight"] @ e + w["sigma_map.mlp.0.bias"]
            e = w["sigma_map.mlp.2.weight"] @ (e * e.sigmoid()) + w["sigma_map.mlp.2.bias"]
            c = e * e.sigmoid()
        h = w["vocab_embed.embedding"][ids]
        position = torch.arange(len(ids))
        for b in range(config.blocks):
            p = f"blocks.{b}"
            mod = [torch.zeros(d)] * 6
            gate_a = gate_m = 1.0
            if c is not None:
                flat = w[f"{p}.adaLN_modulation.weight"] @ c + w[f"{p}.adaLN_modulation.bias"]
                mod = flat.view(6, d)
                gate_a, gate_m = mod[2], mod[5]
            y = norm(h, f"{p}.norm1") * (1 + mod[1]) + mod[0]
            qkv = y @ w[f"{p}.attn_qkv.weight"].T
            heads_out = []
            for k in range(heads):
                q, key, v = (qkv[:, j * d + k * size : j * d + (k + 1) * size] for j in range(3))
                rotated = []
                for u in (q, key):
                    z = torch.complex(u[:, :half], u[:, half:])
                    angle = position[:, None] * 10000.0 ** (-torch.arange(half) / half)
                    z = z * torch.polar(torch.ones_like(angle), angle).to(z.dtype)
                    rotated.append(torch.cat([z.real, z.imag], -1))
                score = rotated[0] @ rotated[1].T / size**0.5
                heads_out.append(score.softmax(-1) @ v)
            h = h + gate_a * (torch.cat(heads_out, -1) @ w[f"{p}.attn_out.weight"].T)
            y = norm(h, f"{p}.norm2") * (1 + mod[4]) + mod[3]
            y = y @ w[f"{p}.mlp.0.weight"].T + w[f"{p}.mlp.0.bias"]
            y = F.gelu(y, approximate="tanh") @ w[f"{p}.mlp.2.weight"].T + w[f"{p}.mlp.2.bias"]
            h = h + gate_m * y
        y = norm(h, "output_layer.norm_final")
        if c is not None:
            flat = w["output_layer.adaLN_modulation.weight"] @ c
            shift, scale = (flat + w["output_layer.adaLN_modulation.bias"]).view(2, d)
            y = y * (1 + scale) + shift
        out.append(y @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"])
    return torch.stack(out)


@pytest.mark.parametrize("cond", [None, 6])
def test_forward_is_the_plain_formula(cond):
    network = build(replace(TINY, cond=cond, frequencies=8))
    x = torch.randint(12, (3, 7), generator=torch.Generator().manual_seed(1))
    sbar = None if cond is None else torch.tensor([0.01, 1.0, 6.0])
    got = network(x, sbar)
    assert got.shape == (3, 7, 12)
    torch.testing.assert_close(got, reference(network, x, sbar), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "cond", "parameters", "tensors"),
    [
        (SMALL, None, 162_265_682, 126),
        (MEDIUM, None, 405_191_762, 246),
        (SMALL, 128, 169_627_218, 131),
        (MEDIUM, 128, 424_477_010, 251),
    ],
)
def test_true_sizes(config, cond, parameters, tensors):
    with torch.device("meta"):
        network = Transformer(replace(config, cond=cond))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_macs_match_the_published_table_and_a_count_of_hooks():
    small, medium = macs(SMALL, 1024), macs(MEDIUM, 1024)
    assert [round(small[k] / 1e9, 2) for k in ("linear", "attention", "head")] == [
        86.97,
        19.33,
        39.52,
    ]
    assert round(small["total"] / 1e9, 1) == 145.8
    assert round(medium["total"] / 1e9, 1) == 413.5
    config = replace(TINY, cond=6, frequencies=8)
    network, length, counted = build(config), 9, {"linear": 0, "head": 0, "time": 0}

    def count(layer, args, output, name):
        part = "linear"
        if "adaLN" in name or "sigma_map" in name:
            part = "time"
        elif name == "output_layer.linear":
            part = "head"
        counted[part] += layer.weight.numel() * output[..., 0].numel()

    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda m, a, o, n=name: count(m, a, o, n))
    network(torch.zeros(1, length, dtype=torch.long), torch.ones(1))
    parts = macs(config, length)
    assert {k: parts[k] for k in counted} == counted
    assert parts["attention"] == 2 * 2 * length**2 * 16


def test_untrained_network_is_uniform_and_time_does_not_matter_yet():
    torch.manual_seed(0)
    network = Transformer(replace(TINY, cond=6)).eval()
    x = torch.randint(12, (2, 5))
    assert (network(x, torch.tensor([0.1, 3.0])) == 0).all()
    early, late = (network(x, torch.full((2,), s)) for s in (0.1, 3.0))
    assert torch.equal(early, late)


def test_time_changes_the_conditioned_network():
    network = build(replace(TINY, cond=6))
    x = torch.randint(12, (2, 5))
    early, late = (network(x, torch.full((2,), s)) for s in (0.1, 3.0))
    assert not torch.allclose(early, late)


def test_attention_sees_both_sides():
    network = build(TINY)
    x = torch.zeros(1, 6, dtype=torch.long)
    base = network(x)
    for changed, seen in ((5, 0), (0, 5)):
        y = x.clone()
        y[0, changed] = 3
        assert not torch.allclose(network(y)[0, seen], base[0, seen])


def test_only_relative_position_matters():
    """Rotary attention of a constant sequence is the same at every position."""
    network = build(TINY)
    out = network(torch.full((1, 8), 4))
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_normalisation_is_in_float32_for_half_precision():
    network = Transformer(TINY).bfloat16().eval()
    norm = network.blocks[0].norm1
    x = (100 + torch.randn(1, 4, 16)).bfloat16()
    exact = F.layer_norm(x.float(), (16,), norm.weight.float(), norm.bias.float())
    torch.testing.assert_close(norm(x).float(), exact, rtol=0.01, atol=0.01)
    assert network(torch.zeros(1, 4, dtype=torch.long)).dtype == torch.bfloat16


def test_layer_norm_starts_with_bias_one():
    network = Transformer(TINY)
    assert (network.blocks[0].norm1.bias == 1).all()
    assert Transformer(replace(TINY, cond=6)).blocks[0].norm1.bias is None


def test_dropout_acts_in_training_only():
    network = build(replace(TINY, dropout=0.5))
    x = torch.randint(12, (2, 5))
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.allclose(network(x), network(x))


def test_missing_or_needless_noise_level_is_refused():
    x = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="sbar"):
        build(TINY)(x, torch.ones(1))
    with pytest.raises(ValueError, match="sbar"):
        build(replace(TINY, cond=6))(x)
