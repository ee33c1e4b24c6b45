"""GPT-2, which judges the paper's samples (RADD's and SEDD's networks: `repro.nets.transformer`).

Pre-norm blocks with causal attention over heads of width 64, an MLP of width 4d with tanh-GELU, and
logits from the transposed embedding of tokens. Names and shapes are those of the release: matrices
are stored (in, out). Source: Radford et al., Language Models are Unsupervised Multitask Learners
(2019), and its released code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gpt2Size(NamedTuple):
    """Sizes of a GPT-2; 774,030,080 parameters by default, which is GPT-2 large."""

    vocab: int = 50257
    positions: int = 1024
    d: int = 1280
    blocks: int = 36
    heads: int = 20


class Matrix(nn.Module):
    """x W + b with W stored (in, out)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = Matrix(d, 3 * d), Matrix(d, d)

    def forward(self, x: Tensor) -> Tensor:
        b, length, d = x.shape
        q, k, v = (
            part.view(b, length, self.heads, d // self.heads).transpose(1, 2)
            for part in self.c_attn(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(b, length, d))


class MLP(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = Matrix(d, 4 * d), Matrix(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(d), Attention(d, heads)
        self.ln_2, self.mlp = nn.LayerNorm(d), MLP(d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt2(nn.Module):
    """GPT-2: ids (B, L) -> logits (B, L, vocab)."""

    def __init__(self, size: Gpt2Size | None = None) -> None:
        super().__init__()
        size = size or Gpt2Size()
        self.wte = nn.Embedding(size.vocab, size.d)
        self.wpe = nn.Embedding(size.positions, size.d)
        self.h = nn.ModuleList(Block(size.d, size.heads) for _ in range(size.blocks))
        self.ln_f = nn.LayerNorm(size.d)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte.weight[ids] + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T
