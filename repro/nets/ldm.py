"""The U-Net of latent diffusion and of Stable Diffusion v1, at its published sizes and small.

Rombach et al. 2022 (arXiv 2112.10752). Tensors are called as in the released checkpoints
(``input_blocks.4.1.qkv``, ``middle_block.0``, ``output_blocks.5.2.conv``, ``out.2``,
``time_embed.0`` …), so that such a checkpoint loads strictly. Built on the meta device it can be
counted without memory:

    with torch.device("meta"):
        network = LatentUNet(SD_V1)
    count_macs(network, *example_inputs(SD_V1))

A residual block computes, with a = SiLU, e the time embedding and r a change of resolution (the
identity in most blocks),

    h = conv(r(a(norm(x))));   h = out_layers(h + emb_layers(e));   skip_connection(r(x)) + h

or, with scale and shift, h = conv(a((1 + s) norm(h) + b)) where (s, b) = emb_layers(e). Attention
is either an `AttentionBlock` (one Conv1d for q, k and v) or a `SpatialTransformer` (self-attention,
cross-attention to a context, and a gated feed-forward network).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "BEDROOM",
    "CHURCH",
    "CIN256",
    "CONFIGS",
    "SD_V1",
    "AttentionBlock",
    "CrossAttention",
    "LDMConfig",
    "LatentUNet",
    "ResBlock",
    "Selection",
    "SpatialTransformer",
    "example_inputs",
    "select",
    "skip_splits",
    "timestep_embedding",
]


@dataclass(frozen=True)
class LDMConfig:
    """Sizes of a `LatentUNet`.

    size: height and width of the latents. in_channels, out_channels: their channels.
    channels, mult: width of the first level, and the factor of each level.
    blocks: residual blocks a level (the decoder has one more).
    attention: downsampling factors (1, 2, 4 …) at which every block is followed by attention.
    heads or head_width: number of attention heads, or channels of one head; exactly one is given.
    transformer: attend by `SpatialTransformer` of `depth` blocks instead of `AttentionBlock`.
    context: width of the context tokens, or None: the second attention is then to the pixels too.
    context_length: tokens of a usual context (for counting; any number works).
    scale_shift: the time embedding scales and shifts instead of being added.
    resblock_updown: residual blocks change the resolution, not strided convolutions.
    groups: groups of every GroupNorm.
    zero_init: the last convolution of every block and of the network starts at zero, as in the
        released training code; pointless where weights are loaded.
    """

    size: int
    in_channels: int
    out_channels: int
    channels: int
    mult: Sequence[int]
    attention: Sequence[int]
    blocks: int = 2
    heads: int | None = None
    head_width: int | None = None
    transformer: bool = False
    depth: int = 1
    context: int | None = None
    context_length: int = 1
    scale_shift: bool = False
    resblock_updown: bool = False
    dropout: float = 0.0
    groups: int = 32
    zero_init: bool = False

    def __post_init__(self) -> None:
        if (self.heads is None) == (self.head_width is None):
            raise ValueError("give either the number of heads or the width of a head")
        if self.context is not None and not self.transformer:
            raise ValueError("only transformer blocks attend to a context; set transformer=True")
        factor = 2 ** (len(self.mult) - 1)
        if self.size % factor:
            raise ValueError(
                f"size {self.size} is not divisible by {factor}, which {len(self.mult)} levels need"
            )


BEDROOM = LDMConfig(
    size=64, in_channels=3, out_channels=3, channels=224, mult=(1, 2, 3, 4), attention=(8, 4, 2),
    head_width=32,
)  # fmt: skip
"""LDM-4 on LSUN-Bedroom 256²: 274 056 163 parameters."""

CHURCH = LDMConfig(
    size=32, in_channels=4, out_channels=4, channels=192, mult=(1, 2, 2, 4, 4),
    attention=(1, 2, 4, 8), heads=8, scale_shift=True, resblock_updown=True,
)  # fmt: skip
"""LDM-8 on LSUN-Church 256²: 294 966 916 parameters."""

CIN256 = LDMConfig(
    size=64, in_channels=3, out_channels=3, channels=192, mult=(1, 2, 3, 5), attention=(8, 4, 2),
    heads=1, transformer=True, context=512,
)  # fmt: skip
"""LDM-4 on ImageNet 256² (cin256-v2), class embedding as context: 400 920 579 parameters."""

SD_V1 = LDMConfig(
    size=64, in_channels=4, out_channels=4, channels=320, mult=(1, 2, 4, 4), attention=(4, 2, 1),
    heads=8, transformer=True, context=768, context_length=77,
)  # fmt: skip
"""Stable Diffusion v1 at 512²: 859 520 964 parameters."""

CONFIGS = {"bedroom": BEDROOM, "church": CHURCH, "cin256": CIN256, "sd-v1": SD_V1}


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """[cos, sin] of t · max_period^(-k/half), k = 0..half-1, half = dim/2.

    t: (B,) times, integer or real, in units of training steps. Returns (B, dim) float32.
    """
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(max_period) / half * k)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _resample(x: Tensor, direction: Literal["up", "down"] | None) -> Tensor:
    if direction == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool2d(x, 2) if direction == "down" else x


class ResBlock(nn.Module):
    """Residual block with time embedding: (B, c_in, H, W), (B, E) -> (B, c_out, H', W').

    resample: "up" or "down" doubles or halves the resolution, without parameters.
    skip_channels: how many of the c_in channels, the last ones, come from the encoder (0 outside
        the decoder). Quantisers that treat the two parts apart read it.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        *,
        dropout: float = 0.0,
        groups: int = 32,
        scale_shift: bool = False,
        resample: Literal["up", "down"] | None = None,
        skip_channels: int = 0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample, self.skip_channels = scale_shift, resample, skip_channels
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(embedding, 2 * c_out if scale_shift else c_out)
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, c_out),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(c_out, c_out, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = _resample(self.in_layers[:2](x), self.resample)
        h = self.in_layers[2](h)
        e = self.emb_layers(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(_resample(x, self.resample)) + h


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


class AttentionBlock(nn.Module):
    """Residual self-attention over pixels with one projection to q, k and v.

    (B, C, H, W) -> (B, C, H, W). The 3 C channels of ``qkv`` hold head after head, and q, k, v
    within each, the released "legacy" order.
    """

    def __init__(self, channels: int, heads: int, *, groups: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ/√c) v of every head: q, k, v (B, heads, N, c) -> (B, heads, N, c)."""
        return _attend(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat)).unflatten(1, (self.heads, -1)).transpose(2, 3)
        h = self.attend(*qkv.chunk(3, dim=-1))
        h = h.transpose(2, 3).reshape(flat.shape)
        return (flat + self.proj_out(h)).reshape(x.shape)


class CrossAttention(nn.Module):
    """Attention of x (B, N, C) to a context (B, M, D), or to x itself: -> (B, N, C)."""

    def __init__(self, width: int, heads: int, context: int | None, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        context = width if context is None else context
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ/√c) v of every head: q (B, heads, N, c), k, v (B, heads, M, c) -> as q."""
        return _attend(q, k, v)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out(self.attend(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """u · gelu(g), (u, g) a linear map of x: (..., c_in) -> (..., c_out)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(c_in, 2 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.proj(x).chunk(2, dim=-1)
        return u * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated two-layer network on the last dimension, four times as wide inside."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward; each residual, after a LayerNorm."""

    def __init__(self, width: int, heads: int, context: int | None, dropout: float) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, heads, None, dropout)
        self.ff = FeedForward(width, dropout)
        self.attn2 = CrossAttention(width, heads, context, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels, residual: (B, C, H, W), context (B, M, D) -> as x."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        depth: int = 1,
        context: int | None = None,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context, dropout) for _ in range(depth)
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halves the resolution by a strided convolution, padded on all sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the resolution: repeats pixels, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_resample(x, "up"))


class Block(nn.Sequential):
    """Layers in a row; each gets, beside x, what its kind needs of embedding and context."""

    def forward(  # type: ignore[override]
        self, x: Tensor, e: Tensor, context: Tensor | None
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, e)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class LatentUNet(nn.Module):
    """x (B, C, H, W), t (B,), context (B, M, D) or None -> ε of x, (B, C', H, W).

    t counts training steps; H and W are divisible by 2^(levels - 1) and may differ from the size
    of the configuration.
    """

    def __init__(self, config: LDMConfig) -> None:
        super().__init__()
        self.config = config
        channels, levels = config.channels, len(config.mult)
        embedding = 4 * channels
        self.time_embed = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )

        width, skips, factor = channels, [channels], 1
        self.input_blocks = nn.ModuleList(
            [Block(nn.Conv2d(config.in_channels, channels, 3, padding=1))]
        )
        for level, m in enumerate(config.mult):
            for _ in range(config.blocks):
                layers = [self._residual(width, m * channels)]
                width = m * channels
                if factor in config.attention:
                    layers.append(self._attention(width))
                self.input_blocks.append(Block(*layers))
                skips.append(width)
            if level < levels - 1:
                self.input_blocks.append(Block(self._resampling(width, "down")))
                skips.append(width)
                factor *= 2

        self.middle_block = Block(
            self._residual(width, width), self._attention(width), self._residual(width, width)
        )

        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(config.mult))):
            for i in range(config.blocks + 1):
                skip = skips.pop()
                layers = [self._residual(width + skip, m * channels, skip_channels=skip)]
                width = m * channels
                if factor in config.attention:
                    layers.append(self._attention(width))
                if level and i == config.blocks:
                    layers.append(self._resampling(width, "up"))
                    factor //= 2
                self.output_blocks.append(Block(*layers))

        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, width),
            nn.SiLU(),
            nn.Conv2d(width, config.out_channels, 3, padding=1),
        )
        if config.zero_init:
            for name, module in self.named_modules():
                if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
                    nn.init.zeros_(module.weight)
                    nn.init.zeros_(module.bias)

    def _residual(self, c_in: int, c_out: int, **options: Any) -> nn.Module:
        c = self.config
        return ResBlock(
            c_in, c_out, 4 * c.channels, dropout=c.dropout, groups=c.groups,
            scale_shift=c.scale_shift, **options,
        )  # fmt: skip

    def _attention(self, width: int) -> nn.Module:
        c = self.config
        if c.heads is None:
            assert c.head_width is not None, "the configuration gives one of the two"
            heads = width // c.head_width
        else:
            heads = c.heads
        if not c.transformer:
            return AttentionBlock(width, heads, groups=c.groups)
        return SpatialTransformer(
            width, heads, depth=c.depth, context=c.context, dropout=c.dropout, groups=c.groups
        )

    def _resampling(self, width: int, direction: Literal["down", "up"]) -> nn.Module:
        if self.config.resblock_updown:
            return self._residual(width, width, resample=direction)
        return Downsample(width) if direction == "down" else Upsample(width)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        if (context is None) != (self.config.context is None):
            raise ValueError(
                "this network needs a context" if context is None else "this network has no context"
            )
        e = self.time_embed(timestep_embedding(t, self.config.channels).to(x.dtype))
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, e, context)
            skips.append(h)
        h = self.middle_block(h, e, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), e, context)
        return self.out(h)


def example_inputs(
    config: LDMConfig, batch: int = 1, device: torch.device | str = "meta"
) -> tuple[Tensor, ...]:
    """Arguments of the network for counting or a dry run: zeros x, t and, where used, a context."""
    x = torch.zeros(batch, config.in_channels, config.size, config.size, device=device)
    t = torch.zeros(batch, dtype=torch.long, device=device)
    if config.context is None:
        return x, t
    return x, t, torch.zeros(batch, config.context_length, config.context, device=device)


def skip_splits(network: nn.Module) -> dict[str, int]:
    """Layers fed with a raw concatenation of decoder and encoder features, and where it joins.

    Returns the name of every ``skip_connection`` convolution of the decoder with the number of its
    leading input channels, those of the decoder. The other convolutions of these blocks see the
    concatenation only behind a GroupNorm. Source: Q-Diffusion (Li et al. 2023), section 3.3.
    """
    return {
        f"{name}.skip_connection": block.skip_connection.in_channels - block.skip_channels
        for name, block in network.named_modules()
        if isinstance(block, ResBlock)
        and block.skip_channels
        and isinstance(block.skip_connection, nn.Conv2d)
    }


class Selection(NamedTuple):
    """Parameters picked by name: how many numbers, in how many layers, what share of the whole."""

    parameters: int
    layers: int
    share: float


def select(network: nn.Module, *parts: str) -> Selection:
    """Counts the parameters (weights and biases) whose name contains one of ``parts``.

    Source: the selection of layers to tune in QuEST's released code (Wang et al. 2025).
    """
    chosen = {
        name: p.numel()
        for name, p in network.named_parameters()
        if any(part in name for part in parts)
    }
    total = sum(p.numel() for p in network.parameters())
    layers = {name.rpartition(".")[0] for name in chosen}
    return Selection(sum(chosen.values()), len(layers), sum(chosen.values()) / total)
