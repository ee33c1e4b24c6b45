"""Publishing: what is written, what is kept, what is refused, and what a kill leaves."""

import csv
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from repro import store
from repro.errors import ReproError
from repro.suite import judging, looks, run
from repro.suite.cards import library
from repro.suite.export.claims import FILES
from repro.suite.report import inputs
from repro.suite.report.site import build
from repro.suite.results import check, manifest, publish, writing
from tests.suite.results.conftest import COMMIT, edit, run_all, snapshot


def rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_published_method_is_whole(published):
    assert set(snapshot(published.folder)) == {
        *("runs.csv", "records.csv", "models.csv", "items.csv", "claims.csv", "findings.json"),
        *(f"tables/{n}.{s}" for n in ("claims", "cost", "measurements", "main")
          for s in ("md", "csv")),
        *(f"figures/{n}.{s}" for n in ("losses", "weights") for s in ("png", "svg", "json")),
        "manifest.sha256",
    }  # fmt: skip
    assert set(snapshot(published.results)) - {
        f"small/toy/{name}" for name in snapshot(published.folder)
    } == {"README.md", *FILES, "small/environment.json", "small/ledger.md"}
    assert check.check(published.results) == []
    assert "| [Toy](results/README.md#toy) |" in (published.root / "README.md").read_text()
    assert (published.root / "README.md").read_text().endswith("\n\nend\n")


def test_numbers_and_provenance_come_back_as_they_were(published):
    source = inputs.Committed("small", published.results / "small")
    for made, kept in (
        (inputs.Work("small", published.options.base).runs("toy"), source.runs("toy")),
        (inputs.Work("small", published.options.base).models("toy", ["toy"]),
         source.models("toy", ["toy"])),
    ):  # fmt: skip
        by_place = {(r["arm"], r["seed"]): r for r in kept}
        assert len(made) == len(kept) > 3
        for record in made:
            again = by_place[record["arm"], record["seed"]]
            of_work = ("folder", "depends_on", "arrays_sha256")
            assert {k: again[k] for k in record if k not in of_work} == {
                k: v for k, v in record.items() if k not in of_work
            }
            assert again["folder"] is None
    model = rows(published.folder / "models.csv")[0]
    weights = published.options.base / "models/toy/net/0/model.safetensors"
    assert model["sha256"] == store.sha256(weights) and model["commit"] == COMMIT


def test_the_page_is_the_same_from_work_and_from_results(published):
    made = []
    for source in (
        inputs.Work("small", published.options.base),
        inputs.Committed("small", published.results / "small"),
    ):
        scale = build.Scale(source, inputs.load_all(source))
        index = build.write([scale], published.options.work / "site")
        texts = {path.name: path.read_text() for path in index.parent.glob("*.html")}
        records = r'href="[^"]*(record\.json|records\.csv|models\.csv)"'
        made.append({name: re.sub(records, "href", text) for name, text in texts.items()})
    assert made[0] == made[1]
    assert "The gain is smaller." in made[0]["toy.html"]
    assert "Not drawn yet" not in made[0]["toy.html"]


def test_publishing_one_method_touches_no_other(published):
    other = published.results / "small" / "other"
    shutil.copytree(published.folder, other)
    before = snapshot(other)
    publish.publish(published.options, published.results, ["toy"])
    assert snapshot(other) == before


def test_publishing_twice_changes_nothing(published):
    before = snapshot(published.results)
    publish.publish(published.options, published.results)
    assert snapshot(published.results) == before


def test_a_run_from_work_replaces_the_committed_one_and_the_others_are_kept(published):
    before = rows(published.folder / "runs.csv")
    drawn = snapshot(published.folder / "figures")
    source = published.root / "methods" / "toy" / "arms.py"
    source.write_text(source.read_text().replace('"error", 0.0', '"error", 0.25'))
    from tests.conftest import forget

    forget()
    for name in [name for name in sys.modules if name.startswith("methods.")]:
        del sys.modules[name]
    shutil.rmtree(published.options.work)
    with pytest.raises(ReproError, match="toy at scale small: count/0 not of today's code"):
        publish.publish(published.options, published.results, ["toy"])
    run.run_method(library.load("toy"), published.options, ["count"])
    said = publish.publish(published.options, published.results, ["toy"])
    assert said == [
        "toy: 9 runs, 1 of them from work",
        "figure toy/weights: kept as committed, for the arrays of some of its runs are not here",
    ]
    after = rows(published.folder / "runs.csv")
    assert [r for r in after if r["arm"] != "count"] == [r for r in before if r["arm"] != "count"]
    assert [r["value"] for r in after if r["measurement"] == "error"] == ["0.25", "1e-09"]
    assert snapshot(published.folder / "figures") == drawn
    assert check.check(published.results) == []


def test_a_figure_whose_arrays_are_nowhere_is_refused(published):
    (published.folder / "figures" / "weights.json").unlink()
    manifest.seal(published.folder)
    shutil.rmtree(published.options.work)
    before = snapshot(published.folder)
    with pytest.raises(ReproError, match="the arrays of ours with seed 0 are not committed"):
        publish.publish(published.options, published.results, ["toy"])
    assert snapshot(published.folder) == before


def test_arrays_of_the_same_run_are_found_in_work(published):
    committed = published.results / "small"
    here = inputs.Committed("small", committed, arrays=published.options.base)
    results = inputs.load("toy", here).results
    assert results.array("ours", 0, "w").shape == (3,) and results.saved("ours", 0) == ["w"]
    path = published.options.base / "runs/toy/ours/0/record.json"
    record = store.read_sealed(path)
    record["measurements"][0]["value"] += 1e-12
    store.write_sealed(path, record)
    with pytest.raises(ReproError, match="arrays of ours with seed 0 are not committed"):
        inputs.load("toy", here).results.array("ours", 0, "w")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("smoke", "smoke output is not evidence"),
        ("missing", r"toy at scale small: ours/2 not of today's code, neither in .*small nor as"),
        ("model", r"toy at scale small: toy/net/1 not of today's code"),
        ("stale", r"base/0, base/1, base/2 and 1 more not of today's code"),
        ("changes", r"toy/ours ran on uncommitted code; commit it"),
        ("unknown", r"toy/ours ran on uncommitted code; commit it"),
        ("verdicts", "toy at scale small is not judged; run `repro run toy --scale small`"),
        ("name", "no method `toi`"),
    ],
)
def test_what_is_refused_writes_nothing(published, what, message):
    base, options, slugs = published.options.base, published.options, ["toy"]
    record = base / "runs/toy/ours/2/record.json"
    store.remove_folder(published.results)
    if what == "smoke":
        options = run.Options("smoke")
    elif what == "missing":
        record.unlink()
    elif what == "model":
        (base / "models/toy/net/1/record.json").unlink()
    elif what == "stale":
        edit(published.root, lambda card: card["scales"]["small"]["arms"]["base"].update(gain=4.0))
    elif what == "verdicts":
        (base / "verdicts/toy.json").unlink()
    elif what == "name":
        slugs = ["toi"]
    else:
        commit = {"changes": f"{COMMIT}+changes", "unknown": "unknown"}[what]
        store.write_sealed(record, store.read_sealed(record) | {"commit": commit})
    with pytest.raises(ReproError, match=message):
        publish.publish(options, published.results, slugs)
    assert not published.results.exists()


def test_a_check_that_cannot_be_judged_is_refused(published):
    before = snapshot(published.folder)
    edit(
        published.root,
        lambda card: card["claims"]["smaller"]["checks"][0].update(
            expect="loss[ours, steps=5] < loss[base, steps=5]"
        ),
        "checks.yaml",
    )
    with pytest.raises(ReproError, match=r"`loss\[ours, steps=5\]`: unknown steps `5`"):
        publish.publish(published.options, published.results, ["toy"])
    assert snapshot(published.folder) == before


def test_a_changed_threshold_is_judged_anew_from_the_committed_runs(published):
    shutil.rmtree(published.options.work)
    edit(
        published.root,
        lambda card: card["claims"]["smaller"]["checks"][0].update(
            expect="loss[ours, steps=4] > loss[base, steps=4]"
        ),
        "checks.yaml",
    )
    assert any("claims.csv" in line for line in check.check(published.results))
    publish.publish(published.options, published.results, ["toy"])
    assert rows(published.folder / "claims.csv")[0]["verdict"] == "contradicted"
    assert check.check(published.results) == []


def test_unpublish_is_the_only_removal(published):
    with pytest.raises(ReproError, match="toi has no results of scale small; published are toy"):
        publish.unpublish("small", "toi", published.results)
    publish.unpublish("small", "toy", published.results)
    assert set(snapshot(published.results)) == {"README.md", *FILES}
    assert store.read_json(published.results / "claims.json")["claims"] == []
    assert "Toy" not in (published.results / "README.md").read_text()
    assert "Toy" not in (published.root / "README.md").read_text()
    run_all(published.options)
    publish.publish(published.options, published.results, ["toy"])
    assert check.check(published.results) == []


def test_runs_that_no_card_has_are_not_published(published):
    extra = published.options.base / "runs/toy/ours"
    shutil.copytree(extra / "0", extra / "17")
    judging.judge(library.load("toy"), published.options)
    publish.publish(published.options, published.results, ["toy"])
    assert {r["seed"] for r in rows(published.folder / "records.csv")} == {"0", "1", "2", "3"}


# A folder is replaced as a whole ------------------------------------------------------------

REPLACE_FOR_EVER = """
import sys
from pathlib import Path
from repro import store
for version in range(10**9):
    with store.atomic_folder(Path(sys.argv[1])) as folder:
        for name in ("a", "b", "c/d"):
            store.write_text(folder / name, str(version))
"""


def test_a_killed_replacement_leaves_the_old_or_the_new_folder(tmp_path):
    place = tmp_path / "place"
    rng = np.random.default_rng(0)
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", REPLACE_FOR_EVER, str(place)])
        try:
            deadline = time.monotonic() + 60
            while not place.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2 + 0.3 * rng.random())
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        found = snapshot(place)
        assert set(found) == {"a", "b", "c/d"}
        assert len(set(found.values())) == 1


@pytest.mark.parametrize("inside", [["0.old"], ["0.old", "toy"], ["toy"]])
def test_what_a_kill_between_two_renames_took_away_is_put_back(published, inside):
    """Without an exchange in one step the place is empty for an instant."""
    before = snapshot(published.folder)
    aside = published.folder.with_name(".toy.0123456789ab.partial")
    aside.mkdir()
    for name in inside:
        shutil.copytree(published.folder, aside / name)
    shutil.rmtree(published.folder)
    with writing.alone(published.results):
        assert snapshot(published.folder) == before
    assert not aside.exists()
    assert check.check(published.results) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_with_and_without_an_exchange(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    place = tmp_path / "place"
    for text in ("one", "two"):
        with store.atomic_folder(place) as folder:
            (folder / text).write_text(text)
    assert snapshot(tmp_path) == {"place/two": b"two"}
    with pytest.raises(ZeroDivisionError), store.atomic_folder(place) as folder:
        (folder / "three").write_text("three")
        raise ZeroDivisionError
    assert snapshot(tmp_path) == {"place/two": b"two"}
    store.remove_folder(place)
    assert list(tmp_path.iterdir()) == []


def test_seeds_are_asked_for_by_committed_runs_where_not_all_are_here(published):
    method = library.load("toy")
    committed = published.results / "small" / "toy"
    here = publish.verdicts(method, published.options, published.results)
    assert here == judging.judge(method, published.options)
    shutil.rmtree(published.options.base / "runs" / "toy" / "ours" / "1")
    assert publish.verdicts(method, published.options, published.results) == here
    shutil.rmtree(committed)
    with pytest.raises(ReproError, match="is not a run record"):
        publish.verdicts(method, published.options, published.results)


def test_further_seeds_of_code_that_changed_are_not_asked_for_again(published):
    edit(published.root, lambda card: card["scales"]["small"].update(seeds=3, most=5))
    path = looks.path_of(published.options.work, "small", "toy")
    store.write_sealed(path, {"ours": {"seeds": 5, "because": ["smaller"]}})
    run_all(published.options)
    publish.publish(published.options, published.results, ["toy"])
    seeds = {r["seed"] for r in rows(published.folder / "records.csv") if r["arm"] == "ours"}
    assert seeds == set("01234")
    path.unlink()
    edit(published.root, lambda card: card["scales"]["small"]["params"].update(steps=[4, 16]))
    run_all(published.options)
    publish.publish(published.options, published.results, ["toy"])
    seeds = {r["seed"] for r in rows(published.folder / "records.csv") if r["arm"] == "ours"}
    assert seeds == set("012")
    assert check.check(published.results) == []
