"""Files in the published layouts, written down from their descriptions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.nets.ldm import AttentionBlock as QKVBlock
from repro.nets.ldm import CrossAttention, LDMConfig
from repro.nets.unet import AttentionBlock

SMALL = dict(in_channels=1, channels=16, mult=(1, 2), blocks=1, attention=(16,), groups=4)
TINY = LDMConfig(
    size=8, in_channels=1, out_channels=1, channels=16, mult=(1, 2), attention=(2,), blocks=1,
    head_width=8, groups=4,
)  # fmt: skip
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


def save(state, path):
    torch.save(state, path)
    return path


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
