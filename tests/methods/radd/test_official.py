"""Published checkpoints: keys and shapes at true size, loading, and foreign or broken files."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from methods.radd import official
from methods.radd.networks import Gpt2, Gpt2Size
from repro.errors import ReproError
from repro.nets.transformer import MEDIUM, SMALL, Config, Transformer

TINY = Config(vocab=11, d=16, blocks=2, heads=2)
TINY_SEDD = replace(TINY, cond=8)
# d, blocks, heads, cond, tensors: what the releases contain
RELEASED = [
    (SMALL, None, 126),
    (MEDIUM, None, 246),
    (SMALL, 128, 131),
    (MEDIUM, 128, 251),
]


def as_json(config, nested=False, **model):
    content = {
        "tokens": config.vocab,
        "noise": {"type": "loglinear"},
        "model": {
            "hidden_size": config.d,
            "n_heads": config.heads,
            "n_blocks": config.blocks,
            "cond_dim": config.cond or 128,
            "dropout": 0.02,
            "dtype": "float16",
            "length": 1024,
            "scale_by_sigma": True,
        }
        | model,
    }
    return json.dumps({"config": content} if nested else content)


def random_state(config, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=g) for k, s in official.shapes(config).items()}


def publish(folder, config, state=None, nested=False):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state or random_state(config), folder / "model.safetensors")
    (folder / "config.json").write_text(as_json(config, nested))
    return folder


@pytest.mark.parametrize(("config", "cond", "tensors"), RELEASED)
def test_true_size_has_the_released_keys_and_shapes(config, cond, tensors):
    config = replace(config, cond=cond)
    expected = official.shapes(config)
    assert len(expected) == tensors
    with torch.device("meta"):
        network = Transformer(config)
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == expected
    # The averages of a training checkpoint come in the order of the parameters.
    names = [name for name, _ in network.named_parameters()]
    assert names == [name for name in expected if name != "rotary_emb.inv_freq"]


def test_spelled_out_names_of_one_block():
    keys = list(official.shapes(replace(SMALL, blocks=1)))
    assert keys == [
        "vocab_embed.embedding", "rotary_emb.inv_freq",
        "blocks.0.norm1.weight", "blocks.0.norm1.bias",
        "blocks.0.attn_qkv.weight", "blocks.0.attn_out.weight",
        "blocks.0.norm2.weight", "blocks.0.norm2.bias",
        "blocks.0.mlp.0.weight", "blocks.0.mlp.0.bias",
        "blocks.0.mlp.2.weight", "blocks.0.mlp.2.bias",
        "output_layer.norm_final.weight", "output_layer.norm_final.bias",
        "output_layer.linear.weight", "output_layer.linear.bias",
    ]  # fmt: skip
    assert official.shapes(SMALL)["vocab_embed.embedding"] == (50258, 768)
    assert official.shapes(SMALL)["rotary_emb.inv_freq"] == (32,)
    assert official.shapes(SMALL)["blocks.11.attn_qkv.weight"] == (2304, 768)
    assert official.shapes(replace(SMALL, cond=128))["sigma_map.mlp.0.weight"] == (128, 256)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("config", [TINY, TINY_SEDD])
def test_published_layout(tmp_path, config, nested):
    state = random_state(config)
    loaded = official.load_published(publish(tmp_path / "m", config, state, nested))
    assert loaded.network.config == config and not loaded.network.training
    assert loaded.scaled is (config.cond is not None) and loaded.length == 1024
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, state[key])
    x = torch.randint(12, (2, 5))
    sbar = None if config.cond is None else torch.ones(2)
    assert loaded.network(x, sbar).shape == (2, 5, 12)


@pytest.mark.parametrize("average", [False, True])
def test_training_layout(tmp_path, average):
    state = random_state(TINY)
    shadow = [v for k, v in random_state(TINY, seed=1).items() if k != "rotary_emb.inv_freq"]
    path = tmp_path / "checkpoint.pth"
    content = {
        "optimizer": {"state": {}, "param_groups": []},
        "model": {f"module.{k}": v for k, v in state.items()},
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "step": 7,
    }
    torch.save(content, path)
    (tmp_path / "config.json").write_text(as_json(TINY))
    loaded = official.load_training(path, tmp_path / "config.json", ema=average)
    got = dict(loaded.network.named_parameters())
    names = [k for k in state if k != "rotary_emb.inv_freq"]
    for name, averaged in zip(names, shadow, strict=True):
        assert torch.equal(got[name], averaged if average else state[name])
    content["ema"]["shadow_params"] = shadow[:-1]
    torch.save(content, path)
    with pytest.raises(ReproError, match="lists 24 averages, the network trains 25"):
        official.load_training(path, tmp_path / "config.json")
    content["ema"]["shadow_params"] = [*shadow[:-1], torch.zeros(3)]
    torch.save(content, path)
    with pytest.raises(ReproError, match=r"output_layer.linear.bias` has shape \(3,\)"):
        official.load_training(path, tmp_path / "config.json")


def drop(state):
    del state["blocks.1.mlp.0.bias"]


def add(state):
    state["lm_head.weight"] = torch.zeros(2)


def bend(state):
    state["blocks.0.attn_out.weight"] = torch.zeros(16, 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"lacks `blocks.1.mlp.0.bias` \(1 of 26 tensors missing\)"),
        (add, r"holds `lm_head.weight` \(1 foreign\)"),
        (bend, r"`blocks.0.attn_out.weight` has shape \(16, 17\), expected \(16, 16\)"),
    ],
)
def test_foreign_tensors_are_named(tmp_path, change, message):
    state = random_state(TINY)
    change(state)
    folder = publish(tmp_path, TINY, state)
    with pytest.raises(ReproError, match=message) as error:
        official.load_published(folder)
    assert "\n" not in str(error.value)


def test_files_of_another_model_are_refused(tmp_path):
    folder = tmp_path / "sedd-small"
    with pytest.raises(ReproError, match="is missing; put model.safetensors of louaaron"):
        official.load_published(folder, "sedd-small")
    publish(folder, TINY)
    with pytest.raises(ReproError, match="describes .*d=16.*, but sedd-small is .*d=768.*cond=128"):
        official.load_published(folder, "sedd-small")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "field tokens is missing"),
        ('{"tokens": true}', "field tokens is missing or not of type int"),
        (as_json(TINY, n_blocks="2"), "field model.n_blocks"),
    ],
)
def test_bad_configurations(tmp_path, text, message):
    folder = publish(tmp_path, TINY)
    (folder / "config.json").write_text(text)
    with pytest.raises(ReproError, match=message):
        official.load_published(folder)


def test_configuration_of_another_size_is_refused(tmp_path):
    folder = publish(tmp_path, TINY)
    (folder / "config.json").write_text(as_json(replace(TINY, blocks=3)))
    with pytest.raises(ReproError, match=r"lacks `blocks.2.*10 of 36 tensors missing"):
        official.load_published(folder)


# GPT-2, the judge of the paper's samples


def gpt2_state(d=8, blocks=2, vocab=13, positions=6, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.5 * torch.randn(*shape, generator=g)

    state = {"wte.weight": draw(vocab, d), "wpe.weight": draw(positions, d)}
    for i in range(blocks):
        for norm in ("ln_1", "ln_2"):
            state |= {f"h.{i}.{norm}.weight": draw(d), f"h.{i}.{norm}.bias": draw(d)}
        for name, a, b in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, 4 * d),
            ("mlp.c_proj", 4 * d, d),
        ):
            state |= {f"h.{i}.{name}.weight": draw(a, b), f"h.{i}.{name}.bias": draw(b)}
        state[f"h.{i}.attn.bias"] = torch.ones(1, 1, positions, positions)  # a stored causal mask
    return state | {"ln_f.weight": draw(d), "ln_f.bias": draw(d)}


def plain_gpt2(w, ids, head):
    """Token by token and head by head: each position attends to itself and what is before it."""

    def norm(v, name):
        v = (v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt()
        return v * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(v, name):
        return v @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = [w["wte.weight"][j] + w["wpe.weight"][n] for n, j in enumerate(ids)]
    d = len(x[0])
    for i in range(2):
        p = f"h.{i}."
        qkv = [linear(norm(v, p + "ln_1"), p + "attn.c_attn") for v in x]
        after = []
        for n, v in enumerate(x):
            parts = []
            for s in range(0, d, head):
                score = torch.stack(
                    [qkv[n][s : s + head] @ qkv[m][d + s : d + s + head] for m in range(n + 1)]
                )
                weight = (score / head**0.5).softmax(0)
                parts.append(
                    sum(weight[m] * qkv[m][2 * d + s : 2 * d + s + head] for m in range(n + 1))
                )
            v = v + linear(torch.cat(parts), p + "attn.c_proj")
            u = linear(norm(v, p + "ln_2"), p + "mlp.c_fc")
            u = 0.5 * u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3)))
            after.append(v + linear(u, p + "mlp.c_proj"))
        x = after
    return torch.stack([norm(v, "ln_f") @ w["wte.weight"].T for v in x])


TINY_JUDGE = Gpt2Size(vocab=13, positions=6, d=8, blocks=2, heads=2)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_judge(tmp_path, prefix):
    state = gpt2_state()
    save_file({prefix + k: v for k, v in state.items()}, tmp_path / "model.safetensors")
    judge = official.Gpt2Judge(tmp_path, torch.device("cpu"), 2, TINY_JUDGE)
    tokens = torch.randint(13, (3, 5), generator=torch.Generator().manual_seed(1))
    nll = judge.nll(tokens.numpy())
    assert nll.shape == (3,)
    for row, got in zip(tokens, nll, strict=True):
        log_p = plain_gpt2(state, row, 4).log_softmax(-1)
        expected = -sum(log_p[n, row[n + 1]] for n in range(4)) / 4
        assert got == pytest.approx(float(expected), abs=1e-5)


def test_the_judge_is_gpt2_large():
    with torch.device("meta"):
        state = Gpt2().state_dict()
    assert sum(v.numel() for v in state.values()) == 774_030_080 and len(state) == 36 * 12 + 4
    assert state["wte.weight"].shape == (50257, 1280)
    assert state["h.35.attn.c_attn.weight"].shape == (1280, 3840)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"blocks": 1}, "holds `h.1.attn.c_attn.bias` (12 foreign)"),
        ({"blocks": 3}, "lacks `h.2.ln_1.weight` (12 of 40 tensors missing)"),
        ({"d": 16}, "`wte.weight` has shape (13, 8), expected (13, 16)"),
        ({"positions": 5}, "`wpe.weight` has shape (6, 8), expected (5, 8)"),
    ],
)
def test_a_judge_of_another_size_is_refused(tmp_path, size, message):
    save_file(gpt2_state(), tmp_path / "model.safetensors")
    with pytest.raises(ReproError, match=re.escape(message)):
        official.Gpt2Judge(tmp_path, torch.device("cpu"), 2, TINY_JUDGE._replace(**size))
