"""The DDPM++ network of the rectified-flow repositories, at its published sizes and small.

Song et al. 2021 (arXiv 2011.13456) call it DDPM++: NCSN++ without FIR filters and without pyramids
of inputs or outputs, conditioned on a time through a sinusoidal embedding. Rectified flow (Liu et
al., code gnobitab/RectifiedFlow, commit 5a1fd4d) and SlimFlow (code commit 96d8b25) predict
velocities with it, at the times 999 t.

A residual block normalises, activates, changes the resolution of both of its paths where it has to
(nearest repetition, means of 2 x 2), and returns (x + h) / √2; so does the attention, which follows
each block of the encoder and each level of the decoder at the resolutions of the configuration.

The last convolutions of the blocks and of the network start at (almost) zero, so a fresh network
returns almost zero. Modules lie in one flat list, in the order of the published class, so that a
published state dict loads by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from repro.nets.ncsnpp import Attention, conv, group_norm, linear
from repro.nets.unet import sinusoidal_embedding


@dataclass(frozen=True)
class DDPMppConfig:
    """The numbers that fix the architecture; the defaults are CIFAR-10's 61.8 M network.

    sigmas: entries of a buffer that the published files carry and the velocity never uses.
    """

    image_size: int = 32
    channels: int = 3
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.15
    sigmas: int = 1000


def resample(x: Tensor, mode: str) -> Tensor:
    """ "up" repeats pixels, "down" takes means of 2 x 2, anything else leaves x (B, C, H, W)."""
    if mode == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    if mode == "down":
        return F.avg_pool2d(x, 2)
    return x


class ResidualBlock(nn.Module):
    """(B, c_in, H, W), time embedding (B, E) -> (B, c_out, H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        mode: str = "none",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        make = dict(generator=generator)
        self.GroupNorm_0 = group_norm(in_channels)
        self.Conv_0 = conv(in_channels, out_channels, 3, scale=1.0, **make)
        self.Dense_0 = linear(embedding, out_channels, **make)
        self.GroupNorm_1 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.Conv_1 = conv(out_channels, out_channels, 3, scale=0.0, **make)
        if in_channels != out_channels or mode != "none":
            self.Conv_2 = conv(in_channels, out_channels, 1, scale=1.0, **make)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = resample(F.silu(self.GroupNorm_0(x)), self.mode)
        x = resample(x, self.mode)
        h = self.Conv_0(h) + self.Dense_0(F.silu(temb))[:, :, None, None]
        h = self.Conv_1(self.dropout(F.silu(self.GroupNorm_1(h))))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / math.sqrt(2.0)


class DDPMpp(nn.Module):
    """v(x, 999 t): x (B, channels, H, W) in [-1, 1] plus noise, times (B,) -> the shape of x.

    H and W are divisible by 2^(levels - 1). generator: of the initial weights, None for the global
    one.
    """

    def __init__(
        self, config: DDPMppConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = c = config or DDPMppConfig()
        sigmas = torch.exp(torch.linspace(math.log(50.0), math.log(0.01), c.sigmas))
        self.register_buffer("sigmas", sigmas)
        embedding, levels = 4 * c.nf, len(c.ch_mult)
        modules: list[nn.Module] = [
            linear(c.nf, embedding, generator=generator),
            linear(embedding, embedding, generator=generator),
            conv(c.channels, c.nf, 3, scale=1.0, generator=generator),
        ]
        # What to do with each module after the stem, in order: the program of the forward pass.
        program: list[str] = []

        def add(step: str, module: nn.Module) -> None:
            program.append(step)
            modules.append(module)

        def block(c_in: int, c_out: int, mode: str = "none") -> ResidualBlock:
            return ResidualBlock(
                c_in, c_out, embedding, mode=mode, dropout=c.dropout, generator=generator
            )

        width, skips = c.nf, [c.nf]
        for level, m in enumerate(c.ch_mult):
            attend = c.image_size >> level in c.attn_resolutions
            for _ in range(c.num_res_blocks):
                add("block" if attend else "block push", block(width, c.nf * m))
                width = c.nf * m
                if attend:
                    add("attention push", Attention(width, generator))
                skips.append(width)
            if level != levels - 1:
                add("block push", block(width, width, "down"))
                skips.append(width)
        add("block", block(width, width))
        add("attention", Attention(width, generator))
        add("block", block(width, width))
        for level, m in reversed(list(enumerate(c.ch_mult))):
            for _ in range(c.num_res_blocks + 1):
                add("pop block", block(width + skips.pop(), c.nf * m))
                width = c.nf * m
            if c.image_size >> level in c.attn_resolutions:
                add("attention", Attention(width, generator))
            if level != 0:
                add("block", block(width, width, "up"))
        self.program = tuple(program)
        modules.append(group_norm(width))
        modules.append(conv(width, c.channels, 3, scale=0.0, generator=generator))
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        m = self.all_modules
        temb = m[1](F.silu(m[0](sinusoidal_embedding(times, self.config.nf))))
        h = m[2](x)
        skips = [h]
        for step, module in zip(self.program, m[3:-2], strict=True):
            if step.startswith("pop"):
                h = torch.cat([h, skips.pop()], dim=1)
            h = module(h, temb)
            if step.endswith("push"):
                skips.append(h)
        return m[-1](F.silu(m[-2](h)))
