"""Checks hold where the paper is right, and fail where its parts add nothing."""

import itertools

import pytest

from repro.suite import verdict
from repro.suite.cards import library

METHOD = library.load("slimflow")
REDUCED = {check.id: check for _, check in METHOD.expected.each() if check.tier == "reduced"}
SCALE = "gpu"
"""Where every reduced check is judged."""
ONE_STEP = {
    "naive": 12.09, "distil-scratch": 14.0, "distil-l2": 7.9, "distil-l2-long": 7.8,
    "guided-l2": 7.3, "guided-whole-range": 7.35, "guided-teacher-step": 7.9,
    "distil-feature": 6.43, "distil-feature-long": 6.4, "guided-feature": 5.81,
    "distil-teacher-pairs": 6.2, "guided-teacher-pairs": 6.0,
    "consistency-feature": 7.6, "consistency-l2": 9.5,
    "direct": 300.0, "teacher": 250.0, "floor": 0.1,
}  # fmt: skip
"""FIDs of the paper where it has them."""
MANY_STEPS = {
    "teacher": 2.58, "direct": 9.0, "reflow-plain": 5.84, "reflow-plain-long": 5.8,
    "reflow-flip": 5.06, "reflow-anneal": 5.46, "reflow-both": 4.51, "reflow-cosine": 4.8,
    "reflow-exponential": 4.7,
}  # fmt: skip
NETWORKS = {
    "frechet_digits": {"teacher": 300.0, "wide": 10.0, "narrow": 12.0, "scratch": 14.0,
                       "from-flow": 7.0},
    "straightness": {"teacher": 2.5, "wide": 0.8, "narrow": 1.2},
    "latency_ratio": {"cifar-15.7": 0.36, "cifar-27.9": 0.64, "edm-cifar": 2.0},
}  # fmt: skip


def as_the_paper_has_it(arm, name, at):
    if name == "frechet":
        if arm.startswith("reflow-") and at["nfe"] in (1, "1"):
            return 15.0
        return ONE_STEP[arm] if at.get("nfe", 1) in (1, "1") else MANY_STEPS[arm]
    if name in NETWORKS and "network" in at:
        return NETWORKS[name][at["network"]]
    if name == "straightness":
        return {"teacher": 11.0, "direct": 8.0}.get(arm, 4.0)
    return 0.01 if name == "asymmetry" else 0.0


def where_no_part_helps(arm, name, at):
    """Every flow is the first flow, every student the naive one, and no network is faster."""
    if name == "frechet" and arm not in ("teacher", "floor"):
        return 9.0
    if name in ("frechet_digits", "straightness", "latency_ratio"):
        return 9.0
    return as_the_paper_has_it(arm, name, at)


def judged(world):
    records = []
    for arm in METHOD.arms(SCALE):
        measured = []
        for name in METHOD.experiment.measurements:
            for grid in METHOD.grids(SCALE, arm, name):
                for values in itertools.product(*grid.values()):
                    at = dict(zip(grid, values, strict=True))
                    measured.append({"name": name, "at": at, "value": world(arm, name, at)})
        for seed in METHOD.seeds(SCALE, arm):
            # Seeds that agree to the last bit are refused.
            scaled = [m | {"value": m["value"] * (1 + 1e-6 * seed)} for m in measured]
            records.append({"arm": arm, "seed": seed, "measurements": scaled})
    return {check["id"]: check for check in verdict.judge(METHOD, SCALE, records)["checks"]}


def test_checks_hold_where_the_paper_is_right():
    found = judged(as_the_paper_has_it)
    assert {name: found[name]["verdict"] for name in REDUCED} == dict.fromkeys(
        REDUCED, "reproduced"
    )


def test_no_check_holds_where_no_part_helps():
    found = judged(where_no_part_helps)
    assert [name for name in REDUCED if found[name]["verdict"] == "reproduced"] == []


@pytest.mark.parametrize("name", REDUCED)
def test_every_reduced_check_has_a_control_that_is_run_somewhere(name):
    assert REDUCED[name].control
    assert judged(as_the_paper_has_it)[name]["control"]


@pytest.mark.parametrize(
    ("changed", "check", "reason"),
    [
        ({"distil-l2-long": 7.2}, "two-step-l2", "its control holds as well"),
        ({"distil-feature-long": 5.8}, "two-step-feature", "its control holds as well"),
        ({"distil-l2": 15.5}, "two-step-l2", "precondition `l2-beats-its-start`"),
        ({"naive": 4.4}, "recipe-feature", "precondition `flow-beats-naive`"),
        ({"consistency-l2": 13.0}, "consistency-l2", "precondition `consistency-l2-trained`"),
        ({"reflow-plain-long": 5.0}, "both-parts", "precondition `flow-converged`"),
        ({"teacher": 1.9}, "annealing-with-flips", "precondition `flow-near-teacher`"),
    ],
)  # fmt: skip
def test_what_the_paper_takes_for_granted_is_required(changed, check, reason):
    def world(arm, name, at):
        many = arm.startswith(("reflow-", "teacher"))
        if name == "frechet" and arm in changed and (at["nfe"] not in (1, "1")) == many:
            return changed[arm]
        return as_the_paper_has_it(arm, name, at)

    found = judged(world)[check]
    assert found["verdict"] == "inconclusive" and found["reason"].startswith(reason)


def test_a_teacher_that_does_not_mirror_leaves_mirrored_pairs_open():
    def world(arm, name, at):
        return 0.5 if name == "asymmetry" else as_the_paper_has_it(arm, name, at)

    found = judged(world)
    assert found["mirrored-pairs"]["reason"].startswith("precondition `teacher-mirrors`")
    assert found["annealing-alone"]["verdict"] == "reproduced"


def test_distances_of_the_number_of_samples_decide_nothing():
    def few(arm, name, at):
        return 4.0 if arm == "floor" and name == "frechet" else as_the_paper_has_it(arm, name, at)

    found = judged(few)
    compared = [name for name, check in REDUCED.items() if "frechet[" in check.expect]
    assert {found[name]["verdict"] for name in compared} == {"inconclusive"}
    assert all("precondition `floor-far-below" in found[name]["reason"] for name in compared)


def test_only_what_the_paper_printed_stands_as_its_number():
    ours = {claim.id for claim in METHOD.paper.claims if claim.kind in ("code", "ours")}
    for claim in METHOD.paper.claims:
        assert claim.id not in ours or claim.baseline is claim.method is None
    for claim, check in METHOD.expected.each():
        assert check.paper is None or claim not in ours
        assert not check.comparable or (check.tier == "structural" and check.paper)
