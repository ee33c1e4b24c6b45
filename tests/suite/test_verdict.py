"""The judge, and planted faults: the affected verdicts change, the others do not."""

import copy
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from repro import store
from repro.errors import ReproError
from repro.suite import comparison, looks, verdict
from repro.suite.cards.checks import Checks
from repro.suite.cards.experiment import Arm, Experiment, Measurement, Scale
from repro.suite.cards.method import Method
from repro.suite.cards.paper import Claim, Paper

SEEDS = 5


def method(identity: str = "error[exact, item=one] <= 1e-9") -> Method:
    claims = [
        Claim(id=i, kind="empirical", statement="", where="Table 1", evidence="paper", best_tier=t)
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
        common = math.exp(rng.normal(scale=0.5))
        for arm, nfe, loss in [("ours", 32, 1.0), ("base", 65, 1.2), ("other", 65, 1.5)]:
            made.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "measurements": [
                        {"name": "nfe", "at": {"steps": 64}, "value": nfe + rng.normal(scale=0.5)},
                        {"name": "loss", "at": {}, "value": loss * common * rng.normal(1, 0.02)},
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
    """The common variation of a seed (a factor of 1.6) hides the effect: only pairing shows it."""
    made = copy.deepcopy(records())
    for record in made:
        if record["arm"] == "ours":
            record["seed"] = (record["seed"] + 2) % SEEDS
    assert verdicts(made) == SOUND | {"better": "inconclusive"}


def test_constant_output():
    made = change(records(), "ours", "loss", lambda _: 1.2)
    made = change(made, "base", "loss", lambda _: 1.2)
    # what a seed has in common no longer cancels against the constant baseline
    assert verdicts(made) == SOUND | {"better": "inconclusive", "worse": "inconclusive"}
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
    with pytest.raises(ReproError, match="arm `other` lacks seed 3"):
        verdicts(made)


def test_seeds_that_agree_to_the_last_bit_are_an_error():
    made = copy.deepcopy(records())
    first, second = [r for r in made if r["arm"] == "ours"][:2]
    second["measurements"] = first["measurements"]
    with pytest.raises(ReproError, match="seeds 0 and 1 of `ours` agree to the last bit"):
        verdicts(made)


def test_timings_that_agree_to_the_last_bit_are_an_error():
    """Nobody measures the same time twice; what is counted beside it may well be the same."""
    toy = method()
    timed = Measurement(timing=True)
    experiment = toy.experiment.model_copy(
        update={"measurements": {**toy.experiment.measurements, "seconds": timed}}
    )
    toy = Method(toy.folder, toy.paper, experiment, toy.expected)
    made = copy.deepcopy(records())
    for record in made:
        if record["arm"] == "other":
            value = 0.25 + record["seed"] / 1000
            record["measurements"] = [{"name": "seconds", "at": {}, "value": value}]
    made = [r for r in made if r["arm"] == "other"]
    verdict._refuse_seeds(toy, "small", made)
    made[1]["measurements"] = made[0]["measurements"]
    with pytest.raises(ReproError, match="seeds 0 and 1 of `other` agree to the last bit"):
        verdict._refuse_seeds(toy, "small", made)


def test_counts_may_agree_and_what_stands_beside_them_may_not():
    """Of twenty tries two seeds may win as many; a mean of thousands has digits of its own."""
    toy = method()
    experiment = toy.experiment.model_copy(
        update={"measurements": {**toy.experiment.measurements, "won": Measurement(counted=True)}}
    )
    toy = Method(toy.folder, toy.paper, experiment, toy.expected)
    counted = {"name": "won", "at": {}, "value": 0.95}
    made = [copy.deepcopy(r) for r in records() if r["arm"] == "other"]
    for record in made:
        record["measurements"] = [counted]
    verdict._refuse_seeds(toy, "small", made)
    for record in made:
        record["measurements"] = [counted, {"name": "loss", "at": {}, "value": 0.123456}]
    with pytest.raises(ReproError, match="seeds 0 and 1 of `other` agree to the last bit"):
        verdict._refuse_seeds(toy, "small", made)


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
    card = method()
    scale = {"small": Scale(seeds=2)}
    card.experiment = card.experiment.model_copy(update={"scales": scale})
    made = [r for r in records() if r["seed"] < 2]
    found = {c["id"]: c["verdict"] for c in verdict.judge(card, "small", made)["claims"]}
    assert found == SOUND | dict.fromkeys(("faster", "better", "worse"), "inconclusive")


def of_one(expect: str, tier: str = "reduced", **arms: list[float]):
    """A method with one check over `m`, and the records of its arms."""
    card = {"run": "methods.toy.arms:run"}
    claim = Claim(
        id="c", kind="empirical", statement="", where="", evidence="paper", best_tier="reduced"
    )
    made = Method(
        Path("toy"),
        Paper(
            slug="toy", short="", title="", authors=[], venue="", year=2026, field="text",
            summary="", claims=[claim],
        ),
        Experiment(
            paper="toy",
            arms={name: Arm(**card) for name in arms},
            measurements={"m": Measurement(), "drawn": Measurement()},
            scales={"small": Scale(seeds=min(3, *(len(v) or 3 for v in arms.values())), most=8)},
        ),
        Checks(claims={"c": {"checks": [
            {"id": f"c-{i}", "tier": tier, "why": "", "expect": text}
            for i, text in enumerate(expect.split("; "))
        ]}}),
    )  # fmt: skip
    measured = [
        {
            "arm": arm,
            "seed": seed,
            "measurements": [
                {"name": "m", "at": {}, "value": value},
                {"name": "drawn", "at": {}, "value": seed},
            ],
        }
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return made, measured


def gated(
    expect: str, preconditions=(), least=None, needs=(), control=(), fixed=(), **arms
) -> dict:
    """One check with its gates, judged; the arms `fixed` are deterministic."""
    made, measured = of_one(expect, **arms)
    for name in fixed:
        made.experiment.arms[name] = Arm(run="methods.toy.arms:run", deterministic=True)
    [card] = made.expected.claims["c"].checks
    card = card.model_copy(update={"least": least, "needs": list(needs), "control": dict(control)})
    made.expected = Checks(
        claims={"c": {"checks": [card.model_dump()]}},
        preconditions={k: {"expect": v, "why": ""} for k, v in dict(preconditions).items()},
    )
    [found] = verdict.judge(made, "small", measured)["checks"]
    return found


def judged(expect: str, **arms: list[float]) -> list[dict]:
    made, measured = of_one(expect, **arms)
    return verdict.judge(made, "small", measured)["checks"]


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([10.0, 11.0, 9.0], "reproduced"),  # T = 17.3
        ([-10.0, -11.0, -9.0], "contradicted"),
        ([1.0, 2.0, 3.0], "inconclusive"),  # T = 3.5: all on one side and yet no evidence
        ([-1.0, 2.0, 3.0], "inconclusive"),
        ([0.0, 0.0, 0.0], "reproduced"),
        ([-1.0, -1.0, -1.0], "contradicted"),
        ([1.0, 1.0], "inconclusive"),
        ([1.0, 2.0, 3.0, 2.0, 2.0], "reproduced"),  # T = 6.3 at the second look
        ([1.0, 2.0, 3.0, 2.0], "inconclusive"),  # four seeds are no look: judged at three
        ([10.0, 11.0, 9.0, -50.0, -50.0], "reproduced"),  # decided at three stays decided
    ],
)
def test_looks(margins, expected):
    [found] = judged("0 <= m[a]", a=margins)
    assert found["verdict"] == expected
    if len(set(margins)) > 1:
        outside = np.sign(found["margin_low"]) + np.sign(found["margin_high"])
        assert outside == {"reproduced": 2, "contradicted": -2, "inconclusive": 0}[expected]


def test_positive_quantities_are_compared_by_their_ratio():
    """Seeds differ tenfold, the ratio does not."""
    [found] = judged("m[a] <= 0.5 * m[b]", a=[1.0, 10.0, 104.0], b=[4.0, 41.0, 400.0])
    assert found["by_ratio"] and found["verdict"] == "reproduced"
    assert found["margin"] == pytest.approx(math.log(2), abs=0.03)
    [found] = judged("m[a] - m[b] <= -1", a=[1.0, 10.0, 104.0], b=[4.0, 41.0, 400.0])
    assert not found["by_ratio"] and found["verdict"] == "inconclusive"
    [found] = judged("m[a] <= m[b]", a=[-1.0, 10.0, 104.0], b=[4.0, 41.0, 400.0])
    assert not found["by_ratio"]


def test_every_link_of_a_minimum_has_to_be_shown():
    values = {"a": [1.0, 1.1, 0.9], "b": [5.0, 5.1, 4.9], "c": [1.5, 1.1, 1.3]}
    assert judged("m[a] < m[b]", **values)[0]["verdict"] == "reproduced"
    [found] = judged("m[a] < min(m[b], m[c])", **values)
    assert (found["verdict"], found["link"]) == ("inconclusive", "m[a] < m[c]")


def test_one_of_several_is_corrected_for_being_chosen():
    """T = 7.3 decides alone (6.97) and not as the best of three."""
    noise = {"b": [1.1, 0.9, 1.0], "c": [0.9, 1.1, 1.0]}
    low = [0.5, 0.55, 0.49]
    x = np.log(1 / np.array(low))
    assert 6.97 < x.mean() / x.std(ddof=1) * math.sqrt(3) < 40
    assert judged("m[a] < 1", a=low, **noise)[0]["verdict"] == "reproduced"
    weak = [0.66, 0.8, 0.72]
    x = np.log(1 / np.array(weak))
    assert 5 < x.mean() / x.std(ddof=1) * math.sqrt(3) < 6.97
    assert judged("m[a] < 1", a=weak, **noise)[0]["verdict"] == "inconclusive"
    fair = [0.62, 0.7, 0.72]
    x = np.log(1 / np.array(fair))
    assert 6.97 < x.mean() / x.std(ddof=1) * math.sqrt(3) < 10
    assert judged("m[a] < 1", a=fair, **noise)[0]["verdict"] == "reproduced"
    best = judged("min(m[a], m[b], m[c]) < 1", a=fair, **noise)
    assert best[0]["verdict"] == "inconclusive"


def test_a_contradiction_is_corrected_over_the_checks_of_its_claim():
    """The same values: alone they contradict, beside nine others they do not."""
    values = {"a": [1.62, 1.45, 1.4], **{f"x{i}": [1.1, 0.9, 1.0] for i in range(9)}}
    assert judged("m[a] < 1", **values)[0]["verdict"] == "contradicted"
    many = "; ".join(["m[a] < 1", *(f"m[x{i}] < 1" for i in range(9))])
    found = judged(many, **values)[0]
    assert (found["verdict"], found["reason"][:7]) == ("inconclusive", "against")


HALF = {"a": [0.5, 0.51, 0.49], "b": [1.0, 1.01, 0.99], "c": [0.52, 0.5, 0.5]}


def test_a_failing_precondition_leaves_nothing_decided():
    ready = {"ready": "m[b] >= 0.995"}
    for expect in ("m[a] < m[b]", "m[b] < m[a]"):
        found = gated(expect, ready, needs=["ready"], **HALF)
        assert found["verdict"] == "inconclusive"
        assert found["reason"] == "precondition `ready` holds for 2 of 3 seeds: 1 >= 0.995"
    assert (
        gated("m[a] < m[b]", {"ready": "m[b] > 0.9"}, needs=["ready"], **HALF)["verdict"]
        == "reproduced"
    )
    assert gated("m[a] < m[b]", ready, **HALF)["verdict"] == "reproduced"  # not needed


def test_a_check_whose_control_holds_as_well_reproduces_nothing():
    found = gated("m[a] < m[b]", control={"a": "c"}, **HALF)
    assert (found["verdict"], found["control"]) == ("inconclusive", "m[c] < m[b]")
    assert found["reason"] == "its control holds as well (m[c] < m[b]: 0.5067 < 1)"
    found = gated("m[a] < 0.8 * m[b]", control={"a": "b"}, **HALF)
    assert (found["verdict"], found["control_observed"]) == ("reproduced", "1 ≥ 0.8")


def test_a_control_that_a_scale_does_not_run_is_none():
    made, measured = of_one("m[a] < m[b]", **HALF)
    card = made.expected.claims["c"].checks[0].model_copy(update={"control": {"a": "c"}})
    made.expected = Checks(claims={"c": {"checks": [card.model_dump()]}})
    preset = Scale(seeds=3, without={"arms": ["c"]})
    made.experiment = made.experiment.model_copy(update={"scales": {"small": preset}})
    [found] = verdict.judge(made, "small", measured)["checks"]
    assert (found["verdict"], found["reason"]) == (
        "inconclusive",
        "its control is not run at this scale",
    )


def test_the_least_effect_is_a_ratio_or_a_difference():
    values = {"a": [0.97, 0.971, 0.969], "b": [1.0, 1.0, 1.0]}
    assert gated("m[a] < m[b]", **values)["verdict"] == "reproduced"
    found = gated("m[a] < m[b]", least=1.05, **values)
    assert found["verdict"] == "inconclusive" and found["by_ratio"]
    assert found["reason"] == comparison.TOO_SMALL and not found["open"]
    none = {"a": [1.001, 0.999, 1.0], "b": [1.0, 1.0, 1.0]}  # no effect that matters, for certain
    assert gated("m[a] < m[b]", least=1.05, **none)["verdict"] == "contradicted"
    turned = gated("m[b] < m[a]", least=1.05, **values)
    assert turned["verdict"] == "contradicted" and not turned["reason"]
    assert found["margin"] == pytest.approx(math.log(1 / 0.97 / 1.05), abs=1e-4)
    low = {"a": [-0.97, -0.971, -0.969], "b": [0.0, 0.0, 0.0]}
    assert gated("m[a] < m[b]", least=0.9, **low)["verdict"] == "reproduced"
    assert gated("m[a] < m[b]", least=1.0, **low)["reason"] == comparison.TOO_SMALL
    assert gated("m[b] < m[a]", least=1.0, **low)["verdict"] == "contradicted"


@pytest.mark.parametrize(("least", "expected"), [(1.02, "reproduced"), (1.05, "inconclusive")])
def test_the_least_effect_holds_for_single_runs_too(least, expected):
    found = gated("m[a] < m[b]", least=least, fixed=("a", "b"), a=[0.97], b=[1.0])
    assert found["verdict"] == expected and found["by_ratio"]


def test_open_checks_ask_for_further_seeds():
    made, measured = of_one(
        "m[a] < m[b]; m[c] < 9", a=[1.0, 2.0, 0.5], b=[1.5, 1.4, 2.0], c=[1.0, 1.1, 1.0]
    )
    asked = looks.wanted(made, "small", verdict.judge(made, "small", measured))
    assert asked == {arm: {"seeds": 5, "because": ["c-0"]} for arm in ("a", "b")}


def test_seeds_are_not_asked_for_what_they_cannot_decide():
    made, measured = of_one("m[a] < m[b]", a=[1.0, 2.0, 0.5], b=[1.5, 1.4, 2.0])
    [card] = made.expected.claims["c"].checks
    made.expected = Checks(
        claims={"c": {"checks": [{**card.model_dump(), "needs": ["ready"]}]}},
        preconditions={"ready": {"expect": "m[a] < 0", "why": ""}},
    )
    judged = verdict.judge(made, "small", measured)
    assert judged["checks"][0]["verdict"] == "inconclusive"
    assert looks.wanted(made, "small", judged) == {}


def test_further_seeds_are_run_and_never_more_than_the_scale_allows(tmp_path):
    made, measured = of_one("m[a] < 1", a=[1.0, 2.0, 0.5, 1.0, 1.5, 0.2, 1.0, 2.0])
    assert made.seeds("small", "a") == [0, 1, 2]
    for seeds in (5, 8):
        now = [r for r in measured if r["seed"] in made.seeds("small", "a")]
        told = looks.extend(made, "small", tmp_path, verdict.judge(made, "small", now))
        assert told == [f"toy/a: {seeds} seeds instead of {len(now)}, open: c-0"]
        made = looks.planned(made, "small", tmp_path)
        assert made.seeds("small", "a") == list(range(seeds))
    assert looks.extend(made, "small", tmp_path, verdict.judge(made, "small", measured)) == []
    assert (
        looks.of_runs(of_one("m[a] < 1", a=[])[0], "small", measured).seeds("small", "a")[-1] == 7
    )
    with pytest.raises(ReproError, match="toy/a cannot have 20 seeds"):
        made.with_seeds("small", {"a": 20})


@pytest.mark.parametrize(
    "content", [{"a": 3}, {"a": {"seeds": 99}}, {"b": {"seeds": 5}}, {"a": {"seeds": None}}]
)
def test_a_plan_of_seeds_without_meaning_is_named(tmp_path, content):
    made, _ = of_one("m[a] < 1", a=[])
    path = looks.path_of(tmp_path, "small", "toy")
    store.write_sealed(path, content)
    with pytest.raises(ReproError, match="toy.json: .*delete it"):
        looks.planned(made, "small", tmp_path)
    path.write_text(path.read_text().replace("5", "6").replace("3", "4").replace("9", "8"))
    with pytest.raises(ReproError, match="toy.json: .*delete it"):
        looks.planned(made, "small", tmp_path)


def test_smallest_detectable_effect():
    """n = 5, s = 1: (3.82 + 0.941) / √5."""
    x = np.array([-1.0, 1.0, -1.0, 1.0, 0.0])
    assert verdict.smallest_detectable(list(x)) == pytest.approx(4.761 / math.sqrt(5), abs=2e-3)
    assert verdict.smallest_detectable([1.0]) is None


def test_a_claim_takes_its_worst_check():
    results = [
        SimpleNamespace(id=str(i), claim="faster", verdict=v, tier=t, reason="", observed="")
        for i, (v, t) in enumerate([("reproduced", "exact"), ("contradicted", "reduced")])
    ]
    judged = verdict.judge_claims(method(), "small", results)
    assert (judged[0].verdict, judged[0].tier) == ("contradicted", "reduced")


@pytest.mark.parametrize("tier", ["exact", "structural"])
def test_an_identity_has_to_hold_at_every_seed(tier):
    made, measured = of_one("m[a] <= 0.5", tier=tier, a=[0.1, 0.2, 0.9])
    [found] = verdict.judge(made, "small", measured)["checks"]
    assert found["verdict"] == "contradicted"
    made, measured = of_one("m[a] <= 0.5", tier=tier, a=[0.1, 0.2, 0.3])
    [found] = verdict.judge(made, "small", measured)["checks"]
    assert found["verdict"] == "reproduced"
