"""Every way in which committed results can be wrong is noticed, each alone."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import records
from repro.suite.results import check, manifest
from tests.suite.results.conftest import edit


class Tree:
    """A published method that a test damages."""

    def __init__(self, published):
        self.published, self.folder = published, published.folder
        self.results, self.root = published.results, published.root

    def table(self, name, change):
        """Change the rows of a table and seal the folder again, as a careful forger would."""
        path = self.folder / name
        with path.open(newline="") as handle:
            reader = csv.DictReader(handle)
            columns, rows = reader.fieldnames, list(reader)
        path.write_text(records.to_csv(change(rows), columns))
        self.seal()

    def text(self, name, old, new, seal=True):
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        if seal:
            self.seal()

    def seal(self):
        manifest.seal(self.folder)

    def card(self, change, card_file="experiment.yaml"):
        edit(self.root, change, card_file)


def drop(**where):
    def change(rows):
        kept = [row for row in rows if any(row[k] != v for k, v in where.items())]
        assert len(kept) < len(rows)
        return kept

    return change


def put(column, value, **where):
    def change(rows):
        chosen = [row for row in rows if all(row[k] == v for k, v in where.items())]
        assert chosen
        for row in chosen:
            row[column] = value(row[column]) if callable(value) else value
        return rows

    return change


def without(key):
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != key})


def added(key, value):
    return lambda text: json.dumps(json.loads(text) | {key: value}, sort_keys=True)


def copy_seed(tree):
    """Seed 1 of an arm becomes a copy of seed 0, with a hash that fits."""

    def copied(rows):
        own = [dict(r, seed="1") for r in rows if (r["arm"], r["seed"]) == ("ours", "0")]
        kept = [r for r in rows if (r["arm"], r["seed"]) != ("ours", "1")]
        return kept + own

    def hashed(rows):
        first = next(r for r in rows if (r["arm"], r["seed"]) == ("ours", "0"))
        return put("measured_sha256", first["measured_sha256"], arm="ours", seed="1")(rows)

    tree.table("runs.csv", copied)
    tree.table("records.csv", hashed)


def gone(*tables, **where):
    return lambda tree: [tree.table(name, drop(**where)) for name in tables]


def change(name, column, value, **where):
    return lambda tree: tree.table(name, put(column, value, **where))


def twice(name):
    return lambda tree: tree.table(name, lambda rows: [*rows, rows[-1]])


RUN, OURS = ("runs.csv", "records.csv"), {"arm": "ours", "seed": "1"}

DAMAGES = {
    # rows
    "method": (lambda t: shutil.rmtree(t.folder), "small: method without results: toy"),
    "arm": (gone(*RUN, arm="base"), "run is gone: base/0 (and 3 more)"),
    "seed": (gone(*RUN, arm="ours", seed="3"), "run is gone: ours/3"),
    "seed of runs": (gone("runs.csv", **OURS), "measurements are not those of the record: ours/1"),
    "seed of records": (gone("records.csv", **OURS), "ours/1 is not in records.csv"),
    "row": (gone("runs.csv", **OURS, at="steps=8"), "measurements are not those of the record"),
    "model": (gone("models.csv", model="net", seed="2"), "model is gone: toy/net/2"),
    "row twice": (twice("runs.csv"), "row stands twice: runs.csv: count 0 latency"),
    "record twice": (twice("records.csv"), "row stands twice: records.csv: count 0"),
    "model twice": (twice("models.csv"), "row stands twice: models.csv: toy net 3"),
    "copied seed": (copy_seed, "seeds 0 and 1 of `ours` agree to the last bit"),
    "foreign arm": (
        change("records.csv", "arm", "others", **OURS),
        "ours/1 is not in records.csv",
    ),
    "foreign seed": (
        lambda t: [t.table(name, put("seed", "9", **OURS)) for name in RUN],
        "run that the card has not: ours/9",
    ),
    "foreign method": (
        lambda t: [t.table(name, put("method", "tee", **OURS)) for name in RUN],
        "run of another method: ours/1 (tee)",
    ),
    # numbers
    "nan that a check reads": (
        change("runs.csv", "value", "nan", **OURS, at="steps=4"),
        "not a finite number: ours/1: loss is nan",
    ),
    "nan that none reads": (
        change("runs.csv", "value", "nan", arm="count", measurement="latency"),
        "not a finite number: count/0: latency is nan",
    ),
    "edit that a check reads": (
        change("runs.csv", "value", lambda v: repr(float(v) + 1e-9), **OURS, at="steps=4"),
        "measurements are not those of the record: ours/1",
    ),
    "edit that none reads": (
        change("runs.csv", "value", "1.25", arm="count", measurement="latency"),
        "measurements are not those of the record: count/0",
    ),
    "no number": (change("runs.csv", "value", "much", **OURS), "runs.csv row"),
    "unit": (change("runs.csv", "unit", "s", arm="count"), "does not follow"),
    # parameters
    "foreign parameter": (
        change("records.csv", "params", added("width", 9), **OURS),
        "parameter that the card has not: ours/1: width",
    ),
    "missing parameter": (
        change("records.csv", "params", without("gain"), **OURS),
        "parameter is missing: ours/1: gain",
    ),
    "other parameter": (
        change("records.csv", "params", added("gain", 7.0), **OURS),
        "parameter differs: ours/1: gain was 7.0, the card has 1.0",
    ),
    "other parameter of a model": (
        change("models.csv", "params", added("lr", 1.0), seed="2"),
        "parameter differs: toy/net/2: lr was 1.0, the card has 0.001",
    ),
    "no parameters of a model": (
        change("models.csv", "params", "", seed="2"),
        "parameter is missing: toy/net/2: lr",
    ),
    "parameter of the card": (
        lambda t: t.card(lambda card: card["scales"]["small"]["arms"]["base"].update(gain=3.5)),
        "parameter differs: base/0: gain was 3.0, the card has 3.5 (and 3 more)",
    ),
    # fingerprints and provenance
    "fingerprint": (
        change("records.csv", "fingerprint", "0123456789abcdef0123", **OURS),
        "stale run: ours/1 has 0123456789abcdef0123, today's is",
    ),
    "fingerprint of a model": (
        change("models.csv", "fingerprint", "", model="net", seed="0"),
        "stale model: toy/net/0 has none, today's is",
    ),
    "uncommitted": (
        change("records.csv", "commit", lambda text: f"{text}+changes", **OURS),
        "not of committed code: ours/1",
    ),
    "wall time": (change("records.csv", "wall_s", "1000.0", **OURS), "does not follow"),
    "hash": (
        change("records.csv", "measured_sha256", "0" * 64, **OURS),
        "measurements are not those of the record: ours/1",
    ),
    # what follows
    "claims": (
        lambda t: t.text("claims.csv", "reproduced", "contradicted"),
        "does not follow from runs and cards: claims.csv line 2",
    ),
    "findings": (
        lambda t: t.text("findings.json", "smaller.", "larger."),
        "does not follow from runs and cards: findings.json",
    ),
    "finding of the card": (
        lambda t: t.card(
            lambda card: card["claims"]["smaller"]["findings"][0].update(text="New."),
            "checks.yaml",
        ),
        "does not follow from runs and cards: findings.json",
    ),
    "table": (
        lambda t: t.text("tables/main.md", "Main", "Mein"),
        "does not follow from runs and cards: tables/main.md line 1",
    ),
    "missing table": (
        lambda t: [(t.folder / "tables/main.csv").unlink(), t.seal()],
        "missing file: tables/main.csv",
    ),
    "extra table": (
        lambda t: [(t.folder / "tables/more.md").write_text("x"), t.seal()],
        "extra file: tables/more.md",
    ),
    "figure": (
        lambda t: (t.folder / "figures/losses.png").write_bytes(b"x"),
        "edited file: figures/losses.png",
    ),
    "missing figure": (
        lambda t: [(t.folder / "figures/losses.png").unlink(), t.seal()],
        "missing file: figures/losses.png",
    ),
    "extra figure": (
        lambda t: [(t.folder / "figures/more.png").write_text("x"), t.seal()],
        "extra file: figures/more.png",
    ),
    "caption": (
        lambda t: t.text("figures/losses.json", "By s.", "By t."),
        "does not follow from runs and cards: figures/losses.json: caption",
    ),
    # files
    "missing file": (lambda t: (t.folder / "models.csv").unlink(), "missing file: models.csv"),
    "extra file": (lambda t: (t.folder / "x").write_text("x"), "small/toy: extra file: x"),
    "edited file": (
        lambda t: (
            t.text("records.csv", "x86", "arm", seal=False)
            if "x86" in (t.folder / "records.csv").read_text()
            else t.text("records.csv", "torch", "tarch", seal=False)
        ),
        "edited file: records.csv",
    ),
    "manifest": (lambda t: (t.folder / "manifest.sha256").unlink(), "manifest.sha256: cannot be"),
    "damaged manifest": (
        lambda t: t.text("manifest.sha256", "  ", " ", seal=False),
        "manifest.sha256: cannot be",
    ),
    "damaged table": (
        lambda t: t.text("models.csv", "owner,", "holder,"),
        "models.csv: its columns are not owner, model",
    ),
    "not text": (
        lambda t: [(t.folder / "claims.csv").write_bytes(b"\xff\x00"), t.seal()],
        "does not follow from runs and cards: claims.csv",
    ),
    # over all methods
    "ledger": (
        lambda t: (t.results / "small/ledger.md").write_text("x"),
        "small: does not follow from runs and cards: ledger.md line 1",
    ),
    "environment": (
        lambda t: (t.results / "small/environment.json").unlink(),
        "small: missing file: environment.json",
    ),
    "readme of the results": (
        lambda t: (t.results / "README.md").write_text("x"),
        "results: does not follow from runs and cards: README.md line 1",
    ),
    "claims for programs": (
        lambda t: edit_text(t.results / "claims.json", "reproduced", "contradicted"),
        "results: does not follow from runs and cards: claims.json line ",
    ),
    "claims as a table": (
        lambda t: (t.results / "claims.csv").unlink(),
        "results: missing file: claims.csv; `repro publish toy --scale small` writes it again",
    ),
    "table of the README": (
        lambda t: (t.root / "README.md").write_text(
            (t.root / "README.md").read_text().replace("Toy", "Tee")
        ),
        "the tree: does not follow from runs and cards: README.md",
    ),
    "markers of the README": (
        lambda t: (t.root / "README.md").write_text("x"),
        "README.md lacks the markers",
    ),
    "paper without folder": (
        lambda t: shutil.copytree(t.folder, t.results / "small/tee"),
        "small: no method of this scale: tee",
    ),
    "paper without results": (
        lambda t: (
            shutil.copytree(t.root / "methods/toy", t.root / "methods/tee")
            and rename(t.root / "methods/tee", "tee")
        ),
        "small: method without results: tee; run `make small`, `repro publish --scale small`",
    ),
    "foreign scale": (lambda t: (t.results / "huge").mkdir(), "results: extra file: huge"),
}


def edit_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def rename(folder, slug):
    for path in folder.glob("*.yaml"):
        path.write_text(path.read_text().replace(": toy", f": {slug}").replace("Toy", "Tee"))


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_noticed(published, name):
    damage, expected = DAMAGES[name]
    damage(Tree(published))
    found = check.check(published.results)
    assert any(expected in line for line in found), found
    assert not any("\n" in line for line in found)


def test_differences_are_grouped(published):
    Tree(published).table("records.csv", put("fingerprint", "0" * 20))
    stale = [line for line in check.check(published.results) if "stale run" in line]
    assert len(stale) == 1 and stale[0].startswith("small/toy: stale run: ours/0 has 000")
    assert stale[0].endswith("(and 8 more)")


def test_the_committed_results_show_damage(tmp_path):
    """Three papers of a copy of the committed results are damaged; each says how."""
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    small = copy / "small"
    text = (small / "radd/runs.csv").read_text().splitlines(keepends=True)
    (small / "radd/runs.csv").write_text("".join(text[:-1]))
    manifest.seal(small / "radd")
    path = small / "quest/tables/cost.csv"
    path.write_text(path.read_text().replace("run,", "rum,", 1))
    shutil.rmtree(small / "msd")
    (small / "comparisons/figures/quantisation.png").unlink()
    (small / "comparisons/tables/more.md").write_text("x")
    found = "\n".join(check.check(copy))
    for line in (
        "small/radd: measurements are not those of the record: ",
        "small/quest: edited file: tables/cost.csv",
        "small/quest: does not follow from runs and cards: tables/cost.csv line 2",
        "small: method without results: msd",
        "small/across: missing file: figures/quantisation.png",
        "small/across: extra file: tables/more.md",
        # the rows of the paper that is gone
        "small/across: does not follow from runs and cards: tables/steps.md",
    ):
        assert line in found
    assert "slimflow: edited" not in found and "slimflow: measurements" not in found


def test_the_command_ends_with_1_where_there_are_differences(tmp_path):
    (tmp_path / "small").mkdir()
    command = [sys.executable, "-m", "repro", "check", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "small: method without results: " in done.stderr
    with pytest.raises(ReproError, match="no committed results under"):
        check.check(tmp_path / "none")
