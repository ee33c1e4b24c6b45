"""Checks hold where the paper is right, and fail where its choices change nothing."""

import itertools
import re
import zlib

import pytest

from repro.suite import verdict
from repro.suite.cards import library

METHOD = library.load("ptq4dm")
REDUCED = [check for _, check in METHOD.expected.each() if check.tier == "reduced"]
AGAINST = {
    "uniform-better-than-wide",
    "released-label-zero-best",
    "ndtc-worse-on-a-quadratic-grid",
}
"""Checks of claims that say the opposite of one of the paper's."""

ERRORS = {
    "uniform": 0.01, "ndtc-paper": 0.006, "ndtc-wide": 0.006, "ndtc-mispaired": 0.006,
    "ndtc-released": 0.2, "ndtc-raw-labels": 0.2,
    "grid": 0.01, "noised-images": 0.0115, "noise": 0.015, "images": 0.15,
    "l1": 0.09, "cosine": 0.015, "kl": 0.03, "attention": 0.0095,
}  # fmt: skip
DISTANCES = {"none": 20, "all": 20.2, "all-4-bit": 60, "full-precision": 20, "images": 100}


def error(at):
    if "sampler" in at or "tensor" in at:
        return 0.005
    if "t" in at:
        return 0.03 + 0.02 * float(at["t"])
    [key] = set(at) - {"bits"}
    return ERRORS[at[key]] * {"W8A8": 1, "W8A6": 2, "W6A6": 10}[at["bits"]]


def as_the_paper_has_it(arm, name, at):
    if name == "trajectory_mse":
        return error(at)
    if name == "frechet":
        return 5 if arm == "floor" else DISTANCES.get(at.get("network", at.get("tensor")), 22)
    if name == "relative_error":
        return 0.2 if arm == "poor-samplers" else 0.01
    if name == "activation_change":
        return 1.6 if arm == "full-precision" else 1.05
    if name == "seconds":
        return {"plain": 1.0, "w8": 1.01, "w8a8": 1.2}[at["network"]]
    return 0.8 if name in ("precision", "recall") else 1.0


def as_critics_have_it(arm, name, at):
    """Uniform steps are better, and near the noise is better unless labels count from there."""
    if name == "trajectory_mse" and at.get("times") == "ndtc-wide":
        return 0.01 if arm == "quadratic" else 0.02
    if name == "trajectory_mse" and arm == "quadratic":
        return 0.03 if at["times"] == "ndtc-paper" else 0.01
    if name == "trajectory_mse" and "t" in at and arm == "single-step":
        return 0.05 - 0.02 * float(at["t"])
    return as_the_paper_has_it(arm, name, at)


def as_nothing_matters(arm, name, at):
    """Every calibration set, score, width and time step is like any other."""
    if name in ("trajectory_mse", "relative_error"):
        return 0.01
    if name == "frechet":
        return 5 if arm == "floor" else 20
    if name == "seconds":
        return 1.0
    return 1.0 if name == "activation_change" else as_the_paper_has_it(arm, name, at)


def jitter(*key):
    """A relative change of about 1e-4: seeds that agree to the last bit are refused."""
    return 1 + 1e-4 * (zlib.crc32(repr(key).encode()) / 2**32 - 0.5)


def verdicts(world, scale="small"):
    records = []
    for arm in METHOD.arms(scale):
        cells = [
            (name, dict(zip(grid, values, strict=True)))
            for name in METHOD.experiment.measurements
            for grid in METHOD.grids(scale, arm, name)
            for values in itertools.product(*grid.values())
        ]
        for seed in METHOD.seeds(scale, arm):
            measured = [
                {"name": n, "at": at, "value": world(arm, n, at) * jitter(arm, n, str(at), seed)}
                for n, at in cells
            ]
            records.append({"arm": arm, "seed": seed, "measurements": measured})
    return {check["id"]: check for check in verdict.judge(METHOD, scale, records)["checks"]}


@pytest.fixture(scope="module")
def right():
    return verdicts(as_the_paper_has_it)


def test_checks_hold_where_the_paper_is_right(right):
    wanted = {c.id for c in REDUCED} - AGAINST
    assert {c for c in wanted if right[c]["verdict"] != "reproduced"} == set()
    assert not any(right[c]["verdict"] == "reproduced" for c in AGAINST)


def test_checks_against_the_paper_hold_where_critics_are_right():
    found = verdicts(as_critics_have_it)
    assert {found[c]["verdict"] for c in AGAINST} == {"reproduced"}
    assert {found[c]["verdict"] for c in ("wide-better", "near-zero-best")} == {"contradicted"}


def test_no_check_holds_where_nothing_matters():
    found = verdicts(as_nothing_matters)
    assert [c.id for c in REDUCED if found[c.id]["verdict"] == "reproduced"] == []


@pytest.mark.parametrize("check", REDUCED, ids=lambda check: check.id)
def test_every_reduced_check_has_a_control_and_a_precondition(check, right):
    # how long an evaluation takes does not depend on what it returns
    assert check.control and (check.needs or "seconds" in check.expect)
    assert right[check.id]["control"]


@pytest.mark.parametrize(
    ("check", "name", "like", "place"),
    [
        ("eight-bit-frechet", "frechet", 22, {"network": "images"}),
        ("half-the-steps-frechet", "frechet", 22, {"network": "images"}),
        ("tensors-ddim-frechet", "frechet", 20.2, {"tensor": "all-4-bit"}),
        ("other-samplers", "relative_error", 0.01, {}),
        ("ranges-change", "activation_change", 1.6, {}),
        ("eight-bit-samples", "trajectory_mse", 0.006, {"source": "images"}),
        ("l24-beats-l1", "trajectory_mse", 0.09, {"change": "attention"}),
        ("six-bits-cost", "trajectory_mse", 0.1, {"source": "grid", "bits": "W8A8"}),
        ("simulation-costs-time", "seconds", 1.2, {"network": "w8"}),
    ],
)
def test_a_control_that_passes_leaves_nothing_reproduced(check, name, like, place):
    def world(arm, measurement, at):
        if measurement == name and place.items() <= at.items():
            return like
        return as_the_paper_has_it(arm, measurement, at)

    found = verdicts(world)[check]
    assert found["verdict"] == "inconclusive"
    assert found["reason"].startswith("its control holds as well")


def test_a_distance_of_the_number_of_samples_decides_nothing():
    def world(arm, name, at):
        return 15 if arm == "floor" and name == "frechet" else as_the_paper_has_it(arm, name, at)

    found = verdicts(world)["eight-bit-frechet"]
    assert found["reason"].startswith("precondition `distance-above-floor`")


def test_only_what_the_paper_printed_stands_as_its_number():
    ours = {claim.id for claim in METHOD.paper.claims if claim.kind in ("code", "ours")}
    for claim in METHOD.paper.claims:
        assert claim.id not in ours or claim.baseline is claim.method is None
    for claim, check in METHOD.expected.each():
        assert not check.comparable
        assert check.paper is None or claim not in ours


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_distances_that_a_check_reads_are_of_enough_samples(scale):
    """The distance of n samples is biased by about 1/n: 512 at least, and as many on both sides."""
    read = {}
    checks = [c.expect for _, c in METHOD.expected.each()]
    for expect in [*checks, *(p.expect for p in METHOD.expected.preconditions.values())]:
        for arm in re.findall(r"frechet\[([\w-]+)", expect):
            params = METHOD.arm_params(scale, arm)
            if "many" not in params and "tensors" not in arm:
                params = METHOD.model_params(scale, "ptq4dm", params["full_precision"])
            read[arm] = params.get("many", params["samples"])
    assert set(read) == {"quality", "quality-half", "floor", "tensors", "tensors-ddim"}
    assert min(read.values()) >= 512
    assert read["quality"] == read["quality-half"] == read["floor"]


def test_the_paper_stands_on_its_own_grid():
    for scale in ("smoke", "small", "gpu"):
        for arm in METHOD.arms(scale):
            params = METHOD.arm_params(scale, arm)
            if "grid" not in params:
                continue
            assert params["grid"] == ("quadratic" if arm == "quadratic" else "even")
            if params["full_precision"] in METHOD.arm(scale, arm).models:
                made = METHOD.model_params(scale, "ptq4dm", params["full_precision"])
                same = ("grid", "steps", "clip", "network", "calibration")
                assert {k: made[k] for k in same} == {k: params[k] for k in same}
                assert made["samples"] >= params["samples"] or "quality" in arm
