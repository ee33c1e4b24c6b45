"""Rehearsals: the stand-in for a CUDA device, shrunken presets, and what they find in this tree."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from repro.data import catalogue
from repro.errors import ReproError
from repro.places import ROOT
from repro.suite.cards import library
from tools.rehearsal import __main__ as command
from tools.rehearsal import build, data, runner, shrink
from tools.rehearsal.work import Row

pytestmark = pytest.mark.rehearsal
on_the_stand_in = pytest.mark.skipif(
    build.obstacle() is not None, reason=f"no stand-in for a GPU: {build.obstacle()}"
)


# Building ----------------------------------------------------------------------------------------


def test_the_stand_in_is_bound_to_the_locked_torch():
    assert build.locked() == build.TORCH, (
        "the lock has another torch than the stand-in knows: run `python -m tools.rehearsal "
        "--check`, mend what it names, then set TORCH in tools/rehearsal/build.py"
    )


@pytest.fixture
def cleared(monkeypatch):
    build.obstacle.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    build.obstacle.cache_clear()


@pytest.mark.parametrize(
    "module, name, value, says",
    [
        (
            "platform",
            "machine",
            lambda: "arm64",
            "made for Linux on x86_64, this is Linux on arm64",
        ),
        ("importlib.metadata", "version", lambda _: "9.9.9+cu1", "torch 2.14.1, this is 9.9.9"),
        ("shutil", "which", lambda _: None, "install it (Debian: `apt install g++`)"),
    ],
)
def test_where_it_cannot_be_built_one_line_says_why(cleared, capsys, module, name, value, says):
    cleared.setattr(f"tools.rehearsal.build.{module}.{name}", value)
    assert command.main([]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: no rehearsal of a GPU here: ")
    assert not out and err.count("\n") == 1


def test_a_torch_without_cuda_is_named(cleared, tmp_path):
    cleared.setattr(build, "obstacle", build.obstacle.__wrapped__)
    cleared.setattr(build.platform, "system", lambda: "Linux")
    cleared.setattr(build.platform, "machine", lambda: "x86_64")
    cleared.setattr(build.shutil, "which", lambda name: name)
    cleared.setattr(build, "_includes", lambda: (tmp_path, tmp_path))
    assert "this torch has no CUDA" in build.obstacle()


def test_what_the_compiler_refuses_is_one_line_and_leaves_nothing(cleared, tmp_path):
    (tmp_path / "kernels.cpp").write_text("int main( {\n")
    with pytest.raises(ReproError, match="the stand-in cannot be built: g.*error") as raised:
        build._compile(["gcc", "-x", "c", str(tmp_path / "kernels.cpp"), "-o", str(tmp_path / "x")])
    assert "\n" not in str(raised.value) and not (tmp_path / "x").exists()


@on_the_stand_in
def test_it_is_built_once():
    assert build.folder() == build.folder()
    names = {path.name for path in build.folder().iterdir()}
    assert names == {build.RUNTIME, build.DRIVER, build.KERNELS}


@on_the_stand_in
def test_it_raises_what_it_must_and_computes_as_the_cpu_does():
    found = dict(runner.checked())
    assert len(found) >= 14
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_a_process_that_was_not_started_under_it_says_so():
    code = "from tools.rehearsal import device; device.install()"
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "start it by `python -m tools.rehearsal`" in done.stderr


# Shrinking ---------------------------------------------------------------------------------------

PRESETS = [(m.slug, scale) for m in library.load_all() for scale in m.experiment.scales]


@pytest.mark.parametrize("slug, scale", PRESETS)
def test_a_shrunken_preset_has_few_of_everything_and_the_same_code(slug, scale):
    method = library.load(slug)
    for name in method.arms(scale):
        params = method.arm_params(scale, name)
        small = shrink.shrunken(slug, name, params, {})
        assert small.keys() == params.keys()
        for key, value in params.items():
            counted = key in shrink.MOST or key in shrink.LISTS or key in shrink.LOOSE
            if not counted and not any(key in own for own in shrink.OWN.values()):
                assert small[key] == value
            elif isinstance(value, int) and (slug, name) not in shrink.KEPT:
                assert small[key] <= max(shrink.MOST.get(key, 0), 64)
            elif isinstance(value, list):
                assert len(small[key]) <= len(value)


def test_truth_values_and_what_is_smaller_stay():
    params = {"samples": 3, "real": 0, "batch": 4096, "steps": [10, 50, 100], "warmup": True}
    small = shrink.shrunken("any", "arm", params, {})
    assert small == {"samples": 3, "real": 0, "batch": 8, "steps": [3, 4], "warmup": True}


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "mni152", "wikipedia-excerpt"])
def test_random_data_has_the_form_of_the_real_set(name):
    made = data.made(name)
    assert made.name == name == catalogue.info(name).name
    if name in data.PICTURES:
        assert made.train.images.shape == data.PICTURES[name]
        assert made.train.images.dtype == np.uint8 and len(made.test.labels) == 10_000
    elif name == "mni152":
        assert made.t1.shape == made.gm.shape == (189, 233, 197) and made.t1.dtype == np.float32
        assert 0 <= made.t1.min() and made.t1.max() <= 1.1
    else:
        assert len(made.train) > 100_000 and len(made.test) > 5_000 and not made.ood


# The command -------------------------------------------------------------------------------------


def test_the_table_names_what_went_wrong_and_counts():
    rows = [
        Row("m", "gpu", "arm", "good"),
        Row("m", "gpu", "model", "net", "fault", "TypeError: a | b"),
        Row("m", "gpu", "arm", "late", "waits", "its model net failed"),
        Row("m", "gpu", "arm", "noted", notes=["a remark", "another"]),
        Row("m", "paper", "arm", "official", "files", "weights.pt is missing; put it there"),
    ]
    text = runner.table(rows)
    assert "| m | gpu | model net | fault | TypeError: a \\| b |" in text
    assert "| m | gpu | arm noted | ok | a remark; another |" in text
    assert "arm good" not in text
    assert text.splitlines()[-1] == (
        "5 models and arms: 2 ran, 1 of them with a remark; 1 failed, 1 wait for a model that "
        "failed, 1 want official files"
    )
    assert runner.table(rows[:1]).splitlines() == [
        "1 models and arms: 1 ran, 0 of them with a remark; 0 failed, 0 wait for a model that "
        "failed, 0 want official files"
    ]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["rad"], "no method `rad` (did you mean `radd`?)"),
        (["radd", "--scale", "gpus"], "no scale `gpus` (did you mean `gpu`?)"),
        (["radd", "--arm", "latenc"], "no arm `latenc` (did you mean `latency`?)"),
    ],
)
def test_a_mistaken_name_is_one_line(capsys, arguments, says):
    assert command.main([*arguments, "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_what_a_process_that_dies_said_is_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_python", lambda *a: ["sh", "-c", "echo out of luck >&2; exit 3"])
    [row] = runner.rehearsed("radd", "gpu", "cpu", tmp_path)
    assert (row.outcome, row.said) == ("fault", "ended with 3: out of luck")


def test_it_stops_at_once_and_goes_on(tmp_path):
    env = os.environ | {"REPRO_WORK": str(tmp_path), "PYTHONPATH": str(ROOT)}
    arguments = ["-m", "tools.rehearsal", "diffusion-couple", "--device", "cpu"]
    start = [sys.executable, *arguments]
    process = subprocess.Popen(
        start, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stderr.readline()  # the first arm is done
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "run the same command again to go on" in err and "models and arms" in out
    assert time.monotonic() - began < 10


# This tree ---------------------------------------------------------------------------------------

known = pytest.mark.xfail(strict=True, reason="a fault that rehearsals found")


def rows_of(slug, scale, device, arms, work):
    rows = list(runner.rehearsed(slug, scale, device, work, arms=arms))
    assert {row.name for row in rows if row.kind == "arm"} == set(arms), rows
    return rows


def faults(rows):
    return {row.name: row.said for row in rows if row.outcome != "ok"}


@on_the_stand_in
@pytest.mark.slow
@pytest.mark.parametrize(
    "slug, arms",
    [
        ("radd", ["sedd-scale"]),
        ("lowbit-fp", ["edges"]),
        pytest.param("superdiff", ["plane"], marks=known),
        ("ptq4dm", ["exact"]),
    ],
)
def test_gpu_presets_run_on_the_stand_in(slug, arms, tmp_path):
    assert faults(rows_of(slug, "gpu", "cuda", arms, tmp_path)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "slug, scale, arms",
    [
        ("radd", "gpu", ["radd-ao"]),
        ("lowbit-fp", "gpu", ["edges"]),
        pytest.param("superdiff", "gpu", ["or-1"], marks=known),
    ],
)
def test_larger_presets_run_shrunken_on_the_cpu(slug, scale, arms, tmp_path):
    assert faults(rows_of(slug, scale, "cpu", arms, tmp_path)) == {}
