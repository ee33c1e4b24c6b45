from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from repro.errors import ReproError
from repro.suite.report import inputs
from tests.suite.report import synthetic


@pytest.fixture
def results(invented):
    return inputs.load("masked-text", invented.source).results


@pytest.fixture
def measured():
    return synthetic.masked_runs(np.random.default_rng(7))


def test_frame_holds_every_measurement(results, measured):
    assert list(results.frame.columns) == ["arm", "seed", "measurement", "at", "at_key", "value"]
    assert len(results.frame) == sum(len(rows) for rows in measured.values())
    assert results.arms() == ["exact", "cached", "baseline"]
    assert results.title("baseline") == "With clock"
    assert results.seeds() == [0, 1, 2]
    assert results.seeds("exact") == [0]


def test_values_are_ordered_by_seed(results, measured):
    want = [
        value
        for seed in range(synthetic.SEEDS)
        for name, at, value in measured["cached", seed]
        if name == "nfe" and at == {"steps": 64}
    ]
    assert results.values("nfe", "cached", steps=64).tolist() == want
    assert results.values("nfe", "cached", steps="64").tolist() == want
    assert results.values("nll", "cached").shape == (3,)
    assert results.has("nfe", "cached", steps=64)
    assert not results.has("nfe", "cached", steps=65)


def test_sweep(results, measured):
    steps, nfe = results.sweep("nfe", "baseline", "steps")
    assert steps.tolist() == synthetic.STEPS
    assert nfe.shape == (5, 3)
    assert np.array_equal(nfe, np.repeat(np.array(synthetic.STEPS)[:, None], 3, axis=1))
    items, errors = results.sweep("error", "exact", "item")
    assert items.tolist() == ["closed-form", "weights"]
    assert errors.tolist() == [[3.1e-16], [0.0]]


def test_sweep_of_a_model(results):
    steps, loss = results.model_sweep("loss", "denoiser", "step")
    assert steps.tolist() == list(range(0, 801, 50))
    assert loss.shape == (17, 3)
    assert loss[0, 0] == pytest.approx(3.5)


def test_questions_without_an_answer_name_what_there_is(results):
    with pytest.raises(ReproError, match=r"nfe\[cached,steps=7\]|nfe\[cached, steps=7\]"):
        results.values("nfe", "cached", steps=7)
    with pytest.raises(ReproError, match="several values per seed"):
        results.values("nfe", "cached")
    with pytest.raises(ReproError, match="no nfes at all"):
        results.values("nfes", "cached")
    with pytest.raises(ReproError, match="not measured along 'batch'"):
        results.sweep("nfe", "cached", "batch")
    with pytest.raises(ReproError, match="'nfes' is not declared"):
        results.measurement("nfes")


def test_sweep_refuses_a_second_coordinate(bare):
    folder = bare.work / "runs" / "masked-text" / "cached" / "0"
    rows = [("nfe", {"steps": 8, "batch": b}, 1.0 * b) for b in (1, 2)]
    (folder / "record.json").unlink()
    folder.rename(folder.with_name("old"))
    synthetic.write_record(folder, "masked-text", "cached", 0, rows)
    synthetic.keep_verdicts(bare, "masked-text")
    results = inputs.load("masked-text", bare.source).results
    with pytest.raises(ReproError, match="varies along more than 'steps'"):
        results.sweep("nfe", "cached", "steps")
    x, values = results.sweep("nfe", "cached", "steps", batch=2)
    assert x.tolist() == [8]
    assert values[0, 0] == 2.0


def test_arrays(invented):
    results = inputs.load("eight-bit", invented.source).results
    images = results.array("full", 1, "samples")
    assert images.shape == (8, 32, 32, 3)
    assert images.dtype == np.uint8
    with pytest.raises(ReproError, match="no array 'sample'; the run saved samples"):
        results.array("full", 1, "sample")
    with pytest.raises(ReproError, match="no run of full with seed 9"):
        results.array("full", 9, "samples")


def test_runs_of_an_older_card_are_left_out(bare):
    for arm, seed in (("dropped", 0), ("cached", 9)):
        folder = bare.work / "runs" / "masked-text" / arm / str(seed)
        synthetic.write_record(folder, "masked-text", arm, seed, [("nll", {}, 99.0)])
    results = inputs.load("masked-text", bare.source).results
    assert "dropped" not in results.arms()
    assert results.seeds() == [0, 1, 2]


def test_damaged_record_is_named(bare):
    path = bare.work / "runs" / "masked-text" / "cached" / "1" / "record.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(ReproError, match=r"cached/1/record.json is not a run record"):
        inputs.load("masked-text", bare.source)


def test_missing_verdicts_are_named(bare):
    (bare.work / "verdicts" / "masked-text.json").unlink()
    with pytest.raises(ReproError, match=r"verdicts/masked-text.json"):
        inputs.load("masked-text", bare.source)


def test_importing_the_report_imports_no_torch():
    code = (
        "import sys; from repro.suite.report import figures, ledger, results, style, tables;"
        "from repro.suite.report.site import build;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
