"""Rehearse presets at sizes of seconds, on a CUDA device that is none or on the plain CPU.

Ends with a table: method, model or arm, what went wrong. Exit status: 0 nothing, 1 something, 2
nothing could be tried. What ran before with the same code is not run again.

examples:
  python -m tools.rehearsal                             the gpu presets of all methods
  python -m tools.rehearsal superdiff --arm plane       one arm and its models
  python -m tools.rehearsal --device cpu --scale small,gpu
  python -m tools.rehearsal --check                     what the stand-in itself must raise
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from repro import stopping
from repro.errors import ReproError, nearest
from repro.places import work_root
from repro.suite.cards import library
from repro.suite.words import SCALES
from tools.rehearsal import build, runner
from tools.rehearsal.work import Row


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.rehearsal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("methods", nargs="*", help="all by default")
    parser.add_argument("--scale", default="gpu", help="one or several, with commas (default gpu)")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="the stand-in, or the plain CPU"
    )
    parser.add_argument(
        "--arm", action="append", default=[], help="this arm and its models alone; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=1, help="methods at once (default 1)")
    parser.add_argument("--force", action="store_true", help="run also what ran before")
    parser.add_argument("--check", action="store_true", help="check the stand-in itself")
    return parser.parse_args(arguments)


def _known(name: str, what: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ReproError(f"no {what} `{name}`{nearest(name, known)}; known: {', '.join(known)}")


def chosen(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Method and scale of each process.

    Raises:
        ReproError: a method, a scale or an arm that is not there.
    """
    scales = given.scale.split(",")
    for scale in scales:
        _known(scale, "scale", SCALES)
    for slug in given.methods:
        _known(slug, "method", library.slugs())
    methods = [library.load(slug) for slug in given.methods] or library.load_all()
    pairs = [(m, s) for m in methods for s in scales if s in m.experiment.scales]
    for arm in given.arm:
        _known(arm, "arm", list(dict.fromkeys(name for m, s in pairs for name in m.arms(s))))
    return [(m.slug, s) for m, s in pairs if not given.arm or set(given.arm) & set(m.arms(s))]


def _rehearse(given: argparse.Namespace) -> int:
    rows: list[Row] = []
    pairs = chosen(given)
    work = work_root() / "rehearsal" / given.device
    if given.device == "cuda":
        build.folder()

    def one(pair: tuple[str, str]) -> None:
        arms, force = given.arm, given.force
        for row in runner.rehearsed(*pair, given.device, work, arms=arms, force=force):
            rows.append(row)
            what = f"{row.method} {row.scale} {row.kind} {row.name}"
            line = f"{what}: {row.outcome}, {row.seconds:.1f} s{'  ' * bool(row.said)}{row.said}"
            print(line, file=sys.stderr, flush=True)

    pool = ThreadPoolExecutor(given.jobs)
    try:
        for pending in [pool.submit(one, pair) for pair in pairs]:
            pending.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        runner.stop()
        raise
    finally:  # also of what ran until it was stopped
        print(runner.table(sorted(rows, key=lambda row: pairs.index((row.method, row.scale)))))
    return int(any(row.outcome in ("fault", "waits") for row in rows))


def _check() -> int:
    found = dict(runner.checked())
    for name, wrong in found.items():
        print(f"WRONG {name}: {wrong}" if wrong else f"ok    {name}")
    return int(any(found.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    given = _parsed(arguments)
    try:
        return _check() if given.check else _rehearse(given)
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except stopping.Stopped as stopped:
        print(f"stopped; {stopped.said}", file=sys.stderr)
        return int(stopped.code or 0)


if __name__ == "__main__":
    stopping.listen()
    sys.exit(main())
