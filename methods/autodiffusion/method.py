r"""AutoDiffusion: an evolutionary search for the time steps to visit and the blocks to leave out.

A candidate is a sequence of pairs $(t_i, S_i)$: a training step of the pre-trained network, and the
set of blocks that are left out there. With $L$ blocks that can be left out it costs

$$ \sum_i (L - |S_i|) \le N_{\max} $$

blocks, and its fitness is the Fréchet distance between generated and real images. Nothing is
trained. A search runs in two stages. In the first the whole network runs at $K$ steps; in the
second the fraction of blocks that new candidates may leave out per step, between `lo` and `hi`,
rises from epoch to epoch, and what is saved pays for further steps.

Symbols: `K` steps, `E` epochs, `P` candidates an epoch, `k` elites, `N_m` mutations, `N_c`
crossovers, `m_prob` probability of a mutation per gene, `L` blocks, `N_max` budget.

`parity`: "paper" is what the paper evidently means. "code" is what the released code computes:
entries of a non-empty $S_i$ never mutate; the tail of the lexicographically larger parent is kept,
not of the longer one; children may exceed $N_max$ and may repeat a step, which shortens the chain;
sets go to steps by rank; and a candidate in another order counts as another candidate.

Source: Li et al., AutoDiffusion (ICCV 2023), and its released code (commit 1292082).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.diffusion.samplers import in_inference_mode
from repro.diffusion.schedules import expand
from repro.errors import ReproError
from repro.nets.unet import AttentionBlock, Level, ResidualBlock, UNet
from repro.numbers import finite

Skips = frozenset[int]
NONE: Skips = frozenset()
TRIES = 10
"""Candidates of every kind are tried at most this many times as often as they are wanted."""


@dataclass(frozen=True)
class Candidate:
    """Time steps in the order in which they were drawn, and the blocks left out at each."""

    steps: tuple[int, ...]
    skips: tuple[Skips, ...] = ()

    def __post_init__(self) -> None:
        if not self.skips:
            object.__setattr__(self, "skips", (NONE,) * len(self.steps))
        if len(self.skips) != len(self.steps):
            raise ReproError(f"{len(self.steps)} steps with {len(self.skips)} sets of blocks")

    @property
    def effective_K(self) -> int:
        """Steps that are really taken: a repeated step is taken once."""
        return len(set(self.steps))

    def blocks(self, L: int) -> int:
        """Blocks that run over the whole chain, of L at each step."""
        return sum(L - len(s) for s in self.skips)

    def chain(self, pairing: str = "pair") -> tuple[tuple[int, ...], tuple[Skips, ...]]:
        """Ascending steps without repeats, and the set that is left out at each.

        pairing: "pair" keeps each set at the step it was drawn with; "rank" gives the i-th set to
            the i-th smallest step, as the released code does.
        """
        if pairing == "rank":
            steps = tuple(sorted(set(self.steps)))
            return steps, self.skips[: len(steps)]
        if pairing != "pair":
            raise ReproError(f"unknown pairing '{pairing}'; use pair or rank")
        found = dict(zip(self.steps, self.skips, strict=True))
        steps = tuple(sorted(found))
        return steps, tuple(found[t] for t in steps)

    def key(self, parity: str = "paper") -> str:
        """What a fitness is remembered under."""
        steps, skips = (self.steps, self.skips) if parity == "code" else self.chain()
        return str([steps, [sorted(s) for s in skips]])

    def as_json(self) -> list[Any]:
        return [list(self.steps), [sorted(s) for s in self.skips]]

    @classmethod
    def of_json(cls, content: Sequence[Any]) -> Candidate:
        return cls(tuple(content[0]), tuple(frozenset(s) for s in content[1]))


@dataclass(frozen=True)
class Settings:
    """Parameters of a search; see the module for the symbols.

    space: the time steps to choose from: 0 ... space - 1, every `grid`-th.
    start: steps of a candidate that the first epoch holds, with mutations of it; None for none.
    min_prun, max_prun: bounds of the fraction of blocks left out per step; max_prun = 0 searches
        time steps alone. rise: epochs over which `hi` rises. patience: epoch after which the
        second stage begins at the latest.
    extra_epoch: evaluate one epoch more than is used, as the released ImageNet script does.
    """

    K: int
    E: int
    P: int
    k: int
    N_m: int
    N_c: int
    m_prob: float
    space: int = 1000
    grid: int = 1
    start: tuple[int, ...] | None = None
    start_prob: float = 0.1
    L: int = 0
    N_max: int | None = None
    min_prun: float = 0.0
    max_prun: float = 0.0
    rise: int = 5
    patience: int = 5
    parity: str = "paper"
    extra_epoch: bool = False

    def __post_init__(self) -> None:
        if self.parity not in ("paper", "code"):
            raise ReproError(f"unknown parity '{self.parity}'; use paper or code")
        if self.N_m + self.N_c > self.P:
            raise ReproError(
                f"{self.N_m} mutations and {self.N_c} crossovers exceed a population of {self.P}"
            )
        if self.joint and (self.L < 1 or self.N_max is None):
            raise ReproError("a joint search needs the number of blocks L and the budget N_max")
        if len(self.times) < self.K:
            raise ReproError(f"cannot choose {self.K} of {len(self.times)} time steps")

    @property
    def joint(self) -> bool:
        return self.max_prun > 0

    @property
    def times(self) -> range:
        return range(0, self.space, self.grid)

    def allows(self, child: Candidate) -> bool:
        """Whether a child may live: distinct steps, within the budget. The code lets all live."""
        if self.parity == "code":
            return True
        within = self.N_max is None or child.blocks(self.L) <= self.N_max
        return within and child.effective_K == len(child.steps)


# Drawing candidates ------------------------------------------------------------------------------


def draw_skips(s: Settings, lo: float, hi: float, rng: np.random.Generator) -> Skips:
    """int(u L) random blocks, u uniform between lo and hi."""
    count = int(rng.uniform(lo, hi) * s.L)
    return frozenset(rng.permutation(s.L)[:count].tolist()) if count else NONE


def random_candidate(s: Settings, lo: float, hi: float, rng: np.random.Generator) -> Candidate:
    """K random steps; in a joint search as many as the budget holds, each with its own set."""
    order = [s.times[i] for i in rng.permutation(len(s.times)).tolist()]
    if s.N_max is None or not s.joint:
        return Candidate(tuple(order[: s.K]))
    steps, skips, used = [], [], 0
    for t in order:
        least = s.L - int(s.L * hi)
        if used + least > s.N_max:
            break
        chosen = draw_skips(s, lo, hi, rng)
        excess = used + s.L - len(chosen) - s.N_max
        if excess > 0:  # the last step leaves out as many as it takes to fit
            rest = [b for b in rng.permutation(s.L).tolist() if b not in chosen]
            chosen = chosen | frozenset(rest[:excess])
        steps.append(t)
        skips.append(chosen)
        used += s.L - len(chosen)
    return Candidate(tuple(steps), tuple(skips))


def mutate(
    parent: Candidate, s: Settings, lo: float, hi: float, rng: np.random.Generator, m_prob: float
) -> Candidate:
    """Each step becomes, with m_prob, one that the parent does not have; then the sets change.

    An empty set becomes, with m_prob, a random one; each entry of another set becomes, with m_prob,
    a block that is not in it.
    """
    steps, skips = list(parent.steps), list(parent.skips)
    for i in range(len(steps)):
        if rng.random() < m_prob:
            free = [t for t in s.times if t not in steps]
            if free:
                steps[i] = free[int(rng.integers(len(free)))]
        if hi <= 0:
            continue
        if not skips[i]:
            if rng.random() < m_prob:
                skips[i] = draw_skips(s, lo, hi, rng)
        elif s.parity == "paper":
            chosen = set(skips[i])
            for block in sorted(skips[i]):
                free = sorted(set(range(s.L)) - chosen)
                if free and rng.random() < m_prob:
                    chosen.remove(block)
                    chosen.add(free[int(rng.integers(len(free)))])
            skips[i] = frozenset(chosen)
    return Candidate(tuple(steps), tuple(skips))


def cross(a: Candidate, b: Candidate, s: Settings, rng: np.random.Generator) -> Candidate:
    """Each position from either parent with probability 1/2; the tail of the longer one stays."""
    common = min(len(a.steps), len(b.steps))
    from_a = rng.random(common) < 0.5
    genes = [
        (p.steps[i], p.skips[i]) for i, p in enumerate([a if first else b for first in from_a])
    ]
    # The code compares the lists themselves, so that a short parent may be the "longer" one.
    larger = (a.steps > b.steps) if s.parity == "code" else len(a.steps) > len(b.steps)
    tail = a if larger else b
    genes += list(zip(tail.steps[common:], tail.skips[common:], strict=True))
    return Candidate(tuple(t for t, _ in genes), tuple(skip for _, skip in genes))


# The search --------------------------------------------------------------------------------------


@dataclass
class Record:
    """One evaluated candidate: its fitness, the epoch it was made in, and how."""

    candidate: Candidate
    fitness: float
    epoch: int
    origin: str


@dataclass
class State:
    """All that a search knows between two epochs; `as_json` keeps every bit of it.

    elites: indices into `records`, the best first. bounds: [lo, hi] at the start of each epoch.
    best: fitness of the best candidate after each epoch.
    """

    epoch: int = 0
    records: list[Record] = field(default_factory=list)
    elites: list[int] = field(default_factory=list)
    lo: float = 0.0
    hi: float = 0.0
    bounds: list[list[float]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    @property
    def winner(self) -> Record:
        return self.records[self.elites[0]]

    def as_json(self) -> dict[str, Any]:
        content = {k: v for k, v in vars(self).items() if k != "records"}
        content["records"] = [
            [r.candidate.as_json(), r.fitness, r.epoch, r.origin] for r in self.records
        ]
        return content

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> State:
        records = [
            Record(Candidate.of_json(c), fitness, epoch, origin)
            for c, fitness, epoch, origin in content["records"]
        ]
        return cls(**(content | {"records": records}))


Evaluate = Callable[[Sequence[Candidate], int], Iterable[float]]
"""(candidates, number of the first evaluation) -> fitness of each, lower is better."""


def children(s: Settings, state: State, rng: np.random.Generator) -> list[tuple[str, Candidate]]:
    """The candidates of the next epoch, none seen before: how each was made, and what it is.

    Fewer than P where the space has hardly any left.
    """
    seen = {r.candidate.key(s.parity) for r in state.records}
    made: list[tuple[str, Candidate]] = []

    def take(origin: str, wanted: int, make: Callable[[], Candidate]) -> None:
        for _ in range(TRIES * wanted):
            if wanted == 0:
                break
            child = make()
            if child.key(s.parity) in seen or not s.allows(child):
                continue
            seen.add(child.key(s.parity))
            made.append((origin, child))
            wanted -= 1

    def fresh() -> Candidate:
        return random_candidate(s, state.lo, state.hi, rng)

    def pick() -> Candidate:
        return state.records[state.elites[int(rng.integers(len(state.elites)))]].candidate

    if state.epoch == 0:
        if s.start is not None:
            uniform = Candidate(s.start)
            take("start", 1, lambda: uniform)
            take("random", s.P // 2, fresh)

            def near() -> Candidate:
                return mutate(uniform, s, state.lo, state.hi, rng, s.start_prob)

            take("mutation", s.P - len(made), near)
    else:

        def mutation() -> Candidate:
            return mutate(pick(), s, state.lo, state.hi, rng, s.m_prob)

        def crossover() -> Candidate:
            return cross(pick(), pick(), s, rng)

        take("mutation", s.N_m, mutation)
        take("crossover", s.N_c, crossover)
    take("random", s.P - len(made), fresh)
    return made


def widen(s: Settings, lo: float, hi: float, epoch: int, unchanged: bool) -> tuple[float, float]:
    """[lo, hi] after the selection of an epoch.

    unchanged: the best candidate is that of the epoch before.
    """
    if not s.joint:
        return lo, hi
    step = s.max_prun / s.rise
    if hi == 0 and (unchanged or epoch >= s.patience):
        hi = step
    elif 0 < hi < s.max_prun:
        hi = min(hi + step, s.max_prun)
    if lo == 0 and epoch >= s.patience + 1:
        lo = s.min_prun
    return lo, hi


def search(
    evaluate: Evaluate,
    s: Settings,
    rng: Callable[[int], np.random.Generator],
    state: State | None = None,
    save: Callable[[State], None] = lambda state: None,
) -> State:
    """The evolutionary search: P candidates are made and evaluated in each of E epochs.

    evaluate: called once an epoch with the new candidates; every candidate is evaluated once.
    rng: epoch -> generator of its random choices, so that an epoch repeats after an interruption.
    state: where an interrupted search stood. save: called after every epoch.
    Returns the final state; `winner` is the best of all.
    """
    state = State() if state is None else state
    while state.epoch < s.E + s.extra_epoch:
        made = children(s, state, rng(state.epoch))
        candidates = [child for _, child in made]
        fitness = [float(value) for value in evaluate(candidates, len(state.records))]
        finite(np.array(fitness), "fitnesses, which rank the candidates,")
        first = len(state.records)
        records = [
            Record(child, value, state.epoch, origin)
            for (origin, child), value in zip(made, fitness, strict=True)
        ]
        state = replace(state, records=[*state.records, *records])
        if state.epoch < s.E:  # what an extra epoch finds is thrown away
            state = _select(s, state, range(first, len(state.records)))
        state = replace(state, epoch=state.epoch + 1)
        save(state)
    return state


def _select(s: Settings, state: State, current: range) -> State:
    ranked = sorted([*state.elites, *current], key=lambda i: state.records[i].fitness)
    elites = ranked[: s.k]
    unchanged = bool(state.elites) and elites[0] == state.elites[0]
    bounds = [*state.bounds, [state.lo, state.hi]]
    lo, hi = widen(s, state.lo, state.hi, state.epoch, unchanged)
    best = [*state.best, state.records[elites[0]].fitness]
    return replace(state, elites=elites, lo=lo, hi=hi, bounds=bounds, best=best)


def without_evolution(s: Settings) -> Settings:
    """The control: as many candidates in as many epochs, every one of them drawn at random."""
    return replace(s, N_m=0, N_c=0, start=None)


# Sampling ----------------------------------------------------------------------------------------


def respaced_betas(tau: Sequence[int] | Tensor, alphas_cumprod: Tensor) -> Tensor:
    r"""$\beta'_i = 1 - \bar\alpha(\tau_i) / \bar\alpha(\tau_{i-1})$, $\bar\alpha(\tau_0) = 1$.

    tau: ascending steps, (K,) or (C, K). Returns float64 of that shape.
    """
    abar = alphas_cumprod.double().cpu()[torch.as_tensor(tau)]
    return 1 - abar / torch.cat([torch.ones_like(abar[..., :1]), abar[..., :-1]], dim=-1)


Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(x (C, n, ...), t int64 (C,), i) -> noise (C, n, ...): step i of every one of C chains."""


@in_inference_mode
def ddim_chains(
    predict: Predict, x: Tensor, tau: Tensor, alphas_cumprod: Tensor, clip: float | None = None
) -> Tensor:
    r"""DDIM ($\eta$ = 0) along C chains of K steps at once.

    Arguments:
        predict: called with i = K - 1 ... 0, the position in each chain.
        x: noise, (C, n, ...): n samples of each chain.
        tau: ascending steps of each chain, int64 (C, K).
        clip: bound of $|\hat x_0|$, or None; the noise is recomputed from the clipped value.

    Returns:
        $x_0$, (C, n, ...).
    """
    abar = torch.cumprod(1 - respaced_betas(tau, alphas_cumprod), dim=1)
    before = torch.cat([torch.ones_like(abar[:, :1]), abar[:, :-1]], dim=1)
    steps = tau.to(x.device)
    for i in reversed(range(tau.shape[1])):
        abar_t, abar_s = abar[:, i], before[:, i]
        eps = predict(x, steps[:, i], i)
        from_eps = -((1 - abar_t) / abar_t).sqrt()
        x0_hat = x * expand(abar_t.rsqrt(), x) + eps * expand(from_eps, x)
        if clip is not None:
            x0_hat = x0_hat.clamp(-clip, clip)
        # sqrt(abar_s) x0_hat + sqrt(1 - abar_s) eps, eps written in x and the clipped x0_hat
        from_x = ((1 - abar_s) / (1 - abar_t)).sqrt()
        from_x0 = abar_s.sqrt() - from_x * abar_t.sqrt()
        x = x * expand(from_x, x) + x0_hat * expand(from_x0, x)
    return x


# Leaving out blocks ------------------------------------------------------------------------------


class OptionalBlock(nn.Module):
    """A residual or attention block that some rows of a batch may go around.

    dropped: False (no row), True (every row), or a boolean (B,) of the rows that take the shortcut.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.dropped: Tensor | bool = False

    def shortcut(self, x: Tensor) -> Tensor:
        return self.block.shortcut(x) if isinstance(self.block, ResidualBlock) else x

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.dropped is False:
            return self.block(x, *rest)
        if self.dropped is True:
            return self.shortcut(x)
        kept = (~self.dropped).nonzero().flatten()
        inside = self.block(x[kept], *(r[kept] for r in rest))
        out = self.shortcut(x).to(inside.dtype, copy=True)
        out[kept] = inside
        return out


class SkippableUNet(nn.Module):
    """A copy of a `UNet` whose residual and attention blocks can be left out, row by row.

    Blocks count in the order in which they run. Left out, a residual block returns its shortcut
    (with its 1 x 1 convolution, where it has one) and an attention block its input; convolutions
    that change the resolution, the embeddings, the first and the last convolution always run.
    Weights are shared with the original, which stays as it is.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        memo = {id(p): p for p in network.parameters()}
        self.network = copy.deepcopy(network, memo)
        self.blocks: list[OptionalBlock] = []
        self.names: list[str] = []
        for i, level in enumerate(self.network.down):
            self._wrap_level(level, f"down.{i}")
        for name in ("block_1", "attn_1", "block_2"):
            if hasattr(self.network.mid, name):
                setattr(
                    self.network.mid,
                    name,
                    self._wrap(getattr(self.network.mid, name), f"mid.{name}"),
                )
        for i, level in reversed(list(enumerate(self.network.up))):
            self._wrap_level(level, f"up.{i}")

    def _wrap(self, block: nn.Module, name: str) -> OptionalBlock:
        assert isinstance(block, ResidualBlock | AttentionBlock)
        self.blocks.append(OptionalBlock(block))
        self.names.append(name)
        return self.blocks[-1]

    def _wrap_level(self, level: nn.Module, name: str) -> None:
        assert isinstance(level, Level)
        for i in range(len(level.block)):
            level.block[i] = self._wrap(level.block[i], f"{name}.block.{i}")
            if len(level.attn):
                level.attn[i] = self._wrap(level.attn[i], f"{name}.attn.{i}")

    @property
    def L(self) -> int:
        """How many blocks can be left out."""
        return len(self.blocks)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        skips: Sequence[Skips] | Skips | None = None,
    ) -> Tensor:
        """Noise in x (B, C, H, W); skips: one set for all rows, or a set for each of equal parts.

        With C sets the batch holds C equal parts in their order.
        Raises ReproError if there is no block of some number or the parts are not equal.
        """
        sets = [skips] if isinstance(skips, frozenset) else list(skips or [NONE])
        if len(x) % len(sets):
            raise ReproError(f"{len(x)} rows do not fall into {len(sets)} equal parts")
        unknown = frozenset().union(*sets) - frozenset(range(self.L))
        if unknown:
            raise ReproError(f"no block {min(unknown)}; they count from 0 to {self.L - 1}")
        rows = len(x) // len(sets)
        for number, block in enumerate(self.blocks):
            part = [number in s for s in sets]
            if all(part) or not any(part):
                block.dropped = part[0]
            else:
                block.dropped = torch.tensor(part, device=x.device).repeat_interleave(rows)
        try:
            return self.network(x, t, y)
        finally:
            for block in self.blocks:
                block.dropped = False


def drop_uniformly(steps: Sequence[int], L: int, N_max: int, rng: np.random.Generator) -> Candidate:
    """The control of the joint search: given steps, blocks left out at random to the same budget.

    Every step leaves out as many blocks as the others, or one more.
    """
    excess = max(0, len(steps) * L - N_max)
    share, rest = divmod(excess, len(steps))
    more = set(rng.permutation(len(steps))[:rest].tolist())
    skips = tuple(
        frozenset(rng.permutation(L)[: share + (i in more)].tolist()) for i in range(len(steps))
    )
    return Candidate(tuple(steps), skips)
