import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from filelock import FileLock

from repro import store
from repro.errors import ReproError
from repro.job import Job
from repro.places import ROOT
from repro.suite import fingerprint, judging, provenance, run
from repro.suite.cards import library
from repro.suite.cards.models import ModelRef
from repro.suite.plan import Plan
from repro.suite.report import inputs
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


COUNTING = """

def found(job):
    left = job.scratch / "left"
    there = left.exists()
    job.scratch.mkdir(parents=True, exist_ok=True)
    left.write_text("state")
    return there


def train(job):
    return {"w": torch.full((2,), float(found(job)))}


def exact(job):
    job.measure("error", 0.0)
    if found(job) or job.scale == "paper":
        raise ValueError("left of an earlier call")
"""


@pytest.fixture
def counting(toy):
    source = toy / "methods/toy/arms.py"
    source.write_text(source.read_text() + COUNTING)
    return run.Options("smoke")


def in_scratch(options):
    return [path for path in (options.base / "scratch").rglob("*") if path.is_file()]


def test_scratch_is_gone_when_a_job_has_ended_well(counting):
    run_all(counting)
    assert in_scratch(counting) == []


def leave(options):
    """What a call leaves that is killed: of these jobs, with this code and with an earlier one."""
    method = library.load("toy")
    for label, identity in (
        ("models/toy/net/0", fingerprint.of_model(method, "smoke", ModelRef("toy", "net", 0))),
        ("models/toy/net/0", "0" * 20),
        ("runs/toy/exact/0", fingerprint.of_run(method, "smoke", "exact", 0)),
    ):
        folder = options.base / "scratch" / label / identity
        folder.mkdir(parents=True)
        (folder / "left").write_text("state")


def test_what_a_killed_job_left_is_found_by_its_next_call_and_then_swept(counting):
    leave(counting)
    with pytest.raises(ReproError, match="left of an earlier call"):
        run_all(counting)
    weights = counting.base / "models/toy/net/0/model.safetensors"
    assert store.read_tensors(weights)["w"].tolist() == [1.0, 1.0]
    left = [path.relative_to(counting.base / "scratch") for path in in_scratch(counting)]
    assert [path.parts[:3] for path in left] == [("runs", "toy", "exact")]


def test_forced_means_forced(counting):
    run_all(counting)
    leave(counting)
    run.run_method(library.load("toy"), run.Options("smoke", force=True))
    weights = counting.base / "models/toy/net/0/model.safetensors"
    assert store.read_tensors(weights)["w"].tolist() == [0.0, 0.0]
    assert in_scratch(counting) == []


def test_scratch_of_jobs_that_are_current_is_swept(counting):
    run_all(counting)
    leave(counting)
    run_all(counting)
    assert in_scratch(counting) == []


def test_what_nobody_went_on_with_is_forgotten(counting):
    old, young = (counting.base / "scratch" / name / "state" for name in ("0" * 20, "1" * 20))
    for path, age in ((old, 2 * run.KEPT_S), (young, 0)):
        path.parent.mkdir(parents=True)
        path.write_text("x")
        for place in (path, path.parent):
            os.utime(place, (time.time() - age,) * 2)
    run_all(counting)
    assert in_scratch(counting) == [young] and not old.parent.exists()


def test_a_job_waits_for_another_process_that_does_it(options, capfd):
    """And then finds it done."""
    method, started = library.load("toy"), threading.Event()
    path = options.base / "locks/models/toy/net/0.lock"
    path.parent.mkdir(parents=True)
    held = FileLock(path)
    held.acquire()

    def other():
        started.set()
        run.run_model(method, ModelRef("toy", "net", 0), options)

    thread = threading.Thread(target=other)
    thread.start()
    started.wait()
    thread.join(timeout=1.0)
    assert thread.is_alive() and not (options.base / "models").exists()
    held.release()
    thread.join()
    assert "waits for another process" in capfd.readouterr().err
    assert (options.base / "models/toy/net/0/record.json").is_file()


def test_a_log_that_cannot_be_written_is_one_line(options, capsys):
    """A limit on the size of files stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(ReproError, match=r"0\.log: cannot be written.*free some space"):
            with run._logged(options, "runs/toy/ours/0"):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    run_all(options)


def test_of_two_runs_of_one_seed_the_plan_names_one(options):
    """A copied seed, a partial folder and a stray arm are no runs."""
    method = run_all(options)
    base = options.base / "runs" / "toy"
    for name in ("ours/7", "ours/.0.0a1b.partial", "stray/0"):
        shutil.copytree(base / "ours" / "0", base / name)
    source = inputs.Work("smoke", options.base)
    planned = [(arm, seed) for arm in method.arms("smoke") for seed in method.seeds("smoke", arm)]
    assert [(r["arm"], r["seed"]) for r in source.runs("toy")] == planned


def test_verdicts_of_other_runs_are_refused(options):
    run_all(options)
    path = options.base / "runs/toy/ours/0/record.json"
    record = store.read_sealed(path)
    record["measurements"][0]["value"] += 1.0
    store.write_sealed(path, record)
    with pytest.raises(ReproError, match="toy.json: is not of the runs.*run `repro run toy --sc"):
        inputs.load("toy", inputs.Work("smoke", options.base))


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
        (["publish", "--scale", "smoke"], "not evidence"),
        (["ledger", "--scale", "gpu"], "no verdicts at scale gpu"),
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
