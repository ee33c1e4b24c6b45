"""verdicts -> tables, figures, page and ledger."""

from __future__ import annotations

import shutil
from pathlib import Path

from repro.errors import ReproError
from repro.suite.cards.method import Method
from repro.suite.plan import methods_at
from repro.suite.report import comparisons, figures, ledger, page, tables
from repro.suite.run import Options


def report_method(method: Method, options: Options) -> None:
    """Tables and figures of a method that is judged."""
    out = options.base / "report"
    _swept(out / "tables" / method.slug, out / "figures" / method.slug)
    tables.write_tables(method.slug, options.scale, options.base, out)
    figures.write_figures(method.slug, options.scale, options.base, out)
    for kind in ("tables", "figures"):
        (out / kind / method.slug).mkdir(parents=True, exist_ok=True)


def _swept(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def report_scale(options: Options, require_all: bool) -> Path:
    """Page and ledger of a scale; returns the page.

    Args:
        require_all: every method of the scale has to be judged; otherwise those that are.
    """
    out = options.base / "report"
    judged = {path.stem for path in (options.base / "verdicts").glob("*.json")}
    if not judged:
        raise ReproError(f"no verdicts at scale {options.scale}; run a method first")
    for method in methods_at(options.scale) if require_all else ():
        if method.slug not in judged:
            raise ReproError(
                f"{options.base / 'verdicts' / method.slug}.json is missing; run "
                f"`make {options.scale}` to make it"
            )
    ledger.write_ledger(options.scale, options.base, out)
    _swept(out / "tables" / "comparisons", out / "figures" / "comparisons")
    comparisons.write_comparisons(options.scale, options.base, out)
    return page.write_page(options.scale, options.base, out)
