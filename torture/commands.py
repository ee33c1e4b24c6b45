"""Commands with arguments, streams, texts and signals that they did not expect."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import repro.suite.judging  # noqa: F401  # imported once, not in each process
from repro.errors import ReproError
from repro.places import ROOT
from repro.suite.cards import library
from torture.case import Case, Done, Raw

# What a person may type ------------------------------------------------------------------------

ODD = {
    "empty": "",
    "no such": "nope",
    "a line end": "radd\nx",
    "a NUL": "a\0b",
    "300 letters": "x" * 300,
    "the root": "/",
    "markup": "[bold]radd[/bold]",
    "no UTF-8": "\udcff",
    "a number": "-1",
}

HERE = "@"
"""In the place of what is odd."""

SLOTS = {
    "a command": (HERE,),
    "show": ("show", HERE),
    "run": ("run", HERE),
    "run --scale": ("run", "radd", "--scale", HERE),
    "run --arm": ("run", "radd", "--arm", HERE),
    "run --seed": ("run", "radd", "--seed", HERE),
    "run --device": ("run", "radd", "--device", HERE),
    "run --profile of none": ("run", "radd", "--profile", HERE),
    "run --profile": ("run", "diffusion-couple", "--profile", HERE),
    "run --config alone": ("run", "radd", "--config", HERE),
    "run --out alone": ("run", "radd", "--out", HERE),
    "claims": ("claims", HERE),
    "claims --scale": ("claims", "--scale", HERE),
    "claims --kind": ("claims", "--kind", HERE),
    "claims --verdict": ("claims", "--verdict", HERE),
    "cite": ("cite", HERE),
    "report": ("report", "--scale", HERE),
    "ledger": ("ledger", "--scale", HERE),
    "publish": ("publish", "--scale", HERE),
    "publish a method": ("publish", HERE, "--scale", "small"),
    "unpublish": ("unpublish", "radd", "--scale", HERE),
    "unpublish a method": ("unpublish", HERE, "--scale", "small"),
    "carry": ("carry", "radd", "--scale", HERE, "--arm", "exact", "--reason", "r"),
    "carry a method": ("carry", HERE, "--scale", "small", "--arm", "exact", "--reason", "r"),
    "carry an arm": ("carry", "radd", "--scale", "small", "--arm", HERE, "--reason", "r"),
    "fetch": ("fetch", HERE, "--dry-run"),
    "fetch --scale": ("fetch", "radd", "--dry-run", "--scale", HERE),
    "fetch --only": ("fetch", "radd", "--dry-run", "--only", HERE),
    "fetch --accept": ("fetch", "radd", "--dry-run", "--accept", HERE),
    "job data": ("job", "data", HERE),
    "job official": ("job", "official", HERE),
    "job model: scale": ("job", "model", HERE, "radd", "wiki-sedd-scale", "0"),
    "job model: owner": ("job", "model", "smoke", HERE, "wiki-sedd-scale", "0"),
    "job model: model": ("job", "model", "smoke", "radd", HERE, "0"),
    "job model: seed": ("job", "model", "smoke", "radd", "wiki-sedd-scale", HERE),
    "job arm: scale": ("job", "arm", HERE, "radd", "exact"),
    "job arm: method": ("job", "arm", "smoke", HERE, "exact"),
    "job arm: arm": ("job", "arm", "smoke", "radd", HERE),
    "job models: scale": ("job", "models", HERE, "radd"),
    "job models: owner": ("job", "models", "smoke", HERE),
    "job arms: method": ("job", "arms", "smoke", HERE),
    "job verdict: method": ("job", "verdict", "smoke", HERE),
    "job report: method": ("job", "report", "smoke", HERE),
    "job page": ("job", "page", HERE),
}

QUICK = {("show", name) for name in ODD} | {
    *((slot, "a line end") for slot in ("run", "run --arm", "job data", "publish a method")),
    *((slot, "no such") for slot in ("job model: model", "job model: owner", "run --device")),
    *((slot, "no such") for slot in ("run --out alone", "run --config alone")),
    ("job model: seed", "a number"),
    ("run --device", "empty"),
}

DEVICES = ("tpu", "mps", "cuda:99", "cuda:", "CPU", "cpu:0:1", "meta", "0", "gpu", "xpu:0")


def call(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
) -> Done:
    """A command in this process, in a folder; the module is read anew, as in one of its own."""
    os.chdir(folder)
    sys.argv = ["repro", *arguments]
    for name, value in {"REPRO_WORK": "work", **(environment or {})}.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name in ("repro.suite.cli", "repro.display"):
            sys.modules.pop(name, None)
        try:
            importlib.import_module("repro.suite.cli").main()
        except SystemExit as end:
            status = end.code
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode("utf-8", "replace"))
    return Done(int(status or 0), *said)


def answer(done: Done) -> Done:
    """What came of it, where it was refused before the work and not as a fault of the suite."""
    if done.status and "(log: " in done.err:
        raise Raw(f"the work had begun: {done.err}")
    if "traceback in " in done.err:
        raise Raw(done.err)
    return done.answer()


def _typed(slot: str, value: str) -> Callable[[Path], Done]:
    words = tuple(value if word == HERE else word for word in SLOTS[slot])
    return lambda folder: answer(call(folder, *words))


def _arguments() -> Iterator[Case]:
    for slot in SLOTS:
        for name, value in ODD.items():
            yield Case(
                "an argument that means nothing",
                f"{slot}: {name}",
                _typed(slot, value),
                slow=(slot, name) not in QUICK,
            )
    for value in DEVICES:
        yield Case(
            "an argument that means nothing",
            f"run --device {value}",
            _typed("run --device", value),
            slow=value not in ("tpu", "cuda:99"),
        )


# Places ----------------------------------------------------------------------------------------

PROFILE = "x_um,N_B\n" + "".join(
    f"{i},{1 / (1 + 2.718 ** ((20 - i) / 4)):.6f}\n" for i in range(41)
)
SETTINGS = "t_s: 3600\nT_C: 1000\nN_left: 0\nN_right: 1\nV_A: 7\nV_B: 7\n"


def _out(kind: str) -> Callable[[Path], Done]:
    def run(folder: Path) -> Done:
        (folder / "p.csv").write_text(PROFILE)
        (folder / "p.yaml").write_bytes(
            "# gemessen für uns\n".encode("latin-1") * (kind == "a YAML in Latin-1")
            + SETTINGS.encode()
        )
        (folder / "file").write_text("mine")
        out = {"a file": "file", "in a file": "file/x", "a NUL": "a\0b", "a device": "/dev/null"}
        done = call(
            folder,
            *("run", "diffusion-couple", "--profile", "p.csv", "--out", out.get(kind, "out")),
        )
        if (folder / "file").read_text() != "mine":
            raise Raw("the file was written over")
        if "D(N)" in done.out or "# " in done.out and done.status:
            raise Raw("found after the computation")
        return answer(done)

    return run


def _places() -> Iterator[Case]:
    for kind in ("a file", "in a file", "a NUL", "a device", "a YAML in Latin-1"):
        yield Case("a place that cannot be written", f"--out: {kind}", _out(kind), slow=True)
    for name, words in {
        "run": ("run", "diffusion-couple"),
        "report": ("report", "--scale", "small"),
        "job data": ("job", "data", "digits"),
        "job arm": ("job", "arm", "smoke", "diffusion-couple", "exact"),
        "job models": ("job", "models", "smoke", "radd"),
        "job verdict": ("job", "verdict", "smoke", "radd"),
        "job page": ("job", "page", "smoke"),
    }.items():
        for kind, place in {"a file": "file", "in a file": "file/x", "a link": "link"}.items():

            def run(folder: Path, words=words, place=place) -> Done:
                (folder / "file").write_text("")
                (folder / "link").symlink_to(folder / "gone" / "away")  # leads nowhere
                return answer(call(folder, *words, environment={"REPRO_WORK": place}))

            yield Case(
                "a place that cannot be written",
                f"REPRO_WORK: {kind}: {name}",
                run,
                slow=name not in ("run", "job data"),
            )


# How it ends -----------------------------------------------------------------------------------

ENDS: dict[str, tuple[BaseException, int]] = {
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "a mistake": (ReproError("a mistake"), 2),
    "a mistake of two lines": (ReproError("a\nmistake"), 2),
    "an exit": (SystemExit(3), 3),
    "a closed pipe": (BrokenPipeError(32, "Broken pipe"), 141),
    "a full disk": (OSError(28, "No space left on device", "f"), 1),
    "no permission": (PermissionError(13, "Permission denied", "f"), 1),
    "no memory": (MemoryError(), 1),
    "too deep": (RecursionError("maximum recursion depth exceeded"), 1),
    "an end of file": (EOFError("f"), 1),
    "a fault": (KeyError("x"), 1),
    "a fault of two lines": (ValueError("a\nb"), 1),
}


def _raising(raised: BaseException, words: tuple[str, ...]) -> Callable[[Path], tuple[int, int]]:
    def run(folder: Path) -> tuple[int, int]:
        def fails(*_: Any, **__: Any) -> None:
            raise raised

        library.slugs = fails
        done = call(folder, *words)
        if "Traceback (most" in done.err:
            raise Raw(done.err)
        return done.status, len(done.err.splitlines())

    return run


def _ends() -> Iterator[Case]:
    for words in (("list",), ("show", "radd"), ("report", "--scale", "smoke")):
        for name, (raised, status) in ENDS.items():
            lines = 0 if name in ("an exit", "a closed pipe") else 1
            yield Case(
                "exit status lies",
                f"{' '.join(words)}: {name}",
                _raising(raised, words),
                lambda found, due=(status, lines): found == due,
                slow=words != ("list",),
            )


# Streams ---------------------------------------------------------------------------------------

SHOWN = {
    "list": ("list",),
    "show": ("show", "radd"),
    "ledger": ("ledger", "--scale", "small"),
    "claims": ("ledger", "--scale", "small", "--claims"),
    "list as JSON": ("list", "--json"),
    "cite": ("cite",),
    "help": ("--help",),
    "a mistake": ("show", "nöpe ≤"),
}


def _encoded(words: tuple[str, ...], encoding: str) -> Callable[[Path], Done]:
    return lambda folder: call(folder, *words, encoding=encoding).answer()


def _redirected(words: tuple[str, ...], how: str) -> Callable[[Path], tuple[int, str]]:
    def run(folder: Path) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f'"$@" {how}', "-", sys.executable, "-m", "repro"]
            + list(words),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if "Traceback" in done.stderr or "Exception ignored" in done.stderr:
            raise Raw(done.stderr)
        return done.returncode, done.stderr

    return run


STREAMS = {
    "| true": (141,),
    ">&-": (0,),
    "2>&-": (0,),
    "<&-": (0,),
    ">&- 2>&- <&-": (0,),
    "> /dev/full": (1,),
}


def _streams() -> Iterator[Case]:
    for name, words in SHOWN.items():
        for encoding in ("ascii", "latin-1", "cp1252"):
            yield Case(
                "a stream that takes less",
                f"{name} in {encoding}",
                _encoded(words, encoding),
                lambda done: done.status == 0,
                slow=encoding != "ascii" or name in ("ledger", "claims"),
            )
        if name == "a mistake":
            continue
        for how, statuses in STREAMS.items():
            yield Case(
                "a stream that takes less",
                f"{name} {how}",
                _redirected(words, how),
                lambda found, statuses=statuses: found[0] in statuses,
                slow=(name, how) != ("list", "| true"),
            )


# Markup ----------------------------------------------------------------------------------------

FIELDS = ("short", "title", "summary", "venue", "id", "statement", "where")
MARKS = ("[b]x[/b]", "x [red]", "[/]", "loss[a, n=4]", "[link=http://x]x[/link]", ":smile:")


def _marked(field: str, mark: str) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        method, read = library.load("radd"), library.load
        if field in ("short", "title", "summary", "venue"):
            card = method.paper.model_copy(update={field: mark})
        else:
            claim = method.paper.claims[0].model_copy(update={field: mark})
            card = method.paper.model_copy(update={"claims": [claim]})
        odd = dataclasses.replace(method, paper=card)
        library.load = lambda slug, *rest: odd if slug == "radd" else read(slug, *rest)
        return call(folder, "show", "radd", environment={"COLUMNS": "400"}).answer().out

    return run


def _markup() -> Iterator[Case]:
    for field in FIELDS:
        for mark in MARKS:
            yield Case(
                "text read as markup",
                f"show: {field}: {mark}",
                _marked(field, mark),
                lambda shown, mark=mark: mark in shown,
                slow=mark not in MARKS[:1],
            )


# Signals ---------------------------------------------------------------------------------------

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
    import repro.suite.judging, repro.suite.reporting, repro.suite.run
    if moment == "judging":
        repro.suite.judging.records_of = send
    elif moment == "reporting":
        repro.suite.reporting.report_committed = send
    elif moment == "a training":
        import repro.training.loop
        repro.training.loop.Losses.on_train_batch_end = send
    else:
        repro.suite.run.function = lambda *_: send
sys.argv = ["repro", *arguments]
runpy.run_module("repro", run_name="__main__", alter_sys=True)
"""

MOMENTS = {
    "an import": ("list",),
    "an arm": ("run", "diffusion-couple", "--arm", "exact"),
    "an arm of the DAG": ("job", "arm", "smoke", "diffusion-couple", "exact"),
    "a training": ("job", "model", "smoke", "superdiff", "plane-up", "0"),
    "judging": ("job", "verdict", "smoke", "diffusion-couple"),
    "reporting": ("report", "--scale", "small"),
}


def _stopped(moment: str, number: signal.Signals) -> Callable[[Path], tuple[int, list[str]]]:
    def run(folder: Path) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, moment, str(int(number)), *MOMENTS[moment]],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work"},
            capture_output=True,
            text=True,
        )
        if "Traceback" in done.stderr:
            raise Raw(done.stderr)
        said = [line for line in done.stderr.splitlines() if "(log: " not in line]
        return done.returncode, said

    return run


def _signals() -> Iterator[Case]:
    for moment in MOMENTS:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield Case(
                "exit status lies",
                f"{number.name} in {moment}",
                _stopped(moment, number),
                lambda found, due=128 + number: found[0] == due and len(found[1]) == 1,
                slow=(moment, number) != ("an import", signal.SIGINT),
            )


def cases() -> Iterator[Case]:
    yield from _arguments()
    yield from _places()
    yield from _ends()
    yield from _streams()
    yield from _markup()
    yield from _signals()
