r"""Closed forms, printed values and identities, each as an error or a count.

On 1-D data $N(0, s^2)$ with the exact noise prediction every DDIM step from $\bar\alpha$ to
$\bar\alpha'$ multiplies x by

$$ \frac{\sqrt{\bar\alpha \bar\alpha'} s^2 + \sqrt{(1 - \bar\alpha)(1 - \bar\alpha')}}
        {\bar\alpha s^2 + 1 - \bar\alpha} $$

so that a chain from N(0, 1) generates a Gaussian of known deviation, and the Fréchet distance is
$(\sigma - s)^2$.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from methods.autodiffusion import method as ad
from methods.autodiffusion.problems import Mixture, abar, grid, grid_time
from repro.diffusion.schedules import cosine_betas
from repro.nets.adm import ADMConfig, ADMUNet
from repro.nets.unet import UNet
from repro.training.seeding import seeded

S2 = 0.25
STRIDE = {
    4: [0, 250, 500, 750],
    6: [0, 167, 334, 501, 668, 835],
    10: list(range(0, 1000, 100)),
    15: list(range(0, 1000, 67)),
}
INCLUSIVE = {
    4: [0, 333, 666, 999],
    6: [0, 200, 400, 599, 799, 999],
    10: list(range(0, 1000, 111)),
}
RELEASED_6 = (94, 217, 354, 574, 834, 944)
RELEASED_JOINT = ad.Candidate(
    (85, 137, 305, 441, 572, 647, 676, 744, 856, 971),
    (ad.NONE,) * 6 + (frozenset({4, 8, 10, 15, 30, 39, 46, 49, 54}),) + (ad.NONE,) * 3,
)
RELEASED_TIMES = (0.014986, 0.285715, 0.5005, 0.718282, 0.926074)
BETAS = {
    (0, 250, 500, 750): [4.1e-05, 0.154077, 0.418026, 0.709155],
    RELEASED_6: [0.025391, 0.095896, 0.191020, 0.469453, 0.828978, 0.886685],
}
ALPHAS = {
    "cosine": {0: 0.999959, 250: 0.845888, 500: 0.492285, 750: 0.143179, 944: 0.00732905,
               999: 2.42877e-09},
    "linear": {250: 0.521423, 500: 0.0777967, 750: 0.00330016, 999: 4.03583e-05},
}  # fmt: skip
GAUSSIAN = {  # (schedule, chain) -> generated deviation or None, Fréchet distance or None
    ("cosine", "stride-4"): (0.361504, 0.019181),
    ("cosine", "inclusive-4"): (None, 0.045156),
    ("cosine", "released-6"): (None, 0.009258),
    ("cosine", "stride-6"): (None, 0.010416),
    ("cosine", "all"): (0.499189, None),
    ("linear", "stride-4"): (0.225390, 0.075411),
    ("linear", "stride-6"): (None, 0.039359),
}
CHAINS = {
    "stride-4": grid("stride", 4),
    "stride-6": grid("stride", 6),
    "inclusive-4": grid("inclusive", 4),
    "released-6": RELEASED_6,
    "all": tuple(range(1000)),
}


def relative(value: Tensor | float, expected: Tensor | Sequence[float] | float) -> float:
    """Largest relative deviation, in float64."""
    value, expected = (torch.as_tensor(v, dtype=torch.float64) for v in (value, expected))
    return float(((value - expected) / expected).abs().max())


def respacing_errors() -> dict[str, float]:
    """Of the betas of a shortened chain, and of the tables of steps (numbers that differ)."""
    table = abar("cosine")
    identity = max(
        relative(torch.cumprod(1 - ad.respaced_betas(tau, table), 0), table[list(tau)])
        for tau in CHAINS.values()
    )
    whole = ad.respaced_betas(CHAINS["all"], table)
    errors = {
        "respacing": identity,
        "respacing-all": float((whole - cosine_betas()).abs().max()),
        "signal": abs(float(table[750].sqrt()) - 0.378),
    }
    for tau, expected in BETAS.items():
        printed = torch.tensor(expected, dtype=torch.float64)
        errors[f"betas-{len(tau)}"] = float((ad.respaced_betas(tau, table) - printed).abs().max())
    for schedule, values in ALPHAS.items():
        found = abar(schedule)[list(values)]
        errors[f"alphas-{schedule}"] = relative(found, list(values.values()))
    for name, tables in (("stride", STRIDE), ("inclusive", INCLUSIVE)):
        errors[f"grid-{name}"] = float(
            sum(len(set(grid(name, K)) ^ set(steps)) for K, steps in tables.items())
        )
    times = torch.tensor(RELEASED_TIMES, dtype=torch.float64)
    index = ((times - 1e-3) / (grid_time([1]) - grid_time([0]))).round().long().tolist()
    errors["grid-times"] = float((grid_time(index) - times).abs().max())
    return errors


def factors(tau: Tensor, table: Tensor) -> Tensor:
    """The product of the factors of every chain (C, K): the generated deviation, (C,)."""
    a = table[tau]
    b = torch.cat([torch.ones_like(a[:, :1]), a[:, :-1]], 1)
    step = ((a * b).sqrt() * S2 + ((1 - a) * (1 - b)).sqrt()) / (a * S2 + 1 - a)
    return step.prod(1)


def gaussian_errors() -> dict[str, float]:
    """The sampler against the closed form, and both against printed values."""
    errors = {"gaussian-sampler": 0.0}
    for (schedule, name), (deviation, distance) in GAUSSIAN.items():
        table, tau = abar(schedule), torch.tensor([CHAINS[name]])

        def eps(x: Tensor, t: Tensor, i: int, table: Tensor = table) -> Tensor:
            a = table[t][:, None]
            return (1 - a).sqrt() * x / (a * S2 + 1 - a)

        sampled = float(ad.ddim_chains(eps, torch.ones(1, 1, dtype=torch.float64), tau, table))
        closed = float(factors(tau, table))
        errors["gaussian-sampler"] = max(errors["gaussian-sampler"], abs(sampled / closed - 1))
        gaps = []
        if deviation is not None:
            gaps.append(abs(closed - deviation))
        if distance is not None:
            gaps.append(abs((closed - S2**0.5) ** 2 - distance))
        errors[f"gaussian-{schedule}-{name}"] = max(gaps)
    return errors


def pairs_problem() -> tuple[dict[tuple[int, ...], float], Callable[..., list[float]]]:
    """Cost of all 190 pairs of steps 0, 50 ... 950, and it as a fitness."""
    chains: list[tuple[int, ...]] = list(combinations(range(0, 1000, 50), 2))
    costs = (factors(torch.tensor(chains), abar("cosine")) - S2**0.5) ** 2
    cost = dict(zip(chains, costs.tolist(), strict=True))

    def evaluate(candidates: Sequence[ad.Candidate], first: int) -> list[float]:
        return [cost[c.chain()[0]] for c in candidates]

    return cost, evaluate


PAIRS = ad.Settings(K=2, E=10, P=50, k=10, N_m=25, N_c=15, m_prob=0.25, grid=50)


def exhaustive(rng: Callable[[int, int], np.random.Generator]) -> dict[str, float]:
    """The optimum over all pairs, and how many of ten searches find it (and how soon)."""
    cost, evaluate = pairs_problem()
    best = min(cost, key=cost.__getitem__)
    deviation = float(factors(torch.tensor([best]), abar("cosine")))
    found, needed = 0, []
    for seed in range(10):
        state = ad.search(evaluate, PAIRS, partial(rng, seed))
        chains = [r.candidate.chain()[0] for r in state.records]
        found += state.winner.candidate.chain()[0] == best
        needed.append(chains.index(best) + 1 if best in chains else len(cost))
    return {
        "pairs-optimum": float(best != (150, 450)),
        "pairs-deviation": abs(deviation - 0.493146),
        "pairs-cost": relative(cost[best], 4.697e-05),
        "pairs-uniform": abs(cost[0, 500] - 0.046101),
        "found": float(found),
        "needed": float(np.mean(needed)),
    }


N = TypeVar("N", bound=nn.Module)
SMALL_ADM = ADMConfig(16, 32, (1, 2), 1, (8,), head=32, new_order=True, learn_sigma=False)


def _drawn(network: N, generator: Generator, std: float, only: str = "") -> N:
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.startswith(only):
                p.add_(std * torch.randn(p.shape, generator=generator))
    return network


@torch.no_grad()
def dropping_errors(zoo_network: UNet, generator: Generator) -> dict[str, float]:
    """What leaving blocks out changes while the last convolutions are zero, and afterwards.

    zoo_network: with zero-initialised blocks and any output convolution.
    """
    fresh = seeded(lambda: ADMUNet(SMALL_ADM), torch.Generator().manual_seed(0))
    adm = _drawn(fresh.eval(), generator, 0.1, "out.2")
    x, t = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([3, 700])
    L = len(adm.block_names)
    sets = [frozenset({b}) for b in range(L)]
    sets += [frozenset(torch.randperm(L, generator=generator)[:k].tolist()) for k in (2, 5, L)]

    def change(network: Callable[[ad.Skips], Tensor], sets: Iterable[ad.Skips]) -> list[float]:
        full = network(ad.NONE)
        return [float((network(s) - full).abs().max()) for s in sets]

    errors = {"dropping-adm": max(change(lambda s: adm(x, t, skip=s), sets))}
    _drawn(adm, generator, 0.1)
    errors["dropping-adm-perturbed"] = min(change(lambda s: adm(x, t, skip=s), sets))

    skippable = ad.SkippableUNet(_drawn(zoo_network.eval(), generator, 0.1, "conv_out"))
    side = zoo_network.resolution
    x = torch.randn(4, zoo_network.in_channels, side, side, generator=generator)
    t = torch.tensor([3, 700, 20, 999])
    sets = [frozenset({b}) for b in range(skippable.L)] + [frozenset(range(skippable.L))]
    errors["dropping-unet"] = max(change(lambda s: skippable(x, t, skips=s), sets))
    _drawn(zoo_network, generator, 0.1)
    # Rows with other sets in one batch against each set alone.
    some = [ad.NONE, frozenset({0, 2}), frozenset(range(skippable.L)), frozenset({1})]
    together = skippable(x, t, skips=some)
    alone = torch.cat([skippable(x[i : i + 1], t[i : i + 1], skips=s) for i, s in enumerate(some)])
    errors["dropping-rows"] = float((together - alone).abs().max() / alone.abs().max())
    errors["dropping-none"] = float((skippable(x, t) - zoo_network(x, t)).abs().max())
    return errors


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and bits of a state dict."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        hashed.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


JOINT = ad.Settings(
    K=10, E=15, P=50, k=10, N_m=25, N_c=10, m_prob=0.25, L=58, N_max=580, max_prun=0.1
)


def bookkeeping(rng: Callable[..., np.random.Generator]) -> dict[str, float]:
    """Counts of a search with the paper's numbers, on a fitness that costs nothing."""

    def evaluate(candidates: Sequence[ad.Candidate], first: int) -> list[float]:
        ideal = np.linspace(40, 960, 10)
        return [
            float(np.abs(np.interp(np.linspace(0, 1, 10), np.linspace(0, 1, len(t)), t)
                         - ideal).sum()) + 0.1 * c.blocks(58)
            for c in candidates
            for t in [c.chain()[0]]
        ]  # fmt: skip

    plain = ad.Settings(K=4, E=10, P=50, k=10, N_m=25, N_c=15, m_prob=0.25)
    state = ad.search(evaluate, plain, lambda e: rng("plain", e))
    made = [Counter(r.origin for r in state.records if r.epoch == e) for e in range(plain.E)]
    wanted = Counter(mutation=25, crossover=15, random=10)
    extra = ad.search(evaluate, ad.replace(plain, extra_epoch=True), lambda e: rng("plain", e))
    joint = {
        parity: ad.search(evaluate, ad.replace(JOINT, parity=parity), partial(rng, "joint", parity))
        for parity in ("paper", "code")
    }

    def breaches(state: ad.State) -> int:
        return sum(
            c.blocks(58) > 580 or c.effective_K < len(c.steps)
            for c in (r.candidate for r in state.records)
        )

    intended = joint["paper"]
    first_stage = [r for r in intended.records if intended.bounds[r.epoch][1] == 0]
    drawn = [r for r in intended.records if r.origin == "random"]
    return {
        "rises": float(sum(b > a for a, b in zip(state.best, state.best[1:], strict=False))),
        "composition": float(sum(m != wanted for m in made[1:]) + (made[0] != Counter(random=50))),
        "evaluated": float(len(state.records)),
        "evaluated-extra": float(len(extra.records)),
        "same-winner": float(extra.winner.candidate != state.winner.candidate),
        "breaches": float(breaches(intended)),
        "breaches-code": float(breaches(joint["code"])),
        "most-dropped": float(max(len(s) for r in drawn for s in r.candidate.skips)),
        "first-stage": float(sum(bool(s) for r in first_stage for s in r.candidate.skips)),
        "last-hi": abs(intended.bounds[-1][1] - JOINT.max_prun),
    }


def permutation_error(generator: Generator) -> float:
    """What the order of the steps of a candidate changes: largest difference of samples."""
    problem = Mixture(lambda *stream: torch.Generator().manual_seed(1), schedule="cosine", real=64)
    x = torch.randn(1, 16, problem.d, generator=generator)
    order = torch.randperm(6, generator=generator).tolist()
    shuffled = ad.Candidate(tuple(RELEASED_6[i] for i in order))
    pair = [problem.generate([c], x) for c in (ad.Candidate(RELEASED_6), shuffled)]
    return float((pair[0] - pair[1]).abs().max())


def departure_counts() -> dict[str, float]:
    """Small cases in which the released code and the intention part, as 0 (as described) or 1."""
    rng = np.random.default_rng(0)
    released = ad.replace(JOINT, parity="code")
    short, long = ad.Candidate((900, 1)), ad.Candidate((5, 6, 7))
    stored = ad.Candidate((500, 100), (frozenset({1}), ad.NONE))
    full = ad.Candidate((1, 2), (frozenset({0, 1}),) * 2)
    frozen = ad.mutate(full, released, 0.0, 0.1, rng, 1.0)
    moved = ad.mutate(full, JOINT, 0.0, 0.1, rng, 1.0)
    twice = ad.Candidate((5, 5, 7))
    return {
        "entries": float(frozen.skips != full.skips or moved.skips == full.skips),
        "tail": float(
            len(ad.cross(short, long, released, rng).steps) != 2
            or len(ad.cross(short, long, JOINT, rng).steps) != 3
        ),
        "budget": float(
            not released.allows(ad.Candidate(tuple(range(11)), (ad.NONE,) * 11))
            or JOINT.allows(ad.Candidate(tuple(range(11)), (ad.NONE,) * 11))
        ),
        "duplicates": float(
            twice.effective_K != 2 or JOINT.allows(twice) or not released.allows(twice)
        ),
        "pairing": float(
            stored.chain() != ((100, 500), (ad.NONE, frozenset({1})))
            or stored.chain("rank") != ((100, 500), (frozenset({1}), ad.NONE))
        ),
        "memory": float(
            ad.Candidate((1, 2)).key() != ad.Candidate((2, 1)).key()
            or ad.Candidate((1, 2)).key("code") == ad.Candidate((2, 1)).key("code")
        ),
        "released-pairing": float(
            RELEASED_JOINT.chain("rank")[1][6] != RELEASED_JOINT.skips[6]
            or RELEASED_JOINT.chain("rank")[0][6] != 676
        ),
    }
