import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from repro import store
from repro.errors import ReproError
from repro.job import Job
from repro.places import ROOT
from repro.suite import judging, provenance, run
from repro.suite.cards import library
from repro.suite.plan import Plan
from tests.conftest import forget


@pytest.fixture
def options(toy):
    return run.Options("smoke")


def run_all(options):
    method = library.load("toy")
    run.run_method(method, options)
    judging.judge(method, options)
    return method


def records(options):
    return {
        str(p.relative_to(options.base)): json.loads(p.read_text())["measurements"]
        for p in sorted(options.base.glob("runs/*/*/*/record.json"))
    }


def add_student(root):
    """One more model in the toy's card, trained from its other one, for its first arm."""
    path = root / "methods" / "toy" / "experiment.yaml"
    path.write_text(
        path.read_text()
        .replace(
            "\narms:",
            '\n  student: {train: "methods.toy.arms:distil", models: [net], per_seed: true}\narms:',
        )
        .replace('run", models: [net]', 'run", models: [student]', 1)
    )
    library.forget()


def test_a_whole_method(options):
    run_all(options)
    judged = store.read_json(options.base / "verdicts" / "toy.json")
    assert [c["verdict"] for c in judged["claims"]] == ["reproduced", "reproduced"]
    record = store.read_json(options.base / "runs/toy/ours/1/record.json")
    assert record["params"] == {"steps": [4, 8], "gain": 1.0}
    assert {"commit", "versions", "wall_s", "peak_memory_mb", "device", "threads"} <= set(record)
    assert set(store.read_arrays(options.base / "runs/toy/ours/1/arrays.npz")) == {"w"}


def test_a_model_is_trained_from_another(options, toy):
    add_student(toy)
    run_all(options)
    net, student = (
        store.read_tensors(options.base / f"models/toy/{name}/1/model.safetensors")["w"]
        for name in ("net", "student")
    )
    assert torch.equal(student, 2 * net)


def test_same_seed_same_bits(options, tmp_path):
    run_all(options)
    other = run.Options("smoke", work=tmp_path / "other")
    run_all(other)
    assert records(options) == records(other)
    a, b = (o.base / "models/toy/net/2/model.safetensors" for o in (options, other))
    assert a.read_bytes() == b.read_bytes()


def test_a_finished_seed_is_kept_and_a_stale_one_runs_again(options):
    method = run_all(options)
    paths = [options.base / f"runs/toy/ours/{seed}/record.json" for seed in range(3)]
    stamps = [p.stat().st_mtime_ns for p in paths]
    store.write_sealed(paths[1], store.read_sealed(paths[1]) | {"fingerprint": "old"})
    run.run_arm(method, "ours", options)
    after = [p.stat().st_mtime_ns for p in paths]
    assert [a == b for a, b in zip(stamps, after, strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("experiment.yaml", "gain: 2.0", "gain: 2.5", r"base/0 \(parameters\)"),
        ("experiment.yaml", "lr: 1e-3", "lr: 1e-2", r"ours/0 \(models\)"),
        ("arms.py", '"error", 0.0', '"error", 1.0', r"exact/0 \(code\)"),
    ],
)
def test_stale_runs_are_not_judged(options, toy, file, old, new, what):
    run_all(options)
    verdict = options.base / "verdicts" / "toy.json"
    before = verdict.read_bytes()
    path = toy / "methods" / "toy" / file
    path.write_text(path.read_text().replace(old, new, 1))
    forget()
    with pytest.raises(ReproError, match=what + ".* changed since the run; run `repro run toy"):
        judging.judge(library.load("toy"), options)
    assert verdict.read_bytes() == before


def test_streams_are_independent_and_repeatable():
    a, b = Job.for_test(seed=1), Job.for_test(seed=2)
    draw = lambda j, *s: j.numpy_rng(*s).random()  # noqa: E731
    assert draw(a, "noise") == draw(a, "noise") != draw(a, "noise", 1) != draw(b, "noise")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda j: j.measure("loss", float("nan")), r"loss\[x\] at seed 0 is nan"),
        (lambda j: j.measure("los", 1.0), "`los` .did you mean `loss`"),
        (lambda j: j.measure("loss", 1.0, s=3), r"loss\[x, s=3\].*loss.at.*: unknown s `3`"),
        (lambda j: j.measure("loss", 1.0, t=1), "unknown coordinate `t`"),
        (lambda j: [j.measure("loss", 1.0, s=1), j.measure("loss", 2.0, s=1.0)], "measured twice"),
        (lambda j: j.params.stpes, "no parameter `stpes` .did you mean `steps`"),
        (lambda j: j.model("net"), "asks for model `net`"),
        (lambda j: j.save("a", np.array([object()])), "holds objects"),
    ],
)
def test_mistakes_in_an_arm(action, message):
    declared = {"loss": [{"s": ["1", "2"]}, {}]}
    made = Job.for_test("toy", "x", params={"steps": 1}, declared=declared)
    with pytest.raises(ReproError, match=message):
        action(made)


@pytest.mark.parametrize("names", [(), ("digits",)])
def test_data_that_the_card_does_not_list_is_refused(names):
    made = Job.for_test("toy", "x")
    made.data_names = names
    with pytest.raises(ReproError, match="`mnist` but its card does not list it"):
        made.data("mnist")


def test_an_arm_measures_only_where_its_card_declares(options, toy):
    source = toy / "methods/toy/arms.py"
    source.write_text(source.read_text().replace("steps=steps)", "steps=2 * steps)"))
    with pytest.raises(ReproError, match="loss.at` in experiment.yaml: unknown steps `16`"):
        run_all(options)
    assert records(options) == {}


def test_a_crash_is_one_line_that_names_the_log(options, toy):
    source = toy / "methods/toy/arms.py"
    source.write_text(
        source.read_text() + "\n\ndef exact(job):\n    raise ValueError('two\\nlines')\n"
    )
    with pytest.raises(ReproError, match="ValueError: two lines; traceback in .*exact/0.log"):
        run_all(options)
    assert records(options).keys() == {
        f"runs/toy/{arm}/{seed}/record.json" for arm in ("ours", "base") for seed in range(3)
    }


def test_batches_make_what_single_jobs_make(options, tmp_path):
    run_all(options)
    batched = run.Options("smoke", work=tmp_path / "batched")
    run.run_models("toy", batched)
    run.run_arms(library.load("toy"), batched)
    assert records(batched) == records(options)
    assert store.read_json(batched.base / "models/toy.json").keys() == {"net/0", "net/1", "net/2"}
    assert store.read_json(batched.base / "runs/toy.json").keys() == {"ours", "base", "exact"}


def test_an_arm_that_fails_in_a_batch_does_not_keep_the_others_from_running(options, toy):
    source = toy / "methods/toy/arms.py"
    source.write_text(
        source.read_text()
        + "\n\nplain = run\n\n\ndef run(job):\n    plain(job)\n    1 / (job.name != 'ours')\n"
    )
    run.run_models("toy", options)
    with pytest.raises(ReproError, match="runs/toy/ours/0 failed: ZeroDivisionError"):
        run.run_arms(library.load("toy"), options)
    assert records(options).keys() == {
        *(f"runs/toy/base/{seed}/record.json" for seed in range(3)),
        "runs/toy/exact/0/record.json",
    }
    assert not (options.base / "runs/toy.json").exists()


def test_models_of_a_scale_come_after_those_they_need(toy):
    add_student(toy)
    names = [(ref.name, ref.seed) for ref in Plan("smoke").models_of("toy")]
    assert sorted(names) == [(name, seed) for name in ("net", "student") for seed in range(3)]
    assert all(names.index(("net", k)) < names.index(("student", k)) for k in range(3))
    assert Plan("smoke").models_of("zoo") == []


def test_peak_memory_is_that_of_the_job(options):
    big = torch.ones(100_000_000)
    del big
    run_all(options)
    grown = torch.ones(100_000_000)
    record = store.read_json(options.base / "runs/toy/ours/1/record.json")
    provenance.restart_peak_memory("cpu")
    now = provenance.peak_memory_mb("cpu")
    assert record["peak_memory_mb"] < now - 200
    del grown


def test_an_arm_makes_a_damaged_model_and_a_damaged_record_anew(options, capfd):
    """As a job of the DAG does, which trusts that the files of earlier jobs are what they were."""
    method = run_all(options)
    made = records(options)
    path = options.base / "models/toy/net/0/model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    (options.base / "runs/toy/ours/0/record.json").unlink()
    record = options.base / "runs/toy/ours/1/record.json"
    record.write_text(record.read_text()[:50])
    capfd.readouterr()
    run.run_arm(method, "ours", options)
    said = capfd.readouterr().err
    assert path.read_bytes() == whole and records(options) == made
    assert "net/0/model.safetensors: is not what was written there" in said
    assert "ours/1/record.json is not a run record (is not whole JSON" in said
    assert said.count("it is made anew") == 2


def test_atomic_writes_leave_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), store.atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), store.atomic_folder(tmp_path / "b") as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(ReproError, match="disk is full"), store.atomic(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_arrays_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ReproError, match="not a whole npz"):
        store.read_arrays(tmp_path / "a.npz")


def cli(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "repro", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "rad"], "no method `rad` (did you mean `radd`?)"),
        (["run", "diffusion-couple", "--scale", "smal"], "(did you mean `small`?)"),
        (["run", "diffusion-couple", "--arm", "exat"], "no arm `exat`"),
        (["run", "diffusion-couple", "--seed", "77"], "no seed 77"),
        (["run", "radd", "--scale", "gpu"], "needs a CUDA GPU"),
        (["show", "nothing"], "no method `nothing`"),
        (["publish", "smoke"], "not evidence"),
        (["ledger", "gpu"], "no verdicts at scale gpu"),
        (["run"], "Missing argument"),
    ],
)
def test_bad_commands_end_in_one_line(arguments, message, tmp_path):
    done = cli(*arguments, REPRO_WORK=str(tmp_path))
    assert done.returncode != 0
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_work_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("run", "diffusion-couple", REPRO_WORK=str(tmp_path / "file"))
    assert done.returncode == 2 and "cannot be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_list_and_show():
    assert "radd" in cli("list").stdout
    shown = cli("show", "radd", COLUMNS="200").stdout
    assert "enfe" in shown and "Claims" in shown and "Data" in shown
