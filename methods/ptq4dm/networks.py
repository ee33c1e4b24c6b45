"""The U-Net of Improved DDPM, which the paper quantises (Nichol & Dhariwal 2021, arXiv 2102.09672).

At the two published sizes, with the tensor names of the released checkpoints. Build it on the meta
device to count it:

    with torch.device("meta"):
        network = unet("cifar10")

A residual block computes, with a = SiLU and (s, b) a linear map of a(e), e the time embedding,

    h = in_layers(x);   h = (1 + s) · norm(h) + b;   h = conv(dropout(a(h)));   skip(x) + h

and the last convolution gives 2 C channels: ε and the interpolation of the learned Σ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.quant.layers import Layer


class Size(TypedDict):
    """Arguments in which the published networks differ."""

    image_size: int
    channel_mult: tuple[int, ...]
    dropout: float


CONFIGS: dict[str, Size] = {
    "cifar10": {"image_size": 32, "channel_mult": (1, 2, 2, 2), "dropout": 0.3},
    "imagenet64": {"image_size": 64, "channel_mult": (1, 2, 3, 4), "dropout": 0.0},
}


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """[cos, sin] of t · max_period^(-k/half), k = 0..half-1: t (B,) -> (B, dim)."""
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(max_period) * k / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Residual block with scale and shift: (B, c_in, H, W), (B, E) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, embedding: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(c_out, c_out, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.in_layers(x)
        scale, shift = self.emb_layers(e)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class QKVAttention(nn.Module):
    """softmax(qᵀk/√c) applied to v: q, k, v concatenated (B, 3c, N) -> (B, c, N)."""

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.chunk(3, dim=1)
        scale = q.shape[1] ** -0.25
        weight = torch.softmax((q * scale).transpose(1, 2) @ (k * scale), dim=-1)
        return v @ weight.transpose(1, 2)


class AttentionBlock(nn.Module):
    """Residual self-attention over pixels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.attention = QKVAttention()
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        h = self.attention(qkv.reshape(len(x) * self.heads, -1, qkv.shape[-1]))
        return (flat + self.proj_out(h.reshape(flat.shape))).reshape(x.shape)


class Downsample(nn.Module):
    """Strided convolution to half the resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Input(nn.Conv2d):
    """The first convolution, deaf to the embedding like every block that takes (x, e)."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Block(nn.Sequential):
    """Layers in a row that each take (x, e)."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, e)
        return x


class ImprovedUNet(nn.Module):
    """(x (B, 3, H, W), t (B,)) -> (B, 6, H, W): ε and the raw interpolation of Σ.

    `attention` lists the resolutions with self-attention; `t` runs over 0..1000 (rescaled labels).
    """

    def __init__(
        self,
        *,
        image_size: int,
        channel_mult: Sequence[int],
        dropout: float = 0.0,
        channels: int = 128,
        num_res_blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        heads: int = 4,
        in_channels: int = 3,
        out_channels: int = 6,
    ):
        super().__init__()
        self.channels = channels
        width, embedding = channels, 4 * channels
        self.time_embed = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )

        def layers(c_in: int, c_out: int, size: int) -> list[nn.Module]:
            made: list[nn.Module] = [ResBlock(c_in, c_out, embedding, dropout)]
            return [*made, AttentionBlock(c_out, heads)] if size in attention else made

        self.input_blocks = nn.ModuleList([Block(Input(in_channels, channels, 3, padding=1))])
        size, skips = image_size, [channels]
        for level, factor in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(*layers(width, factor * channels, size)))
                width = factor * channels
                skips.append(width)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(Block(Downsample(width)))
                size //= 2
                skips.append(width)

        self.middle_block = Block(
            ResBlock(width, width, embedding, dropout),
            AttentionBlock(width, heads),
            ResBlock(width, width, embedding, dropout),
        )

        self.output_blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                block = layers(width + skips.pop(), factor * channels, size)
                width = factor * channels
                if level and i == num_res_blocks:
                    block.append(Upsample(width))
                    size *= 2
                self.output_blocks.append(Block(*block))

        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.time_embed(timestep_embedding(t, self.channels).to(x.dtype))
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, e)
            skips.append(h)
        h = self.middle_block(h, e)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), e)
        return self.out(h)


def unet(name: str) -> ImprovedUNet:
    """The published network called `name`; raises ReproError on an unknown one."""
    if name not in CONFIGS:
        raise ReproError(f"no Improved-DDPM network `{name}`; choose from {', '.join(CONFIGS)}")
    return ImprovedUNet(**CONFIGS[name])


def count(network: ImprovedUNet, image_size: int) -> dict[str, int]:
    """Parameters, tensors, layers and multiply-accumulates (batch 1), by kind of operation.

    Works on the meta device. Keys: params, tensors, params_<group>, {conv2d,linear,conv1d}
    (layers), mac_{conv2d,linear,conv1d,attention}, mac, and attention_weights (weights of Conv1d).
    """
    kinds: dict[type[Layer], str] = {nn.Conv2d: "conv2d", nn.Conv1d: "conv1d", nn.Linear: "linear"}
    found: Counter[str] = Counter()

    def layer_hook(module: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kind = "conv2d" if isinstance(module, nn.Conv2d) else kinds[type(module)]
        found[f"mac_{kind}"] += output.numel() * module.weight[0].numel()

    def attention_hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        batch, width, n = inputs[0].shape
        found["mac_attention"] += 2 * batch * n * n * width // 3

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            kind = next(name for cls, name in kinds.items() if isinstance(module, cls))
            found[kind] += 1
            hooks.append(module.register_forward_hook(layer_hook))
            if kind == "conv1d":
                found["attention_weights"] += module.weight.numel()
        elif isinstance(module, QKVAttention):
            hooks.append(module.register_forward_hook(attention_hook))
    device = next(network.parameters()).device
    with torch.no_grad():
        network(
            torch.zeros(1, 3, image_size, image_size, device=device),
            torch.zeros(1, dtype=torch.long, device=device),
        )
    for hook in hooks:
        hook.remove()
    for name, parameter in network.named_parameters():
        found["params"] += parameter.numel()
        found["tensors"] += 1
        found[f"params_{name.split('.')[0]}"] += parameter.numel()
    found["mac"] = sum(v for k, v in found.items() if k.startswith("mac_"))
    return dict(found)
