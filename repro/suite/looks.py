"""Further seeds where a check is still open: which arms get them, and why.

A scale's `most` allows them. They are written to ``<work>/<scale>/further/<method>.json``, which
the plan reads: the next pass of the DAG runs what is new, and judges again. What a check decided
stays decided, whatever seeds its arms get for another check's sake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repro import store
from repro.errors import ReproError
from repro.suite import comparison
from repro.suite.cards.method import Method


def path_of(work: Path, scale: str, slug: str) -> Path:
    return work / scale / "further" / f"{slug}.json"


def planned(method: Method, scale: str, work: Path) -> Method:
    """A method with the further seeds that its open checks were given in a work folder.

    Raises:
        ReproError: the file is damaged, or asks for what the card does not allow.
    """
    path = path_of(work, scale, method.slug)
    if not path.is_file():
        return method
    try:
        arms = {str(arm): int(found["seeds"]) for arm, found in store.read_sealed(path).items()}
        return method.with_seeds(scale, arms)
    except (ReproError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReproError(f"{path}: {error}; delete it and run the same command again") from error


def everywhere(method: Method, work: Path) -> Method:
    """The same at every scale of the method."""
    for scale in method.experiment.scales:
        method = planned(method, scale, work)
    return method


def of_runs(method: Method, scale: str, records: Iterable[Mapping[str, Any]]) -> Method:
    """A method with as many seeds as its runs have, where the scale allows such a look."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record["arm"]] = max(counts.get(record["arm"], 0), record["seed"] + 1)
    preset = method.preset(scale)
    allowed = comparison.looks(preset.most or 0, len(preset.seed_list()))[1:]
    return method.with_seeds(
        scale,
        {
            arm: max(counts[arm], len(method.seeds(scale, arm)))
            for arm, card in method.arms(scale).items()
            if counts.get(arm) in allowed and not card.deterministic
        },
    )


def wanted(method: Method, scale: str, judged: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the open checks of a method ask for: arm → seeds, and because of which checks."""
    most = method.preset(scale).most or 0
    found: dict[str, dict[str, Any]] = {}
    for result in judged["checks"]:
        seeds = comparison.next_look(result["n_seeds"], most)
        if not result["open"] or seeds is None:
            continue
        for reference in method.checks(scale)[result["id"]].parsed.references():
            if not method.arm(scale, reference.arm).deterministic:
                one = found.setdefault(reference.arm, {"seeds": 0, "because": []})
                one["seeds"] = max(one["seeds"], seeds)
                if result["id"] not in one["because"]:
                    one["because"].append(result["id"])
    return found


def extend(method: Method, scale: str, work: Path, judged: Mapping[str, Any]) -> list[str]:
    """Give the open checks of a method further seeds; a line for each arm that gets some.

    Args:
        judged: its verdicts, of the runs that are planned so far.
    """
    method = planned(method, scale, work)
    asked = wanted(method, scale, judged)
    now = {arm: len(method.seeds(scale, arm)) for arm in method.arms(scale)}
    new = {arm: one for arm, one in asked.items() if one["seeds"] > now[arm]}
    if not new:
        return []
    path = path_of(work, scale, method.slug)
    had = store.read_sealed(path) if path.is_file() else {}
    store.write_sealed(path, {**had, **new})
    return [
        f"{method.slug}/{arm}: {one['seeds']} seeds instead of {now[arm]}, open: "
        + ", ".join(one["because"])
        for arm, one in new.items()
    ]
