"""Checks hold where the searches find what the paper says, and fail where they find nothing."""

import itertools

import pytest

from repro.suite import verdict
from repro.suite.cards import library

METHOD = library.load("autodiffusion")
REDUCED = [check for _, check in METHOD.expected.each() if check.tier == "reduced"]
STRIDE = {4: 1.0, 6: 0.5, 10: 0.25}
SEARCHED = {4: 0.15, 6: 0.2, 10: 0.18}
BLIND = 200.0
SAMPLERS = {"ddim-more-steps", "plms-more-steps", "dpm-more-steps"}
"""Checks of the baselines, which no search has a part in."""
UNIFORM = {4: 138.66, 5: 60.0, 6: 23.0, 10: 9.0, 20: 5.0}
FRECHET = {"searched": 18.0, "searched-guided": 18.0, "random-search": 30.0, "joint": 12.0,
           "random-search-guided": 30.0, "searched-plms": 18.0, "searched-dpm": 18.0,
           "transfer": 20.0, "transfer-guided": 20.0,
           "floor": 1.7, "grids": 150.0, "grids-guided": 150.0}  # fmt: skip


def distance(arm, at):
    """On the mixture."""
    kind, steps = at.get("method", at.get("change")), int(at.get("steps", 4))
    fixed = {"real": 0.002, "uniform-100": 0.005, "uniform": 1.0, "none": 0.15}
    if kind in fixed:
        return fixed[kind]
    if kind in ("stride", "inclusive", "quadratic"):
        return STRIDE[steps] * (1 if kind == "stride" else 1.5)
    if arm.endswith("-blind"):
        return 1.5 * STRIDE[steps]
    return SEARCHED[steps] * (1.2 if kind == "random" else 1)


def frechet(arm, at):
    """Of images."""
    if arm.startswith("blind"):
        return BLIND
    if arm == "transfer-guidance":
        return 20.0 if at["found"] == at["used"] else 30.0
    if arm == "random-blocks":
        return {"stride": 190.0, "found": 50.0}[at["steps"]]
    if arm in FRECHET:
        return FRECHET[arm]
    return UNIFORM.get(int(at.get("nfe", 4)), 4.0)


FIXED = {"accuracy": 0.8, "evaluations": 500.0, "dropped": 9.0}


def as_the_paper_has_it(arm, name, at):
    if name == "distance":
        return distance(arm, at)
    if name == "frechet":
        return frechet(arm, at)
    if name == "time_ratio":
        return 1 - 0.06 * int(at["blocks"]) if at["of"] == "dropped" else 1.0
    if name == "found":
        return {"evolution": 1.0, "random": 0.44}[at["method"]]
    return FIXED.get(name, 0.0)


def as_nothing_is_found(arm, name, at):
    """Whatever is searched for is the uniform chain, and blocks cost nothing."""
    if name == "distance" and at.get("method") in ("evolution", "random"):
        return STRIDE[int(at.get("steps", 4))]
    if name == "distance" and "change" in at:
        return STRIDE[4]
    if name == "time_ratio":
        return 1.0
    if name == "frechet" and arm not in ("floor", "grids", "grids-guided"):
        return UNIFORM.get(int(at.get("nfe", 4)), 4.0)
    if name == "found":
        return 0.44
    return as_the_paper_has_it(arm, name, at)


def verdicts(world, scale="gpu"):
    records = []
    for arm in METHOD.arms(scale):
        measured = []
        for name in METHOD.experiment.measurements:
            for grid in METHOD.grids(scale, arm, name):
                for values in itertools.product(*grid.values()):
                    at = dict(zip(grid, values, strict=True))
                    measured.append((name, at, world(arm, name, at)))
        records += [
            {
                "arm": arm,
                "seed": seed,
                "measurements": [
                    {"name": name, "at": at, "value": value * (1 + seed * 1e-6)}
                    for name, at, value in measured
                ],
            }
            for seed in METHOD.seeds(scale, arm)
        ]
    return {check["id"]: check for check in verdict.judge(METHOD, scale, records)["checks"]}


@pytest.fixture(scope="module")
def right():
    return verdicts(as_the_paper_has_it)


def test_checks_hold_where_the_paper_is_right(right):
    assert {c.id: right[c.id]["verdict"] for c in REDUCED} == {c.id: "reproduced" for c in REDUCED}


def test_no_check_holds_where_nothing_is_found():
    found = verdicts(as_nothing_is_found)
    assert {c.id for c in REDUCED if found[c.id]["verdict"] == "reproduced"} == SAMPLERS


@pytest.mark.parametrize("check", REDUCED, ids=lambda check: check.id)
def test_every_reduced_check_has_a_control_that_fails(check, right):
    assert check.control
    assert right[check.id]["control"] and right[check.id]["verdict"] == "reproduced"


def test_a_blind_search_that_does_as_well_leaves_nothing_reproduced():
    def lucky(arm, name, at):
        if name == "frechet" and arm.startswith("blind"):
            return 12.0 if at.get("found") != "guided" else 40.0
        if name == "distance" and arm.endswith("-blind"):
            return as_the_paper_has_it(arm.removesuffix("-blind"), name, at)
        return as_the_paper_has_it(arm, name, at)

    found = verdicts(lucky)
    blind = [c for c in REDUCED if any("blind" in arm for arm in c.control.values())]
    assert len(blind) > 20
    for check in blind:
        assert found[check.id]["reason"].startswith("its control holds as well"), check.id


@pytest.mark.parametrize(
    "precondition, arm, name, value",
    [
        ("clip-then-guide", "guided-order", "error", 0.1),
        ("classifier-tells", "classifier-accuracy", "accuracy", 0.3),
        ("few-steps-cost", "ddim", "frechet", 10.0),
        ("few-steps-cost-guided", "ddim-guided", "frechet", 30.0),
        ("enough-evaluations", "searched", "evaluations", 32.0),
        ("enough-evaluations-guided", "searched-guided", "evaluations", 32.0),
        ("search-gains", "searched", "frechet", 138.0),
        ("search-gains-guided", "searched-guided", "frechet", 138.0),
        ("blocks-left-out", "joint", "dropped", 0.0),
        ("floor-far-below", "floor", "frechet", 19.0),
        ("floor-far-below-guided", "floor", "frechet", 19.0),
        ("floor-far-below-samplers", "floor", "frechet", 19.0),
        ("floor-far-below-own-samplers", "floor", "frechet", 19.0),
    ],
)
def test_preconditions_gate(precondition, arm, name, value):
    def world(other, measurement, at):
        if (other, measurement) == (arm, name):
            return value
        return as_the_paper_has_it(other, measurement, at)

    found = verdicts(world)
    gated = [check for check in REDUCED if precondition in check.needs]
    assert gated
    for check in gated:
        assert found[check.id]["verdict"] == "inconclusive", check.id
        assert any(f"precondition `{need}`" in found[check.id]["reason"] for need in check.needs)


def test_every_precondition_is_needed():
    needed = {need for _, check in METHOD.expected.each() for need in check.needs}
    assert needed == set(METHOD.expected.preconditions)


def test_only_what_the_paper_printed_stands_as_its_number():
    apart = {claim.id for claim in METHOD.paper.claims if claim.kind in ("code", "ours")}
    for claim in METHOD.paper.claims:
        assert claim.id not in apart or claim.baseline is claim.method is None
    for claim, check in METHOD.expected.each():
        assert not check.comparable
        assert check.paper is None or claim not in apart
