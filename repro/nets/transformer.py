r"""The bidirectional transformer of SEDD and RADD.

GPT-like, without a causal mask: rotary positions on queries and keys, LayerNorm before each branch
(computed in float32 at least), projections of the attention without bias, an MLP of width 4d with
tanh-GELU, and an output layer that is not tied to the embedding. Two variants share the code:

- without time (RADD): LayerNorms with weight *and* bias, no other conditioning;
- with time (SEDD): a sinusoidal embedding of the total noise drives an adaLN shift, scale and gate
  in every block, whose projections start at zero; LayerNorms have a weight alone.

Names and shapes of the parameters are those of the published checkpoints. At its true size the
network has 162,265,682 (small) or 405,191,762 (medium) parameters without time, 169,627,218 or
424,477,010 with; build it on the "meta" device to count them for nothing.

Sources: Ou et al., arXiv 2406.03736, Appendix F; Lou et al., arXiv 2310.16834, Appendix C; and the
code that both released.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Config", "MEDIUM", "SMALL", "Transformer", "macs"]


@dataclass(frozen=True)
class Config:
    """Sizes of a :class:`Transformer`.

    vocab: number N of real tokens; the network adds one channel for the mask, id N.
    d, blocks, heads: width, depth and number of heads, d / heads even.
    dropout: on the two residual branches of a block, nowhere else.
    cond: width of the time conditioning, None for a network without time.
    frequencies: width of the sinusoidal embedding in front of it.
    """

    vocab: int = 50257
    d: int = 768
    blocks: int = 12
    heads: int = 12
    dropout: float = 0.0
    cond: int | None = None
    frequencies: int = 256


SMALL = Config(d=768, blocks=12, heads=12)
MEDIUM = Config(d=1024, blocks=24, heads=16)


class LayerNorm(nn.Module):
    """LayerNorm in float32 or better. The bias starts at 1, as in the released code of RADD."""

    def __init__(self, d: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.ones(d)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        y = F.layer_norm(
            x.to(dtype),
            x.shape[-1:],
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
        )
        return y.to(x.dtype)


class Embedding(nn.Module):
    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(n, d))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.embedding)


class Rotary(nn.Module):
    """Rotary position embedding, the two halves of a head rotated against each other."""

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.register_buffer("inv_freq", base ** (-torch.arange(0, dim, 2).float() / dim))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin (length, dim)."""
        position = torch.arange(length, device=self.inv_freq.device, dtype=self.inv_freq.dtype)
        angle = torch.outer(position, self.inv_freq).repeat(1, 2)
        return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (..., length, dim) by the angles of its positions."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], dim=-1) * sin.to(x.dtype)


class TimeEmbedding(nn.Module):
    """Total noise (B,) -> (B, cond)."""

    def __init__(self, cond: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, cond), nn.SiLU(), nn.Linear(cond, cond))

    def forward(self, sbar: Tensor) -> Tensor:
        half = self.frequencies // 2
        dtype = next(self.mlp.parameters()).dtype
        steps = torch.arange(half, device=sbar.device, dtype=torch.float32)
        angle = sbar.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        d, timed = config.d, config.cond is not None
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1 = LayerNorm(d, bias=not timed)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.norm2 = LayerNorm(d, bias=not timed)
        self.mlp = nn.Sequential(
            nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d)
        )
        if config.cond is not None:
            self.adaLN_modulation = _zero(nn.Linear(config.cond, 6 * d))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, length, d = x.shape
        qkv = self.attn_qkv(x).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.attn_out(y.transpose(1, 2).reshape(b, length, d))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, c: Tensor | None) -> Tensor:
        if c is None:
            x = x + self._drop(self.attention(self.norm1(x), cos, sin))
            return x + self._drop(self.mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(
            6, dim=-1
        )
        y = self.attention(self.norm1(x) * (1 + scale1) + shift1, cos, sin)
        x = x + gate1 * self._drop(y)
        y = self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x + gate2 * self._drop(y)


class OutputLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        timed = config.cond is not None
        self.norm_final = LayerNorm(config.d, bias=not timed)
        self.linear = _zero(nn.Linear(config.d, config.vocab + 1))
        if config.cond is not None:
            self.adaLN_modulation = _zero(nn.Linear(config.cond, 2 * config.d))

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        x = self.norm_final(x)
        if c is not None:
            shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        return self.linear(x)


class Transformer(nn.Module):
    """x (B, L) of ids in 0..N (N is the mask) -> logits (B, L, N + 1).

    With time conditioning (config.cond), forward also takes the total noise sbar (B,). The output
    layer starts at zero, so that an untrained network says log(1/N) of every token. The logit of
    the mask channel takes part in nothing: leave it out.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_embed = Embedding(config.vocab + 1, config.d)
        if config.cond is not None:
            self.sigma_map = TimeEmbedding(config.cond, config.frequencies)
        self.rotary_emb = Rotary(config.d // config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.output_layer = OutputLayer(config)

    def forward(self, x: Tensor, sbar: Tensor | None = None) -> Tensor:
        if (sbar is None) != (self.config.cond is None):
            raise ValueError("a network with time conditioning needs sbar, and no other takes it")
        c = None if sbar is None else F.silu(self.sigma_map(sbar))
        cos, sin = self.rotary_emb(x.shape[1])
        h = self.vocab_embed(x)
        for block in self.blocks:
            h = block(h, cos, sin, c)
        return self.output_layer(h, c)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def macs(config: Config, length: int) -> dict[str, int]:
    """Multiply-accumulates of one forward pass of one sequence, by part.

    linear: the projections and MLPs of all blocks; attention: QK' and AV; head: the output layer;
    time: the adaLN and time-embedding projections, once a sequence. total: their sum.
    """
    d, n = config.d, config.blocks
    parts = {
        "linear": n * 12 * d * d * length,
        "attention": n * 2 * length * length * d,
        "head": d * (config.vocab + 1) * length,
        "time": 0,
    }
    if config.cond is not None:
        cond = config.cond
        parts["time"] = n * 6 * d * cond + 2 * d * cond + cond * (config.frequencies + cond)
    return parts | {"total": sum(parts.values())}
