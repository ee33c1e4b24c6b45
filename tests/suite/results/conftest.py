"""A small method with everything that results have, run and published under an invented commit."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from repro.suite import judging, provenance, reporting, run
from repro.suite.cards import comparisons, library
from repro.suite.results import publish

COMMIT = "4e5e6e8f3a9b4e0c8d7f6a5b4c3d2e1f0a9b8c7d"

FUNCTIONS = """

def count(job):
    job.measure("error", 0.0)
    job.measure("error", 1e-9, item="other", strict="true")
    job.measure("latency", 1.5)


def losses(results):
    from repro.suite.report import style

    figure, ax = style.subplots()
    for arm in ("ours", "base"):
        style.curve(ax, *results.sweep("loss", arm, "steps"), arm)
    return figure


def weights(results):
    from repro.suite.report import style

    figure, ax = style.subplots()
    for arm in ("ours", "base"):
        ax.plot(results.array(arm, 0, "w"))
    return figure
"""

ADDED = {
    "figures": [
        {"id": "losses", "run": "methods.toy.arms:losses", "title": "Losses", "caption": "By s."},
        {"id": "weights", "run": "methods.toy.arms:weights", "title": "Weights", "caption": "w."},
    ],
    "tables": [{"id": "main", "title": "Main", "measurements": ["loss"]}],
}


def edit(root: Path, change, card_file: str = "experiment.yaml") -> None:
    """Change a card of the toy."""
    path = root / "methods" / "toy" / card_file
    card = yaml.safe_load(path.read_text())
    change(card)
    path.write_text(yaml.safe_dump(card, sort_keys=False))
    library.forget()


def _extend(card: dict) -> None:
    card.update(ADDED)
    card["arms"]["count"] = {
        "run": "methods.toy.arms:count",
        "deterministic": True,
        "params": {"digits": 3},
    }
    card["scales"]["small"]["params"]["steps"] = [4, 8]
    card["measurements"]["latency"] = {"timing": True, "unit": "ms", "at": {"arms": "count"}}
    card["measurements"]["error"]["at"] = [
        {"arms": ["exact", "count"]},
        {"arms": "count", "item": "other", "strict": True},
    ]


def _found(card: dict) -> None:
    card["claims"]["smaller"]["findings"] = [{"text": "The gain is smaller."}]


def run_all(options: run.Options) -> None:
    """Everything that `repro run` does."""
    method = library.load("toy")
    run.run_method(method, options)
    judging.judge(method, options)
    reporting.report_method(method, options)


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """What the first test published, for the others."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def published(toy, kept, monkeypatch):
    """The toy at scale small, run, judged and published."""
    monkeypatch.setattr(comparisons, "ROOT", toy)
    monkeypatch.setattr(provenance, "commit", functools.cache(lambda function=None: COMMIT))
    arms = toy / "methods" / "toy" / "arms.py"
    arms.write_text(arms.read_text() + FUNCTIONS)
    edit(toy, _extend)
    edit(toy, _found, "checks.yaml")
    options, results = run.Options("small"), toy / "results"
    if (kept / "root").exists():
        shutil.copytree(kept / "root" / "results", results)
        shutil.copy(kept / "root" / "README.md", toy)
        shutil.copytree(kept / "work", options.work)
    else:
        (toy / "README.md").write_text("# T\n\n<!-- ledger:begin -->\n<!-- ledger:end -->\n\nend\n")
        run_all(options)
        said = publish.publish(options, results, ["toy"])
        assert said == ["toy: 9 runs, 9 of them from work"]
        shutil.copytree(toy, kept / "root")
        shutil.copytree(options.work, kept / "work")
    return SimpleNamespace(
        root=toy, options=options, results=results, folder=results / "small" / "toy"
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Content by path of all files below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
