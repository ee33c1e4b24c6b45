from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.suite.report import figures, ledger, page, tables
from tests.suite.report import synthetic


@pytest.fixture(scope="session")
def invented(tmp_path_factory) -> SimpleNamespace:
    """Invented papers, their runs, and everything that the report makes of them."""
    root = tmp_path_factory.mktemp("invented")
    work = root / "work" / synthetic.SCALE
    out = work / "report"
    synthetic.write_cards(root)
    synthetic.write_work(root, work)
    for slug in synthetic.METHODS:
        tables.write_tables(slug, synthetic.SCALE, work, out, root)
        figures.write_figures(slug, synthetic.SCALE, work, out, root)
    ledger.write_ledger(synthetic.SCALE, work, out, root)
    made = page.write_page(synthetic.SCALE, work, out, root)
    return SimpleNamespace(root=root, work=work, out=out, page=made, scale=synthetic.SCALE)


@pytest.fixture
def bare(tmp_path: Path) -> SimpleNamespace:
    """Cards and runs alone, for tests that change them."""
    work = tmp_path / "work" / synthetic.SCALE
    synthetic.write_cards(tmp_path)
    synthetic.write_work(tmp_path, work)
    return SimpleNamespace(root=tmp_path, work=work, out=work / "report", scale=synthetic.SCALE)
