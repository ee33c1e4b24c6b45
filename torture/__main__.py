"""Runs the campaign, prints what failed and the table, and keeps the table of a whole one."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from torture.case import BAD, OUTCOMES, cases, families

TABLE = Path(__file__).parent / "table.md"


def table(counts: dict[tuple[str, str], Counter[str]]) -> str:
    """Markdown: a row for each kind of a family, a column for each outcome, and the sums."""
    head = ["family", "kind", "tried", *OUTCOMES]
    total: Counter[str] = Counter()
    rows = []
    for (family, kind), found in counts.items():
        total += found
        rows.append([family, kind, sum(found.values()), *(found[o] or "" for o in OUTCOMES)])
    rows.append(["**all**", "", sum(total.values()), *(total[o] for o in OUTCOMES)])
    lines = [head, ["---"] * 2 + ["---:"] * (1 + len(OUTCOMES)), *rows]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in lines)


def main() -> int:
    """Runs the named families (default all) and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *families()], help="all by default")
    parser.add_argument("--quick", action="store_true", help="leave the slow cases out")
    parser.add_argument("--out", type=Path, help="where to keep the table")
    arguments = parser.parse_args()
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    started = time.perf_counter()
    for family in arguments.names or families():
        for case in cases(family):
            if case.slow and arguments.quick:
                continue
            outcome, said = case.outcome()
            counts[family, case.kind][outcome] += 1
            if outcome in BAD:
                print(f"{outcome}: {family}: {case.kind}: {case.name}: {said}", flush=True)
            if sys.stderr.isatty():
                print(
                    f"\r{family} {sum(counts[family, case.kind].values())}", end="", file=sys.stderr
                )
        done = sum(sum(c.values()) for c in counts.values())
        print(f"{family}: {done} cases, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    text = table(counts)
    print(text)
    out = arguments.out or (None if arguments.names or arguments.quick else TABLE)
    if out is not None:
        out.write_text(f"# What the campaign tried\n\n{text}", encoding="utf-8")
    return int(any(found[outcome] for found in counts.values() for outcome in BAD))


if __name__ == "__main__":
    sys.exit(main())
