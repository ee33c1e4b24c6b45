r"""The denoisers of EDM (Karras et al. 2022, arXiv 2206.00364), at their published sizes and small.

A network F is preconditioned into a denoiser of x = x_0 + σ n (table 1, column "Ours"),

    D(x; σ, c) = c_skip x + c_out F(c_in x; ln σ / 4, c),
    c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²).

:class:`DhariwalUNet` is the ADM architecture that EDM uses for ImageNet-64 (295,899,267
parameters), :class:`SongUNet` the DDPM++ one of CIFAR-10, FFHQ-64 and AFHQ-64. Module names and
shapes are those of the published checkpoints (``enc.64x64_conv``, ``dec.8x8_in0`` …, with the box
filters as buffers ``resample_filter``), so that a published state dict loads strictly once the map
of the augmentation labels, which are zero outside training, has been taken out of it.

Neither network returns x: with initial weights its last convolution is zero or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

Fill = Callable[[Tensor, int, int, Generator | None], None]
"""Initialiser: fills a tensor, given fan-in and fan-out."""


class _Draw(TypedDict):
    """Arguments that a block hands to all its layers."""

    biased: bool
    generator: Generator | None


class _Filled(_Draw):
    """Arguments that a network hands to all its layers."""

    fill: Fill


def xavier_uniform(scale: float = 1.0) -> Fill:
    """Uniform of variance 2 / (fan-in + fan-out), times ``scale``."""

    def fill(weight: Tensor, fan_in: int, fan_out: int, generator: Generator | None) -> None:
        bound = scale * math.sqrt(6 / (fan_in + fan_out))
        weight.uniform_(-bound, bound, generator=generator)

    return fill


def kaiming_uniform(scale: float = 1.0) -> Fill:
    """Uniform of variance 1 / fan-in, times ``scale``."""

    def fill(weight: Tensor, fan_in: int, fan_out: int, generator: Generator | None) -> None:
        bound = scale * math.sqrt(3 / fan_in)
        weight.uniform_(-bound, bound, generator=generator)

    return fill


def kaiming_normal(scale: float = 1.0) -> Fill:
    """Normal of variance 1 / fan-in, times ``scale``."""

    def fill(weight: Tensor, fan_in: int, fan_out: int, generator: Generator | None) -> None:
        weight.normal_(0, scale / math.sqrt(fan_in), generator=generator)

    return fill


def _initialise(
    layer: nn.Linear | nn.Conv2d,
    fan_in: int,
    fan_out: int,
    fill: Fill,
    biased: bool,
    generator: Generator | None,
) -> None:
    if layer.weight.device.type == "meta":
        return
    with torch.no_grad():
        fill(layer.weight, fan_in, fan_out, generator)
        if layer.bias is not None:
            fill(layer.bias, fan_in, fan_out, generator) if biased else layer.bias.zero_()


def resample(x: Tensor, mode: str | None) -> Tensor:
    """Box filter: "up" repeats pixels, "down" takes means of 2 x 2, None leaves x (B, C, H, W)."""
    if mode == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    if mode == "down":
        return F.avg_pool2d(x, 2)
    return x


def _box_filter() -> Tensor:
    return torch.full((1, 1, 2, 2), 0.25)


class Conv2d(nn.Conv2d):
    """Convolution of stride 1 after an optional change of resolution; see `resample`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        fill: Fill,
        biased: bool = False,
        mode: str | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        self.mode = mode
        if mode:
            self.register_buffer("resample_filter", _box_filter())
        area = kernel * kernel
        _initialise(self, in_channels * area, out_channels * area, fill, biased, generator)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(resample(x, self.mode))


class Resample(nn.Module):
    """A change of resolution alone; its buffer is there because the published files hold it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("resample_filter", _box_filter())

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.mode)


def _linear(
    in_features: int,
    out_features: int,
    *,
    fill: Fill,
    biased: bool = False,
    bias: bool = True,
    generator: Generator | None = None,
) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, bias=bias)
    _initialise(layer, in_features, out_features, fill, biased, generator)
    return layer


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm of min(32, C / 4) groups."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=eps)


def positional_embedding(noise: Tensor, channels: int, *, endpoint: bool) -> Tensor:
    """(cos, sin) of noise (B,) at frequencies 10⁴^(-j / half) -> (B, channels).

    endpoint: the last frequency is 10⁻⁴ exactly, by dividing through half - 1.
    """
    half = channels // 2
    j = torch.arange(half, dtype=torch.float32, device=noise.device) / (half - int(endpoint))
    angle = noise.float()[:, None] * (1e-4**j)[None, :]
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class UNetBlock(nn.Module):
    """Residual block of both networks: (B, c_in, H, W), embedding (B, E) -> (B, c_out, H', W').

    With ``scale_shift`` the embedding gives a scale and a shift after the second norm, otherwise it
    is added before it. ``skip_scale`` multiplies both sums (1 or 1/√2). heads: of the attention
    that follows in the same block, 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        mode: str | None = None,
        heads: int = 0,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        project: bool = False,
        scale_shift: bool = True,
        fill: Fill,
        fill_zero: Fill,
        fill_attention: Fill,
        biased: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.skip_scale, self.scale_shift = heads, skip_scale, scale_shift
        make: _Draw = {"biased": biased, "generator": generator}
        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, fill=fill, mode=mode, **make)
        self.affine = _linear(embedding, out_channels * (1 + scale_shift), fill=fill, **make)
        self.norm1 = group_norm(out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = Conv2d(out_channels, out_channels, 3, fill=fill_zero, **make)
        self.skip: nn.Module | None = None
        if in_channels != out_channels or (mode and project):
            self.skip = Conv2d(in_channels, out_channels, 1, fill=fill, mode=mode, **make)
        elif mode:
            self.skip = Resample(mode)
        if heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, fill=fill_attention, **make)
            self.proj = Conv2d(out_channels, out_channels, 1, fill=fill_zero, **make)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over pixels, without its skip: (B, C, H, W) -> the same."""
        b, c, height, width = x.shape
        # The published weights interleave q, k, v within each head.
        qkv = self.qkv(self.norm2(x)).reshape(b, self.heads, c // self.heads, 3, height * width)
        q, k, v = (u.transpose(-1, -2) for u in qkv.unbind(3))
        a = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return self.proj(a.reshape(b, c, height, width))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = params.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, self.norm1(h), scale + 1))
        else:
            h = F.silu(self.norm1(h + params))
        h = self.conv1(self.dropout(h))
        h = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.heads:
            h = (h + self.attend(h)) * self.skip_scale
        return h


class EDMUNet(nn.Module):
    """What both networks share: encoder, decoder, and the way through them.

    Subclasses build ``enc`` and ``dec`` with `_build`, and give `embed` and `read_out`.
    """

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def _build(
        self,
        *,
        resolution: int,
        in_channels: int,
        channels: int,
        mult: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        attention_everywhere: bool,
        block: Callable[..., UNetBlock],
        stem: int,
        conv_in: Callable[[int, int], Conv2d],
    ) -> int:
        """Fills ``enc`` and ``dec``; returns the channels that leave the decoder.

        attention: resolutions with attention, in the encoder after every block, in the decoder
        after every block (``attention_everywhere``) or the last one of the level.
        stem: channels after the first convolution.
        """
        smallest = 2 ** (len(mult) - 1)
        if resolution % smallest:
            raise ValueError(
                f"resolution {resolution} is not divisible by {smallest}, "
                f"which {len(mult)} levels need"
            )
        self.enc = nn.ModuleDict()
        width, skips = stem, []
        for level, m in enumerate(mult):
            size = resolution >> level
            name = f"{size}x{size}"
            if level == 0:
                self.enc[f"{name}_conv"] = conv_in(in_channels, stem)
            else:
                self.enc[f"{name}_down"] = block(width, width, mode="down")
            skips.append(width)
            for i in range(blocks):
                self.enc[f"{name}_block{i}"] = block(width, channels * m, attend=size in attention)
                width = channels * m
                skips.append(width)
        self.dec = nn.ModuleDict()
        for level, m in reversed(list(enumerate(mult))):
            size = resolution >> level
            name = f"{size}x{size}"
            if level == len(mult) - 1:
                self.dec[f"{name}_in0"] = block(width, width, attend=True)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, mode="up")
            for i in range(blocks + 1):
                attend = size in attention and (attention_everywhere or i == blocks)
                self.dec[f"{name}_block{i}"] = block(
                    width + skips.pop(), channels * m, attend=attend
                )
                width = channels * m
        return width

    def embed(self, noise: Tensor, label: Tensor | None) -> Tensor:
        raise NotImplementedError

    def read_out(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def encode(
        self, x: Tensor, noise: Tensor, label: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Features that the encoder leaves, from fine to coarse, and the embedding (B, E).

        The last ones are the bottleneck, which a discriminator may read (Yin et al. 2024).
        """
        emb = self.embed(noise, label)
        features = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            features.append(x)
        return features, emb

    def decode(self, features: list[Tensor], emb: Tensor) -> Tensor:
        """Image (B, C, H, W) from what `encode` returned."""
        features = list(features)
        h = features[-1]
        for module in self.dec.values():
            if isinstance(module, UNetBlock):
                if h.shape[1] != module.in_channels:
                    h = torch.cat([h, features.pop()], dim=1)
                h = module(h, emb)
        return self.read_out(h)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F: x (B, C, H, W), noise = ln σ / 4 (B,), label (B, classes) floats or None."""
        return self.decode(*self.encode(x, noise, label))


class DhariwalUNet(EDMUNet):
    """ADM as EDM has it; the defaults are the network of ImageNet-64 without augmentation labels.

    resolution: height and width, divisible by 2^(len(mult) - 1). classes: number of labels, 0 for
    none; a label is a row of floats, one-hot or zero for "no class". attention: resolutions.
    generator: of the initial weights; None for the global one.
    """

    def __init__(
        self,
        *,
        resolution: int = 64,
        in_channels: int = 3,
        out_channels: int = 3,
        classes: int = 1000,
        channels: int = 192,
        mult: Sequence[int] = (1, 2, 3, 4),
        embedding: int = 4,
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        head_channels: int = 64,
        dropout: float = 0.1,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        width = channels * embedding
        third = kaiming_uniform(math.sqrt(1 / 3))
        make: _Filled = {"fill": third, "biased": True, "generator": generator}
        self.map_layer0 = _linear(channels, width, **make)
        self.map_layer1 = _linear(width, width, **make)
        self.map_label = None
        if classes:
            self.map_label = _linear(
                classes,
                width,
                bias=False,
                fill=kaiming_normal(math.sqrt(classes)),
                generator=generator,
            )

        def block(
            c_in: int, c_out: int, *, mode: str | None = None, attend: bool = False
        ) -> UNetBlock:
            return UNetBlock(
                c_in,
                c_out,
                width,
                mode=mode,
                heads=max(c_out // head_channels, 1) if attend else 0,
                dropout=dropout,
                fill_zero=kaiming_uniform(0.0),
                fill_attention=third,
                **make,
            )

        last = self._build(
            resolution=resolution,
            in_channels=in_channels,
            channels=channels,
            mult=mult,
            blocks=blocks,
            attention=attention,
            attention_everywhere=True,
            block=block,
            stem=channels * mult[0],
            conv_in=lambda a, b: Conv2d(a, b, 3, **make),
        )
        self.out_norm = group_norm(last, 1e-5)
        self.out_conv = Conv2d(last, out_channels, 3, fill=kaiming_uniform(0.0))

    def embed(self, noise: Tensor, label: Tensor | None) -> Tensor:
        emb = positional_embedding(noise, self.channels, endpoint=False)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and label is not None:
            emb = emb + self.map_label(label)
        return F.silu(emb)

    def read_out(self, h: Tensor) -> Tensor:
        return self.out_conv(F.silu(self.out_norm(h)))


class SongUNet(EDMUNet):
    """DDPM++ as EDM has it (positional embedding, plain encoder and decoder, box filter).

    Arguments as for :class:`DhariwalUNet`; the defaults are the CIFAR-10 network without labels.
    """

    def __init__(
        self,
        *,
        resolution: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        classes: int = 0,
        channels: int = 128,
        mult: Sequence[int] = (2, 2, 2),
        embedding: int = 4,
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        width = channels * embedding
        plain, zero = xavier_uniform(), xavier_uniform(1e-5)
        make: _Filled = {"fill": plain, "biased": False, "generator": generator}
        self.map_label = _linear(classes, channels, **make) if classes else None
        self.map_layer0 = _linear(channels, width, **make)
        self.map_layer1 = _linear(width, width, **make)

        def block(
            c_in: int, c_out: int, *, mode: str | None = None, attend: bool = False
        ) -> UNetBlock:
            return UNetBlock(
                c_in,
                c_out,
                width,
                mode=mode,
                heads=int(attend),
                dropout=dropout,
                skip_scale=math.sqrt(0.5),
                eps=1e-6,
                project=True,
                scale_shift=False,
                fill_zero=zero,
                fill_attention=xavier_uniform(math.sqrt(0.2)),
                **make,
            )

        last = self._build(
            resolution=resolution,
            in_channels=in_channels,
            channels=channels,
            mult=mult,
            blocks=blocks,
            attention=attention,
            attention_everywhere=False,
            block=block,
            stem=channels,
            conv_in=lambda a, b: Conv2d(a, b, 3, **make),
        )
        self.end = f"{resolution}x{resolution}_aux"
        self.dec[f"{self.end}_norm"] = group_norm(last, 1e-6)
        self.dec[f"{self.end}_conv"] = Conv2d(last, out_channels, 3, fill=zero, generator=generator)

    def embed(self, noise: Tensor, label: Tensor | None) -> Tensor:
        emb = positional_embedding(noise, self.channels, endpoint=True)
        # The published DDPM++ weights take sines first.
        emb = torch.cat(emb.chunk(2, dim=1)[::-1], dim=1)
        if self.map_label is not None and label is not None:
            emb = emb + self.map_label(label * math.sqrt(self.classes))
        elif self.map_label is not None:
            emb = emb + self.map_label.bias
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def read_out(self, h: Tensor) -> Tensor:
        return self.dec[f"{self.end}_conv"](F.silu(self.dec[f"{self.end}_norm"](h)))


def coefficients(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise at σ > 0, each shaped like σ (EDM, table 1)."""
    total = sigma**2 + sigma_data**2
    c_out = sigma * sigma_data * total.rsqrt()
    return sigma_data**2 / total, c_out, total.rsqrt(), sigma.log() / 4


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """λ(σ) = (σ² + σ_d²) / (σ σ_d)² = σ⁻² + σ_d⁻², shaped like σ (EDM, table 1)."""
    return sigma**-2 + sigma_data**-2


class EDMPrecond(nn.Module):
    """D(x; σ, c): x (B, C, H, W) in data units, σ (B,) or a number -> (B, C, H, W) float32.

    model: F, called with (c_in x, ln σ / 4, label). Keys of a state dict start with ``model.``, as
    published.
    """

    def __init__(self, model: EDMUNet, *, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.model = model
        self.sigma_data = sigma_data

    def _scaled(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, ...]:
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        sigma = sigma.expand(len(x)) if sigma.ndim == 0 else sigma
        c_skip, c_out, c_in, c_noise = coefficients(sigma, self.sigma_data)
        c_skip, c_out, c_in = (c[:, None, None, None] for c in (c_skip, c_out, c_in))
        return c_skip, c_out, c_in * x, c_noise

    def forward(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        x = x.float()
        c_skip, c_out, scaled, c_noise = self._scaled(x, sigma)
        return c_skip * x + c_out * self.model(scaled, c_noise, label).float()

    def bottleneck(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """Coarsest features of the encoder, (B, C', H', W'): what a discriminator's head reads."""
        _, _, scaled, c_noise = self._scaled(x.float(), sigma)
        return self.model.encode(scaled, c_noise, label)[0][-1]
