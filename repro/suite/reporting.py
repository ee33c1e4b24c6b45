"""verdicts -> tables, figures, page and ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro import store
from repro.errors import ReproError
from repro.suite.cards.method import Method
from repro.suite.plan import methods_at
from repro.suite.report import comparisons, figures, inputs, ledger, tables
from repro.suite.report.site import build
from repro.suite.run import Options
from repro.suite.words import SCALES


def report_method(method: Method, options: Options, judged: dict[str, Any] | None = None) -> None:
    """Tables and figures of a method that is judged.

    Args:
        judged: its verdicts, where this process has made them: a DAG at work in the same folder
            may have removed their file to make it anew.
    """
    known = {} if judged is None else {method.slug: judged}
    report = inputs.load(method.slug, inputs.Work(options.scale, options.base, judged=known))
    out = options.base / "report"
    with store.atomic_folder(out / "tables" / method.slug, durable=False) as temporary:
        tables.write(report, temporary)
    with store.atomic_folder(out / "figures" / method.slug, durable=False) as temporary:
        figures.write(report, temporary)


def report_scale(options: Options, require_all: bool) -> Path:
    """Site and ledger of a scale from its work folder; returns the site's index.

    Args:
        require_all: every method of the scale has to be judged; otherwise those that are.

    Raises:
        ReproError: a method is not judged.
    """
    source = inputs.Work(options.scale, options.base)
    reports = inputs.load_all(source)
    judged = {report.paper.slug for report in reports}
    if not judged:
        raise ReproError(f"no verdicts at scale {options.scale}; run a method first")
    for method in methods_at(options.scale) if require_all else ():
        if method.slug not in judged:
            raise ReproError(
                f"{options.base / 'verdicts' / method.slug}.json is missing; run "
                f"`make {options.scale}` to make it"
            )
    out = options.base / "report"
    ledger.write(options.scale, reports, out)
    across = [out / kind / comparisons.FOLDER for kind in ("tables", "figures")]
    if any(comparisons.ran(reports)):
        with (
            store.atomic_folder(across[0], durable=False) as of_tables,
            store.atomic_folder(across[1], durable=False) as of_figures,
        ):
            comparisons.write(reports, of_tables, of_figures)
    else:
        for folder in across:
            if folder.exists():
                store.remove_folder(folder)
    return build.write([build.Scale(source, reports)], index_of_work(options).parent)


def index_of_work(options: Options) -> Path:
    """Where the site of the runs of a scale begins."""
    return options.base / "report" / "site" / "index.html"


def index_of_committed(options: Options) -> Path:
    """Where the site of the committed results of a scale begins."""
    return options.base / "committed" / "index.html"


def index_of_all(work: Path) -> Path:
    """Where the site of all committed results begins."""
    return work / "site" / "index.html"


def report_committed(options: Options, results: Path) -> Path:
    """The site of the committed results of a scale, from them alone; returns its index.

    It lies in the work folder beside the page of the runs made here, which it leaves alone.

    Raises:
        ReproError: nothing is committed at this scale, or a file of it is damaged.
    """
    source = inputs.Committed(options.scale, results / options.scale)
    reports = inputs.load_all(source)
    if not reports:
        raise ReproError(f"no results of scale {options.scale} are committed under {results}")
    return build.write([build.Scale(source, reports)], index_of_committed(options).parent)


def report_all(results: Path, work: Path) -> Path:
    """The site of the committed results of all scales, from them alone; returns its index.

    Raises:
        ReproError: nothing is committed, or a file of it is damaged.
    """
    sources = [inputs.Committed(scale, results / scale) for scale in SCALES]
    scales = build.scales_of(sources)
    if not scales:
        raise ReproError(f"no results are committed under {results}")
    return build.write(scales, index_of_all(work).parent)
