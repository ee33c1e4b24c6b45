"""Verdicts in words and effects on one axis, for several shapes of expressions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from repro.suite import expression, verdict
from repro.suite.cards.experiment import Experiment
from repro.suite.report.formatting import number
from repro.suite.report.site import drawing, effects, sentences
from repro.suite.report.site.effects import Effect
from repro.suite.report.site.evidence import Evidence

EXPERIMENT = Experiment.model_validate(
    {
        "paper": "p",
        "arms": {
            "ddim": {"run": "m:f", "title": "uniform DDIM", "baseline": True},
            "search": {"run": "m:f", "title": "searched steps"},
        },
        "measurements": {
            "fid": {"title": "FID", "direction": "lower"},
            "loss": {"title": "test loss", "unit": "nats", "format": ".3f"},
            "params": {"title": "parameters", "format": ",.0f"},
            "time_ratio": {"title": "time over the reference"},
        },
        "scales": {"small": {}},
    }
)
NOISE = (-0.01, 0.0, 0.01)


def judged(expect: str, values: dict[str, float], least=None, tier="reduced", reason=None):
    """The evidence of a check whose measurements have these means, with a little noise."""
    parsed = expression.parse(expect)
    check = verdict.plain("c", parsed, tier=tier, least=least)
    random = tier == "reduced"
    lookups = [lambda r, e=e: values[str(r)] * (1 + (e if r.arm == "search" else 0)) for e in NOISE]
    found = verdict.Evaluated(check, lookups if random else lookups[1:2], random)
    if random:
        decision = verdict.of_comparisons([found], 3)[0]
    else:
        decision = verdict.of_identity(found)
    result = vars(verdict.result(found, decision, "", None))
    if reason:
        result |= {"verdict": "inconclusive", "reason": reason}

    def mean(node):
        return float(np.mean([expression.value(node, one, expect) for one in found.lookups]))

    return Evidence(result, check, decision.deciding, mean, [], None, "")


def said(*arguments, **given) -> str:
    return str(sentences.sentence(judged(*arguments, **given), EXPERIMENT))


S4, D4 = "fid[search, steps=4]", "fid[ddim, steps=4]"


@pytest.mark.parametrize(
    ("expect", "values", "given", "words"),
    [
        (
            f"{S4} < {D4}",
            {S4: 48.9, D4: 26.9},
            {"least": 1.05},
            "FID (4 steps): 48.9 for searched steps against 26.9 for uniform DDIM; predicted lower "
            "by a factor of 1.05 or more, came out the other way.",
        ),
        (
            f"{D4} / {S4} >= 2",
            {S4: 10, D4: 30},
            {},
            "FID (4 steps): 10 for searched steps against 30 for uniform DDIM; predicted lower by "
            "a factor of 2 or more, and so it is.",
        ),
        (
            f"{S4} <= 0.5 * {D4}",
            {S4: 10, D4: 15},
            {},
            "FID (4 steps): 10 for searched steps against 15 for uniform DDIM; predicted lower by "
            "a factor of 2 or more, but falls short.",
        ),
        (
            f"{S4} <= 1.1 * {D4}",
            {S4: 10, D4: 15},
            {},
            "FID (4 steps): 10 for searched steps against 15 for uniform DDIM; predicted higher by "
            "a factor of 1.1 at most, and so it is.",
        ),
        (
            "loss[search, schedule=cosine] - loss[search, schedule=linear] <= 0.02",
            {
                "loss[search, schedule=cosine]": 2.0,
                "loss[search, schedule=linear]": 2.5,
            },
            {},
            "Test loss (searched steps): 2.000 nats for cosine against 2.500 nats for linear; "
            "predicted higher by 0.02 at most, and so it is.",
        ),
        (
            f"{S4} <= max({D4}, fid[ddim, steps=8])",
            {S4: 10, D4: 15, "fid[ddim, steps=8]": 9},
            {},
            "FID (4 steps): 10 for searched steps against 15 for uniform DDIM; predicted not "
            "higher, and so it is.",
        ),
        (
            "params[search] == 162265682",
            {"params[search]": 162265682},
            {"tier": "structural"},
            "Parameters of searched steps: 162,265,682; predicted exactly that, and so it is.",
        ),
        (
            "params[search] == 12",
            {"params[search]": 13},
            {"tier": "structural"},
            "Parameters of searched steps: 13; predicted exactly 12, but it is not.",
        ),
        (
            "abs(params[search] / 200 - 1) <= 0.03",
            {"params[search]": 201},
            {"tier": "structural"},
            "Parameters of searched steps: 201; predicted 200 within 3 %, and so it is.",
        ),
        (
            f"abs({S4} - {D4}) <= 5",
            {S4: 10, D4: 12},
            {},
            "FID (4 steps): 10 for searched steps against 12 for uniform DDIM; predicted within 5 "
            "of each other, and so it is.",
        ),
        (
            "0.4 <= time_ratio[search] <= 0.6",
            {"time_ratio[search]": 0.5},
            {},
            "Time over the reference of searched steps: 0.5; predicted between 0.4 and 0.6, and so "
            "it is.",
        ),
        (
            f"{S4} < {D4}",
            {S4: 10, D4: 15},
            {"reason": "precondition `x` holds for 0 of 3 seeds: 1 > 0"},
            "FID (4 steps): 10 for searched steps against 15 for uniform DDIM; predicted lower, "
            "but a precondition fails.",
        ),
        (
            f"{S4} < {D4}",
            {S4: 10, D4: 10},
            {"least": 1.05, "reason": "|T| = 2"},
            "FID (4 steps): 10 for searched steps against 10 for uniform DDIM; predicted lower by "
            "a factor of 1.05 or more, undecided at 3 seeds.",
        ),
        (
            f"({S4} - fid[search, steps=8]) / {D4} <= 0.5 * loss[search] + loss[ddim]",
            {S4: 10, "fid[search, steps=8]": 9, D4: 10, "loss[search]": 3, "loss[ddim]": 1},
            {},
            "(FID (searched steps), 4 steps less 8 steps) over FID of uniform DDIM (4 steps): 0.1 "
            "against 2.500 nats for 0.5 times test loss of searched steps plus test loss of "
            "uniform DDIM; predicted not higher, and so it is.",
        ),
    ],
)
def test_a_verdict_in_words(expect, values, given, words):
    assert said(expect, values, **given) == words


def test_a_long_term_stands_as_it_is_written():
    names = [f"fid[search, steps={n}]" for n in (1, 2, 3, 4)]
    text = said(f"{' + '.join(names)} <= {D4}", {**dict.fromkeys(names, 1.0), D4: 8.0})
    assert text.startswith(f"`{' + '.join(names)}`: 4 against 8 for FID of uniform DDIM")


# Effects ----------------------------------------------------------------------------------------


def shown(expect, values, paper="", numbers=None, **given) -> Effect | None:
    return effects.effect(judged(expect, values, **given), paper, numbers)


@pytest.mark.parametrize(
    ("expect", "values", "least", "value", "threshold"),
    [
        # a ratio of 4 where 2 is the least that matters
        (f"{S4} < {D4}", {S4: 10, D4: 40}, 2, 2, 1),
        (f"{S4} <= 0.5 * {D4}", {S4: 10, D4: 40}, None, 2, 1),
        (f"{D4} / {S4} >= 2", {S4: 10, D4: 40}, None, 2, 1),
        (f"{D4} >= 2 * {S4}", {S4: 10, D4: 20}, None, 1, 1),
        # the other way round
        (f"{S4} < {D4}", {S4: 20, D4: 10}, 2, -1, 1),
        # a loss of up to a factor of 2 is allowed
        (f"{S4} <= 2 * {D4}", {S4: 20, D4: 10}, None, -1, -1),
        # differences
        ("loss[ddim] - loss[search] >= 0.5", {"loss[ddim]": 3, "loss[search]": 2}, None, 2, 1),
        ("loss[search] - loss[ddim] <= 0.5", {"loss[ddim]": 2, "loss[search]": 2}, None, 0, -1),
        (f"abs({S4} - {D4}) <= 4", {S4: 10, D4: 12}, None, -0.5, -1),
        # a measurement that is a ratio
        ("time_ratio[search] <= 0.5", {"time_ratio[search]": 0.25}, None, 2, 1),
    ],
)
def test_effects_are_in_units_of_the_least_that_matters(expect, values, least, value, threshold):
    found = shown(expect, values, least=least)
    assert found.value == pytest.approx(value, abs=0.02)
    assert found.threshold == threshold
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("expect", "values"),
    [
        (f"{S4} < {D4}", {S4: 10, D4: 40}),  # names no least effect
        (f"{S4} <= 20", {S4: 10}),  # a bound: nothing to compare with
        ("0.1 <= loss[search] <= 5", {"loss[search]": 1}),
    ],
)
def test_what_names_no_size_is_not_on_the_axis(expect, values):
    assert shown(expect, values) is None


def test_an_effect_is_decided_where_its_interval_leaves_the_threshold():
    for high in (21, 20.5, 30, 10):
        evidence = judged(f"{S4} < {D4}", {S4: 10, D4: high}, least=2)
        found = effects.effect(evidence, "", None)
        assert (found.low > found.threshold) == (evidence.result["verdict"] == "reproduced")
        assert (found.high < found.threshold) == (evidence.result["verdict"] == "contradicted")


@pytest.mark.parametrize(
    ("expect", "paper", "numbers", "ratio"),
    [
        (f"{S4} < {D4}", "FID 3.03 against 4.53", None, 4.53 / 3.03),
        (f"{D4} > {S4}", "44.75 and 41.84", None, 44.75 / 41.84),
        (f"{S4} < {D4}", "1.20 < 1.28", None, 1.28 / 1.20),
        (f"{S4} < {D4}", "5.0 against 4.0", None, 4 / 5),
        (f"{S4} < {D4}", "", (8.0, 4.0), 2),
        ("time_ratio[search] <= 0.5", "0.4", None, 1 / 0.4),
        (f"{S4} < {D4}", "better", None, None),
        (f"{S4} < {D4}", "FID 5.64 against failure", None, None),
        (f"{S4} < {D4}", "3.58", None, None),
    ],
)
def test_the_papers_effect(expect, paper, numbers, ratio):
    values = {S4: 10, D4: 40, "time_ratio[search]": 0.25}
    least = None if "<=" in expect else 2
    found = shown(expect, values, paper, numbers, least=least)
    wanted = None if ratio is None else pytest.approx(math.log(ratio) / math.log(2))
    assert found.paper == wanted


def test_claims_give_their_numbers_to_checks_that_have_none():
    claim = SimpleNamespace(kind="empirical", baseline=8.0, method=4)
    assert effects.claim_numbers(claim, {}, own=False) == (8.0, 4)
    assert effects.claim_numbers(claim, {}, own=True) is None
    for other in ({"kind": "ours"}, {"method": "better"}, {"baseline": None}):
        assert effects.claim_numbers(SimpleNamespace(**{**vars(claim), **other}), {}, False) is None


def test_one_axis_for_all_drawings():
    places = [drawing.place(v, 300) for v in (-1e9, -30, -1, 0, 1, 100, 1e9)]
    assert places == sorted(places)
    assert places[0] == places[1] == 2 and places[-1] == places[-2] == 298
    low, none, high = places[2:5]
    assert none - low == pytest.approx(high - none, abs=0.2)


def test_a_drawing_says_what_it_shows():
    effect = Effect(2.0, 1.5, 2.5, 1.0, (1.9, 2.1), paper=3.0)
    svg = drawing.large(drawing.Mark(effect, "reproduced"))
    label = svg.partition('aria-label="')[2].partition('"')[0]
    assert label == (
        "reproduced: 2 times the least that matters [1.5, 2.5]; the claim holds beyond 1; the "
        "paper&#39;s own effect is 3"
    )
    assert svg.count('class="seed"') == 2 and svg.count('class="pp"') == 1
    beyond = Effect(200.0, -50.0, 300.0, 1.0, ())
    assert drawing.small(drawing.Mark(beyond, "inconclusive")).count('class="ar"') == 2
    assert number(effect.value) == "2"
