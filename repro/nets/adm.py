"""The ADM U-Net of guided-diffusion, whose blocks can be left out.

Parameters have the names and shapes of the released checkpoints (``input_blocks.4.0.in_layers.2``,
``middle_block.1.qkv``, ``out.2`` ...), so that `64x64_diffusion.pt` or `lsun_cat.pt` load strictly:
leaving blocks out adds no parameters.

A residual block computes, with a = SiLU, r the change of resolution (nearest x 2, average pool
/ 2, or none) and e the embedding of time and class,

    h = conv1(r(a(norm1(x))));  scale, shift = linear(a(e));
    h = conv2(dropout(a(norm2(h) (1 + scale) + shift)));  skip(r(x)) + h

where `skip` is a 1 x 1 convolution where channels change. Residual and attention blocks are
numbered in the order in which they run. A residual block that is left out returns skip(r(x)), an
attention block x: the change of resolution and of channels stays. The input convolution, the
embeddings and the head are no blocks.

Sources: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), and its released
code (commit 22e0df8); the block numbers and what stays: AutoDiffusion (Li et al., ICCV 2023).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError

__all__ = ["IMAGENET_64", "LSUN_256", "ADMConfig", "ADMUNet", "block_macs", "example_inputs"]


@dataclass(frozen=True)
class ADMConfig:
    """Flags of guided-diffusion.

    attention: resolutions with attention after each residual block. head: channels of a head.
    new_order: queries, keys and values are split before the heads are (else after), which decides
    how the rows of the released `qkv` weights are read. classes: None for unconditional.
    learn_sigma: twice the channels come out, noise first, then the variance.
    """

    resolution: int
    channels: int
    mult: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head: int = 64
    new_order: bool = False
    classes: int | None = None
    learn_sigma: bool = True
    dropout: float = 0.1
    groups: int = 32


IMAGENET_64 = ADMConfig(64, 192, (1, 2, 3, 4), 3, (32, 16, 8), new_order=True, classes=1000)
"""`64x64_diffusion.pt`: class-conditional ImageNet at 64 x 64."""

LSUN_256 = ADMConfig(256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8))
"""`lsun_cat.pt`, `lsun_bedroom.pt`: unconditional LSUN at 256 x 256."""


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, at frequencies exp(-ln(10^4) j / (width/2)): (B,) -> (B, width)."""
    half = width // 2
    j = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(1e4) * j / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _zero(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class ResBlock(nn.Module):
    """(B, c_in, H, W), (B, E) -> (B, c_out, H', W'); `change` is "up", "down" or None."""

    def __init__(
        self, c_in: int, c_out: int, embedding: int, config: ADMConfig, change: str | None = None
    ) -> None:
        super().__init__()
        self.change = change
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.groups, c_out),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            _zero(nn.Conv2d(c_out, c_out, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def resized(self, x: Tensor) -> Tensor:
        if self.change == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.change == "down" else x

    def shortcut(self, x: Tensor) -> Tensor:
        """What is left of the block when it is left out."""
        return self.skip_connection(self.resized(x))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self.resized(activation(norm(x))))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over pixels in heads of `config.head` channels: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, config: ADMConfig) -> None:
        super().__init__()
        if channels % config.head:
            raise ReproError(f"{channels} channels are no multiple of heads of {config.head}")
        self.heads, self.new_order = channels // config.head, config.new_order
        self.norm = nn.GroupNorm(config.groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def shortcut(self, x: Tensor) -> Tensor:
        """What is left of the block when it is left out."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = x.flatten(2)
        qkv, pixels = self.qkv(self.norm(flat)), height * width
        # (3, head, channel) in the rows, or (head, 3, channel)
        if self.new_order:
            q, k, v = qkv.reshape(b, 3, self.heads, -1, pixels).unbind(1)
        else:
            q, k, v = qkv.reshape(b, self.heads, 3, -1, pixels).unbind(2)
        scale = (c // self.heads) ** -0.25
        weight = torch.einsum("bhcq,bhck->bhqk", q * scale, k * scale)
        weight = weight.float().softmax(dim=-1).to(v.dtype)
        h = torch.einsum("bhqk,bhck->bhcq", weight, v).reshape(b, c, pixels)
        return (flat + self.proj_out(h)).reshape(b, c, height, width)


Block = ResBlock | AttentionBlock


class ADMUNet(nn.Module):
    """U-Net of guided-diffusion; see the module for what may be left out.

    Attributes:
        block_names: names of the residual and attention blocks in the order in which they run.
    """

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        c, embedding = config.channels, 4 * config.channels
        self.time_embed = nn.Sequential(
            nn.Linear(c, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if config.classes is not None:
            self.label_emb = nn.Embedding(config.classes, embedding)

        def stage(c_in: int, c_out: int, change: str | None = None, attend: bool = False):
            stages: list[nn.Module] = [ResBlock(c_in, c_out, embedding, config, change)]
            if attend:
                stages.append(AttentionBlock(c_out, config))
            return stages

        width, size = config.mult[0] * c, config.resolution
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, width, 3, padding=1)])])
        skips = [width]
        for level, m in enumerate(config.mult):
            for _ in range(config.blocks):
                stages = stage(width, m * c, attend=size in config.attention)
                self.input_blocks.append(nn.ModuleList(stages))
                width = m * c
                skips.append(width)
            if level < len(config.mult) - 1:
                self.input_blocks.append(nn.ModuleList(stage(width, width, "down")))
                skips.append(width)
                size //= 2
        self.middle_block = nn.ModuleList([*stage(width, width, attend=True), *stage(width, width)])
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(config.mult))):
            for i in range(config.blocks + 1):
                stages = stage(width + skips.pop(), m * c, attend=size in config.attention)
                width = m * c
                if level and i == config.blocks:
                    stages += stage(width, width, "up")
                    size *= 2
                self.output_blocks.append(nn.ModuleList(stages))
        out = 6 if config.learn_sigma else 3
        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, width),
            nn.SiLU(),
            _zero(nn.Conv2d(width, out, 3, padding=1)),
        )
        self.block_names = [n for n, m in self.named_modules() if isinstance(m, Block)]

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, skip: Collection[int] = ()
    ) -> Tensor:
        """Noise (and variance) in x.

        x (B, 3, H, W), t (B,) in units of training steps, y (B,) long where there are classes.
        skip: numbers of the blocks to leave out. Returns (B, 3 or 6, H, W).

        Raises:
            ReproError: labels are missing or not wanted, or there is no block of some number.
        """
        if (self.config.classes is None) != (y is None):
            raise ReproError("this network takes labels" if y is None else "it takes no labels")
        left_out = frozenset(skip)
        if not left_out <= set(range(len(self.block_names))):
            wrong = sorted(left_out - set(range(len(self.block_names))))[0]
            raise ReproError(f"no block {wrong}; they count from 0 to {len(self.block_names) - 1}")
        emb = self.time_embed(timestep_embedding(t, self.config.channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        number = 0

        def through(stages: nn.Module, h: Tensor) -> Tensor:
            nonlocal number
            assert isinstance(stages, nn.ModuleList)
            for layer in stages:
                if not isinstance(layer, Block):
                    h = layer(h)
                    continue
                if number in left_out:
                    h = layer.shortcut(h)
                else:
                    h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
                number += 1
            return h

        h, skips = x, []
        for stages in self.input_blocks:
            h = through(stages, h)
            skips.append(h)
        h = through(self.middle_block, h)
        for stages in self.output_blocks:
            h = through(stages, torch.cat([h, skips.pop()], dim=1))
        return self.out(h)


def example_inputs(config: ADMConfig, device: str = "meta") -> tuple[Tensor, ...]:
    """Zeros of the shapes that `ADMUNet.forward` takes, batch 1."""
    x = torch.zeros(1, 3, config.resolution, config.resolution, device=device)
    t = torch.zeros(1, device=device)
    y = torch.zeros(1, dtype=torch.long, device=device)
    return (x, t) if config.classes is None else (x, t, y)


def block_macs(network: ADMUNet) -> tuple[int, list[int]]:
    """Multiply-accumulates of one forward pass at batch 1, from one pass on the meta device.

    Returns the total, and what each block costs beyond its shortcut (its saving when left out), in
    the order of `block_names`. Convolutions, linear layers and attention products are counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        shadow = ADMUNet(network.config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(*example_inputs(network.config))
    counts = counter.get_flop_counts()

    def macs(scope: str) -> int:
        return sum(counts.get(scope, {}).values()) // 2

    root = type(shadow).__name__
    savings = [
        macs(f"{root}.{name}") - macs(f"{root}.{name}.skip_connection")
        for name in shadow.block_names
    ]
    return macs("Global"), savings
