"""Faults planted in a copy of the tree: what its judge says of the paper's arms, and its tests.

A fault is data (``faults.yaml``): a file, the text that stands once in it, what takes its place. It
is never planted where the suite lies. The judge's part (`repro.suite.audit.trial`) runs at smoke
the paper's arms of exact and structural checks and those that the fault names, beginning from the
work of an untouched tree: fingerprints decide what is run anew. The tests are those of the paper
and of the module that the fault is in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from repro import documents, store
from repro.errors import ReproError
from repro.places import ROOT, work_root
from repro.suite.cards.base import Name, Slug, Strict
from repro.suite.cards.loading import read

FAULTS = Path(__file__).parent / "faults.yaml"
MARKDOWN, JSON = FAULTS.with_name("table.md"), FAULTS.with_name("table.json")
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", "work", "results", "__pycache__", ".*_cache", ".snakemake", "*.partial"
)
LIMIT_S = 900
"""After how long a run in the copy counts as noticed by nobody."""


class Edit(Strict):
    """A text that stands once in a file, and what takes its place."""

    file: str
    before: Annotated[str, Field(min_length=1)]
    after: str

    def make(self, tree: Path, name: str) -> None:
        """Make it in a copy of the tree.

        Raises:
            ReproError: the text does not stand once in the file, or the tree is that of the suite.
        """
        path = tree / self.file
        if tree.resolve() == ROOT:
            raise ReproError(f"{tree} is the suite itself; plant faults in a copy of it")
        text = path.read_text("utf-8") if path.is_file() else ""
        if (count := text.count(self.before)) != 1:
            raise ReproError(
                f"fault `{name}`: its text stands {count} times in {self.file}; mend "
                "repro/suite/audit/faults.yaml"
            )
        store.write_text(path, text.replace(self.before, self.after))


class Fault(Edit):
    """One fault.

    Attributes:
        paper: whose arms are run; None where the fault is in the suite itself.
        setup: made beforehand, in the tree without the fault as well: sizes at which it matters.
        arms: run besides those of exact and structural checks.
        tests: run besides those of the paper and of the module.
        known: why nothing notices it, where nothing does.
        quick: part of the quick form.
    """

    id: Name
    family: str
    paper: Slug | None
    what: str
    setup: Edit | None = None
    arms: list[str] = []
    tests: list[str] = []
    known: str = ""
    quick: bool = False


class Faults(Strict):
    faults: list[Fault]


class Late(ReproError):
    """A run in a copy did not end in time."""


@dataclass(frozen=True)
class Outcome:
    """What noticed a fault: both empty where nothing did."""

    fault: Fault
    judge: str
    tests: str


def faults(papers: Sequence[str] = (), quick: bool = False) -> list[Fault]:
    """The faults of some papers (default: all, and those of the suite).

    Raises:
        ReproError: the file is malformed.
    """
    every = read(FAULTS, Faults).faults
    chosen = [fault for fault in every if not papers or fault.paper in papers]
    return [fault for fault in chosen if fault.quick or not quick]


@contextmanager
def copied(work: Path | None = None) -> Iterator[Path]:
    """A copy of the tree in a folder of its own, with the work of another below ``work``."""
    with tempfile.TemporaryDirectory(prefix="repro-audit-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=SKIPPED, copy_function=_copy)
        if work is not None and work.is_dir():
            shutil.copytree(work, tree / "work", copy_function=_copy)
        yield tree


def _copy(source: str, target: str) -> None:
    """A hard link of a file of weights, which nobody writes into; a copy of all else."""
    if source.endswith((".safetensors", ".npz")):
        try:
            os.link(source, target)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(source, target)


# What ought to notice -------------------------------------------------------------------------


def _run(tree: Path, *arguments: str) -> tuple[int, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "REPRO_WORK": str(tree / "work"),
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True,
            text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise Late(f"no end after {LIMIT_S} s: {' '.join(arguments)}") from late
    return done.returncode, done.stdout + done.stderr


def tried(tree: Path, paper: str, arms: Iterable[str]) -> dict[str, Any]:
    """What the judge of a tree says of a paper's arms; see `repro.suite.audit.trial`.

    Returns ``{"refused": line}``, or ``{"holds": {check: …}}``.
    """
    out = tree / "audit.json"
    status, said = _run(tree, "-m", "repro.suite.audit.trial", paper, str(out), *arms)
    if status == 0 and out.is_file():
        return documents.read_json(out, dict)
    lines = [line for line in said.splitlines() if line.strip()]
    return {"refused": documents.one_line(lines[-1] if lines else f"status {status}", 200)}


def tests_of(fault: Fault, tree: Path) -> list[str]:
    """The test files and folders of a fault's paper and module."""
    found = list(fault.tests)
    if fault.paper is not None:
        found.append(f"tests/methods/{fault.paper.replace('-', '_')}")
    package, _, rest = fault.file.partition("/")
    module = Path(rest)
    if package == "repro" and module.suffix == ".py" and len(module.parts) > 1:
        own = f"tests/{module.parent}/test_{module.stem}.py"
        found.append(own if (tree / own).is_file() else f"tests/{module.parent}")
    return [path for path in dict.fromkeys(found) if (tree / path).exists()]


def tested(tree: Path, paths: Sequence[str], without: Iterable[str] = ()) -> str:
    """The first test that fails; empty where all pass."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
    options += [f"--deselect={name}" for name in without]
    status, said = _run(tree, "-m", "pytest", *options, *paths)
    if status == 0:
        return ""
    failed = [line for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].split()[1] if failed else f"status {status}"


@dataclass
class Bench:
    """An untouched copy of the tree and what its judge says, against which others are held.

    Attributes:
        base: the work that planted copies begin from.
        judged: by paper, of the arms of all its faults; by fault, where it has a setup.
    """

    untouched: Path
    base: Path
    judged: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, untouched: Path, chosen: Sequence[Fault]) -> Bench:
        """Run what is needed of the untouched tree; its work is kept below the work folder.

        Raises:
            ReproError: a paper is refused without any fault.
        """
        base = base_of_work()
        arms: dict[str, dict[str, None]] = {}
        for fault in chosen:
            if fault.paper is not None and fault.setup is None:
                arms.setdefault(fault.paper, {}).update(dict.fromkeys(fault.arms))
        judged = {paper: tried(untouched, paper, own) for paper, own in arms.items()}
        if (untouched / "work").is_dir():
            shutil.copytree(untouched / "work", base, dirs_exist_ok=True, copy_function=_replace)
        for fault in chosen:
            if fault.paper is not None and fault.setup is not None:
                with copied(base) as tree:
                    fault.setup.make(tree, fault.id)
                    judged[fault.id] = tried(tree, fault.paper, fault.arms)
        for name, found in judged.items():
            if "refused" in found:
                raise ReproError(f"{name} is refused without any fault: {found['refused']}")
        return cls(untouched, base, judged)

    def outcome(self, fault: Fault, tests: str = "all") -> Outcome:
        """Plant a fault and see what notices it.

        Args:
            tests: "all", or "missed": only where the judge notices nothing.
        """
        with copied(self.base) as tree:
            for edit in filter(None, (fault.setup, fault)):
                edit.make(tree, fault.id)
            judge = _in_time(lambda: self._judge(fault, tree))
            skip = tests == "missed" and judge
            return Outcome(fault, judge, "" if skip else _in_time(lambda: self._tests(fault, tree)))

    def _judge(self, fault: Fault, tree: Path) -> str:
        if fault.paper is None:
            return ""
        before = self.judged[fault.paper if fault.setup is None else fault.id]
        after = tried(tree, fault.paper, fault.arms)
        if "refused" in after:
            return f"refused: {after['refused']}"
        lost = [
            name for name, held in before["holds"].items()
            if held and after["holds"].get(name) is False
        ]  # fmt: skip
        return ", ".join(lost)

    def _tests(self, fault: Fault, tree: Path) -> str:
        """The first test that fails and does not without the fault."""
        paths, without = tests_of(fault, tree), list[str]()
        while paths and (failed := tested(tree, paths, without)):
            if "::" not in failed or failed in without or not tested(self.untouched, [failed]):
                return failed
            without.append(failed)
        return ""


def _in_time(notices: Callable[[], str]) -> str:
    """What it says; nothing where it does not end."""
    try:
        return notices()
    except Late:
        return ""


def base_of_work() -> Path:
    """Where the work of untouched trees is kept."""
    return work_root().absolute() / "audit"


def _replace(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    shutil.copyfile(source, target)


def outcomes(chosen: Sequence[Fault], jobs: int = 1, tests: str = "all") -> Iterator[Outcome]:
    """Plant every fault in turn, several at once.

    What noticed a fault is kept below the work folder, and found again there while the tree stays
    as it is: an interrupted audit goes on where it was. What nothing noticed is tried again, as it
    may only have been late.

    Args:
        tests: see `Bench.outcome`.
    """
    with copied(base_of_work()) as untouched:
        of = {"tree": _digest(untouched), "form": tests}
        left = [fault for fault in chosen if _kept(fault, of) is None]
        bench = Bench.of(untouched, left) if left else None

        def find(fault: Fault) -> Outcome:
            found = _kept(fault, of)
            if found is None and bench is not None:
                found = bench.outcome(fault, tests)
                if found.judge or found.tests:
                    kept = {**of, "judge": found.judge, "tests": found.tests}
                    store.write_sealed(_place(fault), kept)
            assert found is not None
            return found

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(find, chosen)


def _place(fault: Fault) -> Path:
    return work_root().absolute() / "audited" / f"{fault.id}.json"


def _kept(fault: Fault, of: Mapping[str, str]) -> Outcome | None:
    """What was found of a fault in this very tree."""
    path = _place(fault)
    if not path.is_file():
        return None
    found = store.read_sealed(path)
    if any(found.get(key) != value for key, value in of.items()):
        return None
    return Outcome(fault, found["judge"], found["tests"])


def _digest(tree: Path) -> str:
    """Of all files that a copy of the tree has, but for its work and the table of the audit."""
    own = {tree / path.relative_to(ROOT) for path in (MARKDOWN, JSON)}
    files = sorted(path for path in tree.rglob("*") if path.is_file() and path not in own)
    total = hashlib.sha256()
    for path in files:
        if (place := path.relative_to(tree)).parts[0] != "work":
            total.update(f"{place.as_posix()} {store.sha256(path)}\n".encode())
    return total.hexdigest()


def as_json(found: Outcome) -> dict[str, str]:
    """A row of the table's JSON."""
    return {
        "case": found.fault.id,
        "family": found.fault.family,
        "paper": found.fault.paper or "",
        "what": found.fault.what,
        "judge": found.judge,
        "tests": found.tests,
        "known": found.fault.known,
    }


def write_holds(path: Path, holds: dict[str, bool]) -> None:
    """What a trial found, for the process that began it."""
    path.write_text(json.dumps({"holds": holds}), encoding="utf-8")
