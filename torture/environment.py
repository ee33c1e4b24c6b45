"""Variables, home folders, odd paths, and environments whose making was cut off."""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import repro.suite.judging  # noqa: F401  # imported once, not in each process
from repro import places
from repro.data import cache
from repro.places import ROOT
from torture.case import Case, Raw
from torture.commands import answer, call

# Variables -------------------------------------------------------------------------------------

HOME = "home"
FOLDERS = {
    "empty": ("", None),
    "a blank": (" ", None),
    "home": ("~", HOME),
    "in home": ("~/x", f"{HOME}/x"),
    "a blank in home": ("~/a b", f"{HOME}/a b"),
    "a blank inside": ("a b", "a b"),
    "braces": ("{scale}", "{scale}"),
    "a path variable": ("<results>", "<results>"),
    "a dash": ("-x", "-x"),
    "no ASCII": ("ü", "ü"),
    "a dollar": ("$HOME", "$HOME"),
    "a parent": ("../x", "../x"),
    "a dot": (".", "."),
    "an end slash": ("x/", "x"),
    "nobody's home": ("~nobody-such/x", None),
}

READ: dict[str, tuple[Callable[[], Path], str]] = {
    "REPRO_WORK": (places.work_root, "work"),
    "REPRO_DATA": (cache.root, f"{HOME}/.cache/repro-data"),
    "XDG_CACHE_HOME": (cache.root, f"{HOME}/.cache/repro-data"),
}


def _set(**variables: str | None) -> None:
    for name in ("REPRO_WORK", "REPRO_DATA", "REPRO_OFFLINE", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _folder(variable: str, value: str) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        os.chdir(folder)
        _set(**{variable: value, "HOME": str(folder / HOME)})
        found = READ[variable][0]()
        return os.path.relpath(found, folder) if found.is_absolute() else str(found)

    return run


def _folders() -> Iterator[Case]:
    for variable, (_, default) in READ.items():
        for name, (value, due) in FOLDERS.items():
            if name == "nobody's home":
                yield Case("environment variables", f"{variable}: {name}", _folder(variable, value))
                continue
            where = default if due is None else due
            if variable == "XDG_CACHE_HOME" and due is not None:
                where = os.path.normpath(f"{due}/repro-data")
            yield Case(
                "environment variables",
                f"{variable}: {name}",
                _folder(variable, value),
                lambda found, where=where: found == where,
            )


SWITCH: dict[str, bool | None] = {
    **dict.fromkeys(("", " ", "0", "false", "no", "No", "off"), False),
    **dict.fromkeys(("1", "true", "yes", " YES ", "on"), True),
    **dict.fromkeys(("maybe", "2", "-1", "offline", "nein", "[]"), None),
}


def _offline(value: str) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        _set(REPRO_OFFLINE=value)
        return cache.offline()

    return run


def _switches() -> Iterator[Case]:
    for value, due in SWITCH.items():
        yield Case(
            "environment variables",
            f"REPRO_OFFLINE: {value!r}",
            _offline(value),
            None if due is None else lambda found, due=due: found is due,
        )


COLUMNS = ("", " ", "x", "0", "-5", "1", "1e3", "150.5", "²", "9" * 30, "0x50")


def _columns() -> Iterator[Case]:
    for value in COLUMNS:
        for words in (("list",), ("ledger", "--scale", "small")):
            yield Case(
                "environment variables",
                f"COLUMNS: {value!r}: {words[0]}",
                lambda folder, words=words, value=value: call(
                    folder, *words, environment={"COLUMNS": value}
                ).answer(),
                lambda done: done.status == 0 and len(done.out.splitlines()) > 10,
                slow=words != ("list",),
            )


UNKNOWN = ("REPRO_WROK", "REPRO_METHODS", "REPRO_DATA_DIR", "REPRO_OFLINE", "REPRO_CACHE")


def _unknown() -> Iterator[Case]:
    for name in UNKNOWN:
        yield Case(
            "environment variables",
            f"{name} is read nowhere",
            lambda folder, name=name: call(folder, "list", environment={name: "x"}).answer(),
            lambda done, name=name: name in done.err,
            slow=name != "REPRO_WROK",
        )


# No home, other users --------------------------------------------------------------------------

COMMANDS = {
    "list": ("list",),
    "show": ("show", "radd"),
    "doctor": ("doctor",),
    "fetch": ("fetch", "radd", "--dry-run"),
    "ledger": ("ledger", "--scale", "small"),
    "job data": ("job", "data", "digits"),
}


def _homeless(words: tuple[str, ...]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        def unknown(*_: Any) -> None:
            raise KeyError("uid not found")

        pwd.getpwuid = pwd.getpwnam = unknown
        os.environ.pop("REPRO_DATA", None)
        os.environ.pop("XDG_CACHE_HOME", None)
        return answer(call(folder, *words, environment={"HOME": None}))

    return run


CLOSED = ("/proc/nothing", "/sys/nothing", "/dev/null/x", "file", "file/x")
"""Folders that nobody can make."""


def _closed(words: tuple[str, ...], variable: str, place: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        (folder / "file").write_text("")
        return answer(call(folder, *words, environment={variable: place}))

    return run


def _users() -> Iterator[Case]:
    for name, words in COMMANDS.items():
        needs_home = name in ("show", "doctor", "fetch", "job data")
        yield Case(
            "raw traceback",
            f"no home: {name}",
            _homeless(words),
            None if needs_home else lambda done: done.status == 0,
            slow=name not in ("list", "show"),
        )
        for variable in ("REPRO_WORK", "REPRO_DATA"):
            for place in CLOSED:
                writes = name == "job data"
                yield Case(
                    "raw traceback",
                    f"{variable}={place}: {name}",
                    _closed(words, variable, place),
                    None if writes else lambda done: done.status == 0,
                    slow=(name, place) != ("job data", "file/x"),
                )


# Odd paths -------------------------------------------------------------------------------------

NAMES = (
    "a b",
    "it's",
    'a"b',
    "$HOME",
    "`x`",
    "{scale}",
    "<results>",
    "ü%",
    "-x",
    "#a",
    "a;b",
    "a&b",
)


IN_THE_DAG = ("it's", "$HOME", "{scale}", "<results>", "-x")


def _make_env() -> Any:
    spec = importlib.util.spec_from_file_location("make_env", ROOT / "tools" / "make_env.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


class Killed(BaseException):
    """The process is killed here."""


def _played(module: Any, root: Path, dies: str = "") -> None:
    """venv and pip in play: quick, without a network; killed at the step that is named."""
    (root / "requirements.lock").write_text("package==1\n")
    module.ROOT = root
    real = subprocess.run

    def create(folder: Path, with_pip: bool = False, **options: Any) -> None:
        if dies == "before venv":
            raise Killed
        if dies == "within venv, first":
            (folder / "bin").mkdir(parents=True)
            raise Killed
        venv.EnvBuilder(symlinks=True).create(folder)
        if dies == "within venv":
            raise Killed
        (folder / "has-pip").touch()
        if dies == "after venv":
            raise Killed

    def pip(command: Any, **options: Any) -> Any:
        if "pip" not in command:
            return real(command, **options)
        folder = Path(command[0]).parent.parent
        good = (folder / "has-pip").is_file() and (folder / "bin" / "python").exists()
        if "install" in command:
            if dies == "before pip":
                raise Killed
            (folder / "packages").touch()
            if dies == "after pip":
                raise Killed
        if options.get("check") and not good:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, int(not good), stdout="pip 1")

    module.venv = type("venv", (), {"create": staticmethod(create)})
    module.subprocess = type(
        "subprocess",
        (),
        {"run": staticmethod(pip), "CalledProcessError": subprocess.CalledProcessError},
    )


def _launched(name: str) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        root = folder / name
        (root / "repro").mkdir(parents=True)
        (root / "repro" / "__main__.py").write_text("import sys; print(sys.argv[1:], __file__)")
        module = _make_env()
        _played(module, root)
        module.main(root / ".venv")
        done = subprocess.run(
            [root / ".venv" / "bin" / "repro", "a b"], cwd="/", capture_output=True, text=True
        )
        if done.returncode:
            raise Raw(done.stderr)
        return done.stdout.strip().removeprefix("['a b'] ").removeprefix(f"{root}/")

    return run


def _made(name: str) -> Callable[[Path], list[str]]:
    """`make page` with an environment in a folder of that name, whose Python notes what it gets."""

    def run(folder: Path) -> list[str]:
        (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
        (folder / "requirements.lock").touch()
        (folder / "tools").mkdir()
        (folder / "tools" / "make_env.py").touch()
        for word in ("python", "snakemake"):
            program = folder / name / "bin" / word
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(
                '#!/bin/sh\nprintf "%s|" "$0" "$@" >> noted; echo >> noted; echo 2\n'
            )
            program.chmod(0o755)
        value = name.replace("$", "$$")
        done = subprocess.run(
            ["make", f"VENV={value}", f"PYTHON={value}/bin/python", "page"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Raw(done.stderr)
        return (folder / "noted").read_text().splitlines()

    return run


def _planned(name: str, variable: str) -> Callable[[Path], int]:
    """A dry run of the DAG with a work folder, or a folder to stand in, of that name."""

    def run(folder: Path) -> int:
        here = folder / name if variable == "cwd" else folder
        here.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "-n"]
            + ["--cores", "1", "smoke/diffusion-couple"],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": name},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Raw(done.stderr[-1500:])
        return done.returncode

    return run


def _paths() -> Iterator[Case]:
    kind = "unquoted path in a shell command"
    for name in NAMES:
        yield Case(
            kind,
            f"the launcher under {name}",
            _launched(name),
            lambda found: found == "repro/__main__.py",
            slow=name not in NAMES[:3],
        )
        if name not in ("#a", "-x"):  # a comment to make; an option to the shell of the fake
            yield Case(
                kind,
                f"make with {name}",
                _made(name),
                lambda lines, name=name: lines[-1] == f"{name}/bin/python|-m|repro|report|",
                slow=name not in NAMES[:2],
            )
        for variable in ("work", "cwd") if name in IN_THE_DAG else ():
            yield Case(
                kind,
                f"the DAG with {name}: {variable}",
                _planned(name, variable),
                lambda status: status == 0,
                slow=True,
            )


# Setup -----------------------------------------------------------------------------------------

STEPS = (
    *("before venv", "within venv, first", "within venv", "after venv", "before pip", "after pip"),
    *("before the launcher", "within the launcher", "before the mark", "within the mark"),
)


def _killed(step: str, times: int) -> Callable[[Path], list[str]]:
    def run(folder: Path) -> list[str]:
        write = Path.write_text

        def dying(path: Path, text: str, *rest: Any, **options: Any) -> int:
            name = {"repro": "the launcher", ".ready": "the mark"}.get(path.name)
            if step == f"within {name}":
                write(path, text[: len(text) // 2], *rest, **options)
            if name and step.endswith(name):
                raise Killed
            return write(path, text, *rest, **options)

        for _ in range(times):
            module = _make_env()
            _played(module, folder, step)
            Path.write_text = dying  # type: ignore[method-assign, assignment]
            try:
                module.main(folder / ".venv")
            except Killed:
                pass
            finally:
                Path.write_text = write  # type: ignore[method-assign]
        return _whole(folder)

    return run


def _whole(folder: Path) -> list[str]:
    """Make it once more; what is missing then."""
    module = _make_env()
    _played(module, folder)
    try:
        module.main(folder / ".venv")
    except SystemExit as end:
        raise Raw(f"the repeat fails: {end.code}") from None
    parts = ("has-pip", "packages", "bin/python", "bin/repro", ".ready")
    return [part for part in parts if not (folder / ".venv" / part).exists()]


def _damaged(kind: str) -> Callable[[Path], list[str]]:
    def run(folder: Path) -> list[str]:
        module, made = _make_env(), folder / ".venv"
        _played(module, folder)
        module.main(made)
        ready, python = made / ".ready", made / "bin" / "python"
        if kind == "no python":
            python.unlink()
        elif kind == "a python that is gone":
            python.unlink()
            python.symlink_to("/nothing/bin/python3.9")
        elif kind == "a mark that is no text":
            ready.write_bytes(b"\xff\xfe\x00")
        elif kind == "an empty mark":
            ready.write_bytes(b"")
        elif kind == "no pip":
            (made / "has-pip").unlink()
            ready.unlink()
        elif kind == "moved":
            made.rename(folder / "moved")
            (folder / "moved").rename(folder / "other")
            module.main(folder / "other")
            text = (folder / "other" / "bin" / "repro").read_text()
            return [] if str(folder / "other") in text else ["launcher of the new place"]
        return _whole(folder)

    return run


DAMAGED = (
    "no python",
    "a python that is gone",
    "a mark that is no text",
    "an empty mark",
    "no pip",
)


def _foreign(kind: str) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        module = _make_env()
        _played(module, folder)
        target = folder / "mine"
        if kind == "a file":
            target.write_text("x")
        else:
            target.mkdir()
            (target / "thesis.tex").write_text("x")
        try:
            module.main(target)
        except SystemExit as end:
            return str(end.code)
        return "made"

    return run


def _setup() -> Iterator[Case]:
    kind = "setup not resumable"
    for step in STEPS:
        for times in (1, 3):
            yield Case(
                kind,
                f"killed {times} times {step}",
                _killed(step, times),
                lambda missing: missing == [],
                slow=times > 1,
            )
    for what in (*DAMAGED, "moved"):
        yield Case(kind, what, _damaged(what), lambda missing: missing == [])
    for what in ("a file", "a folder with other files"):
        yield Case(
            kind,
            f"in the place of {what}",
            _foreign(what),
            lambda said: "mine" in said and len(said.splitlines()) == 1,
        )


def cases() -> Iterator[Case]:
    yield from _folders()
    yield from _switches()
    yield from _columns()
    yield from _unknown()
    yield from _users()
    yield from _paths()
    yield from _setup()
