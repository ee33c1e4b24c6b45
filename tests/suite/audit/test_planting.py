"""Faults planted in a copy of the tree; the quick form of the audit."""

import json

import pytest

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite.audit import planting, table
from repro.suite.cards import library


def test_every_fault_fits_the_sources():
    for fault in planting.faults():
        assert (ROOT / fault.file).read_text("utf-8").count(fault.before) == 1, fault.id


def test_every_fault_names_arms_and_tests_that_there_are():
    for fault in planting.faults():
        if fault.paper is not None:
            assert {*fault.arms} <= {*library.load(fault.paper).arms("smoke")}, fault.id
        assert planting.tests_of(fault, ROOT), fault.id


def test_all_papers_have_faults_and_ids_are_unique():
    every = planting.faults()
    assert {f.paper for f in every} - {None} == set(library.slugs())
    assert len({f.id for f in every}) == len(every)


def test_a_fault_is_planted_in_a_copy_alone(tmp_path):
    fault = planting.faults()[0]
    with pytest.raises(ReproError, match="plant faults in a copy"):
        fault.make(ROOT, fault.id)
    with pytest.raises(ReproError, match="its text stands 0 times"):
        fault.make(tmp_path, fault.id)
    path = tmp_path / fault.file
    path.parent.mkdir(parents=True)
    path.write_text(f"x\n{fault.before}\n")
    fault.make(tmp_path, fault.id)
    assert path.read_text() == f"x\n{fault.after}\n"


def test_a_copy_of_the_tree_holds_what_runs(tmp_path):
    work = tmp_path / "work"
    (work / "smoke").mkdir(parents=True)
    (work / "smoke" / "x.json").write_text("1")
    with planting.copied(work) as tree:
        assert (tree / "repro/job.py").read_bytes() == (ROOT / "repro/job.py").read_bytes()
        assert (tree / "work/smoke/x.json").read_text() == "1"
        assert not (tree / ".git").exists() and not (tree / "results").exists()
    assert not tree.exists()


def test_what_does_not_end_has_noticed_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(planting, "LIMIT_S", 0.01)
    fault = next(f for f in planting.faults() if f.quick and f.paper and f.setup is None)
    monkeypatch.setenv("REPRO_WORK", str(tmp_path))
    with pytest.raises(planting.Late, match=r"no end after 0.01 s"):
        planting.tried(tmp_path, fault.paper, fault.arms)
    bench = planting.Bench(tmp_path, tmp_path / "work", {fault.paper: {"holds": {}}})
    found = bench.outcome(fault)
    assert (found.judge, found.tests) == ("", "")


def test_an_interrupted_audit_goes_on_where_it_was(tmp_path, monkeypatch):
    begun = []

    class Bench:
        @classmethod
        def of(cls, _, left):
            begun.append([fault.id for fault in left])
            return cls()

        def outcome(self, fault, _):
            if len(begun) == 1 and fault is three[2]:
                raise ReproError("killed")
            return planting.Outcome(fault, f"lost by {fault.id}", "")

    monkeypatch.setenv("REPRO_WORK", str(tmp_path))
    monkeypatch.setattr(planting, "Bench", Bench)
    monkeypatch.setattr(planting, "_digest", lambda _: tree)
    three, tree = planting.faults()[:3], "one"
    with pytest.raises(ReproError, match="killed"):
        list(planting.outcomes(three))
    found = list(planting.outcomes(three))
    assert [one.judge for one in found] == [f"lost by {fault.id}" for fault in three]
    assert begun == [[f.id for f in three], [three[2].id]]
    assert list(planting.outcomes(three)) == found and len(begun) == 2
    tree = "another"
    assert list(planting.outcomes(three)) == found and len(begun) == 3
    monkeypatch.setattr(Bench, "outcome", lambda _, fault, form: planting.Outcome(fault, "", ""))
    tree = "where nothing is noticed"
    assert list(planting.outcomes(three)) == list(planting.outcomes(three)) and len(begun) == 5


def test_the_digest_of_a_tree_is_of_all_but_the_table(tmp_path):
    with planting.copied() as tree:
        before = planting._digest(tree)
        (tree / planting.JSON.relative_to(ROOT)).write_text("{}")
        assert planting._digest(tree) == before
        with (tree / "repro/job.py").open("a") as file:
            file.write("\n")
        assert planting._digest(tree) != before


@pytest.mark.slow
def test_the_quick_faults_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_WORK", str(tmp_path / "work"))
    found = list(planting.outcomes(planting.faults(quick=True), tests="missed"))
    assert len(found) >= 3
    for one in found:
        assert one.judge or one.tests, one.fault.id
        assert "leak" not in one.fault.family or one.judge.startswith("refused"), one.judge


# The table ------------------------------------------------------------------------------------


def outcome(judge="", tests=""):
    return planting.Outcome(planting.faults()[0], judge, tests)


def test_the_table_counts_and_names_what_nobody_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "JSON", tmp_path / "table.json")
    monkeypatch.setattr(table, "MARKDOWN", tmp_path / "table.md")
    assert table.read() is None
    content = {
        "records": table.of_records([], "small", False, tmp_path),
        "faults": table.of_faults([outcome("refused"), outcome(tests="t"), outcome()]),
    }
    table.write(content)
    assert table.read() == json.loads(json.dumps(content))
    text = (tmp_path / "table.md").read_text()
    assert "| **all** | 3 | 1 | 1 | 2 |" in text and "Not noticed:" in text


def test_records_that_cannot_be_judged_are_named(tmp_path):
    method = library.load(library.slugs()[0])
    part = table.of_records([method], "small", True, tmp_path)
    assert part["not_judged"][0]["paper"] == method.slug and not part["kinds"]
