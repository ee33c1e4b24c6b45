"""The identities of the paper, checked by enumeration and against closed forms.

Each function yields (item, error): the absolute difference between what :mod:`methods.radd.method`
computes and what it has to be. Expected numbers that are spelled out were derived by hand from the
definitions, or with the released code; they are not results of this suite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from methods.radd import method as radd
from repro.diffusion import absorbing
from repro.nets.transformer import Config, Transformer

if TYPE_CHECKING:
    from repro.job import Job

Item = tuple[str, float]
F64 = torch.float64

# Distributions small enough to enumerate


def states(n: int, d: int) -> Tensor:
    """All n^d sequences, (n^d, d), the last position running fastest."""
    return torch.tensor(list(itertools.product(range(n), repeat=d)))


def exact_conditionals(p0: Tensor) -> radd.Conditionals:
    """c_theta of the joint distribution p0 (N,) * d: log p0(x^i = j | x^UM), by summation."""
    n, d = p0.shape[0], p0.dim()
    s, p = states(n, d), p0.reshape(-1)
    one_hot = torch.nn.functional.one_hot(s, n).to(p)

    def c_theta(x: Tensor) -> Tensor:
        fits = ((x[:, None, :] == s) | (x[:, None, :] == n)).all(dim=-1)
        weight = fits * p
        joint = torch.einsum("bs,sij->bij", weight, one_hot)
        return (joint / weight.sum(dim=-1)[:, None, None]).log()

    return c_theta


def forward_law(p0: Tensor, lam: float) -> Tensor:
    """p_t as a table (N + 1,) * d, index N being the mask."""
    n, law = p0.shape[0], p0
    eye, mask = torch.eye(n, dtype=p0.dtype), torch.full((n, 1), lam, dtype=p0.dtype)
    kernel = torch.cat([(1 - lam) * eye, mask], dim=1)
    for axis in range(p0.dim()):
        law = torch.tensordot(law, kernel, dims=([axis], [0])).movedim(-1, axis)
    return law


def random_joint(n: int, d: int, generator: torch.Generator) -> Tensor:
    p = -torch.rand((n,) * d, generator=generator, dtype=F64).log()
    return p / p.sum()


TOY_JOINT = torch.tensor([[0.4, 0.1], [0.2, 0.3]], dtype=F64)
TOY_X0 = torch.tensor([[1, 0, 1]])


def toy_model(x: Tensor) -> Tensor:
    """q(x^i = 1 | x^UM) = sigmoid(0.3 i + 0.5 #ones - 0.4 #zeros); no joint has these."""
    ones = (x == 1).to(F64).sum(-1, keepdim=True)
    zeros = (x == 0).to(F64).sum(-1, keepdim=True)
    logit = 0.3 * torch.arange(x.shape[1], dtype=F64) + 0.5 * ones - 0.4 * zeros
    return torch.nn.functional.logsigmoid(torch.stack([-logit, logit], dim=-1))


def subsets(d: int) -> Tensor:
    """All 2^d sets of masked positions, bool (2^d, d)."""
    return states(2, d).bool()


def _all_masks(c_theta: radd.Conditionals, x0: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """x0 and log c for every set of masked positions, and the sets."""
    m = subsets(x0.shape[1])
    x = x0.expand(len(m), -1)
    return x, c_theta(radd.corrupt(x, m, n)), m


def _weights(m: Tensor, lam: Tensor) -> Tensor:
    """Probability of each set at each level, (levels, sets)."""
    k = m.sum(-1).to(F64)
    return lam[:, None] ** k * (1 - lam[:, None]) ** (m.shape[1] - k)


def _legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def expected_loss(
    integrand: Callable[[Tensor], Tensor], m: Tensor, noise: absorbing.Noise
) -> float:
    """Integrate over t in [0, 1] the mean over masks of integrand(t) (sets,).

    The nodes crowd at both ends, where t-DCE has a logarithm.
    """
    v, w = _legendre(400)
    t, w = v**3 * (10 - 15 * v + 6 * v**2), w * 30 * (v * (1 - v)) ** 2
    p = _weights(m, noise.masked(t))
    values = torch.stack([integrand(t_k.expand(len(m))) for t_k in t])
    return float((w[:, None] * p * values).sum())


def lambda_dce(c_theta: radd.Conditionals, x0: Tensor, n: int) -> float:
    """The lambda-DCE loss, exactly: its integrand is a polynomial in lambda."""
    x, log_c, m = _all_masks(c_theta, x0, n)
    lam, w = _legendre(16)
    value = torch.stack(
        [radd.lambda_dce_integrand(log_c, x, m, lam_k.expand(len(m))) for lam_k in lam]
    )
    return float((w[:, None] * _weights(m, lam) * value).sum())


def ao(c_theta: radd.Conditionals, x0: Tensor, n: int) -> float:
    """The AO loss, exactly: all sizes k, all sets of each size."""
    x, log_c, m = _all_masks(c_theta, x0, n)
    x, log_c, m = x[1:], log_c[1:], m[1:]
    d, size = m.shape[1], m.sum(-1)
    p = torch.tensor([1 / (d * math.comb(d, int(k))) for k in size], dtype=F64)
    return float((p * radd.ao_integrand(log_c, x, m)).sum())


def dse(c_theta: radd.Conditionals, x0: Tensor, n: int, noise: absorbing.Noise) -> float:
    """The DSE loss over the whole of t in [0, 1], by quadrature."""
    x, log_c, m = _all_masks(c_theta, x0, n)

    def integrand(t: Tensor) -> Tensor:
        log_s = log_c + absorbing.log_odds(noise.total(t))[:, None, None]
        return radd.dse_integrand(log_s, x, m, t, noise)

    return expected_loss(integrand, m, noise)


def t_dce(c_theta: radd.Conditionals, x0: Tensor, n: int, noise: absorbing.Noise) -> float:
    """The t-DCE loss over the whole of t in [0, 1], by quadrature."""
    x, log_c, m = _all_masks(c_theta, x0, n)
    return expected_loss(lambda t: radd.t_dce_integrand(log_c, x, m, t, noise), m, noise)


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


# The checks


def theorem_1(generator: torch.Generator) -> Iterator[Item]:
    """The ratio of forward marginals is a(t) times the clean conditional."""
    for label, sbar, expected in (("ln2", math.log(2), 0.25), ("ln4", math.log(4), 1 / 12)):
        law = forward_law(TOY_JOINT, 1 - math.exp(-sbar))
        yield f"theorem-1-{label}", abs(float(law[0, 1] / law[2, 1]) - expected)
    worst = 0.0
    for n, d in ((2, 2), (3, 3), (4, 3)):
        p0 = random_joint(n, d, generator)
        x = states(n + 1, d)
        log_c = exact_conditionals(p0)(x)
        for sbar in (0.05, 1.0, 6.0):
            law = forward_law(p0, 1 - math.exp(-sbar))
            a = absorbing.log_odds(torch.tensor(sbar, dtype=F64)).exp()
            for i, j in itertools.product(range(d), range(n)):
                rows = x[:, i] == n
                hat = x[rows].clone()
                hat[:, i] = j
                ratio = law[hat.unbind(-1)] / law[x[rows].unbind(-1)]
                gap = (ratio / a - log_c[rows, i, j].exp()).abs().max()
                worst = max(worst, float(gap))
    yield "theorem-1", worst


def four_losses(generator: torch.Generator) -> Iterator[Item]:
    """Theorem 2 on the toy model and on a random joint distribution."""
    ours = lambda_dce(toy_model, TOY_X0, 2)
    yield "losses-toy", max(abs(ours - 2.2936551399), abs(ao(toy_model, TOY_X0, 2) - 2.2936551399))
    x, log_c, m = _all_masks(toy_model, TOY_X0, 2)
    total, size = radd.nll(log_c, x, m), m.sum(-1)
    sums = [float(total[size == k].mean()) for k in (1, 2, 3)]
    yield "losses-sums", _worst(sums, [0.8628637209, 1.5382559210, 1.9849903755])
    orders = torch.tensor(list(itertools.permutations(range(3))))
    each = radd.nll_in_order(toy_model, TOY_X0.expand(6, 3), orders, mask=2)
    hand = [2.267434, 2.521491, 2.170557, 2.096891, 2.452573, 2.252985]
    yield "losses-orders", _worst(each.tolist(), hand)
    worst = abs(float(each.mean()) - ours)
    p0 = random_joint(3, 3, generator)
    c_theta, infinite = exact_conditionals(p0), absorbing.LogLinear(eps=0.0)
    for x0 in states(3, 3)[::5]:
        reference = ao(c_theta, x0[None], 3)
        worst = max(
            worst,
            abs(lambda_dce(c_theta, x0[None], 3) - reference),
            abs(dse(c_theta, x0[None], 3, infinite) - reference),
            abs(-float(p0[tuple(x0)].log()) - reference),
        )
    yield "losses-equal", worst
    # t-DCE meets the others only in the limit: its distance is d H(lambda_T), see finite_noise.
    yield (
        "losses-t-dce",
        max(
            abs(
                t_dce(toy_model, TOY_X0, 2, absorbing.LogLinear(eps))
                + 3 * binary_entropy(eps)
                - dse(toy_model, TOY_X0, 2, absorbing.LogLinear(eps))
            )
            for eps in (1e-1, 1e-3, 1e-6)
        ),
    )


def finite_noise() -> Iterator[Item]:
    """What a total noise that stays finite does to DSE and t-DCE."""
    table = {0.1: (2.0919458961, 1.1166969759), 1e-3: (2.2916698272, 2.2679480618)}
    got, expected = [], []
    for eps, (score_entropy, cross_entropy) in table.items():
        noise = absorbing.LogLinear(eps)
        got += [dse(toy_model, TOY_X0, 2, noise), t_dce(toy_model, TOY_X0, 2, noise)]
        expected += [score_entropy, cross_entropy]
        got.append(got[-2] - got[-1])
        expected.append(3 * binary_entropy(1 - eps))
    yield "finite-noise", _worst(got, expected)


def random_network(generator: torch.Generator, config: Config) -> Transformer:
    """A float64 transformer with no weight at zero."""
    network = Transformer(config).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=F64))
    return network


def gradients(generator: torch.Generator) -> Iterator[Item]:
    """DSE and t-DCE differ by a term free of theta: same gradient, draw by draw."""
    network = random_network(generator, Config(vocab=7, d=16, blocks=1, heads=2))
    c_theta, noise = radd.conditionals(network), absorbing.LogLinear()
    x0 = torch.randint(7, (8, 12), generator=generator)
    u = absorbing.uniforms(8, generator=generator, dtype=F64)
    loss, gradient = {}, {}
    for name in ("dse", "t-dce"):
        draw = torch.Generator().manual_seed(1)
        if name == "dse":
            scores = radd.scores_of(c_theta)
            each = radd.dse(scores, x0, u, noise=noise, mask=7, generator=draw)
        else:
            each = radd.t_dce(c_theta, x0, u, noise=noise, mask=7, generator=draw)
        loss[name] = each.detach()
        parts = torch.autograd.grad(each.mean(), list(network.parameters()))
        gradient[name] = torch.cat([g.flatten() for g in parts])
    gap = (gradient["dse"] - gradient["t-dce"]).abs().max() / gradient["dse"].norm()
    yield "gradient", float(gap)
    t = radd.T_MIN + (1 - radd.T_MIN) * u
    m = absorbing.mask_independently(x0, noise.masked(t), generator=draw.manual_seed(1))
    log_a = absorbing.log_odds(noise.total(t))
    known = noise.rate(t) * m.sum(-1) * log_a.exp() * log_a
    yield "gradient-offset", float((loss["dse"] - loss["t-dce"] - known).abs().max())


NFE_TABLE = {
    # schedule, discretisation, length: {steps: E-NFE}; on the grid that ends at 1e-5
    ("log-linear", "tweedie", 1024): {
        32: 32.00,
        64: 64.00,
        128: 127.96,
        256: 251.35,
        512: 442.84,
        1024: 647.48,
        2048: 805.98,
        4096: 906.13,
        8192: 962.64,
    },
    ("log-linear", "tweedie", 8): {8: 5.2511, 64: 7.5759},
    ("log-linear", "tweedie", 16): {16: 10.3028},
    ("log-linear", "tweedie", 64): {16: 15.7428, 64: 40.6409, 256: 56.725},
    ("cosine", "tweedie", 1024): {
        32: 31.68,
        64: 62.40,
        128: 121.49,
        256: 229.24,
        512: 398.83,
        1024: 598.05,
        2048: 767.89,
        4096: 882.32,
    },
    ("cosine", "euler", 1024): {
        32: 30.93,
        64: 61.88,
        128: 121.06,
        256: 228.92,
        512: 398.62,
        1024: 597.96,
        2048: 767.85,
        4096: 882.31,
    },
    ("geometric", "tweedie", 1024): {
        32: 22.91,
        64: 41.46,
        128: 74.35,
        256: 131.17,
        512: 225.62,
        1024: 370.40,
        2048: 553.70,
        4096: 727.71,
    },
}
PSI = {"tweedie": absorbing.psi_tweedie, "euler": absorbing.psi_euler}


def nfe_closed_form() -> Iterator[Item]:
    """The closed form of the E-NFE against its tabulated values; errors are relative."""
    for (schedule, rule, length), row in NFE_TABLE.items():
        noise = absorbing.noise_by_name(schedule)
        worst = 0.0
        for n, expected in row.items():
            steps = absorbing.step_probabilities(noise, n, psi=PSI[rule])
            got = absorbing.expected_nfe(absorbing.reveal_probabilities(steps), length)
            worst = max(worst, abs(got / expected - 1))
        yield f"nfe-{schedule}-{rule}-{length}", worst
    gaps = []
    for n, length in ((16, 64), (1024, 1024), (4096, 1024)):
        plain = n * (1 - (1 - 1 / n) ** length)
        steps = absorbing.step_probabilities(absorbing.LogLinear(), n, t_end=0.0)
        general = absorbing.expected_nfe(absorbing.reveal_probabilities(steps), length)
        gaps.append(abs(general - plain))
    yield "nfe-special-case", max(gaps)


def batch_cache() -> Iterator[Item]:
    """A cache that serves a whole batch of 16 or nothing hardly saves: MDLM's, n = 4096."""
    steps = absorbing.step_probabilities(absorbing.LogLinear(), 4096)
    nfe = absorbing.expected_nfe(absorbing.reveal_probabilities(steps), 16 * 1024)
    yield "nfe-batch-cache", abs(nfe / 4021 - 1)


def simulated_nfe(generator: torch.Generator) -> Iterator[Item]:
    """Changed steps and network calls of the sampler, in standard errors from the closed forms."""
    n_tokens, length, sequences = 5, 64, 200
    for n in (16, 64, 256):
        steps = absorbing.step_probabilities(absorbing.LogLinear(), n)
        reveal = absorbing.reveal_probabilities(steps)
        out = radd.tau_leaping(
            _uniform(n_tokens),
            torch.full((sequences, length), n_tokens),
            steps,
            mask=n_tokens,
            generator=generator,
        )
        error = max(float(out.changes.double().std()), 1e-3) / math.sqrt(sequences)
        expected = absorbing.expected_nfe(reveal, length)
        yield f"nfe-simulated-{n}", abs(float(out.changes.double().mean()) - expected) / error
        calls = absorbing.expected_calls(reveal, length)
        yield f"calls-simulated-{n}", abs(float(out.calls.double().mean()) - calls) / error


def samplers_agree(generator: torch.Generator) -> Iterator[Item]:
    """Tweedie and Euler coincide under log-linear noise, and SEDD's predictors are their psi."""
    noise: absorbing.Noise = absorbing.LogLinear()
    t, s = torch.tensor(0.7, dtype=F64), torch.tensor(0.6, dtype=F64)
    tweedie, euler = (float(f(noise, t, s)) for f in PSI.values())
    yield "psi-value", max(abs(tweedie - 1 / 7), abs(euler - 1 / 7))
    grid = absorbing.grid(1000)
    both = [f(noise, grid[:-1], grid[1:]) for f in PSI.values()]
    yield "psi-equal", float((both[0] - both[1]).abs().max())
    c = torch.softmax(torch.randn(11, generator=generator, dtype=F64), dim=0)
    worst = 0.0
    for schedule in ("log-linear", "cosine", "geometric"):
        noise = absorbing.noise_by_name(schedule)
        score = absorbing.log_odds(noise.total(t)).exp() * c
        for rule, (p, stay) in {
            "tweedie": radd.tweedie_transition(score, noise.total(t), noise.total(s)),
            "euler": radd.euler_transition(score, noise.rate(t), t - s),
        }.items():
            psi = PSI[rule](noise, t, s)
            worst = max(worst, float((p - psi * c).abs().max()), float((stay - 1 + psi).abs()))
    yield "psi-sedd", worst


def loss_weight() -> Iterator[Item]:
    """Under log-linear noise the weight sigma a is 1 / t, whatever eps."""
    t = torch.linspace(1e-3, 1 - 1e-3, 999, dtype=F64)
    worst = 0.0
    for eps in (1e-1, 1e-3, 1e-5):
        noise = absorbing.LogLinear(eps)
        weight = noise.rate(t) * absorbing.log_odds(noise.total(t)).exp()
        worst = max(worst, float((weight * t - 1).abs().max()))
    yield "loss-weight", worst


def caching(generator: torch.Generator) -> Iterator[Item]:
    """With one random stream, cached and uncached sampling give the same tokens."""
    network = random_network(generator, Config(vocab=7, d=16, blocks=1, heads=2))
    c_theta, differ, saved = radd.conditionals(network), 0, 0
    for rule in PSI.values():
        steps = absorbing.step_probabilities(absorbing.Cosine(), 48, psi=rule)
        start = torch.full((24, 16), 7)
        start[:12, :5] = 3
        runs = [
            radd.tau_leaping(
                c_theta,
                start,
                steps,
                mask=7,
                generator=torch.Generator().manual_seed(5),
                cache=cache,
            )
            for cache in (True, False)
        ]
        differ += int((runs[0].x != runs[1].x).sum())
        saved += int((runs[1].calls - runs[0].calls).sum())
    yield "cache-tokens", float(differ)
    yield "cache-saves-nothing", float(saved <= 0)


def sample_laws(generator: torch.Generator, sequences: int = 200_000) -> Iterator[Item]:
    """Laws of samples of two tokens under exact conditionals, as total variation distances.

    Tau-leaping in n steps has the law (1 - 1/n) p0 + (1/n) p1 x p2; the ordered sampler has p0.
    """
    c_theta = exact_conditionals(TOY_JOINT)
    start = torch.full((sequences, 2), 2)

    def distance(x: Tensor, law: Tensor) -> float:
        count = torch.bincount(2 * x[:, 0] + x[:, 1], minlength=4).double()
        return float((count / sequences - law.reshape(-1)).abs().sum() / 2)

    independent = TOY_JOINT.sum(1)[:, None] * TOY_JOINT.sum(0)
    hand = torch.tensor([0.375, 0.125, 0.225, 0.275], dtype=F64)
    n = 4
    law = (1 - 1 / n) * TOY_JOINT + independent / n
    yield "law-formula", float((law.reshape(-1) - hand).abs().max())
    yield "law-bias", abs(float((law - TOY_JOINT).abs().sum() / 2) - 0.2 / n)
    steps = absorbing.step_probabilities(absorbing.LogLinear(), n, t_end=0.0)
    for name, two_stage in (("joint", False), ("two-stage", True)):
        out = radd.tau_leaping(
            c_theta, start, steps, mask=2, generator=generator, two_stage=two_stage
        )
        yield f"law-tau-{name}", distance(out.x, law)
    for order in ((0, 1), (1, 0)):
        out = radd.any_order(c_theta, start, torch.tensor(order), mask=2, generator=generator)
        yield f"law-order-{order[0]}{order[1]}", distance(out.x, TOY_JOINT)
    grid = absorbing.grid(n, 0.0)
    for predictor in ("analytic", "euler"):
        out = radd.sedd(
            radd.scores_of(c_theta),
            start,
            grid[:-1],
            noise=absorbing.LogLinear(),
            mask=2,
            generator=generator,
            predictor=predictor,
        )
        yield f"law-sedd-{predictor}", distance(out.x, law)


def draw_law(p: Tensor, psi: float, bits: int | None) -> Tensor:
    """Chance that a masked position takes each token in one step, for p (N,), sum 1.

    bits: uniform numbers are multiples of 2^-bits, as torch draws them (24 in float32), None for
    the ideal, psi p. An exponential variable is then about a multiple of 2^-bits too while it is
    small. Token j, with weight w = psi p_j out of 1, wins with E_j = k 2^-bits if no rival's time
    is below E_j / w, which together with the chance of E_j is 2^-bits exp(-k 2^-bits / w); the sum
    over k >= 1 is below. The rivals' times are taken as continuous.
    """
    w = psi * p
    if bits is None:
        return w
    return 2.0**-bits / torch.expm1(2.0**-bits / w)


def unmasked_law(p: Tensor, steps: Tensor, bits: int | None) -> Tensor:
    """Law of the token that one position ends with after all steps psi (n,), if p never changes."""
    law, masked = torch.zeros_like(p), 1.0
    for psi in steps.tolist():
        step = draw_law(p, psi, bits) if psi < 1 else p
        law += masked * step
        masked *= 1 - float(step.sum())
    return law


def all_checks(seed: int = 0, sequences: int = 200_000) -> Iterator[Item]:
    """Every exact check; the random ones draw from a stream of the seed."""
    generator = torch.Generator().manual_seed(seed)
    yield from theorem_1(generator)
    yield from four_losses(generator)
    yield from finite_noise()
    yield from gradients(generator)
    yield from nfe_closed_form()
    yield from batch_cache()
    yield from simulated_nfe(generator)
    yield from samplers_agree(generator)
    yield from loss_weight()
    yield from caching(generator)
    yield from sample_laws(generator, sequences)


def measure(job: Job) -> None:
    """Every identity of this module."""
    for item, error in all_checks(job.seed, job.params.sequences):
        job.measure("error", error, item=item)


def _uniform(n: int) -> radd.Conditionals:
    return lambda x: torch.full((*x.shape, n), -math.log(n), dtype=F64)


def _worst(got: list[float], expected: list[float]) -> float:
    return max(abs(g - e) for g, e in zip(got, expected, strict=True))
