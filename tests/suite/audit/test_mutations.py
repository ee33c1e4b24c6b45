"""Records tampered with: the judge notices, or the trial says what is missing."""

import pytest

from repro.suite.audit import mutations
from repro.suite.cards import library
from tests.conftest import TOY_CHECKS, TOY_EXPERIMENT, forget

BASELINE = TOY_EXPERIMENT.replace("gain: 2.0}}", "gain: 2.0}, baseline: true}")
CONTROLLED = TOY_CHECKS.replace(
    "        why: w\n",
    "        why: w\n        least: 1.2\n        control: {ours: untrained}\n",
    1,
)
UNTRAINED = BASELINE.replace(
    "  exact:",
    '  untrained: {run: "methods.toy.arms:run", models: [net], params: {steps: [4], gain: 9.0}}\n'
    "  exact:",
    1,
).replace("arms: [ours, base]", "arms: [ours, base, untrained]")


@pytest.fixture
def toy_of(toy):
    def made(experiment=BASELINE, checks=TOY_CHECKS):
        (toy / "methods/toy/experiment.yaml").write_text(experiment)
        (toy / "methods/toy/checks.yaml").write_text(checks)
        forget()
        return library.load("toy", toy)

    return made


def runs(**losses):
    """Three seeds of each arm with about these losses, and the exact arm."""
    found = [
        {
            "arm": arm,
            "seed": seed,
            "measurements": [
                {"name": "loss", "at": {"steps": steps}, "value": value + 0.01 * seed + steps / 1e4}
                for steps in (4, 8)
            ],
        }
        for arm, value in losses.items()
        for seed in range(3)
    ]
    exact = {"name": "error", "at": {}, "value": 0.0}
    return [*found, {"arm": "exact", "seed": 0, "measurements": [exact]}]


def noticed(audited):
    return {(t.arm, t.mutation): bool(t.noticed) for t in audited.trials}


def test_every_mutation_but_the_worse_baseline_is_noticed(toy_of):
    audited = mutations.audit(toy_of(), "smoke", runs(ours=1.0, base=2.0))
    found = noticed(audited)
    assert found.pop(("base", "baseline twice as bad")) is False
    assert all(found.values())
    assert {mutation for _, mutation in found} == {*mutations.MUTATIONS} - {"baseline twice as bad"}


def test_what_nothing_bounds_is_named(toy_of):
    audited = mutations.audit(toy_of(), "smoke", runs(ours=1.0, base=2.0))
    (missed,) = [t for t in audited.trials if not t.noticed]
    assert "nothing bounds it on its worse side" in missed.why


def test_a_control_bounds_a_baseline_from_its_worse_side(toy_of):
    method = toy_of(UNTRAINED, CONTROLLED)
    audited = mutations.audit(method, "smoke", runs(ours=1.0, base=2.0, untrained=3.0))
    assert noticed(audited)["base", "baseline twice as bad"]


def test_how_far_away_the_bound_is(toy_of):
    method = toy_of(UNTRAINED, CONTROLLED)
    audited = mutations.audit(method, "smoke", runs(ours=1.0, base=2.0, untrained=6.0))
    (missed,) = [t for t in audited.trials if t.mutation == "baseline twice as bad"]
    assert not missed.noticed and "at 4 times" in missed.why


def test_a_baseline_has_to_beat_its_own_start(toy_of):
    experiment = UNTRAINED.replace("baseline: true", "baseline: true, beats: untrained")
    checks = TOY_CHECKS
    audited = mutations.audit(
        toy_of(experiment, checks), "smoke", runs(ours=1.0, base=2.0, untrained=3.0)
    )
    assert noticed(audited)["base", "baseline twice as bad"]


def test_arms_without_a_decided_check_are_left_out(toy_of):
    audited = mutations.audit(toy_of(UNTRAINED), "smoke", runs(ours=1, base=1, untrained=3.0))
    assert audited.left_out["untrained"] == "no check reads it"
    assert audited.left_out["ours"] == "none of its checks is decided"


def test_a_claim_of_no_difference_is_not_exchanged(toy_of):
    checks = TOY_CHECKS.replace("< loss[base", "<= 3 * loss[base")
    audited = mutations.audit(toy_of(checks=checks), "smoke", runs(ours=1.0, base=1.5))
    assert not {t.mutation for t in audited.trials} & {
        "method and baseline swapped",
        "copy of another arm",
    }
