"""Runs the campaign, prints what failed and the table, and keeps the table of a whole one."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torture.case import BAD, OUTCOMES, cases, families

TABLE = Path(__file__).parent / "table.md"

Counts = dict[str, Counter[str]]
"""Kind of fault → outcome → number of cases, of one family."""


def tried(family: str, quick: bool) -> Counts:
    """Runs the cases of a family, and prints those that failed."""
    counts: Counts = {}
    started = time.perf_counter()
    for case in cases(family):
        if case.slow and quick:
            continue
        outcome, said = case.outcome()
        counts.setdefault(case.kind, Counter())[outcome] += 1
        if outcome in BAD:
            print(f"{outcome}: {family}: {case.kind}: {case.name}: {said}", flush=True)
    number = sum(sum(found.values()) for found in counts.values())
    print(f"{family}: {number} cases, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return counts


def in_a_process(family: str, quick: bool) -> Counts:
    """The same in a process of its own, so that several families run at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.json"
        command = [sys.executable, "-m", "torture", family, "--counts", str(path)]
        subprocess.run([*command, *(["--quick"] if quick else [])])
        if not path.is_file():
            return {"the campaign itself": Counter(traceback=1)}
        return {kind: Counter(found) for kind, found in json.loads(path.read_text()).items()}


def table(found: dict[str, Counts]) -> str:
    """Markdown: a row for each kind of a family, a column for each outcome, and the sums."""
    head = ["family", "kind", "tried", *OUTCOMES]
    total: Counter[str] = Counter()
    rows = []
    for family, counts in found.items():
        for kind, of in counts.items():
            total += of
            rows.append([family, kind, sum(of.values()), *(of[o] or "" for o in OUTCOMES)])
    rows.append(["**all**", "", sum(total.values()), *(total[o] for o in OUTCOMES)])
    lines = [head, ["---"] * 2 + ["---:"] * (1 + len(OUTCOMES)), *rows]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in lines)


def is_good(found: dict[str, Counts]) -> bool:
    """Whether every case was refused or came out right."""
    return not any(of[bad] for counts in found.values() for of in counts.values() for bad in BAD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the named families (default all) and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *families()], help="all by default")
    parser.add_argument("--quick", action="store_true", help="leave the slow cases out")
    parser.add_argument("--jobs", type=int, default=1, help="families at once")
    parser.add_argument("--out", type=Path, help="where to keep the table")
    parser.add_argument("--counts", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    names = given.names or families()
    if given.counts is not None:
        counts = tried(names[0], given.quick)
        given.counts.write_text(json.dumps(counts))
        return 0
    with ThreadPoolExecutor(given.jobs) as pool:
        made = pool.map(lambda name: in_a_process(name, given.quick), names)
        found = dict(zip(names, made, strict=True))
    text = table(found)
    print(text)
    out = given.out or (None if given.names or given.quick else TABLE)
    if out is not None:
        out.write_text(f"# What the campaign tried\n\n{text}", encoding="utf-8")
    return int(not is_good(found))


if __name__ == "__main__":
    sys.exit(main())
