"""How commands end: one line, a true status, nothing lost."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from repro import display, environment, places, stopping
from repro.errors import ReproError
from repro.places import ROOT
from repro.stopping import Stopped
from repro.suite import cli, ending
from repro.suite.run import Options, device_for

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

MOMENTS = {
    "an import": ("run", "diffusion-couple"),
    "an arm": ("run", "diffusion-couple", "--arm", "exact"),
    "a training": ("job", "model", "smoke", "superdiff", "plane-up", "0"),
    "judging": ("run", "diffusion-couple"),
    "reporting": ("run", "diffusion-couple"),
}

CHILD = """
import os, runpy, sys

moment, number, *arguments = sys.argv[1:]

def send(*_, **__):
    os.kill(os.getpid(), int(number))

if moment == "an import":
    seen = []
    def hook(event, what):
        if event == "import" and what[0] == "repro.suite.cards.library" and not seen:
            seen.append(send())
    sys.addaudithook(hook)
else:
    import repro.suite.judging, repro.suite.reporting
    if moment == "judging":
        repro.suite.judging.verdict.judge = send
    elif moment == "reporting":
        repro.suite.reporting.tables.write = send
    elif moment == "a training":
        import repro.training.loop
        repro.training.loop.Losses.on_train_batch_end = send
    else:
        import repro.suite.run
        repro.suite.run.function = lambda *_: send
sys.argv = ["repro", *arguments]
runpy.run_module("repro", run_name="__main__", alter_sys=True)
"""


def python(*arguments, cwd, prefix=(), **variables):
    own = {**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work", **variables}
    return subprocess.run(
        [*prefix, sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={name: value for name, value in own.items() if value is not None},
        capture_output=True,
        text=True,
        errors="replace",
    )


def repro(*arguments, cwd, **variables):
    return python("-m", "repro", *arguments, cwd=cwd, **variables)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the runs of a method are made."""
    folder = tmp_path_factory.mktemp("done")
    assert repro("run", "diffusion-couple", cwd=folder).returncode == 0
    return folder


def records(folder):
    return {
        path: path.read_bytes()
        for path in sorted((folder / "work" / "smoke" / "runs").rglob("record.json"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_with_its_status_and_one_line(done, tmp_path, moment, number):
    folder = done if moment in ("judging", "reporting") else tmp_path
    before = records(folder)
    ended = python("-c", CHILD, moment, int(number), *MOMENTS[moment], cwd=folder)
    assert ended.returncode == 128 + number, ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.startswith(("runs/", "models/"))]
    assert len(said) == 1 and said[0].startswith(f"stopped by {number.name}: "), ended.stderr
    assert records(folder) == before
    assert not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_signals_at_other_instants(tmp_path):
    """From outside, whatever the process is at: its status, or that of a command that was done."""
    for wait in (0.15, 0.4, 0.8, 1.6):
        process = subprocess.Popen(
            [sys.executable, "-m", "repro", "run", "diffusion-couple"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
        assert process.returncode in (0, 143, -signal.SIGTERM), said
        assert "Traceback" not in said
    whole = repro("run", "diffusion-couple", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr


def test_ignored_signals_stay_ignored():
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stopping.listen()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(Stopped) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.code == 143
        stopping.rest()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (ReproError("a\nb"), 2, "error: a b"),
        (ReproError("a\x1b[31mb"), 2, r"error: a\x1b[31mb"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT: run the same command again to go on"),
        (Stopped(signal.SIGHUP), 129, "stopped by SIGHUP: run the same command again to go on"),
        (SystemExit("why"), 1, "error: why"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (OSError(28, "No space left on device"), 1, "error: standard output: No space left"),
        (PermissionError(13, "Permission denied", "f"), 1, "error: f: Permission denied; trace"),
        (ValueError("odd"), 1, "error: ValueError: odd; traceback in "),
    ],
)
def test_what_is_raised_ends_in_a_line(raised, status, said, capsys, monkeypatch, tmp_path):
    def command():
        raise raised

    monkeypatch.setenv("REPRO_WORK", str(tmp_path))
    assert ending.status_of(command) == status
    told = capsys.readouterr().err
    assert told.startswith(said) and len(told.splitlines()) == bool(said)
    kept = tmp_path / "logs" / ending.LOG
    assert kept.exists() == ("traceback in" in told)
    if kept.exists():
        assert "Traceback" in kept.read_text() and "raise raised" in kept.read_text()


def test_a_traceback_on_request_and_where_no_log_can_be(capsys, monkeypatch, tmp_path):
    def command():
        raise ValueError("odd")

    monkeypatch.setenv("REPRO_WORK", str(tmp_path))
    monkeypatch.setenv("REPRO_DEBUG", "1")
    assert ending.status_of(command) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.delenv("REPRO_DEBUG")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPRO_WORK", str(tmp_path / "file"))
    assert ending.status_of(command) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "set REPRO_WORK to a folder that can be written" in told


@pytest.mark.parametrize("value", [None, True, False, 0, 3, [1]])
def test_the_value_of_a_command_is_its_status(monkeypatch, value):
    def check(results=None):
        return value

    monkeypatch.setattr(sys, "argv", ["repro", "check"])
    (info,) = [c for c in cli.app.registered_commands if c.callback is cli.check]
    monkeypatch.setattr(info, "callback", check)
    assert cli.command() == (value if isinstance(value, int) else 0)


@pytest.mark.parametrize(
    ("redirected", "status"), [("| true", 141), (">&-", 0), ("> /dev/full", 1), ("2>&-", 0)]
)
def test_streams_that_are_closed_or_full(tmp_path, redirected, status):
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -m repro list {redirected}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work", "COLUMNS": "1000"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == (status == 1)


BRACKETED = "[bold]x[/bold] [/] :smile: [red]"


def test_text_is_no_markup(monkeypatch, capsys):
    """Brackets in every field of the cards, of a verdict and of a dataset stand in the output."""
    from repro.suite.cards import library
    from repro.suite.report import inputs

    method = library.load("radd")
    claim = method.paper.claims[0].model_copy(
        update={"id": "id [b]", "statement": f"statement {BRACKETED}", "where": "where [b]"}
    )
    licence = method.paper.licence
    card = method.paper.model_copy(
        update={
            "claims": [claim],
            "short": f"short {BRACKETED}",
            "title": "title [b]",
            "summary": f"summary {BRACKETED}",
            "licence": licence,
            "venue": "venue [b]",
            "field": "field [b]",
        }
    )
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(cli, "out", display.Output())
    odd = dataclasses.replace(method, paper=card)
    monkeypatch.setattr(library, "load", lambda slug, root=None: odd)
    cli.show("radd")
    shown = capsys.readouterr().out
    for text in ("id [b]", "statement", "where [b]", "short", "title [b]", "summary", "venue [b]"):
        assert text in shown
    assert shown.count(BRACKETED) == 3
    cli.list_methods()
    assert "field [b]" in capsys.readouterr().out
    monkeypatch.undo()

    report = inputs.load_all(inputs.Committed("small", ROOT / "results" / "small"))[0]
    verdicts = {"c": {"id": BRACKETED, "verdict": "reproduced", "tier": "[b]", "reason": BRACKETED}}
    monkeypatch.setenv("COLUMNS", "400")
    table = cli._claims("small", [dataclasses.replace(report, claims=verdicts)])
    display.Output().print(table)
    assert capsys.readouterr().out.count(BRACKETED) == 2


def test_every_console_of_the_suite_takes_text_as_text():
    """`Output` is the only one made; the bar's own columns are told so."""
    for path in [*(ROOT / "repro").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console":
                assert path.name == "display.py", path
    assert not display.Output()._markup and not display.Output()._emoji


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "[red"])
def test_a_bar_with_brackets(text, monkeypatch):
    bar = display._bar(text, 0, 3)
    try:
        bar.update(0, completed=1, text=text)
        console = Console(record=True, width=200, file=open(os.devnull, "w"))
        console.print(bar.get_renderable())
        assert console.export_text().count(text) == 2
    finally:
        bar.stop()


@pytest.mark.parametrize("columns", ["", "x", "-5", "0", "²", "1e3", "99999999999", "1"])
def test_columns_that_mean_nothing(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    width = display.Output().width
    assert display.LEAST_WIDTH <= width <= display.MOST_WIDTH


# The environment -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", " ", None])
def test_an_empty_variable_is_unset(value, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*environment.KNOWN, "XDG_CACHE_HOME"):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert str(places.work_root()) == "work"
    assert environment.data() == tmp_path / ".cache" / "repro-data"
    assert not environment.offline() and not environment.debug()
    assert environment.check() == []


@pytest.mark.parametrize("name", ["a b", "a{scale}b", "a<b>c", "-x", "$HOME", "ü", "a'b"])
def test_folders_of_any_name(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REPRO_WORK", f"~/{name}")
    assert places.work_root() == tmp_path / name
    monkeypatch.setenv("REPRO_DATA", name)
    assert str(environment.data()) == name
    assert places.writable(places.work_root(), "r").is_dir()


def test_a_variable_that_nobody_reads_is_named(monkeypatch):
    monkeypatch.setenv("REPRO_WROK", "x")
    assert environment.check() == [
        "REPRO_WROK is no variable of the suite (did you mean `REPRO_WORK`?)"
    ]


@pytest.mark.parametrize("name", ["REPRO_OFFLINE", "REPRO_DEBUG"])
def test_a_switch_is_yes_or_no(name, monkeypatch):
    for value in ("maybe", "2", "offline"):
        monkeypatch.setenv(name, value)
        with pytest.raises(ReproError, match=f"{name} is `{value}`; set it to 1"):
            environment.check()


def test_without_a_home_folder(monkeypatch):
    for name in ("HOME", "REPRO_DATA", "XDG_CACHE_HOME", "REPRO_WORK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(ReproError, match="set HOME, or REPRO_DATA"):
        environment.data()
    monkeypatch.setenv("REPRO_WORK", "~/w")
    with pytest.raises(ReproError, match="give REPRO_WORK as a whole path"):
        places.work_root()


READERS = {
    "repro/environment.py": "the place",
    "repro/data/sources.py": "hands the environment on to a package client",
    "repro/suite/audit/planting.py": "hands the environment on to processes in a copy of the tree",
}
"""Files that may read the environment. Variables of libraries are only set, by `setdefault`."""


def test_one_place_reads_the_environment():
    found = set()
    for path in [
        *(ROOT / "repro").rglob("*.py"),
        *(ROOT / "methods").rglob("*.py"),
        *(ROOT / "workflow").rglob("*.smk"),
        ROOT / "Snakefile",
    ]:
        text = path.read_text("utf-8")
        if path.suffix != ".py":
            assert "environ" not in text.replace("environment", ""), path
            continue
        tree = ast.parse(text)
        set_only = {
            id(node.func.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setdefault"
        }
        for node in ast.walk(tree):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if name in ("environ", "environb", "getenv") and id(node) not in set_only:
                found.add(str(path.relative_to(ROOT)))
    assert found == set(READERS)


# Devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device", ["tpu", "", "mps", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:9999", "cpu\n", "meta"]
)
def test_no_such_device(device):
    with pytest.raises(ReproError, match="`--device` takes cpu, cuda or cuda:<number>"):
        device_for(Options("smoke", device=device))


@pytest.mark.parametrize(("device", "there"), [("cuda", 1), ("cuda:1", 2), ("cuda:2", 2)])
def test_a_device_by_its_number(device, there, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    if device == "cuda:2":
        with pytest.raises(ReproError, match="shows 2 CUDA GPUs, counted from 0"):
            device_for(Options("smoke", device=device))
    else:
        assert device_for(Options("smoke", device=device)) == device


# Places, before the work ---------------------------------------------------------------------


def test_out_that_cannot_be_written_is_found_first(tmp_path, monkeypatch):
    from methods.diffusion_couple import profile

    monkeypatch.setattr(profile, "profile_cli", lambda *_: pytest.fail("it was computed"))
    for name in ("file", "my.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(ReproError, match="cannot be written .*--out"):
        cli.run("diffusion-couple", profile=tmp_path / "my.csv", output=tmp_path / "file" / "x")


@pytest.mark.parametrize("name", ["", "/", "nothing.csv", "x" * 300, "a\0b"])
def test_a_profile_that_is_no_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReproError, match="no file `.*; name the CSV"):
        cli.run("diffusion-couple", profile=Path(name))


def test_a_command_leaves_no_probe(tmp_path):
    places.writable(tmp_path / "a", "r")
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.dag
def test_a_job_that_fails_fails_the_workflow(tmp_path):
    """The log is written through a pipe, whose other end succeeds."""
    (tmp_path / "data").write_text("")
    done = python(
        *("-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", 1),
        "work/data/digits.json",
        cwd=tmp_path,
        REPRO_DATA=str(tmp_path / "data"),
    )
    assert done.returncode == 1
    assert "error: the data folder" in (tmp_path / "work/data/logs/digits.log").read_text()
    assert not (tmp_path / "work/data/digits.json").exists()
    json.loads((tmp_path / "work/plan/data/digits.json").read_text())
