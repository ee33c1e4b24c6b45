"""The judge, and planted faults: the affected verdicts change, the others do not."""

import copy
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.suite import expression, verdict
from repro.suite.cards.checks import Check, CheckCard, Checks
from repro.suite.cards.experiment import Arm, Experiment, Measurement, Scale
from repro.suite.cards.method import Method
from repro.suite.cards.paper import Claim, Paper

SEEDS = 5


def method(identity: str = "error[exact, item=one] <= 1e-9") -> Method:
    claims = [
        Claim(id=i, statement="", where="Table 1", evidence="paper", best_tier=t)
        for i, t in [
            ("faster", "reduced"),
            ("better", "reduced"),
            ("identity", "exact"),
            ("worse", "reduced"),
            ("official", "paper"),
        ]
    ]
    paper = Paper(
        slug="toy",
        short="Toy",
        title="",
        authors=[],
        venue="",
        year=2026,
        field="text",
        summary="",
        claims=claims,
    )
    arm = {"run": "methods.toy.arms:run"}
    experiment = Experiment(
        paper="toy",
        arms={
            "ours": Arm(**arm),
            "base": Arm(**arm, baseline=True),
            "other": Arm(**arm),
            "exact": Arm(**arm, deterministic=True),
        },
        measurements={
            "nfe": Measurement(at={"steps": 64}),
            "loss": Measurement(),
            "error": Measurement(at={"arms": "exact", "item": ["one", "two"]}),
        },
        scales={"small": Scale(seeds=SEEDS)},
    )
    checks = {
        "faster": ("reduced", "nfe[ours, steps=64] / nfe[base, steps=64] <= 0.6"),
        "better": ("reduced", "loss[ours] < loss[base]"),
        "identity": ("exact", identity),
        "worse": ("reduced", "loss[other] > loss[base]"),
    }
    expected = Checks(
        claims={
            claim: {"checks": [{"id": claim, "tier": tier, "why": "", "expect": expect}]}
            for claim, (tier, expect) in checks.items()
        }
    )
    return Method(Path("toy"), paper, experiment, expected)


def records():
    rng = np.random.default_rng(3)
    made = []
    for seed in range(SEEDS):
        common = rng.normal(scale=0.5)
        for arm, nfe, loss in [("ours", 32, 1.0), ("base", 65, 1.2), ("other", 65, 1.5)]:
            made.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "measurements": [
                        {"name": "nfe", "at": {"steps": 64}, "value": nfe + rng.normal(scale=0.5)},
                        {"name": "loss", "at": {}, "value": loss + common + rng.normal(scale=0.02)},
                    ],
                }
            )
    made.append(
        {
            "arm": "exact",
            "seed": 0,
            "measurements": [{"name": "error", "at": {"item": "one"}, "value": 1e-12}],
        }
    )
    return made


def verdicts(made) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in verdict.judge(method(), "small", made)["claims"]}


SOUND = {
    "faster": "reproduced",
    "better": "reproduced",
    "identity": "reproduced",
    "worse": "reproduced",
    "official": "untested",
}


def change(made, arm, name, function):
    made = copy.deepcopy(made)
    for record in made:
        if record["arm"] == arm:
            for item in record["measurements"]:
                if item["name"] == name:
                    item["value"] = function(item["value"])
    return made


def test_sound_records():
    assert verdicts(records()) == SOUND


def test_order_of_records_is_irrelevant():
    shuffled = records()
    random.Random(1).shuffle(shuffled)
    assert verdicts(shuffled) == SOUND


def test_swapped_arms():
    made = copy.deepcopy(records())
    for record in made:
        record["arm"] = {"ours": "base", "base": "ours"}.get(record["arm"], record["arm"])
    assert verdicts(made) == SOUND | {"faster": "contradicted", "better": "contradicted"}


def test_shuffled_seeds_lose_the_pairing():
    """The common variation of a seed (0.5) is 2.5 times the effect: only pairing shows it."""
    made = copy.deepcopy(records())
    for record in made:
        if record["arm"] == "ours":
            record["seed"] = (record["seed"] + 2) % SEEDS
    assert verdicts(made) == SOUND | {"better": "inconclusive"}


def test_constant_output():
    made = change(records(), "ours", "loss", lambda _: 1.2)
    made = change(made, "base", "loss", lambda _: 1.2)
    assert verdicts(made) == SOUND | {"better": "inconclusive"}
    check = {c["id"]: c for c in verdict.judge(method(), "small", made)["checks"]}["better"]
    assert check["margin"] == 0


def test_baseline_ten_times_worse():
    made = change(records(), "base", "loss", lambda value: 10 * value + 20)
    assert verdicts(made) == SOUND | {"worse": "contradicted"}


def test_broken_identity():
    made = change(records(), "exact", "error", lambda _: 1e-6)
    assert verdicts(made) == SOUND | {"identity": "contradicted"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number_is_an_error(value):
    made = change(records(), "ours", "loss", lambda _: value)
    with pytest.raises(ReproError, match=r"toy at scale small: check `better`.*loss\[ours\]"):
        verdicts(made)


def test_missing_arm_is_an_error():
    made = [r for r in records() if r["arm"] != "other"]
    with pytest.raises(ReproError, match=r"loss\[other\]` was not measured"):
        verdicts(made)


def test_missing_seed_is_an_error():
    made = [r for r in records() if (r["arm"], r["seed"]) != ("other", 3)]
    with pytest.raises(ReproError, match="same seeds"):
        verdicts(made)


def test_missing_coordinate_names_what_there_is():
    made = copy.deepcopy(records())
    for record in made:
        if record["arm"] == "ours":
            record["measurements"][0]["at"] = {"steps": 32}
    with pytest.raises(ReproError, match="steps=64.*that arm has.*steps=32"):
        verdicts(made)


def test_a_wildcard_is_judged_as_all_that_it_means():
    """What is printed is the check as it stands in the card."""
    expect = "max(error[exact, item=*]) <= 1e-9"
    card, made = method(identity=expect), copy.deepcopy(records())
    made[-1]["measurements"].append({"name": "error", "at": {"item": "two"}, "value": 1e-10})
    [judged] = [c for c in verdict.judge(card, "small", made)["checks"] if c["id"] == "identity"]
    assert (judged["expect"], judged["observed"]) == (expect, "1e-10 <= 1e-09")
    made[-1]["measurements"].pop()
    with pytest.raises(ReproError, match=r"error\[exact, item=two\]` was not measured"):
        verdict.judge(card, "small", made)


def test_too_few_seeds_are_inconclusive():
    made = [r for r in records() if r["seed"] < 2]
    assert verdicts(made) == SOUND | dict.fromkeys(("faster", "better", "worse"), "inconclusive")


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([1.0, 2.0, 3.0], "reproduced"),
        ([-1.0, -2.0, -3.0], "contradicted"),
        ([-1.0, 2.0, 3.0], "inconclusive"),
        ([0.0, 0.0, 0.0], "reproduced"),
    ],
)
def test_interval_rule(margins, expected):
    card = CheckCard(id="c", tier="reduced", why="", expect="0 <= m[a]")
    check = Check(claim="c", parsed=expression.parse(card.expect), **dict(card))
    made = [
        {"arm": "a", "seed": s, "measurements": [{"name": "m", "at": {}, "value": v}]}
        for s, v in enumerate(margins)
    ]
    result = verdict.judge_check(check, verdict.Measurements(made), "")
    assert result.verdict == expected
    assert result.margin == pytest.approx(np.mean(margins))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_interval_contains_the_mean_and_lies_within_the_data(margins):
    low, high = verdict.bootstrap_interval(margins)
    assert min(margins) - 1e-9 <= low <= high <= max(margins) + 1e-9
    assert low - 1e-9 <= np.mean(margins) <= high + 1e-9 or len(set(margins)) > 1


def test_interval_of_three_is_their_range():
    assert verdict.bootstrap_interval([1.0, 5.0, 3.0]) == (1.0, 5.0)


def test_coverage_of_the_interval():
    """Nominal 95 % at n = 20: the percentile bootstrap covers a little less, never far less."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = verdict.bootstrap_interval(rng.normal(size=20))
        covered += low <= 0 <= high
    assert 0.87 <= covered / 200 <= 0.99


def test_smallest_detectable_effect():
    """n = 4, s = 1: (3.182 + 0.978) / 2."""
    x = np.array([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(3 / 4)
    assert verdict.smallest_detectable(list(x)) == pytest.approx(2.080, abs=2e-3)
    assert verdict.smallest_detectable([1.0]) is None


def test_a_claim_takes_its_worst_check():
    results = [
        SimpleNamespace(id=str(i), claim="faster", verdict=v, tier=t, reason="", observed="")
        for i, (v, t) in enumerate([("reproduced", "exact"), ("contradicted", "reduced")])
    ]
    judged = verdict.judge_claims(method(), "small", results)
    assert (judged[0].verdict, judged[0].tier) == ("contradicted", "reduced")
