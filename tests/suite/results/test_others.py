"""Results of another machine: exported, verified, put beside ours, and what is refused."""

import csv
import io
import json
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from repro import store
from repro.errors import ReproError
from repro.suite import judging, run
from repro.suite.cards import library
from repro.suite.report import inputs
from repro.suite.report.site import build
from repro.suite.results import check, exporting, importing, others, writing
from tests.suite.results.conftest import snapshot


def export(published, path, **how):
    method = library.load("toy")
    return exporting.export([method], published.options, path, how.pop("machine", None), **how)


def rewritten(archive, target, change, about=None):
    """An archive whose files were changed and whose hashes and seal were made to fit."""
    with zipfile.ZipFile(archive) as bundle:
        files = {name: bundle.read(name) for name in bundle.namelist()}
    facts = json.loads(files.pop("export.json"))
    facts.pop("digest")
    change(files)
    facts["files"] = {
        name: importing.sha256(content).hexdigest() for name, content in files.items()
    }
    facts |= about or {}
    store.write_sealed(target.with_suffix(".json"), facts)
    with zipfile.ZipFile(target, "w") as bundle:
        bundle.writestr("export.json", target.with_suffix(".json").read_bytes())
        for name, content in files.items():
            bundle.writestr(name, content)
    return target


def column(name, change, where=lambda row: True, table="records.csv"):
    """A change of a column of a table of the toy."""

    def edit_files(files):
        rows = list(csv.DictReader(io.StringIO(files[f"toy/{table}"].decode())))
        for row in rows:
            if where(row):
                row[name] = change(row[name])
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files[f"toy/{table}"] = text.getvalue().encode()

    return edit_files


def elsewhere(files):
    """As if the same runs had been made on another machine."""
    column("device", lambda _: "NVIDIA H200")(files)
    column("started", lambda _: "2026-01-02T03:04:05+00:00")(files)
    column("wall_s", lambda old: str(float(old) + 1))(files)


@pytest.fixture
def archive(published, tmp_path):
    export(published, tmp_path / "ours.zip", machine="epyc")
    return rewritten(tmp_path / "ours.zip", tmp_path / "theirs.zip", elsewhere)


def test_results_of_another_machine_stand_beside_ours(published, archive):
    before = snapshot(published.results)
    (found,) = importing.bring(archive, published.results, "h200")
    assert found.agreeing == len(found.verdicts) == 1 and found.devices == ["NVIDIA H200"]
    assert found.numbers.common == found.numbers.equal > 10 and not found.numbers.copies
    assert "1 of 1 verdicts agree" in found.summary()
    after = snapshot(published.results)
    new = {name.removeprefix("others/h200/small/toy/") for name in after.keys() - before.keys()}
    assert new == {"runs.csv", "records.csv", "models.csv", "items.csv", "import.json",
                   "manifest.sha256"}  # fmt: skip
    assert {name: after[name] for name in before} == before
    assert check.check(published.results) == []
    (again,) = importing.bring(archive, published.results, "h200")
    assert (again.verdicts, again.numbers) == (found.verdicts, found.numbers)
    assert snapshot(published.results) == after


def test_the_report_shows_them_and_counts_them_nowhere(published, archive):
    def page():
        scales = build.scales_of([inputs.Committed("small", published.results / "small")])
        index = build.write(scales, published.options.work / "site")
        return index.read_text(), (index.parent / "toy.html").read_text()

    index, alone = page()
    importing.bring(archive, published.results, "h200")
    again, beside = page()
    assert again == index and "Other machines" not in alone
    assert "Other machines" in beside and "h200" in beside and "1 of 1 verdicts agree" in beside


def test_an_unpacked_archive_is_read_as_well(published, archive, tmp_path):
    with zipfile.ZipFile(archive) as bundle:
        bundle.extractall(tmp_path / "unpacked")
    (found,) = importing.bring(tmp_path / "unpacked", published.results)
    assert found.machine == "epyc"
    (tmp_path / "unpacked" / "toy" / "link.csv").symlink_to("/etc/hostname")
    with pytest.raises(ReproError, match="is a link"):
        importing.bring(tmp_path / "unpacked", published.results)


def test_a_difference_is_shown_and_nothing_is_overwritten(published, archive, tmp_path):
    importing.bring(archive, published.results, "h200")
    kept = snapshot(published.results)
    later = rewritten(archive, tmp_path / "later.zip", column("wall_s", lambda _: "9.5"))
    with pytest.raises(ReproError, match=r"holds other results .*records.csv differ.*--as"):
        importing.bring(later, published.results, "h200")
    assert snapshot(published.results) == kept
    importing.bring(later, published.results, "h200-again")
    assert len(list(others.places(published.results))) == 2


def test_what_differs_in_verdict_and_number_is_said(published, archive):
    importing.bring(archive, published.results, "h200")
    source = inputs.Committed("small", published.results / "small")
    ours = inputs.load("toy", source)
    swapped = {"ours": "base", "base": "ours"}
    runs = [{**run, "arm": swapped.get(run["arm"], run["arm"])} for run in ours.results.records]
    models = ours.results.model_records
    folder = published.results / "others" / "h200" / "small" / "toy"
    other = inputs.report_of(ours.method, source, runs, models)
    found = others.compared("h200", "small", "toy", folder, other)
    assert found.verdicts["smaller"] == ("contradicted", "reproduced") and found.agreeing == 0
    assert found.numbers.equal < found.numbers.common and "loss[" in found.numbers.where
    assert 0.3 < found.numbers.largest < 1
    assert "0 of 1 verdicts agree" in found.summary() and "relative, loss[" in found.summary()
    alone = others.compared("h200", "small", "toy", folder, None)
    assert "none of this scale is committed here" in alone.summary()


def test_code_of_today_is_compared_and_earlier_code_is_not(published, archive):
    importing.bring(archive, published.results, "h200")
    arms = published.root / "methods" / "toy" / "arms.py"
    arms.write_text(arms.read_text().replace("0.01 * noise", "0.02 * noise"))
    from tests.conftest import forget

    forget()
    (found,) = others.beside(published.results, "small", "toy", None)
    assert found.report is None and found.stale > 0 and "other code than today's" in found.summary()
    with pytest.raises(importing.Refused, match="stale run"):
        importing.bring(archive, published.results, "another")
    assert not any("others/" in line for line in check.check(published.results))


ROWS = {
    "a measurement": (column("value", lambda v: repr(float(v) + 1e-9), table="runs.csv"),
                      "measurements are not those of the record"),
    "a fingerprint": (column("fingerprint", lambda f: "0" * len(f)), "stale run"),
    "a model's fingerprint": (column("fingerprint", lambda f: "0" * len(f), table="models.csv"),
                              "stale model"),
    "a parameter": (column("params", lambda p: p.replace("}", ', "more": 1}').replace("{, ", "{")),
                    "parameter that the card has not"),
    "a commit": (column("commit", lambda c: c + "+changes"), "not of committed code"),
    "a start to come": (column("started", lambda _: "2999-01-01T00:00:00+00:00"),
                        "implausible start"),
    "a start without zone": (column("started", lambda _: "2026-01-01T00:00:00"),
                             "implausible start"),
    "no device": (column("device", lambda _: ""), "provenance is missing"),
    "a device of two lines": (column("device", lambda _: "a\nb"), "implausible device"),
    "versions": (column("versions", lambda _: '{"torch": "2"}'), "implausible versions"),
    "a time": (column("wall_s", lambda _: "1e300"), "implausible wall_s"),
    "a negative time": (column("wall_s", lambda _: "-1"), "cannot be read"),
    "threads": (column("threads", lambda _: "0"), "implausible threads"),
    "an arm": (column("arm", lambda a: "new" if a == "count" else a), "cannot be read"),
    "a verdict": (column("verdict", lambda _: "reproduced", table="claims.csv",
                         where=lambda row: row["verdict"] != "reproduced"),
                  "verdict does not follow"),
    "a margin": (column("margin", lambda m: m and "1.25", table="claims.csv"),
                 "margin does not follow"),
    "a threshold": (column("expect", lambda e: e and "1 < 2", table="claims.csv"),
                    "judged by other cards"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ROWS.values(), ids=ROWS)
def test_what_does_not_hold_is_refused(change, message, published, archive, tmp_path):
    before = snapshot(published.results)
    bad = rewritten(archive, tmp_path / "bad.zip", change)
    if bad.read_bytes() == archive.read_bytes():
        pytest.skip("nothing to change")
    with pytest.raises(ReproError, match=message) as caught:
        importing.bring(bad, published.results)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(str(bad)) and "nothing was imported" in said
    assert snapshot(published.results) == before


def add(name, content=b"x", link=False):
    def change(path):
        with zipfile.ZipFile(path, "a") as bundle:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
            bundle.writestr(entry, content)

    return change


def replace(name, content):
    def change(path):
        with zipfile.ZipFile(path) as bundle:
            files = {n: bundle.read(n) for n in bundle.namelist()}
        files[name] = content
        with zipfile.ZipFile(path, "w") as bundle:
            for n, data in files.items():
                if data is not None:
                    bundle.writestr(n, data)

    return change


ARCHIVES = {
    "climbs out": (add("../escaped.csv"), "unsafe path"),
    "absolute": (add("/tmp/escaped.csv"), "unsafe path"),
    "a drive": (add("C:\\escaped.csv"), "unsafe path"),
    "a link": (add("toy/link.csv", b"/etc/passwd", link=True), "holds a link"),
    "another file": (add("toy/arms.py"), "which no export of today's suite writes"),
    "another method": (add("nope/runs.csv"), "which no export of today's suite writes"),
    "edited": (replace("toy/runs.csv", b"x"), "was changed since it was exported"),
    "lacking": (replace("toy/models.csv", None), "lacks toy/models.csv"),
    "no note": (replace("export.json", None), "holds no export.json"),
    "an edited note": (replace("export.json", b'{"digest": "x"}'), "was changed since"),
    "no JSON": (replace("export.json", b"["), "export it again"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is damaged"),
    "no zip": (lambda path: path.write_bytes(b"no zip"), "is damaged"),
    "a page": (lambda path: path.write_bytes(b"<!doctype html>"), "is a web page"),
}


@pytest.mark.parametrize(("change", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_are_none(change, message, published, archive, tmp_path):
    change(archive)
    before = snapshot(tmp_path)
    with pytest.raises(ReproError, match=message) as caught:
        importing.bring(archive, published.results)
    assert "\n" not in str(caught.value) and snapshot(tmp_path) == before


def test_a_bomb_is_not_unpacked(published, archive, monkeypatch):
    monkeypatch.setattr(importing, "LARGEST", 100)
    monkeypatch.setattr(importing.archives, "read_members", None)
    with pytest.raises(ReproError, match="no export is of more than"):
        importing.bring(archive, published.results)


@pytest.mark.parametrize("name", ["", "../x", "a b", "A", "x" * 41, "<b>", "-a"])
def test_names_of_machines(name, published, archive, tmp_path):
    bad = rewritten(archive, tmp_path / "bad.zip", lambda files: None, {"machine": name})
    with pytest.raises(ReproError, match="a machine cannot be called"):
        importing.bring(bad, published.results)
    with pytest.raises(ReproError, match="a machine cannot be called"):
        export(published, tmp_path / "new.zip", machine=name)


def test_another_form_is_named(published, archive, tmp_path):
    for about in ({"version": 2}, {"scale": "smoke"}, {"more": 1}):
        bad = rewritten(archive, tmp_path / "bad.zip", lambda files: None, about)
        with pytest.raises(ReproError, match=r"export.json: (version|scale|more): .*one commit"):
            importing.bring(bad, published.results)


def test_our_own_results_are_not_anothers(published, tmp_path):
    export(published, tmp_path / "a.zip")
    with pytest.raises(importing.Refused, match="every run is one of those committed here"):
        importing.bring(tmp_path / "a.zip", published.results)
    assert not (published.results / others.FOLDER).exists()


def test_export_is_held_to_what_is_published(published, tmp_path):
    said = export(published, tmp_path / "a.zip")
    assert said[0] == "toy: 9 runs at scale small"
    assert export(published, tmp_path / "b.zip", committed=published.results)[0] == said[0]
    with zipfile.ZipFile(tmp_path / "a.zip") as one, zipfile.ZipFile(tmp_path / "b.zip") as other:
        for name in set(one.namelist()) - {"export.json"}:
            assert one.read(name) == other.read(name), name
        assert set(one.namelist()) == set(other.namelist())
    with pytest.raises(ReproError, match="is there already"):
        export(published, tmp_path / "a.zip")
    with pytest.raises(ReproError, match="is called <name>.zip"):
        export(published, tmp_path / "radd")
    with pytest.raises(ReproError, match="smoke output is not evidence"):
        exporting.export([], run.Options("smoke"), tmp_path / "c.zip", None)
    shutil.rmtree(published.options.base / "runs" / "toy" / "ours" / "0")
    with pytest.raises(ReproError, match="not of today's code"):
        export(published, tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists()


def test_unjudged_runs_are_not_exported(published, tmp_path):
    (published.options.base / "verdicts" / "toy.json").unlink()
    with pytest.raises(ReproError, match="is not judged"):
        export(published, tmp_path / "a.zip")
    judging.judge(library.load("toy"), published.options)
    export(published, tmp_path / "a.zip")


def test_damage_and_strangers_are_found_by_check(published, archive):
    importing.bring(archive, published.results, "h200")
    folder = published.results / "others" / "h200" / "small" / "toy"
    (folder / "runs.csv").write_text((folder / "runs.csv").read_text().replace("1", "2"))
    lines = check.check(published.results)
    assert len(lines) == 1 and lines[0].startswith("others/h200/small/toy: cannot be read: ")
    folder.rename(folder.with_name("nope"))
    assert "no method of this scale: nope" in check.check(published.results)[0]


def test_a_killed_import_leaves_nothing_and_can_be_repeated(published, archive, monkeypatch):
    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing.manifest, "seal", killed)
        importing.bring(archive, published.results)
    assert list(others.places(published.results)) == []
    left = published.results / "others" / "epyc" / "small" / ".toy.0123456789ab.partial"
    left.mkdir(parents=True)
    assert left in writing.leftovers(published.results)
    importing.bring(archive, published.results)
    assert not left.exists() and len(list(others.places(published.results))) == 1


def test_the_default_name_is_that_of_the_processor():
    assert exporting._named("AMD EPYC 9B14, 2 cores") == "amd-epyc-9b14-2-cores"
    assert others.is_machine(exporting._named("NVIDIA H200 " + "x" * 60))
    assert exporting._named("中") == "unknown"
    assert Path(others.FOLDER).name == others.FOLDER
