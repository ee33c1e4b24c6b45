"""The paper's identities, and that the code which checks them can fail."""

import itertools
import math

import pytest
import torch

from methods.radd import exact
from methods.radd import method as radd
from repro.diffusion import absorbing

F64 = torch.float64

# item: largest error allowed. Values that were given to m decimals may differ by half of the last;
# distances of laws are of 200,000 samples, whose own noise is about 0.0015; z values in standard
# errors.
TOLERANCE = {
    "theorem-1-ln2": 1e-12,
    "theorem-1-ln4": 1e-12,
    "theorem-1": 1e-12,
    "losses-toy": 1e-9,
    "losses-sums": 1e-9,
    "losses-orders": 1e-6,
    "losses-equal": 1e-9,
    "losses-t-dce": 1e-9,
    "finite-noise": 1e-9,
    "gradient": 1e-12,
    "gradient-offset": 1e-10,
    "nfe-log-linear-tweedie-1024": 2e-4,
    "nfe-log-linear-tweedie-8": 2e-5,
    "nfe-log-linear-tweedie-16": 2e-5,
    "nfe-log-linear-tweedie-64": 2e-5,
    "nfe-cosine-tweedie-1024": 2e-4,
    "nfe-cosine-euler-1024": 2e-4,
    "nfe-geometric-tweedie-1024": 2.5e-4,
    "nfe-special-case": 1e-9,
    "nfe-batch-cache": 2e-4,
    "psi-value": 1e-14,
    "psi-equal": 1e-12,
    "psi-sedd": 1e-12,
    "loss-weight": 1e-12,
    "cache-tokens": 0,
    "cache-saves-nothing": 0,
    "law-formula": 1e-12,
    "law-bias": 1e-12,
    **{f"nfe-simulated-{n}": 3 for n in (16, 64, 256)},
    **{f"calls-simulated-{n}": 3 for n in (16, 64, 256)},
    **{
        f"law-{name}": 0.006
        for name in (
            "tau-joint",
            "tau-two-stage",
            "order-01",
            "order-10",
            "sedd-analytic",
            "sedd-euler",
        )
    },
}


@pytest.fixture(scope="module")
def errors():
    return dict(exact.all_checks(seed=0))


def test_every_check_is_listed(errors):
    assert set(errors) == set(TOLERANCE)


@pytest.mark.parametrize("item", TOLERANCE)
def test_identity(errors, item):
    assert errors[item] <= TOLERANCE[item]


# The checks notice mistakes


def test_theorem_check_notices_a_wrong_scalar(monkeypatch):
    monkeypatch.setattr(absorbing, "log_odds", lambda s: -s)
    assert dict(exact.theorem_1(torch.Generator().manual_seed(0)))["theorem-1"] > 0.01


def test_loss_checks_notice_a_wrong_weight(monkeypatch):
    right = radd.lambda_dce_integrand
    monkeypatch.setattr(
        radd, "lambda_dce_integrand", lambda c, x, m, lam: right(c, x, m, lam.clamp(min=0.2))
    )
    assert dict(exact.four_losses(torch.Generator().manual_seed(0)))["losses-toy"] > 0.01
    monkeypatch.undo()
    right_nll = radd.nll
    monkeypatch.setattr(radd, "ao_integrand", lambda c, x, m: right_nll(c, x, m))
    assert dict(exact.four_losses(torch.Generator().manual_seed(0)))["losses-toy"] > 0.01


def test_simulation_notices_a_cache_that_counts_every_step(monkeypatch):
    right = radd.tau_leaping

    def careless(*args, **kwargs):
        out = right(*args, **kwargs)
        return out._replace(changes=out.changes + 1)

    monkeypatch.setattr(radd, "tau_leaping", careless)
    found = dict(exact.simulated_nfe(torch.Generator().manual_seed(0)))
    assert found["nfe-simulated-256"] > 3


def test_caching_check_notices_a_stale_cache(monkeypatch):
    """A cache that forgets what changed must be seen."""

    def stale(c_theta, x, psi, *, cache=True, **kwargs):
        if cache:
            first = c_theta(x).clone()
            return right_tau(lambda y: first[: len(y)].clone(), x, psi, cache=True, **kwargs)
        return right_tau(c_theta, x, psi, cache=False, **kwargs)

    right_tau = radd.tau_leaping
    monkeypatch.setattr(radd, "tau_leaping", stale)
    assert dict(exact.caching(torch.Generator().manual_seed(0)))["cache-tokens"] > 0


# Independent derivations beside the module's own


def test_score_ratio_by_hand():
    """d = 2, tokens 0 and 1: x = (M, 1), hat x = (0, 1), at sbar = ln 2 and ln 4."""
    p = {(0, 0): 0.4, (0, 1): 0.1, (1, 0): 0.2, (1, 1): 0.3}
    for sbar, numerator, denominator in ((math.log(2), 0.025, 0.1), (math.log(4), 0.00625, 0.075)):
        keep = math.exp(-sbar)
        assert keep**2 * p[0, 1] == pytest.approx(numerator)
        assert (1 - keep) * keep * (p[0, 1] + p[1, 1]) == pytest.approx(denominator)
        law = exact.forward_law(exact.TOY_JOINT, 1 - keep)
        assert float(law[0, 1]) == pytest.approx(numerator)
        assert float(law[2, 1]) == pytest.approx(denominator)
        assert float(law.sum()) == pytest.approx(1)


def test_any_order_loss_by_a_walk_over_orders():
    """The chain rule along every order, in plain Python."""
    x0, losses = (1, 0, 1), []
    for order in itertools.permutations(range(3)):
        known, total = {}, 0.0
        for i in order:
            ones = sum(v == 1 for v in known.values())
            logit = 0.3 * i + 0.5 * ones - 0.4 * (len(known) - ones)
            p_one = 1 / (1 + math.exp(-logit))
            total -= math.log(p_one if x0[i] else 1 - p_one)
            known[i] = x0[i]
        losses.append(total)
    orders = torch.tensor(list(itertools.permutations(range(3))))
    each = radd.nll_in_order(exact.toy_model, exact.TOY_X0.expand(6, 3), orders, mask=2)
    assert each.tolist() == pytest.approx(losses, abs=1e-12)
    mean = sum(losses) / 6
    assert mean == pytest.approx(2.2936551399, abs=1e-9)
    assert exact.ao(exact.toy_model, exact.TOY_X0, 2) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("predictor", ["analytic", "euler"])
def test_sedd_transitions_are_those_of_the_whole_rate_matrix(predictor):
    """Against matrix exponentials of the absorbing rate matrix over all N + 1 states."""
    n, sbar_t, sbar_s, rate, dt = 4, 1.3, 0.9, 2.0, 0.05
    g = torch.Generator().manual_seed(0)
    score = torch.rand(n + 1, generator=g, dtype=F64)
    score[n] = 1.0  # p(M) / p(M)
    q = torch.zeros(n + 1, n + 1, dtype=F64)  # column convention: dp/dt = Q p
    q[n] = 1.0
    q -= torch.diag(torch.cat([torch.ones(n, dtype=F64), torch.zeros(1, dtype=F64)]))
    q[n, n] = 0.0
    if predictor == "analytic":
        d = sbar_t - sbar_s
        staggered = torch.matrix_exp(-d * q) @ score
        row = torch.matrix_exp(d * q)[n]
        whole = staggered * row
        p, stay = radd.tweedie_transition(score[:n], torch.tensor(sbar_t), torch.tensor(sbar_s))
    else:
        back = q[n] * score
        back[n] = 0.0
        whole = dt * rate * back
        whole[n] = 1 - whole.sum()
        p, stay = radd.euler_transition(score[:n], torch.tensor(rate), torch.tensor(dt))
    torch.testing.assert_close(torch.cat([p, stay[None]]), whole, rtol=1e-6, atol=1e-7)


def test_draw_law_of_coarse_uniform_numbers():
    """The formula for truncated draws against draws on a grid of 2^-12, and its fine limit."""
    bits, psi, draws = 12, 0.05, 100_000
    p = torch.tensor([0.008] * 100 + [0.002] * 100, dtype=F64)
    g = torch.Generator().manual_seed(0)
    weights = torch.cat([psi * p, torch.tensor([1 - psi], dtype=F64)])
    u = torch.randint(0, 2**bits, (draws, 201), generator=g).float() / 2**bits
    winner = (weights / -torch.log(u)).argmax(dim=1)
    law = exact.draw_law(p, psi, bits)
    for group in (slice(0, 100), slice(100, 200)):
        found = ((winner >= group.start) & (winner < group.stop)).double().mean()
        expected = law[group].sum()
        assert abs(float(found / expected - 1)) < 4 / math.sqrt(draws * float(expected)) + 0.01
    assert float(law[150] / (psi * p[150])) < 0.3 < 0.7 < float(law[50] / (psi * p[50]))
    torch.testing.assert_close(exact.draw_law(p, psi, 53), psi * p, rtol=1e-6, atol=0)
    torch.testing.assert_close(exact.draw_law(p, psi, None), psi * p)


def test_law_after_all_steps_is_the_conditional_unless_draws_are_coarse():
    p = torch.tensor([0.6, 0.3, 0.1], dtype=F64)
    steps = absorbing.step_probabilities(absorbing.LogLinear(), 50)
    torch.testing.assert_close(exact.unmasked_law(p, steps, None), p)
    coarse = exact.unmasked_law(p, steps, 8)
    assert float(coarse.sum()) == pytest.approx(1) and float(coarse[2]) < 0.08


def test_float32_uniform_numbers_are_multiples_of_two_to_the_minus_24():
    u = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)).double() * 2**24
    assert torch.equal(u, u.round())
    v = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=F64) * 2**24
    assert not torch.equal(v, v.round())
