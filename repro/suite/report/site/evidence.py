"""What led to the verdict of a check: its deciding link, preconditions, control and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.suite import expression, verdict
from repro.suite.cards.models import ModelRef
from repro.suite.comparison import Judged
from repro.suite.expression import Lookup, Node, Reference
from repro.suite.report.inputs import Report

Values = Callable[[Node], float]
"""The value of a term, as its mean over the seeds of a check."""


@dataclass(frozen=True)
class Outcome:
    """A precondition or a control, and what came of it.

    Attributes:
        good: a precondition holds at every seed, or a control does not hold.
    """

    name: str
    expect: str
    observed: str
    why: str
    good: bool


@dataclass(frozen=True, eq=False)
class Evidence:
    """A check with its result and all that led to it.

    Attributes:
        result: as the judge wrote it (`repro.suite.verdict.CheckResult`).
        judged: the link that decides, over the seeds.
        values: means over the seeds.
    """

    result: Mapping[str, Any]
    check: verdict.Check
    judged: Judged
    values: Values
    preconditions: list[Outcome]
    control: Outcome | None
    seeds: str


class Examiner:
    """Evaluates the checks of a report again, for what a verdict alone does not say."""

    def __init__(self, report: Report) -> None:
        self.report = report
        arms = report.experiment.arms
        deterministic = [name for name, arm in arms.items() if arm.deterministic]
        self.measured = verdict.Measurements(report.results.records, deterministic)
        self.first = len(report.method.preset(report.scale).seed_list())
        self.checks = report.method.checks(report.scale)
        self.gates = verdict.preconditions(report.method, report.scale, self.measured)

    def of(self, result: Mapping[str, Any]) -> Evidence:
        """The evidence of a check.

        Raises:
            ReproError: the card has no such check, or its measurements are not those that it was
                judged by.
        """
        check = self.checks.get(result["id"])
        if check is None:
            slug, scale = self.report.paper.slug, self.report.scale
            raise ReproError(f"{slug}: no check `{result['id']}` at scale {scale}; judge it again")
        found = verdict.evaluate(check, self.measured, self.first)
        seeds = max(1, min(int(result["n_seeds"]), len(found.lookups)))
        look = found.at(seeds)
        named = [link for link in look.links if str(link.link) == result["link"]]
        return Evidence(
            result=result,
            check=check,
            judged=named[0] if named else look.weakest,
            values=_means(found.lookups[:seeds], check.expect),
            preconditions=[self._precondition(name) for name in check.needs],
            control=self._control(check),
            seeds=self._varied(check),
        )

    def _precondition(self, name: str) -> Outcome:
        card = self.report.method.expected.preconditions[name]
        facts = {"name": name, "expect": " ".join(card.expect.split()), "why": card.why}
        gate = self.gates[name]
        if not gate.holds:
            return Outcome(**facts, observed="not measured at this scale", good=False)
        observed = gate.observed
        if len(gate.holds) > 1:
            observed += f" (holds at {sum(gate.holds)} of {len(gate.holds)} seeds)"
        return Outcome(**facts, observed=observed, good=not gate.failing)

    def _control(self, check: verdict.Check) -> Outcome | None:
        if not check.has_control:
            return None
        found = verdict.control_of(check, self.measured, self.first)
        if found is None:
            return Outcome("control", "", "not run at this scale", "", good=False)
        decision = verdict.alone(found, self.first)
        return Outcome(
            name="control",
            expect=found.check.expect,
            observed=found.observed(decision.look.n),
            why="",
            good=decision.verdict != "reproduced",
        )

    def _varied(self, check: verdict.Check) -> str:
        """What differs from seed to seed in the arms of a check, and what they share."""
        method, scale = self.report.method, self.report.scale
        arms = list(dict.fromkeys(r.arm for r in check.parsed.references()))
        random = [arm for arm in arms if not method.arm(scale, arm).deterministic]
        if not random:
            return "nothing: the arms are deterministic and ran once"
        refs = [ref for arm in random for ref in method.arm_models(scale, arm, 0)]
        every = dict.fromkeys(method.in_order(scale, refs))
        own = [ref for ref in every if method.model_card(ref.owner, ref.name).per_seed]
        shared = [ref for ref in every if ref not in own]
        text = "the draws of the arms" if refs else "the draws of the arms, which load no model"
        if own:
            text += f", and the training of {self._names(own)}"
        if shared:
            text += f"; the same at every seed: {self._names(shared)}"
        return text

    def _names(self, refs: list[ModelRef]) -> str:
        slug = self.report.paper.slug
        names = [ref.name if ref.owner == slug else f"{ref.owner}/{ref.name}" for ref in refs]
        return ", ".join(names)


def _means(lookups: list[Lookup], text: str) -> Values:
    return lambda node: float(np.mean([expression.value(node, lookup, text) for lookup in lookups]))


def references(node: Node) -> list[Reference]:
    """The measurements in a term, in reading order."""
    if isinstance(node, Reference):
        return [node]
    if isinstance(node, expression.Call):
        return list(itertools.chain.from_iterable(map(references, node.arguments)))
    if isinstance(node, expression.Operation):
        return [*references(node.left), *references(node.right)]
    return []
