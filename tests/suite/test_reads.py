"""What runs and models read stands in their records, and leakage is refused."""

import pytest

from repro.data import items
from repro.errors import ReproError
from repro.suite import run
from repro.suite.cards import library
from repro.suite.records import read_record
from tests.conftest import TOY_ARMS, TOY_CHECKS, TOY_EXPERIMENT, forget

EXPERIMENT = TOY_EXPERIMENT.replace(
    "params: {width: null, lr: 1e-3}, per_seed: true}",
    "params: {width: null, lr: 1e-3, split: train}, per_seed: true, data: [digits]}\n"
    "  second: {train: \"methods.toy.arms:distil\", models: [net], per_seed: true}",
).replace(
    "models: [net], params: {steps: [4], gain: 1.0}}",
    "models: [net], data: [digits], params: {steps: [4], gain: 1.0, split: test}}",
)  # fmt: skip
ARMS = TOY_ARMS.replace(
    "def train(job):\n", "def train(job):\n    getattr(job.data('digits'), job.params.split)\n"
).replace(
    "def run(job):\n",
    "def run(job):\n    if 'split' in job.params:\n"
    "        getattr(job.data('digits'), job.params.split)\n",
)


@pytest.fixture
def reading(toy):
    """The toy, whose network is trained on digits and whose arm `ours` is measured on digits."""

    def at(trained="train", measured="test", reads=""):
        text = EXPERIMENT.replace("split: train", f"split: {trained}")
        text = text.replace("split: test", f"split: {measured}")
        (toy / "methods/toy/experiment.yaml").write_text(text + reads)
        (toy / "methods/toy/arms.py").write_text(ARMS)
        (toy / "methods/toy/checks.yaml").write_text(TOY_CHECKS)
        forget()
        return library.load("toy", toy)

    return at


def record(method, arm="ours"):
    options = run.Options("smoke")
    run.run_method(method, options, [arm], [0])
    return read_record(options.base / "runs" / "toy" / arm / "0" / "record.json")


def test_a_record_says_what_was_read_and_what_for(reading):
    found, unknown = items.restored(record(reading())["items"])
    assert found == {"measured": {("digits", "test"): set(range(297))}} and unknown == []


def test_a_run_on_what_its_model_was_trained_on_is_refused(reading):
    with pytest.raises(ReproError, match=r"toy/ours is measured on 297 items of `digits` \(test"):
        record(reading(trained="test"))


def test_what_a_model_of_a_model_saw_counts_too(reading):
    method = reading(trained="test")
    arm = method.experiment.arms["ours"].model_copy(update={"models": ["second"]})
    experiment = method.experiment.model_copy(
        update={"arms": {**method.experiment.arms, "ours": arm}}
    )
    method = type(method)(
        method.folder, method.paper, experiment, method.expected, lambda name: method
    )
    with pytest.raises(ReproError, match="on which `second` is trained"):
        record(method)


MEASURED = """
reads:
  - {of: [ours], data: digits, part: train, purpose: measured, why: A control of memory.}
"""


def test_a_card_may_say_that_it_is_on_purpose(reading):
    found, _ = items.restored(record(reading(measured="train", reads=MEASURED))["items"])
    assert set(found) == {"measured"}


def test_or_that_a_part_is_not_measured_on(reading):
    method = reading(measured="train", reads=MEASURED.replace("measured", "calibrated"))
    assert set(items.restored(record(method)["items"])[0]) == {"calibrated"}


def test_whose_card_names_a_part_may_read_no_other(reading):
    with pytest.raises(ReproError, match="reads `test` of `digits`, which its card does not say"):
        record(reading(measured="test", reads=MEASURED))


def test_a_reason_is_needed_and_names_must_be_there(reading):
    with pytest.raises(ReproError, match="reads.0.why"):
        reading(reads=MEASURED.replace("A control of memory.", '""'))
    with pytest.raises(ReproError, match="unknown arm or model `other`"):
        reading(reads=MEASURED.replace("ours", "other"))


def test_models_made_before_items_were_recorded_are_named(reading, monkeypatch):
    method = reading()
    options = run.Options("smoke")
    (ref,) = method.arm_models("smoke", "ours", 0)
    folder = run.run_model(method, ref, options)
    from repro import store

    kept = store.read_sealed(folder / "record.json")
    del kept["items"]
    store.write_sealed(folder / "record.json", kept)
    assert record(method)["items"]["not recorded"] == ["net"]
