"""The U-Net that predicts noise in DDPM and DDIM, at its published size and small.

With the default arguments this is the CIFAR-10 network of Ho et al. 2020 (arXiv 2006.11239) as
Song et al. 2021 (arXiv 2010.02502) use it: 35 746 307 parameters in 328 tensors, whose names are
those of the published PyTorch checkpoints (``temb.dense.0``, ``down.1.attn.0.q``, ``up.3.block.0``
…), so that such a checkpoint loads strictly.

A residual block computes, with a = SiLU and e the time embedding,

    h = conv1(a(norm1(x)));  h = h + temb_proj(a(e));  h = conv2(dropout(a(norm2(h))));  x' + h

where x' is x, or ``nin_shortcut`` (1x1 convolution) of x where the number of channels changes.
Two options make small and fast networks: ``patch`` folds p x p pixels into channels before the
first convolution and unfolds them after the last one, so that the network works at resolution
H / p; ``num_classes`` adds a learned vector of the class to e.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Embedding of times: sines then cosines at frequencies exp(-ln(10^4) k / (dim/2 - 1)).

    t: (B,) times, integer or real, in units of training steps. Returns (B, dim) float32.
    Source: Ho et al. 2020, Appendix B, as in the published code.
    """
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(1e4) / (half - 1) * k)[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding followed by two linear layers: (B,) -> (B, 4 * channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        width = 4 * channels
        self.dense = nn.ModuleList([nn.Linear(channels, width), nn.Linear(width, width)])

    def forward(self, t: Tensor) -> Tensor:
        e = sinusoidal_embedding(t, self.channels)
        return self.dense[1](F.silu(self.dense[0](e)))


class _Style(TypedDict):
    """Arguments that a network hands to all its residual blocks."""

    dropout: float
    groups: int


class ResidualBlock(nn.Module):
    """Residual block with time embedding: (B, c_in, H, W), (B, E) -> (B, c_out, H, W).

    ``skip_channels``: how many of the c_in input channels, the last ones, come from the encoder
    (0 outside the decoder). Quantisers that treat the two parts apart read it.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        *,
        dropout: float = 0.0,
        groups: int = 32,
        skip_channels: int = 0,
    ) -> None:
        super().__init__()
        self.skip_channels = skip_channels
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(embedding, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def shortcut(self, x: Tensor) -> Tensor:
        return self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Residual self-attention over pixels, one head, 1x1 convolutions as projections.

    (B, C, H, W) -> (B, C, H, W); softmax(q k^T / sqrt(C)) v.
    """

    def __init__(self, channels: int, *, groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of pixel sequences: q, k, v (B, H*W, C) -> (B, H*W, C)."""
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = self.attend(q, k, v).transpose(1, 2).reshape(b, c, height, width)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halves the resolution: pads right and bottom by one, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution: repeats pixels, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Blocks of one resolution, the attention that follows each, and a change of resolution."""

    downsample: Downsample
    upsample: Upsample

    def __init__(self, block: Sequence[nn.Module], attn: Sequence[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(block)
        self.attn = nn.ModuleList(attn)

    def step(self, i: int, h: Tensor, temb: Tensor) -> Tensor:
        h = self.block[i](h, temb)
        return self.attn[i](h) if len(self.attn) else h


class Middle(nn.Module):
    """The lowest resolution between encoder and decoder: block, attention, block."""

    def __init__(
        self, channels: int, embedding: int, *, dropout: float, groups: int, attention: bool
    ) -> None:
        super().__init__()
        make: _Style = {"dropout": dropout, "groups": groups}
        self.block_1 = ResidualBlock(channels, channels, embedding, **make)
        if attention:
            self.attn_1 = AttentionBlock(channels, groups=groups)
        self.block_2 = ResidualBlock(channels, channels, embedding, **make)

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        h = self.block_1(h, temb)
        if hasattr(self, "attn_1"):
            h = self.attn_1(h)
        return self.block_2(h, temb)


class UNet(nn.Module):
    """U-Net of DDPM and DDIM; the defaults give the published CIFAR-10 network.

    resolution: height and width of the images, divisible by patch * 2^(len(mult) - 1).
    in_channels, out_channels: of the images (out_channels None: as many as come in).
    channels, mult: width of the first level, and the factor of each level.
    blocks: residual blocks a level (the decoder has one more).
    attention: working resolutions (after ``patch``) with attention after each block.
    middle_attention: attention at the lowest resolution, whatever its size.
    groups: groups of every GroupNorm; divides channels * m for every m in mult.
    patch: p x p pixels become channels, so that the network works at resolution / patch.
    zero_init: the last convolution of every residual and attention block, and of the network,
        starts at zero, as in the original DDPM; the published PyTorch code does not do so.
    num_classes: number of classes, or None. Label ``num_classes`` stands for "no class", which
        serves classifier-free guidance (Ho and Salimans 2022); y=None means it for the whole batch.
    """

    def __init__(
        self,
        *,
        resolution: int = 32,
        in_channels: int = 3,
        out_channels: int | None = None,
        channels: int = 128,
        mult: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        middle_attention: bool = True,
        dropout: float = 0.1,
        groups: int = 32,
        patch: int = 1,
        num_classes: int | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        smallest = patch * 2 ** (len(mult) - 1)
        if resolution % smallest:
            raise ValueError(
                f"resolution {resolution} is not divisible by {smallest}, "
                f"which patch {patch} and {len(mult)} levels need"
            )
        self.resolution, self.in_channels, self.patch = resolution, in_channels, patch
        self.out_channels = in_channels if out_channels is None else out_channels
        self.num_classes = num_classes
        embedding = 4 * channels
        make: _Style = {"dropout": dropout, "groups": groups}

        self.temb = TimeEmbedding(channels)
        if num_classes is not None:
            self.label: nn.Module = nn.Embedding(num_classes + 1, embedding)
        self.conv_in = nn.Conv2d(in_channels * patch**2, channels, 3, padding=1)

        size = resolution // patch
        width, skips = channels, [channels]
        self.down = nn.ModuleList()
        for i, m in enumerate(mult):
            c_out, block, attn = channels * m, [], []
            for _ in range(blocks):
                block.append(ResidualBlock(width, c_out, embedding, **make))
                width = c_out
                if size in attention:
                    attn.append(AttentionBlock(width, groups=groups))
                skips.append(width)
            level = Level(block, attn)
            if i < len(mult) - 1:
                level.downsample = Downsample(width)
                skips.append(width)
                size //= 2
            self.down.append(level)

        self.mid = Middle(width, embedding, attention=middle_attention, **make)

        levels: list[Level] = []
        for i, m in reversed(list(enumerate(mult))):
            c_out, block, attn = channels * m, [], []
            for _ in range(blocks + 1):
                skip = skips.pop()
                block.append(
                    ResidualBlock(width + skip, c_out, embedding, skip_channels=skip, **make)
                )
                width = c_out
                if size in attention:
                    attn.append(AttentionBlock(width, groups=groups))
            level = Level(block, attn)
            if i > 0:
                level.upsample = Upsample(width)
                size *= 2
            levels.append(level)
        # Stored by resolution, not by order of execution: the published names need it.
        self.up = nn.ModuleList(reversed(levels))

        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, self.out_channels * patch**2, 3, padding=1)
        if zero_init:
            for name, module in self.named_modules():
                if name.split(".")[-1] in ("conv2", "proj_out", "conv_out"):
                    nn.init.zeros_(module.weight)
                    nn.init.zeros_(module.bias)

    def embed(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Time (and class) embedding: t (B,), y (B,) long or None -> (B, 4 * channels)."""
        temb = self.temb(t)
        if self.num_classes is None:
            if y is not None:
                raise ValueError("labels were given to a network without classes")
            return temb
        if y is None:
            y = torch.full_like(t, self.num_classes, dtype=torch.long)
        return temb + self.label(y)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise in x: noisy x (B, C, H, W), times t (B,), labels y (B,) long -> (B, C', H, W)."""
        temb = self.embed(t, y)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = [h]
        for level in self.down:
            assert isinstance(level, Level)
            for i in range(len(level.block)):
                h = level.step(i, h, temb)
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid(h, temb)
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for i in range(len(level.block)):
                h = level.step(i, torch.cat([h, skips.pop()], dim=1), temb)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h
