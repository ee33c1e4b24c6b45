"""The table of the audit: what was tried, what was noticed by whom, and what was not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repro import documents, store
from repro.errors import ReproError
from repro.places import ROOT, short
from repro.suite import looks, records
from repro.suite.audit import mutations, planting
from repro.suite.cards.method import Method

MARKDOWN, JSON = planting.MARKDOWN, planting.JSON

Content = dict[str, Any]
"""``records`` (`of_records`) and ``faults`` (`of_faults`)."""


def read() -> Content | None:
    """The committed table; None where no audit was kept.

    Raises:
        ReproError: it is damaged.
    """
    return documents.read_json(JSON, dict) if JSON.is_file() else None


def write(content: Content) -> None:
    """Keep a table, as JSON and as Markdown."""
    store.write_json(JSON, content)
    store.write_text(MARKDOWN, f"# What the audit tried\n\n{markdown(content)}")


def of_records(methods: Iterable[Method], scale: str, quick: bool, results: Path) -> Content:
    """Mutations of the committed records of a scale."""
    trials: list[mutations.Trial] = []
    left_out, not_judged = [], []
    for method in methods:
        try:
            runs = records.read_runs(results / scale / method.slug, scale)
            found = mutations.audit(looks.of_runs(method, scale, runs), scale, runs, quick)
        except ReproError as error:
            not_judged.append({"paper": method.slug, "why": str(error)})
            continue
        trials += found.trials
        left_out += [{"paper": method.slug, "arm": a, "why": w} for a, w in found.left_out.items()]
    tried = Counter(trial.mutation for trial in trials)
    noticed = Counter(trial.mutation for trial in trials if trial.noticed)
    return {
        "scale": scale,
        "kinds": [{"mutation": k, "tried": n, "noticed": noticed[k]} for k, n in tried.items()],
        "missed": [
            {"paper": t.method, "arm": t.arm, "mutation": t.mutation, "why": t.why}
            for t in trials
            if not t.noticed
        ],
        "left_out": left_out,
        "not_judged": not_judged,
    }


def of_faults(found: Sequence[planting.Outcome]) -> Content:
    """Planted faults, by family and one by one."""
    families = []
    for name in dict.fromkeys(one.fault.family for one in found):
        own = [one for one in found if one.fault.family == name]
        families.append(
            {
                "family": name,
                "tried": len(own),
                "judge": sum(bool(one.judge) for one in own),
                "tests": sum(bool(one.tests) for one in own),
                "either": sum(bool(one.judge or one.tests) for one in own),
            }
        )
    return {"families": families, "cases": [planting.as_json(one) for one in found]}


def overview(content: Content) -> dict[str, Any]:
    """The counts of both parts as one table: ``caption``, ``columns``, ``rows``.

    Raises:
        ReproError: the content is not of its form.
    """
    try:
        records = [
            [k["mutation"], k["tried"], k["noticed"], "–"] for k in content["records"]["kinds"]
        ]
        faults = [
            [f"planted fault: {f['family']}", f["tried"], f["judge"], f["tests"]]
            for f in content["faults"]["families"]
        ]
    except (KeyError, TypeError) as error:
        raise ReproError(
            f"{short(JSON)}: is not the table of an audit ({error!r}); run `make audit`"
        ) from error
    return {
        "caption": "Records of arms that checks read are tampered with, and faults planted in a "
        "copy of the tree, which runs at the smallest scale. What nobody noticed, and why, stands "
        f"in `{short(MARKDOWN)}`.",
        "columns": ["what was done", "tried", "noticed by the judge", "by tests"],
        "rows": records + faults,
    }


def markdown(content: Content) -> str:
    """Both parts as Markdown."""
    return "\n".join([*_of_records(content["records"]), *_of_faults(content["faults"])]) + "\n"


def _of_records(part: Content) -> list[str]:
    lines = [f"## Records of the scale {part['scale']}, tampered with", ""]
    kinds = part["kinds"]
    rows = [[k["mutation"], k["tried"], k["noticed"]] for k in kinds]
    rows.append(["**all**", sum(k["tried"] for k in kinds), sum(k["noticed"] for k in kinds)])
    lines += _rows(["mutation", "tried", "noticed"], rows, numbers=2)
    missed = [[m["paper"], m["arm"], m["mutation"], m["why"]] for m in part["missed"]]
    if missed:
        lines += ["Not noticed:", "", *_rows(["paper", "arm", "mutation", "why"], missed)]
    by_reason: dict[tuple[str, str], list[str]] = {}
    for one in part["left_out"]:
        by_reason.setdefault((one["paper"], one["why"]), []).append(one["arm"])
    left_out = [[paper, why, ", ".join(arms)] for (paper, why), arms in by_reason.items()]
    if left_out:
        lines += ["Arms left out:", "", *_rows(["paper", "why", "arms"], left_out)]
    judged = [[one["paper"], one["why"]] for one in part["not_judged"]]
    if judged:
        lines += ["Not judged as they are:", "", *_rows(["paper", "why"], judged)]
    return lines


def _of_faults(part: Content) -> list[str]:
    lines = ["## Faults planted in a copy of the tree", ""]
    counts = ("tried", "judge", "tests", "either")
    rows: list[list[Any]] = [[f["family"], *(f[c] for c in counts)] for f in part["families"]]
    rows.append(["**all**", *(sum(f[c] for f in part["families"]) for c in counts)])
    lines += _rows(["family", "tried", "by the judge", "by tests", "by either"], rows, numbers=4)
    cases = [
        [one["paper"] or "suite", one["what"], one["judge"] or "—", one["tests"] or "—"]
        for one in part["cases"]
    ]
    lines += _rows(["paper", "fault", "what the judge says", "first test that fails"], cases)
    missed = [
        [one["paper"] or "suite", one["what"], one["known"] or "not known"]
        for one in part["cases"]
        if not one["judge"] and not one["tests"]
    ]
    if missed:
        lines += ["Not noticed:", "", *_rows(["paper", "fault", "why"], missed)]
    return lines


def _rows(head: Sequence[str], rows: Sequence[Sequence[Any]], numbers: int = 0) -> list[str]:
    """A Markdown table, its last columns to the right, and an empty line."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    body = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [*(f"| {' | '.join(row)} |" for row in (list(head), rule, *body)), ""]


def results() -> Path:
    """Where the committed results lie."""
    return ROOT / "results"
