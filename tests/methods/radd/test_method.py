"""Losses and samplers of RADD: properties that need no enumeration."""

import math

import pytest
import torch

from methods.radd import exact
from methods.radd import method as radd
from repro.diffusion import absorbing
from repro.nets.transformer import Config, Transformer

F64 = torch.float64
N, D = 7, 10
NOISE = absorbing.LogLinear()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network():
    return exact.random_network(rng(), Config(vocab=N, d=16, blocks=1, heads=2))


@pytest.fixture(scope="module")
def c_theta(network):
    return radd.conditionals(network)


@pytest.fixture(scope="module")
def timed():
    return exact.random_network(rng(1), Config(vocab=N, d=16, blocks=1, heads=2, cond=4))


def x0(rows=6, seed=2):
    return torch.randint(N, (rows, D), generator=rng(seed))


# Parameterisation


def test_conditionals_are_distributions_over_real_tokens(network, c_theta):
    x = radd.corrupt(x0(), torch.rand(6, D, generator=rng()) < 0.5, N)
    log_c = c_theta(x)
    assert log_c.shape == (6, D, N)
    torch.testing.assert_close(log_c.exp().sum(-1), torch.ones(6, D, dtype=F64))
    with torch.no_grad():
        keep = network.output_layer.linear.bias[-1].clone()
        network.output_layer.linear.bias[-1] = 100.0  # the mask channel takes part in nothing
        torch.testing.assert_close(c_theta(x), log_c)
        network.output_layer.linear.bias[-1] = keep


def test_scaling_subtracts_the_size_of_the_score(timed):
    x, sbar = x0(), torch.linspace(0.1, 5, 6, dtype=F64)
    plain = radd.scores(timed, scaled=False)(x, sbar)
    scaled = radd.scores(timed)(x, sbar)
    offset = torch.log(torch.exp(sbar) - 1) + math.log(N)
    torch.testing.assert_close(plain - scaled, offset[:, None, None].expand_as(plain))


def test_untrained_scaled_sedd_is_an_untrained_radd():
    """With its head at zero the scaled score is a(t) / N: Theorem 1 with uniform conditionals."""
    torch.manual_seed(0)
    sedd = Transformer(Config(vocab=N, d=16, blocks=1, heads=2, cond=4))
    plain = Transformer(Config(vocab=N, d=16, blocks=1, heads=2))
    x, sbar = x0(), torch.linspace(0.1, 5, 6)
    expected = radd.scores_of(radd.conditionals(plain))(x, sbar)
    torch.testing.assert_close(radd.scores(sedd)(x, sbar), expected)


# Losses


def losses(c_theta):
    s_theta = radd.scores_of(c_theta)
    return {
        "dse": lambda x, u, g: radd.dse(s_theta, x, u, noise=NOISE, mask=N, generator=g),
        "t-dce": lambda x, u, g: radd.t_dce(c_theta, x, u, noise=NOISE, mask=N, generator=g),
        "lambda-dce": lambda x, u, g: radd.lambda_dce(c_theta, x, u, mask=N, generator=g),
        "ao": lambda x, u, g: radd.ao(c_theta, x, u, mask=N, generator=g),
    }


def test_every_loss_of_a_uniform_model_is_its_entropy():
    """c = 1/N: the loss is d log N whatever the draw, up to the cut-offs of time."""
    uniform = exact._uniform(N)
    x = x0(4000)
    for name, loss in losses(uniform).items():
        u = absorbing.uniforms(len(x), generator=rng(), dtype=F64)
        value = float(loss(x, u, rng(3)).mean())
        # AO has no variance at all here; the others vary with the number of masks
        tolerance = 1e-12 if name == "ao" else 0.05
        assert value == pytest.approx(D * math.log(N), rel=tolerance), name


def test_all_losses_agree_on_average(c_theta):
    """Theorem 2 for a network, by Monte Carlo against the exact any-order likelihood."""
    x = x0(1).expand(6000, D)
    orders = torch.rand(400, D, generator=rng()).argsort(1)
    each = radd.nll_in_order(c_theta, x[:400], orders, mask=N).detach()
    reference, spread = float(each.mean()), float(each.std()) / 20
    for name, loss in losses(c_theta).items():
        u = absorbing.uniforms(len(x), generator=rng(4), dtype=F64)
        with torch.no_grad():
            value = loss(x, u, rng(5))
        error = math.hypot(float(value.std()) / math.sqrt(len(x)), spread)
        slack = 0.01 * reference if name == "t-dce" else 0.002 * reference
        assert abs(float(value.mean()) - reference) < 4 * error + slack, name


def test_no_masks_cost_nothing_and_stay_in_the_mean(c_theta):
    u = torch.zeros(6, dtype=F64)
    assert (radd.lambda_dce(c_theta, x0(), u, mask=N, generator=rng()) == 0).all()
    u = torch.full((6,), 1.0)
    value = radd.ao(c_theta, x0(), u, mask=N, generator=rng())
    all_masked = c_theta(torch.full((6, D), N))
    torch.testing.assert_close(value, radd.nll(all_masked, x0(), torch.ones(6, D)))


def test_unmasked_positions_do_not_count(c_theta):
    x = x0()
    m = torch.zeros(6, D, dtype=torch.bool)
    m[:, 3] = True
    log_c = c_theta(radd.corrupt(x, m, N))
    spoiled = log_c.clone()
    spoiled[:, 4:] = -50.0
    t = torch.full((6,), 0.4, dtype=F64)
    for value, other in (
        (radd.nll(log_c, x, m), radd.nll(spoiled, x, m)),
        (radd.dse_integrand(log_c, x, m, t, NOISE), radd.dse_integrand(spoiled, x, m, t, NOISE)),
    ):
        torch.testing.assert_close(value, other)


def test_score_entropy_is_least_at_the_true_score():
    """DSE of one masked token over all its possible values is minimal where s = a p."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    t = torch.full((3,), 0.6, dtype=F64)
    x, m = torch.arange(3)[:, None], torch.ones(3, 1, dtype=torch.bool)
    log_a = absorbing.log_odds(NOISE.total(t))[0]

    def loss(log_s):
        return (p * radd.dse_integrand(log_s.expand(3, 1, 3), x, m, t, NOISE)).sum()

    best = (p.log() + log_a).requires_grad_()
    (slope,) = torch.autograd.grad(loss(best), best)
    assert float(slope.abs().max()) < 1e-12
    for i in range(3):
        for step in (-0.1, 0.1):
            moved = best.detach().clone()
            moved[i] += step
            assert loss(moved) > loss(best)
    entropy = -(p * p.log()).sum() * log_a.exp() * NOISE.rate(t)[0]
    torch.testing.assert_close(loss(best), entropy)


def test_likelihood_along_an_order_by_hand():
    p = torch.tensor([[0.4, 0.1], [0.2, 0.3]], dtype=F64)
    c_theta = exact.exact_conditionals(p)
    x = torch.tensor([[1, 0]])
    for order in ((0, 1), (1, 0)):
        value = radd.nll_in_order(c_theta, x, torch.tensor(order), mask=2)
        assert float(value) == pytest.approx(-math.log(0.2))


# Sampling


def steps(n, psi=absorbing.psi_tweedie, noise=NOISE):
    return absorbing.step_probabilities(noise, n, psi=psi)


def test_samples_hold_no_mask_and_keep_the_prompt(c_theta, timed):
    x = torch.full((5, D), N)
    x[:, [0, 4]] = torch.tensor([2, 3])
    samplers = {
        "joint": radd.tau_leaping(c_theta, x, steps(6), mask=N, generator=rng()),
        "two-stage": radd.tau_leaping(
            c_theta, x, steps(6), mask=N, generator=rng(), two_stage=True
        ),
        "order": radd.any_order(
            c_theta, x, torch.tensor([9, 8, 7, 6, 5, 3, 2, 1]), mask=N, generator=rng()
        ),
        "analytic": radd.sedd(
            radd.scores(timed), x, absorbing.grid(6), noise=NOISE, mask=N, generator=rng()
        ),
        "euler": radd.sedd(
            radd.scores(timed),
            x,
            absorbing.grid(6),
            noise=NOISE,
            mask=N,
            generator=rng(),
            predictor="euler",
        ),
    }
    for name, out in samplers.items():
        assert ((out.x >= 0) & (out.x < N)).all(), name
        assert (out.x[:, 0] == 2).all() and (out.x[:, 4] == 3).all(), name
    assert (x[:, 1] == N).all()  # the start is left as it was
    assert (samplers["order"].calls == 8).all()
    assert (samplers["analytic"].calls == 7).all()


def test_prompt_lowers_the_number_of_evaluations(c_theta):
    """E-NFE counts the tokens that are generated."""
    n, rows = 40, 400
    x = torch.full((rows, D), N)
    x[:, :6] = 1
    out = radd.tau_leaping(c_theta, x, steps(n), mask=N, generator=rng())
    expected = absorbing.expected_nfe(absorbing.reveal_probabilities(steps(n)), D - 6)
    error = float(out.changes.double().std()) / math.sqrt(rows)
    assert abs(float(out.changes.double().mean()) - expected) < 4 * error


def test_calls_and_changes_of_each_sequence(network):
    """The network sees exactly the rows that changed, and the counters say so."""
    seen = []

    def counting(x):
        seen.append(len(x))
        return radd.conditionals(network)(x)

    x = torch.full((6, D), N)
    out = radd.tau_leaping(counting, x, steps(60), mask=N, generator=rng())
    assert seen[0] == 6 and sum(seen) == int(out.calls.sum())
    assert max(seen[1:]) < 6  # sub-batches
    assert (out.calls < 60).all() and (out.changes <= D).all()
    assert ((out.calls - out.changes == 1) | (out.calls == out.changes)).all()
    everything = radd.tau_leaping(counting, x, steps(60), mask=N, generator=rng(), cache=False)
    assert (everything.calls == 60).all()
    assert torch.equal(everything.x, out.x) and torch.equal(everything.changes, out.changes)


def test_one_step_samples_independently_from_the_first_prediction():
    p = exact.TOY_JOINT
    out = radd.tau_leaping(
        exact.exact_conditionals(p), torch.full((40_000, 2), 2), steps(1), mask=2, generator=rng()
    )
    count = torch.bincount(2 * out.x[:, 0] + out.x[:, 1], minlength=4) / 40_000
    product = (p.sum(1)[:, None] * p.sum(0)).flatten()
    torch.testing.assert_close(count.double(), product, rtol=0, atol=0.012)
    assert (out.calls == 1).all() and (out.changes == 1).all()


def test_categorical_draws_follow_the_weights():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=F64) * 5
    for dtype in (torch.float32, F64):
        j = radd.categorical(p.expand(40_000, 4), generator=rng(), dtype=dtype)
        share = torch.bincount(j, minlength=4) / 40_000
        torch.testing.assert_close(share.double(), p / 5, rtol=0, atol=0.011)
        assert share[1] == 0


def test_truncation_keeps_the_largest():
    log_c = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=F64).log()[torch.tensor([2, 0, 3, 1])]

    def kept(**cut):
        return (radd.truncate(log_c, **cut) > -math.inf).tolist()

    assert kept() == [True] * 4
    assert kept(top_k=1) == [False, True, False, False]
    assert kept(top_k=3) == [True, True, False, True]
    assert kept(top_k=99) == [True] * 4
    assert kept(top_p=0.5) == [False, True, False, False]
    assert kept(top_p=0.6) == [False, True, False, True]
    assert kept(top_p=0.81) == [True, True, False, True]
    assert kept(top_p=1.0) == [True] * 4


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}])
def test_truncated_samples_are_the_most_probable_and_never_a_mask(c_theta, cut):
    x = torch.full((8, D), N)
    out = radd.tau_leaping(c_theta, x, steps(1), mask=N, generator=rng(), **cut)
    assert torch.equal(out.x, c_theta(x).argmax(-1))
    order = radd.any_order(c_theta, x, torch.arange(D), mask=N, generator=rng(), **cut)
    again = radd.any_order(c_theta, x, torch.arange(D), mask=N, generator=rng(9), **cut)
    assert torch.equal(order.x, again.x) and (order.x < N).all()


def test_sedd_with_exact_scores_and_radd_have_one_law():
    """With s = a c the analytic sampler is tau-leaping: same evaluations that change something."""
    c_theta, n = exact.exact_conditionals(exact.TOY_JOINT), 12
    x = torch.full((20_000, 2), 2)
    one = radd.tau_leaping(c_theta, x, steps(n), mask=2, generator=rng())
    two = radd.sedd(
        radd.scores_of(c_theta), x, absorbing.grid(n), noise=NOISE, mask=2, generator=rng(1)
    )
    shares = [
        torch.bincount(2 * out.x[:, 0] + out.x[:, 1], minlength=4) / 20_000 for out in (one, two)
    ]
    torch.testing.assert_close(shares[0], shares[1], rtol=0, atol=0.02)
    gap = float(one.changes.double().mean() - two.changes.double().mean())
    assert abs(gap) < 0.02
    assert (two.calls == n + 1).all()


def test_unknown_predictor_is_refused(timed):
    with pytest.raises(ValueError, match="analytic or euler"):
        radd.sedd(
            radd.scores(timed),
            x0(),
            absorbing.grid(2),
            noise=NOISE,
            mask=N,
            generator=rng(),
            predictor="tweedie",
        )
