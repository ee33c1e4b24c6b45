"""The arms on the digits network, at toy sizes, and the figures that they feed."""

import importlib

import numpy as np
import pytest
import torch

from methods.ptq4dm import arms, figures
from methods.ptq4dm import method as ptq
from repro.errors import ReproError
from repro.suite import zoo
from repro.suite.cards import library
from repro.zoo.judge import Judge
from tests.methods.making import results_of

TOY = {
    "steps": 4,
    "samples": 6,
    "eps_samples": 4,
    "calibration": 8,
    "calibration_batch": 4,
    "batch": 4,
    "many": 6,
    "repeats": 3,
    "fractions": [0, 1],
    "bits": ["W8A8", "W8A6"],
}


@pytest.fixture(scope="module")
def card():
    return library.load("ptq4dm")


@pytest.fixture(scope="module")
def weights():
    state, _ = zoo.shipped("digits-unconditional")
    return {"zoo/digits-unconditional": state}


def with_reference(card, weights, seed, resolved, changed):
    """The weights, and beside them the reference of an arm with these parameters."""
    name = resolved["full_precision"]
    params = card.model_params("smoke", "ptq4dm", name)
    toy = TOY | {"grid": resolved["grid"], "steps": resolved["steps"]} | changed
    params |= {k: v for k, v in toy.items() if k in params}
    return weights | {name: arms.reference(zoo.job("ptq4dm", name, seed, params, weights))}


@pytest.fixture(scope="module")
def run(card, weights):
    def go(arm, seed=0, **params):
        resolved = card.arm_params("smoke", arm)
        resolved |= {k: v for k, v in (TOY | params).items() if k in resolved}
        declared = card.declared("gpu", arm, resolved)
        given = weights
        if (
            "full_precision" in resolved
            and resolved["full_precision"] in card.experiment.arms[arm].models
        ):
            given = with_reference(card, weights, seed, resolved, params)
        job = zoo.job("ptq4dm", arm, seed, resolved, given, declared)
        module, function = card.experiment.arms[arm].run.split(":")
        with pytest.MonkeyPatch.context() as patch:  # a coarser search is as good here
            patch.setattr(ptq, "CANDIDATES", 100 if arm == "exact" else 10)
            getattr(importlib.import_module(module), function)(job)
        return job

    return go


@pytest.fixture(scope="module")
def jobs(card, run):
    names = [arm for arm in card.arms("smoke") if arm not in ("structure", "latency")]
    more = {"denoising": {"bits": ["W8A8", "W8A6", "W6A6"]}}
    return {arm: run(arm, **more.get(arm, {})) for arm in names}


def value(job, name, **at):
    [found] = [v for n, a, v in job.measured if n == name and a == at]
    return found


def test_more_bits_are_closer_to_full_precision(jobs):
    for times in ("uniform", "ndtc-paper", "ndtc-wide"):
        errors = [
            value(jobs["denoising"], "eps_mse", times=times, bits=bits)
            for bits in ("W8A8", "W8A6", "W6A6")
        ]
        assert 0 < errors[0] < min(errors[1:]) and max(errors) < 0.1


def test_every_setting_of_the_card_is_measured(card, jobs):
    for arm, key, listed in (
        ("denoising", "times", "times"),
        ("other-inputs", "source", "sources"),
        ("single-step", "t", "fractions"),
        ("ablation", "change", "changes"),
    ):
        params = card.arm_params("smoke", arm) | TOY
        if arm == "denoising":
            params["bits"] = ["W8A8", "W8A6", "W6A6"]
        expected = {(str(float(x)) if key == "t" else x, b)
                    for x in params[listed] for b in params["bits"]}  # fmt: skip
        for name in ("eps_mse", "trajectory_mse"):
            found = {(str(a[key]), a["bits"]) for n, a, _ in jobs[arm].measured if n == name}
            assert found == expected


def test_same_seed_same_bits_and_another_seed_differs(run):
    options = {"sources": ["noised-images"], "bits": ["W8A6"]}
    first, again, other = (run("other-inputs", seed, **options).measured for seed in (3, 3, 4))
    assert first == again and first != other


def test_arms_of_a_seed_share_noises_and_network(weights, card, run):
    """`uniform` must not depend on which other sets its arm makes."""
    alone = run("denoising", times=["uniform"], bits=["W8A8"])
    beside = run("denoising", times=["ndtc-wide", "uniform"], bits=["W8A8"])
    at = {"times": "uniform", "bits": "W8A8"}
    for name in ("eps_mse", "trajectory_mse"):
        assert value(alone, name, **at) == value(beside, name, **at)


def test_error_curve_starts_at_zero_and_ends_at_the_samples(run):
    job = run("denoising", times=["uniform"], bits=["W8A6"], samples=4)
    curve = job.arrays["curve-uniform-W8A6"]
    assert len(curve) == 5 and curve[0] == 0
    measured = value(job, "trajectory_mse", times="uniform", bits="W8A6")
    assert np.isclose(curve[-1], measured, rtol=1e-5)


def test_deterministic_sampling_ignores_batches(run):
    one = run("denoising", times=["uniform"], bits=["W8A8"], batch=4)
    two = run("denoising", times=["uniform"], bits=["W8A8"], batch=8)
    at = {"times": "uniform", "bits": "W8A8"}
    assert np.isclose(
        value(one, "trajectory_mse", **at), value(two, "trajectory_mse", **at), rtol=0.05
    )


def test_exact_arm_meets_every_exact_check(card, jobs):
    checks = [c for c in card.checks("smoke").values() if c.tier == "exact"]
    assert len(checks) == 13
    lookup = {(n, r): v for n, r, v in (
        (n, tuple(sorted(a.items())), v) for n, a, v in jobs["exact"].measured)}  # fmt: skip

    def find(reference):
        at = tuple(sorted(part.split("=") for part in reference.at.split(",")))
        return lookup[reference.name, tuple(tuple(pair) for pair in at)]

    for check in checks:
        assert check.parsed.holds(find), check.expect


def test_identities_of_our_own_code(jobs):
    job = jobs["exact"]
    for item, most in (
        ("one-sided-in-half-steps", 1.0001),
        ("step-scales-with-tensor", 1e-7),
        ("cosine-of-half-gain", 1e-6),
        ("l2.4-of-half-gain", 1e-6),
    ):
        assert value(job, "error", item=item) <= most
    for item in ("paper-spread", "paper-within-22"):
        assert value(job, "standard_errors", item=item) <= 4
    for times in ("uniform", "ndtc-paper", "ndtc-wide"):
        assert value(job, "mispaired", times=times) == 0


def test_batches_of_one_step_differ_less_than_steps(run):
    some = {"steps": 6, "eps_samples": 8, "batch": 16}
    steps = run("full-precision", samples=16, **some)
    batches = run("one-time-step", samples=48, **some)
    for job in (steps, batches):
        assert len([1 for n, _, _ in job.measured if n == "activation_change"]) == 4
    at = {"statistic": "spread", "over": "median-layer"}
    change, still = (value(job, "activation_change", **at) for job in (steps, batches))
    assert 1 < still < change


def test_released_labels_go_with_states_of_the_other_end(run, monkeypatch):
    chosen = []

    def watched(chains, when, timesteps):
        chosen.append(when)
        return original(chains, when, timesteps)

    original = ptq.at_time_steps
    monkeypatch.setattr(ptq, "at_time_steps", watched)
    run("released-steps", bits=["W8A8"])
    first, last = chosen
    assert first.label.unique().tolist() == [0] and first.state.unique().tolist() == [2]
    assert last.label.unique().tolist() == [3] and last.state.unique().tolist() == [-1]
    assert first.raw and last.raw


def test_four_bits_of_the_sample_cost_more_than_eight(jobs):
    job = jobs["tensors-ddim"]
    eight, four = (value(job, "trajectory_mse", tensor=t) for t in ("all", "all-4-bit"))
    assert 0 < eight < four


def test_structural_checks_hold(card, run):
    job = run("structure")
    lookup = {(n, tuple(sorted((k, str(v)) for k, v in a.items()))): v for n, a, v in job.measured}
    checks = [c for c in card.checks("smoke").values() if c.tier == "structural"]
    assert len(checks) == 6
    for check in checks:
        assert check.parsed.holds(
            lambda r: lookup[r.name, tuple(sorted(tuple(p.split("=")) for p in r.at.split(",")))]
        ), check.expect


def test_latency_measures_both_networks(run):
    job = run("latency")
    assert value(job, "latency_ratio", network="w8a8") > 0
    low, high = (value(job, f"latency_ratio_{end}", network="w8") for end in ("low", "high"))
    assert low <= value(job, "latency_ratio", network="w8") <= high


def test_quality_sees_the_images_and_what_harms_them(card, monkeypatch):
    """On an untrained network: distances are finite, paired, and larger for pure noise."""
    names = card.arm("small", "quality").models
    torch.manual_seed(0)
    weights = {names[0]: zoo.build(names[0]).state_dict(), names[1]: zoo.shipped(names[1])[0]}

    def pictures(critic, n, split, stream):
        generator = critic.job.rng(stream)
        return torch.rand(n, 1, 32, 32, generator=generator).lt(0.3).float() * 2 - 1

    monkeypatch.setattr(Judge, "pictures", pictures)
    params = card.arm_params("small", "quality") | TOY | {"many": 6, "real": 40}
    made = zoo.job("ptq4dm", "reference", 0, params, weights)
    weights["reference"] = arms.reference(made)
    job = zoo.job("ptq4dm", "quality", 0, params, weights)
    arms.quality(job)
    found = {a["network"]: v for n, a, v in job.measured if n == "frechet"}
    assert set(found) == {"full-precision", "ndtc-paper", "uniform"}
    assert abs(found["uniform"] / found["full-precision"] - 1) < 0.2
    protocol = arms.Protocol(job)
    real = protocol.critic.pictures(40, "test", "others")
    assert protocol.measure_frechet(real, network="real") < 0.5 * found["full-precision"]

    poor = zoo.job("ptq4dm", "poor-quality", 0, params, weights)
    arms.poor_quality(poor)
    again = {a["network"]: v for n, a, v in poor.measured if n == "frechet"}
    assert set(again) == {"full-precision", "images"}
    assert again["full-precision"] == found["full-precision"]
    floor = zoo.job("ptq4dm", "floor", 0, params, weights)
    arms.floor(floor)
    assert 0 < value(floor, "frechet") < found["full-precision"]


def test_the_reference_is_what_arms_would_make(card, weights):
    """Slices of it are what the noises of the seed give, whatever the batches."""
    params = card.arm_params("smoke", "denoising") | TOY
    given = with_reference(card, weights, 2, params, {"samples": 10, "batch": 4})
    protocol = arms.Protocol(zoo.job("ptq4dm", "x", 2, params, given))
    final = protocol.sample(protocol.network, protocol.x_T)
    assert torch.allclose(protocol.final, final, atol=1e-4) and len(final) == 6
    run = protocol.reference
    assert torch.equal(run.x[0], protocol.x_T[:4]) and torch.equal(run.final, protocol.final[:4])
    assert run.t.tolist() == [999, 666, 333, 0]
    noise = protocol.noise(8, "calibration")
    when = protocol.time_steps("uniform")
    [expected] = ptq.denoising_states(
        protocol.network, noise, [when], protocol.timesteps, protocol.alphas_cumprod, 1.0
    )
    [found] = protocol.denoising_states("uniform")
    assert torch.allclose(found.x, expected.x, atol=1e-4) and torch.equal(found.t, expected.t)


def test_the_quadratic_grid_is_another(run):
    even, quadratic = (
        run("denoising", times=["uniform"], bits=["W8A8"], grid=grid)
        for grid in ("even", "quadratic")
    )
    at = {"times": "uniform", "bits": "W8A8"}
    assert value(even, "trajectory_mse", **at) != value(quadratic, "trajectory_mse", **at)


def test_wrong_parameters_are_named(run):
    with pytest.raises(ReproError, match="no grid `cosine`; choose even or quadratic"):
        run("denoising", grid="cosine")
    with pytest.raises(ReproError, match="W8A8"):
        run("denoising", bits=["8/8"])
    with pytest.raises(ReproError, match="ndtc-paper"):
        run("denoising", times=["ndtc"])
    with pytest.raises(ReproError, match="noised-images"):
        run("other-inputs", sources=["pictures"])


def test_grid_holds_every_step_equally_often(card, weights):
    params = card.arm_params("smoke", "other-inputs") | TOY | {"calibration": 8}
    given = with_reference(card, weights, 0, params, {})
    protocol = arms.Protocol(zoo.job("ptq4dm", "x", 0, params, given))
    chosen = protocol.other_inputs("grid")
    assert torch.bincount(chosen.t).max() == 2 and len(chosen.t.unique()) == 4


@pytest.fixture(scope="module")
def results(card, jobs, tmp_path_factory):
    seeded = {(arm, 0): job for arm, job in jobs.items()}
    return results_of(card, seeded, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("name", ["errors", "growth", "activations", "times", "samples"])
def test_figures_draw_what_was_measured(card, results, name):
    listed = {figure.run.split(":")[1] for figure in card.experiment.figures}
    assert name in listed
    drawn = getattr(figures, name)(results)
    axes = [ax for ax in drawn.axes if ax.has_data()]
    assert axes
    if name == "errors":
        assert len(drawn.axes[0].get_yticklabels()) == 4 + 4 + 2 + 4
    if name == "times":
        shares = [sum(p.get_height() for p in ax.patches[:5]) for ax in drawn.axes]
        assert all(abs(share - 1) < 1e-6 for share in shares[:3])
