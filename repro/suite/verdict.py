"""From measurements to verdicts.

A check is evaluated for each seed, arms paired by seed, which gives one margin a seed (≥ 0 on
the predicted side). A bootstrap over seeds gives a 95 % interval of the mean margin.

* whole interval on the predicted side: ``reproduced``;
* whole interval on the other side: ``contradicted``;
* otherwise ``inconclusive``.

Exact and structural checks are identities: every seed has to satisfy them as written. A reduced
or paper comparison of random arms needs at least three seeds before it may say anything but
``inconclusive``. A claim without a check at this scale is ``untested``. A check that cannot be
evaluated is an error, never a silent ``untested``.
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
from repro.suite import expression
from repro.suite.cards.checks import Check
from repro.suite.cards.method import Method
from repro.suite.cards.paper import Claim
from repro.suite.expression import Lookup, Reference
from repro.suite.words import ORDER, TIERS

MINIMUM_SEEDS = 3
RESAMPLES = 10_000


@dataclass(frozen=True)
class CheckResult:
    """The verdict of one check with everything that led to it."""

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
    paper: str
    comparable: bool
    reason: str


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


def judge_check(check: Check, measured: Measurements, paper: str) -> CheckResult:
    """Evaluate one check over all seeds.

    Raises:
        ReproError: a measurement is missing or not finite, or arms share no seeds.
    """
    try:
        lookups, random = _seeds(check.parsed, measured)
        margins = [float(check.parsed.margin(lookup)) for lookup in lookups]
        holds = [check.parsed.holds(lookup) for lookup in lookups]
        sides = np.mean([check.parsed.sides(lookup) for lookup in lookups], axis=0)
    except ReproError as error:
        raise ReproError(f"check `{check.id}` ({check.expect}): {error}") from error
    low, high = bootstrap_interval(margins)
    if check.tier in ("exact", "structural") or not random:
        verdict, reason = _as_identity(check.tier, holds)
    else:
        verdict, reason = _as_comparison(low, high, holds)
    return CheckResult(
        id=check.id,
        claim=check.claim,
        tier=check.tier,
        expect=check.expect,
        why=check.why,
        verdict=verdict,
        observed=_observed(check.parsed, sides),
        margin=float(np.mean(margins)),
        margin_low=low,
        margin_high=high,
        smallest_detectable=smallest_detectable(margins),
        n_seeds=len(lookups),
        margins=margins,
        paper=check.paper or paper,
        comparable=check.comparable,
        reason=reason,
    )


def _seeds(parsed: expression.Check, measured: Measurements) -> tuple[list[Lookup], bool]:
    """The values of each seed, arms paired by seed, and whether any arm is random.

    What a deterministic arm measured once stands beside every seed.
    """
    values = {reference: _finite(measured, reference) for reference in parsed.references()}
    random = [r for r in values if not measured.is_deterministic(r.arm)]
    sets = [set(values[r]) for r in random or values]
    seeds = sorted(set.intersection(*sets))
    if any(s != sets[0] for s in sets) or not seeds:
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


def _as_comparison(low: float, high: float, holds: Sequence[bool]) -> tuple[str, str]:
    """Verdict and reason of a comparison of random arms, by the interval of its margin."""
    if len(holds) < MINIMUM_SEEDS:
        few = f"{len(holds)} seed(s): fewer than {MINIMUM_SEEDS} cannot bound the effect"
        return "inconclusive", few
    if low > 0 or (low == 0 and all(holds)):
        return "reproduced", ""
    if high < 0:
        return "contradicted", ""
    return "inconclusive", "the interval of the margin contains 0"


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


def bootstrap_interval(margins: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; all resamples are enumerated for n ≤ 5.

    Args:
        margins: one value a seed, n ≥ 1. With n = 1 the interval is the value itself.
    """
    x = np.asarray(margins, dtype=float)
    n = len(x)
    if n <= 5:
        index = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        index = np.random.default_rng(20240607).integers(0, n, size=(RESAMPLES, n))
    means = np.sort(x[index].mean(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def smallest_detectable(margins: Sequence[float]) -> float | None:
    """Smallest mean margin that a two-sided 5 % t-test on n seeds finds with 80 % power.

    ``(t_{0.975} + t_{0.8}) · s / √n`` with n − 1 degrees of freedom; None for a single seed.
    """
    n = len(margins)
    if n < 2:
        return None
    from scipy.stats import t

    spread = float(np.std(margins, ddof=1))
    return float((t.ppf(0.975, n - 1) + t.ppf(0.8, n - 1)) * spread / math.sqrt(n))


def judge(method: Method, scale: str, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Every verdict of a method at a scale, as plain data (the content of ``verdicts/``).

    Args:
        records: run records with ``arm``, ``seed`` and ``measurements``.
    """
    deterministic = [name for name, arm in method.experiment.arms.items() if arm.deterministic]
    measured = Measurements(records, deterministic)
    results = []
    for check in method.checks(scale).values():
        value = method.paper.claim(check.claim).method
        paper = "" if value is None else f"{value} {method.paper.claim(check.claim).unit}".strip()
        try:
            results.append(judge_check(check, measured, paper))
        except ReproError as error:
            raise ReproError(f"{method.slug} at scale {scale}: {error}") from error
    return {
        "method": method.slug,
        "scale": scale,
        "checks": [asdict(result) for result in results],
        "claims": [asdict(result) for result in judge_claims(method, scale, results)],
    }


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
        return "needs the official weights and data (tier paper)"
    return "no check is written for this claim yet"
