"""Tables of one method: Markdown and CSV for the folder, the same rows for the page.

Every table but `cost` holds only quantities that are equal, bit for bit, whenever the same seeds
run on the same machine; wall-clock figures and checks that read them are in `cost`.

In a result table the best mean of a column is bold, and means whose interval overlaps the
interval of the best one (the seeds cannot tell them apart) are in italics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro import store
from repro.coordinates import at_key
from repro.errors import ReproError
from repro.suite.records import Record, to_csv
from repro.suite.report import markdown
from repro.suite.report.formatting import (
    Summary,
    detectable,
    margin,
    number,
    seconds,
    summarise,
    with_interval,
)
from repro.suite.report.inputs import SYMBOLS, Report, paper_number
from repro.suite.report.markdown import Markdown
from repro.suite.report.results import Results, at_sort

Place = tuple[str, str, str]
"""Measurement, arm and coordinates (`at_key`)."""

RESERVED = ("claims", "measurements", "cost")
ARROWS = {"lower": " ↓", "higher": " ↑", "none": ""}
SEED_NOTE = (
    "Mean ± half-width of the interval by which checks are judged, over {seeds} seeds; one that "
    "ran once has none."
)
ONE_RUN_NOTE = "One run each: no intervals."
BEST_NOTE = "Best mean in bold; means that the seeds cannot tell from it in italics."


@dataclass(frozen=True)
class Cell:
    """Text of a cell; `mark` is "best", "tie" or empty."""

    text: str
    mark: str = ""

    def markdown(self) -> Markdown:
        text = markdown.inline(self.text)
        if self.mark == "best":
            return Markdown(f"**{text}**")
        return Markdown(f"_{text}_") if self.mark == "tie" else text


@dataclass
class Table:
    """A table ready to be written.

    Attributes:
        id: file name without suffix.
        title: heading.
        caption: what the reader sees, in a sentence.
        columns: headings.
        numeric: which columns hold numbers (right-aligned).
        rows: cells, row by row.
        notes: lines under the table.
        records: long-form rows for the CSV, full precision.
        keys: arm and coordinates (`at_key`) of each row, empty where a row holds several.
    """

    id: str
    title: str
    caption: str
    columns: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)

    def markdown(self, level: int = 1) -> str:
        """GitHub-flavoured Markdown with heading, caption, table and notes."""
        rows = [[cell.markdown() for cell in row] for row in self.rows]
        parts = [
            f"{'#' * level} {markdown.inline(self.title)}",
            markdown.block(self.caption),
            markdown.table(rows, self.columns, self.numeric),
            *map(markdown.block, self.notes),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


# Claims -----------------------------------------------------------------------------------------

CLAIM_COLUMNS = [
    "method",
    "claim",
    "check",
    "tier",
    "verdict",
    "expect",
    "observed",
    "margin",
    "margin_low",
    "margin_high",
    "smallest_detectable",
    "by_ratio",
    "link",
    "p",
    "n_seeds",
    "paper",
    "comparable",
    "timing",
    "reason",
]


def claim_records(report: Report) -> list[dict[str, Any]]:
    """One record per check, and one per claim that has none, in the order of the paper's card."""
    records = []
    for claim in report.paper.claims:
        judged = report.claims.get(claim.id, {})
        checks = report.claim_checks(claim.id)
        for check in checks:
            records.append(
                {
                    **{column: check.get(column) for column in CLAIM_COLUMNS},
                    "method": report.paper.slug,
                    "check": check["id"],
                    "paper": report.paper_says(check),
                    "timing": report.is_timing(check),
                }
            )
        if not checks:
            records.append(
                {
                    "method": report.paper.slug,
                    "claim": claim.id,
                    "tier": judged.get("tier") or claim.best_tier,
                    "verdict": report.claim_verdict(claim.id),
                    "paper": paper_number(claim),
                    "comparable": False,
                    "timing": False,
                    "reason": judged.get("reason") or "",
                }
            )
    return records


CLAIM_HEADINGS = {
    "Claim": False,
    "Tier": False,
    "Verdict": False,
    "Expected": False,
    "Observed": False,
    "Margin [interval]": True,
    "Smallest detectable": True,
    "Seeds": True,
    "Paper": False,
    "Reason": False,
}
"""Heading → whether the column holds numbers."""

OBSERVED = ("observed", "margin", "margin_low", "margin_high", "smallest_detectable", "link", "p")


def claims_table(report: Report, *, timing: bool = False) -> Table:
    """Claims with their checks.

    Args:
        report: the method.
        timing: list the checks that read wall-clock figures (with their numbers) instead of all
            others (where those have only their verdict).
    """
    shown = [record for record in claim_records(report) if record["timing"] or not timing]
    return Table(
        id="claims",
        title=f"{report.paper.short}: claims that read wall-clock figures"
        if timing
        else f"{report.paper.short}: claims at scale {report.scale}",
        caption="Margin: how far the measured sides are on the predicted side of each other, as a "
        "ratio (above 1) where both are positive quantities, else as a difference (above 0).",
        columns=list(CLAIM_HEADINGS),
        numeric=list(CLAIM_HEADINGS.values()),
        rows=[_claim_row(report, record, record["timing"] and not timing) for record in shown],
        records=[_in_cost(r) if r["timing"] and not timing else r for r in shown],
    )


def _claim_row(report: Report, record: Mapping[str, Any], in_cost: bool) -> list[Cell]:
    """One check; `in_cost`: its numbers are in the table of costs."""
    check = next((c for c in report.checks if c["id"] == record.get("check")), None)
    observed = [
        record.get("observed") or "–",
        margin(check) if check else "–",
        detectable(check) if check else "–",
    ]
    comparable = "comparable" if record["comparable"] else "not comparable"
    texts = [
        report.paper.claim(record["claim"]).statement,
        record["tier"] or "–",
        f"{SYMBOLS[record['verdict']]} {record['verdict']}",
        markdown.code(record["expect"]) if record.get("expect") else "–",
        *(["see cost"] * len(observed) if in_cost else observed),
        str(record.get("n_seeds") or "–"),
        f"{record['paper']} ({comparable})" if record["paper"] else "–",
        "see cost" if in_cost else record.get("reason") or "",
    ]
    return [Cell(text) for text in texts]


def _in_cost(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its numbers, which depend on the clock."""
    return {**record, **dict.fromkeys(OBSERVED), "reason": "wall-clock: numbers in cost"}


# Measurements ---------------------------------------------------------------------------------

MEASUREMENT_COLUMNS = [
    "measurement",
    "arm",
    "at",
    "unit",
    "n_seeds",
    "mean",
    "half_width",
    "minimum",
    "maximum",
]


def heading(results: Results, name: str, arrow: bool = True) -> str:
    """Column heading of a measurement: title, unit and the direction that is better."""
    card = results.measurement(name)
    unit = f" ({card.unit})" if card.unit else ""
    return f"{card.title or name}{unit}{ARROWS[card.direction] if arrow else ''}"


def _grouped(results: Results, measurements: Iterable[str]) -> dict[Place, Any]:
    """(measurement, arm, at_key) → (at, values over seeds), in card order and by coordinates."""
    frame = results.frame
    wanted = list(measurements)
    arms = {arm: index for index, arm in enumerate(results.arms())}
    found: dict[Place, tuple[dict, list[float]]] = {}
    rows = frame[frame["measurement"].isin(wanted)]
    for row in rows.itertuples(index=False):
        found.setdefault((row.measurement, row.arm, row.at_key), (row.at, []))[1].append(row.value)
    return dict(
        sorted(
            found.items(),
            key=lambda item: (
                wanted.index(item[0][0]),
                arms[item[0][1]],
                at_sort(item[1][0]),
            ),
        )
    )


def marked(summaries: Mapping[Any, Summary], direction: str) -> dict[Any, str]:
    """Which of the compared means is best and which the seeds cannot tell from it."""
    if direction == "none" or len(summaries) < 2:
        return {}
    sign = 1 if direction == "higher" else -1
    means = {key: sign * summary.mean for key, summary in summaries.items()}
    top = max(means.values())
    best = [key for key, mean in means.items() if mean == top]
    if len(best) == len(summaries):
        return {}
    found = dict.fromkeys(best, "best")
    first = summaries[best[0]]
    for key, summary in summaries.items():
        known = summary.half is not None or first.half is not None
        if key not in found and known and summary.low <= first.high and first.low <= summary.high:
            found[key] = "tie"
    return found


def _records(results: Results, grouped: Mapping[Place, Any]) -> list[dict[str, Any]]:
    records = []
    for (name, arm, key), (_, values) in grouped.items():
        summary = summarise(values)
        records.append(
            {
                "measurement": name,
                "arm": arm,
                "at": key,
                "unit": results.measurement(name).unit,
                "n_seeds": summary.n,
                "mean": summary.mean,
                "half_width": summary.half,
                "minimum": min(values),
                "maximum": max(values),
            }
        )
    return records


def seed_note(summaries: Iterable[Summary]) -> str:
    counts = sorted({summary.n for summary in summaries if summary.n > 1})
    if not counts:
        return ONE_RUN_NOTE
    return SEED_NOTE.format(seeds=" or ".join(str(count) for count in counts))


class _Summaries:
    """Means over seeds by measurement, arm and coordinates, and which of them is best."""

    def __init__(self, results: Results, grouped: Mapping[Place, Any]) -> None:
        self.results = results
        self.of = {place: summarise(values) for place, (_, values) in grouped.items()}
        compared: dict[tuple[str, str], dict[Place, Summary]] = {}
        for place, summary in self.of.items():
            compared.setdefault((place[0], place[2]), {})[place] = summary
        self.marks: dict[Place, str] = {}
        for (name, _), summaries in compared.items():
            self.marks |= marked(summaries, results.measurement(name).direction)

    def cell(self, name: str, arm: str, at: str) -> Cell:
        place = (name, arm, at)
        if place not in self.of:
            return Cell("–")
        text = with_interval(self.of[place], self.results.measurement(name).format)
        return Cell(text, self.marks.get(place, ""))

    def notes(self) -> list[str]:
        return [seed_note(self.of.values()), *([BEST_NOTE] if self.marks else [])]


def _pivot(
    results: Results,
    measurements: list[str],
    grouped: Mapping[Place, Any],
    *,
    id: str,
    title: str,
    caption: str,
) -> Table:
    """Rows: arms (and coordinates where they vary); columns: measurements.

    Where one arm alone has coordinates, the rows are its coordinates.
    """
    keys: dict[tuple[str, str], dict] = {}
    for (_, arm, key), (at, _) in grouped.items():
        keys.setdefault((arm, key), at)
    arms = results.arms()
    order = sorted(keys, key=lambda pair: (arms.index(pair[0]), at_sort(keys[pair])))
    points = {key: at for (_, key), at in keys.items()}
    axes, labels, numeric = _coordinates(points) if len(points) > 1 else ([], {}, [])
    by_arm = not axes or len({arm for arm, _ in order}) > 1
    summaries = _Summaries(results, grouped)
    rows = [
        [
            *([Cell(results.title(arm))] if by_arm else []),
            *(Cell(text) for text in labels.get(at, ())),
            *(summaries.cell(name, arm, at) for name in measurements),
        ]
        for arm, at in order
    ]
    return Table(
        id=id,
        title=title,
        caption=caption,
        columns=[*(["Arm"] if by_arm else []), *axes, *(heading(results, n) for n in measurements)],
        numeric=[*([False] if by_arm else []), *numeric, *(True for _ in measurements)],
        rows=rows,
        notes=summaries.notes(),
        records=_records(results, grouped),
        keys=order,
    )


def _coordinates(
    points: Mapping[str, Mapping],
) -> tuple[list[str], dict[str, list[str]], list[bool]]:
    """Columns for coordinates: headings, texts by at_key, and which are numbers.

    One column per coordinate if all points have the same ones, else a single column "At".
    """
    axes = list(dict.fromkeys(axis for at in points.values() for axis in at))
    if not axes or any(set(at) != set(axes) for at in points.values()):
        return ["At"], {key: [key.replace(",", ", ") or "–"] for key in points}, [False]
    labels = {
        key: [at_key({"": at[axis]}).partition("=")[2] for axis in axes]
        for key, at in points.items()
    }
    numeric = [all(isinstance(at[axis], (int, float)) for at in points.values()) for axis in axes]
    return axes, labels, numeric


def card_table(report: Report, card: Any) -> Table:
    """A table that the experiment's card asks for.

    Raises:
        ReproError: its id is taken, or nothing it lists was measured.
    """
    results = report.results
    if card.id in RESERVED:
        raise ReproError(
            f"{report.paper.slug}: a table may not be called {card.id!r}; choose another id"
        )
    arms = card.arms or results.arms()
    grouped = {
        key: value
        for key, value in _grouped(results, card.measurements).items()
        if key[1] in arms
        and all(
            name in value[0] and at_key({"": value[0][name]}) == at_key({"": want})
            for name, want in (card.at or {}).items()
        )
    }
    return _pivot(
        results,
        [n for n in card.measurements if any(key[0] == n for key in grouped)],
        grouped,
        id=card.id,
        title=card.title,
        caption=card.caption,
    )


def measurement_tables(report: Report) -> list[Table]:
    """Everything that was measured, wall-clock figures apart.

    First one table of the measurements without coordinates (rows: arms), then those with
    coordinates, oriented so that they are taller than wide.
    """
    results = report.results
    present = set(results.frame["measurement"])
    names = [
        name
        for name, card in report.experiment.measurements.items()
        if name in present and not card.timing
    ]
    return [
        *_plain_table(results, names, "measurements", "Measurements"),
        *_swept_tables(results, names),
    ]


def _plain_table(results: Results, names: list[str], identity: str, title: str) -> list[Table]:
    """One table of the measurements without coordinates, or none where there are none."""
    plain = {key: value for key, value in _grouped(results, names).items() if key[2] == ""}
    shown = [name for name in names if any(key[0] == name for key in plain)]
    if not plain:
        return []
    return [_pivot(results, shown, plain, id=identity, title=title, caption="")]


def _swept_tables(results: Results, names: list[str]) -> list[Table]:
    """Tables of the measurements that have coordinates.

    Measurements that one arm alone has, at the same coordinates, share a table.
    """
    swept = {key: value for key, value in _grouped(results, names).items() if key[2] != ""}
    places: dict[frozenset[tuple[str, str]], list[str]] = {}
    for name in dict.fromkeys(key[0] for key in swept):
        at = frozenset(key[1:] for key in swept if key[0] == name)
        alone = len({arm for arm, _ in at}) == 1
        places.setdefault(at if alone else at | {("", name)}, []).append(name)
    tables = []
    for at, together in places.items():
        grouped = {key: value for key, value in swept.items() if key[0] in together}
        if len(together) == 1:
            tables.append(_sweep_table(results, together[0], grouped))
            continue
        arm = next(iter(at))[0]
        title = results.title(arm)
        tables.append(
            _pivot(results, together, grouped, id=f"measurements-{arm}", title=title, caption="")
        )
    return tables


def listed(results: Results, name: str, identity: str) -> Table:
    """One measurement with a row for every arm and point that has it: no empty cells."""
    swept = {key: value for key, value in _grouped(results, [name]).items() if key[2] != ""}
    return _pivot(results, [name], swept, id=identity, title=heading(results, name), caption="")


def _sweep_table(results: Results, name: str, grouped: Mapping[Place, Any]) -> Table:
    """One measurement by coordinates and arms, whichever are more downwards."""
    arms = [arm for arm in results.arms() if any(place[1] == arm for place in grouped)]
    points: dict[str, dict] = {}
    for (_, _, key), (at, _) in grouped.items():
        points.setdefault(key, at)
    keys = sorted(points, key=lambda key: at_sort(points[key]))
    summaries = _Summaries(results, grouped)
    axes, labels, numeric = _coordinates(points)
    if len(keys) >= len(arms):
        columns = [*axes, *map(results.title, arms)]
        rows = [
            [*map(Cell, labels[at]), *(summaries.cell(name, arm, at) for arm in arms)]
            for at in keys
        ]
        places = [("", at) for at in keys]
    else:
        one = len(axes) == 1 and axes != ["At"]
        columns = ["Arm", *(f"{axes[0]} {labels[at][0]}" if one else at for at in keys)]
        rows = [
            [Cell(results.title(arm)), *(summaries.cell(name, arm, at) for at in keys)]
            for arm in arms
        ]
        numeric = [False]
        places = [(arm, "") for arm in arms]
    return Table(
        id=f"measurements-{name}",
        title=heading(results, name),
        caption="",
        columns=columns,
        numeric=[*numeric, *([True] * (len(columns) - len(numeric)))],
        rows=rows,
        notes=summaries.notes(),
        records=_records(results, grouped),
        keys=places,
    )


# Cost -----------------------------------------------------------------------------------------


def cost_tables(report: Report) -> list[Table]:
    """Wall time and memory per run and model, wall-clock measurements, and the checks on them."""
    results = report.results
    tables = [_run_costs(report)]
    timing = [name for name, card in report.experiment.measurements.items() if card.timing]
    present = set(results.frame["measurement"])
    names = [name for name in timing if name in present]
    tables += _plain_table(results, names, "timing", "Wall-clock measurements")
    tables += _swept_tables(results, names)
    checks = claims_table(report, timing=True)
    if checks.rows:
        tables.append(checks)
    return tables


def _run_costs(report: Report) -> Table:
    results = report.results
    rows, records = [], []
    for kind, name, title, made in _made(report):
        count = _evaluations(results, name) if kind == "run" else ""
        rows.append(_cost_row(title, kind, made, count))
        records += _cost_records(name, kind, made)
    total = sum(float(record["wall_s"] or 0) for record in records)
    return Table(
        id="cost",
        title=f"{report.paper.short}: cost at scale {report.scale}",
        caption="Mean wall time per seed, its total over seeds, and peak memory of the process.",
        columns=["What", "Kind", "Seeds", "Time per seed", "Total", "Peak memory", "Evaluations"],
        numeric=[False, False, True, True, True, True, True],
        rows=rows,
        notes=[f"Total: {seconds(total)}."],
        records=records,
    )


def _made(report: Report) -> Iterator[tuple[str, str, str, list[Record]]]:
    """Kind, name, title and records of every arm and model, over their seeds."""
    results, models = report.results, report.experiment.models
    for kind, group in (
        ("run", results.records),
        ("model", results.model_records),
        ("shared model", report.zoo_records),
    ):
        for name in dict.fromkeys(record["arm"] for record in group):
            own = [record for record in group if record["arm"] == name]
            title = results.title(name) if kind == "run" else name
            if kind == "model" and name in models:
                title = models[name].title or name
            yield kind, name, title, own


def _evaluations(results: Results, arm: str) -> str:
    """How often an arm evaluates its network: one number, or the range over what it measured."""
    declared = results.experiment.measurements
    name = next((name for name in ("nfe", "calls") if name in declared), None)
    if name is None or not results.has(name, arm):
        return ""
    frame = results.frame
    values = frame[(frame["arm"] == arm) & (frame["measurement"] == name)]["value"]
    low, high = (number(value, ".4g") for value in (values.min(), values.max()))
    return low if low == high else f"{low} – {high}"


def _cost_row(title: str, kind: str, runs: list[Record], count: str) -> list[Cell]:
    walls = [float(r["wall_s"]) for r in runs if r.get("wall_s") is not None]
    peaks = [float(r["peak_memory_mb"]) for r in runs if r.get("peak_memory_mb") is not None]
    return [
        Cell(title),
        Cell(kind),
        Cell(str(len(runs))),
        Cell(seconds(sum(walls) / len(walls)) if walls else "–"),
        Cell(seconds(sum(walls)) if walls else "–"),
        Cell(f"{max(peaks):,.0f} MB" if peaks else "–"),
        Cell(count or "–"),
    ]


COST_COLUMNS = ["kind", "name", "seed", "wall_s", "peak_memory_mb", "device", "threads"]


def _cost_records(name: str, kind: str, runs: list[Record]) -> list[dict[str, Any]]:
    return [
        {**{column: r.get(column) for column in COST_COLUMNS}, "kind": kind, "name": name}
        for r in runs
    ]


# Writing --------------------------------------------------------------------------------------


def files(report: Report) -> dict[str, str]:
    """All tables of a method as Markdown and CSV: text by file name.

    `claims`, one per table of the card, `measurements` (all that was measured) and `cost`
    (everything that depends on the clock).

    Raises:
        ReproError: a table of the card cannot be made.
    """
    claims = claims_table(report)
    everything = measurement_tables(report)
    costs = cost_tables(report)
    made = {
        "claims.md": claims.markdown(),
        "claims.csv": to_csv(claims.records, CLAIM_COLUMNS),
        "measurements.md": "\n".join(
            [
                f"# {markdown.inline(report.paper.short)}: everything measured at scale "
                f"{report.scale}\n",
                *(table.markdown(2) for table in everything),
            ]
        ),
        "measurements.csv": to_csv(
            [record for table in everything for record in table.records], MEASUREMENT_COLUMNS
        ),
        "cost.md": "\n".join(
            [costs[0].markdown(1), *(table.markdown(2) for table in costs[1:])],
        ),
        "cost.csv": to_csv(costs[0].records, COST_COLUMNS),
    }
    for card in report.experiment.tables:
        table = card_table(report, card)
        made[f"{card.id}.md"] = table.markdown()
        made[f"{card.id}.csv"] = to_csv(table.records, MEASUREMENT_COLUMNS)
    return made


def write(report: Report, folder: Path) -> list[Path]:
    """Write all tables of a method into a folder; returns the files."""
    made = files(report)
    for name, text in made.items():
        store.write_text(folder / name, text)
    return [folder / name for name in made]
