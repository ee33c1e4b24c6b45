"""Faults planted in a copy of the tree: what the judge there says of the paper's arms, and the tests.

A fault is data (``faults.yaml``): a file, the text that stands once in it, what takes its place. It
is never planted where the suite lies. The judge's part (`repro.suite.audit.trial`) runs the paper's
arms of exact and structural checks and those that the fault names, at smoke, beginning from the work
of an untouched tree: fingerprints decide what is run anew. The tests are those of the paper and of
the module that the fault is in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", "work", "results", "__pycache__", ".*_cache", ".snakemake", "*.partial"
)
LIMIT_S = 900
"""After how long a run in the copy counts as noticed by nobody."""


class Fault(Strict):
    """One fault.

    Attributes:
        paper: whose arms are run; None where the fault is in the suite itself.
        arms: run besides those of exact and structural checks.
        tests: run besides those of the paper and of the module.
        known: why nothing notices it, where nothing does.
        quick: part of the quick form.
    """

    id: Name
    family: str
    paper: Slug | None
    what: str
    file: str
    before: Annotated[str, Field(min_length=1)]
    after: str
    arms: list[str] = []
    tests: list[str] = []
    known: str = ""
    quick: bool = False


class Faults(Strict):
    faults: list[Fault]


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


def plant(fault: Fault, tree: Path) -> None:
    """Put a fault into a copy of the tree.

    Raises:
        ReproError: the text does not stand once in the file, or the tree is that of the suite.
    """
    path = tree / fault.file
    if tree.resolve() == ROOT:
        raise ReproError(f"{tree} is the suite itself; plant faults in a copy of it")
    text = path.read_text("utf-8") if path.is_file() else ""
    if text.count(fault.before) != 1:
        raise ReproError(
            f"fault `{fault.id}`: its text stands {text.count(fault.before)} times in {fault.file}; "
            "mend repro/suite/audit/faults.yaml"
        )
    store.write_text(path, text.replace(fault.before, fault.after))


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
    except subprocess.TimeoutExpired:
        return -1, f"no end after {LIMIT_S} s"
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
    if package == "repro" and rest.endswith(".py"):
        module = Path(rest)
        own = f"tests/{module.parent}/test_{module.stem}.py"
        found.append(own if (tree / own).is_file() else f"tests/{module.parent}")
    return [path for path in dict.fromkeys(found) if (tree / path).exists()]


def tested(tree: Path, paths: Sequence[str]) -> str:
    """The first test that fails; empty where all pass."""
    options = ("-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no")
    status, said = _run(tree, "-m", "pytest", *options, *paths)
    if status == 0:
        return ""
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return documents.one_line(failed[0].split(" - ")[0] if failed else f"status {status}", 160)


@dataclass
class Bench:
    """What the untouched tree says, against which a planted one is held."""

    base: Path
    judged: dict[str, dict[str, Any]]
    failing: dict[tuple[str, ...], str]

    @classmethod
    def of(cls, chosen: Sequence[Fault], jobs: int) -> Bench:
        """Run what is needed of the untouched tree; its work is kept below the work folder.

        Raises:
            ReproError: an untouched paper is refused, or its tests fail.
        """
        base = work_root().absolute() / "audit"
        arms: dict[str, dict[str, None]] = {}
        for fault in chosen:
            if fault.paper is not None:
                arms.setdefault(fault.paper, {}).update(dict.fromkeys(fault.arms))
        with copied(base) as tree:
            judged = {paper: tried(tree, paper, own) for paper, own in arms.items()}
            if (tree / "work").is_dir():
                shutil.copytree(tree / "work", base, dirs_exist_ok=True, copy_function=_replace)
            sets = sorted({tuple(tests_of(fault, tree)) for fault in chosen})
            with ThreadPoolExecutor(jobs) as pool:
                failing = dict(zip(sets, pool.map(lambda s: tested(tree, s), sets), strict=True))
        for paper, found in judged.items():
            if "refused" in found:
                raise ReproError(f"{paper} is refused without any fault: {found['refused']}")
        return cls(base, judged, failing)

    def outcome(self, fault: Fault) -> Outcome:
        """Plant a fault and see what notices it."""
        with copied(self.base) as tree:
            plant(fault, tree)
            judge = self._judge(fault, tree)
            paths = tuple(tests_of(fault, tree))
            tests = "" if self.failing.get(paths) else tested(tree, paths)
        return Outcome(fault, judge, tests)

    def _judge(self, fault: Fault, tree: Path) -> str:
        if fault.paper is None:
            return ""
        before, after = self.judged[fault.paper], tried(tree, fault.paper, fault.arms)
        if "refused" in after:
            return f"refused: {after['refused']}"
        lost = [
            name for name, held in before["holds"].items()
            if held and after["holds"].get(name) is False
        ]  # fmt: skip
        return ", ".join(lost)


def _replace(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    shutil.copyfile(source, target)


def outcomes(chosen: Sequence[Fault], jobs: int = 1) -> Iterator[Outcome]:
    """Plant every fault in turn, several at once."""
    bench = Bench.of(chosen, jobs)
    for paths, failed in bench.failing.items():
        if failed:
            print(f"fails without any fault: {failed} ({' '.join(paths)})", file=sys.stderr)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(bench.outcome, chosen)


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
