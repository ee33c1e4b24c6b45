"""NCSN++ score network for the variance-exploding SDE, single scale-conditioned U-Net.

Song et al., "Score-based generative modeling through stochastic differential equations" (ICLR
2021), in the configuration of the released DiffusionMBIR checkpoints (code commit 592ea29c):
BigGAN residual blocks whose resampling uses the FIR kernel [1, 3, 3, 1], skip connections scaled by
1/√2, a "residual" input pyramid that is summed, Gaussian Fourier features of ln σ, single-head
attention by 1 × 1 "NIN" layers, the input mapped to 2x − 1 inside and the output divided by σ.

Modules are kept in the flat list ``all_modules`` in the order of the released class, so a released
state dict loads by name (see ``methods/diffusion_mbir/official.py``).

Two places differ on purpose. The released forward pass asks for the *input's* resolution when it
decides whether an attention module is next in the list, so an input of another size than the
configured one shifts every later index and fails; here the places are fixed at construction and any
size divisible by 2^(levels − 1) works. And the released initial weights draw from the global random
stream; here ``generator`` may be given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

FIR = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class NCSNppConfig:
    """The numbers that fix the architecture; the defaults are the released CT configuration."""

    image_size: int = 256
    channels: int = 1
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    fourier_scale: float = 16.0
    sigma_min: float = 0.01
    sigma_max: float = 378.0
    num_scales: int = 2000


def variance_scaling_(weight: Tensor, scale: float, fan_in: int, fan_out: int, generator=None):
    """Uniform fan-average initialisation; a zero scale becomes 1e-10, as released."""
    variance = (scale if scale > 0 else 1e-10) / ((fan_in + fan_out) / 2)
    bound = math.sqrt(3 * variance)
    if weight.device.type == "meta":
        return weight
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


def conv(in_channels: int, out_channels: int, kernel: int, *, scale: float, generator) -> nn.Conv2d:
    """Convolution of stride 1, "same" padding, zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    area = kernel * kernel
    with torch.no_grad():
        variance_scaling_(
            layer.weight, scale, in_channels * area, out_channels * area, generator=generator
        )
        assert layer.bias is not None, "a convolution has a bias by default"
        nn.init.zeros_(layer.bias)
    return layer


def linear(in_features: int, out_features: int, *, generator) -> nn.Linear:
    """Dense layer with zero bias."""
    layer = nn.Linear(in_features, out_features)
    with torch.no_grad():
        variance_scaling_(layer.weight, 1.0, in_features, out_features, generator=generator)
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of min(C / 4, 32) groups, eps 1e-6."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def fir_filter(x: Tensor, gain: float, pad: tuple[int, int]) -> Tensor:
    """Pad x (B, C, H, W), then filter with the outer product of ``FIR`` normalised to ``gain``."""
    taps = torch.tensor(FIR, dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps)
    kernel = kernel * (gain / kernel.sum())
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch * channels, 1, height, width), (*pad, *pad))
    x = F.conv2d(x, kernel[None, None])
    return x.reshape(batch, channels, *x.shape[-2:])


def upsample(x: Tensor) -> Tensor:
    """Zero-insertion upsampling by 2 followed by the FIR kernel: (B, C, H, W) to (B, C, 2H, 2W)."""
    batch, channels, height, width = x.shape
    # Zeros after every sample: equivalent to upfirdn2d(up=2, pad=(2, 1)).
    y = x.reshape(batch, channels, height, 1, width, 1)
    y = F.pad(y, (0, 1, 0, 0, 0, 1)).reshape(batch, channels, 2 * height, 2 * width)
    return fir_filter(y, 4.0, (2, 1))


def downsample(x: Tensor) -> Tensor:
    """FIR kernel followed by decimation by 2: (B, C, H, W) to (B, C, H/2, W/2)."""
    return fir_filter(x, 1.0, (1, 1))[:, :, ::2, ::2]


class GaussianFourierProjection(nn.Module):
    """(sin, cos) of 2π · ln σ · W with fixed random frequencies W of shape (nf,)."""

    def __init__(self, size: int, scale: float, generator=None) -> None:
        super().__init__()
        frequencies = torch.empty(size)
        if frequencies.device.type != "meta":
            frequencies.normal_(generator=generator)
        self.W = nn.Parameter(frequencies * scale, requires_grad=False)

    def forward(self, log_sigma: Tensor) -> Tensor:
        phase = log_sigma[:, None] * self.W[None, :] * (2 * math.pi)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)


class NIN(nn.Module):
    """1 × 1 convolution as a matrix ``W`` of shape (in, out)."""

    def __init__(self, in_dim: int, out_dim: int, scale: float, generator=None) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(in_dim, out_dim))
        self.b = nn.Parameter(torch.zeros(out_dim))
        with torch.no_grad():
            variance_scaling_(self.W, scale, in_dim, out_dim, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,co->bohw", x, self.W) + self.b[:, None, None]


class Attention(nn.Module):
    """Single-head self-attention over the pixels, skip scaled by 1/√2."""

    NIN_0: NIN
    NIN_1: NIN
    NIN_2: NIN
    NIN_3: NIN

    def __init__(self, channels: int, generator=None) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        for i, scale in enumerate((0.1, 0.1, 0.1, 0.0)):
            setattr(self, f"NIN_{i}", NIN(channels, channels, scale, generator))

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)
        q, k, v = (u.reshape(batch, channels, height * width) for u in (q, k, v))
        weights = torch.einsum("bci,bcj->bij", q, k) * channels**-0.5
        h = torch.einsum("bij,bcj->bci", torch.softmax(weights, dim=-1), v)
        return (x + self.NIN_3(h.reshape(batch, channels, height, width))) / math.sqrt(2.0)


class ResidualBlock(nn.Module):
    """BigGAN residual block, optionally resampling by 2 between its first norm and convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        temb_dim: int,
        *,
        resample: str = "none",
        generator=None,
    ) -> None:
        super().__init__()
        out_channels = out_channels or in_channels
        self.resample = resample
        self.GroupNorm_0 = group_norm(in_channels)
        self.Conv_0 = conv(in_channels, out_channels, 3, scale=1.0, generator=generator)
        self.Dense_0 = linear(temb_dim, out_channels, generator=generator)
        self.GroupNorm_1 = group_norm(out_channels)
        self.Conv_1 = conv(out_channels, out_channels, 3, scale=0.0, generator=generator)
        if in_channels != out_channels or resample != "none":
            self.Conv_2 = conv(in_channels, out_channels, 1, scale=1.0, generator=generator)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.resample == "up":
            h, x = upsample(h), upsample(x)
        elif self.resample == "down":
            h, x = downsample(h), downsample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(temb))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / math.sqrt(2.0)


class StridedConv(nn.Module):
    """FIR-filtered 3 × 3 convolution of stride 2 (weights ``weight``, ``bias``)."""

    def __init__(self, in_channels: int, out_channels: int, generator=None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        with torch.no_grad():
            variance_scaling_(
                self.weight, 1.0, in_channels * 9, out_channels * 9, generator=generator
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(fir_filter(x, 1.0, (2, 2)), self.weight, self.bias, stride=2)


class PyramidDownsample(nn.Module):
    """One level of the input pyramid."""

    def __init__(self, in_channels: int, out_channels: int, generator=None) -> None:
        super().__init__()
        self.Conv2d_0 = StridedConv(in_channels, out_channels, generator)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.Conv2d_0(x)


class NCSNpp(nn.Module):
    """The network s_θ(x, σ).

    Call with x (B, channels, H, W) in [0, 1] (plus noise), H and W divisible by 2^(levels − 1),
    and ``sigma`` (B,) > 0; returns the score ∇ₓ log p_σ(x), of the shape of x.
    """

    def __init__(
        self, config: NCSNppConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = c = config or NCSNppConfig()
        g = generator
        sigmas = torch.exp(
            torch.linspace(math.log(c.sigma_max), math.log(c.sigma_min), c.num_scales)
        )
        self.register_buffer("sigmas", sigmas)
        levels = len(c.ch_mult)
        temb_dim = 4 * c.nf
        resolutions = [c.image_size // 2**i for i in range(levels)]

        modules: list[nn.Module] = [
            GaussianFourierProjection(c.nf, c.fourier_scale, g),
            linear(2 * c.nf, temb_dim, generator=g),
            linear(temb_dim, temb_dim, generator=g),
            conv(c.channels, c.nf, 3, scale=1.0, generator=g),
        ]
        # What to do with each module after the stem, in order: the program of the forward pass.
        program: list[str] = []

        def add(step: str, module: nn.Module) -> None:
            program.append(step)
            modules.append(module)

        def block(in_channels: int, out_channels: int | None = None, resample: str = "none"):
            return ResidualBlock(
                in_channels, out_channels, temb_dim, resample=resample, generator=g
            )

        width, pyramid = c.nf, c.channels
        skips = [c.nf]
        for level in range(levels):
            for _ in range(c.num_res_blocks):
                out = c.nf * c.ch_mult[level]
                attend = resolutions[level] in c.attn_resolutions
                add("block" if attend else "block push", block(width, out))
                width = out
                if attend:
                    add("attention push", Attention(width, g))
                skips.append(width)
            if level != levels - 1:
                add("block", block(width, resample="down"))
                add("pyramid push", PyramidDownsample(pyramid, width, g))
                pyramid = width
                skips.append(width)
        add("block", block(width))
        add("attention", Attention(width, g))
        add("block", block(width))
        for level in reversed(range(levels)):
            for _ in range(c.num_res_blocks + 1):
                out = c.nf * c.ch_mult[level]
                add("pop block", block(width + skips.pop(), out))
                width = out
            if resolutions[level] in c.attn_resolutions:
                add("attention", Attention(width, g))
            if level != 0:
                add("block", block(width, resample="up"))
        self.program = tuple(program)
        modules.append(group_norm(width))
        modules.append(conv(width, c.channels, 3, scale=0.0, generator=g))
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        m = self.all_modules
        temb = m[2](F.silu(m[1](m[0](torch.log(sigma)))))
        x = 2.0 * x - 1.0
        pyramid = x
        h = m[3](x)
        skips = [h]
        for step, module in zip(self.program, m[4:-2], strict=True):
            if step.startswith("pop"):
                h = torch.cat([h, skips.pop()], dim=1)
            if step.startswith("pyramid"):
                h = pyramid = (module(pyramid) + h) / math.sqrt(2.0)
            else:
                h = module(h, temb)
            if step.endswith("push"):
                skips.append(h)
        h = m[-1](F.silu(m[-2](h)))
        return h / sigma[:, None, None, None]


def count_macs(config: NCSNppConfig, size: int) -> dict[str, float]:
    """Multiply–accumulates of one evaluation on one size × size slice, by kind, without computing.

    Keys: ``conv_linear`` (convolutions and dense layers), ``pyramid`` (the strided convolutions of
    the input pyramid, which a count over ``nn.Conv2d`` misses), ``nin`` (the 1 × 1 attention
    layers), ``attention`` (the two products QKᵀ and weights · V). The fixed FIR filters are left
    out, as is usual for this network.
    """
    totals = {"conv_linear": 0.0, "pyramid": 0.0, "nin": 0.0, "attention": 0.0}

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            totals["conv_linear"] += output.numel() * module.in_channels * kernel
        elif isinstance(module, StridedConv):
            totals["pyramid"] += output.numel() * module.weight.shape[1] * 9
        elif isinstance(module, nn.Linear):
            totals["conv_linear"] += output.numel() * module.in_features
        elif isinstance(module, NIN):
            totals["nin"] += output.numel() * module.W.shape[0]
        elif isinstance(module, Attention):
            pixels = output.shape[-1] * output.shape[-2]
            totals["attention"] += 2 * pixels * pixels * output.shape[1]

    with torch.device("meta"), torch.no_grad():
        network = NCSNpp(config)
        handles = [module.register_forward_hook(count) for module in network.modules()]
        network(torch.empty(1, config.channels, size, size), torch.empty(1))
        for handle in handles:
            handle.remove()
    return totals
