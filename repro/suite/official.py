"""Which official files papers and arms need, what is here of them, and how they get here.

`repro fetch`, `repro doctor`, the DAG's rule and an arm before it computes all ask here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from repro.errors import ReproError, nearest
from repro.official import fetch
from repro.official.published import Found, Published, look, receipt
from repro.suite.cards.method import Method
from repro.suite.cards.official import everything

State = Literal["have", "fetch", "ask", "by hand"]


@dataclass(frozen=True)
class Row:
    """A publication, what is here of it, and the arms in question that read it."""

    published: Published
    found: tuple[Found, ...]
    arms: tuple[str, ...]

    @property
    def is_here(self) -> bool:
        return all(found.here == "have" for found in self.found)

    @property
    def state(self) -> State:
        """What is here, or how the rest gets here: have, fetch, ask, by hand."""
        if self.is_here:
            return "have"
        if self.published.by_hand is not None:
            return "by hand"
        return "ask" if self.published.asks else "fetch"

    @property
    def wrong(self) -> list[str]:
        """What lies in a file's place and is not it."""
        return [f"{f.file.name} {f.note}" for f in self.found if f.here == "wrong"]

    @property
    def megabytes(self) -> float | None:
        """Size of all its files; None where not one is known."""
        known = [f.file.about for f in self.found if f.file.about is not None]
        return sum(known) if known else None

    @property
    def missing_megabytes(self) -> float:
        """What is still to come, as far as sizes are known."""
        return sum(
            max((f.file.about or 0.0) - f.done / 1e6, 0.0) for f in self.found if f.here != "have"
        )


def named(name: str) -> Published:
    """The publication of a name.

    Raises:
        ReproError: no card declares it.
    """
    known = everything()
    if name not in known:
        raise ReproError(
            f"no official file `{name}`{nearest(name, known)}; `repro fetch --dry-run` lists them"
        )
    return known[name]


def of_arms(method: Method, scale: str, arms: Iterable[str]) -> list[Published]:
    """What some arms of a method, and the models that they load, read."""
    known = everything(method.folder.parent.parent)
    names = dict.fromkeys(name for arm in arms for name in method.official(scale, arm))
    return [known[name] for name in names]


def rows(methods: Sequence[Method], scale: str, *, rest: bool = True) -> list[Row]:
    """What the arms of some papers read at a scale, and then what else belongs to these papers.

    rest: leave out what no arm reads, if False.
    """
    readers: dict[str, list[str]] = {}
    for method in methods:
        if scale in method.experiment.scales:
            for arm in method.arms(scale):
                for name in method.official(scale, arm):
                    readers.setdefault(name, []).append(f"{method.slug}/{arm}")
    known, slugs = everything(), {method.slug for method in methods}
    if rest:
        for name, published in known.items():
            if slugs & set(published.papers):
                readers.setdefault(name, [])
    return [
        Row(known[name], tuple(look(known[name])), tuple(arms)) for name, arms in readers.items()
    ]


def ensure(
    method: Method,
    scale: str,
    arms: Sequence[str],
    who: str,
    why: Mapping[str, str] | None = None,
) -> None:
    """See that all official files of some arms are here, before one of them computes.

    Raises:
        ReproError: some are not; the line names all of them.
    """
    if wanted := of_arms(method, scale, arms):
        fetch.ensure(wanted, who, f"repro fetch {method.slug} --scale {scale}", why)


def obtain(method: Method, scale: str, arms: Sequence[str]) -> None:
    """Fetch what some arms read and what may be fetched unasked; then see that all is here.

    Raises:
        ReproError: some of it is not; the line names all of it.
    """
    if wanted := of_arms(method, scale, arms):
        outcomes = fetch.fetch(wanted)
        why = {one.published.name: one.problem for one in outcomes if one.problem}
        ensure(method, scale, arms, f"{method.slug} at scale {scale}", why)


def hashes(method: Method, scale: str, arm: str) -> dict[str, dict[str, str]]:
    """SHA-256 of each official file that an arm reads, by publication: for its record."""
    found = {}
    for published in of_arms(method, scale, [arm]):
        files = receipt(published).get("files", {})
        found[published.name] = {name: file["sha256"] for name, file in files.items()}
    return found


def prepare(name: str) -> None:
    """Have one publication, fetching it unasked where that is allowed: the DAG's job.

    Raises:
        ReproError: it is not whole here.
    """
    published = named(name)
    problems = [one for one in fetch.fetch([published]) if one.problem]
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise ReproError(
            f"official/{name}: {problems[0].file.name}: {problems[0].problem}{more}; "
            f"`repro fetch {published.papers[0]}` lists what else is missing"
        )
