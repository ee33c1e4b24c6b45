"""Networks of the method: the discriminator's head, the paper's sizes, and small denoisers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.msd.method import Denoiser
from repro.diffusion.schedules import expand, vp_sigmas
from repro.nets import edm
from repro.nets.unet import Level, UNet


class Size(TypedDict):
    """Arguments in which the networks differ."""

    channels: int
    mult: tuple[int, ...]
    blocks: int


SIZES: dict[str, Size] = {
    "teacher": {"channels": 192, "mult": (1, 2, 3, 4), "blocks": 3},
    "42": {"channels": 160, "mult": (1, 2, 2, 4), "blocks": 3},
    "71": {"channels": 128, "mult": (1, 2, 2, 4), "blocks": 2},
}
"""Arguments of EDM's ADM network for ImageNet-64: the teacher, and the smaller students by the
per cent of parameters that they save. The latter are inferred: the paper's table was not
available, and these are what channel reduction gives for its percentages."""


def imagenet(size: str) -> edm.EDMPrecond:
    """One of `SIZES` with 1000 labels, preconditioned (on the default device)."""
    return edm.EDMPrecond(edm.DhariwalUNet(**SIZES[size]))


class Head(nn.Sequential):
    """Logit of being real from the bottleneck: (B, channels, size, size) -> (B, 1, 1, 1).

    DMD2's head for size 8: convolutions of 4 x 4 with strides 2 and 4, each followed by GroupNorm
    and SiLU, then 1 x 1. For size 4 the first of them is left out. Names of the published
    checkpoints (0, 1, 3, 4, 6 at size 8).
    """

    def __init__(self, channels: int = 768, size: int = 8, groups: int = 32) -> None:
        if size not in (4, 8):
            raise ValueError(f"a bottleneck of {size} x {size} has no head; use 4 or 8")
        layers: list[nn.Module] = []
        if size == 8:
            layers += [nn.Conv2d(channels, channels, 4, stride=2, padding=1)]
            layers += [nn.GroupNorm(groups, channels), nn.SiLU()]
        layers += [nn.Conv2d(channels, channels, 4, stride=4)]
        layers += [nn.GroupNorm(groups, channels), nn.SiLU()]
        layers += [nn.Conv2d(channels, 1, 1)]
        super().__init__(*layers)


class EpsDenoiser(nn.Module):
    """An ε-network (linear betas, T steps) read as a denoiser D(x, σ, c) of x = x_0 + σ n.

    The noise level of step t is σ_t = √((1 - ᾱ_t) / ᾱ_t) and x_t = x / √(1 + σ²); σ is read as the
    step that is nearest on a logarithmic scale, hence exactly where it is a level of the grid.
    Then D = x - σ ε(x_t, t, c). Labels are ignored by a network without classes.
    """

    sigmas: Tensor
    edges: Tensor

    def __init__(self, network: UNet, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.network = network
        sigmas = vp_sigmas(alphas_cumprod)
        logs = sigmas.log()
        self.register_buffer("sigmas", sigmas.float(), persistent=False)
        self.register_buffer("edges", ((logs[1:] + logs[:-1]) / 2).float(), persistent=False)

    def _inputs(self, x: Tensor, sigma: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        t = torch.bucketize(sigma.log(), self.edges)
        y = c if self.network.num_classes is not None else None
        return x * expand((1 + sigma**2).rsqrt(), x), t, y

    def forward(self, x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        return x - expand(sigma, x) * self.network(*self._inputs(x, sigma, c)).float()

    def bottleneck(self, x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        """Features (B, C', H', W') where the encoder ends; the discriminator's head reads them."""
        net = self.network
        xt, t, y = self._inputs(x, sigma, c)
        temb = net.embed(t, y)
        h = net.conv_in(F.pixel_unshuffle(xt, net.patch) if net.patch > 1 else xt)
        for level in net.down:
            assert isinstance(level, Level)
            for i in range(len(level.block)):
                h = level.step(i, h, temb)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return h


class MLPDenoisers(nn.Module):
    """N independent denoisers of points in the plane, as one batch of matrix products.

    D(x, σ, c): x (N, B, 2), sigma and c (N, B) -> (N, B, 2), EDM's preconditioning around an MLP of
    `depth` layers of `width` on c_in x, the one-hot class and `2 * frequencies` Fourier features
    of ln σ / 4. Network i sees row i alone, so its gradients are those that it would have alone.
    """

    def __init__(
        self,
        networks: int,
        classes: int,
        *,
        width: int,
        depth: int = 3,
        frequencies: int = 4,
        sigma_data: float = 0.6,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.networks, self.classes = networks, classes
        self.sigma_data, self.frequencies = sigma_data, frequencies
        sizes = [2 + classes + 2 * frequencies, *[width] * depth, 2]
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            bound = 1 / math.sqrt(fan_in)
            for parameters, shape in (
                (self.weight, (networks, fan_in, fan_out)),
                (self.bias, (networks, 1, fan_out)),
            ):
                values = (2 * torch.rand(shape, generator=generator) - 1) * bound
                parameters.append(nn.Parameter(values))

    def forward(self, x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        return self._denoise(x, sigma, c, list(self.weight), list(self.bias))

    def _denoise(
        self, x: Tensor, sigma: Tensor, c: Tensor, weights: list[Tensor], biases: list[Tensor]
    ) -> Tensor:
        c_skip, c_out, c_in, c_noise = edm.coefficients(sigma[..., None], self.sigma_data)
        angle = math.pi * c_noise * 2.0 ** torch.arange(self.frequencies, device=x.device)
        one_hot = F.one_hot(c, self.classes).to(x.dtype)
        h = torch.cat([c_in * x, one_hot, angle.sin(), angle.cos()], dim=-1)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(bias, F.silu(h) if i else h, weight)
        return c_skip * x + c_out * h

    def copy_from(self, other: MLPDenoisers, rows: Sequence[int]) -> None:
        """Take the weights of another's networks: of its row rows[i] for network i."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs[list(rows)])

    def one(self, i: int) -> Denoiser:
        """Network i as a denoiser of x (B, 2), sigma (B,), c (B,), without gradients."""
        weights = [w[i : i + 1].detach() for w in self.weight]
        biases = [b[i : i + 1].detach() for b in self.bias]
        return lambda x, sigma, c: self._denoise(x[None], sigma[None], c[None], weights, biases)[0]
