"""Schedules, mixing, flips, targets and distances; the identities with their numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.slimflow import exact
from methods.slimflow import method as slim
from repro.diffusion import flow
from repro.errors import ReproError
from repro.suite import zoo

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# Schedules and mixing


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(["linear", "cosine", "exponential"]),
    k=st.integers(0, 10**6),
    step=st.integers(1, 10**5),
    K=st.floats(1, 1e6),
)
def test_schedules_start_at_one_and_fall(name, k, step, K):
    beta = slim.schedule(name)
    assert beta(0, K) == 1
    assert 0 <= beta(k + step, K) <= beta(k, K) <= 1
    if name != "exponential":
        assert beta(math.ceil(K), K) == pytest.approx(0, abs=1e-15)


def test_constant_schedules_and_unknown_ones():
    assert {slim.schedule("reflow")(k, 10) for k in (0, 5, 50)} == {0.0}
    assert {slim.schedule("independent")(k, 10) for k in (0, 5, 50)} == {1.0}
    with pytest.raises(ReproError, match="no schedule `quadratic`; choose one of linear, cosine"):
        slim.schedule("quadratic")


@settings(max_examples=30, deadline=None)
@given(beta=st.floats(0, 1))
def test_mixing_keeps_the_norm_of_orthogonal_noises(beta):
    z, fresh = torch.eye(2, dtype=F64)
    mixed = slim.anneal(z, fresh, beta)
    assert float(mixed.square().sum()) == pytest.approx(1)
    assert float(mixed[0]) == pytest.approx(math.sqrt(1 - beta**2))


def test_annealing_moves_from_the_first_flow_to_reflow():
    z, x, fresh = (normal(32, 1, 4, 4, seed=s) for s in range(3))
    t = torch.rand(32, generator=torch.Generator().manual_seed(9), dtype=F64)

    def v(x, t):
        return torch.zeros_like(x)

    # With v = 0 the loss is E (x - z)^2 for the noise that is used.
    for beta in (0.0, 0.6, 1.0):
        used = math.sqrt(1 - beta**2) * z + beta * fresh
        loss = slim.annealing_reflow_loss(v, z, x, t, beta, fresh)
        assert float(loss) == pytest.approx(float((x - used).square().mean()))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 99))
def test_flips_move_both_ends_of_a_pair_with_one_coin(n, seed):
    z, x = normal(n, 2, 3, 5, seed=seed), normal(n, 2, 3, 5, seed=seed + 1)
    coins = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5
    z1, x1 = slim.flip_pairs(z, x, coins)
    for i in range(n):
        expected = (z[i].flip(-1), x[i].flip(-1)) if coins[i] else (z[i], x[i])
        assert torch.equal(z1[i], expected[0]) and torch.equal(x1[i], expected[1])
    again = slim.flip_pairs(z1, x1, coins)
    assert torch.equal(again[0], z) and torch.equal(again[1], x)


# Distillation


@pytest.mark.parametrize("s", [0.2, 0.5, 0.8])
def test_two_step_target_of_a_curved_flow(s):
    one = torch.ones(3, 1, dtype=F64)
    q = slim.two_step_target(lambda x, t: -x, one, -one, torch.full((3,), s, dtype=F64))
    assert q.flatten().tolist() == pytest.approx([s * (1 - s)] * 3)


def test_first_step_is_the_students_or_the_flows():
    n, s = normal(5, 2), torch.full((5,), 0.5, dtype=F64)
    seen = []

    def v_phi(x, t):
        seen.append(t.clone())
        return -x

    def student(x, t):
        return 2 * x

    z, x = normal(5, 2, seed=1), normal(5, 2, seed=2)
    arguments = student, v_phi, z, x, n, s, slim.squared
    own = slim.flow_guided_loss(*arguments)
    pairs = slim.distil_loss(student, z, x, slim.squared)
    # From n with 2 n: m = 2 n, q = n; the student ends at 3 n.
    assert float(own - pairs) == pytest.approx(float((2 * n).square().mean()))
    assert len(seen) == 1 and torch.equal(seen[0], s)
    found = slim.flow_guided_loss(*arguments, own_first_step=False)
    assert seen[1].tolist() == pytest.approx([slim.EPS] * 5)
    # From n with -n: m = n / 2, q = n / 4; the student ends at 3 n.
    assert float(found - pairs) == pytest.approx(float((2.75 * n).square().mean()))


def test_no_gradient_passes_through_the_target():
    n, s = normal(4, 3), torch.full((4,), 0.5, dtype=F64)
    w, u = (torch.ones(3, dtype=F64, requires_grad=True) for _ in range(2))
    p = w * n
    slim.two_step_loss(p, lambda x, t: u * x, n, s, slim.squared, p).backward()
    assert w.grad is not None and u.grad is None
    # m = 1.5 n, q = 2.25 n, n + p = 2 n: the derivative is 2 (2 - 2.25) n^2 / 3 per element.
    assert torch.allclose(w.grad, -0.5 * n.square().mean(0) / 3)


def test_distillation_starts_beside_the_noise():
    z, x = normal(4, 3), normal(4, 3, seed=1)
    seen = {}

    def v(y, t):
        seen["y"], seen["t"] = y, t
        return x - z

    assert float(slim.distil_loss(v, z, x, slim.squared)) == pytest.approx(0, abs=1e-30)
    assert torch.allclose(seen["y"], 0.001 * x + 0.999 * z)
    assert seen["t"].tolist() == pytest.approx([1e-3] * 4)
    assert torch.allclose(slim.one_step(v, z), x)


def test_one_step_calls_the_network_once():
    times = []

    def v(x, t):
        times.append(t)
        return -x

    slim.one_step(v, normal(4, 3))
    assert [t.tolist() for t in times] == [[slim.EPS] * 4]


def test_feature_distance_is_zero_for_equal_images_and_passes_gradients():
    stages = zoo.build("fashion-mnist-classifier").eval().stages
    D = slim.feature_distance(stages, (0, 1, 3))
    a, b = (normal(2, 1, 32, 32, seed=s).float().clamp(-1, 1) for s in range(2))
    a.requires_grad_()
    assert float(D(a, a).detach()) == 0
    value = D(a, b)
    # Unit vectors differ by at most 4 in squared norm, in each of three stages.
    assert 0 < float(value.detach()) <= 12
    value.backward()
    assert float(a.grad.abs().sum()) > 0


# What is fixed besides


def test_image_prediction_takes_one_step_to_the_image():
    z, image = normal(3, 1, 2, 2), normal(3, 1, 2, 2, seed=1)
    seen = []

    def network(x, t):
        seen.append(t)
        return image

    v = slim.data_velocity(network, 0.3)
    assert torch.allclose(flow.euler(v, z, 1), image)
    assert torch.allclose(flow.euler(v, z, 2), image)
    late = torch.full((3,), 0.9, dtype=F64)
    assert torch.allclose(v(z, late), (image - z) / 0.3)
    assert seen[-1].tolist() == pytest.approx([0.9 * 999] * 3)


def test_learning_rate_of_the_release():
    assert [slim.learning_rate(k) for k in (0, 2500, 5000, 10**6)] == [0, 1e-4, 2e-4, 2e-4]
    assert slim.learning_rate(0, resumed=True) == 2e-4


@pytest.mark.parametrize(
    ("x", "t", "v"), [(0.5, 0, -0.5), (0.5, 0.5, 0.523188), (1, 0.5, -0.0719448), (0.2, 0.9, 8.0)]
)
def test_velocity_of_two_points(x, t, v):
    oracle = slim.empirical_velocity(torch.tensor([[-1.0], [1.0]], dtype=F64))
    found = oracle(torch.tensor([[x]], dtype=F64), torch.tensor([t], dtype=F64))
    assert float(found) == pytest.approx(v, abs=6e-7)


def test_oracle_flow_ends_on_the_data():
    data = normal(5, 3)
    x = flow.euler(slim.empirical_velocity(data), normal(40, 3, seed=1), 400)
    nearest = torch.cdist(x, data).min(dim=1).values
    assert float(nearest.max()) < 0.05


# The identities of the ledger


LIMITS = {
    "beta-linear": 6e-7,
    "beta-cosine": 6e-7,
    "beta-exponential": 6e-7,
    "oracle": 6e-7,
    "average": 6e-7,
    "effective-decay": 6e-7,
    "fresh-network": 1e-3,
    "reflow-end": 0.0,
    "first-flow-end": 0.0,
}


@pytest.mark.parametrize("seed", [0, 1])
def test_identities_hold(seed):
    found = exact.errors(torch.Generator().manual_seed(seed))
    wrong = {k: v for k, v in found.items() if v > LIMITS.get(k, 1e-12)}
    assert not wrong and set(LIMITS) < set(found)


def test_identities_see_mistakes(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setitem(slim.SCHEDULES, "linear", lambda k, K: 1 - (k / K) ** 2)
    assert exact.schedules()["beta-linear"] > 0.1
    monkeypatch.setattr(slim, "anneal", lambda z, fresh, beta: (1 - beta) * z + beta * fresh)
    assert exact.annealing(generator)["variance"] > 0.1
    monkeypatch.setattr(slim, "flip_pairs", lambda z, x, coins: (z.flip(-1), x))
    assert exact.flips(generator)["flip-loss"] > 1e-3

    def without_first(v_phi, n, first, s):
        return n + v_phi(n, s)

    monkeypatch.setattr(slim, "two_step_target", without_first)
    assert exact.targets(generator)["curved-target"] > 0.1
