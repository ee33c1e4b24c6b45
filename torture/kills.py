"""Kills at every step of a write and at random instants, and several runs in one work folder.

The toy of `torture.artefacts` is run by a child that dies, then run again to the end: all that a
person would read has to be what a run that nobody disturbed gives.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from torture.artefacts import SCALE, Toy, made, same, template, warm
from torture.case import Case, Raw, repro

KILLED = 9
"""Exit status of a child at its crash point."""


def forked(act: Callable[[], object]) -> int:
    """Start a child that acts and ends with 0, with 2 after a `ReproError`, else with 1."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        act()
        status = 0
    except ReproError as error:
        print(error, file=sys.stderr)
        status = 2
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """The exit status of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Exact crash points -------------------------------------------------------------------------


def _points() -> list[tuple[Any, str]]:
    """The functions before and after which a process is killed."""
    from repro import store
    from repro.suite import judging, run
    from repro.suite.report import figures, tables

    return [
        *((os, "replace"), (os, "fsync"), (shutil, "rmtree"), (store, "_exchange")),
        *((run, "run_model"), (run, "run_arm"), (judging, "judge")),
        *((tables, "write"), (figures, "write")),
    ]


def crashing(act: Callable[[], object], at: int, after: bool) -> Callable[[], list[str]]:
    """Act, and die before or after call number ``at`` of `_points`; returns the names of all."""

    def run() -> list[str]:
        called: list[str] = []
        for module, name in _points():
            setattr(module, name, _counted(getattr(module, name), name, called, at, after))
        act()
        return called

    return run


def _counted(
    original: Callable[..., Any], name: str, called: list[str], at: int, after: bool
) -> Callable[..., Any]:
    @functools.wraps(original)
    def counted(*arguments: Any, **given: Any) -> Any:
        number = len(called)
        called.append(name)
        if number == at and not after:
            os._exit(KILLED)
        result = original(*arguments, **given)
        if number == at and after:
            os._exit(KILLED)
        return result

    return counted


@functools.cache
def changed() -> Path:
    """As `template`, of a toy whose card was changed after a whole run, and all its crash points.

    Old numbers under new ones would show.
    """
    template()
    return made(_make_changed)


def _make_changed(folder: Path) -> None:
    toy = Toy(folder).write()
    shutil.copytree(template() / "work", toy.work)
    _change(toy)
    toy.enter()
    shutil.copytree(toy.work, folder / "before")
    points = {"again": list(crashing(toy.run, -1, False)())}
    (folder / "answer.json").write_text(json.dumps(toy.answer()))
    shutil.rmtree(toy.work)
    points["first"] = crashing(toy.run, -1, False)()
    (folder / "points.json").write_text(json.dumps(points))
    shutil.rmtree(toy.work)
    (folder / "before").rename(toy.work)


def _change(toy: Toy) -> None:
    card = toy.root / "methods" / "toy" / "experiment.yaml"
    text = card.read_text().replace("gain: 1.0", "gain: 1.5").replace("width: 3", "width: 5")
    card.write_text(text)


def points() -> dict[str, list[str]]:
    return json.loads((changed() / "points.json").read_text())


def prepared(folder: Path, scenario: str) -> tuple[Toy, dict[str, Any]]:
    """A toy whose card was changed after its run ("again"), or that never ran ("first")."""
    shutil.copytree(changed(), folder, dirs_exist_ok=True)
    toy = Toy(folder)
    if scenario == "first":
        shutil.rmtree(toy.work)
    return toy.enter(), json.loads((folder / "answer.json").read_text())


def _at_point(scenario: str, at: int, after: bool, batch: bool) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        toy, expected = prepared(folder, scenario)
        act = toy.batch if batch else toy.run
        status = ended(forked(crashing(act, at, after)))
        if status != KILLED:
            raise Raw(f"the crash point was not reached: status {status}")
        act()
        return toy.answer(), expected

    return run


def _read_at_once(at: int, after: bool) -> Callable[[Path], Any]:
    """What is read after a kill, before anything ran again: old, new, or refused; never mixed."""

    def run(folder: Path) -> Any:
        toy, new = prepared(folder, "again")
        old = json.loads((template() / "answer.json").read_text())
        ended(forked(crashing(toy.run, at, after)))
        found = json.loads(json.dumps(toy.answer()))
        read = [{key: answer[key] for key in ("numbers", "verdicts")} for answer in (found, old)]
        return found if read[0] == read[1] else found, (new if read[0] != read[1] else found)

    return run


def _same_numbers(found: tuple[Any, Any]) -> bool:
    return all(found[0][key] == found[1][key] for key in ("numbers", "verdicts"))


# Kills at random, and several at once -------------------------------------------------------


def _at_random(number: int, sent: int) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        draw = random.Random(number)
        toy, expected = prepared(folder, draw.choice(["first", "again"]))
        for _ in range(draw.randint(1, 3)):
            act = draw.choice([toy.run, toy.batch, functools.partial(toy.run, force=True)])
            child = forked(act)
            time.sleep(draw.uniform(0, 0.5))
            os.kill(child, sent)
            ended(child)
        draw.choice([toy.run, toy.batch])()
        return toy.answer(), expected

    return run


def _at_once(scenario: str, acts: tuple[str, ...], killed: bool) -> Callable[[Path], Any]:
    """Several runs in one work folder; each ends well or says on a line why not."""

    def run(folder: Path) -> Any:
        toy, expected = prepared(folder, scenario)
        known = {
            "run": toy.run,
            "batch": toy.batch,
            "forced": functools.partial(toy.run, force=True),
        }
        children = [forked(known[act]) for act in acts]
        if killed:
            time.sleep(0.15)
            os.kill(children[0], signal.SIGKILL)
        statuses = [ended(child) for child in children][int(killed) :]
        if 1 in statuses:
            raise Raw(f"a run ended with a traceback: {statuses}")
        if 2 in statuses:
            toy.run()
        return toy.answer(), expected

    return run


def _leaves_nothing(scenario: str, at: int, after: bool) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        toy, _ = prepared(folder, scenario)
        ended(forked(crashing(toy.run, at, after)))
        toy.run()
        partial = [path.name for path in toy.work.rglob("*.partial")]
        scratch = [path.name for path in (toy.base / "scratch").rglob("*") if path.is_file()]
        return partial, scratch

    return run


def _nothing(found: tuple[list[str], list[str]]) -> bool:
    return found == ([], [])


# Writes of one place by several processes ---------------------------------------------------


def _no_exchange(one: Path, other: Path) -> bool:
    return False


def _write(kind: str, path: Path, content: str) -> None:
    from repro import store

    if kind == "file":
        store.write_text(path, content)
        return
    with store.atomic_folder(path) as temporary:
        for name in ("a", "b", "c"):
            (temporary / name).write_text(content)


def _concurrent(kind: str, exchange: bool, writers: int, each: int) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro import store

        if not exchange:
            store._exchange = _no_exchange
        path = folder / "place"

        def act(me: int) -> None:
            for n in range(each):
                _write(kind, path, f"{me} {n}" * 100)

        children = [forked(functools.partial(act, me)) for me in range(writers)]
        seen: set[int] = set()
        for child in children:
            seen.add(ended(child))
        if seen != {0}:
            raise Raw(f"statuses of the writers: {sorted(seen)}")
        files = [path] if kind == "file" else sorted(path.iterdir())
        return len({file.read_text() for file in files}), [p.name for p in folder.iterdir()]

    return run


def _whole(found: tuple[int, list[str]]) -> bool:
    return found == (1, ["place"])


def _slow_writer(kind: str) -> Callable[[Path], Any]:
    """A write that takes hours is not swept by another of the same place."""

    def run(folder: Path) -> Any:
        from repro import store

        path = folder / "place"
        with (store.atomic if kind == "file" else store.atomic_folder)(path) as temporary:
            if kind == "file":
                temporary.write_text("slow")
            else:
                (temporary / "x").write_text("slow")
            old = time.time() - 7200
            for left in folder.rglob("*"):
                os.utime(left, (old, old))
            if ended(forked(functools.partial(_write, kind, path, "quick"))):
                raise Raw("the other writer failed")
        file = path if kind == "file" else path / "x"
        return file.read_text(), [p.name for p in folder.iterdir()]

    return run


# Real commands ------------------------------------------------------------------------------


def _command(number: int, sent: int) -> Callable[[Path], Any]:
    """`repro run` of a real method is killed, then run to the end, beside one undisturbed."""

    def run(folder: Path) -> Any:
        import subprocess

        from repro.places import ROOT

        draw = random.Random(number)
        whole, broken = folder / "whole", folder / "broken"
        for place in (whole, broken):
            place.mkdir()
        arguments = ("run", "diffusion-couple", "--scale", SCALE)
        repro(whole, *arguments).answer()
        child = subprocess.Popen(
            [sys.executable, "-m", "repro", *arguments],
            cwd=broken,
            env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(draw.uniform(1, 8))
        child.send_signal(sent)
        child.wait()
        repro(broken, *arguments).answer()
        return _tables(broken), _tables(whole)

    return run


def _tables(folder: Path) -> dict[str, str]:
    base = folder / "work" / SCALE / "report" / "tables"
    return {p.name: p.read_text() for p in base.rglob("*.*") if "cost" not in p.name}


def cases() -> Iterator[Case]:
    warm()
    for scenario, names in points().items():
        for (at, name), after in itertools.product(enumerate(names), (False, True)):
            where = f"{'after' if after else 'before'} step {at}, {name}, {scenario}"
            step = name not in ("fsync", "rmtree")
            yield Case(
                "killed at a step of a write",
                f"killed {where}",
                _at_point(scenario, at, after, batch=False),
                same,
                slow=not step or at % 6 > 0,
            )
            if scenario == "again" and step:
                yield Case(
                    "read after a kill",
                    f"read after a kill {where}",
                    _read_at_once(at, after),
                    _same_numbers,
                    slow=at % 12 > 0,
                )
            if name in ("_exchange", "replace"):
                yield Case(
                    "growing scratch",
                    f"what is left after a kill {where}",
                    _leaves_nothing(scenario, at, after),
                    _nothing,
                    slow=at % 16 > 0,
                )
    for number in range(200):
        sent = signal.SIGTERM if number % 10 == 9 else signal.SIGKILL
        yield Case(
            "killed at random",
            f"kill {number}, {sent.name}",
            _at_random(number, sent),
            same,
            slow=number >= 4,
        )
    for scenario, acts, killed in itertools.product(
        ("first", "again"),
        (("run", "run"), ("run", "batch"), ("batch", "batch"), ("forced", "run"), ("run",) * 4),
        (False, True),
    ):
        yield Case(
            "two runs at once",
            f"{', '.join(acts)} at once, {scenario}{', the first killed' if killed else ''}",
            _at_once(scenario, acts, killed),
            same,
            slow=len(acts) > 2 or killed,
        )
    for kind, exchange in itertools.product(("file", "folder"), (True, False)):
        yield Case(
            "two runs at once",
            f"600 writes of a {kind} by 6 processes{'' if exchange else ' without exchange'}",
            _concurrent(kind, exchange, 6, 100),
            _whole,
            slow=True,
        )
        yield Case(
            "two runs at once",
            f"60 writes of a {kind} by 4 processes{'' if exchange else ' without exchange'}",
            _concurrent(kind, exchange, 4, 15),
            _whole,
        )
    for kind in ("file", "folder"):
        yield Case(
            "two runs at once",
            f"a slow write of a {kind} beside a quick one",
            _slow_writer(kind),
            lambda found: found == ("slow", ["place"]),
        )
    for number, sent in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
        yield Case(
            "killed at random",
            f"the command, {sent.name}",
            _command(number, sent),
            lambda found: found[0] == found[1] != {},
            slow=True,
        )
