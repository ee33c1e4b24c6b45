"""Every exact check of the method, with its tolerance, and proof that the checks can fail."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.diffusion_couple import exact, forward, method
from repro.job import Job
from repro.suite.cards import library
from repro.suite.verdict import Measurements, evaluate

TOLERANCES = {
    exact.constant_molar_volume: 3e-6,
    exact.ideal_molar_volume: 3e-6,
    exact.non_ideal_molar_volume: 6e-4,
    exact.wrong_volume: 6e-5,
    exact.second_moment: 2e-5,
    exact.kirkendall: 1.5e-6,
    exact.compounds: 6e-5,
    exact.single_compound: 1e-6,
    exact.compound_between_solutions: 1e-7,
    exact.hall_method: 1e-12,
}
# tighter than their check's coarsest item
SHARP = {
    "ideal-identity": 2e-12,
    "incremental-identity": 2e-12,
    "ideal-matano": 1e-9,
    "excess-matano": 1e-9,
    "contraction-matano": 1e-9,
    "equal-volumes-matano": 1e-9,
    "excess-wagner": 3e-6,
    "contraction-wagner": 3e-6,
    "equal-volumes-wagner": 3e-6,
    "excess-truth": 2e-7,
    "excess-den-broeder-cb": 1e-5,
    "excess-den-broeder-ca": 1e-5,
    "contraction-den-broeder-cb": 1e-5,
    "contraction-den-broeder-ca": 1e-5,
    "equal-volumes-den-broeder-cb": 1e-5,
    "equal-volumes-den-broeder-ca": 1e-5,
    "assumed-ideal": 1e-5,
    "kirkendall-constant-identity": 1e-12,
    "kirkendall-ideal-identity": 1e-12,
    "kirkendall-constant-incremental-identity": 1e-12,
    "kirkendall-constant-velocity": 1e-12,
    "kirkendall-ideal-velocity": 1e-12,
    "compounds-ideal-wagner": 1e-12,
    "compounds-actual-wagner": 1e-12,
    "compounds-ideal-identity": 1e-12,
    "compounds-assumed-ideal-identity": 1e-12,
    "compounds-ideal-thickness": 5e-7,
    "compounds-actual-thickness": 5e-7,
    "compound-half": 1e-12,
    "compound-sum-rule": 1e-12,
    "ideal-truth": 2e-7,
    "kirkendall-excess-concentration-cb": 1e-6,
    "kirkendall-excess-concentration-ca": 1e-6,
    "kirkendall-excess-incremental-concentration-cb": 1e-6,
    "kirkendall-excess-incremental-concentration-ca": 1e-6,
    "compounds-ideal-volumes": 5e-7,
    "compounds-ideal-concentration": 7e-6,
    "compounds-actual-concentration": 7e-6,
    "compounds-assumed-ideal": 5e-7,
    "compound-incremental": 5e-7,
    "compound-interfaces": 5e-7,
}
# whose tolerances stand in tests of their own
APART = (exact.pointwise_identity, exact.convergence, exact.forward_model)


@pytest.mark.parametrize("check", TOLERANCES, ids=lambda check: check.__name__)
def test_check(check):
    for item, error in check().items():
        assert error <= SHARP.get(item, TOLERANCES[check]), item


def test_pointwise_identity_holds_for_ideal_volume_only():
    errors = exact.pointwise_identity()
    assert errors["pointwise-identity"] <= 1e-12
    assert errors["pointwise-non-ideal"] > 1e-4


def test_central_differences_converge_with_order_two():
    errors = exact.convergence()
    assert errors["gradient-errors"] <= 0.025  # two digits are known
    assert errors["gradient-order"] <= 0.15


def test_forward_model_gives_its_diffusivity_back():
    coarse, fine = exact.forward_model(steps=400), exact.forward_model(steps=800)
    for name in ("constant", "ideal", "excess"):
        assert fine[f"forward-{name}-wagner"] <= 5e-3
        # backward Euler is of first order: half the step, half the error
        ratio = coarse[f"forward-{name}-wagner"] / fine[f"forward-{name}-wagner"]
        assert 1.8 < ratio < 2.2
    assert fine["forward-ideal-den-broeder"] <= 5e-3
    assert 0.02 <= fine["forward-excess-den-broeder"] <= 0.03


@settings(max_examples=150, deadline=None)
@given(
    Y=st.lists(st.floats(0.005, 0.995), min_size=3, max_size=40, unique=True),
    steps=st.lists(st.floats(0.01, 5), min_size=42, max_size=42),
    slopes=st.lists(st.floats(0.05, 20), min_size=42, max_size=42),
    ends=st.tuples(st.floats(0, 0.4), st.floats(0.6, 1)),
    volumes=st.tuples(st.floats(3, 25), st.floats(3, 25)),
    component=st.sampled_from("AB"),
)
def test_wagner_is_den_broeder_on_any_rising_profile(Y, steps, slopes, ends, volumes, component):
    Y = np.array([0.0, *sorted(Y), 1.0])
    n = len(Y)
    profile = method.Profile(
        np.cumsum(steps[:n]), ends[0] + (ends[1] - ends[0]) * Y, np.array(slopes[:n]), *ends
    )
    V = method.ideal_volume(*volumes)
    W = method.wagner(profile, V, 2.0)[1:-1]
    B = method.den_broeder(profile, V, 2.0, component)[1:-1]
    assert np.max(np.abs(B / W - 1)) <= 1e-12
    M = method.boltzmann_matano(profile, V, 2.0, component)[1:-1]
    assert np.max(np.abs(M / B - 1)) <= 1e-9


def test_the_checks_fail_if_the_chain_rule_takes_the_wrong_volume(monkeypatch):
    def broken(self, component, N):
        return (1 if component == "B" else -1) / self(N)

    monkeypatch.setattr(method.MolarVolume, "concentration_slope", broken)
    assert exact.ideal_molar_volume()["ideal-den-broeder"] > 1e-2
    assert exact.kirkendall()["kirkendall-ideal"] > 1e-2
    assert exact.pointwise_identity(20)["pointwise-identity"] > 1e-2


def test_the_checks_fail_if_den_broeder_mixes_the_ends(monkeypatch):
    right = method.volume_integrals

    def swapped(*arguments):
        P, Q = right(*arguments)
        return Q, P

    monkeypatch.setattr(method, "volume_integrals", swapped)
    assert exact.ideal_molar_volume()["ideal-identity"] > 1e-2
    assert exact.kirkendall()["kirkendall-ideal-identity"] > 1e-2


def test_solubility_matters_in_the_whole_profile_version(monkeypatch):
    def layer_only(x, N, V, x_left, x_right, N_beta, V_beta, N_minus, N_plus, t):
        N = np.where(x < x_left, N_minus, np.where(x > x_right, N_plus, N))
        return method.integrated_in_profile(
            x, N, V, x_left, x_right, N_beta, V_beta, N_minus, N_plus, t
        )

    monkeypatch.setattr(exact, "integrated_in_profile", layer_only)
    assert exact.compound_between_solutions()["compound-with-solubility"] > 0.05


def test_line_compounds_need_a_solution():
    with pytest.raises(ValueError, match="rising compositions"):
        forward.line_compounds([0, 0.5, 0.3, 1], [7, 7, 7, 7], [1, 2], 1.0)
    with pytest.raises(ValueError, match="positive D_int"):
        forward.line_compounds([0, 0.5, 1], [7, 7, 7], [-1], 1.0)


def test_exact_arms_satisfy_every_exact_check_of_the_card():
    card = library.load("diffusion-couple")
    records = []
    for arm, measure in (("exact", exact.measure), ("bent-volumes", exact.bent_volumes)):
        params, declared = card.arm_params("smoke", arm), card.declared("smoke", arm)
        job = Job.for_test("diffusion-couple", arm, 0, params, declared=declared)
        measure(job)
        measured = [{"name": n, "at": at, "value": v} for n, at, v in job.measured]
        records.append({"arm": arm, "seed": 0, "measurements": measured})
    measured = Measurements(records, deterministic=["exact", "bent-volumes"])
    checks = {k: c for k, c in card.checks("smoke").items() if c.tier == "exact"}
    assert len(checks) >= 15
    holds = {k: evaluate(c, measured, 1).holds for k, c in checks.items()}
    assert all(map(all, holds.values())), holds
    used = {r.at for c in checks.values() for r in c.parsed.references() if r.arm == "exact"}
    assert used <= {f"item={k}" for k in exact.errors()}


def test_every_closed_form_has_a_tolerance():
    assert set(exact.CHECKS) == {*TOLERANCES, *APART}


def test_no_partial_volumes_reconcile_both_concentrations_unless_volumes_are_ideal():
    assert exact.volume_balance(0) == pytest.approx([1, 1], abs=1e-12)
    # by hand from the ratios to the truth, 0.8385 and 0.8005, 0.8261 and 0.8722
    expected = [
        (0.75 * 7.12 * 0.8385 + 0.25 * 16.24 * 0.8005) / 8.59,
        (6 / 11 * 7.12 * 0.8261 + 5 / 11 * 16.24 * 0.8722) / 10.59,
    ]
    assert exact.volume_balance(1) == pytest.approx(expected, abs=1e-4)
    assert np.all(exact.volume_balance(0.1) < 0.995)


def test_profiles_broadcast_over_a_batch():
    V = method.excess_volume(6.59, 8.86, 0.4)
    _, one = forward.manufactured(V, z=np.linspace(-6, 6, 301))
    two = dataclasses.replace(one, N=np.stack([one.N] * 2), dNdx=np.stack([one.dNdx] * 2))
    x_K = np.array([1.0, 1.0])
    for f in (
        lambda p: method.wagner(p, V, 1.0),
        lambda p: method.den_broeder(p, V, 1.0, "A"),
        lambda p: method.boltzmann_matano(p, V, 1.0),
    ):
        assert f(two).shape == (2, 301)
        np.testing.assert_array_equal(f(two)[1], f(one))
    K2, K1 = method.van_loo(two, V, 1.0, x_K), method.van_loo(one, V, 1.0, 1.0)
    np.testing.assert_allclose(K2.D_A, K1.D_A)
    assert K2.D_B.shape == (2,)
    with pytest.raises(ValueError, match="outside the profile"):
        method.van_loo(one, V, 1.0, 1e3)


def test_simulating_a_batch_is_simulating_each():
    V = method.ideal_volume(6.59, 8.86)
    factor = np.array([[1.0], [2.0]])
    both = forward.simulate(
        lambda N: factor * np.exp(N), V, 1.0, 1.5, cells=101, steps=40, batch=(2,)
    )
    for i, f in enumerate((1.0, 2.0)):
        single = forward.simulate(lambda N, f=f: f * np.exp(N), V, 1.0, 1.5, cells=101, steps=40)
        np.testing.assert_allclose(both.N[i], single.N, atol=1e-13)
    # no flux at the ends: moles stay
    assert np.sum(both.N, axis=1) == pytest.approx([50.5, 50.5], abs=1e-9)


def test_table_volume_keeps_a_kink_and_refuses_nonsense():
    V = method.table_volume([0.4, 0.5, 0.6], [7.0, 7.2, 7.8])
    assert V(np.array([0.45, 0.55])) == pytest.approx([7.1, 7.5])
    assert V(np.array([0.3, 0.7])) == pytest.approx([6.8, 8.4])
    assert V.partial("A", np.array([0.45])) == pytest.approx([7.1 - 0.45 * 2])
    assert V.partial("B", np.array([0.55])) == pytest.approx([7.5 + 0.45 * 6])
    smooth = method.table_volume([0.4, 0.5, 0.6], [7.0, 7.2, 7.8], "pchip")
    assert smooth(np.array([0.4, 0.5, 0.6])) == pytest.approx([7.0, 7.2, 7.8])
    h = 1e-6
    N = np.array([0.3, 0.47, 0.53, 0.7])
    assert smooth.slope(N) == pytest.approx(
        (smooth(N + h) - smooth(N - h)) / (2 * h), rel=1e-6, abs=1e-8
    )
    with pytest.raises(ValueError, match="N rising"):
        method.table_volume([0.5, 0.4], [7, 8])
    with pytest.raises(ValueError, match="positive"):
        method.table_volume([0.4, 0.5], [7, -8])


def test_hall_needs_points_at_the_end():
    x = np.linspace(-1, 1, 9)
    with pytest.raises(ValueError, match="left end"):
        method.hall(x, 0.5 + 0.2 * x, 0.0, 1.0, 1.0, 0.0, "left")
