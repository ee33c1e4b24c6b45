from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.suite.report import figures, inputs, ledger, tables
from repro.suite.report.site import build
from tests.suite.report import synthetic


@pytest.fixture(scope="session")
def invented(tmp_path_factory) -> SimpleNamespace:
    """Invented papers, their runs, and everything that the report makes of them."""
    root = tmp_path_factory.mktemp("invented")
    work = root / "work" / synthetic.SCALE
    out = work / "report"
    synthetic.write_cards(root)
    synthetic.write_work(root, work)
    source = inputs.Work(synthetic.SCALE, work, root)
    reports = inputs.load_all(source)
    for report in reports:
        tables.write(report, out / "tables" / report.paper.slug)
        figures.write(report, out / "figures" / report.paper.slug)
    ledger.write(synthetic.SCALE, reports, out)
    made = build.write([build.Scale(source, reports)], out / "site")
    return SimpleNamespace(root=root, work=work, out=out, site=made.parent, source=source)


@pytest.fixture(scope="session")
def two_scales(invented, tmp_path_factory) -> Path:
    """The folder of a site of the same papers at two scales."""
    scales = []
    for scale in (synthetic.LARGER, synthetic.SCALE):
        work = invented.root / "work" / scale
        if not work.exists():
            synthetic.write_work(invented.root, work, scale)
        source = inputs.Work(scale, work, invented.root)
        scales.append(build.Scale(source, inputs.load_all(source)))
    return build.write(scales, tmp_path_factory.mktemp("two") / "site").parent


@pytest.fixture
def bare(tmp_path: Path) -> SimpleNamespace:
    """Cards and runs alone, for tests that change them."""
    work = tmp_path / "work" / synthetic.SCALE
    synthetic.write_cards(tmp_path)
    synthetic.write_work(tmp_path, work)
    source = inputs.Work(synthetic.SCALE, work, tmp_path)
    return SimpleNamespace(root=tmp_path, work=work, out=work / "report", source=source)
