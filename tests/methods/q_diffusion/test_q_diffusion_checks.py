"""Checks hold where the paper is right, and fail where nothing that is done makes a difference."""

import itertools

import pytest

from repro.suite import verdict
from repro.suite.cards import library

METHOD = library.load("q-diffusion")
SCALES = ("small", "gpu")


def reduced(scale):
    return [c for c in METHOD.checks(scale).values() if c.tier == "reduced"]


FRECHET = {
    "floor": 20,
    "full-precision": 25,
    "squant": 60,
    "q-diffusion": 28,
    "q-diffusion-searched": 28,
}
SAMPLES = {
    "q-diffusion": 0.02,
    "q-diffusion-searched": 0.02,
    "unsplit": 0.04,
    "four-bit-activations": 0.7,
    "squant": 0.06,
    "linear": 0.3,
    "linear-searched": 0.3,
    "adaround": 0.3,
    "adaround-searched": 0.3,
}
CALIBRATED = {
    "uniform": 0.1,
    "uniform-double": 0.099,
    "first-quarter": 0.14,
    "first-step": 0.15,
    "last-quarter": 0.24,
}


def eps_mse(arm, at):
    if arm in ("calibration", "states"):
        raised = at["stage"] == "initial" and at["times"] != "last-quarter"
        return CALIBRATED[at["times"]] * (1.6 if raised else 1)
    if arm == "starts":
        return {"learned": 0.05, "initial": 0.06 if at["start"] == "random-max" else 0.08}[
            at["stage"]
        ]
    if arm == "departures":
        return 0.09 if at["change"] == "plain-inputs" else 0.05
    if arm.startswith("q-diffusion") or arm == "unsplit":
        return 0.02 if at["split"] == "yes" else 0.04
    searched = 0.8 if arm.endswith("searched") else 1
    return searched * (0.03 if at.get("rounding") == "learned" else {"squant": 0.06}.get(arm, 0.1))


def trajectory_mse(arm, at):
    if arm in ("calibration", "states"):
        return CALIBRATED[at["times"]]
    if arm == "last-layer":
        return 0.05 if at["learned"] == "conv_out" else 0.3
    if arm == "drift":
        return 0.05 if at["corrected"] == "yes" or at["rounding"] == "squant" else 0.3
    return 0.02 if at.get("bits") == "W8A8" else SAMPLES[arm]


def frechet(arm, at):
    return 50 if at.get("bits") == "W8A8" else FRECHET.get(arm, 250)


def state_error(arm, at):
    return 0.001 if arm == "one-step" else {"first": 0.001, "half": 0.1, "all": 0.3}[at["done"]]


OTHERS = {
    "sample_variance": lambda arm, at: 1.0,
    "undecided": lambda arm, at: 0.001,
    "loss_ratio": lambda arm, at: 0.5 if at["over"] == "nearest" else 1.01,
    "start_eps_mse": lambda arm, at: 0.1,
    "shortcut_ratio": lambda arm, at: 1.3 if arm == "one-source" else 6.0,
    "common_share": lambda arm, at: 0.2 if at["rounding"] == "squant" else 0.75,
    "kernels": lambda arm, at: 59.0,
    "relative_error": lambda arm, at: 0.02 if at["of"] == "simulation" else 0.18,
    "file_size": lambda arm, at: {"openvino-int8": 2.6, "torch-bfloat16": 5}.get(at["runtime"], 10),
    "latency_ratio": lambda arm, at: 0.5 if at["runtime"] == "openvino-int8" else 1.2,
}
WORLD = OTHERS | {
    "eps_mse": eps_mse,
    "trajectory_mse": trajectory_mse,
    "frechet": frechet,
    "state_error": state_error,
}


def as_the_paper_has_it(arm, name, at):
    return WORLD[name](arm, at) if name in WORLD else 1.0


def of_no_consequence(arm, name, at):
    """Whatever is rounded, split, calibrated or learned, the outcome is the same."""
    return {"undecided": 0.001, "shortcut_ratio": 2.0}.get(name, 1.0)


def verdicts(world, scale="small"):
    records = []
    for arm in METHOD.arms(scale):
        measured = []
        for name in METHOD.experiment.measurements:
            for grid in METHOD.grids(scale, arm, name):
                for values in itertools.product(*grid.values()):
                    at = dict(zip(grid, values, strict=True))
                    measured.append({"name": name, "at": at, "value": world(arm, name, at)})
        seeds = max(3, len(METHOD.seeds(scale, arm))) if len(METHOD.seeds(scale, arm)) > 1 else 1
        for seed in range(seeds):
            off = 1 + 1e-9 * seed
            own = [dict(m, value=m["value"] * off) for m in measured]
            records.append({"arm": arm, "seed": seed, "measurements": own})
    return {check["id"]: check for check in verdict.judge(METHOD, scale, records)["checks"]}


@pytest.mark.parametrize("scale", SCALES)
def test_checks_hold_where_the_paper_is_right_and_their_controls_do_not(scale):
    found = verdicts(as_the_paper_has_it, scale)
    for check in reduced(scale):
        assert check.has_control and found[check.id]["control"], check.id
        assert found[check.id]["verdict"] == "reproduced", found[check.id]["reason"]


@pytest.mark.parametrize("scale", SCALES)
def test_no_check_holds_where_nothing_makes_a_difference(scale):
    found = verdicts(of_no_consequence, scale)
    assert [c.id for c in reduced(scale) if found[c.id]["verdict"] == "reproduced"] == []


@pytest.mark.parametrize(
    "name, value, precondition",
    [
        ("undecided", 0.9, "roundings-decided"),
        ("undecided", 0.9, "departures-decided"),
        ("loss_ratio", 1.1, "units-improved"),
        ("start_eps_mse", 0.001, "activations-improved"),
        ("frechet", 60.0, "full-precision-good"),
        ("sample_variance", 100.0, "nearest-loses-samples"),
        ("shortcut_ratio", 1.2, "shortcuts-uneven"),
    ],
)
def test_a_precondition_that_fails_leaves_its_checks_open(name, value, precondition):
    def world(arm, measured, at):
        there = measured == name and arm != "floor"
        return value if there else as_the_paper_has_it(arm, measured, at)

    found = verdicts(world)
    needing = [c for c in reduced("small") if precondition in c.needs]
    assert needing
    for check in needing:
        assert found[check.id]["verdict"] == "inconclusive"
        assert "precondition" in found[check.id]["reason"]


def test_every_precondition_is_needed():
    needed = {need for _, check in METHOD.expected.each() for need in check.needs}
    assert needed == set(METHOD.expected.preconditions)


def test_only_what_the_paper_printed_stands_as_its_number():
    ours = {claim.id for claim in METHOD.paper.claims if claim.kind in ("code", "ours")}
    unseen = {claim.id for claim in METHOD.paper.claims if claim.evidence == "unsure"}
    for claim in METHOD.paper.claims:
        assert claim.id not in ours or claim.baseline is claim.method is None
    for claim, check in METHOD.expected.each():
        assert not check.comparable
        assert check.paper is None or claim not in ours
        assert check.paper is None or claim not in unseen or "188.11" in check.paper
