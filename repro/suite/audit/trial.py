"""Runs some arms of a paper at smoke in this tree and writes which identities and gates hold.

    python -m repro.suite.audit.trial <paper> <out.json> [arm…]

The arms of exact and structural checks run besides those that are named. Exact and structural
checks and preconditions are judged; smoke says nothing about the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from repro.errors import ReproError
from repro.suite import records, run, verdict, words
from repro.suite.audit.planting import write_holds
from repro.suite.cards import library
from repro.suite.cards.experiment import Scale
from repro.suite.cards.method import Method

SCALE: words.Scale = "smoke"


def main(paper: str, out: str, *named: str) -> None:
    """Run and judge; raises ReproError where something is refused."""
    method = library.load(paper)
    arms = list(dict.fromkeys([*named, *_of_identities(method)]))
    options = run.Options(SCALE)
    run.run_method(method, options, arms)
    places = [(paper, arm, seed) for arm in arms for seed in method.seeds(SCALE, arm)]
    found = records.read_work(options.base / "runs", places, "run it again")
    write_holds(Path(out), verdict.identities(only(method, arms), SCALE, found))


def _of_identities(method: Method) -> list[str]:
    """The arms that exact and structural checks read."""
    return [
        reference.arm
        for check in method.checks(SCALE).values()
        if check.tier in words.CERTAIN
        for reference in check.parsed.references()
    ]


def only(method: Method, arms: list[str]) -> Method:
    """The method as if a scale ran these arms alone."""
    preset = method.preset(SCALE)
    others = [arm for arm in method.experiment.arms if arm not in arms]
    without = preset.without.model_copy(update={"arms": others})
    scales: dict[words.Scale, Scale] = dict(method.experiment.scales)
    scales |= {SCALE: preset.model_copy(update={"without": without})}
    experiment = method.experiment.model_copy(update={"scales": scales})
    return Method(method.folder, method.paper, experiment, method.expected, method.others)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ReproError as error:
        sys.exit(f"error: {error}")
