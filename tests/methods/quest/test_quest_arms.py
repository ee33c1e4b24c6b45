"""The arms on the digits network, at toy sizes, and the figures that they feed."""

import importlib

import pytest
import torch

from methods.quest import figures
from repro.quant import rounded
from repro.quant.layers import quantise
from repro.quant.reconstruction import UnitReport
from repro.quant.study import full_precision
from repro.suite import zoo
from repro.suite.cards import library
from tests.methods.making import results_of

TOY = {
    "steps": 4,
    "samples": 4,
    "eps_samples": 2,
    "batch": 4,
    "calibration_steps": 2,
    "per_step": 4,
    "tla": 2,
    "cma": 2,
    "tuning_batch": 2,
    "repeats": 2,
    "chains": 4,
}
TUNED = ("tla-cma", "global-only", "local-only", "full")


@pytest.fixture(scope="module")
def card():
    return library.load("quest")


@pytest.fixture(scope="module")
def weights():
    network = zoo.build("zoo/digits-unconditional")
    state, _ = zoo.shipped("digits-unconditional")
    network.load_state_dict(state)
    report = UnitReport(
        "mid", 2.0, 1.0, 1.0, 3, {"mid.a": 0.5, "mid.b": 0.0}, {"mid.a": 1, "mid.b": 4}
    )
    roundings = {
        name: rounded.export(quantise(network, rounded.recipe(network, bits)))
        | rounded.record_of([report])
        for name, bits in (("q-diffusion/w4", 4), ("w8", 8))
    }
    known = {"zoo/digits-unconditional": state}
    params = library.load("q-diffusion").model_params("smoke", "q-diffusion", "reference")
    params |= {k: v for k, v in TOY.items() if k in params}
    reference = full_precision(zoo.job("q-diffusion", "reference", 0, params, known))
    return known | roundings | {"q-diffusion/reference": reference}


@pytest.fixture(scope="module")
def run(card, weights):
    def go(arm, seed=0, **params):
        resolved = card.arm_params("smoke", arm)
        resolved |= {k: v for k, v in (TOY | params).items() if k in resolved}
        declared = card.declared("gpu", arm, resolved)
        job = zoo.job("quest", arm, seed, resolved, weights, declared)
        module, function = card.experiment.arms[arm].run.split(":")
        getattr(importlib.import_module(module), function)(job)
        return job

    return go


@pytest.fixture(scope="module")
def jobs(card, run):
    return {arm: run(arm) for arm in card.arms("smoke")}


def value(job, name, **at):
    [found] = [v for n, a, v in job.measured if n == name and a == at]
    return found


def test_every_configuration_is_measured(jobs):
    for arm, tuned in (("w8a8", TUNED[:1]), ("w4a8", ("tla-cma", "full")), ("w4a4", TUNED)):
        sampled = {a["config"] for n, a, _ in jobs[arm].measured if n == "trajectory_mse"}
        assert sampled == {"nearest", "adaround", "q-diffusion", *{"tla-cma", "full"} & {*tuned}}
        seen = {a["config"] for n, a, _ in jobs[arm].measured if n == "eps_mse"}
        first = {f"{config}-tla" for config in tuned if config != "tla-cma"}
        assert seen == sampled | {"fp-time", "tla", *tuned} | first


def test_all_methods_choose_from_the_same_rates(run):
    job = run("w4a4", rates=[1, 16], configs=["tla-cma", "full"])
    for config in ("q-diffusion", "tla-cma", "full"):
        errors = {r: value(job, "held_out_error", config=config, rate=r) for r in (1, 16)}
        assert len(set(errors.values())) == 2
        assert value(job, "rate", config=config) == min(errors, key=errors.get)
    alone = run("w4a4", rates=[value(job, "rate", config="full")], configs=["tla-cma", "full"])
    assert value(alone, "eps_mse", config="full") == value(job, "eps_mse", config="full")


def test_rates_that_diverge_are_not_kept(card, weights):
    params = card.arm_params("smoke", "granularity") | TOY | {"rates": [1, 4]}
    protocol = importlib.import_module("methods.quest.arms").Protocol(
        zoo.job("quest", "x", 0, params, weights)
    )
    protocol.error_on = lambda network, run: network.error

    class Net(torch.nn.Module):
        error = 2.0

    def train(network, rate):
        network.error = float("nan") if rate == 1 else 1.0
        return network

    assert protocol.best(Net(), train, config="x").rate == 4
    kept = [v for n, a, v in protocol.job.measured if n == "rate"]
    assert kept == [4]


def test_how_roundings_ended_is_told(jobs):
    for bits in (4, 8):
        assert value(jobs["rounding"], "undecided", weights=bits, layer="all") == 0.1
        assert value(jobs["rounding"], "undecided", weights=bits, layer="worst") == 0.5
        assert value(jobs["rounding"], "loss_ratio", weights=bits, unit="worst") == 0.5


def test_more_bits_are_closer_to_full_precision(jobs):
    errors = [value(jobs[a], "eps_mse", config="nearest") for a in ("w8a8", "w4a8", "w4a4")]
    assert 0 < errors[0] < errors[1] < errors[2]
    for arm in ("w8a8", "w4a8", "w4a4"):
        assert value(jobs[arm], "emb_error", config="fp-time") == 0


def test_all_combinations_of_granularity(jobs):
    found = {(a["grids"], a["tuned"]) for _, a, _ in jobs["granularity"].measured}
    cells = {f"{g}-{t}" for g in ("tensor", "channel") for t in ("single", "time")}
    expected = {(cell, tuned) for cell in cells | {"channel-time-half"} for tuned in ("no", "yes")}
    assert found == expected | {("channel-time-half-fp-time", "no")}


def test_the_ablation_repeats_the_arm_of_its_width(jobs):
    """Same seed, widths and grids: tuned and untuned numbers agree bit by bit."""
    for tuned, config in (("no", "adaround"), ("yes", "tla-cma")):
        there = value(jobs["granularity"], "eps_mse", grids="channel-time", tuned=tuned)
        assert there == value(jobs["w4a4"], "eps_mse", config=config)


def test_same_seed_same_numbers_and_another_seed_differs(run):
    first, again, other = (
        run("granularity", seed, cells=["channel-single"]).measured for seed in (3, 3, 4)
    )
    assert first == again and first != other


def test_exact_checks_hold(card, jobs):
    _hold(card, jobs["exact"], "exact", 13)


def test_structural_checks_hold_but_for_known_contradictions(card, jobs):
    known = {"share-bedroom", "share-imagenet", "size-quantised"}
    failed = _hold(card, jobs["structure"], "structural", 15, known)
    assert failed == known


def _hold(card, job, tier, least, excused=()):
    checks = {k: c for k, c in card.checks("smoke").items() if c.tier == tier}
    assert len(checks) >= least
    lookup = {(n, tuple(sorted((k, str(v)) for k, v in a.items()))): v for n, a, v in job.measured}
    failed = set()
    for name, check in checks.items():
        if not check.parsed.holds(
            lambda r: lookup[r.name, tuple(sorted(tuple(p.split("=")) for p in r.at.split(",")))]
        ):
            failed.add(name)
    assert failed <= set(excused)
    return failed


COUNTED = {
    "bedroom": {"all": 274_056_163, "emb": 11_653_824, "cma": 24_267_936, "time-embed": 1_005_312},
    "church": {"all": 294_966_916, "emb": 27_757_824, "cma": 15_621_696, "time-embed": 738_816},
    "cin256": {"all": 400_920_579, "emb": 9_597_120, "ff.net": 95_204_160, "to_q": 15_851_520},
    "sd-v1": {"all": 859_520_964, "emb": 25_824_960, "cma": 148_797_120, "time-embed": 2_050_560},
}


@pytest.mark.parametrize("model", COUNTED)
def test_parameters_that_the_released_filters_select(jobs, model):
    found = {
        part: value(jobs["structure"], "params", model=model, of=part) for part in COUNTED[model]
    }
    assert found == COUNTED[model]
    layers = {"bedroom": 22, "church": 35, "cin256": 22, "sd-v1": 22}
    assert value(jobs["structure"], "layers", model=model, of="emb") == layers[model]


def test_selections_of_imagenet(jobs):
    parts = ("attn1.to_k", "attn1.to_v")
    both = [value(jobs["structure"], "params", model="cin256", of=part) for part in parts]
    assert sum(both) == 15_851_520
    share = value(jobs["structure"], "share", model="cin256", of="emb-and-to-q")
    assert share == pytest.approx(0.063, abs=5e-4)


def test_the_static_baseline(jobs):
    """It starts where the text's configuration does; other samples and learned steps change it."""
    errors = {
        config: value(jobs["static-w4a4"], "eps_mse", config=config)
        for config in ("adaround", "fp-time", "again", "q-diffusion", "ptq-d")
    }
    assert len(set(errors.values())) == 5
    there = value(jobs["paper-configuration"], "eps_mse", bits="W4A4", config="adaround")
    assert errors["adaround"] == there
    place = {"of": "range", "over": "median-layer"}
    assert 0.5 < value(jobs["static-w4a4"], "change", **place) < 2


def test_correction_lowers_the_error(jobs):
    """Its statistics are of other trajectories of the same sampler."""
    learned, corrected = (
        value(jobs["static-w4a4"], "eps_mse", config=config) for config in ("q-diffusion", "ptq-d")
    )
    assert corrected < learned


def test_low_rank_training(run):
    job = run("efficient-dm-w4a4", tla=8, cma=8, rates=[1])
    errors = [value(job, "eps_mse", config=c) for c in ("naive", "half", "efficient-dm")]
    assert len(set(errors)) == 3 and errors[2] < errors[0]


def test_longer_tuning_differs_in_iterations_alone(jobs, run):
    for config in ("tla", "tla-cma"):
        here = value(jobs["longer-w4a4"], "eps_mse", config=config)
        assert here == value(jobs["w4a4"], "eps_mse", config=config)
    more = run("longer-w4a4", tla=4, cma=4)
    assert value(more, "eps_mse", config="tla") != here
    assert value(jobs["text-losses"], "eps_mse", config="tla-cma") != here
    start = value(jobs["symmetric-w4a4"], "eps_mse", config="adaround")
    assert start != value(jobs["w4a4"], "eps_mse", config="adaround")


def test_full_fine_tuning_takes_as_long_as_itself(jobs):
    assert 0.3 < value(jobs["timing"], "latency_ratio", stage="full-again") < 3


def test_cost_compares_one_step(jobs):
    assert value(jobs["cost"], "share", model="here", of="full") > 0.99
    shares = [value(jobs["cost"], "share", model="here", of=stage) for stage in ("tla", "cma")]
    assert 0 < sum(shares) < 0.2
    assert 0 < value(jobs["cost"], "memory_ratio", stage="cma") < 1


@pytest.fixture(scope="module")
def results(card, jobs, tmp_path_factory):
    seeded = {(arm, 0): job for arm, job in jobs.items()}
    return results_of(card, seeded, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("name", ["ladder", "causes", "growth", "ranges", "samples"])
def test_figures_draw_what_was_measured(card, results, name):
    assert name in {figure.run.split(":")[1] for figure in card.experiment.figures}
    drawn = getattr(figures, name)(results)
    assert [ax for ax in drawn.axes if ax.has_data()]
    if name == "ladder":
        assert len(drawn.axes) == 3 and len(drawn.axes[0].get_yticklabels()) == 11


def test_lessons_need_no_dataset(card, weights):
    params = card.arm_params("smoke", "granularity") | TOY
    job = zoo.job("quest", "x", 0, params, weights)
    job.data = None  # reading one would fail
    module = importlib.import_module("methods.quest.arms")
    protocol = module.Protocol(job)
    assert len(protocol.lesson.eps) == len(protocol.data) == 8
    assert torch.isfinite(protocol.lesson.eps).all()
