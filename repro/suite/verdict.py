"""From measurements to verdicts.

Exact and structural checks are identities: every seed has to satisfy them as written. A reduced or
paper comparison is taken apart into its links (`repro.suite.links`); each gives one margin a seed,
arms paired by seed, positive on the predicted side: the logarithm of the ratio of its sides where
both are positive quantities, else their difference. The statistics of margins are
`repro.suite.inference`.

* every link is beyond its limit on the predicted side: ``reproduced``;
* one link is beyond it on the other side, after Holm's correction over the links of its claim:
  ``contradicted``, unless its sides differ as predicted for certain, and only by less than the
  least effect that matters: sizes are those of a scale, so that is ``inconclusive``;
* otherwise, and with fewer than three seeds, ``inconclusive``.

A claim without a check at this scale is ``untested``. A check that cannot be evaluated is an error,
never a silent ``untested``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from repro.coordinates import at_key
from repro.documents import quoted
from repro.errors import ReproError
from repro.suite import baselines, comparison, expression, inference
from repro.suite.cards.checks import Check, CheckCard
from repro.suite.cards.method import Method
from repro.suite.cards.paper import Claim
from repro.suite.comparison import Judged, Look
from repro.suite.expression import Lookup, Reference
from repro.suite.words import ORDER, TIERS


@dataclass(frozen=True)
class CheckResult:
    """The verdict of one check with everything that led to it.

    Margins and their interval are those of the link that decides; of a comparison by ratio they are
    natural logarithms.

    Attributes:
        link: the link that decides, where a check has several.
        by_ratio: whether margins are logarithms of ratios.
        p: two-sided, of the deciding link; None for an identity.
        control: the check that must not hold, and ``control_observed``: its values.
        open: whether further seeds could decide it.
    """

    id: str
    claim: str
    tier: str
    expect: str
    why: str
    verdict: str
    observed: str
    margin: float
    margin_low: float
    margin_high: float
    smallest_detectable: float | None
    n_seeds: int
    margins: list[float]
    link: str
    by_ratio: bool
    p: float | None
    least: float | None
    control: str
    control_observed: str
    paper: str
    comparable: bool
    reason: str
    open: bool


@dataclass(frozen=True)
class ClaimResult:
    """A claim's verdict: the worst of its checks."""

    id: str
    verdict: str
    tier: str
    reason: str


def _field(record: Any, key: str, kind: Any) -> Any:
    """A field of a record or of one of its measurements.

    Raises:
        ReproError: it is missing or of another type.
    """
    value = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ReproError(
            f"a run record holds {quoted(value)} as its `{key}`; delete that run's folder and run "
            "it again"
        )
    return value


class Measurements:
    """Measurements of one method at one scale, addressed as checks address them.

    Raises:
        ReproError: a record is malformed, or two give one measurement at one seed.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]], deterministic: Sequence[str] = ()):
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        self._deterministic = set(deterministic)
        for record in records:
            arm, seed = _field(record, "arm", str), _field(record, "seed", int)
            for item in _field(record, "measurements", list):
                name, at = _field(item, "name", str), at_key(_field(item, "at", Mapping))
                by_seed = self._values.setdefault((arm, name, at), {})
                if seed in by_seed:
                    twice = Reference(name, arm, at)
                    raise ReproError(f"`{twice}` is recorded twice at seed {seed}")
                value = _field(item, "value", int | float)
                if isinstance(value, int) and abs(value) > expression.LARGEST:
                    raise ReproError(
                        f"`{Reference(name, arm, at)}` is {quoted(value)} at seed {seed}, beyond "
                        f"{expression.LARGEST:g}"
                    )
                by_seed[seed] = float(value)

    def seeds(self, reference: Reference) -> dict[int, float]:
        """Seed → value.

        Raises:
            ReproError: nothing of that name was measured; the message lists what was.
        """
        key = (reference.arm, reference.name, reference.at)
        if key in self._values:
            return self._values[key]
        have = sorted(
            f"{name}[{arm}{', ' + at if at else ''}]"
            for arm, name, at in self._values
            if arm == reference.arm and name == reference.name
        ) or sorted({f"{name}[{arm}]" for arm, name, _ in self._values if arm == reference.arm})
        listed = "; ".join(have[:8]) or "nothing"
        raise ReproError(f"`{reference}` was not measured; that arm has {listed}")

    def is_deterministic(self, arm: str) -> bool:
        return arm in self._deterministic


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A check with its values at every seed, before anything is decided."""

    check: Check
    lookups: list[Lookup]
    random: bool

    @property
    def is_exact(self) -> bool:
        return self.check.tier in ("exact", "structural")

    @property
    def is_identity(self) -> bool:
        """Whether it has to hold as it stands: without a random arm there is nothing to bound."""
        return self.is_exact or not self.random

    @property
    def holds(self) -> list[bool]:
        """Whether it holds at each seed; by the least effect that matters, where it has one."""
        if self.check.least is None:
            return [self.check.parsed.holds(lookup) for lookup in self.lookups]
        return self.at(len(self.lookups)).holds

    def observed(self, seeds: int) -> str:
        """The means of its sides over the first seeds, with what holds between them."""
        sides = [self.check.parsed.sides(lookup) for lookup in self.lookups[:seeds]]
        return _observed(self.check.parsed, np.mean(sides, axis=0))

    def at(self, seeds: int) -> Look:
        """What its first seeds say.

        Raises:
            ReproError: a side has no finite value.
        """
        try:
            return Look.at(self.check, self.lookups[:seeds], ratios=not self.is_exact)
        except ReproError as error:
            raise _of_check(self.check, error) from error


def evaluate(check: Check, measured: Measurements, first: int) -> Evaluated:
    """The values of a check over all seeds.

    Args:
        first: the seeds that every random arm has at least.

    Raises:
        ReproError: a measurement is missing or not finite, or arms share no seeds.
    """
    try:
        return Evaluated(check, *_seeds(check.parsed, measured, first))
    except ReproError as error:
        raise _of_check(check, error) from error


def _of_check(check: Check, error: ReproError) -> ReproError:
    return ReproError(f"check `{check.id}` ({check.expect}): {error}")


@dataclass(frozen=True)
class Decision:
    """What came of a check, and at which look."""

    look: Look
    verdict: str
    reason: str
    deciding: Judged
    gated: bool = False

    @property
    def open(self) -> bool:
        """Whether further seeds could decide it."""
        undecided = self.verdict == "inconclusive" and not self.gated
        return undecided and self.reason != comparison.TOO_SMALL

    def inconclusive(self, why: str) -> Decision:
        """What a gate or something else that seeds do not change leaves of it."""
        return Decision(self.look, "inconclusive", why, self.deciding, gated=True)


def of_identity(found: Evaluated) -> Decision:
    """An identity has to hold as written."""
    look = found.at(len(found.lookups))
    decision = Decision(look, *_as_identity(found.check.tier, found.holds), look.weakest)
    if decision.verdict == "contradicted" and not found.is_exact and look.weakest.too_small:
        return decision.inconclusive(comparison.TOO_SMALL)
    return decision


def of_comparisons(claim: Sequence[Evaluated], first: int) -> list[Decision]:
    """The comparisons of one claim, each at its first look that decides it.

    Raises:
        ReproError: a side has no finite value.
    """
    left = {one: comparison.looks(len(one.lookups), first) for one in claim}
    at = {one: one.at(left[one].pop(0)) for one in claim}
    final: dict[Evaluated, Decision] = {}
    while len(final) < len(claim):
        corrected = comparison.beyond(list(at.values()))
        for one in [one for one in claim if one not in final]:
            decision = Decision(at[one], *comparison.decide(at[one], corrected))
            if decision.verdict != "inconclusive" or not left[one]:
                final[one] = decision
        for one in [one for one in claim if one not in final]:
            at[one] = one.at(left[one].pop(0))
    return [final[one] for one in claim]


def result(
    found: Evaluated, decision: Decision, paper: str, control: Evaluated | None
) -> CheckResult:
    """All that is said about a check.

    Args:
        paper: the paper's number, where the check names none itself.
        control: the check that must not hold, evaluated.
    """
    check, evidence, look = found.check, decision.deciding.evidence, decision.look
    return CheckResult(
        id=check.id,
        claim=check.claim,
        tier=check.tier,
        expect=check.expect,
        why=check.why,
        verdict=decision.verdict,
        observed=found.observed(look.n),
        margin=evidence.mean,
        margin_low=evidence.mean - evidence.half_width,
        margin_high=evidence.mean + evidence.half_width,
        smallest_detectable=smallest_detectable(decision.deciding.margins),
        n_seeds=look.n,
        margins=decision.deciding.margins,
        link=str(decision.deciding.link) if len(look.links) > 1 else "",
        by_ratio=decision.deciding.by_ratio,
        p=None if found.is_identity or evidence.n < 2 else evidence.p,
        least=check.least,
        control="" if control is None else control.check.expect,
        control_observed="" if control is None else control.observed(look.n),
        paper=check.paper or paper,
        comparable=check.comparable,
        reason=decision.reason,
        open=decision.open and not found.is_identity,
    )


def _seeds(
    parsed: expression.Check, measured: Measurements, first: int
) -> tuple[list[Lookup], bool]:
    """The values of each seed, arms paired by seed, and whether any arm is random.

    What a deterministic arm measured once stands beside every seed. An arm that has further seeds
    for another check's sake is paired over those that all have.
    """
    values = {reference: _finite(measured, reference) for reference in parsed.references()}
    random = [r for r in values if not measured.is_deterministic(r.arm)]
    sets = [set(values[r]) for r in random or values]
    seeds = sorted(set.intersection(*sets))
    if len(seeds) < min(first, *map(len, sets)) or any(
        sorted(s)[: len(seeds)] != seeds for s in sets
    ):
        raise ReproError("its arms were not run with the same seeds")
    at_seed = [
        {
            r: next(iter(v.values())) if measured.is_deterministic(r.arm) else v[seed]
            for r, v in values.items()
        }
        for seed in seeds
    ]
    return [lookup.__getitem__ for lookup in at_seed], bool(random)


def _finite(measured: Measurements, reference: Reference) -> dict[int, float]:
    by_seed = measured.seeds(reference)
    for seed, value in by_seed.items():
        if not math.isfinite(value):
            raise ReproError(f"`{reference}` is {value} at seed {seed}")
    return by_seed


def _as_identity(tier: str, holds: Sequence[bool]) -> tuple[str, str]:
    """Verdict and reason of what has to hold as written."""
    if all(holds):
        return "reproduced", ""
    if not any(holds):
        return "contradicted", ""
    verdict = "contradicted" if tier in ("exact", "structural") else "inconclusive"
    return verdict, f"holds for {sum(holds)} of {len(holds)} seeds"


_TURNED = {"<": "≥", "<=": ">", ">": "≤", ">=": "<", "==": "≠"}


def _observed(parsed: expression.Check, sides: np.ndarray) -> str:
    """The values of the terms, with what holds between them."""
    terms = [_term(float(side)) for side in sides]
    links = [
        expression.TESTS[op](a, b)
        for op, (a, b) in zip(parsed.ops, itertools.pairwise(sides), strict=True)
    ]
    return terms[0] + "".join(
        f" {op if ok else _TURNED[op]} {term}"
        for op, term, ok in zip(parsed.ops, terms[1:], links, strict=True)
    )


def _term(value: float) -> str:
    """Four digits, but whole numbers in full: counts are compared to the last digit."""
    whole = value.is_integer() and abs(value) < 1e15
    return f"{value:.0f}" if whole else f"{value:.4g}"


def smallest_detectable(margins: Sequence[float]) -> float | None:
    """Smallest mean margin that n seeds decide in four of five cases.

    ``(limit + t_{0.8}) · s / √n`` with n − 1 degrees of freedom; None for a single seed.
    """
    n = len(margins)
    if n < 2:
        return None
    from scipy.special import stdtrit

    spread = float(np.std(margins, ddof=1))
    return (inference.limit(n) + float(stdtrit(n - 1, 0.8))) * spread / math.sqrt(n)


def measurements(method: Method, records: Iterable[Mapping[str, Any]]) -> Measurements:
    """What the runs of a method measured.

    Raises:
        ReproError: a record is malformed, or two give one measurement at one seed.
    """
    deterministic = [name for name, arm in method.experiment.arms.items() if arm.deterministic]
    return Measurements(records, deterministic)


def judge(method: Method, scale: str, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Every verdict of a method at a scale, as plain data (the content of ``verdicts/``).

    Args:
        records: run records with ``arm``, ``seed`` and ``measurements``.
    """
    records = list(records)
    measured = measurements(method, records)
    first = len(method.preset(scale).seed_list())
    try:
        _refuse_seeds(method, scale, records)
        results = _results(method, scale, measured, first)
    except ReproError as error:
        raise ReproError(f"{method.slug} at scale {scale}: {error}") from error
    return {
        "method": method.slug,
        "scale": scale,
        "checks": [asdict(result) for result in results],
        "claims": [asdict(result) for result in judge_claims(method, scale, results)],
    }


def identities(method: Method, scale: str, records: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Whether each exact or structural check and each precondition that is measured holds, by id.

    Raises:
        ReproError: the records cannot be judged.
    """
    records = list(records)
    found = {
        result["id"]: result["verdict"] == "reproduced"
        for result in judge(method, scale, records)["checks"]
        if result["tier"] in ("exact", "structural")
    }
    deterministic = [name for name, arm in method.experiment.arms.items() if arm.deterministic]
    for gate in preconditions(method, scale, Measurements(records, deterministic)).values():
        if gate.holds:
            found[f"precondition {gate.id}"] = all(gate.holds)
    return found


def _what_varies(method: Method, record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run measured by numbers of many digits; timings only where there is nothing else."""
    cards = method.experiment.measurements
    values = [
        (m["name"], at_key(m["at"]), m["value"])
        for m in record["measurements"]
        if m["name"] not in cards or not cards[m["name"]].counted
    ]
    lasting = [v for v in values if v[0] not in cards or not cards[v[0]].timing]
    return tuple(lasting or values)


def _refuse_seeds(method: Method, scale: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Holes among the seeds of an arm, and seeds of a random arm that agree to the last bit."""
    seen: dict[str, dict[tuple[Any, ...], int]] = {}
    for record in sorted(records, key=lambda r: int(r["seed"])):
        name, seed = record["arm"], int(record["seed"])
        arm = method.arms(scale).get(name)
        if arm is None or arm.deterministic:
            continue
        own = seen.setdefault(name, {})
        values = _what_varies(method, record)
        if values and values in own:
            raise ReproError(
                f"seeds {own[values]} and {seed} of `{name}` agree to the last bit; declare it "
                "deterministic, or let something vary"
            )
        own[values or (seed,)] = seed
    for name, own in seen.items():
        planned = method.preset(scale).seed_list()
        there = sorted(own.values())
        if missing := sorted({*planned, *range(len(planned), len(there))} - {*there}):
            raise ReproError(f"arm `{name}` lacks seed {missing[0]}")


def _results(method: Method, scale: str, measured: Measurements, first: int) -> list[CheckResult]:
    """The results of all checks of a method, in their order."""
    every = [evaluate(check, measured, first) for check in method.checks(scale).values()]
    decisions = {one: of_identity(one) for one in every if one.is_identity}
    for claim in dict.fromkeys(one.check.claim for one in every):
        own = [one for one in every if one.check.claim == claim and not one.is_identity]
        decisions |= zip(own, of_comparisons(own, first), strict=True)
    gates = preconditions(method, scale, measured)
    failing = {name: gate.failing for name, gate in gates.items() if gate.failing}
    unbeaten = baselines.unbeaten(method, scale, measured)
    results = []
    for one in every:
        control = control_of(one.check, measured, first)
        decision = _gated(one.check, decisions[one], failing, control, first)
        decision = _won_for_free(one, decision, unbeaten)
        card = method.paper.claim(one.check.claim)
        paper = "" if card.method is None else f"{card.method} {card.unit}".strip()
        results.append(result(one, decision, paper, control))
    return results


def _won_for_free(found: Evaluated, decision: Decision, unbeaten: Mapping[str, str]) -> Decision:
    """A comparison with a baseline that does not beat its own start decides nothing."""
    lost = [unbeaten[r.arm] for r in found.check.parsed.references() if r.arm in unbeaten]
    return decision.inconclusive(lost[0]) if lost and not found.is_identity else decision


def _gated(
    check: Check,
    decision: Decision,
    failing: Mapping[str, str],
    control: Evaluated | None,
    first: int,
) -> Decision:
    """What preconditions and the control leave of a decision."""
    for need in check.needs:
        if need in failing:
            return decision.inconclusive(failing[need])
    if decision.verdict != "reproduced" or not check.has_control:
        return decision
    if control is None:
        return decision.inconclusive("its control is not run at this scale")
    passes = alone(control, first)
    if passes.verdict == "reproduced":
        seen = f"{control.check.expect}: {control.observed(passes.look.n)}"
        return decision.inconclusive(f"its control holds as well ({seen})")
    return decision


def alone(found: Evaluated, first: int) -> Decision:
    """What comes of a check that belongs to no claim, as a control."""
    return of_identity(found) if found.is_identity else of_comparisons([found], first)[0]


@dataclass(frozen=True)
class Gate:
    """A precondition with what it found.

    Attributes:
        holds: whether it does, seed by seed; empty where it is not measured at this scale.
        observed: means of its sides.
    """

    id: str
    expect: str
    holds: list[bool]
    observed: str

    @property
    def failing(self) -> str:
        """Why it does not hold at every seed; nothing where it does."""
        if not self.holds:
            return f"precondition `{self.id}` is not measured at this scale"
        if all(self.holds):
            return ""
        return (
            f"precondition `{self.id}` holds for {sum(self.holds)} of {len(self.holds)} seeds: "
            f"{self.observed}"
        )


def preconditions(method: Method, scale: str, measured: Measurements) -> dict[str, Gate]:
    """The preconditions of a method by their ids.

    Raises:
        ReproError: a measurement is missing or not finite.
    """
    first, gates = len(method.preset(scale).seed_list()), {}
    for name, parsed in method.preconditions(scale).items():
        gates[name] = Gate(name, method.expected.preconditions[name].expect, [], "")
        if parsed is not None:
            found = evaluate(plain(name, parsed), measured, first)
            gates[name] = Gate(name, parsed.text, found.holds, found.observed(len(found.lookups)))
    return gates


def control_of(check: Check, measured: Measurements, first: int) -> Evaluated | None:
    """The check that must not hold, evaluated; None where there is none at this scale."""
    if check.control is None:
        return None
    facts = {"tier": check.tier, "least": check.least}
    return evaluate(plain(f"{check.id} (control)", check.control, **facts), measured, first)


def plain(name: str, parsed: expression.Check, **facts: Any) -> Check:
    """An expression as a check that belongs to no claim: a precondition, a control."""
    bare = CheckCard(**{"id": "x", "tier": "reduced", "expect": parsed.text, "why": "", **facts})
    return Check(
        **{**dict(bare), "id": name, "control": None},
        claim="",
        has_control=False,
        parsed=parsed,
    )


def judge_claims(method: Method, scale: str, results: Sequence[CheckResult]) -> list[ClaimResult]:
    """One verdict a claim: contradicted if any check is, reproduced only if all are."""
    judged = []
    for claim in method.paper.claims:
        own = [result for result in results if result.claim == claim.id]
        if own:
            judged.append(_judge_claim(claim.id, own))
        else:
            why = _why_untested(method, scale, claim)
            judged.append(ClaimResult(claim.id, "untested", "", why))
    return judged


def _judge_claim(claim: str, own: Sequence[CheckResult]) -> ClaimResult:
    found = {result.verdict for result in own}
    verdict = next(v for v in ORDER if v in found)
    tier = max((result.tier for result in own), key=TIERS.index)
    reason = "; ".join(
        f"{result.id}: {result.reason or result.observed}"
        for result in own
        if result.verdict == verdict and verdict != "reproduced"
    )
    return ClaimResult(claim, verdict, tier, reason)


def _why_untested(method: Method, scale: str, claim: Claim) -> str:
    if any(checked == claim.id for checked, _ in method.expected.each()):
        scales = method.experiment.scales
        elsewhere = [s for s in scales if claim.id in {c.claim for c in method.checks(s).values()}]
        return f"not checked at scale {scale}; checked at {', '.join(elsewhere) or 'none'}"
    if claim.best_tier == "paper":
        return "needs the paper's own models or data (tier paper)"
    return "no check is written for this claim yet"
