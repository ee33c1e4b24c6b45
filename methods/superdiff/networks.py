r"""Networks that predict $\sigma_t \nabla \log q_t(x)$, minus the noise, at the paper's schedule.

`cifar_network`   the paper's U-Net at its true size
`ScheduleMatched` an ε-network of the zoo, read at the paper's schedule
`ResidualMLP`     a small network for 8 x 8 digits and for points of the plane

The zoo's networks were trained on $x = \sqrt{\bar\alpha_n} x_0 + \sqrt{1 - \bar\alpha_n}
\varepsilon$ with n = 0..999. The paper's state divided by $\sqrt{\alpha_t^2 + \sigma_t^2}$ is such
a state, with the real-valued n at which both have the same ratio of noise to signal. That ratio
goes from 0 to 152 in the paper and from 0.01 to 157 in the zoo, so only t < 0.01 lies outside;
there n is held at 0.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.superdiff import method as sd
from repro.diffusion.schedules import alphas_cumprod, linear_betas, vp_sigmas
from repro.nets.unet import AttentionBlock, Level, UNet, sinusoidal_embedding


class _ClassEmbedding(nn.Module):
    """The label's vector, added to the time embedding; every image has a label."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embed(y)


class ScoreUNet(UNet):
    """The U-Net of the paper's CIFAR-10 models: x (B, 3, 32, 32), raw t (B,) in [0, 1] -> same.

    That of DDPM, with attention at 16 x 16 and 8 x 8: after each residual block of the encoder, but
    only once a level in the decoder, after its last block. Published in Flax (score SDE); the
    arguments serve smaller copies in tests.
    """

    label: _ClassEmbedding

    def __init__(self, *, classes: int | None = None, attention: tuple[int, ...] = (16, 8), **more):
        super().__init__(attention=attention, **more)
        for level in self.up:
            assert isinstance(level, Level)
            if len(level.attn):
                level.attn = nn.ModuleList(
                    [*(nn.Identity() for _ in level.attn[:-1]), level.attn[-1]]
                )
        self.classes = classes
        if classes is not None:
            self.label = _ClassEmbedding(classes, 4 * self.temb.channels)

    def embed(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        temb = self.temb(t)
        if (y is None) != (self.classes is None):
            raise ValueError("labels go with a class-conditional network, and only with one")
        return temb if y is None else temb + self.label(y)


def cifar_network(classes: int | None = None) -> ScoreUNet:
    """The network at the paper's size: 36 009 987 parameters, 36 015 107 with 10 classes."""
    return ScoreUNet(classes=classes)


N = TypeVar("N", bound=nn.Module)


class _Convolution(torch.autograd.Function):
    """A convolution whose forward derivative knows that the weights do not move."""

    @staticmethod
    def forward(x, weight, bias, stride, padding):
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_forward(weight)

    @staticmethod
    def jvp(ctx, tangent, *rest):
        (weight,) = ctx.saved_tensors
        return F.conv2d(tangent, weight, None, ctx.stride, ctx.padding)


class _LeanConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return _Convolution.apply(x, self.weight, self.bias, self.stride, self.padding)


def lean(network: N) -> N:
    """The network, changed in place so that a forward-mode product costs what it has to.

    PyTorch differentiates a convolution for its weights too, with a tangent of zeros: a forward
    pass with its product then has 3 convolutions a layer where 2 do.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _LeanConv2d
    return network


def edge_aware_macs(network: ScoreUNet, x: Tensor, t: Tensor) -> int:
    """Multiply-accumulates of a forward pass, products with padding left out.

    This is how XLA counts: a 3 x 3 convolution of n x n pixels has (3n - 2)^2 products a pair of
    channels instead of (3n)^2. Works on the meta device.
    """
    total = 0

    def taps(size: int, out: int, layer: nn.Conv2d, padded: int) -> int:
        start = np.arange(out) * layer.stride[0] - padded
        reach = start[:, None] + np.arange(layer.kernel_size[0])
        return int(((reach >= 0) & (reach < size)).sum())

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            # The encoder pads right and bottom by hand before a convolution of stride 2.
            size = inputs[0].shape[-1] - (module.stride[0] - 1)
            assert not isinstance(module.padding, str), "the network pads by numbers"
            one = taps(size, output.shape[-1], module, module.padding[0])
            total += len(output) * output.shape[1] * module.in_channels * one**2
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, AttentionBlock):
            batch, width, *sides = output.shape
            pixels = sides[0] * sides[1]
            total += 2 * batch * pixels**2 * width

    handles = [module.register_forward_hook(hook) for module in network.modules()]
    with torch.no_grad():
        network(x, t)
    for handle in handles:
        handle.remove()
    return total


_LOG_RATIOS = vp_sigmas(alphas_cumprod(linear_betas())).log().numpy()


def matched_step(t: float | Tensor | np.ndarray) -> np.ndarray:
    """The real-valued step of the zoo's chain with the noise-to-signal ratio of time t, 0..999."""
    times = np.asarray(t, dtype=np.float64)
    ratio = np.log(np.maximum(sd.sigma(times), 1e-12)) - sd.log_alpha(times)
    return np.interp(ratio, _LOG_RATIOS, np.arange(len(_LOG_RATIOS)))


def _per_sample(t: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64).expand(len(x))


class ScheduleMatched(nn.Module):
    """An ε-network of the zoo as a model of this paper: (x (B, C, H, W), t) -> minus the noise.

    t: a number or (B,), on the CPU. label: (B,) long, the classes that a conditional network is to
    draw.
    """

    def __init__(self, network: UNet, label: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.label = network, label

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        t = _per_sample(t, x)
        scale = torch.rsqrt(torch.exp(2 * sd.log_alpha(t)) + sd.sigma(t) ** 2).to(x)
        step = torch.from_numpy(matched_step(t.numpy())).to(x)
        return -self.network(x * scale[:, None, None, None], step, self.label)


class ResidualMLP(nn.Module):
    """Residual network on flattened samples: (x (B, ...), t) -> shaped like x.

    Blocks h + W2 silu(W1 norm(h) + V e) with e the sinusoidal embedding of 1000 t. The output is
    that of a zero-initialised layer.
    """

    def __init__(self, dim: int, width: int = 256, blocks: int = 3, embedding: int = 64) -> None:
        super().__init__()
        self.embedding = embedding
        self.first = nn.Linear(dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.times = nn.ModuleList(nn.Linear(embedding, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        e = sinusoidal_embedding(1000 * _per_sample(t, x).to(x), self.embedding)
        h = self.first(x.flatten(1))
        for norm, inner, time, outer in zip(
            self.norms, self.inner, self.times, self.outer, strict=True
        ):
            h = h + outer(F.silu(inner(norm(h)) + time(e)))
        return self.last(h).reshape(x.shape)
