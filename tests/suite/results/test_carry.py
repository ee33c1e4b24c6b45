"""Carrying results over a change of the code that leaves numbers alone."""

import csv
import sys

import pytest

from repro.errors import ReproError
from repro.suite import provenance, run
from repro.suite.cards import library
from repro.suite.results import carry, check, publish
from tests.conftest import forget
from tests.suite.results.conftest import COMMIT, edit, snapshot


def rewrite(published, *pairs):
    """Edit the toy's functions, as a person who then runs the suite anew."""
    path = published.root / "methods" / "toy" / "arms.py"
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    again()


def again():
    forget()
    for name in [name for name in sys.modules if name.startswith("methods.")]:
        del sys.modules[name]


def carried(published, arm="count", reason="names only", **options):
    return carry.carry(library.load("toy"), "small", published.results, arm, reason, **options)


def declared(published):
    with (published.folder / "carried.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


RENAMED = ("noise = torch.randn", "drawn = torch.randn"), ("0.01 * noise", "0.01 * drawn")
INDEPENDENT = (
    'job.measure("error", 0.0)\n    job.measure("error", 1e-9',
    'zero = 0.0\n    job.measure("error", zero)\n    job.measure("error", 1e-9',
)


def stale(published):
    return [line for line in check.check(published.results) if "stale" in line]


def test_records_are_declared_with_reason_and_evidence(published):
    rewrite(published, *RENAMED, INDEPENDENT)
    assert [line.split(":")[1] for line in stale(published)] == [" stale run"]
    before = snapshot(published.folder)
    assert carried(published, "ours", seed=2, reason="a variable\nrenamed") == 9
    assert check.check(published.results) == []
    rows = declared(published)
    assert {(r["arm"], r["seed"]) for r in rows} == {
        *((arm, str(seed)) for arm in ("ours", "base") for seed in range(4)),
        ("count", "0"),
    }
    assert all(r["old"] != r["new"] for r in rows)
    assert {r["reason"] for r in rows} == {"a variable renamed"}
    assert all(r["evidence"].startswith(f"ours/2 rerun at {COMMIT} on 20") for r in rows)
    changed = {n for n, content in snapshot(published.folder).items() if before.get(n) != content}
    assert changed == {"carried.csv", "manifest.sha256"}


def test_models_are_declared_too(published):
    rewrite(published, ('{"w": torch.randn(', '{"w": 1 * torch.randn('))
    assert [line.split(":")[1] for line in stale(published)] == [" stale run", " stale model"]
    assert carried(published, "ours") == 8 + 4
    assert {r["arm"] for r in declared(published)} == {"ours", "base", "toy/net"}
    assert check.check(published.results) == []


def test_a_second_change_is_declared_from_the_recorded_fingerprint(published):
    rewrite(published, INDEPENDENT)
    assert carried(published) == 1
    (first,) = declared(published)
    rewrite(published, ("zero", "nought"))
    assert len(stale(published)) == 1
    assert carried(published) == 1
    (second,) = declared(published)
    assert second["old"] == first["old"] and second["new"] != first["new"]
    assert check.check(published.results) == []
    assert carried(published) == 0


def test_a_rerun_that_differs_declares_nothing(published):
    rewrite(published, ('"error", 1e-9', '"error", 2e-9'))
    before = snapshot(published.folder)
    with pytest.raises(
        ReproError,
        match=r"toy/count/0 does not come out as committed: error\[item=other,strict=true\] and 1",
    ):
        carried(published)
    assert snapshot(published.folder) == before


def test_timings_may_differ_and_the_last_bit_may_not(published):
    rewrite(published, ('"latency", 1.5', '"latency", 9.5'))
    assert carried(published) == 1
    rewrite(
        published, ('job.measure("error", 0.0)\n    job', 'job.measure("error", -0.0)\n    job')
    )
    with pytest.raises(ReproError, match="does not come out as committed"):
        carried(published)


def test_arms_can_be_left_stale(published):
    rewrite(published, *RENAMED, INDEPENDENT)
    assert carried(published, without=["base", "ours"]) == 1
    assert stale(published)[0].endswith("(and 7 more)")
    with pytest.raises(ReproError, match="toy has no arm `bass`.*did you mean `base`"):
        carried(published, without=["bass"])


def test_other_parameters_are_not_declared(published):
    edit(published.root, lambda card: card["scales"]["small"]["arms"]["base"].update(gain=3.5))
    with pytest.raises(ReproError, match="base/0 was run with other parameters .*--except base"):
        carried(published, "count")
    assert carried(published, "count", without=["base"]) == 0


def test_what_cannot_be_evidence(published, monkeypatch):
    with pytest.raises(ReproError, match="toy has no arm `counts`"):
        carried(published, "counts")
    with pytest.raises(ReproError, match="no committed run ours/7"):
        carried(published, "ours", seed=7)
    with pytest.raises(ReproError, match="say why"):
        carried(published, reason=" ")
    with monkeypatch.context() as patched:
        patched.setattr(provenance, "commit", lambda function=None: f"{COMMIT}+changes")
        with pytest.raises(ReproError, match="rerun on uncommitted code"):
            carried(published)


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("old", "0" * 20, "declaration of another record: carried.csv: count/0"),
        ("new", "0" * 20, "stale run: count/0"),
        ("seed", "3", "declaration of another record: carried.csv: count/3"),
        ("reason", "", "declaration without reason or evidence: carried.csv: count/0"),
        ("evidence", "", "declaration without reason or evidence: carried.csv: count/0"),
        ("seed", "x", "carried.csv row 2"),
    ],
)
def test_a_wrong_declaration_is_noticed(published, column, value, kind):
    rewrite(published, INDEPENDENT)
    carried(published)
    (row,) = declared(published)
    path = published.folder / "carried.csv"
    path.write_text(",".join(row) + "\n" + ",".join({**row, column: value}.values()) + "\n")
    assert any(kind in line for line in check.check(published.results))


def test_publishing_keeps_the_declarations_that_are_needed(published):
    rewrite(published, *RENAMED, INDEPENDENT)
    carried(published)
    run.run_method(library.load("toy"), published.options, ["count"])
    publish.publish(published.options, published.results)
    assert {r["arm"] for r in declared(published)} == {"ours", "base"}
    assert check.check(published.results) == []
