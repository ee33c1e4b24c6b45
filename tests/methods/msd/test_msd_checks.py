"""Checks hold where the claims do, and fail for their controls and where nothing is gained."""

from __future__ import annotations

import itertools

import pytest

from repro.coordinates import at_key
from repro.suite import verdict
from repro.suite.cards import library

METHOD = library.load("msd")
REDUCED = [check for _, check in METHOD.expected.each() if check.tier == "reduced"]
IMAGES = [check.id for check in REDUCED if "frechet" in check.expect]
EQUALITIES = {"same-latency", "toy-filtered"}
"""Claims that nothing is lost, which a world without gains leaves true."""

WIDE = {
    (1, "plain", 1): 1.0, (2, "plain", 1): 0.95, (4, "plain", 1): 0.9, (8, "plain", 1): 0.85,
    (1, "plain", 4): 0.97, (4, "plain", 2): 0.88, (4, "random", 1): 0.93, (4, "filtered", 1): 0.9,
    (4, "small-batch", 1): 0.96, (1, "tsm", 1): 0.9, (4, "tsm", 1): 0.8, (4, "post", 1): 0.8,
}  # fmt: skip
NARROW = {(1, 1): 1.2, (1, 4): 1.1, (4, 1): 1.0}
SMALLER = {"plain": 1.3, "tsm": 0.9, "post": 1.1}
CONSISTENCY = {1: 1.2, 2: 1.15, 4: 1.1, 8: 1.05}
FRECHET = {
    "teacher": {None: 20}, "start": {"dm": 200, "adm": 200}, "small-start": {"dm": 400},
    "students-1": {"dm": 40, "adm": 36}, "students-1-long": {"dm": 39, "adm": 35},
    "students-2": {"dm": 38, "adm": 34}, "students-5": {"dm": 35, "adm": 32},
    "small-tsm": {"dm": 50, "adm": 50}, "small-random": {"dm": 120, "adm": 120},
}  # fmt: skip
LATENCY = {"42": 0.8, "71": 0.6, "routed": 1.0}


def distance(arm, at):
    if "of" in at:
        return {"exact": 0.1, "teacher": 0.11, "shuffled": 1.7, "untrained": 1.9}[at["of"]]
    students, times, variant = int(at["students"]), int(at["times"]), at["variant"]
    return {
        "toy-wide": lambda: WIDE[students, variant, times],
        "toy-narrow": lambda: NARROW[students, times],
        "toy-smaller": lambda: SMALLER[variant],
        "toy-unspecialised": lambda: 0.9 if variant == "tsm" else 1.0,
        "toy-consistency": lambda: CONSISTENCY[students],
        "toy-consistency-unspecialised": lambda: 1.2,
    }[arm]()


def where_the_claims_hold(arm, name, at):
    if name == "l1":
        return distance(arm, at)
    if name == "frechet":
        return FRECHET[arm][at.get("stage")]
    if name in ("precision", "recall"):
        return 0.7 if arm == "teacher" else 0.5
    if name == "latency_ratio":
        return 4 if arm == "latency-all" else LATENCY[at["net"]]
    if name == "between":
        return 0.7 if at["parts"] == "similar" else 0.2
    return 0.0


def where_nothing_is_gained(arm, name, at):
    """Parts, starts, totals and sizes change nothing."""
    if name == "l1" and "of" not in at:
        return 1.0
    if name == "frechet" and arm not in ("teacher", "start", "small-start"):
        return 40
    if name == "latency_ratio" and arm == "latency":
        return 1.0
    return where_the_claims_hold(arm, name, at)


def verdicts(world, scale="small"):
    records = []
    for arm in METHOD.arms(scale):
        found = {}  # grids of a measurement may share places
        for name in METHOD.experiment.measurements:
            for grid in METHOD.grids(scale, arm, name):
                for values in itertools.product(*grid.values()):
                    at = dict(zip(grid, values, strict=True))
                    value = world(arm, name, at)
                    found[name, at_key(at)] = {"name": name, "at": at, "value": value}
        for seed in METHOD.seeds(scale, arm):
            # Seeds of a random arm never agree to the last bit.
            varied = [m | {"value": m["value"] * (1 + 1e-9 * seed)} for m in found.values()]
            records.append({"arm": arm, "seed": seed, "measurements": varied})
    return {check["id"]: check for check in verdict.judge(METHOD, scale, records)["checks"]}


def test_checks_hold_where_the_claims_do():
    found = verdicts(where_the_claims_hold)
    assert {c.id: found[c.id]["reason"] for c in REDUCED} == {c.id: "" for c in REDUCED}
    assert {found[c.id]["verdict"] for c in REDUCED} == {"reproduced"}


def test_no_check_of_a_gain_holds_where_nothing_is_gained():
    found = verdicts(where_nothing_is_gained)
    held = {c.id for c in REDUCED if found[c.id]["verdict"] == "reproduced"}
    assert held <= EQUALITIES


@pytest.mark.parametrize("check", REDUCED, ids=lambda check: check.id)
def test_every_reduced_check_has_a_control_that_fails(check):
    assert check.control
    found = verdicts(where_the_claims_hold)[check.id]
    assert found["control"] and found["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("check", "arm"),
    [("toy-gain", "toy-unspecialised"), ("same-latency", "latency-all")],
)
def test_a_control_that_holds_as_well_leaves_nothing_reproduced(check, arm):
    def control_as_good(which, name, at):
        return where_the_claims_hold(
            {"toy-unspecialised": "toy-wide", "latency-all": "latency"}[arm]
            if which == arm
            else which,
            name,
            at,
        )

    found = verdicts(control_as_good)[check]
    assert found["verdict"] == "inconclusive" and found["reason"].startswith("its control holds")


def test_students_without_variety_decide_nothing():
    def collapsed(arm, name, at):
        lost = name == "recall" and arm != "teacher"
        return 0.1 if lost else where_the_claims_hold(arm, name, at)

    found = verdicts(collapsed)
    assert {found[c]["verdict"] for c in IMAGES} == {"inconclusive"}
    assert all(found[c]["reason"].startswith("precondition") for c in IMAGES)


def test_a_single_student_that_still_learns_decides_nothing_of_the_ablation():
    def unsettled(arm, name, at):
        longer = arm == "toy-wide" and name == "l1" and at.get("times") == "4"
        return 0.5 if longer else where_the_claims_hold(arm, name, at)

    found = verdicts(unsettled)
    for check in ("toy-gain", "toy-not-the-batch"):
        assert found[check]["reason"].startswith("precondition `one-student-settled`")
    assert found["toy-monotone"]["verdict"] == "reproduced"


def test_students_that_do_not_know_their_classes_decide_nothing():
    def lost(arm, name, at):
        return 1.0 if at.get("of") == "shuffled" else where_the_claims_hold(arm, name, at)

    found = verdicts(lost)
    plane = [c.id for c in REDUCED if "l1" in c.expect and c.id != "toy-smaller-post"]
    assert {found[c]["verdict"] for c in plane} == {"inconclusive"}


@pytest.mark.parametrize(
    ("points", "precondition"), [(0.7, "teacher-ahead`"), (0.3, "precondition `teacher-exact`")]
)
def test_a_teacher_that_is_no_better_decides_nothing(points, precondition):
    def late(arm, name, at):
        own = arm == "toy-teacher" and at.get("of") == "teacher"
        return points if own else where_the_claims_hold(arm, name, at)

    found = verdicts(late)
    plane = [c.id for c in REDUCED if "l1" in c.expect]
    assert {found[c]["verdict"] for c in plane} == {"inconclusive"}
    assert all(precondition in found[c]["reason"] for c in plane)


def test_only_what_the_paper_printed_stands_as_its_number():
    nobodys = {claim.id for claim in METHOD.paper.claims if claim.kind in ("code", "ours")}
    for claim in METHOD.paper.claims:
        assert claim.id not in nobodys or claim.baseline is claim.method is None
    for claim, check in METHOD.expected.each():
        assert not check.comparable
        assert check.paper is None or claim not in nobodys
